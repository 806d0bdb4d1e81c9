// Package gatetest runs a gate, in the test's process or in one of its own, in front of a PostgreSQL of pgtest. Every gate
// that it runs is also a canary: no password may be in its log, its trail, its metrics or the server's log.
package gatetest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/gate"
	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/internal/verifier"
)

// The people of every gate's policy.
const (
	Alice         = "alice@example.com"
	AlicePassword = "correct horse battery staple"
	Bob           = "bob@example.com"
	BobPassword   = "hunter2 hunter2 hunter2"
)

// Gate is a gate in front of a database of pgtest, with its files in a folder of its own.
type Gate struct {
	DB     *pgtest.Database
	Folder string
	Addr   string // of the PostgreSQL port
	Ops    string // of the operator port
	CA     string // file
	Logs   *Buffer
	Gate   *gate.Gate // nil if it runs as a process of its own
	Stop   func()     // drains and waits; may be called twice

	super *pgx.Conn // of Roles
}

// Options are what a test changes. Zero values are the harness's defaults.
type Options struct {
	Grants     string            // YAML of grants; see Grant
	Config     map[string]string // further keys of config.yaml
	SSLMode    string
	Secret     string // YAML of secret
	Deployment string
	LogLevel   string
}

// Grant is a grant of Alice's on the integration "orders" for the next hour, with keys replaced or added.
func Grant(name string, keys ...string) string {
	values := map[string]string{
		"users": "[" + Alice + "]", "integration": "orders", "access": "READ_ONLY",
		"until": time.Now().Add(time.Hour).UTC().Format(time.RFC3339Nano),
	}
	for i := 0; i < len(keys); i += 2 {
		values[keys[i]] = keys[i+1]
	}
	var b strings.Builder
	fmt.Fprintf(&b, "  - name: %s\n", name)
	for key, value := range values {
		if value != "" {
			fmt.Fprintf(&b, "    %s: %s\n", key, value)
		}
	}
	return b.String()
}

// New is a gate that does not run yet, with an empty folder.
func New(t testing.TB, db *pgtest.Database) *Gate {
	t.Helper()
	return &Gate{DB: db, Folder: t.TempDir(), Logs: &Buffer{}}
}

// Start runs a gate in this process until the test ends.
func Start(t *testing.T, db *pgtest.Database, opts Options) *Gate {
	t.Helper()
	g := New(t, db)
	g.Run(t, g.Configure(t, opts))
	return g
}

// Run runs the gate with a configuration that configure wrote.
func (g *Gate) Run(t *testing.T, configFile string) {
	t.Helper()
	cfg, set, err := gate.Load(configFile)
	if err != nil {
		t.Fatalf("loading the harness's configuration: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	opened, err := gate.New(ctx, cfg, set, "test", slog.New(slog.NewTextHandler(g.Logs, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		t.Fatal(err)
	}
	g.Addr = listener.Addr().String()
	g.Gate = opened
	done := make(chan error, 1)
	open := make(chan string, 1)
	opened.OnOpen = func(ops string) { open <- ops }
	go func() { done <- opened.Serve(ctx, listener, nil) }()
	select {
	case g.Ops = <-open:
	case err := <-done:
		t.Fatalf("gate did not open: %v", err)
	}
	g.Stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("gate ended with: %v", err)
		}
	})
	t.Cleanup(func() {
		_, metrics := g.Get(t, "/metrics")
		g.Stop()
		g.searchForSecrets(t, metrics)
		if t.Failed() {
			t.Logf("log of the gate:\n%s", g.Logs)
		}
	})
}

// searchForSecrets looks for every password of this gate wherever it could have gone: each test is a canary.
func (g *Gate) searchForSecrets(t *testing.T, metrics string) {
	t.Helper()
	trail, err := os.ReadFile(filepath.Join(g.Folder, "trail.jsonl"))
	if err != nil {
		t.Error(err)
	}
	places := map[string]string{"log": g.Logs.String(), "trail": string(trail), "metrics": metrics, "server's log": g.DB.Server.Log()}
	for _, secret := range []string{g.DB.AdminPassword, AlicePassword, BobPassword} {
		for place, text := range places {
			if strings.Contains(text, secret) {
				t.Errorf("the %s holds a password", place)
			}
		}
	}
}

// Configure writes config.yaml, policy.yaml, the secret and the certificates.
func (g *Gate) Configure(t testing.TB, opts Options) string {
	t.Helper()
	authority := pgtest.CA(t)
	g.CA = authority.CertFile
	certFile, keyFile := authority.Issue(t, "localhost", "127.0.0.1")
	g.Write(t, "secret.json", fmt.Sprintf(`{"username": %q, "password": %q}`, g.DB.Admin, g.DB.AdminPassword))
	g.SetGrants(t, opts.Grants)

	or := func(value, otherwise string) string {
		if value == "" {
			return otherwise
		}
		return value
	}
	var extra strings.Builder
	for key, value := range opts.Config {
		fmt.Fprintf(&extra, "%s: %s\n", key, value)
	}
	return g.Write(t, "config.yaml", fmt.Sprintf(`
listen: 127.0.0.1:0
ops_listen: 127.0.0.1:0
deployment: %s
log_level: %s
tls: {cert_file: %s, key_file: %s}
policy: [policy.yaml]
audit: {file: trail.jsonl}
integrations:
  - name: orders
    hostname: localhost
    port: %d
    database: %s
    ssl_mode: %s
    ssl_root_cert: %s
    secret: %s
%s`, or(opts.Deployment, g.Deployment()), or(opts.LogLevel, "DEBUG"), certFile, keyFile, g.DB.Server.Port, g.DB.Name,
		or(opts.SSLMode, "verify-full"), g.DB.Server.CAFile, or(opts.Secret, "{file: secret.json}"), &extra))
}

