package proxy_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/internal/verifier"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/proxy"
)

func TestMain(m *testing.M) {
	if addr := os.Getenv("HOURGATE_STRANGERS"); addr != "" {
		beStrangers(addr)
		return
	}
	pgtest.Main(m)
}

const (
	alice         = "alice@example.com" // has a grant
	alicePassword = "correct horse battery staple"
	bob           = "bob@example.com" // has none
	bobPassword   = "hunter2 hunter2 hunter2"

	// patience is how long a test waits for what must happen. It is far above what anything takes, since other tests run
	// at the same time.
	patience = 20 * time.Second

	// promptly is what people are promised: their access ends within a second.
	promptly = time.Second
)

// gate is a proxy in front of a database of pgtest. It lets people in as the database's owner, so that no package but
// proxy is under test.
type gate struct {
	t        testing.TB
	db       *pgtest.Database
	server   *proxy.Server
	live     *policy.Live
	addr     string
	caFile   string
	roots    *x509.CertPool
	trail    *memoryTrail
	registry *prometheus.Registry
	leases   *leases
	logs     *syncBuffer
	served   chan error
	watcher  *pgx.Conn // of backends; the test's goroutine
	opened   pids      // of the backends that there have been
	notices  texts     // that clients were sent, where a test collects them
}

// gateOptions are what a test changes. Zero values are the harness's defaults.
type gateOptions struct {
	grants   []string // see grant; default: alice's, for an hour
	acquire  func(context.Context) (proxy.Lease, error)
	upstream *upstream.Server
	trail    proxy.Trail
	cert     *tls.Certificate
	change   func(*proxy.Config)
}

