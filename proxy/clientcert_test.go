package proxy_test

import (
	"crypto/tls"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/proxy"
)

// A policy can ask for a client certificate of a name, alone or together with a password. Who shows another fails as
// with a wrong password.
func TestCertificateOfAUser(t *testing.T) {
	t.Parallel()
	people, strangers := pgtest.CA(t), pgtest.CA(t)
	g := startGate(t, pgtest.Start(t, 15).Database(t), gateOptions{change: func(c *proxy.Config) {
		c.ClientCAs, c.ClientCertificateOptional = loadRoots(t, people.CertFile), true
	}})
	scram := verifiers()[alice]
	until := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	set, err := policy.Parse([]policy.Source{{File: "policy.yaml", Data: fmt.Appendf(nil, `
users:
  - {name: both, scram: %q, certificate: both.example.com}
  - {name: machine, certificate: machine.example.com}
  - {name: password, scram: %q}
  - {name: nothing}
grants:
  - {name: g, users: [both, machine, password, nothing], integration: orders, access: READ_ONLY, until: %s}
`, scram, scram, until)}}, map[string]string{"orders": g.db.Name})
	if err != nil {
		t.Fatal(err)
	}
	g.live.Put(set)

	none := tls.Certificate{}
	both, machine := loadPair(t, people, "both.example.com"), loadPair(t, people, "machine.example.com")
	const ready, refused = "ready", pgerrcode.InvalidPassword
	const scramAlone, certAlone, together = "SCRAM-SHA-256", "certificate", "certificate, SCRAM-SHA-256"
	for _, test := range []struct {
		name, user, password string
		cert                 tls.Certificate
		want                 string
		proof                string // in the trail
	}{
		{"certificate and password", "both", alicePassword, both, ready, together},
		{"password without the certificate", "both", alicePassword, none, refused, ""},
		{"another's certificate", "both", alicePassword, machine, refused, ""},
		{"certificate without the password", "both", "wrong", both, refused, ""},
		{"certificate alone", "machine", "", machine, ready, certAlone},
		{"no certificate and no password", "machine", alicePassword, none, refused, ""},
		{"another's certificate alone", "machine", alicePassword, both, refused, ""},
		{"password alone", "password", alicePassword, none, ready, scramAlone},
		{"password, and a certificate that nobody asks for", "password", alicePassword, machine, ready, scramAlone},
		{"neither", "nothing", alicePassword, machine, refused, ""},
		{"of an unknown authority", "machine", "", loadPair(t, strangers, "machine.example.com"), "closed", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			to := g.target()
			to.password = test.password
			to.tls = to.tls.Clone()
			to.tls.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &test.cert, nil }
			p := dial(t, to, negotiated)
			_, _ = p.conn.Write(startup(v30, "user", test.user, "database", "orders"))
			if got := p.outcome(); !strings.Contains(got, test.want) {
				t.Errorf("got %s, want %s", got, test.want)
			}
			if got := g.proof(p, audit.SessionStart); got != test.proof {
				t.Errorf("the trail says that the user was authenticated by %q, want %q", got, test.proof)
			}
		})
	}
}

// proof is how the user of a connection was authenticated, as a record of the trail says.
func (g *gate) proof(p *peer, event audit.Event) string {
	for _, r := range g.trail.of(event) {
		if r.RemoteAddr == p.conn.LocalAddr().String() {
			return r.Detail["authentication"]
		}
	}
	return ""
}

// The trail says how a user was authenticated, at each event: also of those who were and may not in, and not of those who
// were not.
func TestProofIsRecorded(t *testing.T) {
	t.Parallel()
	g := startGate(t, pgtest.Start(t, 15).Database(t), gateOptions{})
	p := bound(t, g.target())
	if got := p.outcome(); got != "ready" {
		t.Fatalf("got %s, want ready", got)
	}
	p.send(terminate)
	p.expectSilence()
	for _, event := range []audit.Event{audit.SessionStart, audit.SessionEnd} {
		eventually.True(t, "it is recorded", func() bool { return len(g.trail.of(event)) == 1 })
		if got := g.proof(p, event); got != "SCRAM-SHA-256-PLUS" {
			t.Errorf("%s: got %q, want SCRAM-SHA-256-PLUS", event, got)
		}
	}
	for password, want := range map[string]string{bobPassword: "SCRAM-SHA-256", "wrong": ""} {
		to := g.target()
		to.user, to.password = bob, password
		p := dial(t, to, negotiated)
		p.send(like(v30).bytes(to))
		if got := p.outcome(); accepted(got) {
			t.Fatalf("got %s, want a refusal", got)
		}
		if got := g.proof(p, audit.SessionRefused); got != want {
			t.Errorf("refused with password %q: got %q, want %q", password, got, want)
		}
	}
}
