package gate_test

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/gatetest"
	"github.com/hourgate/hourgate/internal/pgtest"
)

var connected = regexp.MustCompile(`(?m)^hourgate_admin_connected\{integration="i\d+"\} 1$`)

// Two hundred integrations are databases of one server, which lends the gate a handful of connections: while all are looked
// at, while people log in through many of them, and afterwards. Their roles live on, though few have a connection in their
// database, and none is taken for one of a process that has died.
func TestManyIntegrationsOnOneServer(t *testing.T) {
	t.Parallel()
	const integrations, databases, used = 200, 5, 40
	server := pgtest.Start(t, 17)
	db := server.Database(t)
	super := server.Superuser(t, "postgres")
	var list, grants strings.Builder
	for i := range databases {
		if _, err := super.Exec(t.Context(), fmt.Sprintf("CREATE DATABASE %s_%d OWNER %s", db.Name, i, db.Admin)); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for i := range databases {
			if _, err := super.Exec(context.Background(), fmt.Sprintf("DROP DATABASE %s_%d WITH (FORCE)", db.Name, i)); err != nil {
				t.Error(err)
			}
		}
	})
	for i := range integrations {
		fmt.Fprintf(&list, "  - {name: i%d, hostname: localhost, port: %d, database: %s_%d, ssl_root_cert: %s, secret: {file: secret.json}}\n",
			i, server.Port, db.Name, i%databases, server.CAFile)
		if i < used {
			grants.WriteString(gatetest.Grant(fmt.Sprintf("g%d", i), "integration", fmt.Sprintf("i%d", i)))
		}
	}
	most, stop := mostConnections(t, db)
	g := gatetest.New(t, db)
	config := g.Configure(t, gatetest.Options{Grants: grants.String()})
	g.Run(t, g.Reconfigure(t, config, "integrations:\n", "integrations:\n"+list.String()))
	eventually.True(t, "all servers were asked", func() bool {
		_, page := g.Get(t, "/metrics")
		return len(connected.FindAllString(page, -1)) == integrations
	})
	var sessions sync.WaitGroup
	turns := make(chan struct{}, 4) // so that none waits for longer than a log-in may take, on a machine that is slow
	for i := range used {
		sessions.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			conn, err := g.TryConnect(t, gatetest.Alice, gatetest.AlicePassword, fmt.Sprintf("i%d", i))
			if err != nil {
				t.Errorf("i%d: %v", i, err)
				return
			}
			if _, err := conn.Exec(t.Context(), "SELECT 1"); err != nil {
				t.Errorf("i%d: %v", i, err)
			}
		})
	}
	sessions.Wait()
	if roles := len(g.Roles(t)); roles != used {
		t.Errorf("%d roles, want %d", roles, used)
	}
	if err := g.Gate.Fleet().Keeper("i199").Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	if roles := len(g.Roles(t)); roles != used {
		t.Errorf("%d roles after a sweep, want %d", roles, used)
	}
	if n := most(); n < 2 || n > admin.Limit {
		t.Errorf("%d admin connections at once, want at most %d", n, admin.Limit)
	}
	stop()
}

// mostConnections looks every few milliseconds how many connections the admin has, and says the highest number.
func mostConnections(t *testing.T, db *pgtest.Database) (most func() int64, stop func()) {
	t.Helper()
	super := db.Server.Superuser(t, "postgres")
	ctx, cancel := context.WithCancel(t.Context())
	var highest atomic.Int64
	var looking sync.WaitGroup
	looking.Go(func() {
		often := time.NewTicker(5 * time.Millisecond) // and not all the time: that would take a processor from everybody
		defer often.Stop()
		for ; ctx.Err() == nil; <-often.C {
			var n int64
			if err := super.QueryRow(ctx, countAdmin, db.Admin).Scan(&n); err != nil && ctx.Err() == nil {
				t.Error(err)
				return
			}
			highest.Store(max(highest.Load(), n))
		}
	})
	stop = func() { cancel(); looking.Wait() }
	t.Cleanup(stop)
	return highest.Load, stop
}

const countAdmin = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1"
