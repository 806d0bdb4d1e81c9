//go:build clients

package clients

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/internal/verifier"
)

// The people. Real ones are named by their e-mail addresses, which some clients may stumble over.
const (
	alice    = "alice@example.com" // may read and write
	bob      = "bob@example.com"   // had a grant that has ended
	carol    = "carol@example.com" // has one that ends during the test
	password = `correct "horse" battery 'staple', Grüße`
)

// login is what a client is told.
type login struct{ host, port, ca string }

// environment is the login for a script.
func (l login) environment() []string {
	return []string{
		"HOURGATE_HOST=" + l.host, "HOURGATE_PORT=" + l.port, "HOURGATE_CA=" + l.ca, "HOURGATE_DATABASE=orders",
		"HOURGATE_PASSWORD=" + password, "HOURGATE_USER=" + alice, "HOURGATE_EXPIRED_USER=" + bob, "HOURGATE_ENDING_USER=" + carol,
	}
}

// gate is `hourgate serve`, a process of its own in front of a database of pgtest.
type gate struct {
	login  login
	folder string

	plaintext bool   // is let through, from this machine
	extra     string // further keys of config.yaml

	log bytes.Buffer // complete when the process has ended
}

// startGate starts a gate that is stopped when the test ends.
func startGate(t *testing.T, binary string, db *pgtest.Database) *gate {
	t.Helper()
	return startGateUnder(t, binary, db, func(g *gate) { g.setPolicy(t, time.Now().Add(time.Hour)) })
}

// startGateUnder is startGate with a policy that policy writes.
func startGateUnder(t *testing.T, binary string, db *pgtest.Database, policy func(*gate)) *gate {
	t.Helper()
	g := &gate{folder: t.TempDir()}
	policy(g)
	cmd := exec.Command(binary, "serve", "--config", g.configure(t, db))
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	opened := make(chan string, 1)
	var reading sync.WaitGroup
	reading.Go(func() { g.readLog(stderr, opened) })
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		reading.Wait()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the gate ended with: %v", err)
		}
		if t.Failed() {
			t.Logf("log of the gate:\n%s", &g.log)
		}
	})
	address, ok := <-opened
	if !ok {
		t.Fatal("the gate did not open")
	}
	if g.login.host, g.login.port, err = net.SplitHostPort(address); err != nil {
		t.Fatal(err)
	}
	g.login.host = "localhost" // the certificate's
	return g
}

// readLog keeps the gate's log, and sends the address that it listens on.
func (g *gate) readLog(stderr io.Reader, opened chan<- string) {
	defer close(opened)
	for lines := bufio.NewReader(stderr); ; {
		line, err := lines.ReadBytes('\n')
		g.log.Write(line)
		var event struct{ Msg, Listen string }
		if json.Unmarshal(line, &event) == nil && event.Msg == "gate open" {
			opened <- event.Listen
		}
		if err != nil {
			return
		}
	}
}

// configure writes all files but the policy.
func (g *gate) configure(t *testing.T, db *pgtest.Database) string {
	t.Helper()
	authority := pgtest.CA(t)
	certFile, keyFile := authority.Issue(t, "localhost")
	g.login.ca = authority.CertFile
	g.write(t, "secret.json", fmt.Sprintf(`{"username": %q, "password": %q}`, db.Admin, db.AdminPassword))
	return g.write(t, "config.yaml", fmt.Sprintf(`
listen: 127.0.0.1:0
ops_listen: 127.0.0.1:0
deployment: clients-%s
tls: {cert_file: %q, key_file: %q, allow_plaintext_loopback: %t}
policy: [policy.yaml]
audit: {file: trail.jsonl}
integrations:
  - name: orders
    hostname: localhost
    port: %d
    database: %s
    ssl_root_cert: %q
    secret: {file: secret.json}
%s
`, db.Name, certFile, keyFile, g.plaintext, db.Server.Port, db.Name, db.Server.CAFile, g.extra))
}

// setPolicy writes the policy, in which carol's grant ends at a time. The gate sees by itself that it has changed.
func (g *gate) setPolicy(t *testing.T, carolUntil time.Time) {
	t.Helper()
	scram, err := encodedVerifier()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("users:\n")
	for _, user := range []string{alice, bob, carol} {
		fmt.Fprintf(&b, "  - {name: %s, scram: %q}\n", user, scram)
	}
	b.WriteString("grants:\n")
	now := time.Now()
	for _, grant := range []struct {
		name, user, access, databases string
		until                         time.Time
	}{
		{"work", alice, "READ_WRITE", "", now.Add(time.Hour)},
		{"last-week", bob, "READ_ONLY", "", now.Add(-time.Hour)},
		{"elsewhere", bob, "READ_ONLY", "databases: [invoices], ", now.Add(time.Hour)},
		{"shift", carol, "READ_ONLY", "", carolUntil},
	} {
		fmt.Fprintf(&b, "  - {name: %s, users: [%s], integration: orders, access: %s, %suntil: %s}\n",
			grant.name, grant.user, grant.access, grant.databases, grant.until.UTC().Format(time.RFC3339Nano))
	}
	g.write(t, "policy.yaml", b.String())
}

var encodedVerifier = sync.OnceValues(func() (string, error) { return encoded(password) })

func encoded(password string) (string, error) {
	v, err := verifier.New(password, verifier.DefaultIterations)
	return v.Encode(), err
}

// write puts a file into the gate's folder as a whole: the gate must not read half a file.
func (g *gate) write(t *testing.T, name, content string) string {
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

// protocol is the TLS version of all sessions that the trail knows, for the gate's word counts and not the client's.
func (g *gate) protocol(t *testing.T) string {
	t.Helper()
	protocol := ""
	for _, r := range g.records(t) {
		if r.Event != audit.SessionStart {
			continue
		}
		if r.TLSClient == "" || protocol != "" && r.TLSClient != protocol {
			t.Errorf("a session with %q, another with %q", r.TLSClient, protocol)
		}
		protocol = r.TLSClient
	}
	return protocol
}

// checkEnds waits for at least two sessions of carol's that were told that her grant has ended. (pgcli has more, which it
// ends itself.)
func (g *gate) checkEnds(t *testing.T) {
	t.Helper()
	eventually.True(t, "two sessions of "+carol+" are cut off at the end of the grant", func() bool {
		ended := 0
		for _, r := range g.records(t) {
			if r.Event == audit.SessionEnd && r.User == carol && r.Code == pgerrcode.AdminShutdown && r.Cause == "grant_expired" {
				ended++
			}
		}
		return ended >= 2
	})
}

// checkProof asks for sessions that were all authenticated with channel binding, or all without: a client that is told to
// insist on it must not only believe that it has it.
func (g *gate) checkProof(t *testing.T, bound bool) {
	t.Helper()
	want := "SCRAM-SHA-256"
	if bound {
		want = "SCRAM-SHA-256-PLUS"
	}
	for _, r := range g.records(t) {
		if got := r.Detail["authentication"]; r.Event == audit.SessionStart && got != want {
			t.Errorf("a session of %s was authenticated by %q, want %q", r.User, got, want)
		}
	}
}

// records is the gate's trail.
func (g *gate) records(t *testing.T) []audit.Record {
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
		records = append(records, r)
	}
	return records
}

// build builds a program, of the module that a folder is in, as `go build` does.
func build(t *testing.T, folder, program string) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "program")
	cmd := exec.Command("go", "build", "-o", file, program)
	cmd.Dir = folder
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", program, err, out)
	}
	return file
}
