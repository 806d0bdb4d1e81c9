package roles

import (
	"context"
	"time"

	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/roles/ledger"
	"github.com/hourgate/hourgate/roles/settle"
)

// phase is what is to be done about a lease.
type phase int

const (
	lasting phase = iota
	unused        // nobody has used it for as long as it may linger
	ended         // the grant ends, or has
	lost          // another process has the role
)

// tend waits for the end of the lease and settles its role, or leaves it to the next process.
func (l *lease) tend() {
	k := l.keeper
	for {
		wait, phase := l.next()
		if phase == unused && l.keep() {
			continue
		}
		if phase == lost {
			l.forget()
			return
		}
		if phase != lasting {
			break
		}
		l.tell()
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-l.woken:
		case <-k.ending.Done():
			timer.Stop()
			l.stop()
			return
		}
		timer.Stop()
	}
	l.finish(l.toldClients())
}

// next is how long the lease lasts if nothing happens, and what is to be done now. A lease that has ended takes no new
// session, and no policy revives it.
func (l *lease) next() (wait time.Duration, p phase) {
	k := l.keeper
	k.mu.Lock()
	defer k.mu.Unlock()
	if l.lost {
		return 0, lost
	}
	wait = time.Until(l.until)
	if wait <= 0 {
		l.close()
		return 0, ended
	}
	if l.sessions > 0 || l.kept {
		return wait, lasting
	}
	linger := k.cfg.Linger
	if l.retired {
		linger = 0
	}
	if idle := time.Until(l.idle.Add(linger)); idle > 0 {
		return min(wait, idle), lasting
	}
	return 0, unused
}

// close marks the lease as over; the keeper's mutex is held.
func (l *lease) close() {
	l.over = true
	l.retire()
}

// keep asks the server whether the role that nobody uses owns something, and reports whether it is to stay. If a session
// has come meanwhile, or the server does not answer, it stays for now.
func (l *lease) keep() bool {
	k := l.keeper
	ctx, cancel := context.WithTimeout(k.ending, provisionTimeout)
	defer cancel()
	role := l.identity()
	owns := false
	var err error
	if role.OID != 0 {
		owns, err = ownsAnything(ctx, k.pool, role)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case l.sessions > 0:
		return true
	case err != nil:
		k.log.Warn("what a role owns could not be asked, trying again", "role", role.Name, "error", err)
		l.idle = time.Now().Add(retryInterval)
		return true
	case owns && !k.retiring:
		l.kept = true
		return true
	}
	l.close()
	return false
}

// ownsSQL is whether the role with OID $1 and name $2 owns something besides its own schema, in any database, or has a
// transaction prepared.
const ownsSQL = `
	SELECT EXISTS (SELECT FROM pg_prepared_xacts WHERE owner = $2)
	    OR (SELECT count(*) FROM pg_shdepend d
	         WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = $1 AND d.deptype = 'o'
	           AND d.classid <> 'pg_namespace'::regclass AND d.classid <> 'pg_default_acl'::regclass) > 0`

func ownsAnything(ctx context.Context, pool *admin.Pool, role ledger.Role) (owns bool, err error) {
	err = pool.Use(ctx, func(c *admin.Conn) error {
		return c.QueryOne(ctx, ownsSQL, []any{role.OID, role.Name}, &owns)
	})
	return owns, err
}

// stop ends the lease because the process ends: a role that owns something is left to the next one, as long as its grant
// lives.
func (l *lease) stop() {
	k := l.keeper
	k.mu.Lock()
	lost, lives := l.lost, time.Now().Before(l.until)
	l.close()
	k.mu.Unlock()
	if lost {
		l.forget()
		return
	}
	told := l.toldClients()
	if lives && !k.retires() && l.sleep(told) {
		l.forget()
		return
	}
	l.finish(told)
}

// toldClients is closed once the sessions, which end for the same reason at the same moment, have had the time to tell
// their clients why. Terminated first, they would hear PostgreSQL's own words, which say nothing of the grant.
func (l *lease) toldClients() <-chan struct{} {
	told := make(chan struct{})
	l.keeper.tended.Go(func() {
		defer close(told)
		timer := time.NewTimer(sessionsGrace)
		defer timer.Stop()
		for l.inUse() {
			select {
			case <-l.woken:
			case <-timer.C:
				return
			}
		}
	})
	return told
}

// retires reports whether the integration is being taken away, and everything of it with it.
func (k *Keeper) retires() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.retiring
}

func (l *lease) inUse() bool {
	l.keeper.mu.Lock()
	defer l.keeper.mu.Unlock()
	return l.sessions > 0
}

// finish settles the role. What can't be settled now is the sweep's, so the role is no longer ours.
func (l *lease) finish(told <-chan struct{}) {
	k := l.keeper
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	if role := l.known(); role.OID != 0 {
		if err := k.settle(ctx, settle.End{Role: role, Told: told}, k.readers.end(role, told)); err != nil {
			k.unsettled.Store(true)
			k.log.Error("role could not be settled, the sweep goes on", "role", role.Name, "grant", role.Entry.Grant, "error", err)
		}
	}
	l.forget()
}

// settle ends a role on the writer and on the readers. settled is what readers.end returned; nil has it called once it is
// clear that the role is ours to end.
func (k *Keeper) settle(ctx context.Context, x settle.End, settled func(context.Context)) error {
	if len(k.readers.all) > 0 {
		x.Elsewhere = func(ctx context.Context) {
			if settled == nil {
				settled = k.readers.end(x.Role, nil)
			}
			k.readers.rid(ctx, x.Role)
		}
	}
	err := k.settler.Settle(ctx, x)
	if settled != nil {
		settled(ctx)
	}
	return err
}

// known returns the role, whose OID is zero if it can't be on the server. Once a session has it, nothing is waited for:
// another session may take its time to be admitted to a further database. Before that a session may still be making it.
func (l *lease) known() ledger.Role {
	l.keeper.mu.Lock()
	role, used := l.role, l.backends.oid != 0
	l.keeper.mu.Unlock()
	if used {
		return role
	}
	l.making.Lock()
	defer l.making.Unlock()
	return l.identity()
}

// forget ends the lease's life in this process.
func (l *lease) forget() {
	k := l.keeper
	k.mu.Lock()
	delete(k.ours, l.role.Name)
	k.readers.letGo(l.role)
	k.mu.Unlock()
	k.metrics.live.Dec()
}
