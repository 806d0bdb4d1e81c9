package proxy_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/xdg-go/scram"

	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/proxy"
)

// challenge is a client that has sent its StartupMessage and seen AuthenticationSASL.
func challenge(t testing.TB, to target) *peer {
	t.Helper()
	p := dial(t, to, negotiated)
	p.send(like(v30).bytes(to))
	if m := p.expect('R'); binary.BigEndian.Uint32(m.body) != 10 {
		t.Fatalf("got Authentication %d, want SASL", binary.BigEndian.Uint32(m.body))
	}
	return p
}

// firstMessage is a client-first-message.
func firstMessage(gs2 string) string { return gs2 + "n=,r=abcdefghijklmnopqrstuvwx" }

const (
	wrongPassword = "FATAL 28P01: password authentication failed for user"
	noMechanism   = "FATAL 08P01: client selected an invalid SASL authentication mechanism"
	goesOn        = "message 'R'" // AuthenticationSASLContinue, or whatever else is not the end
)

// ok is a client-first-message.
const ok = "n,,n=,r=abc"

// response is a SASLInitialResponse with a length of its own inside.
func response(declared int32, data string) []byte {
	body := binary.BigEndian.AppendUint32([]byte("SCRAM-SHA-256\x00"), uint32(declared))
	return sasl(string(body) + data)
}

// initialResponses are what may come in place of a SASLInitialResponse, and what becomes of the client.
var initialResponses = []struct {
	name string
	sent []byte
	want string
}{
	{"right", saslInitial("SCRAM-SHA-256", ok), goesOn},
	{"any name inside", saslInitial("SCRAM-SHA-256", "n,,n=*,r=abc"), goesOn},
	{"a name inside that is another's", saslInitial("SCRAM-SHA-256", "n,,n=bob@example.com,r=abc"), goesOn},
	{"an authorization identity", saslInitial("SCRAM-SHA-256", "n,a=bob,n=,r=abc"), wrongPassword},
	{"an extension", saslInitial("SCRAM-SHA-256", "n,,m=x,n=,r=abc"), wrongPassword},
	{"no nonce", saslInitial("SCRAM-SHA-256", "n,,n="), wrongPassword},
	{"no message", saslInitial("SCRAM-SHA-256", ""), wrongPassword},
	{"another flag", saslInitial("SCRAM-SHA-256", "x,,n=,r=abc"), wrongPassword},

	{"no response at all (length -1)", response(-1, ""), noMechanism},
	{"a length that is too small", response(3, ok), noMechanism},
	{"a length that is too great", response(100, ok), noMechanism},
	{"a length that is negative", response(-2, ok), noMechanism},
	{"no length", sasl("SCRAM-SHA-256\x00"), noMechanism},
	{"no end of the mechanism", sasl("SCRAM-SHA-256"), noMechanism},
	{"an empty message", sasl(""), noMechanism},
	{"another mechanism", saslInitial("SCRAM-SHA-1", ok), noMechanism},
	{"no mechanism", saslInitial("", ok), noMechanism},
	{"OAUTHBEARER", saslInitial("OAUTHBEARER", "n,,\x01auth=\x01\x01"), noMechanism},

	{"the flag y, though -PLUS was offered (downgrade)", saslInitial("SCRAM-SHA-256", "y,,n=,r=abc"), wrongPassword},
	{"the flag p without -PLUS", saslInitial("SCRAM-SHA-256", "p=tls-server-end-point,,n=,r=abc"), noMechanism},
	{"-PLUS with the flag n", saslInitial("SCRAM-SHA-256-PLUS", ok), noMechanism},
	{"-PLUS with the flag y", saslInitial("SCRAM-SHA-256-PLUS", "y,,n=,r=abc"), noMechanism},
	{"-PLUS with tls-unique", saslInitial("SCRAM-SHA-256-PLUS", "p=tls-unique,,n=,r=abc"), wrongPassword},
	{"-PLUS", saslInitial("SCRAM-SHA-256-PLUS", "p=tls-server-end-point,,n=,r=abc"), goesOn},

	{"as long as is allowed", saslInitial("SCRAM-SHA-256", "n,,n=,r="+strings.Repeat("a", 1024-30)), goesOn},
	{"longer than is allowed", saslInitial("SCRAM-SHA-256", "n,,n=,r="+strings.Repeat("a", 1025-30)), protocolError},
	{"length 3", typed('p', 3), protocolError},
	{"length 0", typed('p', 0), protocolError},
	{"length 1 GiB", typed('p', 1<<30), protocolError},
	{"length 4 GiB", typed('p', 0xffffffff), protocolError},
	{"a Query", query("SELECT 1"), protocolError},
	// PgBouncer's CVE-2026-107350: a second StartupMessage changed the user.
	{"a second StartupMessage", startup(v30, "user", bob), protocolError},
	{"SSLRequest", sslRequest, protocolError},
	{"Terminate", terminate, "closed"},
}

