package roles

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/roles/ledger"
	"github.com/hourgate/hourgate/roles/profile"
)

// leaseKey: one role for each person and grant, so that two people of one grant can't signal each other's backends.
type leaseKey struct{ user, grant string }

// lease is one ephemeral role's life within this process, from the first session that needs it to its end.
type lease struct {
	keeper *Keeper
	key    leaseKey
	woken  chan struct{} // capacity 1

	making    sync.Mutex // one server round trip for this role at a time; guards what follows, up to databases
	made      bool
	password  string          // "": the role is to get a new one before its next log-in
	asleep    bool            // the server's role can't log in; with password ""
	databases map[string]bool // those that the role has been admitted to

	// What follows belongs to the keeper's mutex.
	grant    *policy.Grant // as it is in force; its rights never change
	told     *policy.Grant // as the role on the server and its comment have it; nil before it is made
	telling  bool          // the server is being told
	role     ledger.Role   // its OID is zero before it is made
	until    time.Time     // zero: now
	sessions int
	idle     time.Time // when the last session left
	kept     bool      // the role owns something, and stays until the grant's end whether sessions use it or not
	retired  bool      // takes no new sessions, unless it is the only one; see spare
	broken   bool      // takes no new sessions at all
	over     bool      // is being settled: nothing revives it
	lost     bool      // another process has the role now, and will settle it
	backends backends
}

// Lease is the right to log in as an ephemeral role, held by one session.
type Lease struct {
	login   upstream.Login
	lease   *lease
	creates bool
	reader  *reader // that the session is on; nil: on the writer
	release sync.Once
}

// Login has the role's name and password and the database. Its Params are the caller's to fill.
func (l *Lease) Login() upstream.Login { return l.login }

// Creates reports whether PUBLIC's rights in the database let the session make objects that outlive it.
func (l *Lease) Creates() bool { return l.creates }

// errRoleGone is a role that somebody dropped or disabled under the lease; another one is made.
var errRoleGone = errors.New("the role was dropped or disabled on the server")

// Acquire returns the role of the person's grant, made now, used already by another session, or left by another process,
// admitted to the database. The role stays until Release; one that owns something then, until the grant's end. An error
// leaves nothing behind that the sweep would not find.
func (k *Keeper) Acquire(ctx context.Context, user string, grant *policy.Grant, database string) (*Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, provisionTimeout)
	defer cancel()
	lease, err := k.acquire(ctx, leaseKey{user, grant.Name}, grant, database)
	if errors.Is(err, errRoleGone) {
		lease, err = k.acquire(ctx, leaseKey{user, grant.Name}, grant, database)
	}
	return lease, err
}

func (k *Keeper) acquire(ctx context.Context, key leaseKey, grant *policy.Grant, database string) (*Lease, error) {
	l, err := k.join(key, grant, database)
	if err != nil {
		return nil, err
	}
	password, made, err := l.enter(ctx, database)
	if err != nil {
		l.leave(!made || errors.Is(err, errRoleGone))
		return nil, err
	}
	creates := k.profiles.Creates(profile.Of(database, grant.Access, k.cfg.Deployment))
	k.mu.Lock()
	defer k.mu.Unlock()
	lease := &Lease{login: upstream.Login{User: l.role.Name, Password: password, Database: database}, lease: l, creates: creates}
	l.backends.oid = l.role.OID
	k.readers.watch(l.role)
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
	l := k.leases[key]
	if l != nil && !l.grant.SameRights(grant) {
		l.retire()
		l = nil
	}
	if l == nil {
		l = k.spare(key, grant)
	}
	if l != nil {
		if l.sessions >= sessionLimit(grant) {
			return nil, ErrSessionLimit
		}
		l.move(grant)
		l.sessions++
		return l, nil
	}
	l = k.newLease(key, grant, ledger.NewRoleName(key.user, key.grant))
	l.sessions = 1
	k.leases[key] = l
	l.start()
	return l, nil
}

// newLease returns a lease for a role of that name. The keeper's mutex is held.
func (k *Keeper) newLease(key leaseKey, grant *policy.Grant, name string) *lease {
	l := &lease{
		keeper: k, key: key, grant: grant, until: grant.Until,
		woken:     make(chan struct{}, 1),
		databases: make(map[string]bool),
		backends:  newBackends(),
		role:      ledger.Role{Name: name},
	}
	l.role.Entry = l.entry(grant)
	l.role.Entry.Made = time.Now().UTC()
	return l
}

// start begins the lease's life. The keeper's mutex is held.
func (l *lease) start() {
	k := l.keeper
	k.ours[l.role.Name] = l
	k.metrics.live.Inc()
	k.tended.Go(l.tend)
}

