package gate_test

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/gatetest"
	"github.com/hourgate/hourgate/internal/pgtest"
)

// loginTarget is where a benchmark logs in: with TLS, SCRAM, one query and Terminate.
type loginTarget struct {
	config *pgconn.Config
	spent  time.Duration // in log-ins
	logins int
}

func newLoginTarget(b *testing.B, user, password, database, address, caFile string) *loginTarget {
	b.Helper()
	_, port, _ := net.SplitHostPort(address)
	config, err := pgconn.ParseConfig(fmt.Sprintf("host=localhost port=%s user=%s password='%s' dbname=%s sslmode=verify-full sslrootcert=%s",
		port, user, password, database, caFile))
	if err != nil {
		b.Fatal(err)
	}
	config.LookupFunc = func(context.Context, string) ([]string, error) { return []string{"127.0.0.1"}, nil }
	return &loginTarget{config: config}
}

// login is one whole session.
func (t *loginTarget) login(ctx context.Context) error {
	conn, err := pgconn.ConnectConfig(ctx, t.config)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "SELECT 1").ReadAll()
	_ = conn.Close(ctx)
	return err
}

// run logs in n times, with so many clients at once.
func (t *loginTarget) run(b *testing.B, clients, n int) {
	b.Helper()
	began := time.Now()
	var running sync.WaitGroup
	for client := range clients {
		running.Go(func() {
			for i := client; i < n; i += clients {
				if err := t.login(b.Context()); err != nil {
					b.Error(err)
				}
			}
		})
	}
	running.Wait()
	t.spent += time.Since(began)
	t.logins += n
}

func (t *loginTarget) rate() float64 { return float64(t.logins) / t.spent.Seconds() }

// startLoginGate runs a gate as a process of its own, built as users build it, in front of a PostgreSQL 15 with TLS.
// Give it and the server as they are when nobody uses them.
func startLoginGate(b *testing.B, config map[string]string) (g *gatetest.Gate, direct, gate *loginTarget) {
	b.Helper()
	db := pgtest.Start(b, 15).Database(b)
	g = gatetest.New(b, db)
	program := filepath.Join(b.TempDir(), "hourgate")
	if out, err := exec.Command("go", "build", "-o", program, "github.com/hourgate/hourgate/cmd/hourgate").CombinedOutput(); err != nil {
		b.Fatalf("go build: %v\n%s", err, out)
	}
	g.StartProgram(b, program, g.Configure(b, gatetest.Options{Grants: gatetest.Grant("bench"), LogLevel: "INFO", Config: config}))
	direct = newLoginTarget(b, db.Owner, db.OwnerPassword, db.Name, db.Server.Address(), db.Server.CAFile)
	gate = newLoginTarget(b, gatetest.Alice, gatetest.AlicePassword, "orders", g.Addr, g.CA)
	return g, direct, gate
}

// processTime is what the gate's process has used, as it says itself.
func processTime(t testing.TB, g *gatetest.Gate) time.Duration {
	t.Helper()
	_, body := g.Get(t, "/metrics")
	for line := range strings.Lines(body) {
		if value, ok := strings.CutPrefix(line, "process_cpu_seconds_total "); ok {
			seconds, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatal(err)
			}
			return time.Duration(seconds * float64(time.Second))
		}
	}
	return 0 // not known on this system
}

// BenchmarkLogin compares log-ins under a grant whose role is there already with direct ones, in turns, so that whatever
// else the machine does meets both. -benchtime 400x gives figures that can be compared.
func BenchmarkLogin(b *testing.B) {
	g, direct, gate := startLoginGate(b, nil)
	gate.run(b, 1, 1) // makes the role
	for _, clients := range []int{1, 8} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			*direct, *gate = loginTarget{config: direct.config}, loginTarget{config: gate.config}
			var cpu time.Duration
			for left := b.N; left > 0; left -= 40 {
				turn := min(left, 40)
				direct.run(b, clients, turn)
				before := processTime(b, g)
				gate.run(b, clients, turn)
				cpu += processTime(b, g) - before
			}
			b.ReportMetric(0, "ns/op") // of both together, which says nothing
			b.ReportMetric(direct.rate(), "direct/s")
			b.ReportMetric(gate.rate(), "gate/s")
			b.ReportMetric(gate.rate()/direct.rate(), "gate/direct")
			b.ReportMetric(float64(cpu.Microseconds())/float64(b.N), "gate-cpu-µs")
		})
	}
}

// BenchmarkFirstLogin is for log-ins for which a role is made, against direct ones.
func BenchmarkFirstLogin(b *testing.B) {
	g, direct, gate := startLoginGate(b, map[string]string{"role_linger": "0s"})
	super := g.DB.Superuser(b)
	gate.run(b, 1, 1) // makes the profile
	for b.Loop() {
		eventually.True(b, "the last role is gone", func() bool { return countRoles(b, super, g.Deployment()) == 0 })
		direct.run(b, 1, 1)
		gate.run(b, 1, 1)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(1000/direct.rate(), "direct-ms")
	b.ReportMetric(1000/gate.rate(), "gate-ms")
	b.ReportMetric(1000/gate.rate()-1000/direct.rate(), "added-ms")
}

func countRoles(t testing.TB, super *pgx.Conn, deployment string) (n int) {
	t.Helper()
	err := super.QueryRow(t.Context(), `SELECT count(*) FROM pg_roles
		WHERE rolname LIKE 'hg\_%' AND shobj_description(oid, 'pg_authid')::json->>'deployment' = $1 AND rolcanlogin`, deployment).Scan(&n)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
