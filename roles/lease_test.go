package roles_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/roles"
)

// inForce is a policy with one grant, alice's, whose access, end and limits a test moves.
type inForce struct {
	*policy.Live
	f *fixture
}

// grantLine is the grant as a policy file has it; more are further keys.
func (p inForce) set(t *testing.T, access string, until time.Time, more string) *policy.Set {
	t.Helper()
	text := fmt.Sprintf("users: [{name: alice@example.com}]\ngrants:\n  - {name: inc-4211, users: [alice@example.com], integration: orders, access: %s, until: %s%s}\n",
		access, until.UTC().Format(time.RFC3339Nano), more)
	s, err := policy.Parse([]policy.Source{{File: "p.yaml", Data: []byte(text)}}, map[string]string{"orders": p.f.db.Name})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// withPolicy makes a fixture whose keeper goes by a policy.
func withPolicy(t *testing.T, db *pgtest.Database, access string, until time.Time, linger time.Duration) (*fixture, inForce) {
	t.Helper()
	p := inForce{f: &fixture{db: db}}
	p.Live = policy.NewLive(p.set(t, access, until, ""))
	return p.join(t, linger), p
}

// join makes another process under the same policy and in the same deployment.
func (p inForce) join(t *testing.T, linger time.Duration) *fixture {
	t.Helper()
	f := newFixture(t, p.f.db, func(c *roles.Config) { c.Policy, c.Linger = p.Live, linger })
	f.exec(t, "ALTER DATABASE "+p.f.db.Name+" RESET search_path")
	return f
}

// neighbour makes the keeper of another integration on the same server, in the same deployment.
func (p inForce) neighbour(t *testing.T) *fixture {
	t.Helper()
	f := newFixture(t, p.f.db, func(c *roles.Config) { c.Policy, c.Integration = p.Live, "neighbour" })
	f.exec(t, "ALTER DATABASE "+p.f.db.Name+" RESET search_path")
	return f
}

func (p inForce) grant(t *testing.T) *policy.Grant {
	t.Helper()
	g, ok := p.Set().Covers("alice@example.com", "inc-4211", p.f.db.Name, time.Now())
	if !ok {
		t.Fatal("the policy does not cover alice")
	}
	return g
}

func (f *fixture) validUntil(t *testing.T, role string) (until time.Time) {
	t.Helper()
	if err := f.super.QueryRow(t.Context(), "SELECT coalesce(rolvaliduntil, 'infinity') FROM pg_roles WHERE rolname = $1", role).Scan(&until); err != nil {
		t.Fatal(err)
	}
	return until
}

// A grant's end is moved as often as people extend it, and its limits with it: sessions go on in the same role, and the
// last end counts, on the server too.
func TestEndMovesAgainAndAgain(t *testing.T) {
	t.Parallel()
	for _, major := range []int{13, 18} {
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) {
			t.Parallel()
			f, p := withPolicy(t, pgtest.Start(t, major).Database(t), "READ_ONLY", time.Now().Add(time.Hour), time.Hour)
			lease := f.acquire(t, p.grant(t))
			conn := f.login(t, lease.Login())
			began := time.Now()
			for i, step := range []struct {
				until time.Duration
				more  string
			}{
				{6 * time.Second, ""},
				{8 * time.Second, ", max_sessions: 3"},
				{7 * time.Second, ", statement_timeout: 90s"}, // shorter, and then longer
				{time.Hour, ", statement_timeout: 80s"},
			} {
				until := began.Add(step.until).Truncate(time.Second)
				p.Put(p.set(t, "READ_ONLY", until, step.more))
				waitFor(t, "the server knows the end", func() bool { return f.validUntil(t, lease.Login().User).Equal(until) })
				again := f.acquire(t, p.grant(t))
				if again.Login().User != lease.Login().User {
					t.Errorf("move %d: a new role", i)
				}
				again.Release()
			}
			waitFor(t, "all ends that were moved have passed", func() bool { return time.Since(began) > 9*time.Second })
			var timeout string
			if err := conn.Ping(t.Context()); err != nil {
				t.Errorf("the session was cut at an end that had been moved: %v", err)
			}
			if err := f.login(t, lease.Login()).QueryRow(t.Context(), "SHOW statement_timeout").Scan(&timeout); err != nil || timeout != "80s" {
				t.Errorf("statement_timeout is %q, %v, want the last that was given", timeout, err)
			}
			p.Put(p.set(t, "READ_ONLY", time.Now().Add(time.Second), ""))
			waitFor(t, "the session ends at the last end", func() bool { return conn.Ping(t.Context()) != nil })
			waitFor(t, "the role is gone", func() bool { return !f.exists(t, lease.Login().User) })
		})
	}
}