// startGate runs a gate until the test ends, and checks then that nothing of it runs on.
func startGate(t testing.TB, db *pgtest.Database, opts gateOptions) *gate {
	t.Helper()
	g := &gate{
		t: t, db: db, trail: &memoryTrail{}, registry: prometheus.NewRegistry(), leases: &leases{}, logs: &syncBuffer{},
		served: make(chan error, 1),
	}
	g.live = policy.NewLive(g.policy(opts.grants...))
	cfg := proxy.Config{
		Certificate: g.certificate(), Policy: g.live,
		Integrations: integrations{"orders": g.integration(opts)},
		Trail:        g.trail, Registry: g.registry,
		Logger: slog.New(slog.NewTextHandler(g.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if opts.trail != nil {
		cfg.Trail = opts.trail
	}
	if opts.cert != nil {
		cfg.Certificate = *opts.cert
	}
	if opts.change != nil {
		opts.change(&cfg)
	}
	server, err := proxy.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	g.server = server
	g.serve()
	return g
}

// serve runs the server in goroutines that carry a label of this test's own. Goroutines inherit it, so that those of one
// gate can be told from those of all other tests, which goleak can't do while tests run in parallel.
func (g *gate) serve() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		g.t.Fatal(err)
	}
	g.addr = listener.Addr().String()
	label := g.label()
	pprof.Do(context.Background(), pprof.Labels("gate", label), func(context.Context) {
		go func() { g.served <- g.server.Serve(listener) }()
	})
	g.t.Cleanup(func() {
		_ = g.server.Close()
		if err := <-g.served; !errors.Is(err, proxy.ErrServerClosed) {
			g.t.Errorf("Serve returned %v, want ErrServerClosed", err)
		}
		g.leases.check(g.t)
		eventually.True(g.t, "no goroutine of the gate runs", func() bool { return g.goroutines() == 0 })
		if g.t.Failed() {
			g.t.Logf("log of the gate:\n%s\nits goroutines:\n%s", g.logs, stacks(label))
		}
	})
}

func (g *gate) label() string { return g.t.Name() + " " + g.addr }

// goroutines counts those of the gate: one, which accepts, when there is no session.
func (g *gate) goroutines() int {
	n := 0
	for line := range strings.Lines(stacks(g.label())) {
		if count, _, ok := strings.Cut(line, " @ 0x"); ok {
			k, _ := strconv.Atoi(count)
			n += k
		}
	}
	return n
}

// stacks are those of the goroutines that carry a label of serve: "<how many> @ <addresses>", and the functions.
func stacks(label string) string {
	var all bytes.Buffer
	_ = pprof.Lookup("goroutine").WriteTo(&all, 1)
	var ours []string
	for stack := range strings.SplitSeq(all.String(), "\n\n") {
		if strings.Contains(stack, fmt.Sprintf("{%q:%q}", "gate", label)) {
			ours = append(ours, stack)
		}
	}
	return strings.Join(ours, "\n\n")
}

// certificate is one that channel binding is defined for (ECDSA).
func (g *gate) certificate() tls.Certificate {
	g.t.Helper()
	authority := pgtest.CA(g.t)
	g.caFile, g.roots = authority.CertFile, loadRoots(g.t, authority.CertFile)
	return loadPair(g.t, authority)
}

func loadRoots(t testing.TB, file string) *x509.CertPool {
	t.Helper()
	pem, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	return roots
}

func loadPair(t testing.TB, authority *pgtest.Authority, names ...string) tls.Certificate {
	t.Helper()
	if names == nil {
		names = []string{"localhost", "127.0.0.1"}
	}
	pair, err := tls.LoadX509KeyPair(authority.Issue(t, names...))
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// integrations don't change.
type integrations map[string]proxy.Integration

func (i integrations) Integration(name string) (proxy.Integration, bool) {
	integration, ok := i[name]
	return integration, ok
}

func (g *gate) integration(opts gateOptions) proxy.Integration {
	g.t.Helper()
	server := opts.upstream
	if server == nil {
		server = upstreamOf(g.t, g.db.Server)
	}
	acquire := opts.acquire
	if acquire == nil {
		login := upstream.Login{User: g.db.Owner, Password: g.db.OwnerPassword, Database: g.db.Name}
		acquire = func(context.Context) (proxy.Lease, error) { return g.leases.take(login), nil }
	}
	return proxy.Integration{
		Upstream: server,
		Acquire: func(ctx context.Context, _ string, _ *policy.Grant, _ string) (proxy.Lease, error) {
			lease, err := acquire(ctx)
			if err != nil {
				return nil, err
			}
			return observedLease{lease, &g.opened}, nil
		},
	}
}

func upstreamOf(t testing.TB, server *pgtest.Server) *upstream.Server {
	t.Helper()
	s, err := upstream.New(upstream.Config{
		Host: "localhost", Port: uint16(server.Port), SSLMode: upstream.VerifyFull, RootCert: server.CAFile,
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// grant is a line of a policy: alice's, to read and write, until some time from now.
func grant(name string, until time.Duration) string {
	return grantAt(name, alice, "READ_WRITE", time.Now().Add(until))
}

func grantAt(name, user, access string, until time.Time) string {
	return fmt.Sprintf("  - {name: %s, users: [%s], integration: orders, access: %s, until: %s}\n",
		name, user, access, until.UTC().Format(time.RFC3339Nano))
}

var none = []string{""} // no grants at all

// policy has alice and bob, and the grants.
func (g *gate) policy(grants ...string) *policy.Set {
	g.t.Helper()
	if grants == nil {
		grants = []string{grant("inc-1", time.Hour)}
	}
	return parsePolicy(g.t, g, g.policyText(grants...))
}

func (g *gate) policyText(grants ...string) string {
	text := "users:\n"
	for _, user := range []string{alice, bob} {
		text += fmt.Sprintf("  - {name: %s, scram: %q}\n", user, verifiers()[user])
	}
	if lines := strings.Join(grants, ""); lines != "" {
		text += "grants:\n" + lines
	}
	return text
}

func parsePolicy(t testing.TB, g *gate, text string) *policy.Set {
	t.Helper()
	set, err := policy.Parse([]policy.Source{{File: "policy.yaml", Data: []byte(text)}}, map[string]string{"orders": g.db.Name})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

var verifiers = sync.OnceValue(func() map[string]string {
	encoded := make(map[string]string)
	for user, password := range map[string]string{alice: alicePassword, bob: bobPassword} {
		v, err := verifier.New(password, verifier.DefaultIterations)
		if err != nil {
			panic(err)
		}
		encoded[user] = v.Encode()
	}
	return encoded
})

// target is the gate as raw clients see it.
func (g *gate) target() target {
	return target{
		name: "the gate", addr: g.addr, user: alice, password: alicePassword, database: "orders",
		tls: &tls.Config{RootCAs: g.roots, ServerName: "localhost"},
	}
}

// direct is the server behind the gate, as the same raw clients see it.
func (g *gate) direct() target { return serverTarget(g.t, g.db) }

func serverTarget(t testing.TB, db *pgtest.Database) target {
	return target{
		name: fmt.Sprintf("PostgreSQL %d", db.Server.Major), major: db.Server.Major, addr: db.Server.Address(), user: db.Owner, password: db.OwnerPassword, database: db.Name,
		tls: &tls.Config{RootCAs: loadRoots(t, db.Server.CAFile), ServerName: "localhost"},
	}
}

// url is for pgx.
func (g *gate) url(params string) string {
	_, port, _ := net.SplitHostPort(g.addr)
	return fmt.Sprintf("host=localhost port=%s user=%s password='%s' dbname=orders sslmode=verify-full sslrootcert=%s %s",
		port, alice, alicePassword, g.caFile, params)
}

func (g *gate) pgx() *pgx.Conn {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, g.url(""))
	if err != nil {
		g.t.Fatalf("connecting through the gate: %v", err)
	}
	g.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// metric is the value of a counter or gauge, over all its labels but those given as name, value.
func (g *gate) metric(name string, labels ...string) float64 {
	g.t.Helper()
	families, err := g.registry.Gather()
	if err != nil {
		g.t.Fatal(err)
	}
	sum := 0.0
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			matches := 0
			for _, label := range m.GetLabel() {
				for i := 0; i < len(labels); i += 2 {
					if label.GetName() == labels[i] && label.GetValue() == labels[i+1] {
						matches++
					}
				}
			}
			if 2*matches == len(labels) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// backends are the process IDs of the gate's sessions on the server, of which other gates may have some too.
func (g *gate) backends(where string) []int {
	g.t.Helper()
	if g.watcher == nil || g.watcher.IsClosed() {
		g.watcher = g.db.Superuser(g.t)
	}
	rows, err := g.watcher.Query(context.Background(),
		`SELECT pid FROM pg_stat_activity WHERE pid = ANY ($1) AND `+where, g.opened.all())
	if err != nil {
		g.t.Fatal(err)
	}
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		g.t.Fatal(err)
	}
	return pids
}

// texts may be added to by any goroutine.
type texts struct {
	mu   sync.Mutex
	list []string
}

func (l *texts) add(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, text)
}

func (l *texts) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.list)
}

// pids are process IDs of a server.
type pids struct {
	mu   sync.Mutex
	list []int
}

func (p *pids) all() []int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.list)
}

// observedLease notes the backend that was opened with it.
type observedLease struct {
	proxy.Lease
	opened *pids
}

func (l observedLease) Opened(pid uint32) {
	l.opened.mu.Lock()
	l.opened.list = append(l.opened.list, int(pid))
	l.opened.mu.Unlock()
	l.Lease.Opened(pid)
}

// memoryTrail keeps records.
type memoryTrail struct {
	mu         sync.Mutex
	records    []audit.Record
	statements []string
	results    []string
	full       bool // takes no statement
}

func (m *memoryTrail) Append(r audit.Record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.records = append(m.records, r)
	return nil
}

// Result keeps a result as text, without its time.
func (m *memoryTrail) Result(r *audit.Result) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.results = append(m.results, fmt.Sprintf("%d: %s %s %d rows", r.Call, r.Command, r.SQLState, r.Rows))
	return true
}

