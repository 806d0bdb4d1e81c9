package roles_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/roles"
)

// TestNeighbours is the ledger of what went wrong with roles that others made for a time, and the proof that it does not
// here. The wire's is in packages proxy and internal/upstream. Each runs on the oldest PostgreSQL and the newest; see the
// tricks for what tenants try on all of them.
func TestNeighbours(t *testing.T) {
	t.Parallel()
	for _, neighbour := range []struct {
		id, wrong string
		test      func(t *testing.T, f *fixture)
	}{
		{"PgBouncer CVE-2025-2291", "a password that had expired was good", validUntil},
		{"PostgreSQL CVE-2026-120146", "REASSIGN OWNED went to any role whose privileges one had", reassignToARole},
		{"pgx GHSA-j38q-h3ph-jjpq", "values in batches of the simple protocol became SQL", namesAreData},
		{"Teleport #68375", "names of objects became SQL when a user was removed, and what held them had power", objectsAreData},
		{"Vault #699", "sessions went on after the role was dropped", sessionsEnd},
		{"Vault #1535", "privileges on sequences kept the role from being dropped", revoked},
		{"Vault #1857", "so did objects and privileges in other schemas", revoked},
		{"Vault #9420", "and in other databases", otherDatabases},
	} {
		for _, major := range []int{13, 18} {
			t.Run(fmt.Sprintf("%s/PostgreSQL %d", neighbour.id, major), func(t *testing.T) {
				t.Parallel()
				neighbour.test(t, newFixture(t, pgtest.Start(t, major).Database(t)))
				if t.Failed() {
					t.Logf("at the neighbour's, %s", neighbour.wrong)
				}
			})
		}
	}
}

// validUntil: the server itself refuses the role's password from the grant's end on.
func validUntil(t *testing.T, f *fixture) {
	g := f.grant(policy.ReadOnly, time.Hour)
	lease := f.acquire(t, g)
	var until time.Time
	if err := f.super.QueryRow(t.Context(), "SELECT rolvaliduntil FROM pg_roles WHERE rolname = $1", lease.Login().User).Scan(&until); err != nil {
		t.Fatal(err)
	}
	if until.After(g.Until) || g.Until.Sub(until) > time.Second {
		t.Errorf("VALID UNTIL is %v, want the grant's end, %v", until, g.Until)
	}
	lease.Release()
}

// reassignToARole: what a tenant gives to a role that the grant names does not stay.
func reassignToARole(t *testing.T, f *fixture) {
	f.warm(t, policy.Admin)
	before := f.snapshot(t)
	lease := f.acquire(t, f.grant(policy.Admin, time.Hour))
	conn := f.login(t, lease.Login())
	var profile string
	err := f.super.QueryRow(t.Context(), `SELECT quote_ident(r.rolname) FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid
		WHERE m.member = (SELECT oid FROM pg_roles WHERE rolname = $1) AND r.rolname LIKE 'hourgate%'`, lease.Login().User).Scan(&profile)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"CREATE VIEW handed AS SELECT * FROM customers", "CREATE TABLE handed2 (i int)", "REASSIGN OWNED BY CURRENT_USER TO " + profile} {
		_, _ = conn.Exec(t.Context(), s) // the last is refused where PostgreSQL is mended
	}
	lease.Release()
	f.waitGone(t, lease.Login().User)
	f.waitSettled(t, lease.Login().User)
	if diff := cmp.Diff(before, f.snapshot(t)); diff != "" {
		t.Errorf("the catalogs changed (-before +after):\n%s", diff)
	}
}

// hostileNames are what somebody would name a person, a grant or a table to be executed.
var hostileNames = []string{
	`x'; DROP TABLE customers; --`, `x"; DROP TABLE customers; --`, `x\'; DROP TABLE customers; --`, `$$; DROP TABLE customers; $$`,
	`x''"" DROP /* `, "x'\n; DROP TABLE customers; --", `%s %I %L $1`, `{"x": "y"}`,
}

// namesAreData: a person's and a grant's name are in the COMMENT as they are, and nowhere else. No batch of the simple
// protocol is used at all.
func namesAreData(t *testing.T, f *fixture) {
	for _, name := range hostileNames {
		g := f.grant(policy.ReadOnly, time.Hour)
		g.Name = name
		lease, err := f.Acquire(t.Context(), name, g, f.db.Name)
		if err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		var user, grant string
		err = f.super.QueryRow(t.Context(), `SELECT c->>'user', c->>'grant' FROM pg_roles, LATERAL (SELECT shobj_description(oid, 'pg_authid')::json) s(c) WHERE rolname = $1`,
			lease.Login().User).Scan(&user, &grant)
		if err != nil || user != name || grant != name {
			t.Errorf("%q: the comment has user %q and grant %q, %v", name, user, grant, err)
		}
		lease.Release()
		f.waitGone(t, lease.Login().User)
	}
	f.hasCustomers(t)
	files, _ := filepath.Glob("*.go")
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range []string{"SendBatch", "pgx.Batch", "QueryExecModeSimpleProtocol"} {
			if !strings.HasSuffix(file, "_test.go") && strings.Contains(string(content), word) {
				t.Errorf("%s uses %s", file, word)
			}
		}
	}
}

