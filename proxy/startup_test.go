package proxy_test

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgerrcode"

	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/proxy"
)

// A parameter of its own wins over the same in options, wherever it stands: drivers send them in any order.
func TestParameterBeforeOptions(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	for _, to := range append(oracles(t), g.target()) {
		for _, pairs := range [][]string{
			{"options", "-c DateStyle=German", "DateStyle", "SQL"},
			{"DateStyle", "SQL", "options", "-c DateStyle=German"},
		} {
			p := connect(t, to, pairs...)
			p.send(query("SHOW DateStyle"))
			p.expect('T')
			if got := string(p.expect('D').body[6:]); !strings.HasPrefix(got, "SQL") {
				t.Errorf("%s: %v sets DateStyle to %s, want SQL", to.addr, pairs, got)
			}
		}
	}
}

// The whole FATAL in plaintext, since PGSSLMODE=disable is the first mistake that people make.
func TestPlaintextIsRefusedWithAHint(t *testing.T) {
	t.Parallel()
	g := startGate(t, database(t, 18), gateOptions{})
	p := dial(t, g.target(), plain)
	p.send(like(v30).bytes(g.target()))
	want := fatal(pgerrcode.InvalidAuthorizationSpecification, "this gate takes encrypted connections only", "", "Connect with sslmode=verify-full, or at least sslmode=require.")
	if diff := cmp.Diff(want, p.expectEnd()); diff != "" {
		t.Error(diff)
	}
}

func TestPlaintextOnLoopbackWhenAllowed(t *testing.T) {
	t.Parallel()
	g := startGate(t, database(t, 18), gateOptions{change: func(c *proxy.Config) { c.AllowPlaintextLoopback = true }})
	p := dial(t, g.target(), plain)
	p.send(like(v30).bytes(g.target()))
	if got := p.outcome(); got != "ready" {
		t.Errorf("got %s, want ready", got)
	}
}

// The requests before the StartupMessage, each at most once: alternating them for ever was CVE-2026-6479.
func TestRule01EncryptionRequests(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	for _, rule := range []struct {
		name     string
		requests [][]byte
		want     string // what comes back until the end; 'T' for a handshake
	}{
		{"GSSENC, then SSL", [][]byte{gssRequest, sslRequest}, "NST"},
		{"SSL alone", [][]byte{sslRequest}, "ST"},
		{"GSSENC twice", [][]byte{gssRequest, gssRequest}, "NE"},
		{"GSSENC, then plaintext", [][]byte{gssRequest, like(v30)}, "NE"},
		{"GSSENC, SSL, and GSSENC in place of the handshake", [][]byte{gssRequest, sslRequest, gssRequest}, "NS"},
		{"SSL twice, the second in place of the handshake", [][]byte{sslRequest, sslRequest}, "S"},
		// CVE-2021-23214: what comes in plaintext behind SSLRequest is not taken for what comes encrypted.
		{"a StartupMessage stuffed behind SSLRequest", [][]byte{append(bytes.Clone(sslRequest), like(v30)...)}, "S"},
		{"a CancelRequest stuffed behind SSLRequest", [][]byte{append(bytes.Clone(sslRequest), packet(vCancel, 0, 0, 0, 1, 0, 0, 0, 1)...)}, "S"},
		{"GSSENC and SSL in one", [][]byte{append(bytes.Clone(gssRequest), sslRequest...)}, "NST"},
	} {
		t.Run(rule.name, func(t *testing.T) {
			t.Parallel()
			p := dial(t, g.target(), plain)
			for _, request := range rule.requests {
				p.send(request)
			}
			var got []byte
			for len(got) < len(rule.want)+1 {
				b := p.byte()
				if b == 0 || b == 0x15 /* a TLS alert */ {
					break
				}
				got = append(got, b)
				if b == 'E' {
					break
				}
				if string(got)+"T" == rule.want {
					if err := p.handshake(); err != nil {
						t.Fatal(err)
					}
					got = append(got, 'T')
					break
				}
			}
			if string(got) != rule.want {
				t.Errorf("got %q, want %q", got, rule.want)
			}
			if strings.HasSuffix(rule.want, "T") {
				p.login(like(v30).bytes(p.target))
			}
		})
	}
}