// Statement keeps a statement as the real trail would show it.
func (m *memoryTrail) Statement(_ context.Context, s *audit.Statement) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.full {
		return errors.New("no space left on device")
	}
	values := ""
	if s.Parameters != nil && !s.Parameters.Empty() {
		b, err := json.Marshal(s.Parameters.List())
		if err != nil {
			return err
		}
		values = string(b)
	}
	m.statements = append(m.statements, fmt.Sprintf("%s %q %q %d %d: %s%s", s.Kind, s.Portal, s.Name, s.Function, s.Length, s.Text, values))
	return nil
}

// answered are the results so far.
func (m *memoryTrail) answered() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.results)
}

// asked are the statements so far.
func (m *memoryTrail) asked() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.statements)
}

// fill makes the trail refuse statements.
func (m *memoryTrail) fill() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.full = true
}

func (m *memoryTrail) all() []audit.Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.records)
}

func (m *memoryTrail) of(event audit.Event) []audit.Record {
	return slices.DeleteFunc(m.all(), func(r audit.Record) bool { return r.Event != event })
}

// leases counts what sessions hold. Each must be given back.
type leases struct {
	mu                         sync.Mutex
	taken, released, discarded int
	opened                     []uint32 // process IDs
	cancel                     func(ctx context.Context, pid uint32) error
}

func (l *leases) take(login upstream.Login) proxy.Lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.taken++
	return &lease{leases: l, login: login}
}

// pids are the processes that the leases were told of.
func (l *leases) pids() []int {
	l.mu.Lock()
	defer l.mu.Unlock()
	var pids []int
	for _, pid := range l.opened {
		pids = append(pids, int(pid))
	}
	return pids
}

func (l *leases) check(t testing.TB) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.taken != l.released+l.discarded {
		t.Errorf("%d leases taken, %d released, %d discarded", l.taken, l.released, l.discarded)
	}
}

// lease is given back once: what comes first counts, as with roles.Lease.
type lease struct {
	leases *leases
	login  upstream.Login
	once   sync.Once
}

func (l *lease) Login() upstream.Login { return l.login }
func (l *lease) Creates() bool         { return false }
func (l *lease) Closed(uint32)         {}
func (l *lease) Release()              { l.end(&l.leases.released) }
func (l *lease) Discard()              { l.end(&l.leases.discarded) }

func (l *lease) Opened(pid uint32) {
	l.leases.mu.Lock()
	defer l.leases.mu.Unlock()
	l.leases.opened = append(l.leases.opened, pid)
}

func (l *lease) Cancel(ctx context.Context, pid uint32) error {
	if l.leases.cancel == nil {
		return errors.New("the server gave a key: nobody but itself is to be asked")
	}
	return l.leases.cancel(ctx, pid)
}

func (l *lease) end(count *int) {
	l.once.Do(func() {
		l.leases.mu.Lock()
		defer l.leases.mu.Unlock()
		*count++
	})
}

// someMajors runs a test against the oldest PostgreSQL and the newest.
func someMajors(t *testing.T, test func(t *testing.T, db *pgtest.Database)) {
	t.Helper()
	for _, major := range []int{13, 18} {
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) {
			t.Parallel()
			test(t, pgtest.Start(t, major).Database(t))
		})
	}
}

// syncBuffer is a log that may be read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