// whenMade is a trail that does something before the COMMIT that makes a role.
type whenMade struct {
	*trail
	do func(role string)
}

func (w *whenMade) Append(r audit.Record) error {
	if r.Event == audit.RoleMade {
		w.do(r.Role)
	}
	return w.trail.Append(r)
}

// An end that is moved while the role is being made reaches the server, too: what another process would go by once this one
// is gone is the end as it is.
func TestEndMovesWhileTheRoleIsMade(t *testing.T) {
	t.Parallel()
	for name, later := range map[string]time.Duration{"shorter": time.Hour, "longer": 3 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := inForce{f: &fixture{db: pgtest.Start(t, 16).Database(t)}}
			p.Live = policy.NewLive(p.set(t, "READ_ONLY", time.Now().Add(2*time.Hour), ""))
			until := time.Now().Add(later).Truncate(time.Second)
			var f *fixture
			f = newFixture(t, p.f.db, func(c *roles.Config) {
				c.Policy = p.Live
				c.Trail = &whenMade{&trail{}, func(role string) {
					p.Put(p.set(t, "READ_ONLY", until, ""))
					waitFor(t, "the move is noticed", func() bool { return f.Heeded(role) })
				}}
			})
			lease := f.acquire(t, p.grant(t))
			waitFor(t, "the server knows the end", func() bool { return f.validUntil(t, lease.Login().User).Equal(until) })
			lease.Release()
		})
	}
}

// create makes a table as the lease's role, with one row.
func (f *fixture) create(t *testing.T, l *roles.Lease, table string) {
	t.Helper()
	conn := f.login(t, l.Login())
	if _, err := conn.Exec(t.Context(), "CREATE TABLE "+table+" AS SELECT 1 AS i", pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// uses reports what goes wrong when the lease's session reads and changes the table.
func (f *fixture) uses(t *testing.T, l *roles.Lease, table string) error {
	t.Helper()
	conn := f.login(t, l.Login())
	defer conn.Close(context.Background())
	var i int
	if err := conn.QueryRow(t.Context(), "SELECT i FROM "+table).Scan(&i); err != nil {
		return err
	}
	_, err := conn.Exec(t.Context(), "ALTER TABLE "+table+" ADD COLUMN x"+fmt.Sprint(time.Now().UnixNano())+" int")
	return err
}

// What people made stays until their grant's end when nobody is connected, and a role that owns nothing does not.
func TestRoleThatOwnsSomethingOutlivesLinger(t *testing.T) {
	t.Parallel()
	someMajors(t, func(t *testing.T, db *pgtest.Database) {
		f, p := withPolicy(t, db, "ADMIN", time.Now().Add(time.Hour), 0)
		empty := f.acquire(t, p.grant(t))
		empty.Release()
		waitFor(t, "a role that owns nothing goes", func() bool { return !f.exists(t, empty.Login().User) })

		lease := f.acquire(t, p.grant(t))
		f.create(t, lease, "report")
		lease.Release()
		for range 3 { // each time the role is asked again what it owns
			again := f.acquire(t, p.grant(t))
			if again.Login().User != lease.Login().User {
				t.Fatalf("the person got %s, want %s again", again.Login().User, lease.Login().User)
			}
			if err := f.uses(t, again, "report"); err != nil {
				t.Error(err)
			}
			again.Release()
		}
		p.Put(p.set(t, "ADMIN", time.Now().Add(500*time.Millisecond), ""))
		waitFor(t, "the role goes at the grant's end", func() bool { return !f.exists(t, lease.Login().User) })
		var left int
		if err := f.super.QueryRow(t.Context(), "SELECT count(*) FROM pg_class WHERE relname = 'report'").Scan(&left); err != nil || left != 0 {
			t.Errorf("%d tables left, %v", left, err)
		}
	})
}

// noLogin reports whether the server lets nobody in with the lease's password.
func (f *fixture) noLogin(t *testing.T, l *roles.Lease) bool {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), f.db.Server.URL(l.Login().User, l.Login().Password, f.db.Name).String())
	if err == nil {
		_ = conn.Close(t.Context())
	}
	return err != nil
}

