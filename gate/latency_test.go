//go:build latency

package gate_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hourgate/hourgate/internal/gatetest"
	"github.com/hourgate/hourgate/internal/pgtest"
)

// People wait for these. The limits hold on a machine that does nothing else, for the median and, twice as long, for 19 of
// 20.
const (
	fileWithin  = 20 * time.Millisecond  // REQUEST until its row
	admitWithin = 100 * time.Millisecond // APPROVE on one gate until a log-in that begins on the other is let in
	cutWithin   = 250 * time.Millisecond // REVOKE on one gate until the client on the other sees its end

	latencyRounds = 40
)

// How long people wait for access flows, and whether those who need none wait longer.
func TestLatencies(t *testing.T) {
	db := pgtest.Start(t, 17).Database(t)
	program := filepath.Join(pgtest.Folder(), "hourgate-as-released")
	if out, err := exec.Command("go", "build", "-o", program, "github.com/hourgate/hourgate/cmd/hourgate").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	for _, state := range []string{"sqlite", "postgres"} {
		t.Run(state, func(t *testing.T) {
			m := newMeasurement(t, program, db, state)
			for range latencyRounds {
				m.round()
			}
			m.report("REQUEST", m.file, fileWithin)
			m.report("APPROVE until a log-in is let in", m.admit, admitWithin)
			m.report("REVOKE until a session is cut", m.cut, cutWithin)
		})
	}
	t.Run("log-ins", func(t *testing.T) { compareLogins(t, program, db) })
}

// measurement is of two gates with a state in PostgreSQL, or of one with SQLite: a is where people ask and decide, b is where
// they work.
type measurement struct {
	t                *testing.T
	a, b             *gatetest.Gate
	alice, bob       *pgx.Conn // to database hourgate of a
	file, admit, cut []time.Duration
}

func newMeasurement(t *testing.T, program string, db *pgtest.Database, state string) *measurement {
	t.Helper()
	start := func(config string) *gatetest.Gate {
		g := gatetest.New(t, db)
		options := gatetest.Options{Grants: accessFlow, LogLevel: "INFO", Deployment: "latency-" + state, Config: map[string]string{"state": config}}
		file := g.Configure(t, options)
		process := g.StartProgram(t, program, file)
		t.Cleanup(func() { _ = process.Process.Signal(os.Interrupt); _ = process.Wait() })
		return g
	}
	m := &measurement{t: t}
	if state == "sqlite" {
		m.a = start("{file: state.db}")
		m.b = m.a
	} else {
		server := pgtest.Start(t, 17).Database(t)
		secret := filepath.Join(t.TempDir(), "state.json")
		if err := os.WriteFile(secret, fmt.Appendf(nil, `{"username": %q, "password": %q}`, server.Owner, server.OwnerPassword), 0o600); err != nil {
			t.Fatal(err)
		}
		config := fmt.Sprintf("{postgres: {hostname: localhost, port: %d, database: %s, ssl_root_cert: %s, secret: {file: %s}}}",
			server.Server.Port, server.Name, server.Server.CAFile, secret)
		m.a, m.b = start(config), start(config)
	}
	m.alice, m.bob = m.console(gatetest.Alice, gatetest.AlicePassword), m.console(gatetest.Bob, gatetest.BobPassword)
	return m
}

func (m *measurement) console(user, password string) *pgx.Conn {
	m.t.Helper()
	conn, err := m.a.TryConnect(m.t, user, password, "hourgate")
	if err != nil {
		m.t.Fatal(err)
	}
	return conn
}

// say runs a statement and returns the request's number.
func (m *measurement) say(conn *pgx.Conn, sql string) (id string) {
	m.t.Helper()
	rows, _ := conn.Query(m.t.Context(), sql)
	all, err := pgx.CollectRows(rows, pgx.RowToMap)
	if err != nil || len(all) != 1 {
		m.t.Fatalf("%s: %v, %v", sql, all, err)
	}
	return fmt.Sprint(all[0]["id"])
}

