package proxy_test

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/proxy"
)

// TestNeighbours is the ledger of what went wrong in front of PostgreSQL, and the proof that it does not here. What a hostile
// server can do is in the ledger of internal/upstream, what becomes of roles in that of roles. Not here, since there is
// nothing to go wrong:
//
//   - CVE-2026-6477: libpq's lo_* wrote what a hostile server sent over the client's stack. The gate calls no such function;
//     what people's clients call passes through.
//   - output_plugin_libraries (PostgreSQL 18.6): a replication user could load any library. Replication connections are
//     refused (see firstPackets), and no ephemeral role has REPLICATION (see the trick "replication slot" in roles).
func TestNeighbours(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	for _, neighbour := range []struct {
		id, wrong string
		test      func(t *testing.T, g *gate)
	}{
		{"PostgreSQL CVE-2021-23214", "plaintext behind SSLRequest was taken for what came encrypted", stuffed},
		{"PostgreSQL CVE-2026-6479", "requests for encryption, without end and inside each other, ate the stack", requestsWithoutEnd},
		{"PostgreSQL CVE-2026-6478", "comparing MD5 passwords took longer the more of them was right", neverMD5},
		{"PgBouncer CVE-2021-3935", "with certificates for passwords, stuffed statements ran as the victim", stuffedBeforeACertificate},
		{"Odyssey CVE-2021-43766", "the same", stuffedBeforeACertificate},
		{"PgBouncer CVE-2025-2291", "a password that had expired was good", expired},
		{"PgBouncer CVE-2025-12819", "a search_path from the client held for the pooler's own statements", searchPath},
		{"PgBouncer CVE-2026-6664", "a length inside SASLInitialResponse overflowed its check", innerLength},
		{"PgBouncer CVE-2026-6666", "an error without SQLSTATE was a null pointer", noSQLSTATE},
		{"PgBouncer CVE-2026-6667", "whoever could reach the console could end others' sessions", noConsole},
		{"PgBouncer CVE-2026-6668", "a length above 2³¹ made the buffer grow for ever", hugeLengths},
		{"PgBouncer CVE-2026-107348", "the same, before authentication", hugeLengths},
		{"PgBouncer CVE-2026-107349", "an option without a name was looked for for ever", emptyOption},
		{"PgBouncer CVE-2026-107350", "a second StartupMessage within SCRAM changed who was authenticated", secondStartup},
		{"PgBouncer CVE-2015-6817", "who was unknown became the pooler's own user", nobodyBecomesTheAdmin},
		{"Pgpool-II CVE-2025-46801", "one of several ways to authenticate did not", oneWayIn},
		{"pgx 5.11.0", "a NUL in a value made more parameters", nulInAValue},
		{"pgjdbc CVE-2025-49146", "channelBinding=require was content with a server that asked for less", alwaysOffersBinding},
		{"pgjdbc CVE-2026-54291", "a certificate without a hash function made the binding empty", noBindingForEd25519},
		{"Teleport CVE-2021-41395", "names of users and databases became parts of a connection string", namesAreNotStrings},
		{"PostgreSQL CVE-2024-10977", "what somebody said before TLS was shown as the server's error", strangersWords},
	} {
		t.Run(neighbour.id, func(t *testing.T) {
			t.Parallel()
			neighbour.test(t, g)
			if t.Failed() {
				t.Logf("at the neighbour's, %s", neighbour.wrong)
			}
		})
	}
}

// records are those of a connection.
func (g *gate) records(p *peer) []audit.Record {
	return slices.DeleteFunc(g.trail.all(), func(r audit.Record) bool { return r.RemoteAddr != p.conn.LocalAddr().String() })
}

// refusedWith opens with a StartupMessage and asserts how it ends.
func refusedWith(t *testing.T, to target, want string, pairs ...string) {
	t.Helper()
	p := dial(t, to, negotiated)
	p.send(startup(v30, pairs...))
	if got := p.outcome(); got != want {
		t.Errorf("%q: got %s, want %s", pairs, got, want)
	}
}

