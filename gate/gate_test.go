package gate_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/gatetest"
	"github.com/hourgate/hourgate/internal/pgtest"
)

// The main job: psql gets in under a role of its own, reads what the grant says, is kept from writing, and nothing is
// left when it is over.
func TestPsqlThroughTheGate(t *testing.T) {
	t.Parallel()
	gatetest.EachMajor(t, func(t *testing.T, db *pgtest.Database) {
		g := gatetest.Start(t, db, gatetest.Options{Grants: gatetest.Grant("inc-4211"), Config: map[string]string{"role_linger": "0s"}})
		out, err := g.Client(t, pgtest.Client(t, "psql"), "-XAt", "-v", "ON_ERROR_STOP=0",
			"-c", "SELECT session_user", "-c", "SELECT count(*) FROM orders",
			"-c", "BEGIN READ WRITE", "-c", "UPDATE orders SET note = 'x'", "-c", "ROLLBACK")
		if err != nil {
			t.Fatalf("psql: %v\n%s", err, out)
		}
		for _, want := range []string{"hg_alice_inc_4211_", "\n300\n", "permission denied for table orders"} {
			if !strings.Contains(out, want) {
				t.Errorf("psql's output lacks %q:\n%s", want, out)
			}
		}
		eventually.True(t, "the role is gone", func() bool { return len(g.Roles(t)) == 0 })
		for _, event := range []audit.Event{audit.SessionStart, audit.RoleMade, audit.RoleSettled, audit.SessionEnd} {
			eventually.True(t, fmt.Sprintf("there is one record of %s", event), func() bool { return len(g.Records(t, event)) == 1 })
		}
	})
}

// PostgreSQL's own programs work through the gate.
func TestPrograms(t *testing.T) {
	t.Parallel()
	gatetest.EachMajor(t, func(t *testing.T, db *pgtest.Database) {
		g := gatetest.Start(t, db, gatetest.Options{Grants: gatetest.Grant("load", "access", "READ_WRITE")})
		bench := pgtest.Client(t, "pgbench")
		initPgbench(t, db)
		for _, mode := range []string{"simple", "extended", "prepared"} {
			if out, err := g.Client(t, bench, "-n", "-c2", "-j2", "-t50", "-M", mode); err != nil {
				t.Errorf("pgbench -M %s: %v\n%s", mode, err, out)
			}
		}
		if out, err := g.Client(t, bench, "-n", "-c2", "-t10", "-S", "-C"); err != nil {
			t.Errorf("pgbench -C: %v\n%s", err, out)
		}
		out, err := g.Client(t, pgtest.Dump(t, db.Server.Major), "--no-owner", "--no-privileges")
		if err != nil || !strings.Contains(out, "COPY public.orders") {
			t.Errorf("pg_dump: %v\n%.500s", err, out)
		}
	})
}

// initPgbench makes pgbench's tables as the owner, directly on the server.
func initPgbench(t *testing.T, db *pgtest.Database) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), pgtest.Client(t, "pgbench"), "-i", "-q", "-s1", db.Name)
	cmd.Env = append(os.Environ(), "PGHOST="+db.Server.Host, fmt.Sprintf("PGPORT=%d", db.Server.Port),
		"PGUSER="+db.Owner, "PGPASSWORD="+db.OwnerPassword, "PGSSLMODE=require")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("pgbench -i: %v\n%s", err, out)
	}
}