// round is one request from its filing to the cut.
func (m *measurement) round() {
	m.t.Helper()
	began := time.Now()
	id := m.say(m.alice, "REQUEST READ_ONLY ON orders REASON 'INC-4711'")
	m.file = append(m.file, time.Since(began))

	began = time.Now()
	m.say(m.bob, "APPROVE "+id)
	var conn *pgx.Conn
	for conn == nil {
		tried := time.Now()
		var err error
		if conn, err = m.b.TryConnect(m.t, gatetest.Alice, gatetest.AlicePassword, "orders"); err == nil {
			m.admit = append(m.admit, tried.Sub(began))
		} else if time.Since(began) > 10*time.Second {
			m.t.Fatal(err)
		}
	}
	cut := make(chan time.Time, 1)
	go func() {
		_, err := conn.Exec(m.t.Context(), "SELECT pg_sleep(60)")
		var told *pgconn.PgError
		if !errors.As(err, &told) || told.Code != "57P01" {
			m.t.Errorf("the session ended with %v", err)
		}
		cut <- time.Now()
	}()
	began = time.Now()
	m.say(m.bob, "REVOKE "+id)
	m.cut = append(m.cut, (<-cut).Sub(began))
}

func (m *measurement) report(what string, all []time.Duration, within time.Duration) {
	m.t.Helper()
	slices.Sort(all)
	median, most := all[len(all)/2], all[len(all)*19/20]
	m.t.Logf("%s: median %.1f ms, 19 of 20 within %.1f ms, all within %.1f ms (limit %v)", what, ms(median), ms(most), ms(all[len(all)-1]), within)
	if median > within || most > 2*within {
		m.t.Errorf("%s takes too long", what)
	}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// compareLogins counts log-ins in short turns at a gate with grants of the policy alone and at one that has flows and a state as
// well, and the processor time that each gate takes for one: rates depend on what else the machine does, and that hardly.
func compareLogins(t *testing.T, program string, db *pgtest.Database) {
	type side struct {
		*gatetest.Gate
		process *exec.Cmd
		logins  int
		rates   []float64
		used    time.Duration
	}
	start := func(name, grants string, config map[string]string) *side {
		g := gatetest.New(t, db)
		s := &side{Gate: g}
		s.process = g.StartProgram(t, program, g.Configure(t, gatetest.Options{Grants: grants, LogLevel: "INFO", Deployment: name, Config: config}))
		countLogins(t, g, time.Second) // the first ones make the role
		return s
	}
	work := gatetest.Grant("work", "max_sessions", "100")
	without := start("without", work, nil)
	with := start("with", work+strings.TrimPrefix(accessFlow, "  []\n"), map[string]string{"state": "{file: state.db}"})
	const turns, length = 14, 2 * time.Second
	for i := range 2 * turns {
		s := []*side{without, with, with, without}[i%4]
		before := used(t, s.process)
		n := countLogins(t, s.Gate, length)
		s.used += used(t, s.process) - before
		s.logins += n
		s.rates = append(s.rates, float64(n)/length.Seconds())
	}
	for name, s := range map[string]*side{"grants of the policy alone": without, "flows and a state": with} {
		slices.Sort(s.rates)
		t.Logf("%s: %d log-ins, %.0f a second (median; %.0f to %.0f), %.2f ms of the gate's processor time each",
			name, s.logins, s.rates[turns/2], s.rates[0], s.rates[turns-1], ms(s.used)/float64(s.logins))
	}
	if each := func(s *side) float64 { return ms(s.used) / float64(s.logins) }; each(with) > 1.05*each(without) {
		t.Error("a state makes log-ins dearer")
	}
}

// used is the processor time that a process has taken.
func used(t *testing.T, process *exec.Cmd) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", process.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')'):]))
	var ticks time.Duration
	for _, field := range fields[12:14] { // utime and stime, from the end of the name
		n, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		ticks += time.Duration(n)
	}
	return ticks * 10 * time.Millisecond
}

func countLogins(t *testing.T, g *gatetest.Gate, length time.Duration) (n int) {
	t.Helper()
	_, port, _ := net.SplitHostPort(g.Addr)
	cfg, err := pgx.ParseConfig(fmt.Sprintf("host=localhost port=%s user=%s password='%s' dbname=orders sslmode=verify-full sslrootcert=%s",
		port, gatetest.Alice, gatetest.AlicePassword, g.CA))
	if err != nil {
		t.Fatal(err)
	}
	until := time.Now().Add(length)
	var all sync.WaitGroup
	var mu sync.Mutex
	for range 4 {
		all.Go(func() {
			for time.Now().Before(until) {
				conn, err := pgx.ConnectConfig(t.Context(), cfg.Copy())
				if err != nil {
					t.Error(err)
					return
				}
				_ = conn.Close(context.Background())
				mu.Lock()
				n++
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return n
}
