package roles_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/roles"
	"github.com/hourgate/hourgate/secrets"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// trail keeps records in memory and fails when it is told to.
type trail struct {
	mu      sync.Mutex
	records []audit.Record
	err     error
}

func (tr *trail) Append(r audit.Record) error {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.err == nil {
		tr.records = append(tr.records, r)
	}
	return tr.err
}

func (tr *trail) fail(err error) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.err = err
}

func (tr *trail) of(event audit.Event) (records []audit.Record) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, r := range tr.records {
		if r.Event == event {
			records = append(records, r)
		}
	}
	return records
}

// adminSecret is the database's admin, until it is taken away.
type adminSecret struct {
	credential secrets.Credential
	mu         sync.Mutex
	err        error
}

func (s *adminSecret) Use(ctx context.Context, try func(context.Context, secrets.Credential) error) error {
	s.mu.Lock()
	err := s.err
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return try(ctx, s.credential)
}

func (s *adminSecret) takeAway() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = errors.New("the secret store is down")
}

func (s *adminSecret) giveBack() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = nil
}

// fixture is a keeper for a database of pgtest.
type fixture struct {
	*roles.Keeper
	db     *pgtest.Database
	server *upstream.Server
	trail  *trail
	secret *adminSecret
	super  *pgx.Conn
}

func newFixture(t testing.TB, db *pgtest.Database, change ...func(*roles.Config)) *fixture {
	t.Helper()
	server, err := upstream.New(upstream.Config{
		Host: db.Server.Host, Port: uint16(db.Server.Port), SSLMode: upstream.VerifyFull, RootCert: db.Server.CAFile,
	})
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{
		db: db, server: server, trail: &trail{}, super: db.Superuser(t),
		secret: &adminSecret{credential: secrets.Credential{Username: db.Admin, Password: secrets.NewPassword(db.AdminPassword)}},
	}
	cfg := roles.Config{
		Integration: "orders", Database: db.Name, Deployment: f.deployment(), Server: server,
		Secret: f.secret, Trail: f.trail, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), Metrics: roles.NewMetrics(prometheus.NewRegistry()),
	}
	for _, c := range change {
		c(&cfg)
	}
	// What tenants create without a schema's name goes to public, where others look for it, too.
	f.exec(t, "ALTER DATABASE "+db.Name+" SET search_path = public")
	f.Keeper = roles.New(cfg)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := f.Close(ctx); err != nil {
			t.Errorf("closing the keeper: %v", err)
		}
	})
	return f
}

// withAdmin makes the secret name another user.
func withAdmin(user, password string) func(*roles.Config) {
	return func(c *roles.Config) {
		c.Secret = &adminSecret{credential: secrets.Credential{Username: user, Password: secrets.NewPassword(password)}}
	}
}

// deployment is the fixture's own, since tests share servers.
func (f *fixture) deployment() string { return "test-" + f.db.Name }

// grant is alice's; an ADMIN may create in public.
func (f *fixture) grant(level policy.Level, d time.Duration) *policy.Grant {
	var createIn []string
	if level == policy.Admin {
		createIn = []string{"public"}
	}
	return &policy.Grant{
		Name: "inc-4211", Integration: "orders", Databases: []string{f.db.Name},
		Access: policy.Access{Level: level, CreateIn: createIn}, Until: time.Now().Add(d),
	}
}

// acquire takes a lease for alice on the fixture's database.
func (f *fixture) acquire(t *testing.T, g *policy.Grant) *roles.Lease {
	t.Helper()
	lease, err := f.Acquire(t.Context(), "alice@example.com", g, f.db.Name)
	if err != nil {
		t.Fatal(err)
	}
	return lease
}

// login logs in on the server itself as the lease's role.
func (f *fixture) login(t *testing.T, l upstream.Login) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), f.db.Server.URL(l.User, l.Password, l.Database).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func (f *fixture) exec(t testing.TB, sql string, args ...any) {
	t.Helper()
	if _, err := f.super.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%v\n%s", err, sql)
	}
}

func (f *fixture) exists(t *testing.T, role string) (there bool) {
	t.Helper()
	if err := f.super.QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", role).Scan(&there); err != nil {
		t.Fatal(err)
	}
	return there
}

// waitGone ends the role's grant, if the role is the keeper's, and waits until the role is gone.
func (f *fixture) waitGone(t *testing.T, role string) {
	t.Helper()
	f.Withdraw(role)
	waitFor(t, "role "+role+" is gone", func() bool { return !f.exists(t, role) })
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	eventually.True(t, what, ok)
}