// At the grant's end a running session is told why, its statement ends without committing, and the role is settled.
func TestGrantEndsUnderARunningSession(t *testing.T) {
	t.Parallel()
	gatetest.EachMajor(t, func(t *testing.T, db *pgtest.Database) {
		until := time.Now().Add(3 * time.Second)
		g := gatetest.Start(t, db, gatetest.Options{
			Grants: gatetest.Grant("short", "access", "READ_WRITE", "until", until.UTC().Format(time.RFC3339Nano)),
		})
		conn := g.Connect(t, "orders")
		_, err := conn.Exec(t.Context(), "INSERT INTO orders (id, customer_id, note) SELECT 9999, 1, pg_sleep(30)::text")
		late := time.Since(until)
		wantFatal(t, err, pgerrcode.AdminShutdown, "terminating connection: your grant has ended")
		if late < 0 || late > time.Second {
			t.Errorf("the end came %v after the grant's, want at most 1s", late)
		}
		eventually.True(t, "the role is gone", func() bool { return len(g.Roles(t)) == 0 })
		var committed int
		if err := db.Superuser(t).QueryRow(t.Context(), "SELECT count(*) FROM orders WHERE id = 9999").Scan(&committed); err != nil || committed != 0 {
			t.Errorf("rows committed after the end: %d, %v", committed, err)
		}
		if _, err := g.TryConnect(t, gatetest.Alice, gatetest.AlicePassword, "orders"); !strings.Contains(fmt.Sprint(err), pgerrcode.InvalidAuthorizationSpecification) {
			t.Errorf("connecting after the end: got %v, want a refusal", err)
		}
		ends := g.Records(t, audit.SessionEnd)
		if len(ends) != 1 || ends[0].Cause != "grant_expired" || ends[0].Code != pgerrcode.AdminShutdown {
			t.Errorf("got records of the end: %+v", ends)
		}
	})
}

// Many sessions of one grant all hear why they end, although their role is settled at the same moment.
func TestManySessionsHearWhyTheyEnd(t *testing.T) {
	t.Parallel()
	g := gatetest.Start(t, pgtest.Start(t, 17).Database(t), gatetest.Options{Grants: gatetest.Grant("crowd")})
	var sessions []*pgx.Conn
	for range 15 {
		sessions = append(sessions, g.Connect(t, "orders"))
	}
	g.SetGrants(t, gatetest.Grant("crowd", "until", time.Now().Add(1500*time.Millisecond).UTC().Format(time.RFC3339Nano)))
	var told sync.WaitGroup
	for i, conn := range sessions {
		told.Go(func() {
			var err error
			if i%2 == 0 {
				_, err = conn.Exec(t.Context(), "SELECT pg_sleep(20)")
			} else {
				_, err = conn.WaitForNotification(t.Context())
			}
			var pgErr *pgconn.PgError
			if !errors.As(err, &pgErr) || pgErr.Message != "terminating connection: your grant has ended" {
				t.Errorf("session %d: %v", i, err)
			}
		})
	}
	told.Wait()
	eventually.True(t, "the role is gone", func() bool { return len(g.Roles(t)) == 0 })
}

// A tenant who sets a password of their own and finds another way to the server is put out there and reported; the
// session through the gate goes on.
func TestIntruderPastTheGate(t *testing.T) {
	t.Parallel()
	g := gatetest.Start(t, pgtest.Start(t, 18).Database(t), gatetest.Options{Grants: gatetest.Grant("inc-1")})
	through := g.Connect(t, "orders")
	var role string
	if err := through.QueryRow(t.Context(), "SELECT session_user").Scan(&role); err != nil {
		t.Fatal(err)
	}
	if _, err := through.Exec(t.Context(), "BEGIN READ WRITE; ALTER ROLE CURRENT_USER PASSWORD 'mine'; COMMIT"); err != nil {
		t.Fatal(err)
	}
	past, err := pgx.Connect(t.Context(), g.DB.Server.URL(role, "mine", g.DB.Name).String())
	if err != nil {
		t.Fatal(err)
	}
	defer past.Close(context.Background())
	eventually.True(t, "the intruder is put out", func() bool { return past.Ping(t.Context()) != nil })
	eventually.True(t, "the intruder is reported", func() bool { return len(g.Records(t, audit.SessionForeign)) == 1 })
	g.AwaitMetric(t, `hourgate_foreign_sessions_total{integration="orders"} 1`)
	if err := through.Ping(t.Context()); err != nil {
		t.Errorf("the session through the gate ended too: %v", err)
	}
}

