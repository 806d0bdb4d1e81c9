package roles_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/roles"
	"github.com/hourgate/hourgate/roles/preflight"
)

// named is a grant of named things.
func (f *fixture) named(access policy.Access) *policy.Grant {
	g := f.grant("", time.Hour)
	g.Access = access
	return g
}

// refused reports whether the server refuses a statement for want of a privilege.
func refused(t *testing.T, conn *pgx.Conn, sql string) bool {
	t.Helper()
	_, err := conn.Exec(t.Context(), sql)
	var pgErr *pgconn.PgError
	if err != nil && !errors.As(err, &pgErr) {
		t.Fatal(err)
	}
	return pgErr != nil && pgErr.Code == pgerrcode.InsufficientPrivilege
}

// A grant of objects gives exactly these privileges, also on what is made later where a star says so, and leaves nothing,
// not even the role that carried them.
func TestNamedObjects(t *testing.T) {
	t.Parallel()
	someMajors(t, func(t *testing.T, db *pgtest.Database) {
		f := newFixture(t, db)
		f.exec(t, "SET ROLE "+db.Owner+"; CREATE SCHEMA sales; CREATE TABLE sales.a (i int); CREATE TABLE other (i int);"+
			"CREATE FUNCTION refund(int) RETURNS int LANGUAGE sql AS 'SELECT 1'; REVOKE EXECUTE ON FUNCTION refund(int) FROM PUBLIC; RESET ROLE")
		g := f.named(policy.Access{
			Tables:    map[string][]policy.Privilege{"public.orders": {"SELECT", "UPDATE"}, "sales.*": {"SELECT"}},
			Sequences: map[string][]policy.Privilege{"public.orders_id_seq": {"USAGE"}},
			Functions: map[string][]policy.Privilege{"public.refund(integer)": {"EXECUTE"}},
		})
		f.acquireAndLeave(t, g.Access) // an ACL that was NULL, for the owner's own rights, is written out from the first GRANT on
		before := f.snapshot(t)
		lease := f.acquire(t, g)
		conn := f.login(t, lease.Login())
		f.exec(t, "SET ROLE "+db.Owner+"; CREATE TABLE sales.later (i int); RESET ROLE")
		for statement, want := range map[string]bool{
			"SELECT * FROM orders": false, "UPDATE orders SET note = 'x' WHERE id = 1": false, "SELECT * FROM sales.a": false,
			"SELECT nextval('orders_id_seq')": false, "SELECT refund(1)": false, "SELECT * FROM sales.later": false,
			"INSERT INTO orders VALUES (1000)": true, "DELETE FROM orders": true, "TRUNCATE orders": true, "SELECT * FROM customers": true,
			"SELECT * FROM other": true, "INSERT INTO sales.a VALUES (1)": true, "SELECT setval('orders_id_seq', 1)": true,
		} {
			if got := refused(t, conn, statement); got != want {
				t.Errorf("%s: refused %t, want %t", statement, got, want)
			}
		}
		f.exec(t, "DROP TABLE sales.later")
		lease.Release()
		f.waitGone(t, lease.Login().User)
		f.waitSettled(t, lease.Login().User)
		f.exec(t, "UPDATE orders SET note = 'Order 1' WHERE id = 1")
		if diff := cmp.Diff(before, f.snapshot(t)); diff != "" {
			t.Errorf("the catalogs changed (-before +after):\n%s", diff)
		}

		_, err := f.Acquire(t.Context(), "alice@example.com", f.named(policy.Access{Tables: map[string][]policy.Privilege{"public.nowhere": {"SELECT"}}}), db.Name)
		if !errors.Is(err, roles.ErrNoObject) || !strings.Contains(err.Error(), "public.nowhere") {
			t.Errorf("a table that is not there: got %v", err)
		}
	})
}

