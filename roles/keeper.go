package roles

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/roles/ledger"
	"github.com/hourgate/hourgate/roles/preflight"
	"github.com/hourgate/hourgate/roles/profile"
	"github.com/hourgate/hourgate/roles/settle"
)

// Config is what a Keeper needs to know. All fields are required unless their comment says otherwise.
type Config struct {
	Integration string // name, for records and logs
	Database    string // the integration's default database, where the warm admin connection lives
	Deployment  string // whose roles these are; proxies of one deployment sweep each other's leftovers
	Server      *upstream.Server
	Readers     []Reader // optional: servers that replay what is done on Server, for sessions that only read
	Secret      admin.Secret
	Trail       Trail
	Linger      time.Duration // how long a role outlives its last session; zero settles at once
	Logger      *slog.Logger
	Metrics     *Metrics

	// Process is that of all keepers of this process, and Admins are the admin's connections to Server, for keepers that reach it
	// in the same way. Optional: the keeper has its own.
	Process *Process
	Admins  *admin.Shared

	// Turns is shared by integrations of which there are many and few are used. While nobody uses one, it holds no connection,
	// and takes a turn, a place in the channel, to sweep now and then. Optional: without it a connection is kept warm.
	Turns chan struct{}

	// Policy is what is in force: roles are decided again when it changes. Optional: without it grants are taken as they
	// come.
	Policy *policy.Live
}

// Reader is a server that replays what is done on another. Secret is the same admin's there.
type Reader struct {
	Server *upstream.Server
	Secret admin.Secret
	Admins *admin.Shared // as in Config
}

// Trail takes records before the act; *audit.Trail is one.
type Trail interface {
	Append(audit.Record) error
}

var (
	// ErrClosed is returned by Acquire once the keeper ends.
	ErrClosed = errors.New("roles: keeper closed")
	// ErrSessionLimit is returned by Acquire when a person has as many sessions under a grant as are allowed.
	ErrSessionLimit = errors.New("roles: too many sessions under one grant")
	// ErrGrantGone is returned by Acquire when the grant was withdrawn or changed after it was decided upon.
	ErrGrantGone = errors.New("roles: the grant is gone")
	// ErrNoObject is in the error of Acquire when a grant names objects that the database does not have.
	ErrNoObject = profile.ErrNoObject
	// ErrRoleRefused is in the error of Acquire when a grant names a role that reaches further than a grant may.
	ErrRoleRefused = profile.ErrRoleRefused
)

const (
	provisionTimeout = 15 * time.Second // a person waits for it
	settleTimeout    = time.Minute      // for one try; the sweep tries again
	heartbeat        = 5 * time.Second  // how soon a lost admin connection is noticed
	sweepInterval    = time.Minute
	sessionsGrace    = 150 * time.Millisecond // for sessions to end by themselves before they are terminated
	retryInterval    = 10 * time.Second       // of the sweep, while something could not be settled
)

// Keeper makes, keeps and settles the ephemeral roles of one integration. It is safe for concurrent use.
type Keeper struct {
	cfg      Config
	proxy    string // this keeper of this process, in the ledger
	log      *slog.Logger
	metrics  *metrics
	pool     *admin.Pool
	settler  *settle.Settler
	profiles *profile.Profiles
	readers  *readers
	sweeper  *sweeper

	mu       sync.Mutex
	closed   bool
	retiring bool                // for good: nobody comes back to what is here
	leases   map[leaseKey]*lease // those that take new sessions
	ours     map[string]*lease   // by the names of all roles that this process made and has not settled
	tended   sync.WaitGroup      // one for each role of ours
	ending   context.Context     // done: settle everything
	end      context.CancelFunc

	opened chan struct{} // capacity 1: a session has logged in, so look for others
	used   time.Time     // when a role was last asked for; belongs to mu
	wanted chan struct{} // capacity 1: a role is asked for

	unsettled atomic.Bool // a role of ours could not be settled, and is the sweep's now

	unwatch func() // the policy
}

// New returns a keeper that has not talked to the server yet; see Run.
func New(cfg Config) *Keeper {
	if cfg.Process == nil {
		cfg.Process = NewProcess()
	}
	log := cfg.Logger.With("integration", cfg.Integration)
	k := &Keeper{
		cfg:     cfg,
		proxy:   cfg.Process.begin(),
		log:     log,
		metrics: cfg.Metrics.of(cfg.Integration),
		leases:  make(map[leaseKey]*lease),
		ours:    make(map[string]*lease),
		opened:  make(chan struct{}, 1),
		wanted:  make(chan struct{}, 1),
	}
	k.ending, k.end = context.WithCancel(context.Background())
	k.pool = admin.NewPool(admin.Config{
		Integration: cfg.Integration, Database: cfg.Database, Application: ledger.Application(cfg.Deployment, k.proxy),
		Server: cfg.Server, Secret: cfg.Secret, Shared: cfg.Admins, Log: log,
	})
	k.settler = settle.New(settle.Config{
		Integration: cfg.Integration, Deployment: cfg.Deployment, Pool: k.pool, Trail: cfg.Trail, Log: log, Metrics: k.metrics.settle,
	})
	k.profiles = profile.New(profile.Config{
		Pool: k.pool, Log: log, LeftOut: k.metrics.leftOut,
		Background: func(f func(context.Context)) { k.tended.Go(func() { f(k.ending) }) },
	})
	k.readers = newReaders(k)
	k.sweeper = &sweeper{k: k, suspects: make(map[string]time.Time)}
	k.unwatch = func() {}
	if cfg.Policy != nil {
		k.unwatch = cfg.Policy.Watch(k.apply)
	}
	return k
}

