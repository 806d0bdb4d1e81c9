package roles

import (
	"context"
	"sync"
	"time"

	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/roles/ledger"
	"github.com/hourgate/hourgate/roles/settle"
)

// leaseKey: one role for each person and grant, so that two people of one grant can't signal each other's backends.
type leaseKey struct{ user, grant string }

// lease is one ephemeral role's life. Its fields after mu belong to the keeper's mutex, but for those said to be fixed.
type lease struct {
	keeper *Keeper
	grant  *policy.Grant // fixed
	role   ledger.Role   // fixed once admitted without an error
	woken  chan struct{} // capacity 1

	making    sync.Mutex // one server round trip for this role at a time; guards databases, password and made
	made      bool
	password  string
	databases map[string]bool // those that the role has been admitted to

	until    time.Time // zero: now
	sessions int
	idle     time.Time // when the last session left
	retired  bool      // takes no new sessions; settled when the last one has left
	backends backends
}

// Lease is the right to log in as an ephemeral role, held by one session.
type Lease struct {
	login   upstream.Login
	lease   *lease
	release sync.Once
}

// Login has the role's name and password and the database. Its Params are the caller's to fill.
func (l *Lease) Login() upstream.Login { return l.login }

// Acquire returns the role of the person's grant, made now or used already by another session, admitted to the
// database. The role stays until Release, at most until the grant's end. An error leaves nothing behind that the sweep
// would not find.
func (k *Keeper) Acquire(ctx context.Context, user string, grant *policy.Grant, database string) (*Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, provisionTimeout)
	defer cancel()
	l, err := k.join(leaseKey{user, grant.Name}, grant, database)
	if err != nil {
		return nil, err
	}
	if err := l.enter(ctx, database); err != nil {
		l.leave(true)
		return nil, err
	}
	lease := &Lease{login: upstream.Login{User: l.role.Name, Password: l.password, Database: database}, lease: l}
	k.mu.Lock()
	defer k.mu.Unlock()
	l.backends.oid = l.role.OID
	l.backends.dialing[lease] = dial{began: time.Now()}
	return lease, nil
}

// join counts one session more on the key's lease, which it starts if there is none. It looks at the grant once more: a
// reload may have come after the session was decided upon, and apply before it could see the lease.
func (k *Keeper) join(key leaseKey, grant *policy.Grant, database string) (*lease, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return nil, ErrClosed
	}
	k.use()
	if k.cfg.Policy != nil {
		now, ok := k.cfg.Policy.Set().Covers(key.user, key.grant, database, time.Now())
		if !ok || !now.SameRights(grant) {
			return nil, ErrGrantGone
		}
		grant = now
	}
	if l, ok := k.leases[key]; ok && !l.retired && l.grant.SameRights(grant) && l.grant.SameLimits(grant) && l.until.Equal(grant.Until) {
		if l.sessions >= sessionLimit(grant) {
			return nil, ErrSessionLimit
		}
		l.sessions++
		return l, nil
	}
	l := &lease{
		keeper: k, grant: grant, until: grant.Until, sessions: 1,
		woken:     make(chan struct{}, 1),
		databases: make(map[string]bool),
		backends:  newBackends(),
		role: ledger.Role{Name: ledger.NewRoleName(key.user, key.grant), Entry: ledger.Entry{
			Deployment: k.cfg.Deployment, Proxy: k.proxy, Integration: k.cfg.Integration,
			User: key.user, Grant: key.grant, Until: grant.Until.UTC(), Made: time.Now().UTC(),
		}},
	}
	if !grant.Access.Dangerous {
		l.role.Entry.Roles = grant.Access.Roles
	}
	if old, ok := k.leases[key]; ok {
		old.retired = true
		old.wake()
	}
	k.leases[key] = l
	k.ours[l.role.Name] = l
	k.metrics.live.Inc()
	k.tended.Go(func() { l.tend(key) })
	return l, nil
}

// enter makes the role, or admits it to one more database; sessions that come together share the work.
func (l *lease) enter(ctx context.Context, database string) error {
	l.making.Lock()
	defer l.making.Unlock()
	if l.databases[database] {
		return nil
	}
	release, err := l.keeper.pool.Reserve(ctx)
	if err != nil {
		return err
	}
	defer release()
	work := l.keeper.admit
	if !l.made {
		work = l.keeper.provision
	}
	if err := admin.Retry(ctx, func() error { return l.pastDeadConnections(ctx, database, work) }); err != nil {
		return err
	}
	l.made, l.databases[database] = true, true
	return nil
}