// A grant of roles makes the person a member, and refuses roles that reach further.
func TestNamedRoles(t *testing.T) {
	t.Parallel()
	eachMajor(t, func(t *testing.T, db *pgtest.Database) {
		f := newFixture(t, db)
		id := strings.TrimPrefix(db.Name, "db_")
		reader, owning, member, login := "reader_"+id, "reader_owns_"+id, "reader_member_"+id, "reader_login_"+id
		f.exec(t, "CREATE ROLE "+reader+"; GRANT SELECT ON orders TO "+reader+"; CREATE ROLE "+owning+"; CREATE TABLE owned (i int); ALTER TABLE owned OWNER TO "+owning+
			"; CREATE ROLE "+member+"; GRANT "+owning+" TO "+member+"; CREATE ROLE "+login+" LOGIN")
		t.Cleanup(func() {
			for _, r := range []string{member, owning, reader, login} {
				_, _ = f.super.Exec(context.Background(), "DROP OWNED BY "+r+"; DROP ROLE "+r)
			}
		})
		if db.Server.Major >= 16 {
			_, err := f.Acquire(t.Context(), "alice@example.com", f.named(policy.Access{Roles: []string{reader}}), db.Name)
			var privilege *admin.PrivilegeError
			if !errors.As(err, &privilege) {
				t.Fatalf("a role that the admin may not grant: got %v", err)
			}
			for _, s := range privilege.Statements {
				f.exec(t, s)
			}
			f.exec(t, "GRANT "+owning+" TO "+db.Admin+" WITH ADMIN OPTION")
		}
		f.acquireAndLeave(t, policy.Access{Roles: []string{reader}})
		before := f.snapshot(t)
		lease := f.acquire(t, f.named(policy.Access{Roles: []string{reader}}))
		conn := f.login(t, lease.Login())
		if refused(t, conn, "SELECT * FROM orders") || !refused(t, conn, "SELECT * FROM customers") {
			t.Error("the role's privileges are not the person's")
		}
		// What members could leave with the role, before 16 by SET ROLE.
		for _, s := range []string{"SET ROLE " + reader, "SELECT lo_create(99)", "CREATE FUNCTION back() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'", "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC"} {
			_, _ = conn.Exec(t.Context(), s)
		}
		lease.Release()
		f.waitGone(t, lease.Login().User)
		f.waitSettled(t, lease.Login().User)
		if diff := cmp.Diff(before, f.snapshot(t)); diff != "" {
			t.Errorf("the catalogs changed (-before +after):\n%s", diff)
		}
		for _, role := range []string{owning, member, login, db.Admin} {
			if _, err := f.Acquire(t.Context(), "alice@example.com", f.named(policy.Access{Roles: []string{role}}), db.Name); !errors.Is(err, roles.ErrRoleRefused) {
				t.Errorf("%s: got %v, want a refusal", role, err)
			}
		}
		f.acquireAndLeave(t, policy.Access{Roles: []string{owning}, Dangerous: true})
		if _, err := f.Acquire(t.Context(), "alice@example.com", f.named(policy.Access{Roles: []string{"nobody_" + id}}), db.Name); !errors.Is(err, roles.ErrNoObject) {
			t.Errorf("a role that is not there: got %v", err)
		}
	})
}

func (f *fixture) acquireAndLeave(t *testing.T, access policy.Access) {
	t.Helper()
	lease := f.acquire(t, f.named(access))
	lease.Release()
	f.waitGone(t, lease.Login().User)
	f.waitSettled(t, lease.Login().User)
}

// A grant's limits are the role's.
func TestLimits(t *testing.T) {
	t.Parallel()
	f := newFixture(t, pgtest.Start(t, 18).Database(t))
	g := f.grant(policy.ReadOnly, time.Hour)
	g.MaxSessions, g.StatementTimeout, g.LockTimeout, g.IdleInTransaction = 2, 1500*time.Millisecond, 2*time.Second, time.Minute
	first, second := f.acquire(t, g), f.acquire(t, g)
	if _, err := f.Acquire(t.Context(), "alice@example.com", g, f.db.Name); !errors.Is(err, roles.ErrSessionLimit) {
		t.Errorf("the third session: got %v, want ErrSessionLimit", err)
	}
	var got string
	if err := f.login(t, first.Login()).QueryRow(t.Context(), "SELECT concat_ws(' ', current_setting('statement_timeout'), current_setting('lock_timeout'), current_setting('idle_in_transaction_session_timeout'))").Scan(&got); err != nil || got != "1500ms 2s 1min" {
		t.Errorf("settings: got %q, %v", got, err)
	}
	first.Release()
	second.Release()
}

// With the creator role set up, roles survive a change of the admin's user, and what the old user made is still settled.
func TestCreatorRole(t *testing.T) {
	t.Parallel()
	for _, major := range []int{13, 15, 16, 18} {
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) {
			t.Parallel()
			server := pgtest.New(t, major, pgtest.Options{})
			f := newFixture(t, server.Database(t))
			old := f.acquire(t, f.grant(policy.Admin, time.Hour)) // made by the admin itself
			sql, err := f.Preflight().SetupSQL(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			f.exec(t, sql)
			f.exec(t, sql) // may be run again

			g := newFixture(t, f.db)
			lease, err := g.Acquire(t.Context(), "bob@example.com", g.grant(policy.Admin, time.Hour), f.db.Name)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := g.login(t, lease.Login()).Exec(t.Context(), "CREATE TABLE mine (i int)"); err != nil {
				t.Error(err)
			}
			// Alternating users: the next secret names another user.
			f.exec(t, "CREATE ROLE admin_two LOGIN PASSWORD 'two'")
			options := ""
			if major >= 16 {
				options = " WITH INHERIT TRUE, SET TRUE"
			}
			f.exec(t, "GRANT hourgate_owner TO admin_two"+options)
			rotated := newFixture(t, f.db, withAdmin("admin_two", "two"))
			if err := rotated.Settle(t.Context(), lease.Login().User); err != nil {
				t.Errorf("settling what the other admin user made: %v", err)
			}
			g.waitGone(t, lease.Login().User)
			lease.Release()
			old.Release()
			f.waitGone(t, old.Login().User)
		})
	}
}

