package demo

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hourgate/hourgate/gate"
	"github.com/hourgate/hourgate/internal/pgserver"
	"github.com/hourgate/hourgate/internal/verifier"
)

const (
	demoIntegration = "orders-prod"
	demoGrantName   = "inc-4211"
)

// newDemoPasswords makes passwords of letters and digits, which need no quotes anywhere.
func newDemoPasswords(users ...string) map[string]string {
	passwords := make(map[string]string)
	for _, user := range users {
		passwords[user] = strings.ToLower(rand.Text())
	}
	return passwords
}

// makeFolder makes the folder of everything. It is not in os.TempDir, whose path may be too long for a Unix socket (103
// bytes on macOS) or closed to the user that PostgreSQL runs as.
func (d *demo) makeFolder() (err error) {
	d.folder, err = os.MkdirTemp("/tmp", "hourgate-demo-")
	if err != nil {
		return err
	}
	return os.Chmod(d.folder, 0o711) //nolint:gosec // the user postgres has to get through; the files are for us alone
}

func (d *demo) file(name string) string { return filepath.Join(d.folder, name) }

func (d *demo) write(name, content string) error {
	return os.WriteFile(d.file(name), []byte(content), 0o600)
}

// demoGate is a gate as `hourgate serve` runs it, in this process.
type demoGate struct {
	port int
	ops  string // address
	stop context.CancelFunc
	done chan error // has the gate's error once it has ended; capacity 1
	log  *os.File
}

// openGate writes the gate's files and runs it with them.
func (d *demo) openGate(ctx context.Context) (*demoGate, error) {
	port, err := pgserver.FreePort(ctx)
	if err != nil {
		return nil, err
	}
	opsPort, err := pgserver.FreePort(ctx)
	if err != nil {
		return nil, err
	}
	if err := d.configure(port, opsPort); err != nil {
		return nil, err
	}
	cfg, set, err := gate.Load(d.file("config.yaml"))
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(d.file("hourgate.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	// The gate has a context of its own: when ours is done, it is still needed for an orderly end.
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	dg := &demoGate{port: port, stop: stop, done: make(chan error, 1), log: log}
	g, err := gate.New(running, cfg, set, "demo", gate.NewLogger(log, slog.LevelInfo))
	if err != nil {
		stop()
		return nil, errors.Join(err, log.Close())
	}
	opened := make(chan string, 1)
	g.OnOpen = func(ops string) { opened <- ops }
	go func() { dg.done <- g.Run(running, nil) }()
	select {
	case dg.ops = <-opened:
		return dg, nil
	case err := <-dg.done:
		stop()
		return nil, errors.Join(err, log.Close())
	}
}

// close drains the gate and waits for its end.
func (g *demoGate) close() error {
	g.stop()
	return errors.Join(<-g.done, g.log.Close())
}

// showLog prints the end of the gate's log, when something went wrong.
func (d *demo) showLog() {
	const most = 15
	content, _ := os.ReadFile(d.file("hourgate.log"))
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	d.out.title("This is not as it should be. The end of the gate's log:")
	for _, line := range lines[max(0, len(lines)-most):] {
		d.out.printed(line)
	}
}

// configure writes config.yaml, policy.yaml, secret.json and the gate's certificate.
func (d *demo) configure(port, opsPort int) error {
	if err := d.authority.Issue(d.folder); err != nil {
		return fmt.Errorf("making the gate's certificate: %w", err)
	}
	secret, err := json.Marshal(map[string]string{"username": demoAdmin, "password": d.passwords[demoAdmin]})
	if err != nil {
		return err
	}
	policy, err := d.policy()
	if err != nil {
		return err
	}
	return errors.Join(
		d.write("secret.json", string(secret)+"\n"),
		d.write("policy.yaml", policy),
		d.write("config.yaml", fmt.Sprintf(demoConfig, port, opsPort, demoIntegration, d.server.Port, demoDatabase)))
}

const demoConfig = `# The gate of the demo. config.example.yaml explains every key.
listen: 127.0.0.1:%d
ops_listen: 127.0.0.1:%d
deployment: demo
drain_timeout: 2s
tls: {cert_file: server.crt, key_file: server.key}
policy: [policy.yaml]
audit: {file: trail.jsonl}
state: {file: state.db}
integrations:
  - name: %s
    hostname: localhost
    port: %d
    database: %s
    ssl_mode: verify-full
    ssl_root_cert: ca.crt
    secret: {file: secret.json}
`

const demoPolicy = `# Who may do what, until when. The gate sees when this file changes.
users:
  - {name: %[1]s, groups: [support], scram: "%[2]s"}
  - {name: %[3]s, groups: [support], scram: "%[4]s"}
  - {name: %[10]s, groups: [dba], scram: "%[11]s"}
access_flows:
  - name: support-orders
    requestors: {groups: [support]}
    targets: [{integrations: [%[6]s], access: [READ_ONLY, READ_WRITE]}]
    max_duration: 8h
    duration: 1h
    justification: {required: true, min_length: 8}
    approval: {any_of: [{groups: [dba]}]}
    extensions: {max: 1, duration: 30m, approval: none}
grants:
  - name: %[5]s
    users: [%[1]s]
    integration: %[6]s
    access: %[7]s
    until: %[8]s
    reason: INC-4211
  - name: inc-4187 # has ended
    users: [%[3]s]
    integration: %[6]s
    access: READ_ONLY
    until: %[9]s
    reason: INC-4187
`

// policy is policy.yaml. The grant ends at a whole second, so that all that shows it shows the same.
func (d *demo) policy() (string, error) {
	verifiers := make(map[string]string)
	for _, user := range []string{demoAlice, demoBob, demoCarol} {
		v, err := verifier.New(d.passwords[user], verifier.DefaultIterations)
		if err != nil {
			return "", err
		}
		verifiers[user] = v.Encode()
	}
	now := time.Now().UTC()
	d.until = now.Add(d.grantLength()).Truncate(time.Second)
	if d.until.Sub(now) < d.grantLength() {
		d.until = d.until.Add(time.Second)
	}
	yesterday := now.AddDate(0, 0, -1).Truncate(time.Hour)
	return fmt.Sprintf(demoPolicy, demoAlice, verifiers[demoAlice], demoBob, verifiers[demoBob],
		demoGrantName, demoIntegration, d.access, d.until.Format(time.RFC3339), yesterday.Format(time.RFC3339), demoCarol, verifiers[demoCarol]), nil
}
