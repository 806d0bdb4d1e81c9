package gate_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/gatetest"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/roles/preflight"
)

// withReader runs a gate whose integration "shop" has a replica for its reader; Alice and Bob may read there. No role is on
// either server yet.
func withReader(t *testing.T, major int) (g *gatetest.Gate, replica *pgtest.Server) {
	t.Helper()
	g, replica, config := aboutReader(t, major)
	g.Run(t, config)
	_ = awaitLogin(t, g, "shop").Close(t.Context())
	// Until this session's role has ended, another session may get it, and the reader knows it already.
	onReplica := replica.Superuser(t, g.DB.Name)
	eventually.True(t, "no role is left", func() bool { return len(g.Roles(t)) == 0 && rolesOn(t, g, onReplica) == 0 })
	return g, replica
}

// aboutReader configures such a gate.
func aboutReader(t *testing.T, major int) (g *gatetest.Gate, replica *pgtest.Server, config string) {
	t.Helper()
	server := pgtest.Start(t, major)
	db := server.Database(t)
	replica = server.Replica(t)
	g = gatetest.New(t, db)
	g.Write(t, "servers.yaml", fmt.Sprintf(`
- name: shop
  hostname: localhost
  port: %d
  database: %s
  ssl_root_cert: %s
  readers: ["localhost:%d"]
  secret: {file: secret.json}
`, server.Port, db.Name, server.CAFile, replica.Port))
	return g, replica, g.Configure(t, gatetest.Options{
		Grants: mayRead("read") + mayRead("neighbour", "users", "["+gatetest.Bob+"]"),
		Config: map[string]string{"discovery": "[{file: {path: servers.yaml}}]", "role_linger": "0s"},
	})
}

func mayRead(name string, keys ...string) string {
	return gatetest.Grant(name, append(keys, "integration", "shop")...)
}

// tenants counts the sessions of ephemeral roles on a server, for whom the server's own word is asked.
func tenants(t *testing.T, on *pgx.Conn) (n int) {
	t.Helper()
	err := on.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity a LEFT JOIN pg_roles r ON r.oid = a.usesysid WHERE a.backend_type = 'client backend' AND (r.rolname LIKE 'hg\\_%' OR r.oid IS NULL)").Scan(&n)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Of "shop" the gate knows the reader; of "orders", on the same server, it does not.
func saysWhatReadersAre(t *testing.T, g *gatetest.Gate) {
	t.Helper()
	for integration, want := range map[string]string{
		"shop": "on the 1 reader(s) of this integration sessions end with a grant", "orders": "sessions on them do not end with a grant",
	} {
		found := ""
		for _, check := range g.Gate.Fleet().Keeper(integration).Preflight().Checks(t.Context(), nil) {
			if check.Name == "replicas" && check.Status == preflight.Warn {
				found = check.Detail
			}
		}
		if !strings.Contains(found, want) {
			t.Errorf("%s: got %q, want %q", integration, found, want)
		}
	}
}

// Sessions on readers, with replicas of each major.
func TestReaders(t *testing.T) {
	for _, major := range pgtest.Majors() {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			g, replica := withReader(t, major)
			t.Run("preflight says what the readers are for", func(t *testing.T) { saysWhatReadersAre(t, g) })
			t.Run("a reader that lags is waited for", func(t *testing.T) { waitsForReader(t, g, replica) })
			t.Run("sessions end", func(t *testing.T) { endsOnReader(t, g, replica) })
			g.SetGrants(t, mayRead("read-again")+mayRead("neighbour", "users", "["+gatetest.Bob+"]"))
			t.Run("the end holds while replay is paused", func(t *testing.T) { endsWhilePaused(t, g, replica) })
			t.Run("nobody reads after the end", func(t *testing.T) { readsNoLonger(t, g, replica) })
		})
	}
}

