//go:build moto

package gate_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/hourgate/hourgate/internal/awstest"
	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/pgtest"
)

// A thousand servers are found in time, and cost next to nothing until somebody uses one.
func TestThousandServers(t *testing.T) {
	const servers = 1000
	db := pgtest.Start(t, 17).Database(t)
	watcher := db.Superuser(t)
	connections := func() (n int) {
		row := watcher.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE usename = $1", db.Admin)
		if err := row.Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	s := awstest.New(t)
	for i := range servers {
		s.Add(ireland, awstest.Instance{ID: fmt.Sprintf("server-%04d", i), Tags: foundTags()})
	}
	began := time.Now()
	g := discovering(t, db, s, "trusted_tags: [env]\n")
	eventually.Within(t, 30*time.Second, "all servers are known", func() bool { return len(g.Gate.Fleet().States()) == servers+1 })
	found := time.Since(began)

	most, few := 0, 0
	eventually.Within(t, 5*time.Minute, "each was looked at, and its connections are closed", func() bool {
		n := connections()
		if n > most {
			most = n
			t.Logf("%d connections after %v", n, time.Since(began))
		}
		if few++; n > 4 { // of the integration that is in the configuration
			few = 0
		}
		return few > 100
	})
	swept := time.Since(began)
	runtime.GC()
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	t.Logf("%d servers are known after %v and looked at after %v; %d connections at most, %d MiB of heap, %d goroutines",
		servers, found, swept, most, memory.HeapInuse>>20, runtime.NumGoroutine())
	if most > 50 {
		t.Errorf("%d connections at once", most)
	}
	if perServer := memory.HeapInuse / servers; perServer > 200<<10 {
		t.Errorf("%d bytes of heap for each server", perServer)
	}
	conn := awaitLogin(t, g, "server-0500")
	works(t, conn, "a session on one of a thousand")
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}