// A policy file from which the grant is gone ends its sessions; one that can't be read changes nothing.
func TestPolicyReload(t *testing.T) {
	t.Parallel()
	g := gatetest.Start(t, pgtest.Start(t, 16).Database(t), gatetest.Options{Grants: gatetest.Grant("inc-1") + gatetest.Grant("inc-2", "users", "["+gatetest.Bob+"]")})
	alices := g.Connect(t, "orders")
	bobs, err := g.TryConnect(t, gatetest.Bob, gatetest.BobPassword, "orders")
	if err != nil {
		t.Fatal(err)
	}

	g.Write(t, "policy.yaml", "grants: [{nmae: inc-1}]\n")
	eventually.True(t, "the bad policy is reported", func() bool { return len(g.Records(t, audit.PolicyRejected)) == 1 })
	g.AwaitMetric(t, "hourgate_policy_last_reload_successful 0")
	if _, err := alices.Exec(t.Context(), "SELECT 1"); err != nil {
		t.Fatalf("a bad policy broke a session: %v", err)
	}

	g.SetGrants(t, gatetest.Grant("inc-2", "users", "["+gatetest.Bob+"]"))
	_, err = alices.Exec(t.Context(), "SELECT pg_sleep(20)")
	wantFatal(t, err, pgerrcode.AdminShutdown, "terminating connection: your grant was withdrawn or changed")
	if _, err := bobs.Exec(t.Context(), "SELECT 1"); err != nil {
		t.Errorf("bob's session ended with alice's grant: %v", err)
	}
	eventually.True(t, "alice's role is gone, bob's is there", func() bool {
		roles := g.Roles(t)
		return len(roles) == 1 && strings.HasPrefix(roles[0], "hg_bob_inc_2_")
	})
}

// A grant that is extended or shortened keeps its sessions, which end at the new time.
func TestGrantMovesItsEnd(t *testing.T) {
	t.Parallel()
	soon := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.RFC3339Nano) }
	g := gatetest.Start(t, pgtest.Start(t, 17).Database(t), gatetest.Options{Grants: gatetest.Grant("inc-1", "until", soon(5*time.Second))})
	conn := g.Connect(t, "orders")
	g.SetGrants(t, gatetest.Grant("inc-1", "until", soon(time.Hour)))
	eventually.True(t, "the new policy", func() bool { return len(g.Records(t, audit.PolicyLoaded)) == 1 })
	if _, err := conn.Exec(t.Context(), "SELECT pg_sleep(5.5)"); err != nil {
		t.Fatalf("the session did not outlive the old end: %v", err)
	}
	g.SetGrants(t, gatetest.Grant("inc-1", "until", soon(time.Second)))
	_, err := conn.Exec(t.Context(), "SELECT pg_sleep(20)")
	wantFatal(t, err, pgerrcode.AdminShutdown, "terminating connection: your grant has ended")
	eventually.True(t, "no role is left", func() bool { return len(g.Roles(t)) == 0 })
}

// Sessions of one person and grant share a role, which lingers for the next one.
func TestRoleIsSharedAndLingers(t *testing.T) {
	t.Parallel()
	g := gatetest.Start(t, pgtest.Start(t, 15).Database(t), gatetest.Options{
		Grants: gatetest.Grant("ide") + gatetest.Grant("other", "users", "["+gatetest.Bob+"]"), Config: map[string]string{"role_linger": "1500ms"},
	})
	roleOf := func(conn *pgx.Conn) (name string) {
		t.Helper()
		if err := conn.QueryRow(t.Context(), "SELECT session_user").Scan(&name); err != nil {
			t.Fatal(err)
		}
		return name
	}
	first, second := g.Connect(t, "orders"), g.Connect(t, "orders")
	role := roleOf(first)
	if other := roleOf(second); other != role {
		t.Errorf("two sessions of one grant have roles %s and %s", role, other)
	}
	bobs, err := g.TryConnect(t, gatetest.Bob, gatetest.BobPassword, "orders")
	if err != nil {
		t.Fatal(err)
	}
	if other := roleOf(bobs); other == role {
		t.Errorf("two people share the role %s", role)
	}
	_, _ = first.Close(t.Context()), second.Close(t.Context())
	if third := roleOf(g.Connect(t, "orders")); third != role {
		t.Errorf("the role did not linger: got %s, want %s", third, role)
	}
	if made := len(g.Records(t, audit.RoleMade)); made != 2 {
		t.Errorf("got %d roles made, want 2", made)
	}
}

