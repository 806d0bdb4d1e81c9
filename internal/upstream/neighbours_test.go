package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/internal/upstream"
)

// TestNeighbours is the ledger of what hostile servers, and people in front of honest ones, did to clients and poolers,
// and the proof that they can't do it here. What hostile clients did is in the ledger of package proxy.
func TestNeighbours(t *testing.T) {
	t.Parallel()
	for _, neighbour := range []struct {
		id, wrong string
		test      func(t *testing.T)
	}{
		{"PostgreSQL CVE-2021-23222", "libpq took plaintext behind the answer to SSLRequest for what came encrypted", stuffedAnswer},
		{"Odyssey CVE-2021-43767", "the same, and clients were handed the forged results", stuffedAnswer},
		{"PostgreSQL CVE-2024-10977", "what somebody answered before TLS was shown as the server's error", errorBeforeTLS},
		{"PgBouncer CVE-2026-6665", "a long nonce of the server's overflowed a buffer", longNonce},
		{"PgBouncer CVE-2026-6666", "an error without SQLSTATE was a null pointer", errorWithoutSQLSTATE},
		{"pgjdbc CVE-2026-42198", "the server said how often to iterate, and the client did", iterations},
		{"pgx GHSA-95fj-3fxw-g62g", "require_auth and channel_binding=require could be got round", lessThanSCRAM},
		{"pgx CVE-2024-27304", "a length above 4 GiB was cut to 32 bits", pgxIsNew},
		{"pgx 5.11.0", "a NUL in a value made more parameters", nulInALogin},
		{"Teleport CVE-2021-41395", "names of users and databases became parts of a connection string", namesAreNotStrings},
		{"Teleport 13.4.17", "a database that was broken into got hold of what opened others", nothingToReuse},
	} {
		t.Run(neighbour.id, func(t *testing.T) {
			t.Parallel()
			neighbour.test(t)
			if t.Failed() {
				t.Logf("at the neighbour's, %s", neighbour.wrong)
			}
		})
	}
}

// tries logs in on a scripted server in every mode that gets as far, and returns the errors.
func tries(t *testing.T, play func(*scripted), login upstream.Login, modes ...upstream.SSLMode) (errs []error, sent string) {
	t.Helper()
	for _, mode := range modes {
		p := script(t, play)
		s := newServer(t, upstream.Config{Host: "127.0.0.1", Port: p.port, SSLMode: mode})
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		conn, err := upstream.Connect(ctx, s, login, pgconn.ConnectConfig)
		if err == nil {
			_ = conn.Close(ctx)
			t.Errorf("%s: logged in", mode)
		}
		if errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v, want a refusal at once", mode, err)
		}
		cancel()
		p.close()
		errs = append(errs, err)
		for _, in := range p.seen {
			sent += in.String()
		}
	}
	return errs, sent
}

var someone = upstream.Login{User: "the_user", Password: "the_password", Database: "the_database"}

func stuffedAnswer(t *testing.T) {
	forged := encode(t, &pgproto3.AuthenticationOk{}, &pgproto3.BackendKeyData{ProcessID: 1, SecretKey: []byte{1, 2, 3, 4}}, &pgproto3.ReadyForQuery{TxStatus: 'I'})
	certificate := pair(t, pgtest.CA(t))
	_, sent := tries(t, func(c *scripted) {
		c.expectSSLRequest()
		c.say("S" + forged)
		c.encrypt(certificate)
	}, someone, upstream.Prefer, upstream.Require)
	if strings.Contains(sent, "the_user") {
		t.Errorf("a log-in went out in plaintext: %q", sent)
	}
}

func errorBeforeTLS(t *testing.T) {
	lie := encode(t, &pgproto3.ErrorResponse{Severity: "FATAL", Code: pgerrcode.InvalidAuthorizationSpecification, Message: "call this number"})
	errs, _ := tries(t, func(c *scripted) { c.expectSSLRequest(); c.say(lie); c.drain() }, someone, upstream.Prefer, upstream.Require)
	for _, err := range errs {
		var pgErr *pgconn.PgError
		if errors.As(err, &pgErr) || strings.Contains(fmt.Sprint(err), "call") {
			t.Errorf("what was said before TLS is in the error: %v", err)
		}
	}
}

// asks plays the beginning of SCRAM, and then says what is given.
func asks(t *testing.T, then func(nonce string) string) func(*scripted) {
	t.Helper()
	request := encode(t, &pgproto3.AuthenticationSASL{AuthMechanisms: []string{"SCRAM-SHA-256"}})
	return func(c *scripted) {
		c.readStartup()
		c.say(request)
		buffer := make([]byte, 4096)
		n, err := io.ReadAtLeast(c, buffer, 40)
		if err != nil {
			return
		}
		_, nonce, _ := strings.Cut(string(buffer[:n]), "r=")
		c.say(encode(t, &pgproto3.AuthenticationSASLContinue{Data: []byte(then(nonce))}))
		_, _ = c.Read(buffer) // the proof, if one comes
	}
}

func longNonce(t *testing.T) {
	for _, length := range []int{1900, 2000, 1 << 20} {
		_, sent := tries(t, asks(t, func(nonce string) string {
			return "r=" + nonce + strings.Repeat("n", length) + ",s=AAAA,i=4096"
		}), someone, upstream.Disable)
		if proof := strings.Contains(sent, ",p="); proof != (length == 1900) {
			t.Errorf("a nonce of %d bytes was answered with a proof: %t; the bound is libpq's, 2,000 for the message", length, proof)
		}
	}
}

