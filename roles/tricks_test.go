package roles_test

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/policy"
)

// trick is a way to stay. ME is the ephemeral role, GATE the admin, BOB an accomplice with a login of his own, OWNER the owner of the
// tables, PROFILE what the level's privileges are granted to, DB the database. Statements that the server refuses on some
// majors, or on all, are fine: the tenant tries.
type trick struct {
	name    string
	level   policy.Level // default ADMIN
	tenant  []string     // as the ephemeral role
	dba     []string     // then, as a superuser: what others do with what the tenant made
	again   []string     // then, as the tenant once more
	busy    bool         // the tenant's last statement does not end by itself
	between []string     // after the end, as a superuser: what keeps the quarantine role from being emptied
	restore bool         // the profile's default privileges come back with its next refresh
}

func do(statement string) string { return "DO $$ BEGIN " + statement + "; END $$" }

var tricks = []trick{
	// Its own account.
	{name: "own password", tenant: []string{"ALTER ROLE CURRENT_USER PASSWORD 'mine'"}},
	{name: "own validity and limit", tenant: []string{"ALTER ROLE CURRENT_USER VALID UNTIL 'infinity'", "ALTER ROLE CURRENT_USER CONNECTION LIMIT -1"}},
	{name: "own settings", tenant: []string{"ALTER ROLE CURRENT_USER SET work_mem = '1GB'", "ALTER ROLE CURRENT_USER IN DATABASE DB SET work_mem = '1GB'"}},
	{name: "own name", tenant: []string{"ALTER ROLE ME RENAME TO somebody"}},
	{name: "own comment", tenant: []string{"COMMENT ON ROLE ME IS 'nothing to see here'"}},
	{name: "membership onward", tenant: []string{"GRANT ME TO BOB"}},
	{name: "membership onward with admin option", tenant: []string{"GRANT ME TO BOB WITH ADMIN OPTION", "GRANT PROFILE TO BOB"}},
	{name: "more roles", tenant: []string{"CREATE ROLE backdoor LOGIN PASSWORD 'x'", "CREATE ROLE backdoor2 IN ROLE OWNER"}},
	{name: "more attributes", tenant: []string{"ALTER ROLE ME CREATEROLE", "ALTER ROLE ME REPLICATION", "ALTER ROLE ME SUPERUSER"}},
	{name: "another session user", tenant: []string{"SET SESSION AUTHORIZATION OWNER", "SET ROLE OWNER", "CREATE TABLE as_owner (i int)"}},

	// Code that runs as somebody.
	{name: "security definer function", tenant: []string{"CREATE FUNCTION back() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT current_user::text'"}},
	{name: "security definer function for bob", tenant: []string{"CREATE FUNCTION back() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT current_user::text'", "GRANT EXECUTE ON FUNCTION back() TO BOB WITH GRANT OPTION"}},
	{name: "procedure", tenant: []string{"CREATE PROCEDURE p() LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN COMMIT; END'"}},
	{name: "trigger on another's table", tenant: []string{"CREATE FUNCTION t() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'", "CREATE TRIGGER t BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION t()"}},
	{name: "trigger that calls nobody's function", tenant: []string{"CREATE TRIGGER t BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()", "CREATE CONSTRAINT TRIGGER ct AFTER INSERT ON orders DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()"}},
	{name: "trigger made by the owner", tenant: []string{"CREATE FUNCTION t() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'"}, dba: []string{"SET ROLE OWNER", "CREATE TRIGGER t BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION t()", "RESET ROLE"}},
	{name: "event trigger", tenant: []string{"CREATE FUNCTION et() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'", "CREATE EVENT TRIGGER et ON ddl_command_end EXECUTE FUNCTION et()"}},
	{name: "rule on another's table", tenant: []string{"CREATE RULE r AS ON INSERT TO orders DO ALSO NOTHING"}},
	{name: "rule on an own view", tenant: []string{"CREATE VIEW rv AS SELECT 1 AS i", "CREATE RULE r AS ON INSERT TO rv DO INSTEAD NOTHING"}},
	{name: "operator, cast and aggregate", tenant: []string{"CREATE TYPE ct AS (i int)", "CREATE FUNCTION eq(ct, ct) RETURNS bool LANGUAGE sql AS 'SELECT true'", "CREATE OPERATOR = (LEFTARG = ct, RIGHTARG = ct, FUNCTION = eq)", "CREATE FUNCTION tot(ct) RETURNS text LANGUAGE sql AS 'SELECT 1::text'", "CREATE CAST (ct AS text) WITH FUNCTION tot(ct) AS ASSIGNMENT", "CREATE AGGREGATE agg (int) (SFUNC = int4pl, STYPE = int)"}},
	{name: "language and extension", tenant: []string{"CREATE EXTENSION pgcrypto", "CREATE EXTENSION plperl", "CREATE TRUSTED LANGUAGE mine"}},

	// Objects.
	{name: "view with a grant", tenant: []string{"CREATE VIEW v AS SELECT * FROM customers", "GRANT SELECT ON v TO BOB"}},
	{name: "materialized view", tenant: []string{"CREATE MATERIALIZED VIEW mv AS SELECT * FROM customers", "GRANT SELECT ON mv TO PUBLIC"}},
	{name: "table with everything", tenant: []string{"CREATE TABLE tt (i serial primary key, j int references customers)", "GRANT ALL ON tt TO PUBLIC", "CREATE STATISTICS st ON i, j FROM tt", "COMMENT ON TABLE tt IS 'mine'", "CREATE INDEX ON tt (j)"}},
	{name: "partitions and identity", tenant: []string{"CREATE TABLE pt (i int GENERATED ALWAYS AS IDENTITY, d date) PARTITION BY RANGE (d)", "CREATE TABLE pt1 PARTITION OF pt DEFAULT", "CREATE TABLE child () INHERITS (orders)"}},
	{name: "policy on an own table", tenant: []string{"CREATE TABLE pt (i int)", "ALTER TABLE pt ENABLE ROW LEVEL SECURITY", "CREATE POLICY p ON pt TO BOB USING (true)"}},
	{name: "policy on another's table", tenant: []string{"CREATE POLICY p ON orders USING (false)", "ALTER TABLE orders ENABLE ROW LEVEL SECURITY"}},
	{name: "default privileges", tenant: []string{"ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO BOB", "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON FUNCTIONS TO BOB", "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC"}},
	{name: "large object", level: policy.ReadWrite, tenant: []string{"SELECT lo_create(815)", "GRANT SELECT ON LARGE OBJECT 815 TO BOB", "COMMENT ON LARGE OBJECT 815 IS 'mine'"}},
	{name: "many large objects", level: policy.ReadWrite, tenant: []string{"SELECT count(lo_create(0)) FROM generate_series(1, 500)"}},
	{name: "types, domain, sequence, collation", tenant: []string{"CREATE TYPE mood AS ENUM ('good')", "CREATE DOMAIN d AS int CHECK (VALUE > 0)", "CREATE TYPE rng AS RANGE (SUBTYPE = int)", "CREATE SEQUENCE sq", "CREATE COLLATION coll FROM \"C\"", "CREATE CONVERSION conv FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8"}},
	{name: "text search", tenant: []string{"CREATE TEXT SEARCH DICTIONARY dict (TEMPLATE = simple)", "CREATE TEXT SEARCH CONFIGURATION cfg (COPY = simple)"}},
	{name: "schema, publication, server, subscription", tenant: []string{"CREATE SCHEMA mine", "CREATE PUBLICATION pub FOR ALL TABLES", "CREATE PUBLICATION pub2", "CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw", "CREATE FOREIGN DATA WRAPPER w", "CREATE SUBSCRIPTION sub CONNECTION 'host=127.0.0.1' PUBLICATION p WITH (connect = false)"}},
	{name: "replication slot", tenant: []string{"SELECT pg_create_logical_replication_slot('mine', 'pgoutput')", "SELECT pg_create_physical_replication_slot('mine2', true)", "SELECT pg_replication_origin_create('mine')"}},
	{name: "server files and settings", tenant: []string{"COPY (SELECT 1) TO PROGRAM 'cat >/dev/null'", "COPY (SELECT 1) TO '/tmp/hourgate-mine'", "ALTER SYSTEM SET work_mem = '1GB'", "ALTER DATABASE DB SET work_mem = '1GB'", "SELECT pg_reload_conf()"}},
	{name: "many tables", tenant: []string{`DO $$ BEGIN FOR i IN 1..300 LOOP EXECUTE format('CREATE TABLE many_%s (i int)', i); END LOOP; END $$`}},

	// With the help of others.
	{
		name: "another's view depends on it", tenant: []string{"CREATE TABLE mine (i int)", "CREATE TABLE alone (i int)", "CREATE FUNCTION back() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'", "GRANT SELECT ON mine TO OWNER", "CREATE FUNCTION tt() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'", "CREATE TRIGGER tt BEFORE INSERT ON mine FOR EACH ROW EXECUTE FUNCTION tt()"},
		dba: []string{"SET ROLE OWNER", "CREATE VIEW theirs AS SELECT i, back() FROM mine", "RESET ROLE"}, between: []string{"DROP VIEW theirs"},
	},
	{
		name: "another's foreign key depends on it", tenant: []string{"CREATE TABLE mine (i int PRIMARY KEY)", "GRANT REFERENCES ON mine TO OWNER"},
		dba: []string{"SET ROLE OWNER", "CREATE TABLE theirs (i int REFERENCES mine)", "RESET ROLE"}, between: []string{"DROP TABLE theirs"},
	},
	{
		name: "another's column has its type", tenant: []string{"CREATE TYPE mood AS ENUM ('good')"},
		dba: []string{"SET ROLE OWNER", "CREATE TABLE theirs (m mood)", "RESET ROLE"}, between: []string{"DROP TABLE theirs"},
	},
	{name: "grant option used", dba: []string{"SET ROLE OWNER", "GRANT SELECT ON orders TO ME WITH GRANT OPTION", "RESET ROLE"}, again: []string{"GRANT SELECT ON orders TO BOB"}},
	{name: "renamed by a dba", dba: []string{"ALTER ROLE ME RENAME TO renamed_by_a_dba"}},
	{name: "given a member by a dba", dba: []string{"GRANT ME TO BOB"}},
	{name: "given attributes by a dba", dba: []string{"ALTER ROLE ME CREATEDB BYPASSRLS"}},
	{name: "dropped by a dba", dba: []string{"GRANT pg_signal_backend TO GATE", "DROP OWNED BY ME", "DROP ROLE ME"}, between: []string{"REVOKE pg_signal_backend FROM GATE"}},
	{name: "policy names it", dba: []string{"SET ROLE OWNER", "CREATE TABLE pol (i int)", "CREATE POLICY p ON pol TO ME, BOB USING (true)", "RESET ROLE"}, between: []string{"DROP TABLE pol"}},

	// The profile.
	{name: "hand over to the profile", tenant: []string{"CREATE VIEW handed AS SELECT * FROM customers", "REASSIGN OWNED BY ME TO PROFILE"}},
	{name: "alter owner to the profile", tenant: []string{"CREATE FUNCTION back() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'", "ALTER FUNCTION back() OWNER TO PROFILE", "CREATE TABLE handed (i int)", "ALTER TABLE handed OWNER TO PROFILE"}},
	{name: "drop what the profile owns", tenant: []string{"DROP OWNED BY PROFILE"}, restore: true},
	{name: "objects as the profile", level: policy.ReadOnly, tenant: []string{"SET ROLE PROFILE", "SELECT lo_create(816)", "CREATE TABLE left_behind (i int)", "CREATE FUNCTION back() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'", "CREATE VIEW leak AS SELECT * FROM customers", "GRANT SELECT ON leak TO PUBLIC", "CREATE TYPE mood AS ENUM ('good')"}},
	{name: "default privileges as the profile", tenant: []string{"SET ROLE PROFILE", "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO BOB", "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON SEQUENCES TO PUBLIC", "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC"}},
	{name: "password and settings of the profile", tenant: []string{"SET ROLE PROFILE", "ALTER ROLE PROFILE PASSWORD 'mine'", "ALTER ROLE PROFILE SET search_path = 'mine'", "ALTER ROLE PROFILE IN DATABASE DB SET work_mem = '1GB'"}},
	{name: "grants and comment as the profile", tenant: []string{"SET ROLE PROFILE", "GRANT SELECT ON orders TO BOB", "GRANT USAGE ON SCHEMA public TO BOB", "GRANT PROFILE TO BOB", "COMMENT ON ROLE PROFILE IS 'x'"}},

	// Sessions and locks.
	{name: "temporary table", tenant: []string{"CREATE TEMPORARY TABLE tmp (i int)", "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'"}},
	{name: "advisory lock", tenant: []string{"SELECT pg_advisory_lock(42)"}},
	{name: "hourgate's own advisory lock", tenant: []string{"CREATE TABLE tt (i int)", "SELECT pg_advisory_lock(7525362636580549733)", "SELECT pg_advisory_lock_shared(7525362636580549733)"}},
	{name: "name of an admin connection", tenant: []string{"SET application_name = 'hourgate 000000000000 test-DB'"}},
	{name: "cursor with hold", tenant: []string{"DECLARE c CURSOR WITH HOLD FOR SELECT * FROM orders", "PREPARE st AS SELECT 1"}},
	{name: "listen", tenant: []string{"LISTEN hourgate", "NOTIFY hourgate, 'x'"}},
	{name: "lock on one's own row", tenant: []string{"BEGIN", "ALTER ROLE CURRENT_USER PASSWORD 'mine'"}},
	{name: "lock on the profile's row", tenant: []string{"BEGIN", "SET LOCAL ROLE PROFILE", "ALTER ROLE PROFILE PASSWORD 'mine'", "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO BOB"}},
	{name: "lock on a table", tenant: []string{"BEGIN", "LOCK TABLE orders IN ROW EXCLUSIVE MODE"}},
	{name: "lock on a catalog", tenant: []string{"BEGIN", "LOCK TABLE pg_catalog.pg_authid IN ACCESS SHARE MODE", "LOCK TABLE pg_catalog.pg_shdepend IN ACCESS SHARE MODE"}},
	{name: "uncommitted table", tenant: []string{"BEGIN", "CREATE TABLE un (i int)"}},
	{name: "two-phase commit", tenant: []string{"BEGIN", "CREATE TABLE un (i int)", "PREPARE TRANSACTION 'mine'"}},
	{name: "statement that ignores cancel", busy: true, tenant: []string{do("LOOP BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP")}},
	{name: "statement that ignores all errors", busy: true, tenant: []string{do("LOOP BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN OTHERS OR query_canceled OR assert_failure THEN NULL; END; END LOOP")}},
}