func stuffed(t *testing.T, g *gate) {
	for _, behind := range [][]byte{like(v30).bytes(g.target()), packet(vCancel, 0, 0, 0, 1, 0, 0, 0, 1), terminate, {0}} {
		p := dial(t, g.target(), plain)
		p.send(sslRequest, behind)
		if got := p.byte(); got != 'S' {
			t.Fatalf("got %q, want 'S'", got)
		}
		if err := p.handshake(); err == nil {
			t.Errorf("the handshake succeeded behind %q", behind)
		}
		if r := g.records(p); len(r) != 0 {
			t.Errorf("%q led to %+v", behind, r)
		}
	}
}

func requestsWithoutEnd(t *testing.T, g *gate) {
	p := dial(t, g.target(), plain)
	for range 1000 {
		p.send(gssRequest, sslRequest)
	}
	if got := string([]byte{p.byte(), p.byte()}); got != "NS" {
		t.Errorf("got %q, want one answer to each", got)
	}
	if b := p.byte(); b != 0 && b != 0x15 {
		t.Errorf("got %q, want a TLS alert or the end", b)
	}
	for _, request := range [][]byte{sslRequest, gssRequest} {
		for _, via := range []encryption{negotiated, directTLS} {
			p := dial(t, g.target(), via)
			p.send(request)
			if got := p.outcome(); !strings.HasPrefix(got, "FATAL 0A000") {
				t.Errorf("%q inside TLS: got %s, want FATAL 0A000", request, got)
			}
		}
	}
}

// neverMD5: SCRAM alone is asked for, whoever comes, and the policy takes no other verifier.
func neverMD5(t *testing.T, g *gate) {
	for _, user := range []string{alice, bob, "nobody", g.db.Owner} {
		to := g.target()
		to.user = user
		challenge(t, to) // fails if anything else is asked for
	}
	for _, verifier := range []string{"md5" + strings.Repeat("0", 32), "plaintext", "SCRAM-SHA-1$4096:AAAA$AAAA:AAAA"} {
		_, err := policy.Parse([]policy.Source{{File: "p.yaml", Data: fmt.Appendf(nil, "users: [{name: a, scram: %q}]\n", verifier)}}, nil)
		if err == nil {
			t.Errorf("the policy takes the verifier %q", verifier)
		}
	}
}

// stuffedBeforeACertificate: a man in the middle sends a log-in and a statement in plaintext, and lets the client's own
// bytes, with its certificate, follow.
func stuffedBeforeACertificate(t *testing.T, _ *gate) {
	people := pgtest.CA(t)
	g := startGate(t, database(t, 18), gateOptions{change: func(c *proxy.Config) {
		c.ClientCAs, c.ClientCertificateOptional = loadRoots(t, people.CertFile), true
	}})
	set, err := policy.Parse([]policy.Source{{File: "policy.yaml", Data: fmt.Appendf(nil, `
users: [{name: machine, certificate: machine.example.com}]
grants: [{name: g, users: [machine], integration: orders, access: READ_WRITE, until: %s}]
`, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))}}, map[string]string{"orders": g.db.Name})
	if err != nil {
		t.Fatal(err)
	}
	g.live.Put(set)
	to := g.target()
	to.tls.Certificates = []tls.Certificate{loadPair(t, people, "machine.example.com")}
	login := startup(v30, "user", "machine", "database", "orders")

	p := dial(t, to, negotiated)
	if p.send(login); p.outcome() != "ready" {
		t.Fatal("the certificate does not let in: there is nothing to test")
	}
	p = dial(t, to, plain)
	p.send(sslRequest, login, query("CREATE TABLE stuffed ()"))
	p.byte()
	if err := p.handshake(); err == nil {
		t.Error("the handshake succeeded behind stuffed bytes")
	}
	if r := g.records(p); len(r) != 0 {
		t.Errorf("it led to %+v", r)
	}
	var there bool
	if err := g.db.Superuser(t).QueryRow(t.Context(), "SELECT to_regclass('stuffed') IS NOT NULL").Scan(&there); err != nil || there {
		t.Errorf("the stuffed statement ran: %t, %v", there, err)
	}
}

// expired: a grant that ended a moment ago is no grant, whatever the password.
func expired(t *testing.T, _ *gate) {
	g := startGate(t, database(t, 18), gateOptions{grants: []string{grant("inc-1", -time.Second)}})
	refusedWith(t, g.target(), `FATAL 28000: no live grant for "orders"`, "user", alice, "database", "orders")
}

