package gate_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/gatetest"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/internal/verifier"
	"github.com/hourgate/hourgate/policy"
)

// cutAdmin ends the gate's admin connections, so that the next one needs the secret.
func cutAdmin(t *testing.T, super *pgx.Conn, admin string) {
	t.Helper()
	if _, err := super.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", admin); err != nil {
		t.Fatal(err)
	}
}

func execute(t *testing.T, conn *pgx.Conn, statements ...string) {
	t.Helper()
	for _, statement := range statements {
		if _, err := conn.Exec(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

// newSession waits until a person can log in, and says how long that took.
func newSession(t *testing.T, g *gatetest.Gate, user, password string, since time.Time) time.Duration {
	t.Helper()
	var took time.Duration
	eventually.True(t, user+" logs in", func() bool {
		conn, err := g.TryConnect(t, user, password, "orders")
		if err != nil {
			return false
		}
		took = time.Since(since)
		_ = conn.Close(t.Context())
		return true
	})
	return took
}

// The admin's password changes on the server first and in the secret later, as a rotation does it, with no admin
// connection left that could help: sessions live on, new ones work once the secret is right, ends still end.
func TestAdminPasswordRotates(t *testing.T) {
	t.Parallel()
	gatetest.EachMajor(t, func(t *testing.T, db *pgtest.Database) {
		bobs := gatetest.Grant("inc-2", "users", "["+gatetest.Bob+"]")
		g := gatetest.Start(t, db, gatetest.Options{Grants: gatetest.Grant("inc-1", "access", "READ_WRITE") + bobs, Config: map[string]string{"role_linger": "0s"}})
		session := g.Connect(t, "orders")
		super := db.Superuser(t)

		execute(t, super, fmt.Sprintf("ALTER ROLE %s PASSWORD 'rotated'", db.Admin))
		cutAdmin(t, super, db.Admin)
		eventually.True(t, "bob is turned away", func() bool {
			conn, err := g.TryConnect(t, gatetest.Bob, gatetest.BobPassword, "orders")
			if err == nil { // an admin connection was being made when the others were cut
				_ = conn.Close(t.Context())
				cutAdmin(t, super, db.Admin)
				return false
			}
			wantFatal(t, err, pgerrcode.SystemError, `access to "orders" could not be prepared`)
			return true
		})
		execute(t, session, "SELECT 1")

		g.Write(t, "secret.json", fmt.Sprintf(`{"username": %q, "password": "rotated"}`, db.Admin))
		t.Logf("new sessions %v after the secret", newSession(t, g, gatetest.Bob, gatetest.BobPassword, time.Now()))
		execute(t, session, "UPDATE orders SET note = 'rotated' WHERE id = 1")

		g.SetGrants(t, bobs)
		_, err := session.Exec(t.Context(), "SELECT pg_sleep(20)")
		wantFatal(t, err, pgerrcode.AdminShutdown, "terminating connection: your grant was withdrawn or changed")
		eventually.True(t, "all roles are gone", func() bool { return len(g.Roles(t)) == 0 })
	})
}

// Alternating users: the secret names another admin, and then the first can't log in any more. All versions up to 15 let
// any admin alter any role; from 16 on it takes the stable role that makes roles on behalf of both.
func TestAdminUserAlternates(t *testing.T) {
	t.Parallel()
	for _, major := range []int{15, 16, 18} {
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t, major, pgtest.Options{}).Database(t) // of its own: hourgate_owner counts for a whole server
			super := db.Superuser(t)
			execute(t, super,
				fmt.Sprintf("CREATE ROLE admin_b LOGIN CREATEDB CREATEROLE PASSWORD 'second'; GRANT %s TO admin_b", db.Owner),
				fmt.Sprintf("CREATE ROLE hourgate_owner NOLOGIN CREATEROLE; GRANT %s TO hourgate_owner", db.Owner),
				fmt.Sprintf("GRANT hourgate_owner TO %s, admin_b", db.Admin))
			bobs := gatetest.Grant("inc-2", "users", "["+gatetest.Bob+"]")
			g := gatetest.Start(t, db, gatetest.Options{Grants: gatetest.Grant("inc-1") + bobs, Config: map[string]string{"role_linger": "0s"}})
			session := g.Connect(t, "orders")

			g.Write(t, "secret.json", `{"username": "admin_b", "password": "second"}`)
			execute(t, super, fmt.Sprintf("ALTER ROLE %s NOLOGIN PASSWORD NULL", db.Admin))
			cutAdmin(t, super, db.Admin)
			t.Logf("new sessions %v after the change", newSession(t, g, gatetest.Bob, gatetest.BobPassword, time.Now()))
			execute(t, session, "SELECT 1")

			g.SetGrants(t, bobs)
			_, err := session.Exec(t.Context(), "SELECT pg_sleep(20)")
			wantFatal(t, err, pgerrcode.AdminShutdown, "terminating connection: your grant was withdrawn or changed")
			eventually.True(t, "the first admin's roles are gone too", func() bool { return len(g.Roles(t)) == 0 })
		})
	}
}

