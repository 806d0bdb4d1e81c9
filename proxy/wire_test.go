package proxy_test

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hourgate/hourgate/internal/pgtest"
)

// GSSENCRequest without end, to the gate and to PostgreSQL, which answers as often as it likes: the gate answers once.
func TestRule01GSSENCRequestWithoutEnd(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	for _, to := range append(oracles(t), g.target()) {
		p := dial(t, to, plain)
		got := ""
		for len(got) < 5 && strings.Trim(got, "N") == "" {
			p.send(gssRequest)
			b := p.byte()
			if b == 0 {
				break
			}
			got += string(b)
		}
		// Debian's PostgreSQL knows GSSAPI, and answers G.
		if to.major == 0 && got != "NE" || got == "" || !strings.Contains("NG", got[:1]) {
			t.Errorf("%s answers %q, want N and then an error", to, got)
		}
	}
}

// Messages after the log-in whose length or type can't be. The gate in front of a server ends whatever the server itself
// ends, for the same reason; where the server closes without a word it says why. Lengths from 0x3fffffff on, for which 13
// fails only later, it takes from nobody.
func TestRule04LengthsAfterLogIn(t *testing.T) {
	t.Parallel()
	const (
		goesOn  = "goes on"
		closed  = "closed"
		invalid = "FATAL 08P01"

		upstreamClosed = "FATAL 08006"
	)
	for _, major := range pgtest.Majors() {
		db := database(t, major)
		g := startGate(t, db, gateOptions{})
		huge, small := closed, closed
		if major == 13 {
			huge, small = goesOn, goesOn // it bounds nothing
		}
		for _, rule := range []struct {
			kind   byte
			length uint32
			want   string // of the server
		}{
			{'Q', 0, closed},
			{'Q', 3, closed},
			{'Q', 0x3ffffffe, goesOn},
			{'Q', 0x3fffffff, huge},
			{'P', 0x7fffffff, huge},
			{'Q', 0x80000000, closed},
			{'Q', 0xffffffff, closed},
			{'S', 10_001, small},
			{'H', 0x3fffffff, small},
			{'E', 10_001, small},
			{'p', 4, invalid},
			{'p', 9, invalid},
			{'!', 4, invalid},
			{0, 4, invalid},
			{'R', 8, invalid},
		} {
			t.Run(fmt.Sprintf("PostgreSQL %d/%q of length %#x", major, rule.kind, rule.length), func(t *testing.T) {
				t.Parallel()
				for _, to := range []target{g.direct(), g.target()} {
					p := connect(t, to)
					p.send(typed(rule.kind, rule.length, make([]byte, min(max(int(rule.length), 4)-4, 100))...))
					want := rule.want
					if gate := to.major == 0; gate && (rule.length < 4 || rule.length >= 0x3fffffff) {
						want = invalid
					}
					if want == goesOn {
						_ = p.conn.SetDeadline(time.Now().Add(100 * time.Millisecond))
					}
					got := closed
					switch m, err := p.read(); {
					case err == nil:
						got, _, _ = strings.Cut(m.String(), ":")
					case isTimeout(err):
						got = goesOn
					}
					if to.major == 0 && got == upstreamClosed {
						got = closed // the gate tells what the server did without a word
					}
					if got != want {
						t.Errorf("%s: got %s, want %s", to, got, want)
					}
				}
			})
		}
	}
}

// Nobody learns from the challenge, nor from the refusal, whether a user or a database exists: the salt is 16 bytes, the
// same every time and another for another user, for 4096 iterations.
func TestRule05MockChallenge(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	for _, to := range append(oracles(t), g.target()) {
		to.password = "wrong"
		saltOf := func(user, database string) string {
			p := dial(t, to, negotiated)
			p.send(startup(v30, "user", user, "database", database))
			messages, _ := p.authenticate()
			want := fmt.Sprintf("FATAL 28P01: password authentication failed for user %q", user)
			if n := len(messages); n != 3 || messages[2].String() != want {
				t.Fatalf("%s: got %v, want two of authentication and %s", to, messages, want)
			}
			return challengeSalt(t, to, messages[1])
		}
		nobody := saltOf("nobody", to.database)
		if again := saltOf("nobody", "no such database"); again != nobody {
			t.Errorf("%s: the salt of a user is %q, then %q", to, nobody, again)
		}
		if other := saltOf("nobody2", to.database); other == nobody {
			t.Errorf("%s: two users have the salt %q", to, other)
		}
		if real := saltOf(to.user, to.database); real != saltOf(to.user, "no such database") {
			t.Errorf("%s: the salt of a user depends on the database", to)
		}
	}
}

// challengeSalt is the salt in an AuthenticationSASLContinue, which must be as PostgreSQL makes them.
func challengeSalt(t *testing.T, to target, m message) string {
	t.Helper()
	if m.kind != 'R' || binary.BigEndian.Uint32(m.body) != 11 {
		t.Fatalf("%s: got %s, want AuthenticationSASLContinue", to, m)
	}
	fields := strings.Split(string(m.body[4:]), ",")
	ofTests := to.major > 0 && len(fields) == 3 && fields[2] == fmt.Sprintf("i=%d", pgtest.Iterations)
	if len(fields) != 3 || fields[2] != "i=4096" && !ofTests {
		t.Fatalf("%s: got %q, want r=, s=, i=4096", to, fields)
	}
	salt, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(fields[1], "s="))
	if err != nil || len(salt) != 16 {
		t.Errorf("%s: the salt %q is not 16 bytes", to, fields[1])
	}
	return string(salt)
}