func iterations(t *testing.T) {
	for count, done := range map[string]bool{"4096": true, "1000001": false, "2147483647": false, "99999999999999999999": false, "0": false, "-1": false} {
		_, sent := tries(t, asks(t, func(nonce string) string { return "r=" + nonce + "n,s=AAAA,i=" + count }), someone, upstream.Disable)
		if proof := strings.Contains(sent, ",p="); proof != done {
			t.Errorf("i=%s was answered with a proof: %t, want %t", count, proof, done)
		}
	}
}

func errorWithoutSQLSTATE(t *testing.T) {
	for _, body := range []string{"SFATAL\x00Mboom\x00\x00", "\x00", ""} {
		errs, _ := tries(t, func(c *scripted) {
			c.readStartup()
			c.say("E\x00\x00\x00" + string(rune(4+len(body))) + body)
			c.drain()
		}, someone, upstream.Disable, upstream.Allow)
		for _, err := range errs {
			if err == nil {
				t.Errorf("%q: no error", body)
			}
		}
	}
}

// lessThanSCRAM: every way to let in that does not prove that the server knows the password.
func lessThanSCRAM(t *testing.T) {
	ready := encode(t, &pgproto3.AuthenticationOk{}, &pgproto3.ReadyForQuery{TxStatus: 'I'})
	offer := encode(t, &pgproto3.AuthenticationSASL{AuthMechanisms: []string{"SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"}})
	for name, play := range map[string]func(*scripted){
		"nothing asked for":              func(c *scripted) { c.readStartup(); c.say(ready); c.drain() },
		"SCRAM offered and not done":     func(c *scripted) { c.readStartup(); c.say(offer + ready); c.drain() },
		"SCRAM begun and not done":       asks(t, func(string) string { return ready }),
		"SCRAM's end without its middle": asks(t, func(string) string { return "v=AAAA" }),
		"GSSAPI":                         func(c *scripted) { c.readStartup(); c.say(encode(t, &pgproto3.AuthenticationGSS{}) + ready); c.drain() },
		"an unknown way":                 func(c *scripted) { c.readStartup(); c.say("R\x00\x00\x00\x08\x00\x00\x00\x63" + ready); c.drain() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tries(t, play, someone, upstream.Disable)
		})
	}
	t.Run("channel_binding", func(t *testing.T) { t.Parallel(); pgxIsNew(t) })
}

// pgxIsNew: what was wrong in pgx itself is mended in the version that we use. (5.12.0 is the first with all of it.)
func pgxIsNew(t *testing.T) {
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(mod), "github.com/jackc/pgx/v5 v")
	var major, minor int
	if n, err := fmt.Sscanf(rest, "%d.%d.", &major, &minor); n != 2 || major != 5 || minor < 12 {
		t.Errorf("go.mod has pgx %d.%d (%v), want 5.12 at least", major, minor, err)
	}
}

// nulInALogin: what has a NUL in it is not sent at all.
func nulInALogin(t *testing.T) {
	for _, l := range []upstream.Login{
		{User: "x\x00user\x00postgres", Password: "p", Database: "d"},
		{User: "u", Password: "p", Database: "d\x00user\x00postgres"},
		{User: "u", Password: "p", Database: "d", Params: map[string]string{"application_name": "x\x00user\x00postgres"}},
		{User: "u", Password: "p", Database: "d", Params: map[string]string{"application_name\x00x\x00user": "postgres"}},
	} {
		_, sent := tries(t, func(c *scripted) { c.readStartup() }, l, upstream.Disable)
		if strings.Contains(sent, "postgres") {
			t.Errorf("%+v went out: %q", l.User, sent)
		}
	}
}

// namesAreNotStrings: names go out as they are, whatever they look like, and to where we dialled.
func namesAreNotStrings(t *testing.T) {
	for _, name := range []string{"d host=127.0.0.9 user=postgres", "d' user='postgres", "postgres://postgres@127.0.0.9/d?sslmode=disable", `d\`, "d;user=postgres", ""} {
		l := upstream.Login{User: "u " + name, Password: "p", Database: "d " + name}
		_, sent := tries(t, func(c *scripted) { c.readStartup() }, l, upstream.Disable)
		if !strings.Contains(sent, "user\x00"+l.User+"\x00") || !strings.Contains(sent, "database\x00"+l.Database+"\x00") || strings.Count(sent, "user\x00") != 1 {
			t.Errorf("%q went out as %q", name, sent)
		}
	}
}

// nothingToReuse: a hostile server learns nothing with which somebody could log in elsewhere, whatever it asks for: no
// password, no hash of it, and no proof that is good for another server's nonce.
func nothingToReuse(t *testing.T) {
	for name, play := range map[string]func(*scripted){
		"cleartext": func(c *scripted) {
			c.readStartup()
			c.say(encode(t, &pgproto3.AuthenticationCleartextPassword{}))
			c.drain()
		},
		"MD5": func(c *scripted) { c.readStartup(); c.say(encode(t, &pgproto3.AuthenticationMD5Password{})); c.drain() },
		// A nonce of another server's, to have the proof for that.
		"another's nonce": asks(t, func(string) string { return "r=of-another-server,s=AAAA,i=4096" }),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, sent := tries(t, play, someone, upstream.Disable)
			for _, word := range []string{"the_password", "md5", ",p="} {
				if strings.Contains(sent, word) {
					t.Errorf("sent %q: %q", word, sent)
				}
			}
		})
	}
}
