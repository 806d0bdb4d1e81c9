package profile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/hourgate/hourgate/internal/admin"
)

// maxAge is how long a profile is believed to cover the database. Tables that are made meanwhile are covered by
// default privileges, unless their owner is new.
const (
	maxAge         = time.Minute
	refreshTimeout = 15 * time.Second
)

// Config is what Profiles needs to know. All fields are required.
type Config struct {
	Pool    *admin.Pool
	Log     *slog.Logger
	LeftOut prometheus.Gauge // how many objects all profiles lack

	// Background runs a function that nobody waits for, until it returns or the context that it is given is done.
	Background func(func(context.Context))
}

// Profiles keeps profiles in order on the server, and remembers which of them are. It is safe for concurrent use.
type Profiles struct {
	cfg Config

	mu    sync.Mutex
	known map[Profile]*state
}

// New returns a Profiles that has not looked at the server yet.
func New(cfg Config) *Profiles { return &Profiles{cfg: cfg, known: make(map[Profile]*state)} }

type state struct {
	checking   sync.Mutex // held while the server is asked
	checked    atomic.Pointer[time.Time]
	refreshing atomic.Bool
	leftOut    atomic.Pointer[string] // owners of what the profile lacks, and how many objects of each
	missing    atomic.Int64           // how many objects in all
	creates    atomic.Bool            // everybody may create in a schema of the database
}

func (ps *Profiles) get(p Profile) *state {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	s, ok := ps.known[p]
	if !ok {
		s = &state{}
		ps.known[p] = s
	}
	return s
}

// missing is how many objects all profiles lack.
func (ps *Profiles) missing() (n int64) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for _, s := range ps.known {
		n += s.missing.Load()
	}
	return n
}

// forget makes the next use check again, after somebody dropped a profile under us.
func (ps *Profiles) forget(p Profile) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	delete(ps.known, p)
}

// Creates reports whether everybody may make objects in some schema of the profile's database, as far as is known.
func (ps *Profiles) Creates(p Profile) bool { return ps.get(p).creates.Load() }

// ensure brings the profile's role in order before its first use. After that it is looked at again once a minute
// while it is used, without anybody waiting for it.
func (ps *Profiles) ensure(ctx context.Context, c *admin.Conn, p Profile) error {
	s := ps.get(p)
	if s.checked.Load() == nil {
		return ps.check(ctx, c, p, s, time.Now())
	}
	if time.Since(*s.checked.Load()) > maxAge && s.refreshing.CompareAndSwap(false, true) {
		ps.cfg.Background(func(ctx context.Context) { ps.refresh(ctx, p, s) })
	}
	return nil
}

// refresh looks at a profile again.
func (ps *Profiles) refresh(ctx context.Context, p Profile, s *state) {
	ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
	defer cancel()
	defer s.refreshing.Store(false)
	asked := time.Now()
	err := ps.cfg.Pool.In(ctx, p.database, func(c *admin.Conn) error { return ps.check(ctx, c, p, s, asked) })
	if err != nil && ctx.Err() == nil {
		ps.cfg.Log.Error("profile could not be refreshed", "profile", p.Name(), "error", err)
	}
}

// check makes the role and grants what is missing, unless somebody did so after asked.
func (ps *Profiles) check(ctx context.Context, c *admin.Conn, p Profile, s *state, asked time.Time) error {
	s.checking.Lock()
	defer s.checking.Unlock()
	if last := s.checked.Load(); last != nil && last.After(asked) {
		return nil
	}
	if err := p.makeRole(ctx, c); err != nil {
		return err
	}
	if err := ps.fill(ctx, c, p); err != nil {
		return err
	}
	creates, err := publicCreates(ctx, c)
	if err != nil {
		return err
	}
	s.creates.Store(creates)
	now := time.Now()
	s.checked.Store(&now)
	return nil
}