// entry is the ledger's line for the role under the grant as it is now.
func (l *lease) entry(g *policy.Grant) ledger.Entry {
	e := ledger.Entry{
		Deployment: l.keeper.cfg.Deployment, Proxy: l.keeper.proxy, Integration: l.keeper.cfg.Integration,
		User: l.key.user, Grant: l.key.grant, Until: g.Until.UTC(), Made: l.role.Entry.Made,
		Rights: g.Access.Fingerprint(), Keep: g.KeepObjectsAs, ActAs: g.Access.ActAs,
	}
	if !g.Access.Dangerous {
		e.Roles = g.Access.Roles
	}
	return e
}

// move follows the grant, whose end or limits may have changed; the keeper's mutex is held.
func (l *lease) move(grant *policy.Grant) {
	same := grant.Until.Equal(l.until) && grant.SameLimits(l.grant)
	l.grant, l.until = grant, grant.Until
	if !same {
		l.wake()
	}
}

// retire keeps new sessions from the lease; the keeper's mutex is held.
func (l *lease) retire() {
	l.retired = true
	if l.keeper.leases[l.key] == l {
		delete(l.keeper.leases, l.key)
	}
	l.wake()
}

// enter makes the role, wakes it, or admits it to one more database, and returns its password; sessions that come together
// share the work. made is whether the role is known to be there, also with an error.
func (l *lease) enter(ctx context.Context, database string) (password string, made bool, err error) {
	l.making.Lock()
	defer l.making.Unlock()
	if l.password != "" && l.databases[database] && !l.lapsed() {
		return l.password, true, nil
	}
	release, err := l.keeper.pool.Reserve(ctx)
	if err != nil {
		return "", l.made, err
	}
	defer release()
	work := l.ready
	if !l.made {
		work = l.provision
	}
	if err := admin.Retry(ctx, func() error { return l.pastDeadConnections(ctx, database, work) }); err != nil {
		return "", l.made, err
	}
	l.made, l.databases[database] = true, true
	return l.password, true, nil
}

// lapsed reports whether the server, which has not heard of the grant's new end yet, would turn log-ins away by now.
func (l *lease) lapsed() bool {
	l.keeper.mu.Lock()
	defer l.keeper.mu.Unlock()
	return l.told != nil && !time.Now().Before(l.told.Until)
}

// current returns the grant as it is in force.
func (l *lease) current() *policy.Grant {
	l.keeper.mu.Lock()
	defer l.keeper.mu.Unlock()
	return l.grant
}

// identity returns the role as it is known now.
func (l *lease) identity() ledger.Role {
	l.keeper.mu.Lock()
	defer l.keeper.mu.Unlock()
	return l.role
}

// pastDeadConnections tries again where the server went away under a connection that seemed to work a moment ago: the
// pool may hold as many of these as it holds connections. A new connection has waited for the server already, so nothing is
// tried again after that. Once a COMMIT may have been sent, its outcome is not known, and the role is given up.
func (l *lease) pastDeadConnections(ctx context.Context, database string, work func(context.Context, string) error) error {
	began := time.Now()
	for tries := 0; ; tries++ {
		err := work(ctx, database)
		if err == nil || !admin.Passing(err) || l.identity().OID != 0 && !l.made || tries == admin.Limit || time.Since(began) > admin.FailoverWait/2 {
			return err
		}
	}
}

// Release ends the session's hold on the role. It may be called more than once.
func (l *Lease) Release() { l.release.Do(func() { l.giveUp(); l.lease.leave(false) }) }

// Discard is Release for a role that the server would not let in: somebody dropped it or changed its password. The next
// session gets another password or, if the role is gone, another role.
func (l *Lease) Discard() {
	l.release.Do(func() {
		l.giveUp()
		l.lease.making.Lock()
		if l.lease.password == l.login.Password {
			l.lease.password = ""
		}
		l.lease.making.Unlock()
		l.lease.leave(false)
	})
}

// giveUp notes that a log-in that never said Opened is over.
func (l *Lease) giveUp() {
	b, unlock := l.backends()
	defer unlock()
	if d, ok := b.dialing[l]; ok {
		d.givenUp = time.Now()
		b.dialing[l] = d
	}
}

// leave counts one session less. A broken lease takes no new sessions.
func (l *lease) leave(broken bool) {
	k := l.keeper
	k.mu.Lock()
	defer k.mu.Unlock()
	l.sessions--
	l.idle, l.kept = time.Now(), false
	if broken {
		l.broken = true
		l.retire()
	}
	l.wake()
}

// wake makes tend look again; the keeper's mutex is held.
func (l *lease) wake() {
	select {
	case l.woken <- struct{}{}:
	default:
	}
}

// Live reports whether this process still has the role of that name: in use, lingering or being settled.
func (k *Keeper) Live(role string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.ours[role] != nil
}
