package proxy_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/proxy"
)

// theUser and theDatabase stand for the target's own in the bytes of a rule.
const (
	theUser     = "\x01user\x01"
	theDatabase = "\x01database\x01"
)

// opening is the first packet of a client.
type opening []byte

// strictness says how a rule compares with PostgreSQL's. The gate may refuse more, on purpose, but never less.
type strictness string

const (
	asPostgres strictness = ""
	stricter   strictness = "PostgreSQL accepts this"
	waits      strictness = "PostgreSQL takes this for the request without a body, and waits for what comes next"
)

// like is a StartupMessage of the target's user, with more parameters.
func like(version uint32, pairs ...string) opening {
	return startup(version, append([]string{"user", theUser, "database", theDatabase}, pairs...)...)
}

func options(value string) opening { return like(v30, "options", value) }

// padded is a StartupMessage whose length word is n.
func padded(n int) opening {
	empty := len(startup(v30, "user", "", "database", "", "application_name", ""))
	return opening(fmt.Sprintf("\x02%d\x02", n-empty)) // filled in by bytes, once the names are known
}

// bytes puts the target's names in and corrects the length word of a packet that had them.
func (o opening) bytes(to target) []byte {
	var fill int
	if n, _ := fmt.Sscanf(string(o), "\x02%d\x02", &fill); n == 1 {
		fill -= len(to.user) + len(to.database)
		return startup(v30, "user", to.user, "database", to.database, "application_name", strings.Repeat("x", fill))
	}
	b := bytes.ReplaceAll(o, []byte(theUser), []byte(to.user))
	b = bytes.ReplaceAll(b, []byte(theDatabase), []byte(to.database))
	if len(b) != len(o) {
		b = append(packet(0, b[8:]...)[:4], b[4:]...)
	}
	return b
}

// cut takes bytes off a packet's end and corrects its length word.
func cut(o opening, n int) opening { return rest(o[:len(o)-n]) }

// more adds bytes to a packet and corrects its length word.
func more(o opening, b string) opening { return rest(append(bytes.Clone(o), b...)) }

func rest(o opening) opening { return append(packet(0, o[8:]...)[:4], o[4:]...) }

const (
	protocolError    = "FATAL 08P01: protocol violation"
	plaintextRefused = "FATAL 28000: this gate takes encrypted connections only"
	replicationError = "FATAL 0A000: replication connections are not let through"
)

func notLetThrough(name string) string {
	return fmt.Sprintf("FATAL 0A000: startup parameter %q is not let through", name)
}