// tenancy is one trick being played.
type tenancy struct {
	*fixture
	trick
	bob  string
	role string
	conn *pgx.Conn
}

// sql puts the names in.
func (tn *tenancy) sql(t *testing.T, statement string) string {
	t.Helper()
	if strings.Contains(statement, "PROFILE") {
		var profile string
		kind := map[policy.Level]string{policy.ReadOnly: "ro", policy.ReadWrite: "rw", "": "admin", policy.Admin: "admin"}[tn.level]
		if err := tn.super.QueryRow(t.Context(), "SELECT quote_ident(rolname) FROM pg_roles WHERE rolname LIKE $1",
			"hourgate\\_"+kind+"\\_"+strings.ReplaceAll(tn.db.Name, "_", "\\_")+"\\_%").Scan(&profile); err != nil {
			t.Fatal(err)
		}
		statement = strings.ReplaceAll(statement, "PROFILE", profile)
	}
	names := map[string]string{"ME": tn.role, "BOB": tn.bob, "OWNER": tn.db.Owner, "DB": tn.db.Name, "GATE": tn.db.Admin}
	return placeholder.ReplaceAllStringFunc(strings.ReplaceAll(statement, "OWNER TO", "owner to"), func(word string) string { return names[word] })
}

var placeholder = regexp.MustCompile(`\b(ME|BOB|OWNER|DB|GATE)\b`)