// pastDeadConnections tries again where the server went away under a connection that seemed to work a moment ago: the
// pool may hold as many of these as it holds connections. Once a COMMIT may have been sent, its outcome is not known, and
// the role is given up.
func (l *lease) pastDeadConnections(ctx context.Context, database string, work func(context.Context, *lease, string) error) error {
	var err error
	for range admin.PoolSize + 1 {
		if err = work(ctx, l, database); err == nil || !admin.Passing(err) || l.role.OID != 0 && !l.made {
			break
		}
	}
	return err
}

// Release ends the session's hold on the role. It may be called more than once.
func (l *Lease) Release() { l.release.Do(func() { l.giveUp(); l.lease.leave(false) }) }

// Discard is Release for a role that the server would not let in: somebody dropped or changed it. The next session gets
// a new one.
func (l *Lease) Discard() { l.release.Do(func() { l.giveUp(); l.lease.leave(true) }) }

// giveUp notes that a log-in that never said Opened is over.
func (l *Lease) giveUp() {
	k := l.lease.keeper
	k.mu.Lock()
	defer k.mu.Unlock()
	if d, ok := l.lease.backends.dialing[l]; ok {
		d.givenUp = time.Now()
		l.lease.backends.dialing[l] = d
	}
}

// leave counts one session less. A broken lease takes no new sessions.
func (l *lease) leave(broken bool) {
	k := l.keeper
	k.mu.Lock()
	defer k.mu.Unlock()
	l.sessions--
	l.idle = time.Now()
	l.retired = l.retired || broken
	l.wake()
}

// wake makes tend look again; the keeper's mutex is held.
func (l *lease) wake() {
	select {
	case l.woken <- struct{}{}:
	default:
	}
}

// tend waits for the end of the lease and settles its role.
func (l *lease) tend(key leaseKey) {
	k := l.keeper
	for {
		wait, over := l.remaining(key)
		if over {
			break
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-l.woken:
		case <-k.ending.Done():
			k.mu.Lock()
			l.until = time.Time{}
			k.mu.Unlock()
		}
		timer.Stop()
	}
	told := make(chan struct{})
	k.tended.Go(func() { l.awaitSessions(); close(told) })
	l.finish(told)
}

// awaitSessions gives the sessions, which end for the same reason at the same moment, the time to tell their clients why.
// Terminated first, they would hear PostgreSQL's own words, which say nothing of the grant.
func (l *lease) awaitSessions() {
	timer := time.NewTimer(sessionsGrace)
	defer timer.Stop()
	for l.inUse() {
		select {
		case <-l.woken:
		case <-timer.C:
			return
		}
	}
}

func (l *lease) inUse() bool {
	l.keeper.mu.Lock()
	defer l.keeper.mu.Unlock()
	return l.sessions > 0
}

// remaining is how long the lease lasts if nothing happens. A lease that is over takes no new session.
func (l *lease) remaining(key leaseKey) (wait time.Duration, over bool) {
	k := l.keeper
	k.mu.Lock()
	defer k.mu.Unlock()
	wait = time.Until(l.until)
	if l.sessions == 0 {
		linger := k.cfg.Linger
		if l.retired {
			linger = 0
		}
		wait = min(wait, time.Until(l.idle.Add(linger)))
	}
	if l.retired || wait <= 0 {
		if k.leases[key] == l {
			delete(k.leases, key)
		}
	}
	return wait, wait <= 0
}

// finish settles the role. What can't be settled now is the sweep's, so the role is no longer ours.
func (l *lease) finish(told <-chan struct{}) {
	k := l.keeper
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	if l.known() {
		if err := k.settler.Settle(ctx, settle.End{Role: l.role, Told: told}); err != nil {
			k.log.Error("role could not be settled, the sweep goes on", "role", l.role.Name, "grant", l.grant.Name, "error", err)
		}
	}
	k.mu.Lock()
	delete(k.ours, l.role.Name)
	k.mu.Unlock()
	k.metrics.live.Dec()
}

// known reports whether the role may be on the server. Once a session has it, nothing is waited for: another session may take
// its time to be admitted to a further database. Before that a session may still be making the role.
func (l *lease) known() bool {
	l.keeper.mu.Lock()
	used := l.backends.oid != 0
	l.keeper.mu.Unlock()
	if used {
		return true
	}
	l.making.Lock()
	defer l.making.Unlock()
	return l.role.OID != 0
}

// Live reports whether this process still has the role of that name: in use, lingering or being settled.
func (k *Keeper) Live(role string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.ours[role] != nil
}