// eachMajor runs a test on all versions: what tenants may try differs from one to the next.
func eachMajor(t *testing.T, test func(t *testing.T, db *pgtest.Database)) {
	t.Helper()
	onMajors(t, pgtest.Majors(), test)
}

// someMajors runs a test on the versions between which roles, or the gate's way with them, differ: before 16 members of a group
// can act as it, before 15 PUBLIC may create in public. HOURGATE_MAJORS=all has it run on all (make roles).
func someMajors(t *testing.T, test func(t *testing.T, db *pgtest.Database)) {
	t.Helper()
	majors := []int{13, 16, 18}
	if os.Getenv("HOURGATE_MAJORS") == "all" {
		majors = pgtest.Majors()
	}
	onMajors(t, majors, test)
}

func onMajors(t *testing.T, majors []int, test func(t *testing.T, db *pgtest.Database)) {
	t.Helper()
	for _, major := range majors {
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) {
			t.Parallel()
			test(t, pgtest.Start(t, major).Database(t))
		})
	}
}

// Sessions that come together share one role for each person and grant, nobody sees an error, and afterwards the
// catalogs are as before.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	someMajors(t, func(t *testing.T, db *pgtest.Database) {
		f := newFixture(t, db)
		warm := f.acquire(t, f.grant(policy.Admin, time.Hour)) // the profile stays
		warm.Release()
		f.waitGone(t, warm.Login().User)
		before := f.snapshot(t)

		const people, sessions = 8, 4
		var wg sync.WaitGroup
		for p := range people {
			g := f.grant(policy.Admin, time.Hour)
			names := make(chan string, sessions)
			var person, held sync.WaitGroup
			held.Add(sessions)
			for range sessions {
				person.Go(func() {
					lease, err := f.Acquire(t.Context(), fmt.Sprintf("p%d@example.com", p), g, db.Name)
					held.Done()
					if err != nil {
						t.Error(err)
						return
					}
					held.Wait() // nobody leaves before all have come
					names <- lease.Login().User
					lease.Release()
				})
			}
			wg.Go(func() {
				person.Wait()
				close(names)
				seen := make(map[string]bool)
				for name := range names {
					seen[name] = true
				}
				if len(seen) != 1 {
					t.Errorf("person %d got roles %v, want one", p, seen)
				}
			})
		}
		wg.Wait()
		waitFor(t, "all roles are settled", func() bool { return len(f.trail.of(audit.RoleSettled)) == people+1 })
		if diff := cmp.Diff(before, f.snapshot(t)); diff != "" {
			t.Errorf("the catalogs changed (-before +after):\n%s", diff)
		}
	})
}

// Prepared transactions survive sessions, and a role's can only be ended while it exists.
func TestPreparedTransactions(t *testing.T) {
	t.Parallel()
	for _, major := range []int{13, 15, 18} {
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) {
			t.Parallel()
			server := pgtest.New(t, major, pgtest.Options{Settings: map[string]string{"max_prepared_transactions": "5"}})
			f := newFixture(t, server.Database(t))
			lease := f.acquire(t, f.grant(policy.Admin, time.Hour))
			conn := f.login(t, lease.Login())
			for _, s := range []string{"BEGIN", "CREATE TABLE held (i int)", "PREPARE TRANSACTION 'it''s held'"} {
				if _, err := conn.Exec(t.Context(), s); err != nil {
					t.Fatal(err)
				}
			}
			lease.Release()
			f.waitGone(t, lease.Login().User)
			var left int
			if err := f.super.QueryRow(t.Context(), "SELECT count(*) FROM pg_prepared_xacts").Scan(&left); err != nil || left != 0 {
				t.Errorf("prepared transactions left: %d, %v", left, err)
			}
		})
	}
}