func searchPath(t *testing.T, _ *gate) { processIsTheServersWord(t) }

func innerLength(t *testing.T, g *gate) {
	for _, length := range []uint32{0xffffffff, 0xfffffffe, 0x80000000, 0x7fffffff, 0xffffffff - 17, 0xffffffff - 22, 12} {
		got := answer(t, g.target(), response(int32(length), ok))
		if !strings.HasPrefix(got, noMechanism) {
			t.Errorf("length %#x: got %s, want %s", length, got, noMechanism)
		}
	}
	if got := answer(t, g.target(), response(int32(len(ok)), ok)); got != goesOn {
		t.Errorf("the right length: got %s", got)
	}
}

// noConsole: no name of a database or user leads to anything but a grant's database.
func noConsole(t *testing.T, g *gate) {
	for _, database := range []string{"pgbouncer", "pgpool", "hourgate", "admin", "console", "postgres", "template1", "replication"} {
		refusedWith(t, g.target(), fmt.Sprintf("FATAL 28000: no live grant for %q", database), "user", alice, "database", database)
	}
}

// hugeLengths: in every phase, a length above 2³¹ is the end at once.
func hugeLengths(t *testing.T, g *gate) {
	for _, length := range []uint32{0x7fffffff, 0x80000000, 0x80000001, 0xfffffffb, 0xffffffff} {
		word := binary.BigEndian.AppendUint32(nil, length)
		for via, want := range map[encryption]string{plain: "closed", negotiated: "closed"} {
			p := dial(t, g.target(), via)
			p.send(word)
			if got := p.outcome(); got != want {
				t.Errorf("StartupMessage of length %#x: got %s, want %s", length, got, want)
			}
		}
		if got := answer(t, g.target(), typed('p', length)); !strings.HasPrefix(got, protocolError) {
			t.Errorf("SASL message of length %#x: got %s, want %s", length, got, protocolError)
		}
		p := connect(t, g.target())
		p.send(typed('Q', length))
		if m, err := p.read(); isTimeout(err) || err == nil && m.kind != 'E' {
			t.Errorf("Query of length %#x: got %s, %v; want the end", length, m, err)
		}
	}
}

