package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hourgate/hourgate/gate"
	"github.com/hourgate/hourgate/internal/gatetest"
	"github.com/hourgate/hourgate/internal/pgtest"
)

// patient is a configuration that doctor looks at, with a server behind it.
type patient struct {
	gate *gatetest.Gate
	file string
}

func newPatient(t *testing.T) *patient {
	t.Helper()
	db := pgtest.Start(t, 15).Database(t)
	g := gatetest.New(t, db)
	return &patient{gate: g, file: g.Configure(t, gatetest.Options{Grants: gatetest.Grant("g")})}
}

// change replaces words in one of the gate's files.
func (p *patient) change(t *testing.T, name string, oldnew ...string) {
	t.Helper()
	file := filepath.Join(p.gate.Folder, name)
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.NewReplacer(oldnew...).Replace(string(content))
	if changed == string(content) {
		t.Fatalf("%q is not in %s:\n%s", oldnew, name, content)
	}
	p.gate.Write(t, name, changed)
}

// see runs `hourgate doctor --json`.
func (p *patient) see(t *testing.T) (code int, findings map[string]gate.Finding) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = run(t.Context(), []string{"doctor", "--json", "--config", p.file}, nil, &stdout, &stderr)
	findings = make(map[string]gate.Finding)
	for line := range strings.Lines(stdout.String()) {
		var f gate.Finding
		if err := json.Unmarshal([]byte(line), &f); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		if worse := findings[f.Name]; rank(f) >= rank(worse) {
			findings[f.Name] = f
		}
	}
	return code, findings
}

func rank(f gate.Finding) int { return strings.Index("ok  warnfail", string(f.Status)) }

// expect fails unless the worst finding of a name has the status and, in detail or mend, the words.
func expect(t *testing.T, findings map[string]gate.Finding, name, status string, words ...string) {
	t.Helper()
	f, found := findings[name]
	text := f.Detail + " " + f.Mend
	for _, word := range words {
		found = found && strings.Contains(text, word)
	}
	if !found || string(f.Status) != status {
		t.Errorf("%s: got %s %q, want %s with %q", name, f.Status, text, status, words)
	}
}

// A gate that is as it should be, before it runs and while it does.
func TestDoctorFindsNothing(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	p.change(t, "config.yaml", "\nlisten: 127.0.0.1:0", "\nlisten: "+freeAddress(t), "ops_listen: 127.0.0.1:0", "ops_listen: "+freeAddress(t))
	code, findings := p.see(t)
	if code != exitOK {
		t.Errorf("exit code %d: %v", code, findings)
	}
	for _, name := range []string{"configuration", "policy", "names", "chain", "certificate", "listen", "ops_listen", "trail", "server", "server's certificate", "secret", "connection", "clock", "writer"} {
		if f := findings[name]; f.Status != "ok" && name != "certificate" && name != "server's certificate" { // the tests' certificates are short-lived
			t.Errorf("%s: %s %q", name, f.Status, f.Detail)
		}
	}
	expect(t, findings, "listen", "ok", "is free")
	p.gate.Run(t, p.file)
	_, findings = p.see(t)
	expect(t, findings, "listen", "ok", "a gate answers", "with this certificate")
	expect(t, findings, "ops_listen", "ok", "is ready")
}