// What comes in place of a SASLInitialResponse.
func TestRule05SASLInitialResponse(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	servers := oracles(t)
	for _, rule := range initialResponses {
		t.Run(rule.name, func(t *testing.T) {
			t.Parallel()
			got := answer(t, g.target(), rule.sent)
			if !strings.HasPrefix(got, rule.want) {
				t.Errorf("got %s, want %s", got, rule.want)
			}
			compare(t, servers, "initial response: "+rule.name, accepted(got), func(server target) string {
				return answer(t, server, rule.sent)
			})
		})
	}
}

// answer is what comes back for a message in place of SASLInitialResponse.
func answer(t *testing.T, to target, sent []byte) string {
	t.Helper()
	p := challenge(t, to)
	p.send(sent)
	m, err := p.read()
	switch {
	case isTimeout(err):
		return "silence"
	case err != nil:
		return "closed"
	}
	return m.String()
}

// What comes in place of the last message of SCRAM. change gets the right one.
func TestRule05SASLResponse(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	servers := oracles(t)
	for _, rule := range []struct {
		name   string
		change func(final string) []byte
		want   string
	}{
		{"right", sasl, "ready"},
		{"right, with statements behind it", func(f string) []byte { return append(sasl(f), query("SELECT 1")...) }, "ready"},
		{"another proof", replaceField("p=", base64.StdEncoding.EncodeToString(make([]byte, 32))), wrongPassword},
		{"a short proof", replaceField("p=", "AAAA"), wrongPassword},
		{"no proof", func(f string) []byte { return sasl(f[:strings.LastIndex(f, ",p=")]) }, wrongPassword},
		{"another nonce", replaceField("r=", "abc"), wrongPassword},
		{"another gs2 header (y)", replaceField("c=", base64.StdEncoding.EncodeToString([]byte("y,,"))), wrongPassword},
		{"nothing", func(string) []byte { return sasl("") }, wrongPassword},
		{"NULs", func(string) []byte { return sasl("\x00\x00\x00") }, wrongPassword},
		{"a NUL behind it", func(f string) []byte { return sasl(f + "\x00") }, wrongPassword},
		{"too long", func(f string) []byte { return sasl(f + strings.Repeat("x", 1024)) }, protocolError},
		{"a Query", func(string) []byte { return query("SELECT 1") }, protocolError},
		{"a second StartupMessage", func(string) []byte { return startup(v30, "user", bob) }, protocolError},
		{"Terminate", func(string) []byte { return terminate }, "closed"},
	} {
		t.Run(rule.name, func(t *testing.T) {
			t.Parallel()
			got := lastAnswer(t, g.target(), rule.change)
			if !strings.HasPrefix(got, rule.want) {
				t.Errorf("got %s, want %s", got, rule.want)
			}
			compare(t, servers, "response: "+rule.name, accepted(got), func(server target) string {
				return lastAnswer(t, server, rule.change)
			})
		})
	}
}

// replaceField changes one attribute of a SCRAM message.
func replaceField(name, value string) func(string) []byte {
	return func(final string) []byte {
		fields := strings.Split(final, ",")
		for i, field := range fields {
			if strings.HasPrefix(field, name) {
				fields[i] = name + value
			}
		}
		return sasl(strings.Join(fields, ","))
	}
}

func lastAnswer(t *testing.T, to target, change func(string) []byte) string {
	t.Helper()
	p := challenge(t, to)
	conversation := newConversation(to.user, to.password)
	first, _ := conversation.Step("")
	p.send(saslInitial("SCRAM-SHA-256", first))
	final, err := conversation.Step(string(p.expect('R').body[4:]))
	if err != nil {
		t.Fatal(err)
	}
	p.send(change(final))
	return p.outcome()
}