// Bytes that are stuffed in front of the handshake never reach a session. PostgreSQL closes the connection before the
// handshake (17 and later) or after it.
func TestRule01StuffedBytesBreakTheHandshake(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	for _, to := range append(oracles(t), g.target()) {
		p := dial(t, to, plain)
		p.send(sslRequest, like(v30).bytes(to))
		if got := p.byte(); got != 'S' && to.name != g.target().name {
			continue // closed before the answer
		}
		got := "closed"
		if err := p.handshake(); err == nil {
			if to.name == g.target().name {
				t.Error("the gate's handshake succeeded behind stuffed bytes")
			}
			got = p.outcome()
		}
		if accepted(got) || got == "silence" {
			t.Errorf("%s: got %s, want the end", to, got)
		}
	}
}

// TLS at once (sslnegotiation=direct) needs ALPN, so that a client of another protocol can't be led here.
func TestDirectTLS(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	targets := append(oracles(t), g.target())
	for _, rule := range []struct {
		name string
		alpn []string
		want string
	}{
		{"with ALPN", []string{"postgresql"}, "ready"},
		{"with ALPN among others", []string{"h2", "postgresql"}, "ready"},
		{"without ALPN", nil, "closed"},
		{"with h2", []string{"h2"}, "no application protocol"},
	} {
		t.Run(rule.name, func(t *testing.T) {
			t.Parallel()
			for _, to := range targets {
				want := rule.want
				if to.major > 0 && to.major < 17 {
					want = "closed" // before 17, PostgreSQL does not know it
				}
				p := dial(t, to, plain)
				got := ""
				switch err := p.handshake(rule.alpn...); {
				case isNoProtocol(err):
					got = "no application protocol"
				case err != nil:
					got = "closed"
				default:
					p.send(like(v30).bytes(to))
					got = p.outcome()
				}
				if got != want {
					t.Errorf("%s: got %s, want %s", to, got, want)
				}
			}
		})
	}
	t.Run("h2 on negotiated TLS", func(t *testing.T) {
		t.Parallel()
		for _, to := range targets {
			if to.major > 0 && to.major < 17 {
				continue // does not look at it
			}
			p := dial(t, to, plain)
			p.send(sslRequest)
			p.byte()
			if err := p.handshake("h2"); !isNoProtocol(err) {
				t.Errorf("%s: got %v, want the alert no_application_protocol", to, err)
			}
		}
	})
	t.Run("SSLRequest inside direct TLS", func(t *testing.T) {
		t.Parallel()
		p := dial(t, g.target(), directTLS)
		p.send(sslRequest)
		if got := p.outcome(); !strings.HasPrefix(got, "FATAL 0A000") {
			t.Errorf("got %s, want FATAL 0A000", got)
		}
	})
}

// isNoProtocol recognises the alert no_application_protocol, for which crypto/tls has no exported error.
func isNoProtocol(err error) bool {
	return err != nil && strings.Contains(err.Error(), "remote error: tls: no application protocol")
}

func TestOldTLSIsRefused(t *testing.T) {
	t.Parallel()
	p := dial(t, newGate(t).target(), plain)
	p.send(sslRequest)
	p.byte()
	p.target.tls = p.target.tls.Clone()
	p.target.tls.MinVersion, p.target.tls.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	if err := p.handshake(); err == nil {
		t.Error("TLS 1.1 was accepted")
	}
}

// What a client leaves in the middle ends its session in silence, and nothing stays behind.
func TestClientsThatLeave(t *testing.T) {
	t.Parallel()
	db := database(t, 18)
	for _, rule := range []struct {
		name string
		via  encryption
		sent []byte
	}{
		{"at once", plain, nil},
		{"after a byte", plain, []byte{0}},
		{"after a length word", plain, []byte{0, 0, 0, 8}},
		{"after half a ClientHello", plain, []byte{0x16, 3, 1, 2, 0}},
		{"after SSLRequest", plain, sslRequest},
		{"after TLS", negotiated, nil},
		{"after half a StartupMessage", negotiated, like(v30)[:20]},
		{"after a StartupMessage", negotiated, like(v30)},
	} {
		t.Run(rule.name, func(t *testing.T) {
			t.Parallel()
			g := startGate(t, db, gateOptions{})
			p := dial(t, g.target(), rule.via)
			p.send(rule.sent)
			_ = p.conn.Close()
			if err := g.server.Shutdown(t.Context()); err != nil { // waits for it
				t.Error(err)
			}
			if got := len(g.trail.all()); got != 0 && rule.sent == nil {
				t.Errorf("%d records in the trail, want none", got)
			}
		})
	}
}