func (tn *tenancy) play(t *testing.T) {
	t.Helper()
	done := make(chan struct{})
	t.Cleanup(func() { <-done })
	statements := make([]string, len(tn.tenant))
	for i, s := range tn.tenant {
		statements[i] = tn.sql(t, s)
	}
	go func() {
		defer close(done)
		for _, s := range statements {
			_, _ = tn.conn.Exec(context.Background(), s)
		}
	}()
	if tn.busy {
		return
	}
	<-done
	for _, s := range tn.dba {
		tn.exec(t, tn.sql(t, s))
	}
	for _, s := range tn.again {
		_, _ = tn.conn.Exec(t.Context(), tn.sql(t, s))
	}
}

// After settling, whatever the tenant did, the role and its sessions are gone and the catalogs are as before. See plays for which
// trick is played on which majors.
func TestTenantWhoWantsToStay(t *testing.T) {
	t.Parallel()
	eachMajor(t, func(t *testing.T, db *pgtest.Database) {
		f := newFixture(t, db)
		bob := "bob_" + db.Name
		f.exec(t, "CREATE ROLE "+bob+" LOGIN")
		t.Cleanup(func() {
			_, _ = f.super.Exec(context.Background(), "DROP OWNED BY "+bob+"; DROP ROLE "+bob)
		})
		for _, level := range []policy.Level{policy.ReadOnly, policy.ReadWrite, policy.Admin} {
			f.warm(t, level)
		}
		before := f.snapshot(t)
		for i, tr := range tricks {
			if !plays(i, db.Server.Major) {
				continue
			}
			if !t.Run(tr.name, func(t *testing.T) { playTrick(t, f, bob, tr, before) }) {
				before = f.snapshot(t)
			}
		}
	})
}