func emptyOption(t *testing.T, g *gate) {
	for _, o := range []string{"-c=", "-c =", "-c =1", "--=", "--=1", "-c", "--", "-", "-c -", "=", `\`, `-c\ =`} {
		got := open(t, g.target(), negotiated, options(o))
		unknown := strings.HasPrefix(got, "FATAL 42704: unrecognized configuration parameter") // in PostgreSQL's words
		if got != protocolError && !unknown && !strings.HasPrefix(got, "FATAL 0A000: startup parameter") {
			t.Errorf("%q: got %s, want a refusal", o, got)
		}
	}
}

// secondStartup: bob, who knows his own password, asks to be alice in the middle of SCRAM, and goes on.
func secondStartup(t *testing.T, g *gate) {
	for _, database := range []string{"orders", "no such database"} {
		for _, early := range []bool{true, false} {
			to := g.target()
			to.user, to.password = bob, bobPassword
			p := dial(t, to, negotiated)
			p.send(startup(v30, "user", bob, "database", database))
			p.expect('R')
			conversation := newConversation("", bobPassword)
			first, _ := conversation.Step("")
			asAlice := startup(v30, "user", alice, "database", "orders")
			if early {
				p.send(asAlice, saslInitial("SCRAM-SHA-256", first))
			} else {
				p.send(saslInitial("SCRAM-SHA-256", first))
				final, _ := conversation.Step(string(p.expect('R').body[4:]))
				p.send(asAlice, sasl(final))
			}
			if got := p.outcome(); got != protocolError {
				t.Errorf("%s, early: %t: got %s, want %s", database, early, got, protocolError)
			}
			for _, r := range g.records(p) {
				if r.Event != audit.SessionRefused || r.User != bob {
					t.Errorf("recorded %+v, want bob's refusal alone", r)
				}
			}
		}
	}
}

// nobodyBecomesTheAdmin: whoever the policy does not know is nobody, also with the name and password that the server knows.
func nobodyBecomesTheAdmin(t *testing.T, g *gate) {
	for user, password := range map[string]string{
		"nobody": "", "no one": alicePassword, g.db.Owner: g.db.OwnerPassword, g.db.Admin: g.db.AdminPassword, "postgres": "", "Alice@example.com": alicePassword,
	} {
		to := g.target()
		to.password = password
		refusedWith(t, to, fmt.Sprintf("FATAL 28P01: password authentication failed for user %q", user), "user", user, "database", "orders")
	}
}

// oneWayIn: whatever comes in place of SCRAM's messages, nobody is let in.
func oneWayIn(t *testing.T, g *gate) {
	password := sasl(alicePassword + "\x00")
	for name, sent := range map[string][]byte{
		"the password as it is":                         password,
		"an empty password":                             sasl("\x00"),
		"nothing":                                       sasl(""),
		"a statement":                                   query("SELECT 1"),
		"SCRAM's end without its beginning":             sasl("c=biws,r=abc,p=AAAA"),
		"the password twice":                            append(bytes.Clone(password), password...),
		"an empty proof":                                append(saslInitial("SCRAM-SHA-256", ok), sasl("")...),
		"statements behind the first message":           append(saslInitial("SCRAM-SHA-256", ok), query("SELECT 1")...),
		"a mechanism that was not offered, with a name": saslInitial("OAUTHBEARER", "n,a="+alice+",\x01auth=Bearer x\x01\x01"),
	} {
		p := challenge(t, g.target())
		p.send(sent)
		for {
			m, err := p.read()
			if isTimeout(err) {
				t.Errorf("%s: still connected", name)
			}
			if err != nil {
				break
			}
			if m.kind == 'Z' || m.kind == 'R' && binary.BigEndian.Uint32(m.body) == 0 {
				t.Errorf("%s: got %s: let in", name, m)
			}
		}
	}
}

func nulInAValue(t *testing.T, g *gate) {
	for _, value := range []string{"x\x00user\x00" + bob, "x\x00user\x00" + alice, "x\x00options\x00-c role=postgres", "x\x00role\x00postgres", "x\x00"} {
		p := dial(t, g.target(), negotiated)
		p.send(like(v30, "application_name", value).bytes(g.target()))
		if got := p.outcome(); !strings.HasPrefix(got, "FATAL") {
			t.Errorf("%q: got %s, want a refusal", value, got)
		}
	}
}

// alwaysOffersBinding: whoever insists on channel binding is never asked for anything that has none.
func alwaysOffersBinding(t *testing.T, g *gate) {
	for _, via := range []encryption{negotiated, directTLS} {
		for _, user := range []string{alice, "nobody"} {
			p := dial(t, g.target(), via)
			p.send(startup(v30, "user", user))
			var offer pgproto3.AuthenticationSASL
			if err := offer.Decode(p.expect('R').body); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{"SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"}, offer.AuthMechanisms); diff != "" {
				t.Errorf("%s (-want +got):\n%s", user, diff)
			}
		}
	}
	p := bound(t, g.target())
	if got := p.outcome(); got != "ready" {
		t.Errorf("with channel binding: got %s, want ready", got)
	}
}

func namesAreNotStrings(t *testing.T, g *gate) {
	for _, name := range []string{
		"orders host=127.0.0.1", "orders user=postgres", "orders?host=127.0.0.1", "postgres://postgres@127.0.0.1/orders", "orders/" + g.db.Name + " user=postgres",
		"orders' user='postgres", `orders" user="postgres`, "orders;host=127.0.0.1", "dbname=orders",
	} {
		p := dial(t, g.target(), negotiated)
		p.send(startup(v30, "user", alice, "database", name))
		if got := p.outcome(); !strings.HasPrefix(got, "FATAL 28000: no live grant") {
			t.Errorf("database %q: got %s, want no live grant", name, got)
		}
		to := g.target()
		p = dial(t, to, negotiated)
		p.send(startup(v30, "user", alice+" "+name, "database", "orders"))
		if got := p.outcome(); !strings.HasPrefix(got, "FATAL 28P01") {
			t.Errorf("user %q: got %s, want FATAL 28P01", name, got)
		}
	}
}