// Whoever says nothing is put out when the time to log in is over.
func TestRule03LoginTimeout(t *testing.T) {
	t.Parallel()
	db := database(t, 18)
	for _, rule := range []struct {
		name string
		via  encryption
		sent []byte
		want string
	}{
		{"says nothing", plain, nil, "closed"},
		{"stops in the length word", plain, []byte{0}, "closed"},
		{"stops after TLS", negotiated, nil, "closed"},
		{"stops in the StartupMessage", negotiated, like(v30)[:20], "closed"},
		{"stops before its password", negotiated, startup(v30, "user", alice), "FATAL 08P01: the connection was not set up in time"},
	} {
		t.Run(rule.name, func(t *testing.T) {
			t.Parallel()
			g := startGate(t, db, gateOptions{change: func(c *proxy.Config) { c.LoginTimeout = promptly }})
			p := dial(t, g.target(), rule.via)
			p.send(rule.sent)
			last := message{}
			for {
				m, err := p.read()
				if isTimeout(err) {
					t.Fatal("still connected")
				}
				if err != nil {
					break
				}
				last = m
			}
			got := last.String()
			if last.kind != 'E' {
				got = "closed"
			}
			if got != rule.want {
				t.Errorf("got %s, want %s", got, rule.want)
			}
		})
	}
}

// The parameters that the server reports reach the client, and its key is as long as its protocol says.
func TestWelcome(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	for _, to := range append(oracles(t), g.target()) {
		for version, keyLength := range map[uint32]int{v30: 4, v31: 4, v32: 32, v39999: 32} {
			if to.major > 0 && to.major < 18 {
				keyLength = 4 // of any version, PostgreSQL before 18 makes 3.0
			}
			p := dial(t, to, negotiated)
			messages := p.login(like(version).bytes(to))
			for _, m := range messages {
				if m.kind == 'K' && len(m.body)-4 != keyLength {
					t.Errorf("%s: protocol 3.%d got a key of %d bytes, want %d", to.addr, version&0xffff, len(m.body)-4, keyLength)
				}
			}
		}
	}
	statuses := func(to target) map[string]string {
		p := dial(t, to, negotiated)
		got := make(map[string]string)
		for _, m := range p.login(like(v30, "application_name", "x").bytes(to)) {
			if m.kind == 'S' {
				name, value, _ := strings.Cut(string(m.body), "\x00")
				got[name] = strings.TrimSuffix(value, "\x00")
			}
		}
		delete(got, "session_authorization") // the role
		return got
	}
	if diff := cmp.Diff(statuses(g.direct()), statuses(g.target())); diff != "" {
		t.Errorf("ParameterStatus (-server +gate):\n%s", diff)
	}
}

// A client may send its packets in any pieces.
func TestStartupInPieces(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	p := dial(t, g.target(), plain)
	for _, b := range append(bytes.Clone(gssRequest), sslRequest...) {
		p.send([]byte{b})
	}
	if got := string([]byte{p.byte(), p.byte()}); got != "NS" {
		t.Fatalf("got %q, want NS", got)
	}
	if err := p.handshake(); err != nil {
		t.Fatal(err)
	}
	for _, b := range like(v30).bytes(g.target()) {
		p.send([]byte{b})
	}
	if got := p.outcome(); got != "ready" {
		t.Errorf("got %s, want ready", got)
	}
}

// newGate is a gate in front of PostgreSQL 18.
func newGate(t *testing.T) *gate {
	t.Helper()
	return startGate(t, database(t, 18), gateOptions{})
}

func database(t *testing.T, major int) *pgtest.Database {
	t.Helper()
	return pgtest.Start(t, major).Database(t)
}