// warm makes the profile of a level, which stays, and brings it in order.
func (f *fixture) warm(t *testing.T, level policy.Level) {
	t.Helper()
	lease := f.acquire(t, f.grant(level, time.Hour))
	lease.Release()
	f.waitGone(t, lease.Login().User)
}

// playTrick compares the catalogs with what they were before the first trick, since after each they are as before.
func playTrick(t *testing.T, f *fixture, bob string, tr trick, before []string) {
	level := tr.level
	if level == "" {
		level = policy.Admin
	}
	lease := f.acquire(t, f.grant(level, time.Hour))
	tn := &tenancy{fixture: f, trick: tr, bob: bob, role: lease.Login().User, conn: f.login(t, lease.Login())}
	tn.play(t)
	started := time.Now()
	lease.Release()
	f.waitGone(t, tn.role)
	f.waitSettled(t, tn.role)
	if took := time.Since(started); took > 8*time.Second {
		t.Errorf("settling took %v", took)
	}
	if err := tn.conn.Ping(t.Context()); err == nil {
		t.Error("the session lives")
	}
	for _, password := range []string{lease.Login().Password, "mine"} {
		if conn, err := pgx.Connect(t.Context(), f.db.Server.URL(tn.role, password, f.db.Name).String()); err == nil {
			_ = conn.Close(t.Context())
			t.Errorf("the role can log in with password %q", password)
		}
	}
	tn.emptyQuarantine(t)
	if tr.restore {
		newFixture(t, f.db).warm(t, level)
	}
	if diff := cmp.Diff(before, f.snapshot(t)); diff != "" {
		t.Errorf("the catalogs changed (-before +after):\n%s", diff)
	}
}

