package proxy_test

import (
	"crypto/tls"
	"strings"
	"testing"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/eventually"
)

// What single drivers do, and others don't. The drivers themselves run in package clients.
func TestOddDrivers(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	loggedIn := func(t *testing.T, p *peer, pairs ...string) {
		t.Helper()
		p.send(like(v30, pairs...).bytes(g.target()))
		if got := p.outcome(); got != "ready" {
			t.Errorf("got %s, want ready", got)
		}
	}
	for name, test := range map[string]func(t *testing.T){
		"JDBC sends no name in the TLS handshake, others send another": func(t *testing.T) {
			for _, name := range []string{"", "127.0.0.1", "alias.example.com"} {
				to := g.target()
				to.tls = &tls.Config{ServerName: name, InsecureSkipVerify: true}
				loggedIn(t, dial(t, to, negotiated))
			}
		},
		"libpq 17 sends ALPN in a negotiated handshake too": func(t *testing.T) {
			p := dial(t, g.target(), plain)
			p.send(sslRequest)
			p.byte()
			if err := p.handshake("postgresql"); err != nil {
				t.Fatal(err)
			}
			loggedIn(t, p)
		},
		"libpq with a Kerberos ticket asks for GSSAPI first": func(t *testing.T) {
			p := dial(t, g.target(), plain)
			p.send(gssRequest)
			p.byte()
			p.send(sslRequest)
			p.byte()
			if err := p.handshake(); err != nil {
				t.Fatal(err)
			}
			loggedIn(t, p)
		},
		"asyncpg quotes the encoding, and sends its own name within SCRAM": func(t *testing.T) {
			p := dial(t, g.target(), negotiated)
			p.send(like(v30, "client_encoding", "'utf-8'").bytes(g.target()))
			p.expect('R')
			conversation := newConversation(alice, alicePassword)
			first, _ := conversation.Step("")
			p.send(saslInitial("SCRAM-SHA-256", first))
			final, _ := conversation.Step(string(p.expect('R').body[4:]))
			p.send(sasl(final))
			if got := p.outcome(); got != "ready" {
				t.Errorf("got %s, want ready", got)
			}
		},
		"JDBC and node-postgres send a star for the name within SCRAM": func(t *testing.T) {
			if got := answer(t, g.target(), saslInitial("SCRAM-SHA-256", "n,,n=*,r=abc")); got != goesOn {
				t.Errorf("got %s", got)
			}
		},
		"JDBC sends its settings before anybody asked": func(t *testing.T) {
			loggedIn(t, dial(t, g.target(), negotiated), "client_encoding", "UTF8", "DateStyle", "ISO", "TimeZone", "Europe/Berlin", "extra_float_digits", "3",
				"application_name", "PostgreSQL JDBC Driver", "options", "-c statement_timeout=90s")
		},
		"pg8000 1.10 does not know SCRAM, and says Terminate": func(t *testing.T) {
			for _, late := range []bool{false, true} {
				p := challenge(t, g.target())
				if late {
					p.send(saslInitial("SCRAM-SHA-256", ok))
					p.expect('R')
				}
				p.send(terminate)
				p.expectSilence()
				if r := g.records(p); len(r) != 0 {
					t.Errorf("late: %t: recorded %+v, want nothing: nobody was refused", late, r)
				}
			}
		},
		"Npgsql says DISCARD ALL between its users": func(t *testing.T) {
			p := connect(t, g.target(), "DateStyle", "German")
			p.send(query("DISCARD ALL"))
			for {
				m, err := p.read()
				if err != nil || m.kind == 'E' {
					t.Fatalf("got %s, %v", m, err)
				}
				if m.kind == 'Z' {
					break
				}
			}
			p.send(query("SHOW DateStyle"))
			p.expect('T')
			if got := string(p.expect('D').body[6:]); !strings.HasPrefix(got, "German") {
				t.Errorf("DateStyle is %s after DISCARD ALL, want what the client began with", got)
			}
		},
		"pgAdmin begins in the database postgres": func(t *testing.T) {
			refusedWith(t, g.target(), `FATAL 28000: no live grant for "postgres"`, "user", alice, "database", "postgres")
		},
		"Debezium and pg_basebackup ask for replication": func(t *testing.T) {
			for _, value := range []string{"database", "true", "on", "yes", "1"} {
				refusedWith(t, g.target(), replicationError, "user", alice, "database", "orders", "replication", value)
			}
		},
		"IDEs open many connections at once": func(t *testing.T) {
			for range 8 {
				connect(t, g.target())
			}
		},
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); test(t) })
	}
	t.Run("the end of TLS is announced", func(t *testing.T) {
		t.Parallel()
		p := dial(t, g.target(), negotiated)
		p.send(startup(v30, "user", alice, "post_auth_delay", "1")) // a cause of its own: many of one cause are counted and not recorded
		p.expectEnd()                                               // EOF: with close_notify, that is; libpq would say SSL SYSCALL error otherwise
		eventually.True(t, "it is recorded", func() bool { r := g.records(p); return len(r) == 1 && r[0].Event == audit.SessionRefused })
	})
}