func TestAccessLevels(t *testing.T) {
	t.Parallel()
	const denied, done = pgerrcode.InsufficientPrivilege, ""
	tests := []struct{ statement, readOnly, readWrite, admin string }{
		{"SELECT count(*) FROM orders", done, done, done},
		{"SELECT last_value FROM orders_id_seq", done, done, done},
		{"SELECT count(*) FROM later", done, done, done}, // made after the profile was
		{"INSERT INTO orders (customer_id) VALUES (1)", denied, done, done},
		{"UPDATE orders SET note = 'x' WHERE id = 1", denied, done, done},
		{"DELETE FROM orders WHERE id = 2", denied, done, done},
		{"INSERT INTO later VALUES (1)", denied, done, done},
		{"CREATE TEMPORARY TABLE scratch (i int)", done, done, done}, // PUBLIC's, on a stock database
		{"TRUNCATE later", denied, denied, done},
		{"CREATE TABLE mine (i int)", "", "", done}, // 13 and 14 let everybody
		{"DROP TABLE orders", denied, denied, denied},
		{"CREATE ROLE more", denied, denied, denied},
		{"COPY orders TO PROGRAM 'cat'", denied, denied, denied},
		{"SELECT pg_read_file('/etc/passwd')", denied, denied, denied},
		{"SET ROLE postgres", denied, denied, denied},
	}
	gatetest.EachMajor(t, func(t *testing.T, db *pgtest.Database) {
		g := gatetest.Start(t, db, gatetest.Options{Grants: gatetest.Grant("r", "databases", "["+db.Name+"]")})
		for level, want := range map[string]func(int) string{
			"READ_ONLY":  func(i int) string { return tests[i].readOnly },
			"READ_WRITE": func(i int) string { return tests[i].readWrite },
			"ADMIN":      func(i int) string { return tests[i].admin },
		} {
			g.SetGrants(t, gatetest.Grant("level-"+strings.ToLower(strings.ReplaceAll(level, "_", "-")), "access", level))
			var conn *pgx.Conn
			eventually.True(t, "the level's grant is in force", func() bool {
				c, err := g.TryConnect(t, gatetest.Alice, gatetest.AlicePassword, "orders")
				if err != nil {
					return false
				}
				var role string
				_ = c.QueryRow(t.Context(), "SELECT session_user").Scan(&role)
				if strings.Contains(role, "_level_"+strings.ToLower(level)+"_") {
					conn = c
					return true
				}
				_ = c.Close(t.Context())
				return false
			})
			makeLater(t, db)
			for i, test := range tests {
				if test.statement == "CREATE TABLE mine (i int)" && level != "ADMIN" {
					continue
				}
				_, err := conn.Exec(t.Context(), "BEGIN READ WRITE; "+test.statement+"; ROLLBACK")
				if got := sqlstate(err); got != want(i) {
					t.Errorf("%s: %s: got %q (%v), want %q", level, test.statement, got, err, want(i))
				}
				_, _ = conn.Exec(t.Context(), "ROLLBACK")
			}
		}
	})
}

// makeLater makes a table after profiles exist, as the owner.
func makeLater(t *testing.T, db *pgtest.Database) {
	t.Helper()
	conn := db.Superuser(t)
	if _, err := conn.Exec(t.Context(), "SET ROLE "+pgx.Identifier{db.Owner}.Sanitize()+"; CREATE TABLE IF NOT EXISTS later (i int)"); err != nil {
		t.Fatal(err)
	}
}