func (f *fixture) hasCustomers(t *testing.T) {
	t.Helper()
	var n int
	if err := f.super.QueryRow(t.Context(), "SELECT count(*) FROM customers").Scan(&n); err != nil || n != 100 {
		t.Errorf("%d customers, %v; want 100", n, err)
	}
}

// objectsAreData: a tenant's objects of any name are dropped or, where others depend on them, handed to a role that can do
// nothing.
func objectsAreData(t *testing.T, f *fixture) {
	lease := f.acquire(t, f.grant(policy.Admin, time.Hour))
	conn := f.login(t, lease.Login())
	for i, name := range hostileNames {
		quoted := pgx.Identifier{name}.Sanitize()
		for _, s := range []string{
			"CREATE TABLE " + quoted + " (i int)", "CREATE FUNCTION " + quoted + "() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'",
			"CREATE TYPE " + pgx.Identifier{name + "t"}.Sanitize() + " AS ENUM ('a')", "GRANT ALL ON " + quoted + " TO " + f.db.Owner,
		} {
			if _, err := conn.Exec(t.Context(), s); err != nil {
				t.Fatalf("%s: %v", s, err)
			}
		}
		f.exec(t, fmt.Sprintf("SET ROLE %s; CREATE VIEW theirs%d AS SELECT * FROM %s; RESET ROLE", f.db.Owner, i, quoted))
	}
	lease.Release()
	f.waitGone(t, lease.Login().User)
	f.waitSettled(t, lease.Login().User)
	f.hasCustomers(t)
	var powerful int
	err := f.super.QueryRow(t.Context(), `
		SELECT count(*) FROM pg_roles r WHERE rolname LIKE 'hourgate\_quarantine%' AND (rolcanlogin OR rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls
		       OR EXISTS (SELECT FROM pg_auth_members WHERE member = r.oid))`).Scan(&powerful)
	if err != nil || powerful != 0 {
		t.Errorf("%d roles in quarantine have power, %v", powerful, err)
	}
	for i := range hostileNames {
		f.exec(t, fmt.Sprintf("DROP VIEW theirs%d", i))
	}
}

// sessionsEnd: an idle session, one in a transaction and one that runs a statement.
func sessionsEnd(t *testing.T, f *fixture) {
	lease := f.acquire(t, f.grant(policy.ReadOnly, time.Hour))
	idle, inTransaction, running := f.login(t, lease.Login()), f.login(t, lease.Login()), f.login(t, lease.Login())
	if _, err := inTransaction.Exec(t.Context(), "BEGIN; SELECT * FROM orders"); err != nil {
		t.Fatal(err)
	}
	ended := f.sleep(t, running)
	lease.Release()
	f.waitGone(t, lease.Login().User)
	if err := <-ended; err == nil {
		t.Error("a statement ran to its end")
	}
	for name, conn := range map[string]*pgx.Conn{"idle": idle, "in a transaction": inTransaction} {
		if _, err := conn.Exec(t.Context(), "SELECT * FROM orders"); err == nil {
			t.Errorf("a session that was %s reads on", name)
		}
	}
}