// waitSettled waits until the trail has the role's record: it is gone from the server before that.
func (f *fixture) waitSettled(t *testing.T, role string) {
	t.Helper()
	waitFor(t, "role "+role+" is settled", func() bool { return !f.Live(role) })
}

// emptyQuarantine does what people have to: they let go of what depended on the tenant's objects.
func (tn *tenancy) emptyQuarantine(t *testing.T) {
	t.Helper()
	for _, s := range tn.between {
		tn.exec(t, tn.sql(t, s))
	}
	var name string
	err := tn.super.QueryRow(t.Context(), "SELECT quote_ident(rolname) FROM pg_roles WHERE rolname LIKE $1",
		"hourgate\\_quarantine\\_"+strings.ReplaceAll(tn.db.Name, "_", "\\_")+"\\_%").Scan(&name)
	if err != nil {
		return // never needed
	}
	var powerful int
	if err := tn.super.QueryRow(t.Context(), "SELECT count(*) FROM pg_proc WHERE pg_get_userbyid(proowner) = $1 AND (prosecdef OR proacl IS NULL)", name).Scan(&powerful); err != nil || powerful > 0 {
		t.Errorf("functions in quarantine that kept their power: %d, %v", powerful, err)
	}
	tn.exec(t, "DROP OWNED BY "+name+" RESTRICT")
	tn.exec(t, "DROP ROLE "+name)
}