// What an ADMIN leaves behind goes with the grant, whoever depends on it.
func TestObjectsOfTheTenantGo(t *testing.T) {
	t.Parallel()
	gatetest.EachMajor(t, func(t *testing.T, db *pgtest.Database) {
		g := gatetest.Start(t, db, gatetest.Options{Grants: gatetest.Grant("ddl", "access", "ADMIN"), Config: map[string]string{"role_linger": "0s"}})
		conn := g.Connect(t, "orders")
		_, err := conn.Exec(t.Context(), `
			CREATE TABLE mine (i int);
			GRANT SELECT ON mine TO PUBLIC;
			CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN RETURN NEW; END';
			CREATE VIEW secrets AS SELECT * FROM customers;
			SELECT lo_create(4711)`)
		if err != nil {
			t.Fatal(err)
		}
		// Somebody else comes to depend on it. It is in the role's own schema.
		if _, err := db.Superuser(t).Exec(t.Context(), "SET search_path = public, "+g.Roles(t)[0]+"; CREATE VIEW others AS SELECT * FROM secrets; CREATE TRIGGER spy BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION spy()"); err != nil {
			t.Fatal(err)
		}
		_ = conn.Close(t.Context())
		g.SetGrants(t, gatetest.Grant("another", "users", "["+gatetest.Bob+"]"))
		eventually.True(t, "the role is gone", func() bool { return len(g.Roles(t)) == 0 })
		var triggers, tables, owned int
		err = db.Superuser(t).QueryRow(t.Context(), `
			SELECT (SELECT count(*) FROM pg_trigger WHERE tgname = 'spy'),
			       (SELECT count(*) FROM pg_tables WHERE tablename = 'mine'),
			       (SELECT count(*) FROM pg_class c JOIN pg_roles r ON r.oid = relowner WHERE relname = 'secrets' AND rolname LIKE 'hourgate_quarantine_%')`).
			Scan(&triggers, &tables, &owned)
		if err != nil || triggers != 0 || owned != 1 {
			t.Errorf("triggers %d, want 0; view in quarantine %d, want 1; %v", triggers, owned, err)
		}
		settled := g.Records(t, audit.RoleSettled)
		if len(settled) != 1 || len(settled[0].Quarantined) == 0 {
			t.Errorf("the record does not say what was kept: %+v", settled)
		}
		if _, err := db.Superuser(t).Exec(t.Context(), "DROP VIEW others"); err != nil {
			t.Fatal(err)
		}
		dropQuarantine(t, db)
	})
}

// dropQuarantine removes what the test left to the quarantine role, which is the server's and not the database's.
func dropQuarantine(t *testing.T, db *pgtest.Database) {
	t.Helper()
	conn := db.Superuser(t)
	_, err := conn.Exec(t.Context(), `
		DO $$ DECLARE r text; BEGIN
			FOR r IN SELECT rolname FROM pg_roles JOIN pg_shdepend ON refobjid = pg_roles.oid
			          WHERE rolname LIKE 'hourgate_quarantine_%' AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
			LOOP EXECUTE format('DROP OWNED BY %I CASCADE', r); END LOOP; END $$`)
	if err != nil {
		t.Error(err)
	}
}

// Ctrl-C in psql cancels the statement and leaves the session.
func TestInterruptCancelsTheStatement(t *testing.T) {
	t.Parallel()
	g := gatetest.Start(t, pgtest.Start(t, 15).Database(t), gatetest.Options{Grants: gatetest.Grant("inc-1")})
	cmd := exec.CommandContext(t.Context(), pgtest.Client(t, "psql"), "-XAt", "-c", "SELECT pg_sleep(60)", "-c", "SELECT 'still here'")
	cmd.Env = append(os.Environ(), g.Environment()...)
	var out gatetest.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually.True(t, "the statement runs", func() bool {
		var running int
		_ = g.DB.Superuser(t).QueryRow(t.Context(),
			"SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND query LIKE '%pg_sleep(60)%' AND usename LIKE 'hg_alice%'", g.DB.Name).Scan(&running)
		return running == 1
	})
	started := time.Now()
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if !strings.Contains(out.String(), "canceling statement due to user request") || time.Since(started) > 5*time.Second {
		t.Errorf("after %v psql said:\n%s", time.Since(started), &out)
	}
}

