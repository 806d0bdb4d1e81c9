package main

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
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/internal/verifier"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const (
	alice         = "alice@example.com"
	alicePassword = "correct horse battery staple"
	bob           = "bob@example.com"
	bobPassword   = "hunter2 hunter2 hunter2"
)

// testGate is a gate in front of a database of pgtest, with its files in a folder of its own.
type testGate struct {
	db     *pgtest.Database
	folder string
	addr   string // of the PostgreSQL port
	ops    string // of the operator port
	ca     string
	logs   *syncBuffer
	gate   *gate  // nil if it runs as a process of its own
	stop   func() // drains and waits; may be called twice
}

// gateOptions are what a test changes. Zero values are the harness's defaults.
type gateOptions struct {
	grants     string            // YAML of grants; see grant
	config     map[string]string // further keys of config.yaml
	sslMode    string
	secret     string // YAML of secret
	deployment string
	logLevel   string
}

// grant is a grant of alice's on the integration "orders" for the next hour, with keys replaced or added.
func grant(name string, keys ...string) string {
	values := map[string]string{
		"users": "[" + alice + "]", "integration": "orders", "access": "READ_ONLY",
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

// startGate runs a gate in this process until the test ends.
func startGate(t *testing.T, db *pgtest.Database, opts gateOptions) *testGate {
	t.Helper()
	g := &testGate{db: db, folder: t.TempDir(), logs: &syncBuffer{}}
	g.run(t, g.configure(t, opts))
	return g
}

// run runs the gate with a configuration that configure wrote.
func (g *testGate) run(t *testing.T, configFile string) {
	t.Helper()
	cfg, set, err := loadAll(configFile)
	if err != nil {
		t.Fatalf("loading the harness's configuration: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	gate, err := newGate(ctx, cfg, set, slog.New(slog.NewTextHandler(g.logs, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		t.Fatal(err)
	}
	g.addr = listener.Addr().String()
	g.gate = gate
	done := make(chan error, 1)
	opened := make(chan string, 1)
	gate.onOpen = func(ops string) { opened <- ops }
	go func() { done <- gate.serve(ctx, listener, nil) }()
	select {
	case g.ops = <-opened:
	case err := <-done:
		t.Fatalf("gate did not open: %v", err)
	}
	g.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("gate ended with: %v", err)
		}
	})
	t.Cleanup(func() {
		_, metrics := g.get(t, "/metrics")
		g.stop()
		g.searchForSecrets(t, metrics)
		if t.Failed() {
			t.Logf("log of the gate:\n%s", g.logs)
		}
	})
}

// searchForSecrets looks for every password of this gate wherever it could have gone: each test is a canary.
func (g *testGate) searchForSecrets(t *testing.T, metrics string) {
	t.Helper()
	trail, err := os.ReadFile(filepath.Join(g.folder, "trail.jsonl"))
	if err != nil {
		t.Error(err)
	}
	places := map[string]string{"log": g.logs.String(), "trail": string(trail), "metrics": metrics, "server's log": g.db.Server.Log()}
	for _, secret := range []string{g.db.AdminPassword, alicePassword, bobPassword} {
		for place, text := range places {
			if strings.Contains(text, secret) {
				t.Errorf("the %s holds a password", place)
			}
		}
	}
}

// startProcess runs `hourgate serve` as a process of its own, which the caller ends.
func startProcess(t testing.TB, g *testGate, configFile string) *exec.Cmd {
	t.Helper()
	return g.startProgram(t, binary(t), configFile)
}

// startProgram is startProcess for another build of hourgate.
func (g *testGate) startProgram(t testing.TB, program, configFile string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(program, "serve", "--config", configFile)
	cmd.Stderr = g.logs
	*g.logs = syncBuffer{}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	var open struct {
		Msg, Listen string
		Ops         string `json:"ops_listen"`
	}
	eventually(t, "the process opens its ports", func() bool {
		for line := range strings.Lines(g.logs.String()) {
			if json.Unmarshal([]byte(line), &open) == nil && open.Msg == "gate open" {
				return true
			}
		}
		return false
	})
	g.addr, g.ops = open.Listen, open.Ops
	return cmd
}

// binary is hourgate as `go build` makes it.
func binary(t testing.TB) string {
	t.Helper()
	file, err := buildBinary()
	if err != nil {
		t.Fatal(err)
	}
	return file
}

var buildBinary = sync.OnceValues(func() (string, error) {
	folder, err := os.MkdirTemp("", "hourgate-test-")
	if err != nil {
		return "", err
	}
	binaryFolder = folder
	file := filepath.Join(folder, "hourgate")
	out, err := exec.Command("go", "build", "-race", "-o", file, ".").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return file, nil
})

// binaryFolder is removed when the tests end.
var binaryFolder string