// An unknown user, a wrong password and a user without a grant can't be told apart until the password was right: the
// same messages of the same lengths, and a salt that stays the same.
func TestRule05UnknownUsersLookLikeOthers(t *testing.T) {
	t.Parallel()
	g := startGate(t, database(t, 18), gateOptions{})
	transcript := func(user string) (form []string, salt string) {
		to := g.target()
		to.user, to.password = user, "wrong"
		p := dial(t, to, negotiated)
		p.send(startup(v30, "user", user, "database", "orders"))
		messages, _ := p.authenticate()
		for _, m := range messages {
			form = append(form, fmt.Sprintf("%q %d", m.kind, len(m.body)))
			if m.kind == 'R' && binary.BigEndian.Uint32(m.body) == 11 {
				for field := range strings.SplitSeq(string(m.body[4:]), ",") {
					if value, ok := strings.CutPrefix(field, "s="); ok {
						salt = value
					}
					if strings.HasPrefix(field, "i=") && field != "i=4096" {
						t.Errorf("%s: %s", user, field)
					}
				}
			}
		}
		return form, salt
	}
	users := []string{alice, "mallo@example.com", "malli@example.com"} // of one length, since errors repeat the name
	want, _ := transcript(alice)
	var salts []string
	for _, user := range users {
		form, salt := transcript(user)
		if diff := cmp.Diff(want, form); diff != "" {
			t.Errorf("%s (-%s +%s):\n%s", user, alice, user, diff)
		}
		if _, again := transcript(user); again != salt {
			t.Errorf("%s has the salt %s, then %s", user, salt, again)
		}
		if slices.Contains(salts, salt) {
			t.Errorf("%s has another's salt", user)
		}
		salts = append(salts, salt)
	}
	bobs, _ := transcript(bob) // known, but without a grant
	if len(bobs) != len(want) {
		t.Errorf("got %v for a user without a grant, want as many messages as in %v", bobs, want)
	}
	if got, want := g.metric("hourgate_connections_refused_total", "reason", "authentication"), 8.0; got != want {
		t.Errorf("%v refusals counted, want %v", got, want)
	}
}

// The password counts for the user in the StartupMessage, not for any name inside SCRAM.
func TestUserIsThatOfTheStartupMessage(t *testing.T) {
	t.Parallel()
	g := startGate(t, database(t, 18), gateOptions{})
	p := challenge(t, g.target())
	conversation := newConversation(bob, alicePassword) // sends n=bob@example.com
	first, _ := conversation.Step("")
	p.send(saslInitial("SCRAM-SHA-256", first))
	final, _ := conversation.Step(string(p.expect('R').body[4:]))
	p.send(sasl(final))
	if got := p.outcome(); got != "ready" {
		t.Fatalf("got %s, want ready", got)
	}
	if got := g.trail.all()[0].User; got != alice {
		t.Errorf("the session is %s's, want %s's", got, alice)
	}
}

// Channel binding with a raw client, pgx and psql.
func TestChannelBinding(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	t.Run("raw", func(t *testing.T) {
		t.Parallel()
		p := challenge(t, g.target())
		state := p.conn.(*tls.Conn).ConnectionState()
		binding, err := scram.NewTLSServerEndpointBinding(&state)
		if err != nil {
			t.Fatal(err)
		}
		for _, rule := range []struct {
			name   string
			change func([]byte)
			want   string
		}{
			{"right", func([]byte) {}, "ready"},
			{"of another certificate (a man in the middle)", func(b []byte) { b[0] ^= 1 }, wrongPassword},
		} {
			p := challenge(t, g.target())
			data := slices.Clone(binding.Data)
			rule.change(data)
			client, _ := scram.SHA256.NewClient(alice, alicePassword, "")
			conversation := client.NewConversationWithChannelBinding(scram.ChannelBinding{Type: binding.Type, Data: data})
			first, _ := conversation.Step("")
			p.send(saslInitial("SCRAM-SHA-256-PLUS", first))
			final, err := conversation.Step(string(p.expect('R').body[4:]))
			if err != nil {
				t.Fatal(err)
			}
			p.send(sasl(final))
			if got := p.outcome(); !strings.HasPrefix(got, rule.want) {
				t.Errorf("%s: got %s, want %s", rule.name, got, rule.want)
			}
		}
	})
	for _, mode := range []string{"disable", "prefer", "require"} {
		t.Run("pgx "+mode, func(t *testing.T) {
			t.Parallel()
			conn, err := pgx.Connect(t.Context(), g.url("channel_binding="+mode))
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.Close(context.Background())
		})
		t.Run("psql "+mode, func(t *testing.T) {
			t.Parallel()
			if out, err := g.psql(t, "SELECT 'in'", "PGCHANNELBINDING="+mode).CombinedOutput(); err != nil || string(out) != "in\n" {
				t.Errorf("got %v, %s", err, out)
			}
		})
	}
}