// A denied person reads why, and nobody learns which names exist.
func TestDenials(t *testing.T) {
	t.Parallel()
	g := gatetest.Start(t, pgtest.Start(t, 15).Database(t), gatetest.Options{
		Grants: gatetest.Grant("old", "until", time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)),
	})
	refused := func(user, password, database string) *pgconn.PgError {
		t.Helper()
		_, err := g.TryConnect(t, user, password, database)
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) {
			t.Fatalf("got %v, want a refusal", err)
		}
		return pgErr
	}
	if got := refused(gatetest.Alice, gatetest.AlicePassword, "orders"); got.Code != pgerrcode.InvalidAuthorizationSpecification || !strings.Contains(got.Detail, "old") {
		t.Errorf("an expired grant: %+v", got)
	}
	noGrant, noSuch := refused(gatetest.Bob, gatetest.BobPassword, "orders"), refused(gatetest.Bob, gatetest.BobPassword, "nosuch")
	noGrant.Message = strings.ReplaceAll(noGrant.Message, "orders", "X")
	noSuch.Message = strings.ReplaceAll(noSuch.Message, "nosuch", "X")
	if diff := cmp.Diff(noGrant, noSuch); diff != "" {
		t.Errorf("an integration without a grant and one that does not exist differ:\n%s", diff)
	}
	wrong, unknown := refused(gatetest.Alice, "wrong", "orders"), refused("nobody", "wrong", "orders")
	wrong.Message = strings.ReplaceAll(wrong.Message, gatetest.Alice, "X")
	unknown.Message = strings.ReplaceAll(unknown.Message, "nobody", "X")
	if diff := cmp.Diff(wrong, unknown); diff != "" {
		t.Errorf("a wrong password and an unknown user differ:\n%s", diff)
	}
	eventually.True(t, "all refusals are in the trail", func() bool { return len(g.Records(t, audit.SessionRefused)) == 5 })
}

// A database of the grant is reached by integration/database and by its bare name, as \c does.
func TestDatabaseNames(t *testing.T) {
	t.Parallel()
	gatetest.EachMajor(t, func(t *testing.T, db *pgtest.Database) {
		other := "more_" + db.Name
		super := db.Superuser(t)
		if _, err := super.Exec(t.Context(), fmt.Sprintf(`CREATE DATABASE %s OWNER %s`, pgx.Identifier{other}.Sanitize(), pgx.Identifier{db.Owner}.Sanitize())); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_, _ = super.Exec(context.Background(), "DROP DATABASE "+pgx.Identifier{other}.Sanitize()+" WITH (FORCE)")
		})
		g := gatetest.Start(t, db, gatetest.Options{
			Grants: gatetest.Grant("two", "access", "ADMIN", "databases", "["+db.Name+", "+other+"]"), Config: map[string]string{"role_linger": "0s"},
		})
		out, err := g.Client(t, pgtest.Client(t, "psql"), "-XAtq", "-c", "SELECT current_database()",
			"-c", `\c `+other, "-c", "CREATE TABLE left_behind (i int)", "-c", "SELECT current_database()",
			"-c", `\c orders/`+other, "-c", "SELECT current_database()", "-c", `\c orders`, "-c", "SELECT current_database()")
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		var got []string
		for line := range strings.Lines(out) {
			if line = strings.TrimSpace(line); line == db.Name || line == other {
				got = append(got, line)
			}
		}
		if diff := cmp.Diff([]string{db.Name, other, other, db.Name}, got); diff != "" {
			t.Errorf("databases (-want +got):\n%s\n%s", diff, out)
		}
		g.SetGrants(t, "") // until then the role lives, because it owns something
		eventually.True(t, "the role is gone, with what it left in the other database", func() bool { return len(g.Roles(t)) == 0 })
	})
}