// After a stop and after a crash the next process gives the same person and grant the same role, whether its sweep comes
// first or the person. In between nobody can log in as it.
func TestNextProcessTakesTheRoleOver(t *testing.T) {
	t.Parallel()
	someMajors(t, func(t *testing.T, db *pgtest.Database) {
		f, p := withPolicy(t, db, "ADMIN", time.Now().Add(time.Hour), 0)
		lease := f.acquire(t, p.grant(t))
		f.create(t, lease, "report")
		lease.Release()
		role := lease.Login().User
		for name, between := range map[string]func(next *fixture){
			"a stop":                 func(*fixture) { f.stop(t) },
			"a crash":                func(*fixture) { f.crash(t) },
			"a stop, and the sweep":  func(next *fixture) { f.stop(t); next.sweep(t) },
			"a crash, and the sweep": func(next *fixture) { f.crash(t); next.sweep(t) },
			"a stop, and the sweep of another integration there":  func(*fixture) { f.stop(t); p.neighbour(t).sweep(t) },
			"a crash, and the sweep of another integration there": func(next *fixture) { f.crash(t); p.neighbour(t).sweep(t); next.sweep(t) },
			"a crash and two processes":                           func(next *fixture) { f.crash(t); next.sweep(t); p.join(t, 0).sweep(t) },
		} {
			next := p.join(t, 0)
			between(next)
			if !f.exists(t, role) {
				t.Fatalf("after %s the role is gone", name)
			}
			if name != "a crash" && !f.noLogin(t, lease) {
				t.Errorf("after %s the role can log in with a password that nobody should know", name)
			}
			before := lease
			lease = next.acquire(t, p.grant(t))
			if lease.Login().User != role {
				t.Fatalf("after %s the person got %s, want %s again", name, lease.Login().User, role)
			}
			if err := next.uses(t, lease, "report"); err != nil {
				t.Errorf("after %s: %v", name, err)
			}
			if !f.noLogin(t, before) {
				t.Errorf("after %s the password of the process before still works", name)
			}
			lease.Release()
			f = next
		}
		// Under another access, and after the end, nobody inherits.
		f.stop(t)
		p.Put(p.set(t, "READ_ONLY", time.Now().Add(time.Hour), ""))
		last := p.join(t, 0)
		last.sweep(t)
		if last.exists(t, role) {
			t.Error("a role whose grant means something else was taken over")
		}
	})
}