// Two processes that settle one role don't get into each other's way.
func TestTwoSettleOne(t *testing.T) {
	t.Parallel()
	someMajors(t, func(t *testing.T, db *pgtest.Database) {
		f, g := newFixture(t, db), newFixture(t, db)
		f.warm(t, policy.Admin)
		for range 5 {
			lease := f.acquire(t, f.grant(policy.Admin, time.Hour))
			if _, err := f.login(t, lease.Login()).Exec(t.Context(), "CREATE TABLE mine (i int)"); err != nil {
				t.Fatal(err)
			}
			var both sync.WaitGroup
			both.Go(func() {
				if err := g.Settle(t.Context(), lease.Login().User); err != nil && !errors.Is(err, roles.ErrNoRole) {
					t.Errorf("the other process: %v", err)
				}
			})
			lease.Release()
			both.Wait()
			f.waitGone(t, lease.Login().User)
			f.waitSettled(t, lease.Login().User)
		}
		if err := f.Sweep(t.Context()); err != nil {
			t.Errorf("sweep: %v", err)
		}
	})
}

// The preflight finds what a stock database lets tenants do, and its SQL mends it.
func TestPreflight(t *testing.T) {
	t.Parallel()
	eachMajor(t, func(t *testing.T, db *pgtest.Database) {
		f := newFixture(t, db)
		f.exec(t, "CREATE TABLE superusers (i int); CREATE FUNCTION gift() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'")
		status := func() map[string]preflight.Status {
			found := make(map[string]preflight.Status)
			for _, c := range f.Preflight().Checks(t.Context(), []string{db.Name}) {
				found[c.Name] = c.Status
			}
			return found
		}
		before := status()
		for name, want := range map[string]preflight.Status{
			"connection": preflight.OK, "createrole": preflight.OK, "writer": preflight.OK, "owners": preflight.Warn, "public connect": preflight.Warn,
			"public temporary": preflight.Warn, "security definer": preflight.Warn, "terminate": preflight.Warn, "max_prepared_transactions": preflight.OK,
		} {
			if before[name] != want {
				t.Errorf("%s: got %q, want %q", name, before[name], want)
			}
		}
		if create, stock := before["public create"] == preflight.Warn, db.Server.Major < 15; create != stock {
			t.Errorf("CREATE on public for everybody: found %t, want %t", create, stock)
		}
		f.exec(t, "ALTER TABLE superusers OWNER TO "+db.Owner)
		for _, c := range f.Preflight().Checks(t.Context(), nil) {
			for _, s := range c.SQL {
				if c.Database != "" {
					f.exec(t, s)
				}
			}
		}
		after := status()
		for _, name := range []string{"public connect", "public temporary", "public create", "security definer"} {
			if s, there := after[name]; there {
				t.Errorf("%s: still %s after its SQL was run", name, s)
			}
		}
		if after["owners"] != preflight.OK {
			t.Errorf("owners: got %q after its SQL was run", after["owners"])
		}
	})
}

func TestList(t *testing.T) {
	t.Parallel()
	f := newFixture(t, pgtest.Start(t, 17).Database(t))
	lease := f.acquire(t, f.grant(policy.ReadOnly, time.Hour))
	f.login(t, lease.Login())
	listed, err := f.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range listed {
		if l.Name == lease.Login().User {
			if l.State != "live" || l.User != "alice@example.com" || l.Grant != "inc-4211" || l.Sessions != 1 || l.Until.Before(time.Now()) {
				t.Errorf("got %+v", l)
			}
			lease.Release()
			return
		}
	}
	t.Errorf("%s is not in the list: %+v", lease.Login().User, listed)
}

// Where somebody besides the owner may grant CREATE on a schema, GRANT and DROP OWNED may choose different grantors.
func TestGrantorIsNotTheOwner(t *testing.T) {
	t.Parallel()
	someMajors(t, func(t *testing.T, db *pgtest.Database) {
		f := newFixture(t, db)
		f.exec(t, "GRANT CREATE ON SCHEMA public TO "+db.Owner+" WITH GRANT OPTION")
		f.acquireAndLeave(t, policy.Access{Level: policy.Admin})
		before := f.snapshot(t)
		f.acquireAndLeave(t, policy.Access{Level: policy.Admin})
		if diff := cmp.Diff(before, f.snapshot(t)); diff != "" {
			t.Errorf("the catalogs changed (-before +after):\n%s", diff)
		}
	})
}