// Settings at startup end as they do with the server: in the same value, or in the same words.
func TestSettingsAtStartup(t *testing.T) {
	t.Parallel()
	for _, db := range []*pgtest.Database{database(t, 13), database(t, 15), database(t, 18)} {
		g := startGate(t, db, gateOptions{})
		for _, rule := range []struct{ name, value, options string }{
			{name: "my.guc", value: "1"},
			{name: "My.Guc", value: "a 'b' \\"},
			{name: "app.user.id", value: "42", options: `-c app.user.id=42`},
			{name: "plpgsql.extra_errors", value: "none"},
			{name: "default_tablespace", value: "pg_default"},
			{name: "temp_tablespaces", value: "pg_default"},
			{name: "default_table_access_method", value: "heap"},
			{name: "track_activities", value: "off"},
			{name: "statement_timeout", value: "soon"},
			{name: "made_up", value: "1"},
			{name: "made_up", options: "-c made_up=1"},
			{name: "transaction_timeout", value: "1min"}, // since 17
		} {
			ask := func(to target) string {
				p := dial(t, to, negotiated)
				pairs := []string{"options", rule.options}
				if rule.options == "" {
					pairs = []string{rule.name, rule.value}
				}
				p.send(like(v30, pairs...).bytes(to))
				if outcome := p.outcome(); outcome != "ready" {
					return outcome
				}
				p.send(query("SELECT current_setting('" + rule.name + "')"))
				p.expect('T')
				return string(p.expect('D').body[6:])
			}
			if direct, gate := ask(g.direct()), ask(g.target()); direct != gate {
				t.Errorf("PostgreSQL %d, %s: direct %q, through the gate %q", db.Server.Major, rule.name, direct, gate)
			}
		}
	}
}

// A client may say at startup as which of its grant's roles it works, and as no other.
func TestRoleAtStartup(t *testing.T) {
	t.Parallel()
	db := database(t, 18)
	member, other := db.Name+"_member", db.Name+"_other"
	superuser := db.Superuser(t)
	for _, role := range []string{member, other} { // the server would let alice's role be both
		if _, err := superuser.Exec(t.Context(), fmt.Sprintf("CREATE ROLE %s; GRANT %[1]s TO %s", role, db.Owner)); err != nil {
			t.Fatal(err)
		}
	}
	g := startGate(t, db, gateOptions{grants: []string{
		fmt.Sprintf("  - {name: inc-1, users: [%s], integration: orders, access: {roles: [%s]}, until: %s}\n",
			alice, member, time.Now().Add(time.Hour).UTC().Format(time.RFC3339)),
	}})
	for role, want := range map[string]string{
		member: member, "none": db.Owner, other: fmt.Sprintf("FATAL 42501: permission denied to set role %q", other),
	} {
		for _, pairs := range [][]string{{"role", role}, {"options", "-c role=" + role}, {"options", "--Role=" + role}} {
			p := dial(t, g.target(), negotiated)
			p.send(like(v30, pairs...).bytes(g.target()))
			got := p.outcome()
			if got == "ready" {
				p.send(query("SELECT current_user"))
				p.expect('T')
				got = string(p.expect('D').body[6:])
			}
			if got != want {
				t.Errorf("%q: got %s, want %s", pairs, got, want)
			}
		}
	}
}

// The process ID that a client is given is the server's own, and its application_name is as it chose.
func TestTheServersOwnProcessID(t *testing.T) {
	t.Parallel()
	for _, major := range pgtest.Majors() {
		g := startGate(t, database(t, major), gateOptions{})
		for _, version := range []uint32{v30, v32} {
			p := dial(t, g.target(), negotiated)
			var key []byte
			for _, m := range p.login(like(version, "application_name", "my app").bytes(g.target())) {
				if m.kind == 'K' {
					key = m.body
				}
			}
			p.send(query("SELECT pg_backend_pid() || ' ' || current_setting('application_name')"))
			p.expect('T')
			want := fmt.Sprintf("%d my app", binary.BigEndian.Uint32(key))
			if got := string(p.expect('D').body[6:]); got != want {
				t.Errorf("PostgreSQL %d: got %q, want %q", major, got, want)
			}
		}
	}
}

// A prefix of the application's name, if one is configured.
func TestApplicationNamePrefix(t *testing.T) {
	t.Parallel()
	g := startGate(t, database(t, 18), gateOptions{change: func(c *proxy.Config) { c.ApplicationNamePrefix = "via hourgate: " }})
	for name, want := range map[string]string{"psql": "via hourgate: psql", "": "via hourgate: "} {
		p := dial(t, g.target(), negotiated)
		p.login(like(v30, "application_name", name).bytes(g.target()))
		p.send(query("SHOW application_name"))
		p.expect('T')
		if got := string(p.expect('D').body[6:]); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