// A role that others hold on to becomes a tombstone, which can't log in, is reported, and goes when they let go.
func TestTombstone(t *testing.T) {
	t.Parallel()
	someMajors(t, func(t *testing.T, db *pgtest.Database) {
		f := newFixture(t, db)
		lease := f.acquire(t, f.grant(policy.ReadOnly, time.Hour))
		role := pgx.Identifier{lease.Login().User}.Sanitize()
		f.exec(t, "CREATE TABLE superusers (i int); GRANT SELECT ON superusers TO "+role)
		lease.Release()
		waitFor(t, "the tombstone is recorded", func() bool { return len(f.trail.of(audit.RoleTombstoned)) > 0 })
		held := f.trail.of(audit.RoleTombstoned)[0].HeldBy
		if diff := cmp.Diff([]string{"table superusers"}, held); diff != "" && !strings.Contains(fmt.Sprint(held), "superusers") {
			t.Errorf("held by (-want +got):\n%s", diff)
		}
		if _, err := pgx.Connect(t.Context(), f.db.Server.URL(lease.Login().User, lease.Login().Password, db.Name).String()); err == nil {
			t.Error("a tombstone logs in")
		}
		f.exec(t, "REVOKE SELECT ON superusers FROM "+role)
		if err := f.Sweep(t.Context()); err != nil {
			t.Errorf("sweep: %v", err)
		}
		f.waitGone(t, lease.Login().User)
	})
}

// Access is closed although the trail can't be written; the role itself goes only with its record.
func TestTrailCannotBeWritten(t *testing.T) {
	t.Parallel()
	f := newFixture(t, pgtest.Start(t, 17).Database(t))
	lease := f.acquire(t, f.grant(policy.ReadOnly, time.Hour))
	conn := f.login(t, lease.Login())
	f.trail.fail(errors.New("no space left on device"))

	lease.Release()
	waitFor(t, "the role can't log in", func() bool {
		var can bool
		_ = f.super.QueryRow(t.Context(), "SELECT rolcanlogin FROM pg_roles WHERE rolname = $1", lease.Login().User).Scan(&can)
		return !can
	})
	waitFor(t, "the session is terminated", func() bool { return conn.Ping(t.Context()) != nil })
	if _, err := f.Acquire(t.Context(), "bob", f.grant(policy.ReadOnly, time.Hour), f.db.Name); err == nil {
		t.Error("a role was made without a record")
	}
	if !f.exists(t, lease.Login().User) {
		t.Error("the role was dropped without a record")
	}
	f.trail.fail(nil)
	if err := f.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	f.waitGone(t, lease.Login().User)
}

// Settling needs neither a free slot nor the secret.
func TestSettleWithoutSlotOrSecret(t *testing.T) {
	t.Parallel()
	server := pgtest.New(t, 18, pgtest.Options{Settings: map[string]string{"max_connections": "8", "superuser_reserved_connections": "3"}})
	f := newFixture(t, server.Database(t))
	lease := f.acquire(t, f.grant(policy.ReadWrite, time.Hour))
	conn := f.login(t, lease.Login())
	f.secret.takeAway()
	for { // the owner takes all slots that are left
		c, err := pgx.Connect(t.Context(), server.URL(f.db.Owner, f.db.OwnerPassword, f.db.Name).String())
		if err != nil {
			var pgErr *pgconn.PgError
			if !errors.As(err, &pgErr) || pgErr.Code != pgerrcode.TooManyConnections {
				t.Fatal(err)
			}
			break
		}
		defer func() { _ = c.Close(context.Background()) }()
	}
	lease.Release()
	f.waitGone(t, lease.Login().User)
	if conn.Ping(t.Context()) == nil {
		t.Error("the session lives")
	}
}