// The end of a grant holds on readers: sessions there end, running statements too, and nothing is left.
func endsOnReader(t *testing.T, g *gatetest.Gate, replica *pgtest.Server) {
	onReplica := replica.Superuser(t, g.DB.Name)
	for _, database := range []string{"shop/ro", "shop/ro/" + g.DB.Name} {
		conn := g.Connect(t, database)
		var recovery bool
		if err := conn.QueryRow(t.Context(), "SELECT pg_is_in_recovery() FROM orders LIMIT 1").Scan(&recovery); err != nil || !recovery {
			t.Fatalf("on %s: in recovery %v, %v", database, recovery, err)
		}
	}
	busy := g.Connect(t, "shop/ro")
	ended := make(chan error, 1)
	go func() { _, err := busy.Exec(t.Context(), "SELECT pg_sleep(600)"); ended <- err }()
	eventually.True(t, "three sessions on the reader", func() bool { return tenants(t, onReplica) == 3 })

	began := time.Now()
	g.SetGrants(t, "")
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "withdrawn") {
		t.Errorf("the running statement ended with %v", err)
	}
	eventually.True(t, "nobody is on the reader", func() bool { return tenants(t, onReplica) == 0 })
	t.Logf("PostgreSQL %d: no session on the reader %v after the change of the policy", replica.Major, time.Since(began))
	eventually.True(t, "the role is gone from the reader", func() bool { return rolesOn(t, g, onReplica) == 0 })
}

// A second after a grant's end nobody reads under it on a reader: neither who came through the gate, nor who has the role's
// password and goes past it, in one session or in one for each row.
func readsNoLonger(t *testing.T, g *gatetest.Gate, replica *pgtest.Server) {
	g.SetGrants(t, mayRead("read-on"))
	conn := awaitLogin(t, g, "shop/ro")
	direct := known(t, g, replica, conn)
	past := pastGate(t, direct)
	ways := map[string]func() error{
		"through the gate": func() error { return reads(t, conn) },
		"past it": func() (err error) {
			if past == nil || past.IsClosed() {
				past, err = direct()
			}
			if err != nil {
				return err
			}
			return reads(t, past)
		},
		"past it, a session for each row": func() error {
			one, err := direct()
			if err != nil {
				return err
			}
			defer func() { _ = one.Close(context.WithoutCancel(t.Context())) }()
			return reads(t, one)
		},
	}
	for way, read := range ways {
		if err := read(); err != nil {
			t.Fatalf("before the end, %s: %v", way, err)
		}
	}
	until := time.Now().Add(2 * time.Second)
	g.SetGrants(t, mayRead("read-on", "until", until.UTC().Format(time.RFC3339Nano)))
	var trying sync.WaitGroup
	for way, read := range ways {
		trying.Go(func() {
			var last time.Time
			for tick := range ticks(t, 5*time.Millisecond) {
				if tick.After(until.Add(1500 * time.Millisecond)) {
					break
				}
				if read() == nil {
					last = time.Now()
				}
			}
			if late := last.Sub(until); late > time.Second {
				t.Errorf("%s: the last row was read %v after the end", way, late)
			} else {
				t.Logf("PostgreSQL %d, %s: the last row was read %v after the end", replica.Major, way, late)
			}
		})
	}
	trying.Wait()
}

func reads(t *testing.T, conn *pgx.Conn) error {
	var amount string
	return conn.QueryRow(t.Context(), "SELECT amount FROM orders LIMIT 1").Scan(&amount)
}

func ticks(t *testing.T, every time.Duration) <-chan time.Time {
	ticker := time.NewTicker(every)
	t.Cleanup(ticker.Stop)
	return ticker.C
}

