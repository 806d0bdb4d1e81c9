package proxy_test

import (
	"bufio"
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// theUser and theDatabase stand for the target's own in the bytes of a rule.
const (
	theUser     = "\x01user\x01"
	theDatabase = "\x01database\x01"
)

// opening is the first packet of a client.
type opening []byte

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
	badParameter     = `FATAL 22023: invalid value for parameter "DateStyle": "Klingon"`
	replicationError = "FATAL 0A000: replication connections are not let through"
)

// notOfTheGrant is for a role that the grant does not name. It is alice's own name.
const notOfTheGrant = `FATAL 42501: permission denied to set role "alice@example.com"`

func unrecognized(name string) string {
	return fmt.Sprintf("FATAL 42704: unrecognized configuration parameter %q", name)
}

func notLetThrough(name string) string {
	return fmt.Sprintf("FATAL 0A000: startup parameter %q is not let through", name)
}

// firstPackets are what clients may open with, and what becomes of them.
var firstPackets = []struct {
	name    string
	via     encryption
	opening opening
	want    string
}{
	// Encryption.
	{"a StartupMessage in plaintext", plain, like(v30), plaintextRefused},
	{"a StartupMessage inside TLS", negotiated, like(v30), "ready"},
	{"SSLRequest inside TLS", negotiated, sslRequest, "FATAL 0A000: unsupported frontend protocol 1234.5679: server supports 3.0 to 3.2"},
	{"GSSENCRequest inside TLS", negotiated, gssRequest, "FATAL 0A000: unsupported frontend protocol 1234.5680: server supports 3.0 to 3.2"},
	{"SSLRequest with a body", plain, packet(vTLS, 0), plaintextRefused},
	{"GSSENCRequest with a body", plain, packet(vGSS, 0), plaintextRefused},

	// Length.
	{"length 0", negotiated, opening("\x00\x00\x00\x00"), "closed"},
	{"length 4", negotiated, opening("\x00\x00\x00\x04"), "closed"},
	{"length 7", negotiated, opening("\x00\x00\x00\x07\x00\x03\x00"), "closed"},
	{"length 8", negotiated, packet(v30), protocolError},
	{"length 10004", negotiated, padded(10004), "ready"},
	{"length 10005", negotiated, padded(10005), "closed"},
	{"length 2 GiB", negotiated, opening("\x7f\xff\xff\xff\x00\x03\x00\x00"), "closed"},
	{"length 4 GiB", negotiated, opening("\xff\xff\xff\xff\x00\x03\x00\x00"), "closed"},
	{"an HTTP request", negotiated, opening("GET / HTTP/1.1\r\n\r\n"), "closed"},
	{"an HTTP request in plaintext", plain, opening("GET / HTTP/1.1\r\n\r\n"), "closed"},

	// Protocol version.
	{"protocol 1.0", negotiated, like(1 << 16), "closed"},
	{"protocol 2.0", negotiated, like(v20), "closed"},
	{"protocol 3.1", negotiated, like(v31), "ready"},
	{"protocol 3.2", negotiated, like(v32), "ready"},
	{"protocol 3.3", negotiated, like(3<<16 | 3), `version 3.2 [], ready`},
	{"protocol 3.9999", negotiated, like(v39999), `version 3.2 [], ready`},
	{"protocol 3.9999 with an option (libpq's grease)", negotiated, like(v39999, "_pq_.test_protocol_negotiation", ""), `version 3.2 ["_pq_.test_protocol_negotiation"], ready`},
	{"protocol 3.0 with options", negotiated, like(v30, "_pq_.a", "1", "_pq_.b", "2"), `version 3.0 ["_pq_.a" "_pq_.b"], ready`},
	{"protocol 3.2 with an option", negotiated, like(v32, "_pq_.", "1"), `version 3.2 ["_pq_."], ready`},
	{"protocol 4.0", negotiated, like(v40), "FATAL 0A000: unsupported frontend protocol 4.0: server supports 3.0 to 3.2"},
	{"protocol 65535.65535", negotiated, like(0xffffffff), "FATAL 0A000: unsupported frontend protocol 65535.65535: server supports 3.0 to 3.2"},

	// Layout.
	{"no terminator", negotiated, cut(like(v30), 1), protocolError},
	{"no end of the last value", negotiated, cut(like(v30), 2), protocolError},
	{"a name without value", negotiated, more(cut(like(v30), 1), "DateStyle\x00"), protocolError},
	{"a byte behind the terminator", negotiated, more(like(v30), "x"), protocolError},
	{"parameters behind the terminator", negotiated, more(like(v30), "user\x00postgres\x00\x00"), protocolError},
	{"a second terminator", negotiated, more(like(v30), "\x00"), protocolError},
	{"NUL in a value makes new parameters (pgx < 5.11)", negotiated, like(v30, "application_name", "x\x00user\x00admin"), protocolError},
	{"no parameters", negotiated, startup(v30), "FATAL 28000: no PostgreSQL user name specified in startup packet"},
	{"an empty user", negotiated, startup(v30, "user", "", "database", theDatabase), "FATAL 28000: no PostgreSQL user name specified in startup packet"},
	{"a user with a line end and no UTF-8", negotiated, startup(v30, "user", "a\nb\xff", "database", theDatabase), `FATAL 28P01: password authentication failed for user "a?b?"`},
	{"user twice", negotiated, like(v30, "user", theUser), protocolError},
	{"database twice", negotiated, like(v30, "database", theDatabase), protocolError},
	{"a setting twice, in another case", negotiated, like(v30, "datestyle", "ISO", "DateStyle", "ISO"), protocolError},
	{"options twice", negotiated, like(v30, "options", "", "options", ""), protocolError},

	// Parameters. What drivers send gets through.
	{"libpq's own", negotiated, like(v30, "application_name", "psql", "client_encoding", "UTF8"), "ready"},
	{"JDBC's own", negotiated, like(v30, "client_encoding", "UTF8", "DateStyle", "ISO", "TimeZone", "Europe/Berlin", "extra_float_digits", "2"), "ready"},
	{"asyncpg's own", negotiated, like(v30, "client_encoding", "'utf-8'"), "ready"},
	{"search_path", negotiated, like(v30, "search_path", "a,b"), "ready"},
	{"an invalid value of a setting", negotiated, like(v30, "DateStyle", "Klingon"), badParameter},
	{"an application name with line ends and no UTF-8", negotiated, like(v30, "application_name", "a\nb\xff"), "ready"},
	{"an unknown parameter", negotiated, like(v30, "made_up", "1"), unrecognized("made_up")},
	{"a parameter of the user's own", negotiated, like(v30, "made.up", "1"), "ready"},
	{"an unknown parameter with a line end", negotiated, like(v30, "a\nb", "1"), unrecognized("a?b")},
	{"USER", negotiated, like(v30, "USER", "x"), protocolError},
	{"role", negotiated, like(v30, "role", theUser), notOfTheGrant},
	{"ROLE", negotiated, like(v30, "ROLE", theUser), notOfTheGrant},
	{"role none", negotiated, like(v30, "role", "none"), "ready"},
	{"role twice", negotiated, like(v30, "role", "none", "options", "-c role="+theUser), protocolError},
	{"session_authorization", negotiated, like(v30, "session_authorization", theUser), notLetThrough("session_authorization")},
	{"post_auth_delay", negotiated, like(v30, "post_auth_delay", "0"), notLetThrough("post_auth_delay")},
	{"local_preload_libraries", negotiated, like(v30, "local_preload_libraries", ""), notLetThrough("local_preload_libraries")},
	{"replication", negotiated, like(v30, "replication", "true"), replicationError},
	{"replication=database", negotiated, like(v30, "replication", "database"), replicationError},
	{"replication off", negotiated, like(v30, "replication", "off"), "ready"},
	{"replication neither on nor off", negotiated, like(v30, "replication", "maybe"), replicationError},

	// Options, as command-line arguments.
	{"options: none", negotiated, options(""), "ready"},
	{"options: white space", negotiated, options(" \t\r\n\v\f"), "ready"},
	{"options: -c", negotiated, options("-c DateStyle=German"), "ready"},
	{"options: -c without space", negotiated, options("-cDateStyle=German"), "ready"},
	{"options: --", negotiated, options("--DateStyle=German"), "ready"},
	{"options: dashes for underscores", negotiated, options("--statement-timeout=5s -c lock-timeout=5s"), "ready"},
	{"options: escapes", negotiated, options(`-c search_path=a,\ b\\c -c geqo=off`), "ready"},
	{"options: a backslash at the end", negotiated, options(`-c search_path=a\`), "ready"},
	{"options: application_name", negotiated, options("-c application_name=x"), "ready"},
	{"options: a setting twice", negotiated, options("-c DateStyle=ISO -c DateStyle=German"), "ready"},
	{"options: a setting twice, the first not valid", negotiated, options("-c DateStyle=Klingon -c DateStyle=German"), badParameter},
	{"options: a setting that a parameter overrides, not valid", negotiated, like(v30, "DateStyle", "ISO", "options", "-c DateStyle=Klingon"), badParameter},
	{"options: a setting that a parameter overrides", negotiated, like(v30, "DateStyle", "ISO", "options", `-c search_path=a,\ b\\c -c search_path=x -c DateStyle=German,\ DMY`), "ready"},
	{"options: an unknown one", negotiated, options("-c made_up=1"), unrecognized("made_up")},
	{"options: one of the user's own", negotiated, options("-c made.up=1 --made.it-too=2"), "ready"},
	{"options: post_auth_delay", negotiated, options("-c post_auth_delay=0"), notLetThrough("post_auth_delay")},
	{"options: post-auth-delay", negotiated, options("--post-auth-delay=0"), notLetThrough("post_auth_delay")},
	{"options: role", negotiated, options("-c role=" + theUser), notOfTheGrant},
	{"options: SESSION_authorization", negotiated, options("-c SESSION_authorization=" + theUser), notLetThrough("session_authorization")},
	{"options: -c=", negotiated, options("-c="), protocolError},
	{"options: -c =1", negotiated, options("-c =1"), protocolError},
	{"options: -c alone", negotiated, options("-c"), protocolError},
	{"options: -- alone", negotiated, options("--"), protocolError},
	{"options: -", negotiated, options("-"), protocolError},
	{"options: no value", negotiated, options("-c DateStyle"), protocolError},
	{"options: no argument", negotiated, options("DateStyle=ISO"), protocolError},
	{"options: another switch", negotiated, options("-d 1"), protocolError},
	{"options: a debugging switch", negotiated, options("-W 1"), protocolError},
	{"options: after --", negotiated, options("-- -c DateStyle=ISO"), protocolError},
}

// What becomes of a client's first packet: with the gate, and whether it goes on with PostgreSQL.
func TestRule02FirstPacket(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	servers := oracles(t)
	for _, rule := range firstPackets {
		t.Run(rule.name, func(t *testing.T) {
			t.Parallel()
			got := open(t, g.target(), rule.via, rule.opening)
			if got != rule.want {
				t.Errorf("got %s, want %s", got, rule.want)
			}
			compare(t, servers, "first packet: "+rule.name, accepted(got), func(server target) string {
				return open(t, server, rule.via, rule.opening)
			})
		})
	}
}

// open sends the first packet and returns what becomes of the client.
func open(t *testing.T, to target, via encryption, o opening) string {
	t.Helper()
	p := dial(t, to, via)
	p.send(o.bytes(to))
	p.in = bufio.NewReader(p.conn)
	if b, err := p.in.Peek(1); err == nil && bytes.ContainsAny(b, "SN") && via == plain {
		return goesOn // an answer to SSLRequest or GSSENCRequest
	}
	return p.outcome()
}