// SIGTERM: a transaction is finished, idle sessions are told, roles are settled, the process ends with 0. kill -9: the
// next start sweeps.
func TestProcessEnds(t *testing.T) {
	t.Parallel()
	db := pgtest.Start(t, 18).Database(t)
	g := gatetest.New(t, db)
	g.SetGrants(t, "")
	configFile := g.Configure(t, gatetest.Options{Grants: gatetest.Grant("inc-1")})

	process := gatetest.StartProcess(t, g, configFile)
	idle, busy := g.Connect(t, "orders"), g.Connect(t, "orders")
	if _, err := busy.Exec(t.Context(), "BEGIN"); err != nil {
		t.Fatal(err)
	}
	if err := process.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_, err := idle.WaitForNotification(t.Context())
	wantFatal(t, err, pgerrcode.AdminShutdown, "terminating connection: the gate is shutting down")
	if _, err := busy.Exec(t.Context(), "SELECT 1"); err != nil {
		t.Errorf("the drain broke a transaction: %v", err)
	}
	if _, err := busy.Exec(t.Context(), "COMMIT"); err != nil {
		t.Errorf("the drain broke a transaction: %v", err)
	}
	if err := process.Wait(); err != nil {
		t.Errorf("after SIGTERM the process ended with %v\n%s", err, g.Logs)
	}
	if left := g.Roles(t); len(left) != 0 {
		t.Errorf("left after a drain: %v", left)
	}

	process = gatetest.StartProcess(t, g, configFile)
	g.Connect(t, "orders")
	if err := process.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = process.Wait()
	if left := g.Roles(t); len(left) != 1 {
		t.Fatalf("after kill -9 there are roles %v, want one", left)
	}
	process = gatetest.StartProcess(t, g, configFile)
	eventually.True(t, "the next start sweeps", func() bool { return len(g.Roles(t)) == 0 })
	if err := process.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := process.Wait(); err != nil {
		t.Errorf("process ended with %v", err)
	}
	f, err := os.Open(filepath.Join(g.Folder, "trail.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := audit.Verify(f); err != nil {
		t.Errorf("the trail does not verify: %v", err)
	}
}

// What is wrong with the server or the admin reaches the client as a clear FATAL in seconds, without details, and the
// log says what to mend.
func TestTroubleUpstream(t *testing.T) {
	t.Parallel()
	db := pgtest.Start(t, 16).Database(t)
	full := pgtest.New(t, 16, pgtest.Options{Settings: map[string]string{"max_connections": "5", "superuser_reserved_connections": "1"}})
	tests := []struct {
		name               string
		db                 *pgtest.Database
		secret             string
		before             func(*testing.T, *gatetest.Gate)
		code, message, log string
	}{
		{
			name: "wrong admin secret", db: db, secret: "{file: wrong.json}",
			code: pgerrcode.SystemError, message: `access to "orders" could not be prepared`, log: pgerrcode.InvalidPassword,
		},
		{
			name: "missing admin secret", db: db, secret: "{file: nosuch.json}",
			code: pgerrcode.SystemError, message: `access to "orders" could not be prepared`, log: "nosuch.json",
		},
		{
			name: "server full", db: full.Database(t),
			before: func(t *testing.T, g *gatetest.Gate) { fillServer(t, g) },
			code:   pgerrcode.TooManyConnections, message: `the database server of "orders" has no free connection`, log: pgerrcode.TooManyConnections,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			g := gatetest.New(t, test.db)
			g.Write(t, "wrong.json", fmt.Sprintf(`{"username": %q, "password": "wrong"}`, test.db.Admin))
			g.Run(t, g.Configure(t, gatetest.Options{Grants: gatetest.Grant("inc-1"), Secret: test.secret}))
			if test.before != nil {
				test.before(t, g)
			}
			started := time.Now()
			_, err := g.TryConnect(t, gatetest.Alice, gatetest.AlicePassword, "orders")
			wantFatal(t, err, test.code, test.message)
			if time.Since(started) > 5*time.Second {
				t.Errorf("the refusal took %v", time.Since(started))
			}
			if strings.Contains(fmt.Sprint(err), test.db.Admin) {
				t.Errorf("the client learns the admin's name: %v", err)
			}
			if !strings.Contains(g.Logs.String(), test.log) {
				t.Errorf("the log does not say %q:\n%s", test.log, g.Logs)
			}
			if status, _ := g.Get(t, "/livez"); status != http.StatusOK {
				t.Errorf("/livez: %d", status)
			}
		})
	}
}