// An end that no connection can be had for is tried again each second, whatever the reason: a name that can't be resolved, a secret
// that can't be read. It needs no sweep.
func TestEndIsTriedEachSecond(t *testing.T) {
	t.Parallel()
	f := newFixture(t, pgtest.Start(t, 16).Database(t))
	lease := f.acquire(t, f.grant(policy.ReadOnly, time.Hour))
	conn := f.login(t, lease.Login())
	f.secret.takeAway()
	f.exec(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", f.db.Admin)
	f.Withdraw(lease.Login().User)
	waitFor(t, "a try fails", func() bool { return len(f.trail.of(audit.RoleSettleFailed)) > 0 })
	f.secret.giveBack()
	waitFor(t, "the role is gone", func() bool { return !f.exists(t, lease.Login().User) })
	if conn.Ping(t.Context()) == nil {
		t.Error("the session lives")
	}
}

// The sweep settles what no proxy answers for, and nothing else.
func TestSweep(t *testing.T) {
	t.Parallel()
	someMajors(t, func(t *testing.T, db *pgtest.Database) {
		f := newFixture(t, db)
		other := newFixture(t, db) // another proxy of the same deployment, alive
		mine := f.acquire(t, f.grant(policy.ReadOnly, time.Hour))
		theirs := other.acquire(t, other.grant(policy.ReadOnly, time.Hour))

		suffix := strings.ReplaceAll(db.Name, "-", "_")
		comment := func(deployment string) string {
			return fmt.Sprintf(`{"hourgate":1,"deployment":%q,"proxy":"gone","integration":"orders","user":"carol","grant":"g","until":"2099-01-01T00:00:00Z"}`, deployment)
		}
		made := map[string]string{
			"hg_orphan_" + suffix:  comment(f.deployment()), // of a proxy that died
			"hg_foreign_" + suffix: comment("another"),
			"hg_similar_" + suffix: "a role of somebody else",
			"hg_newer_" + suffix:   strings.Replace(comment(f.deployment()), `"hourgate":1`, `"hourgate":2`, 1),
		}
		admin := pgx.Identifier{db.Admin}.Sanitize()
		for name, text := range made {
			f.exec(t, fmt.Sprintf("SET ROLE %s; CREATE ROLE %s LOGIN; RESET ROLE; COMMENT ON ROLE %s IS '%s'", admin, name, name, text))
		}
		t.Cleanup(func() {
			for name := range made {
				_, _ = f.super.Exec(context.Background(), "DROP ROLE IF EXISTS "+name)
			}
		})
		if err := f.Sweep(t.Context()); err != nil {
			t.Error(err)
		}
		for name, want := range map[string]bool{
			mine.Login().User: true, theirs.Login().User: true,
			"hg_orphan_" + suffix: false, "hg_foreign_" + suffix: true, "hg_similar_" + suffix: true, "hg_newer_" + suffix: true,
		} {
			if got := f.exists(t, name); got != want {
				t.Errorf("after the sweep role %s exists: %t, want %t", name, got, want)
			}
		}
	})
}

// A grant's end settles the role under its sessions, whatever they do.
func TestLeaseEndsWithTheGrant(t *testing.T) {
	t.Parallel()
	f := newFixture(t, pgtest.Start(t, 14).Database(t), func(c *roles.Config) { c.Linger = time.Hour })
	lease := f.acquire(t, f.grant(policy.ReadOnly, 1500*time.Millisecond))
	conn := f.login(t, lease.Login())
	if _, err := conn.Exec(t.Context(), "SELECT pg_sleep(30)"); err == nil {
		t.Error("the statement outlived the grant")
	}
	f.waitGone(t, lease.Login().User)
	lease.Release()
}

// Roles are decided again when the policy changes.
func TestPolicyChanges(t *testing.T) {
	t.Parallel()
	db := pgtest.Start(t, 16).Database(t)
	set := func(grants string) *policy.Set {
		t.Helper()
		s, err := policy.Parse([]policy.Source{{File: "p.yaml", Data: []byte("users: [{name: alice@example.com}]\ngrants:\n" + grants)}},
			map[string]string{"orders": db.Name})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	grant := func(s *policy.Set) *policy.Grant {
		t.Helper()
		g, ok := s.Covers("alice@example.com", "inc-4211", db.Name, time.Now())
		if !ok {
			t.Fatal("the policy does not cover alice")
		}
		return g
	}
	until := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	line := "  - {name: inc-4211, users: [alice@example.com], integration: orders, access: %s, until: " + until + "}\n"
	same := set(fmt.Sprintf(line, "READ_ONLY"))
	live := policy.NewLive(same)
	f := newFixture(t, db, func(c *roles.Config) { c.Linger, c.Policy = time.Hour, live })

	first := f.acquire(t, grant(same))
	live.Put(set(fmt.Sprintf(line, "READ_ONLY")))
	if second := f.acquire(t, grant(same)); second.Login().User != first.Login().User {
		t.Error("a reload without a change made a new role")
	}
	live.Put(set(fmt.Sprintf(line, "READ_WRITE")))
	f.waitGone(t, first.Login().User)
	third := f.acquire(t, grant(set(fmt.Sprintf(line, "READ_WRITE"))))
	live.Put(set("  []\n"))
	f.waitGone(t, third.Login().User)

	// A session that was decided upon before the reload comes too late.
	if _, err := f.Acquire(t.Context(), "alice@example.com", grant(same), f.db.Name); !errors.Is(err, roles.ErrGrantGone) {
		t.Errorf("a grant that is gone: got %v", err)
	}
}