// psql is PostgreSQL's own client, as alice.
func (g *gate) psql(t *testing.T, sql string, environment ...string) *exec.Cmd {
	t.Helper()
	host, port, _ := net.SplitHostPort(g.addr)
	cmd := exec.CommandContext(t.Context(), pgtest.Client(t, "psql"), "-XAtq", "-c", sql)
	cmd.Env = append(os.Environ(), "PGHOST=localhost", "PGHOSTADDR="+host, "PGPORT="+port, "PGUSER="+alice,
		"PGPASSWORD="+alicePassword, "PGDATABASE=orders", "PGSSLMODE=verify-full", "PGSSLROOTCERT="+g.caFile, "LC_ALL=C")
	cmd.Env = append(cmd.Env, environment...)
	return cmd
}

// noBindingForEd25519 is a part of TestNeighbours: tls-server-end-point is not defined for Ed25519, so -PLUS must not be
// offered then.
func noBindingForEd25519(t *testing.T, _ *gate) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	leaf, _ := x509.ParseCertificate(der)
	g := startGate(t, database(t, 18), gateOptions{cert: &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}})
	g.roots = x509.NewCertPool()
	g.roots.AddCert(leaf)

	p := dial(t, g.target(), negotiated)
	p.send(like(v30).bytes(g.target()))
	var offer pgproto3.AuthenticationSASL
	if err := offer.Decode(p.expect('R').body); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"SCRAM-SHA-256"}, offer.AuthMechanisms); diff != "" {
		t.Errorf("mechanisms (-want +got):\n%s", diff)
	}
	// Without the offer, the flag y is what an honest client sends.
	p.send(saslInitial("SCRAM-SHA-256", firstMessage("y,,")))
	p.expect('R')
}

// bound is a client that has sent all that SCRAM-SHA-256-PLUS asks for.
func bound(t testing.TB, to target) *peer {
	t.Helper()
	p := challenge(t, to)
	p.bind()
	return p
}

// bind answers the offer of SCRAM-SHA-256-PLUS.
func (p *peer) bind() {
	p.t.Helper()
	state := p.conn.(*tls.Conn).ConnectionState()
	binding, err := scram.NewTLSServerEndpointBinding(&state)
	if err != nil {
		p.t.Fatal(err)
	}
	client, _ := scram.SHA256.NewClient(p.target.user, p.target.password, "")
	conversation := client.NewConversationWithChannelBinding(binding)
	first, _ := conversation.Step("")
	p.send(saslInitial("SCRAM-SHA-256-PLUS", first))
	final, _ := conversation.Step(string(p.expect('R').body[4:]))
	p.send(sasl(final))
}

// A client that binds its password binds it to the certificate that it was shown, also when that was changed since.
func TestChannelBindingOutlivesAChangeOfCertificate(t *testing.T) {
	t.Parallel()
	g := startGate(t, database(t, 18), gateOptions{})
	p := challenge(t, g.target())
	if err := g.server.SetCertificate(loadPair(t, pgtest.CA(t)), nil); err != nil {
		t.Fatal(err)
	}
	p.bind()
	if got := p.outcome(); got != "ready" {
		t.Errorf("got %s, want ready", got)
	}
	again := dial(t, g.target(), plain)
	again.send(sslRequest)
	again.byte()
	if err := again.handshake(); err == nil {
		t.Error("a new connection was shown the old certificate")
	}
}

// With client CAs, people need a certificate besides their password.
func TestClientCertificates(t *testing.T) {
	t.Parallel()
	people := pgtest.CA(t)
	g := startGate(t, database(t, 18), gateOptions{change: func(c *proxy.Config) { c.ClientCAs = loadRoots(t, people.CertFile) }})
	for _, rule := range []struct {
		name string
		cert []tls.Certificate
		want string
	}{
		{"of the people's authority", []tls.Certificate{loadPair(t, people, alice)}, "ready"},
		{"none", nil, "closed"},
		{"of another authority", []tls.Certificate{loadPair(t, pgtest.CA(t), alice)}, "closed"},
	} {
		t.Run(rule.name, func(t *testing.T) {
			t.Parallel()
			to := g.target()
			to.tls.Certificates = rule.cert
			p := dial(t, to, plain)
			p.send(sslRequest)
			p.byte()
			if err := p.handshake(); err != nil { // with TLS 1.3, the refusal comes after it
				t.Fatal(err)
			}
			p.send(like(v30).bytes(to))
			if got := p.outcome(); got != rule.want {
				t.Errorf("got %s, want %s", got, rule.want)
			}
		})
	}
}