// What a tenant leaves in another database, where everybody may connect, goes too.
func TestTenantInAnotherDatabase(t *testing.T) {
	t.Parallel()
	someMajors(t, func(t *testing.T, db *pgtest.Database) {
		f := newFixture(t, db)
		f.warm(t, policy.ReadOnly)
		other := db.Server.Database(t)
		superuser := other.Superuser(t)
		lease := f.acquire(t, f.grant(policy.ReadOnly, time.Hour))
		elsewhere := lease.Login()
		elsewhere.Database = other.Name
		conn := f.login(t, elsewhere)
		for _, s := range []string{"SELECT lo_create(4711)", "CREATE TABLE mine (i int)", "CREATE TEMPORARY TABLE tmp (i int)", "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC"} {
			_, _ = conn.Exec(t.Context(), s)
		}
		lease.Release()
		f.waitGone(t, lease.Login().User)
		var left int
		if err := superuser.QueryRow(t.Context(), "SELECT (SELECT count(*) FROM pg_largeobject_metadata) + (SELECT count(*) FROM pg_class WHERE relname = 'mine') + (SELECT count(*) FROM pg_default_acl)").Scan(&left); err != nil || left != 0 {
			t.Errorf("left in the other database: %d, %v", left, err)
		}
	})
}

// 4,000 tables are more than this server can lock at once.
func TestMoreTablesThanLocks(t *testing.T) {
	t.Parallel()
	server := pgtest.New(t, 16, pgtest.Options{Settings: map[string]string{"max_connections": "40", "max_locks_per_transaction": "24"}})
	f := newFixture(t, server.Database(t))
	lease := f.acquire(t, f.grant(policy.Admin, time.Hour))
	conn := f.login(t, lease.Login())
	for i := range 8 {
		if _, err := conn.Exec(t.Context(), fmt.Sprintf("DO $$ BEGIN FOR i IN 1..500 LOOP EXECUTE format('CREATE TABLE many_%d_%%s (i int)', i); END LOOP; END $$", i)); err != nil {
			t.Fatal(err)
		}
	}
	lease.Release()
	f.Withdraw(lease.Login().User)
	waitForLong(t, time.Minute, "the role is gone", func() bool { return !f.exists(t, lease.Login().User) })
	var left int
	if err := f.super.QueryRow(t.Context(), "SELECT count(*) FROM pg_class WHERE relname LIKE 'many%'").Scan(&left); err != nil || left != 0 {
		t.Errorf("tables left: %d, %v", left, err)
	}
}

// Large objects in great number take time in proportion, and little memory of the gate. HOURGATE_LARGE=2000000 has as many
// (make large).
func TestManyLargeObjects(t *testing.T) {
	t.Parallel()
	count := 3000
	if n, err := strconv.Atoi(os.Getenv("HOURGATE_LARGE")); err == nil {
		count = n
	}
	f := newFixture(t, pgtest.Start(t, 16).Database(t))
	lease := f.acquire(t, f.grant(policy.ReadOnly, time.Hour))
	conn := f.login(t, lease.Login())
	for made := 0; made < count; made += 1000 {
		if _, err := conn.Exec(t.Context(), "SELECT count(lo_create(0)) FROM generate_series(1, 1000)"); err != nil {
			t.Fatal(err)
		}
	}
	var before, peak runtime.MemStats
	runtime.ReadMemStats(&before)
	ended := time.Now()
	lease.Release()
	f.Withdraw(lease.Login().User)
	var most uint64
	waitForLong(t, time.Minute+time.Duration(count)*time.Millisecond, "the role is gone", func() bool {
		runtime.ReadMemStats(&peak)
		most = max(most, peak.HeapInuse)
		if f.exists(t, lease.Login().User) && !f.Live(lease.Login().User) {
			_ = f.Sweep(t.Context()) // goes on where the first try reached its limit
		}
		return !f.exists(t, lease.Login().User)
	})
	t.Logf("%d large objects: gone after %v, at most %d MB of heap, %d MB before", count, time.Since(ended), most>>20, before.HeapInuse>>20)
	f.none(t, "SELECT count(*) FROM pg_largeobject_metadata")
}