// configure writes config.yaml, policy.yaml, the secret and the certificates.
func (g *testGate) configure(t testing.TB, opts gateOptions) string {
	t.Helper()
	authority := pgtest.CA(t)
	g.ca = authority.CertFile
	certFile, keyFile := authority.Issue(t, "localhost", "127.0.0.1")
	g.write(t, "secret.json", fmt.Sprintf(`{"username": %q, "password": %q}`, g.db.Admin, g.db.AdminPassword))
	g.setGrants(t, opts.grants)

	or := func(value, otherwise string) string {
		if value == "" {
			return otherwise
		}
		return value
	}
	var extra strings.Builder
	for key, value := range opts.config {
		fmt.Fprintf(&extra, "%s: %s\n", key, value)
	}
	return g.write(t, "config.yaml", fmt.Sprintf(`
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
%s`, or(opts.deployment, g.deployment()), or(opts.logLevel, "DEBUG"), certFile, keyFile, g.db.Server.Port, g.db.Name,
		or(opts.sslMode, "verify-full"), g.db.Server.CAFile, or(opts.secret, "{file: secret.json}"), &extra))
}

// deployment is the harness's default, one for each database, since tests share servers.
func (g *testGate) deployment() string { return "test-" + g.db.Name }

// write puts a file into the gate's folder. It is replaced as a whole: the gate must not read half a file.
func (g *testGate) write(t testing.TB, name, content string) string {
	t.Helper()
	file := filepath.Join(g.folder, name)
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
	for user, password := range map[string]string{alice: alicePassword, bob: bobPassword} {
		v, err := verifier.New(password, verifier.DefaultIterations)
		if err != nil {
			panic(err)
		}
		verifiers[user] = v.Encode()
	}
	return verifiers
})

// setGrants writes the policy file: alice and bob, and the grants.
func (g *testGate) setGrants(t testing.TB, grants string) {
	t.Helper()
	policy := fmt.Sprintf("users:\n  - {name: %s, groups: [support], scram: %q}\n  - {name: %s, scram: %q}\n",
		alice, testVerifiers()[alice], bob, testVerifiers()[bob])
	if grants != "" {
		policy += "grants:\n" + grants
	}
	g.write(t, "policy.yaml", policy)
}

// connect logs alice in with pgx.
func (g *testGate) connect(t *testing.T, database string) *pgx.Conn {
	t.Helper()
	conn, err := g.tryConnect(t, alice, alicePassword, database)
	if err != nil {
		t.Fatalf("connecting through the gate: %v", err)
	}
	return conn
}

func (g *testGate) tryConnect(t *testing.T, user, password, database string) (*pgx.Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, port, _ := net.SplitHostPort(g.addr)
	conn, err := pgx.Connect(ctx, fmt.Sprintf("host=localhost port=%s user=%s password='%s' dbname='%s' sslmode=verify-full sslrootcert=%s",
		port, user, password, database, g.ca))
	if err == nil {
		t.Cleanup(func() { _ = conn.Close(context.Background()) })
	}
	return conn, err
}

// client runs one of PostgreSQL's programs through the gate as alice and returns what it prints.
func (g *testGate) client(t *testing.T, program string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Env = append(os.Environ(), g.environment()...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (g *testGate) environment() []string {
	host, port, _ := net.SplitHostPort(g.addr)
	return []string{
		"PGHOST=localhost", "PGHOSTADDR=" + host, "PGPORT=" + port, "PGUSER=" + alice, "PGPASSWORD=" + alicePassword,
		"PGDATABASE=orders", "PGSSLMODE=verify-full", "PGSSLROOTCERT=" + g.ca, "LC_ALL=C",
	}
}

// roles are the ephemeral roles on the server that belong to this gate's deployment.
func (g *testGate) roles(t *testing.T) []string {
	t.Helper()
	rows, err := g.db.Superuser(t).Query(t.Context(),
		`SELECT rolname FROM pg_roles WHERE rolname LIKE 'hg\_%' AND shobj_description(oid, 'pg_authid')::json->>'deployment' = $1`,
		g.deployment())
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// records are the trail's, of one event or of all if event is "".
func (g *testGate) records(t *testing.T, event audit.Event) []audit.Record {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(g.folder, "trail.jsonl"))
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

// get is a page of the operator port.
func (g *testGate) get(t testing.TB, path string) (status int, body string) {
	t.Helper()
	resp, err := http.Get("http://" + g.ops + path)
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

// awaitMetric waits until the operator port shows a metric's line: what it counts may be seen a moment before.
func (g *testGate) awaitMetric(t testing.TB, line string) {
	t.Helper()
	eventually(t, "/metrics has "+line, func() bool {
		_, body := g.get(t, "/metrics")
		return strings.Contains(body, "\n"+line+"\n")
	})
}

// eventually waits for something that happens in the background, for at most ten seconds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

// eachMajor runs a test against every PostgreSQL that Hourgate supports, in parallel.
func eachMajor(t *testing.T, test func(t *testing.T, db *pgtest.Database)) {
	t.Helper()
	for _, major := range pgtest.Majors() {
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