func (f *fixture) stop(t *testing.T) {
	t.Helper()
	if err := f.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// crash ends the process, and waits until the server has noticed.
func (f *fixture) crash(t *testing.T) {
	t.Helper()
	f.Crash()
	waitFor(t, "the process's connections are gone", func() bool {
		var n int
		err := f.super.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", f.Application()).Scan(&n)
		return err == nil && n == 0
	})
}

func (f *fixture) sweep(t *testing.T) {
	t.Helper()
	if err := f.Sweep(t.Context()); err != nil {
		t.Errorf("sweep: %v", err)
	}
}

// The end comes for a role that sleeps, too, in whatever process has it.
func TestSleepingRoleEndsWithItsGrant(t *testing.T) {
	t.Parallel()
	f, p := withPolicy(t, pgtest.Start(t, 17).Database(t), "ADMIN", time.Now().Add(6*time.Second), 0)
	lease := f.acquire(t, p.grant(t))
	f.create(t, lease, "report")
	lease.Release()
	f.stop(t)
	next := p.join(t, 0)
	next.sweep(t)
	if !next.exists(t, lease.Login().User) {
		t.Fatal("the role was not taken over")
	}
	waitFor(t, "the role ends", func() bool { return !next.exists(t, lease.Login().User) })
	if time.Now().Before(next.lastEnd(p)) {
		t.Error("the role ended before its grant")
	}
}

func (f *fixture) lastEnd(p inForce) time.Time {
	g, _ := p.Set().Covers("alice@example.com", "inc-4211", p.f.db.Name, time.Now())
	if g == nil {
		return time.Time{}
	}
	return g.Until
}

// Of two processes that live one leaves the other's role alone; when it dies, its role's tables are the person's in the
// other one's role, too.
func TestTwoProcessesOnePerson(t *testing.T) {
	t.Parallel()
	someMajors(t, func(t *testing.T, db *pgtest.Database) {
		f, p := withPolicy(t, db, "ADMIN", time.Now().Add(time.Hour), 0)
		other := p.join(t, 0)
		first := f.acquire(t, p.grant(t))
		f.create(t, first, "one")
		second := other.acquire(t, p.grant(t))
		other.create(t, second, "two")
		if first.Login().User == second.Login().User {
			t.Fatal("two processes share a role whose password only one of them knows")
		}
		other.sweep(t)
		if f.noLogin(t, first) || f.noLogin(t, second) {
			t.Error("a process that lives lost its role")
		}
		first.Release()
		f.crash(t)
		other.sweep(t)
		if f.noLogin(t, second) || !f.noLogin(t, first) {
			t.Error("the sweep took the wrong role's log-in")
		}
		if err := other.uses(t, second, first.Login().User+".one"); err != nil {
			t.Errorf("what the person made through the other process: %v", err)
		}
		if err := other.uses(t, second, "two"); err != nil {
			t.Error(err)
		}
		second.Release()
		p.Put(p.set(t, "ADMIN", time.Now(), ""))
		waitFor(t, "both roles go", func() bool { return !f.exists(t, first.Login().User) && !f.exists(t, second.Login().User) })
	})
}

// A process that was cut off from the server for too long lets go of the role that another one has taken over meanwhile,
// and touches neither its sessions nor its password.
func TestTakenWhileCutOff(t *testing.T) {
	t.Parallel()
	f, p := withPolicy(t, pgtest.Start(t, 16).Database(t), "ADMIN", time.Now().Add(time.Hour), time.Hour)
	lease := f.acquire(t, p.grant(t))
	f.create(t, lease, "report")
	lease.Release()
	f.exec(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '"+f.db.Admin+"'")
	waitFor(t, "the first process is cut off", func() bool {
		var n int
		err := f.super.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE usename = $1", f.db.Admin).Scan(&n)
		return err == nil && n == 0
	})
	other := p.join(t, time.Hour)
	taken := other.acquire(t, p.grant(t))
	if taken.Login().User != lease.Login().User {
		t.Fatalf("the other process made %s, want %s", taken.Login().User, lease.Login().User)
	}
	conn := other.login(t, taken.Login())
	taken.Opened(conn.PgConn().PID())
	waitFor(t, "the first process is back", func() bool { return f.Sweep(t.Context()) == nil })
	if err := f.CheckSessions(t.Context()); err != nil {
		t.Error(err)
	}
	if err := conn.Ping(t.Context()); err != nil {
		t.Errorf("the first process ended the other one's session: %v", err)
	}
	mine := f.acquire(t, p.grant(t))
	if mine.Login().User == taken.Login().User {
		t.Error("both processes use one role")
	}
	if other.noLogin(t, taken) {
		t.Error("the first process changed the other one's password")
	}
	mine.Release()
	taken.Release()
}

// A tenant who changes its own role's password loses neither the role nor what it owns: the next session gets another
// password.
func TestOwnPasswordChanged(t *testing.T) {
	t.Parallel()
	f, p := withPolicy(t, pgtest.Start(t, 15).Database(t), "ADMIN", time.Now().Add(time.Hour), time.Hour)
	lease := f.acquire(t, p.grant(t))
	f.create(t, lease, "report")
	if _, err := f.login(t, lease.Login()).Exec(t.Context(), "ALTER ROLE CURRENT_USER PASSWORD 'mine'"); err != nil {
		t.Fatal(err)
	}
	lease.Discard() // as the proxy does when the server refuses the password
	again := f.acquire(t, p.grant(t))
	if again.Login().User != lease.Login().User {
		t.Errorf("got %s, want %s again", again.Login().User, lease.Login().User)
	}
	if err := f.uses(t, again, "report"); err != nil {
		t.Error(err)
	}
	again.Discard()
	f.exec(t, "ALTER ROLE "+again.Login().User+" NOLOGIN") // somebody's decision
	other := f.acquire(t, p.grant(t))
	if other.Login().User == again.Login().User {
		t.Error("a role that somebody disabled was enabled again")
	}
	other.Release()
	if _, err := f.Acquire(t.Context(), "alice@example.com", f.grant(policy.ReadOnly, time.Hour), f.db.Name); !errors.Is(err, roles.ErrGrantGone) {
		t.Errorf("another access than the policy's: got %v", err)
	}
}