// Run keeps an admin connection warm and sweeps: at once, every minute, and whenever the server was away. It returns
// when ctx is done. Sessions can be had before its first sweep and while the server is away, as far as the server
// allows.
func (k *Keeper) Run(ctx context.Context) {
	var lastSweep time.Time
	var failed bool  // the last sweep left something, or could not be done
	var reached bool // the server has answered once
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { k.watchSessions(ctx) })
	watching.Go(func() { k.watchClock(ctx) })
	watching.Go(func() { k.sweeper.watchLedger(ctx) })
	for away := true; ; {
		away = k.rest(ctx) || away
		err := k.ping(ctx)
		k.metrics.reachable(err == nil)
		failed = k.unsettled.Swap(false) || failed
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if reached {
				k.log.Error("admin connection lost, trying again", "error", err)
			} else {
				k.log.Error("no admin connection yet, trying again", "error", err)
			}
			away = true
		case away, time.Since(lastSweep) >= sweepInterval, failed && time.Since(lastSweep) >= retryInterval:
			if away {
				k.log.Info("admin connection ready", "server", k.cfg.Server.Address())
				reached = true
			}
			failed = unfinished(k.Sweep(ctx)) || k.sweeper.suspicious()
			lastSweep, away = time.Now(), false
		}
		if err == nil {
			if err := k.CheckSessions(ctx); err != nil && ctx.Err() == nil {
				k.log.Error("sessions could not be checked", "error", err)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (k *Keeper) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, provisionTimeout)
	defer cancel()
	return errors.Join(
		k.pool.Use(ctx, func(c *admin.Conn) error { return c.Ping(ctx) }),
		k.pool.Ready(ctx))
}

// apply decides every role again under a new policy, until it is being settled. Roles whose grant is gone, or means
// something else, are settled. A grant that moved its end, or has other limits, keeps its role and its sessions; one that
// lost a database keeps them too, and new sessions get a new role.
func (k *Keeper) apply(set *policy.Set) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, l := range k.ours {
		if l.over {
			continue
		}
		grant, lost := covering(set, l.key, l.grant)
		if grant == nil || !grant.SameRights(l.grant) {
			l.until = time.Time{}
			l.retire()
			continue
		}
		if lost {
			l.broken = true
			l.retire()
		}
		l.move(grant)
	}
}

// covering returns the grant as it is in set, nil if it covers none of the databases that it did, and whether it lost
// some of them.
func covering(set *policy.Set, key leaseKey, old *policy.Grant) (grant *policy.Grant, lost bool) {
	now := time.Now()
	for _, database := range old.Databases {
		if g, ok := set.Covers(key.user, key.grant, database, now); ok {
			grant = g
		} else {
			lost = true
		}
	}
	return grant, lost
}

// Preflight looks at what the server and the admin are like.
func (k *Keeper) Preflight() preflight.Server {
	return preflight.Server{Pool: k.pool, Integration: k.cfg.Integration, Address: k.cfg.Server.Address(), Database: k.cfg.Database, Readers: len(k.cfg.Readers)}
}

// Database is the integration's default database.
func (k *Keeper) Database() string { return k.cfg.Database }

// Retire takes no new sessions. It returns when those that there are have ended and their roles are settled, or when ctx is
// done. Roles without a session go at once, with what they own: nobody would end them later.
func (k *Keeper) Retire(ctx context.Context) {
	k.mu.Lock()
	k.closed, k.retiring = true, true
	for _, l := range k.ours {
		l.kept = false
		l.retire()
	}
	k.mu.Unlock()
	settled := make(chan struct{})
	go func() { k.tended.Wait(); close(settled) }()
	select {
	case <-settled:
	case <-ctx.Done():
	}
}

// Close settles the roles of this process, puts those to sleep that own something while their grant lives, and closes the
// admin connections. What can't be done before ctx is done is left to the sweep of the next start.
func (k *Keeper) Close(ctx context.Context) error {
	defer k.unwatch()
	k.mu.Lock()
	k.closed = true
	k.mu.Unlock()
	k.end()
	settled := make(chan struct{})
	go func() { k.tended.Wait(); close(settled) }()
	defer k.cfg.Process.end(k.proxy)
	defer k.pool.Close()
	select {
	case <-settled:
		return k.readers.close(ctx)
	case <-ctx.Done():
		k.nameLeft()
		return errors.Join(context.Cause(ctx), k.readers.close(ctx))
	}
}

// nameLeft says which roles the server still has, as far as is known, when the process ends.
func (k *Keeper) nameLeft() {
	k.mu.Lock()
	var left []ledger.Role
	for _, l := range k.ours {
		if l.role.OID != 0 {
			left = append(left, l.role)
		}
	}
	k.mu.Unlock()
	for _, role := range left {
		k.log.Error("role is left to the next start", "role", role.Name, "user", role.Entry.User, "grant", role.Entry.Grant, "until", role.Entry.Until)
		err := k.cfg.Trail.Append(role.Record(audit.RoleSettleFailed, k.cfg.Integration, func(r *audit.Record) {
			r.Until, r.Error = role.Entry.Until, "the gate ended before the role could be settled; the next one goes on"
		}))
		if err != nil {
			k.log.Error("a role that is left could not be recorded", "role", role.Name, "error", err)
		}
	}
}