// Passwords of the admin, of a person and of an ephemeral role are nowhere that anybody looks.
func TestPasswordsAreNowhere(t *testing.T) {
	t.Parallel()
	for _, major := range []int{13, 18} {
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t, major, pgtest.Options{Settings: map[string]string{
				"log_statement": "all", "log_min_duration_statement": "0", "log_connections": "on", "log_min_messages": "debug1",
			}}).Database(t)
			g := gatetest.Start(t, db, gatetest.Options{Grants: gatetest.Grant("inc-1", "access", "ADMIN")})
			session := g.Connect(t, "orders")
			execute(t, session, "CREATE TABLE mine (id int)", "SELECT 1")
			ephemeral := ephemeralPassword(t, g)
			if _, err := g.TryConnect(t, gatetest.Alice, gatetest.AlicePassword+"x", "orders"); err == nil {
				t.Error("logged in with a wrong password")
			}
			super := db.Superuser(t)
			var activity string
			if err := super.QueryRow(t.Context(), "SELECT coalesce(string_agg(a::text, '\n'), '') FROM pg_stat_activity a").Scan(&activity); err != nil {
				t.Fatal(err)
			}
			// A rotation that goes wrong, for the texts of errors.
			g.Write(t, "secret.json", fmt.Sprintf(`{"username": %q, "password": %q}`, db.Admin, db.AdminPassword+"x"))
			execute(t, super, fmt.Sprintf("ALTER ROLE %s PASSWORD NULL", db.Admin))
			cutAdmin(t, super, db.Admin)
			if _, err := g.TryConnect(t, gatetest.Alice, gatetest.AlicePassword, "orders"); err != nil {
				t.Logf("while the secret is wrong: %v", err) // the role lives, so it may work
			}
			_, metrics := g.Get(t, "/metrics")
			trail, err := os.ReadFile(filepath.Join(g.Folder, "trail.jsonl"))
			if err != nil {
				t.Fatal(err)
			}
			for place, text := range map[string]string{
				"log of the gate": g.Logs.String(), "trail": string(trail), "metrics": metrics,
				"pg_stat_activity": activity, "log of the server": db.Server.Log(),
			} {
				if text == "" {
					t.Errorf("%s: nothing there to look at", place)
				}
				for whose, password := range map[string]string{"admin": db.AdminPassword, "alice": gatetest.AlicePassword, "role": ephemeral} {
					if strings.Contains(text, password) || strings.Contains(text, base64.StdEncoding.EncodeToString([]byte(password))) {
						t.Errorf("%s: holds the password of the %s", place, whose)
					}
				}
			}
			v, err := verifier.New(db.AdminPassword+"x", verifier.DefaultIterations)
			if err != nil {
				t.Fatal(err)
			}
			execute(t, super, fmt.Sprintf("ALTER ROLE %s PASSWORD '%s'", db.Admin, v.Encode())) // so that the end can settle
		})
	}
}

// ephemeralPassword is that of the role that alice's session uses.
func ephemeralPassword(t *testing.T, g *gatetest.Gate) string {
	t.Helper()
	grant := g.Gate.Live().Set().Decide(policy.Request{User: gatetest.Alice, Database: "orders"}, time.Now()).Grant
	lease, err := g.Gate.Fleet().Keeper("orders").Acquire(t.Context(), gatetest.Alice, grant, g.DB.Name)
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Release()
	password := lease.Login().Password
	if len(password) < 32 {
		t.Fatalf("that is no password of a role: %d characters", len(password))
	}
	return password
}