// revoked: privileges of every kind, in several schemas, some of them granted by others.
func revoked(t *testing.T, f *fixture) {
	f.exec(t, "CREATE SCHEMA sales AUTHORIZATION "+f.db.Owner+"; SET ROLE "+f.db.Owner+"; CREATE SCHEMA theirs; CREATE SEQUENCE theirs.s; CREATE TABLE theirs.t (i serial); RESET ROLE")
	f.warm(t, policy.Admin)
	grant := f.grant(policy.Admin, time.Hour)
	grant.Access.CreateIn = []string{"public", "sales"}
	f.acquireAndLeave(t, grant.Access)
	before := f.snapshot(t)
	lease := f.acquire(t, grant)
	role := pgx.Identifier{lease.Login().User}.Sanitize()
	conn := f.login(t, lease.Login())
	for _, s := range []string{
		"CREATE TABLE sales.t (i serial)", "CREATE FUNCTION sales.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
		"ALTER DEFAULT PRIVILEGES IN SCHEMA sales GRANT ALL ON TABLES TO PUBLIC", "ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO PUBLIC",
		"SELECT nextval('orders_id_seq')", "SELECT lo_create(4711)",
	} {
		if _, err := conn.Exec(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	f.exec(t, "SET ROLE "+f.db.Owner+"; GRANT ALL ON SEQUENCE orders_id_seq TO "+role+"; GRANT ALL ON SCHEMA sales TO "+role+
		"; GRANT ALL ON ALL TABLES IN SCHEMA public TO "+role+"; ALTER DEFAULT PRIVILEGES IN SCHEMA sales GRANT ALL ON TABLES TO "+role+"; RESET ROLE")
	lease.Release()
	f.waitGone(t, lease.Login().User)
	f.waitSettled(t, lease.Login().User)
	if diff := cmp.Diff(before, f.snapshot(t)); diff != "" {
		t.Errorf("the catalogs changed (-before +after):\n%s", diff)
	}
}

// otherDatabases: what is left in a database that the role was never admitted to.
func otherDatabases(t *testing.T, f *fixture) {
	other := f.db.Server.Database(t)
	super := other.Superuser(t)
	lease := f.acquire(t, f.grant(policy.ReadOnly, time.Hour))
	elsewhere := lease.Login()
	elsewhere.Database = other.Name
	conn := f.login(t, elsewhere)
	if _, err := conn.Exec(t.Context(), "SELECT lo_create(4711)"); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC"); err != nil {
		t.Fatal(err)
	}
	lease.Release()
	f.waitGone(t, lease.Login().User)
	var left int
	if err := super.QueryRow(t.Context(), "SELECT (SELECT count(*) FROM pg_largeobject_metadata) + (SELECT count(*) FROM pg_default_acl)").Scan(&left); err != nil || left != 0 {
		t.Errorf("%d things are left in the other database, %v", left, err)
	}
}

// Whatever the text of a statement hides, the role's privileges are what counts.
func TestRule09PrivilegesAreTheBoundary(t *testing.T) {
	t.Parallel()
	someMajors(t, func(t *testing.T, db *pgtest.Database) {
		f := newFixture(t, db)
		lease := f.acquire(t, f.grant(policy.ReadOnly, time.Hour))
		conn := f.login(t, lease.Login())
		for _, s := range []string{
			"SET default_transaction_read_only = off; DELETE FROM orders",
			"DO $$ BEGIN EXECUTE 'DEL' || 'ETE FROM orders'; END $$",
			"/* SELECT */ dElEtE FROM orders", "WITH d AS (DELETE FROM orders RETURNING 1) SELECT * FROM d",
			"PREPARE p AS DELETE FROM orders; EXECUTE p", "COPY orders FROM '/dev/null'", "SELECT U&'\\0064' ; TRUNCATE orders",
		} {
			if !refused(t, conn, s) {
				t.Errorf("not refused: %s", s)
			}
		}
	})
}

// What no session may do, and no grant of roles may give without saying so; and what nobody can be kept from.
func TestRule11WhatNoSessionMayDo(t *testing.T) {
	t.Parallel()
	someMajors(t, func(t *testing.T, db *pgtest.Database) {
		f := newFixture(t, db)
		lease := f.acquire(t, f.grant(policy.Admin, time.Hour))
		conn := f.login(t, lease.Login())
		for _, s := range []string{
			"SET SESSION AUTHORIZATION " + db.Owner, "SET ROLE " + db.Owner, "SET ROLE " + db.Admin, "COPY orders TO PROGRAM 'cat'", "COPY orders TO '/tmp/x'",
			"SELECT pg_read_file('/etc/passwd')", "SELECT pg_ls_dir('.')", "ALTER ROLE " + db.Owner + " PASSWORD 'x'", "CREATE ROLE backdoor",
			"ALTER ROLE CURRENT_USER SUPERUSER", "ALTER SYSTEM SET work_mem = '1GB'", "SELECT pg_create_logical_replication_slot('s', 'pgoutput')",
		} {
			if !refused(t, conn, s) {
				t.Errorf("not refused: %s", s)
			}
		}
		if refused(t, conn, "ALTER ROLE CURRENT_USER PASSWORD 'mine'") {
			t.Error("PostgreSQL keeps people from changing their own password now: look at what that makes superfluous")
		}
		for _, role := range []string{"pg_read_server_files", "pg_execute_server_program", "pg_signal_backend", db.Owner, db.Admin, "postgres"} {
			_, err := f.Acquire(t.Context(), "bob@example.com", f.named(policy.Access{Roles: []string{role}}), db.Name)
			if !errors.Is(err, roles.ErrRoleRefused) {
				t.Errorf("a grant of %s: got %v, want ErrRoleRefused", role, err)
			}
		}
		lease.Release()
		f.waitGone(t, lease.Login().User)
	})
}