// rolesOn counts the gate's roles on a server. Other tests have gates too, and the server that is replayed is everybody's.
func rolesOn(t *testing.T, g *gatetest.Gate, conn *pgx.Conn) (n int) {
	t.Helper()
	err := conn.QueryRow(t.Context(),
		"SELECT count(*) FROM pg_roles WHERE rolname LIKE 'hg\\_%' AND shobj_description(oid, 'pg_authid')::json->>'deployment' = $1", g.Deployment()).Scan(&n)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A log-in waits for a reader that lags.
func waitsForReader(t *testing.T, g *gatetest.Gate, replica *pgtest.Server) {
	resume := replica.PauseReplay(t)
	connected := make(chan error, 1)
	go func() {
		conn, err := g.TryConnect(t, gatetest.Alice, gatetest.AlicePassword, "shop/ro")
		if err == nil {
			err = conn.Close(context.WithoutCancel(t.Context()))
		}
		connected <- err
	}()
	eventually.True(t, "the role is made", func() bool { return len(g.Roles(t)) == 1 })
	if n := rolesOn(t, g, replica.Superuser(t, g.DB.Name)); n != 0 {
		t.Fatalf("the reader knows %d roles while replay is paused, want none", n)
	}
	select {
	case err := <-connected:
		t.Fatalf("let in on a reader that does not know the role: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	resume()
	if err := <-connected; err != nil {
		t.Errorf("once the reader has caught up: %v", err)
	}
}

// A reader that lags for too long is said to. Meanwhile sessions past the gate are put out there, under a role it knows.
func TestReaderThatLagsTooLong(t *testing.T) {
	t.Parallel()
	g, replica := withReader(t, 17)
	friend := pastGate(t, known(t, g, replica, bob(t, g)))
	replica.PauseReplay(t)
	began, lasted := time.Now(), make(chan time.Duration, 1)
	go func() {
		_, _ = friend.Exec(t.Context(), "SELECT pg_sleep(60)")
		lasted <- time.Since(began)
	}()
	_, err := g.TryConnect(t, gatetest.Alice, gatetest.AlicePassword, "shop/ro")
	if err == nil || !strings.Contains(err.Error(), `the reader of "shop" is behind its writer`) {
		t.Errorf("got %v", err)
	}
	if _, err := g.TryConnect(t, gatetest.Alice, gatetest.AlicePassword, "shop"); err != nil {
		t.Errorf("the writer: %v", err)
	}
	// While the log-in waited no role ended, and the reader was looked at all the same.
	if took := <-lasted; took > 7*time.Second { // five seconds, and the machine's noise; the log-in waits for eight
		t.Errorf("a session past the gate was put out after %v", took)
	}
}

// bob logs Bob in on the reader.
func bob(t *testing.T, g *gatetest.Gate) *pgx.Conn {
	t.Helper()
	conn, err := g.TryConnect(t, gatetest.Bob, gatetest.BobPassword, "shop/ro")
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// known gives the role of a session a password that a tenant may know, and returns a log-in to the reader with it.
func known(t *testing.T, g *gatetest.Gate, replica *pgtest.Server, conn *pgx.Conn) (direct func() (*pgx.Conn, error)) {
	t.Helper()
	var role string
	if err := conn.QueryRow(t.Context(), "SELECT session_user").Scan(&role); err != nil {
		t.Fatal(err)
	}
	if _, err := g.DB.Superuser(t).Exec(t.Context(), fmt.Sprintf("ALTER ROLE %s PASSWORD 'known'", role)); err != nil {
		t.Fatal(err)
	}
	return func() (*pgx.Conn, error) {
		return pgx.Connect(t.Context(), replica.URL(role, "known", g.DB.Name).String())
	}
}

// pastGate is a session on the reader under the role of a session there, as soon as the reader has the password.
func pastGate(t *testing.T, direct func() (*pgx.Conn, error)) (friend *pgx.Conn) {
	t.Helper()
	eventually.True(t, "the reader has the password", func() (ok bool) {
		var err error
		friend, err = direct()
		return err == nil
	})
	return friend
}

// While replay stands still the reader lets an ended role in, whose password a tenant may know. It is put out again and
// again until the reader knows of the end.
func endsWhilePaused(t *testing.T, g *gatetest.Gate, replica *pgtest.Server) {
	onReplica := replica.Superuser(t, g.DB.Name)
	conn := awaitLogin(t, g, "shop/ro")
	direct := known(t, g, replica, conn)
	friend := pastGate(t, direct)
	// Readers are looked at every few seconds, and at once when a role ends: a neighbour's end saves the wait.
	_ = bob(t, g).Close(t.Context())
	eventually.True(t, "a session past the gate is put out", func() bool { return friend.Ping(t.Context()) != nil })
	eventually.True(t, "the neighbour's role is gone", func() bool { return len(g.Roles(t)) == 1 && rolesOn(t, g, onReplica) == 1 })
	resume := replica.PauseReplay(t)
	g.SetGrants(t, "")
	eventually.True(t, "the session ends", func() bool { return conn.Ping(t.Context()) != nil })
	eventually.True(t, "the role is gone from the writer", func() bool { return len(g.Roles(t)) == 0 })
	if n := rolesOn(t, g, onReplica); n != 1 {
		t.Fatalf("the reader knows %d roles, want that which has ended", n)
	}
	for range 3 {
		friend, err := direct()
		if err != nil {
			t.Fatalf("the reader should still let the role in: %v", err)
		}
		eventually.True(t, "the session of the ended role is put out", func() bool { return friend.Ping(t.Context()) != nil })
	}
	resume()
	eventually.True(t, "the role is gone from the reader", func() bool { return rolesOn(t, g, onReplica) == 0 })
	if n := tenants(t, onReplica); n != 0 {
		t.Errorf("%d sessions are left on the reader", n)
	}
}