// Reconfigure replaces a part of config.yaml, which must be there.
func (g *Gate) Reconfigure(t testing.TB, configFile, old, replacement string) string {
	t.Helper()
	config, err := os.ReadFile(configFile)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(config), old) {
		t.Fatalf("%q is not in\n%s", old, config)
	}
	return g.Write(t, "config.yaml", strings.Replace(string(config), old, replacement, 1))
}

// Deployment is the harness's default, one for each database, since tests share servers.
func (g *Gate) Deployment() string { return "test-" + g.DB.Name }

// Write puts a file into the gate's folder. It is replaced as a whole: the gate must not read half a file.
func (g *Gate) Write(t testing.TB, name, content string) string {
	t.Helper()
	file := filepath.Join(g.Folder, name)
	if err := os.WriteFile(file+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
	return file
}

var testVerifiers = sync.OnceValue(func() map[string]string {
	verifiers := make(map[string]string)
	for user, password := range map[string]string{Alice: AlicePassword, Bob: BobPassword} {
		v, err := verifier.New(password, pgtest.Iterations)
		if err != nil {
			panic(err)
		}
		verifiers[user] = v.Encode()
	}
	return verifiers
})

// SetGrants writes the policy file: Alice and Bob, and the grants.
func (g *Gate) SetGrants(t testing.TB, grants string) {
	t.Helper()
	policy := fmt.Sprintf("users:\n  - {name: %s, groups: [support], scram: %q}\n  - {name: %s, scram: %q}\n",
		Alice, testVerifiers()[Alice], Bob, testVerifiers()[Bob])
	if grants != "" {
		policy += "grants:\n" + grants
	}
	g.Write(t, "policy.yaml", policy)
}

// Connect logs Alice in with pgx.
func (g *Gate) Connect(t *testing.T, database string) *pgx.Conn {
	t.Helper()
	conn, err := g.TryConnect(t, Alice, AlicePassword, database)
	if err != nil {
		t.Fatalf("connecting through the gate: %v", err)
	}
	return conn
}

// TryConnect logs somebody in with pgx.
func (g *Gate) TryConnect(t *testing.T, user, password, database string) (*pgx.Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, port, _ := net.SplitHostPort(g.Addr)
	conn, err := pgx.Connect(ctx, fmt.Sprintf("host=localhost port=%s user=%s password='%s' dbname='%s' sslmode=verify-full sslrootcert=%s",
		port, user, password, database, g.CA))
	if err == nil {
		t.Cleanup(func() { _ = conn.Close(context.Background()) })
	}
	return conn, err
}

// Client runs one of PostgreSQL's programs through the gate as Alice and returns what it prints.
func (g *Gate) Client(t *testing.T, program string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Env = append(os.Environ(), g.Environment()...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Environment is for PostgreSQL's programs, as alice.
func (g *Gate) Environment() []string {
	host, port, _ := net.SplitHostPort(g.Addr)
	return []string{
		"PGHOST=localhost", "PGHOSTADDR=" + host, "PGPORT=" + port, "PGUSER=" + Alice, "PGPASSWORD=" + AlicePassword,
		"PGDATABASE=orders", "PGSSLMODE=verify-full", "PGSSLROOTCERT=" + g.CA, "LC_ALL=C",
	}
}

// Roles are the ephemeral roles on the server that belong to this gate's deployment.
func (g *Gate) Roles(t *testing.T) []string {
	t.Helper()
	if g.super == nil { // one for all calls: some tests ask again and again
		g.super = g.DB.Superuser(t)
	}
	rows, err := g.super.Query(t.Context(),
		`SELECT rolname FROM pg_roles WHERE rolname LIKE 'hg\_%' AND shobj_description(oid, 'pg_authid')::json->>'deployment' = $1`,
		g.Deployment())
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// Records are the trail's, of one event or of all if event is "".
func (g *Gate) Records(t *testing.T, event audit.Event) []audit.Record {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(g.Folder, "trail.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	var records []audit.Record
	for line := range bytes.Lines(content) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break // it is being written
		}
		var r audit.Record
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatalf("line of the trail: %v\n%s", err, line)
		}
		if event == "" || r.Event == event {
			records = append(records, r)
		}
	}
	return records
}

// Get is a page of the operator port.
func (g *Gate) Get(t testing.TB, path string) (status int, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), http.MethodGet, "http://"+g.Ops+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// AwaitMetric waits until the operator port shows a metric's line: what it counts may be seen a moment before.
func (g *Gate) AwaitMetric(t testing.TB, line string) {
	t.Helper()
	eventually.True(t, "/metrics has "+line, func() bool {
		_, body := g.Get(t, "/metrics")
		return strings.Contains(body, "\n"+line+"\n")
	})
}

// EachMajor runs a test against every PostgreSQL that Hourgate supports, in parallel.
func EachMajor(t *testing.T, test func(t *testing.T, db *pgtest.Database)) {
	t.Helper()
	for _, major := range pgtest.Majors() {
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) {
			t.Parallel()
			test(t, pgtest.Start(t, major).Database(t))
		})
	}
}

// Buffer is a log that may be read while it is written.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *Buffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *Buffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