// Each trouble is found, and only what comes of it.
func TestDoctorFinds(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, check, status string
		words               []string
		spoil               func(t *testing.T, p *patient)
		code                int
	}{
		{"password", "connection", "fail", []string{"28P01"}, func(t *testing.T, p *patient) { p.change(t, "secret.json", `"password": "`, `"password": "x`) }, exitRuntime},
		{"no secret", "secret", "fail", []string{"secret.json"}, func(t *testing.T, p *patient) { _ = os.Remove(filepath.Join(p.gate.Folder, "secret.json")) }, exitRuntime},
		{"server down", "server", "fail", []string{"refused", "The admin connection is lost"}, func(t *testing.T, p *patient) {
			p.change(t, "config.yaml", fmt.Sprintf("port: %d", p.gate.DB.Server.Port), "port: 1")
		}, exitRuntime},
		{"other authority", "server", "fail", []string{"certificate signed by unknown authority"}, func(t *testing.T, p *patient) {
			p.change(t, "config.yaml", p.gate.DB.Server.CAFile, pgtest.CA(t).CertFile)
		}, exitRuntime},
		{"no TLS", "ssl_mode", "warn", []string{"verify-full"}, func(t *testing.T, p *patient) {
			p.change(t, "config.yaml", "ssl_mode: verify-full", "ssl_mode: require", "ssl_root_cert", "#")
		}, exitOK},
		{"grant ended", "policy", "warn", []string{"0 live", "1 ended", "nobody gets in"}, func(t *testing.T, p *patient) {
			p.gate.SetGrants(t, gatetest.Grant("g", "until", "2026-01-01T00:00:00Z"))
		}, exitOK},
		{"unknown key", "configuration", "fail", []string{"config.yaml:", "colour"}, func(t *testing.T, p *patient) { p.change(t, "config.yaml", "\nlisten:", "\ncolour: blue\nlisten:") }, exitUsage},
		{"port in use", "listen", "fail", []string{"no gate"}, func(t *testing.T, p *patient) {
			p.change(t, "config.yaml", "\nlisten: 127.0.0.1:0", "\nlisten: "+mute(t))
		}, exitRuntime},
		{"not our address", "listen", "fail", []string{"address of this machine"}, func(t *testing.T, p *patient) {
			p.change(t, "config.yaml", "\nlisten: 127.0.0.1:0", "\nlisten: 192.0.2.1:6432")
		}, exitRuntime},
		{"state is a folder", "state", "fail", []string{"state.db"}, func(t *testing.T, p *patient) {
			p.change(t, "config.yaml", "\nlisten:", "\nstate: {file: state.db}\nlisten:")
			_ = os.Mkdir(filepath.Join(p.gate.Folder, "state.db"), 0o700)
		}, exitRuntime},
		{"state in a file", "state", "ok", []string{"will be made"}, func(t *testing.T, p *patient) {
			p.change(t, "config.yaml", "\nlisten:", "\nstate: {file: state.db}\nlisten:")
		}, exitOK},
		{"state in a database", "state", "ok", []string{"answers"}, func(t *testing.T, p *patient) { p.keepState(t, "secret.json") }, exitOK},
		{"state without its password", "state", "fail", []string{"28P01"}, func(t *testing.T, p *patient) {
			p.gate.Write(t, "wrong.json", fmt.Sprintf(`{"username": %q, "password": "wrong"}`, p.gate.DB.Admin))
			p.keepState(t, "wrong.json")
		}, exitRuntime},
		{"trail is a folder", "trail", "fail", []string{"trail.jsonl"}, func(t *testing.T, p *patient) { _ = os.Mkdir(filepath.Join(p.gate.Folder, "trail.jsonl"), 0o700) }, exitRuntime},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newPatient(t)
			tt.spoil(t, p)
			code, findings := p.see(t)
			if code != tt.code {
				t.Errorf("exit code %d, want %d: %v", code, tt.code, findings)
			}
			expect(t, findings, tt.check, tt.status, tt.words...)
		})
	}
}

// What is wrong with the certificate that clients are shown.
func TestDoctorLooksAtTheCertificate(t *testing.T) {
	t.Parallel()
	authority := pgtest.CA(t)
	for _, tt := range []struct {
		name, check, status string
		words               []string
		change              func(*x509.Certificate)
		more                []byte // after the gate's own certificate
	}{
		{"good", "certificate", "ok", []string{"good until"}, func(c *x509.Certificate) { c.NotAfter = time.Now().AddDate(1, 0, 0) }, nil},
		{"ends soon", "certificate", "warn", []string{"ends in 4 day(s)"}, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(5*24*time.Hour - time.Minute) }, nil},
		{"ended", "certificate", "fail", []string{"ended on"}, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, nil},
		{"to come", "certificate", "fail", []string{"not good before"}, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }, nil},
		{"no names", "names", "fail", []string{"subject alternative names"}, func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = nil, nil }, nil},
		{"names", "names", "ok", []string{"gate.example.com, 192.0.2.1"}, func(c *x509.Certificate) {
			c.DNSNames, c.IPAddresses = []string{"gate.example.com"}, []net.IP{net.IPv4(192, 0, 2, 1)}
		}, nil},
		{"chain", "chain", "ok", []string{"2 certificate(s)"}, func(*x509.Certificate) {}, authority.DER()},
		{"wrong chain", "chain", "fail", []string{"did not sign the one before it"}, func(*x509.Certificate) {}, pgtest.CA(t).DER()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			pair := authority.IssueCustom(t, func(c *x509.Certificate) { c.DNSNames = []string{"localhost"}; tt.change(c) })
			if tt.more != nil {
				pair.Certificate = append(pair.Certificate, tt.more)
			}
			p := newPatient(t)
			p.show(t, pair)
			_, findings := p.see(t)
			expect(t, findings, tt.check, tt.status, tt.words...)
		})
	}
}

// show has the gate show a certificate.
func (p *patient) show(t *testing.T, pair *tls.Certificate) {
	t.Helper()
	var certificates []byte
	for _, der := range pair.Certificate {
		certificates = append(certificates, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	p.gate.Write(t, "shown.crt", string(certificates))
	p.gate.Write(t, "shown.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
	content, err := os.ReadFile(p.file)
	if err != nil {
		t.Fatal(err)
	}
	p.gate.Write(t, "config.yaml", regexp.MustCompile(`(?m)^tls:.*$`).ReplaceAllString(string(content), "tls: {cert_file: shown.crt, key_file: shown.key}"))
}

// keepState has the requests kept in the database that is guarded, which is enough to look at.
func (p *patient) keepState(t *testing.T, secret string) {
	t.Helper()
	server := p.gate.DB.Server
	p.change(t, "config.yaml", "\nlisten:", fmt.Sprintf("\nstate: {postgres: {hostname: localhost, port: %d, database: %s, ssl_root_cert: %s, secret: {file: %s}}}\nlisten:",
		server.Port, p.gate.DB.Name, server.CAFile, secret))
}

// mute is an address where somebody listens who is no gate.
func mute(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("N"))
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = listener.Close() })
	return listener.Addr().String()
}