// A server that restarts under load cuts its sessions with its own words, and who comes then gets in once it is back.
func TestServerRestarts(t *testing.T) {
	t.Parallel()
	for name, mode := range map[string]pgtest.StopMode{"fast": pgtest.Fast, "immediate": pgtest.Immediate} {
		for _, major := range []int{13, 18} {
			t.Run(fmt.Sprintf("%s PostgreSQL %d", name, major), func(t *testing.T) {
				t.Parallel()
				server := pgtest.New(t, major, pgtest.Options{})
				g := gatetest.Start(t, server.Database(t), gatetest.Options{Grants: gatetest.Grant("inc-1", "access", "READ_WRITE") + gatetest.Grant("inc-2", "users", "["+gatetest.Bob+"]")})
				const sessions = 8
				ends := make(chan error, sessions)
				var busy sync.WaitGroup
				for i := range sessions {
					conn := g.Connect(t, "orders")
					busy.Add(1)
					go func() {
						_, err := conn.Exec(context.Background(), "SELECT 1")
						busy.Done()
						for err == nil {
							_, err = conn.Exec(context.Background(), fmt.Sprintf("UPDATE orders SET note = 'x' WHERE id = %d", i+1))
						}
						ends <- err
					}()
				}
				busy.Wait()
				stopping := time.Now()
				server.Stop(t, mode)
				counts := make(map[string]int)
				for range sessions {
					counts[ending(t, <-ends)]++
				}
				cut := time.Since(stopping)

				waiting := make(chan time.Duration, 1)
				go func() { waiting <- newSession(t, g, gatetest.Bob, gatetest.BobPassword, stopping) }()
				time.Sleep(300 * time.Millisecond) // it is on its way
				server.Start(t)
				back := time.Now()
				first := <-waiting
				again := newSession(t, g, gatetest.Alice, gatetest.AlicePassword, back)
				t.Logf("all sessions cut after %v: %v; server back after %v; first log-in %v after the stop, the next %v after it was back",
					cut.Round(time.Millisecond), counts, back.Sub(stopping).Round(time.Millisecond), first.Round(time.Millisecond), again.Round(time.Millisecond))
				if again > 5*time.Second {
					t.Errorf("log-ins work again only %v after the server is back", again)
				}
				if mode == pgtest.Fast && counts["08006"] > 0 {
					t.Errorf("sessions were not told what the server said: %v", counts)
				}
			})
		}
	}
}

// ending is how a session was cut: the server's SQLSTATE; the gate's 08006 where the server had no time for words; or
// "closed" where the client was just writing.
func ending(t *testing.T, err error) string {
	t.Helper()
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return "closed"
	}
	if !slices.Contains([]string{pgerrcode.AdminShutdown, pgerrcode.CrashShutdown, pgerrcode.ConnectionFailure}, pgErr.Code) {
		t.Errorf("a session ended with %v", err)
	}
	return pgErr.Code
}

// A server that has become a replica is no place for roles, and says so; once it is promoted, it works.
func TestReplicaIsNotUsed(t *testing.T) {
	t.Parallel()
	for _, major := range []int{13, 18} {
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) {
			t.Parallel()
			server := pgtest.New(t, major, pgtest.Options{})
			bobs := gatetest.Grant("inc-2", "users", "["+gatetest.Bob+"]")
			g := gatetest.Start(t, server.Database(t), gatetest.Options{Grants: gatetest.Grant("inc-1", "access", "READ_WRITE") + bobs})
			session := g.Connect(t, "orders")

			var folder string
			super := server.Superuser(t, "postgres")
			if err := super.QueryRow(t.Context(), "SHOW data_directory").Scan(&folder); err != nil {
				t.Fatal(err)
			}
			execute(t, super, fmt.Sprintf("COPY (SELECT '') TO '%s/standby.signal'", folder))
			server.Restart(t)
			if _, err := session.WaitForNotification(t.Context()); err == nil {
				t.Error("the session outlives a restart")
			}
			const standby = `the database server of "orders" is a standby at present`
			_, err := g.TryConnect(t, gatetest.Alice, gatetest.AlicePassword, "orders") // her role is there, and its password works
			wantFatal(t, err, pgerrcode.CannotConnectNow, standby)
			_, err = g.TryConnect(t, gatetest.Bob, gatetest.BobPassword, "orders") // his has to be made
			wantFatal(t, err, pgerrcode.CannotConnectNow, standby)
			eventually.True(t, "the log says why", func() bool { return strings.Contains(g.Logs.String(), "the server is a replica") })

			// Hers ends while nothing can be written. The role ends with the promotion, and his can be made.
			g.SetGrants(t, bobs)
			eventually.True(t, "the grant is withdrawn", func() bool {
				_, err := g.TryConnect(t, gatetest.Alice, gatetest.AlicePassword, "orders")
				return err != nil && strings.Contains(err.Error(), "28000")
			})
			if roles := g.Roles(t); len(roles) != 1 {
				t.Errorf("roles of the standby: %v", roles)
			}
			execute(t, server.Superuser(t, "postgres"), "SELECT pg_promote()")
			t.Logf("new sessions %v after the promotion", newSession(t, g, gatetest.Bob, gatetest.BobPassword, time.Now()))
			eventually.True(t, "her role is gone, his is there", func() bool {
				roles := g.Roles(t)
				return len(roles) == 1 && strings.HasPrefix(roles[0], "hg_bob_")
			})
		})
	}
}