// none fails unless a query counts nothing.
func (f *fixture) none(t *testing.T, query string) {
	t.Helper()
	var n int
	if err := f.super.QueryRow(t.Context(), query).Scan(&n); err != nil || n != 0 {
		t.Errorf("%s: %d, %v", query, n, err)
	}
}

func waitForLong(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

// A database that takes no connections can't be cleared: the role is disabled and waits.
func TestDatabaseThatTakesNoConnections(t *testing.T) {
	t.Parallel()
	db := pgtest.Start(t, 15).Database(t)
	f := newFixture(t, db)
	other := db.Server.Database(t)
	lease := f.acquire(t, f.grant(policy.ReadOnly, time.Hour))
	elsewhere := lease.Login()
	elsewhere.Database = other.Name
	if _, err := f.login(t, elsewhere).Exec(t.Context(), "SELECT lo_create(4711)"); err != nil {
		t.Fatal(err)
	}
	f.exec(t, "ALTER DATABASE "+other.Name+" ALLOW_CONNECTIONS false")
	lease.Release()
	f.Withdraw(lease.Login().User)
	waitFor(t, "the tombstone is recorded", func() bool { return len(f.trail.of("role_tombstoned")) > 0 })
	if err := f.Sweep(t.Context()); err == nil || len(f.trail.of("role_tombstoned")) != 1 {
		t.Errorf("sweep: %v; the trail has %d records of one tombstone, want 1", err, len(f.trail.of("role_tombstoned")))
	}
	f.exec(t, "ALTER DATABASE "+other.Name+" ALLOW_CONNECTIONS true")
	if err := f.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	f.waitGone(t, lease.Login().User)
}

// A session that did not come through the gate is put out and reported; those that did stay, in any database.
func TestForeignSession(t *testing.T) {
	t.Parallel()
	someMajors(t, func(t *testing.T, db *pgtest.Database) {
		f := newFixture(t, db)
		lease := f.acquire(t, f.grant(policy.ReadOnly, time.Hour))
		second := f.acquire(t, f.grant(policy.ReadOnly, time.Hour))
		conn := f.login(t, lease.Login())
		early := f.login(t, second.Login()) // its Opened is still to come
		check := func() {
			t.Helper()
			if err := f.CheckSessions(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		lease.Opened(conn.PgConn().PID())
		check()
		if conn.Ping(t.Context()) != nil || early.Ping(t.Context()) != nil {
			t.Fatal("a session of ours was put out")
		}
		second.Opened(early.PgConn().PID())
		waitFor(t, "the tenant changes the password, unless Hourgate alters the role just then", func() bool {
			_, err := conn.Exec(t.Context(), "ALTER ROLE CURRENT_USER PASSWORD 'mine'")
			return err == nil
		})
		intruder := f.login(t, upstream.Login{User: lease.Login().User, Password: "mine", Database: db.Name})
		check()
		waitFor(t, "the intruder is put out", func() bool { return intruder.Ping(t.Context()) != nil })
		if conn.Ping(t.Context()) != nil || early.Ping(t.Context()) != nil {
			t.Error("a session of ours was put out")
		}
		if records := f.trail.of("session_foreign"); len(records) != 1 || records[0].Role != lease.Login().User || records[0].SessionsTerminated != 1 {
			t.Errorf("got records %+v, want one about the intruder", records)
		}
		lease.Closed(conn.PgConn().PID())
		check() // a backend whose connection we closed may still be finishing
		if conn.Ping(t.Context()) != nil {
			t.Error("a session of ours was put out while it ended")
		}
		lease.Release()
		second.Release()
	})
}