// The gate accepts and refuses what PostgreSQL accepts and refuses, where it is not stricter on purpose. Each rule is
// run against PostgreSQL 18 and 13 too.
func TestFirstPacket(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	servers := []target{serverTarget(t, database(t, 13)), g.direct()}
	for _, rule := range []struct {
		name    string
		via     encryption
		opening opening
		want    string
		than    strictness
	}{
		// Encryption.
		{"a StartupMessage in plaintext", plain, like(v30), plaintextRefused, stricter},
		{"a StartupMessage inside TLS", negotiated, like(v30), "ready", asPostgres},
		{"SSLRequest inside TLS", negotiated, sslRequest, "FATAL 0A000: unsupported frontend protocol 1234.5679: server supports 3.0 to 3.2", asPostgres},
		{"GSSENCRequest inside TLS", negotiated, gssRequest, "FATAL 0A000: unsupported frontend protocol 1234.5680: server supports 3.0 to 3.2", asPostgres},
		{"SSLRequest with a body", plain, packet(vTLS, 0), plaintextRefused, waits},
		{"GSSENCRequest with a body", plain, packet(vGSS, 0), plaintextRefused, waits},

		// Length.
		{"length 0", negotiated, opening("\x00\x00\x00\x00"), "closed", asPostgres},
		{"length 4", negotiated, opening("\x00\x00\x00\x04"), "closed", asPostgres},
		{"length 7", negotiated, opening("\x00\x00\x00\x07\x00\x03\x00"), "closed", asPostgres},
		{"length 8", negotiated, packet(v30), protocolError, asPostgres},
		{"length 10004", negotiated, padded(10004), "ready", asPostgres},
		{"length 10005", negotiated, padded(10005), "closed", asPostgres},
		{"length 2 GiB", negotiated, opening("\x7f\xff\xff\xff\x00\x03\x00\x00"), "closed", asPostgres},
		{"length 4 GiB", negotiated, opening("\xff\xff\xff\xff\x00\x03\x00\x00"), "closed", asPostgres},
		{"an HTTP request", negotiated, opening("GET / HTTP/1.1\r\n\r\n"), "closed", asPostgres},
		{"an HTTP request in plaintext", plain, opening("GET / HTTP/1.1\r\n\r\n"), "closed", asPostgres},

		// Protocol version.
		{"protocol 1.0", negotiated, like(1 << 16), "closed", asPostgres},
		{"protocol 2.0", negotiated, like(v20), "closed", asPostgres},
		{"protocol 3.1", negotiated, like(v31), "ready", asPostgres},
		{"protocol 3.2", negotiated, like(v32), "ready", asPostgres},
		{"protocol 3.3", negotiated, like(3<<16 | 3), `version 3.2 [], ready`, asPostgres},
		{"protocol 3.9999", negotiated, like(v39999), `version 3.2 [], ready`, asPostgres},
		{"protocol 3.9999 with an option (libpq's grease)", negotiated, like(v39999, "_pq_.test_protocol_negotiation", ""), `version 3.2 ["_pq_.test_protocol_negotiation"], ready`, asPostgres},
		{"protocol 3.0 with options", negotiated, like(v30, "_pq_.a", "1", "_pq_.b", "2"), `version 3.0 ["_pq_.a" "_pq_.b"], ready`, asPostgres},
		{"protocol 3.2 with an option", negotiated, like(v32, "_pq_.", "1"), `version 3.2 ["_pq_."], ready`, asPostgres},
		{"protocol 4.0", negotiated, like(v40), "FATAL 0A000: unsupported frontend protocol 4.0: server supports 3.0 to 3.2", asPostgres},
		{"protocol 65535.65535", negotiated, like(0xffffffff), "FATAL 0A000: unsupported frontend protocol 65535.65535: server supports 3.0 to 3.2", asPostgres},

		// Layout.
		{"no terminator", negotiated, cut(like(v30), 1), protocolError, asPostgres},
		{"no end of the last value", negotiated, cut(like(v30), 2), protocolError, asPostgres},
		{"a name without value", negotiated, more(cut(like(v30), 1), "DateStyle\x00"), protocolError, asPostgres},
		{"a byte behind the terminator", negotiated, more(like(v30), "x"), protocolError, asPostgres},
		{"parameters behind the terminator", negotiated, more(like(v30), "user\x00postgres\x00\x00"), protocolError, asPostgres},
		{"a second terminator", negotiated, more(like(v30), "\x00"), protocolError, asPostgres},
		{"NUL in a value makes new parameters (pgx < 5.11)", negotiated, like(v30, "application_name", "x\x00user\x00admin"), protocolError, stricter},
		{"no parameters", negotiated, startup(v30), "FATAL 28000: no PostgreSQL user name specified in startup packet", asPostgres},
		{"an empty user", negotiated, startup(v30, "user", "", "database", theDatabase), "FATAL 28000: no PostgreSQL user name specified in startup packet", asPostgres},
		{"user twice", negotiated, like(v30, "user", theUser), protocolError, stricter},
		{"database twice", negotiated, like(v30, "database", theDatabase), protocolError, stricter},
		{"a setting twice, in another case", negotiated, like(v30, "datestyle", "ISO", "DateStyle", "ISO"), protocolError, stricter},
		{"options twice", negotiated, like(v30, "options", "", "options", ""), protocolError, stricter},

		// Parameters. What drivers send gets through; see knowledge/libraries.md.
		{"libpq's own", negotiated, like(v30, "application_name", "psql", "client_encoding", "UTF8"), "ready", asPostgres},
		{"JDBC's own", negotiated, like(v30, "client_encoding", "UTF8", "DateStyle", "ISO", "TimeZone", "Europe/Berlin", "extra_float_digits", "2"), "ready", asPostgres},
		{"asyncpg's own", negotiated, like(v30, "client_encoding", "'utf-8'"), "ready", asPostgres},
		{"search_path", negotiated, like(v30, "search_path", "a,b"), "ready", asPostgres},
		{"an invalid value of a setting", negotiated, like(v30, "DateStyle", "Klingon"), "FATAL 22023: the database server refused a startup parameter", asPostgres},
		{"an application name with line ends and no UTF-8", negotiated, like(v30, "application_name", "a\nb\xff"), "ready", asPostgres},
		{"an unknown parameter", negotiated, like(v30, "made_up", "1"), notLetThrough("made_up"), asPostgres},
		{"an extension's parameter", negotiated, like(v30, "made.up", "1"), notLetThrough("made.up"), stricter},
		{"an unknown parameter with a line end", negotiated, like(v30, "a\nb", "1"), notLetThrough("a?b"), asPostgres},
		{"USER", negotiated, like(v30, "USER", "x"), protocolError, asPostgres},
		{"role", negotiated, like(v30, "role", theUser), notLetThrough("role"), stricter},
		{"ROLE", negotiated, like(v30, "ROLE", theUser), notLetThrough("ROLE"), stricter},
		{"session_authorization", negotiated, like(v30, "session_authorization", theUser), notLetThrough("session_authorization"), stricter},
		{"post_auth_delay", negotiated, like(v30, "post_auth_delay", "0"), notLetThrough("post_auth_delay"), stricter},
		{"local_preload_libraries", negotiated, like(v30, "local_preload_libraries", ""), notLetThrough("local_preload_libraries"), stricter},
		{"replication", negotiated, like(v30, "replication", "true"), replicationError, asPostgres},
		{"replication=database", negotiated, like(v30, "replication", "database"), replicationError, asPostgres},
		{"replication off", negotiated, like(v30, "replication", "off"), "ready", asPostgres},
		{"replication neither on nor off", negotiated, like(v30, "replication", "maybe"), replicationError, asPostgres},

		// Options, as command-line arguments.
		{"options: none", negotiated, options(""), "ready", asPostgres},
		{"options: white space", negotiated, options(" \t\r\n\v\f"), "ready", asPostgres},
		{"options: -c", negotiated, options("-c DateStyle=German"), "ready", asPostgres},
		{"options: -c without space", negotiated, options("-cDateStyle=German"), "ready", asPostgres},
		{"options: --", negotiated, options("--DateStyle=German"), "ready", asPostgres},
		{"options: dashes for underscores", negotiated, options("--statement-timeout=5s -c lock-timeout=5s"), "ready", asPostgres},
		{"options: escapes", negotiated, options(`-c search_path=a,\ b\\c -c geqo=off`), "ready", asPostgres},
		{"options: a backslash at the end", negotiated, options(`-c search_path=a\`), "ready", asPostgres},
		{"options: application_name", negotiated, options("-c application_name=x"), "ready", asPostgres},
		{"options: a setting twice", negotiated, options("-c DateStyle=ISO -c DateStyle=German"), "ready", asPostgres},
		{"options: an unknown one", negotiated, options("-c made_up=1"), notLetThrough("made_up"), asPostgres},
		{"options: post_auth_delay", negotiated, options("-c post_auth_delay=0"), notLetThrough("post_auth_delay"), stricter},
		{"options: post-auth-delay", negotiated, options("--post-auth-delay=0"), notLetThrough("post_auth_delay"), stricter},
		{"options: role", negotiated, options("-c role=" + theUser), notLetThrough("role"), stricter},
		{"options: SESSION_authorization", negotiated, options("-c SESSION_authorization=" + theUser), notLetThrough("session_authorization"), stricter},
		{"options: -c=", negotiated, options("-c="), protocolError, asPostgres},
		{"options: -c =1", negotiated, options("-c =1"), protocolError, asPostgres},
		{"options: -c alone", negotiated, options("-c"), protocolError, asPostgres},
		{"options: --", negotiated, options("--"), protocolError, stricter},
		{"options: -", negotiated, options("-"), protocolError, asPostgres},
		{"options: no value", negotiated, options("-c DateStyle"), protocolError, asPostgres},
		{"options: no argument", negotiated, options("DateStyle=ISO"), protocolError, asPostgres},
		{"options: another switch", negotiated, options("-d 1"), protocolError, stricter},
		{"options: a debugging switch", negotiated, options("-W 1"), protocolError, stricter},
		{"options: after --", negotiated, options("-- -c DateStyle=ISO"), protocolError, asPostgres},
	} {
		t.Run(rule.name, func(t *testing.T) {
			t.Parallel()
			got := open(t, g.target(), rule.via, rule.opening)
			if got != rule.want {
				t.Errorf("got %s, want %s", got, rule.want)
			}
			if rule.than == waits {
				return
			}
			for _, server := range servers {
				switch oracle := open(t, server, rule.via, rule.opening); {
				case accepted(got) && !accepted(oracle):
					t.Errorf("the gate accepts what %s refuses: %s", server, oracle)
				case !accepted(got) && accepted(oracle) && rule.than == asPostgres:
					t.Errorf("the gate refuses what %s accepts", server)
				}
			}
		})
	}
}

func accepted(outcome string) bool { return strings.HasSuffix(outcome, "ready") }

// open sends the first packet and returns what becomes of the client.
func open(t *testing.T, to target, via encryption, o opening) string {
	t.Helper()
	p := dial(t, to, via)
	p.send(o.bytes(to))
	return p.outcome()
}

// A parameter of its own wins over the same in options, wherever it stands: drivers send them in any order.
func TestParameterBeforeOptions(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	for _, to := range []target{g.target(), g.direct()} {
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
	want := fatal("28000", "this gate takes encrypted connections only", "", "Connect with sslmode=verify-full, or at least sslmode=require.")
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
func TestEncryptionRequests(t *testing.T) {
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

// Bytes that are stuffed in front of the handshake never reach the session, even if the handshake follows.
func TestStuffedBytesBreakTheHandshake(t *testing.T) {
	t.Parallel()
	p := dial(t, newGate(t).target(), plain)
	p.send(sslRequest, like(v30).bytes(p.target))
	if got := p.byte(); got != 'S' {
		t.Fatalf("got %q, want 'S'", got)
	}
	if err := p.handshake(); err == nil {
		t.Error("the handshake succeeded behind stuffed bytes")
	}
}

// TLS at once (sslnegotiation=direct) needs ALPN, so that a client of another protocol can't be led here.
func TestDirectTLS(t *testing.T) {
	t.Parallel()
	g := newGate(t)
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
			for _, to := range []target{g.target(), g.direct()} { // PostgreSQL 18
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
				if got != rule.want {
					t.Errorf("%s: got %s, want %s", to.addr, got, rule.want)
				}
			}
		})
	}
	t.Run("h2 on negotiated TLS", func(t *testing.T) {
		t.Parallel()
		for _, to := range []target{g.target(), g.direct()} {
			p := dial(t, to, plain)
			p.send(sslRequest)
			p.byte()
			if err := p.handshake("h2"); !isNoProtocol(err) {
				t.Errorf("%s: got %v, want the alert no_application_protocol", to.addr, err)
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
func TestLoginTimeout(t *testing.T) {
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
	for _, to := range []target{g.target(), g.direct()} {
		for version, keyLength := range map[uint32]int{v30: 4, v31: 4, v32: 32, v39999: 32} {
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
		delete(got, "application_name")      // the gate adds its session
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
