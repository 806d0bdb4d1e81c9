package gate_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/gatetest"
)

// The gate is killed while people are on a reader: one in a long statement, whose server process notices nothing, and one
// past the gate, under a role whose password is known. The next gate puts both out, also where the reader lags and still
// lets in a role that is gone from the writer.
func TestReadersAfterACrash(t *testing.T) {
	for _, c := range []struct {
		major int
		lags  bool
	}{{13, true}, {18, false}} {
		t.Run(fmt.Sprint(c.major), func(t *testing.T) {
			t.Parallel()
			crashOnReader(t, c.major, c.lags)
		})
	}
}

func crashOnReader(t *testing.T, major int, lags bool) {
	g, replica, config := aboutReader(t, major)
	// "orders" is the same server: whichever of the two sweeps the role has to know its reader.
	config = g.Reconfigure(t, config, "secret: {file: secret.json}", fmt.Sprintf("secret: {file: secret.json}\n    readers: [\"localhost:%d\"]", replica.Port))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the gate:\n%s", g.Logs)
		}
	})
	process := gatetest.StartProcess(t, g, config)
	onReplica := replica.Superuser(t, g.DB.Name)
	conn := awaitLogin(t, g, "shop/ro")
	direct := known(t, g, replica, conn)
	pastGate(t, direct) // the reader has the password
	busy := make(chan error, 1)
	go func() { _, err := conn.Exec(t.Context(), "SELECT pg_sleep(600)"); busy <- err }()
	eventually.True(t, "the statement runs", func() (runs bool) {
		err := onReplica.QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND pid <> pg_backend_pid())").Scan(&runs)
		return err == nil && runs
	})
	if err := process.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = process.Wait()
	<-busy // the client has lost the gate; the server goes on
	friend := pastGate(t, direct)
	if n := tenants(t, onReplica); n < 2 {
		t.Fatalf("%d sessions of tenants are on the reader after the crash, want the one that runs and the one past the gate", n)
	}
	resume := func() {}
	if lags {
		resume = replica.PauseReplay(t)
	}

	// Killed once more, in the midst of it.
	process = gatetest.StartProcess(t, g, config)
	eventually.True(t, "the writer has no role, or the reader no tenant", func() bool { return len(g.Roles(t)) == 0 || tenants(t, onReplica) == 0 })
	_ = process.Process.Kill()
	_ = process.Wait()

	gatetest.StartProcess(t, g, config)
	began := time.Now()
	eventually.True(t, "the writer has no role", func() bool { return len(g.Roles(t)) == 0 })
	eventually.True(t, "the one past the gate is put out", func() bool { return friend.Ping(t.Context()) != nil })
	eventually.True(t, "nobody is on the reader", func() bool { return tenants(t, onReplica) == 0 })
	t.Logf("nobody is on the reader %v after the start", time.Since(began))
	if lags {
		again := pastGate(t, direct) // the reader does not know yet
		eventually.True(t, "who comes in meanwhile is put out", func() bool { return again.Ping(t.Context()) != nil })
		resume()
	}
	eventually.True(t, "the reader has no role", func() bool { return rolesOn(t, g, onReplica) == 0 })
	if _, err := direct(); err == nil {
		t.Error("the reader lets the role in after all")
	}
}