// publicCreates reports whether everybody may make objects in some schema of the database that c is connected to.
func publicCreates(ctx context.Context, c *admin.Conn) (creates bool, err error) {
	err = c.QueryOne(ctx, `
		SELECT EXISTS (SELECT FROM pg_namespace n, aclexplode(n.nspacl) x WHERE x.grantee = 0 AND x.privilege_type = 'CREATE')
		    OR EXISTS (SELECT FROM pg_database d, aclexplode(d.datacl) x WHERE d.datname = current_database() AND x.grantee = 0 AND x.privilege_type = 'CREATE')`, nil, &creates)
	return creates, err
}

// makeRole creates the role unless it is there, and refuses one that is more than a profile.
func (p Profile) makeRole(ctx context.Context, c *admin.Conn) error {
	name := admin.QuoteIdentifier(p.Name())
	if err := leave(ctx, c, p.Name()); err != nil {
		return err
	}
	var harmless bool
	err := c.QueryOne(ctx, `
		SELECT NOT (rolcanlogin OR rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls)
		       AND NOT EXISTS (SELECT FROM pg_auth_members m WHERE m.member = r.oid)
		  FROM pg_roles r WHERE rolname = $1`, []any{p.Name()}, &harmless)
	switch {
	case err == nil && harmless:
		return nil
	case err == nil:
		return &admin.PrivilegeError{
			Problem:    fmt.Sprintf("role %s exists with rights of its own, so it can't serve as a profile on %s", p.Name(), p.database),
			Statements: []string{"DROP ROLE " + name + ";"},
		}
	case !errors.Is(err, pgx.ErrNoRows):
		return err
	}
	_, err = c.Script(ctx, "BEGIN",
		"CREATE ROLE "+name+" NOLOGIN",
		"COMMENT ON ROLE "+name+" IS "+admin.QuoteLiteral(p.comment()),
		"COMMIT")
	if err == nil {
		return nil
	}
	if rollbackErr := c.Rollback(ctx); rollbackErr != nil {
		return errors.Join(err, rollbackErr)
	}
	if admin.SQLState(err) == pgerrcode.DuplicateObject || admin.SQLState(err) == pgerrcode.UniqueViolation {
		return nil // another proxy was quicker
	}
	return err
}

// leave takes from a profile what it is a member of. On 13 and 14 every login may make anybody a member of itself, so that
// anybody could have the profile refused.
func leave(ctx context.Context, c *admin.Conn, profile string) error {
	if c.Version >= 150000 {
		return nil
	}
	rows, err := c.Query(ctx, `
		SELECT g.rolname::text FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid JOIN pg_roles p ON p.oid = m.member
		 WHERE p.rolname = $1 AND g.rolcanlogin AND NOT g.rolsuper`, profile)
	if err != nil {
		return err
	}
	groups, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, group := range groups {
		if _, err := c.Script(ctx, "REVOKE "+admin.QuoteIdentifier(group)+" FROM "+admin.QuoteIdentifier(profile)); err != nil {
			return err
		}
	}
	return nil
}

// tries is how often a profile is made again that goes with its last member just when it gets another. Each time somebody
// else has to be as quick.
const tries = 10

// With runs fn where p's database can be worked on, with p in order. A profile that was removed meanwhile, by another
// proxy or with its last member, is made again. local is whether fn needs that database itself.
func (ps *Profiles) With(ctx context.Context, p Profile, local bool, fn func(*admin.Conn) error) error {
	database := p.database
	if !local && ps.get(p).checked.Load() != nil {
		database = "" // memberships are the same from everywhere, and a connection may be warm
	}
	try := func() error {
		return ps.cfg.Pool.In(ctx, database, func(c *admin.Conn) error {
			if err := ps.ensure(ctx, c, p); err != nil {
				return err
			}
			return fn(c)
		})
	}
	for n := 1; ; n++ {
		err := try()
		if err == nil {
			return nil
		}
		ps.forget(p)
		database = p.database
		if admin.SQLState(err) != pgerrcode.UndefinedObject || n == tries {
			return err
		}
	}
}
