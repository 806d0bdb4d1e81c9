package gate_test

import (
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/gatetest"
	"github.com/hourgate/hourgate/internal/pgtest"
)

// A server that was never there is told of at once, and the log does not say that it was lost. It is looked for on and on.
func TestServerDownAtTheStart(t *testing.T) {
	t.Parallel()
	db := pgtest.Start(t, 17).Database(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().(*net.TCPAddr)
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	g := gatetest.New(t, db)
	config := g.Configure(t, gatetest.Options{Grants: gatetest.Grant("inc-1")})
	g.Run(t, g.Reconfigure(t, config, "port: "+strconv.Itoa(db.Server.Port), "port: "+strconv.Itoa(address.Port)))

	began := time.Now()
	_, err = g.TryConnect(t, gatetest.Alice, gatetest.AlicePassword, "orders")
	wantFatal(t, err, pgerrcode.SQLClientUnableToEstablishSQLConnection, `the database server of "orders" can't be reached`)
	if took := time.Since(began); took > 4*time.Second { // less than a server that fails over is waited for
		t.Errorf("it took %v", took)
	}
	g.AwaitMetric(t, `hourgate_connections_refused_total{reason="unreachable"} 1`)
	eventually.True(t, "the log says why", func() bool {
		return strings.Contains(g.Logs.String(), "no admin connection yet, trying again") && strings.Contains(g.Logs.String(), "refused")
	})
	if strings.Contains(g.Logs.String(), "lost") {
		t.Errorf("something is lost that never was there:\n%s", g.Logs)
	}
}

// Whoever looks at a gate before anything has happened sees all counters at zero, so that the first event is an increase.
func TestCountersBeginAtZero(t *testing.T) {
	t.Parallel()
	db := pgtest.Start(t, 17).Database(t)
	g := gatetest.Start(t, db, gatetest.Options{
		Grants: gatetest.Grant("inc-1") + `access_flows:
  - name: support
    requestors: {users: [` + gatetest.Alice + `]}
    targets: [{integrations: [orders], access: [READ_ONLY]}]
    max_duration: 1h
    break_glass: {users: [` + gatetest.Alice + `], max_duration: 30m, review_by: [{users: [` + gatetest.Bob + `]}]}
`,
	})
	_, metrics := g.Get(t, "/metrics")
	for _, series := range []string{
		`hourgate_sessions_ended_total{integration="orders",reason="disconnect"}`,
		`hourgate_sessions_ended_total{integration="orders",reason="grant_expired"}`,
		`hourgate_sessions_ended_total{integration="orders",reason="panic"}`,
		`hourgate_upstream_connections_total{integration="orders",tls="verified"}`,
		`hourgate_upstream_connections_total{integration="orders",tls="none"}`,
		`hourgate_connections_refused_total{reason="authentication"}`,
		`hourgate_connections_refused_total{reason="unreachable"}`,
		`hourgate_connections_refused_total{reason="trail"}`,
		`hourgate_cancel_requests_total{result="unknown"}`,
		`hourgate_roles_made_total{integration="orders"}`,
		`hourgate_roles_settle_failures_total{integration="orders"}`,
		`hourgate_roles_tombstones_total{integration="orders"}`,
		`hourgate_foreign_sessions_total{integration="orders"}`,
		`hourgate_trail_errors_total`,
		`hourgate_session_panics_total`,
		`hourgate_request_changes_total{event="request_filed",flow="support"}`,
		`hourgate_request_changes_total{event="extension_lapsed",flow="support"}`,
		`hourgate_break_glass_total{flow="support"}`,
	} {
		if !strings.Contains(metrics, "\n"+series+" 0\n") {
			t.Errorf("%s is not 0", series)
		}
	}
	conn := g.Connect(t, "orders")
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	g.AwaitMetric(t, `hourgate_sessions_ended_total{integration="orders",reason="disconnect"} 1`)
}

// Whether results are recorded can be changed under a running gate, for the sessions that come then.
func TestResultsAreTurnedOff(t *testing.T) {
	t.Parallel()
	db := pgtest.Start(t, 17).Database(t)
	g := gatetest.New(t, db)
	config := g.Configure(t, gatetest.Options{Grants: gatetest.Grant("inc-1")})
	g.Run(t, config)
	ask := func() {
		conn := g.Connect(t, "orders")
		if _, err := conn.Exec(t.Context(), "SELECT generate_series(1, 7)"); err != nil {
			t.Fatal(err)
		}
		_ = conn.Close(t.Context())
	}
	ask()
	results := func() (seven int) {
		for _, r := range g.Records(t, audit.StatementResult) {
			if r.Command == "SELECT 7" && r.Rows == 7 && r.Session != "" && r.Call > 0 && r.Duration > 0 {
				seven++
			}
		}
		return seven
	}
	eventually.True(t, "the result is recorded", func() bool { return results() == 1 })
	g.Reconfigure(t, config, "audit: {file: trail.jsonl}", "audit: {file: trail.jsonl, results: false}")
	eventually.True(t, "the configuration is taken over", func() bool { return strings.Contains(g.Logs.String(), "configuration loaded") })
	ask()
	eventually.True(t, "both sessions have ended", func() bool { return len(g.Records(t, audit.SessionEnd)) == 2 })
	if n := results(); n != 1 {
		t.Errorf("%d results, want 1", n)
	}
}
