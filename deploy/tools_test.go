//go:build deploy

package deploy_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/internal/verifier"
)

// These tests need what `scripts/install deploy` puts into the cache, and systemd. `make deploy-check` runs them.

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestAlertRules(t *testing.T) {
	run(t, "prometheus", tool(t, "promtool"), "check", "rules", "hourgate.rules.yaml")
	run(t, "prometheus", tool(t, "promtool"), "test", "rules", "hourgate.rules.test.yaml")
}

// TestUnits has systemd read the units, with the binary in a place of its own, and say how exposed the service is.
func TestUnits(t *testing.T) {
	folder := t.TempDir()
	for _, unit := range []string{"hourgate.service", "hourgate.socket"} {
		text := strings.ReplaceAll(read(t, "systemd/"+unit), "/usr/bin/hourgate", "/bin/true")
		if err := os.WriteFile(filepath.Join(folder, unit), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out := run(t, folder, "systemd-analyze", "verify", "./hourgate.service", "./hourgate.socket"); out != "" {
		t.Errorf("systemd-analyze verify: %s", out)
	}
	// 1.5 of 10: what is left is that it has a network.
	run(t, folder, "systemd-analyze", "security", "--offline=true", "--threshold=15", "./hourgate.service")
	users, err := filepath.Abs("systemd/hourgate.sysusers")
	if err != nil {
		t.Fatal(err)
	}
	run(t, ".", "systemd-sysusers", "--dry-run", users)
}

// TestDashboard runs the query of each panel in a Prometheus that scrapes a gate with a session behind it. Each finds
// something, so that no panel is empty because of a name that is not there.
func TestDashboard(t *testing.T) {
	gate := startGate(t)
	prometheus := startPrometheus(t, gate.ops)
	gate.connect(t, password)
	if conn, err := gate.tryConnect(t, "wrong"); err == nil {
		_ = conn.Close(context.Background())
		t.Fatal("a wrong password was let in")
	}
	var dashboard struct {
		Panels []struct {
			Type, Title string
			Targets     []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "grafana/hourgate.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	queries := 0
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			queries++
			query := strings.NewReplacer("$instance", ".*", "$integration", ".*", "$__rate_interval", "1m").Replace(target.Expr)
			eventually.Within(t, 30*time.Second, fmt.Sprintf("panel %q finds something: %s", panel.Title, query), func() bool {
				return len(prometheus.query(t, query)) > 0
			})
		}
	}
	if queries < 20 {
		t.Errorf("the dashboard has %d queries", queries)
	}
	prometheus.knows(t, dashboardMetrics(t, "grafana/hourgate.json"))
	prometheus.knows(t, dashboardMetrics(t, "prometheus/hourgate.rules.yaml"))
}

// dashboardMetrics are the gate's metrics that a file names.
func dashboardMetrics(t *testing.T, file string) []string {
	names := regexp.MustCompile(`hourgate_[a-z_]+`).FindAllString(read(t, file), -1)
	slices.Sort(names)
	return slices.Compact(names)
}

// TestRotation has logrotate rotate the trail of a running gate, with the file that the package brings.
func TestRotation(t *testing.T) {
	gate := startGate(t)
	gate.connect(t, password)
	rules := read(t, "systemd/hourgate.logrotate")
	rules = strings.ReplaceAll(rules, "/var/lib/hourgate/trail.jsonl", gate.file("trail.jsonl"))
	rules = regexp.MustCompile(`(?m)^\tsu .*\n`).ReplaceAllString(rules, "")
	rules = regexp.MustCompile(`systemctl kill.*`).ReplaceAllString(rules, fmt.Sprintf("kill -HUP %d", gate.process.Process.Pid))
	if err := os.WriteFile(gate.file("logrotate.conf"), []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, gate.folder, tool(t, "logrotate"), "--force", "--state", gate.file("state"), gate.file("logrotate.conf"))
	eventually.Within(t, 30*time.Second, "the gate goes on in a new file", func() bool {
		info, err := os.Stat(gate.file("trail.jsonl"))
		return err == nil && info.Size() > 0
	})
	gate.connect(t, password)
	gate.stop(t)
	old, err := filepath.Glob(gate.file("trail.jsonl-*"))
	if err != nil || len(old) != 1 {
		t.Fatalf("rotated files: %q, %v", old, err)
	}
	run(t, gate.folder, gate.binary, "trail", "verify", old[0], gate.file("trail.jsonl"))
	if both := string(contents(t, old[0])) + string(contents(t, gate.file("trail.jsonl"))); strings.Count(both, `"event":"session_start"`) != 2 {
		t.Errorf("the two files have not both sessions:\n%s", both)
	}
}

// TestSocketActivation has systemd's own program hold the port, start the gate with the first client, and be told how it is.
func TestSocketActivation(t *testing.T) {
	g := newGate(t)
	path := g.file("notify")
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	if err := notify.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	said := func() string {
		buffer := make([]byte, 100)
		n, err := notify.Read(buffer)
		if err != nil {
			t.Fatalf("systemd hears nothing: %v", err)
		}
		return string(buffer[:n])
	}
	configured := g.listen
	g.listen = freeAddress(t)
	g.start(t, "systemd-socket-activate", "--listen", g.listen, "--setenv=NOTIFY_SOCKET="+path, "--setenv=WATCHDOG_USEC=100000",
		g.binary, "serve", "--config", g.file("config.yaml"))
	eventually.Within(t, 30*time.Second, "systemd holds the port", func() bool { return strings.Contains(string(contents(t, g.file("log"))), "Listening on") })
	g.connect(t, password) // waits in the kernel until the gate is there
	if got := said(); got != "READY=1" {
		t.Errorf("got %q first", got)
	}
	for range 3 {
		if got := said(); got != "WATCHDOG=1" {
			t.Errorf("got %q", got)
		}
	}
	if conn, err := net.Dial("tcp", configured); err == nil {
		_ = conn.Close()
		t.Error("the gate listens on the address of its configuration, too")
	}
	g.stop(t)
	for said() != "STOPPING=1" { // what the watchdog had still to say comes before
	}
}

const (
	person   = "alice@example.com"
	password = "correct horse battery staple"
)

// testGate is `hourgate serve` in front of a PostgreSQL, as a process of its own.
type testGate struct {
	folder, binary, listen, ops, ca string
	process                         *exec.Cmd
}

func (g *testGate) file(name string) string { return filepath.Join(g.folder, name) }

func startGate(t *testing.T) *testGate {
	t.Helper()
	g := newGate(t)
	g.start(t, g.binary, "serve", "--config", g.file("config.yaml"))
	eventually.Within(t, 30*time.Second, "the gate is ready", func() bool {
		response, err := http.Get("http://" + g.ops + "/readyz")
		if err != nil {
			return false
		}
		_ = response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
	return g
}

// newGate builds a gate and configures it.
func newGate(t *testing.T) *testGate {
	t.Helper()
	db := pgtest.Start(t, 15).Database(t)
	g := &testGate{folder: t.TempDir(), listen: freeAddress(t), ops: freeAddress(t)}
	g.binary = filepath.Join(g.folder, "hourgate")
	run(t, "..", "go", "build", "-o", g.binary, "./cmd/hourgate")
	g.configure(t, db)
	return g
}

func (g *testGate) start(t *testing.T, program string, args ...string) {
	t.Helper()
	g.process = exec.Command(program, args...)
	log, err := os.Create(g.file("log"))
	if err != nil {
		t.Fatal(err)
	}
	g.process.Stderr = log
	if err := g.process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = g.process.Process.Kill()
		_ = log.Close()
		if t.Failed() {
			t.Logf("log of the gate:\n%s", contents(t, g.file("log")))
		}
	})
}

func (g *testGate) configure(t *testing.T, db *pgtest.Database) {
	t.Helper()
	authority := pgtest.CA(t)
	g.ca = authority.CertFile
	certificate, key := authority.Issue(t, "localhost")
	v, err := verifier.New(password, verifier.DefaultIterations)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"secret.json": fmt.Sprintf(`{"username": %q, "password": %q}`, db.Admin, db.AdminPassword),
		"policy.yaml": fmt.Sprintf("users: [{name: %s, scram: %q}]\ngrants:\n  - {name: g, users: [%[1]s], integration: orders, access: READ_ONLY, until: %[3]s}\n",
			person, v.Encode(), time.Now().Add(time.Hour).UTC().Format(time.RFC3339)),
		"config.yaml": fmt.Sprintf("listen: %s\nops_listen: %s\ndeployment: %s\ntls: {cert_file: %s, key_file: %s}\npolicy: [policy.yaml]\naudit: {file: trail.jsonl}\n"+
			"integrations:\n  - {name: orders, hostname: localhost, port: %d, database: %s, ssl_root_cert: %s, secret: {file: secret.json}}\n",
			g.listen, g.ops, db.Name, certificate, key, db.Server.Port, db.Name, db.Server.CAFile),
	} {
		if err := os.WriteFile(g.file(name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// stop drains the gate.
func (g *testGate) stop(t *testing.T) {
	t.Helper()
	if err := g.process.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := g.process.Wait(); err != nil {
		t.Fatalf("the gate ended with %v", err)
	}
}

// connect logs in, asks to cancel what is not running, and leaves.
func (g *testGate) connect(t *testing.T, password string) {
	t.Helper()
	conn, err := g.tryConnect(t, password)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(conn.PgConn().CancelRequest(t.Context()), conn.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
}

func (g *testGate) tryConnect(t *testing.T, password string) (*pgx.Conn, error) {
	t.Helper()
	_, port, _ := net.SplitHostPort(g.listen)
	return pgx.Connect(t.Context(), fmt.Sprintf("host=localhost port=%s user=%s password='%s' dbname=orders sslmode=verify-full sslrootcert=%s",
		port, person, password, g.ca))
}

// testPrometheus is a Prometheus that scrapes every second.
type testPrometheus struct{ address string }

func startPrometheus(t *testing.T, target string) *testPrometheus {
	t.Helper()
	p := &testPrometheus{freeAddress(t)}
	folder := t.TempDir()
	rules, err := filepath.Abs("prometheus/hourgate.rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf("global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [%s]\nscrape_configs:\n  - {job_name: hourgate, static_configs: [{targets: [%q]}]}\n", rules, target)
	if err := os.WriteFile(filepath.Join(folder, "prometheus.yml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(tool(t, "prometheus"), "--config.file", filepath.Join(folder, "prometheus.yml"),
		"--storage.tsdb.path", filepath.Join(folder, "data"), "--web.listen-address", p.address, "--log.level", "error")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // the cache has it behind a script
	out, err := os.Create(filepath.Join(folder, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		_ = out.Close()
		if t.Failed() {
			t.Logf("log of Prometheus:\n%s", contents(t, filepath.Join(folder, "log")))
		}
	})
	eventually.Within(t, 30*time.Second, "Prometheus has scraped the gate twice", func() bool {
		return len(p.query(t, `count_over_time(up{job="hourgate"}[1m]) >= 2 and up{job="hourgate"} == 1`)) == 1
	})
	return p
}

// query is the result of an instant query; an error of Prometheus ends the test, since the query is wrong then.
func (p *testPrometheus) query(t *testing.T, query string) []any {
	t.Helper()
	var answer struct {
		Status, Error string
		Data          struct{ Result []any }
	}
	if err := p.get("/api/v1/query?query="+url.QueryEscape(query), &answer); err != nil {
		return nil // it is starting
	}
	if answer.Status != "success" {
		t.Fatalf("query %s: %s", query, answer.Error)
	}
	return answer.Data.Result
}

// knows fails for each metric that the gate does not export. A histogram's has a suffix.
func (p *testPrometheus) knows(t *testing.T, names []string) {
	t.Helper()
	var answer struct{ Data []string }
	if err := p.get("/api/v1/label/__name__/values", &answer); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if !slices.Contains(answer.Data, name) {
			t.Errorf("the gate has no metric %s", name)
		}
	}
}

func (p *testPrometheus) get(path string, into any) error {
	response, err := http.Get("http://" + p.address + path)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(into); err != nil {
		return errors.New("no JSON yet")
	}
	return nil
}

// tool is a program of `scripts/install deploy`, or of this machine.
func tool(t *testing.T, name string) string {
	t.Helper()
	cache := os.Getenv("HOURGATE_CACHE")
	if cache == "" {
		cache = "/var/tmp/hourgate"
	}
	for _, folder := range []string{"/usr/bin", "/usr/sbin", filepath.Join(cache, "deploy", "bin")} {
		if file := filepath.Join(folder, name); exists(file) {
			return file
		}
	}
	t.Fatalf("no %s on this machine: run scripts/install deploy", name)
	return ""
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

func run(t *testing.T, folder, program string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir = folder
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", program, args, err, out)
	}
	return string(out)
}

func contents(t *testing.T, file string) []byte {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Error(err)
	}
	return content
}

// freeAddress is one that nobody listens on, as far as can be told.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}