// fillServer takes all slots that are not the superuser's, once the gate has its admin connection.
func fillServer(t *testing.T, g *gatetest.Gate) {
	t.Helper()
	eventually.True(t, "the gate has its admin connection", func() bool {
		return strings.Contains(g.Logs.String(), "admin connection ready")
	})
	for {
		conn, err := pgx.Connect(t.Context(), g.DB.Server.URL(g.DB.Owner, g.DB.OwnerPassword, g.DB.Name).String())
		if err != nil {
			return
		}
		t.Cleanup(func() { _ = conn.Close(context.Background()) })
	}
}

// What an admin can't grant, because it is no member of the owner, is left out, and the log says what a DBA has to run.
func TestAdminLacksAnOwner(t *testing.T) {
	t.Parallel()
	gatetest.EachMajor(t, func(t *testing.T, db *pgtest.Database) {
		super := db.Superuser(t)
		stranger := "stranger_" + db.Name
		if _, err := super.Exec(t.Context(), "CREATE ROLE "+stranger+"; CREATE TABLE strange (i int); ALTER TABLE strange OWNER TO "+stranger); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_, _ = super.Exec(context.Background(), "DROP OWNED BY "+stranger+"; DROP ROLE "+stranger)
		})
		g := gatetest.Start(t, db, gatetest.Options{Grants: gatetest.Grant("inc-1")})
		conn := g.Connect(t, "orders")
		if _, err := conn.Exec(t.Context(), "SELECT * FROM orders"); err != nil {
			t.Error(err)
		}
		if _, err := conn.Exec(t.Context(), "SELECT * FROM strange"); sqlstate(err) != pgerrcode.InsufficientPrivilege {
			t.Errorf("the stranger's table: got %v", err)
		}
		g.AwaitMetric(t, `hourgate_objects_left_out{integration="orders"} 1`)
		statement := fmt.Sprintf("GRANT %s TO %s", stranger, db.Admin)
		eventually.True(t, "the log says what to run", func() bool {
			return strings.Contains(g.Logs.String(), "left out of what grants cover") && strings.Contains(g.Logs.String(), statement)
		})
	})
}

func TestOperatorPort(t *testing.T) {
	t.Parallel()
	g := gatetest.Start(t, pgtest.Start(t, 15).Database(t), gatetest.Options{Grants: gatetest.Grant("inc-1")})
	g.Connect(t, "orders")
	g.AwaitMetric(t, `hourgate_sessions{integration="orders"} 1`)        // counted once it is relayed, which the client does not wait for
	g.AwaitMetric(t, `hourgate_admin_connected{integration="orders"} 1`) // the admin's own connection comes beside log-ins
	_, body := g.Get(t, "/metrics")
	for _, want := range []string{
		`hourgate_roles{integration="orders"} 1`,
		`hourgate_roles_made_total{integration="orders"} 1`,
		`hourgate_connect_duration_seconds_count{phase="authenticate"} 1`, "hourgate_build_info", "hourgate_policy_grants 1",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	for _, path := range []string{"/livez", "/readyz"} {
		if status, body := g.Get(t, path); status != http.StatusOK {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
}

func wantFatal(t *testing.T, err error, code, message string) {
	t.Helper()
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Severity != "FATAL" || pgErr.Code != code || pgErr.Message != message {
		t.Fatalf("got %v, want FATAL %s: %s", err, code, message)
	}
}

func sqlstate(err error) string {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Code
	}
	if err != nil {
		return err.Error()
	}
	return ""
}
