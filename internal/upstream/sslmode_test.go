package upstream_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/internal/upstream"
)

const password = "a password that must not leak"

var modes = []upstream.SSLMode{
	upstream.Disable, upstream.Allow, upstream.Prefer, upstream.Require, upstream.VerifyCA, upstream.VerifyFull,
}

// dial logs in once. The server's name is server.test, whatever it is reached by.
func dial(t *testing.T, cfg upstream.Config, l upstream.Login) error {
	t.Helper()
	server, err := upstream.New(cfg)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	l.User, l.Database = "alice", "orders"
	if l.Password == "" {
		l.Password = password
	}
	conn, err := upstream.Connect(ctx, server, l, pgconn.ConnectConfig)
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// psql does the same with PostgreSQL's own libpq of a major.
func psql(t *testing.T, libpq int, host string, port uint16, settings ...string) error {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), pgtest.Client(t, "psql"), "-XAtq", "-c", "SELECT")
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "LC_ALL=C", "PGHOST=" + host, "PGHOSTADDR=127.0.0.1", fmt.Sprintf("PGPORT=%d", port),
		"PGUSER=alice", "PGDATABASE=orders", "PGPASSWORD=" + password, "PGGSSENCMODE=disable", "PGCONNECT_TIMEOUT=10",
	}, settings...)
	if libpq != 15 {
		cmd.Env = append(cmd.Env, "LD_LIBRARY_PATH="+pgtest.Libpq(t, libpq))
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// behaviour is one way in which a server answers; each is met by every mode.
type behaviour struct {
	name string
	pgtest.Script
	want [4]string // traces for disable, allow, prefer, and the other three alike
}

const (
	plainIn = "plain,proof,in"
	tlsIn   = "ssl,tls,proof,in"
)

// behaviours is the table of libpq's sslmode, with our answers. See docs/tls.md for the cells in which they differ.
func behaviours() []behaviour {
	var table []behaviour
	add := func(name string, script pgtest.Script, want ...string) {
		b := behaviour{name: name, Script: script}
		copy(b.want[:], want)
		table = append(table, b)
	}
	yes := func(plain, tls pgtest.Login) pgtest.Script {
		return pgtest.Script{SSL: pgtest.SSLYes, Plain: plain, TLS: tls}
	}
	answer := func(ssl pgtest.SSLAnswer) pgtest.Script { return pgtest.Script{SSL: ssl, Plain: pgtest.LoginSCRAM} }

	add("takes both", yes("scram", "scram"), plainIn, plainIn, tlsIn, tlsIn)
	add("no TLS", answer(pgtest.SSLNo), plainIn, plainIn, "ssl,"+plainIn, "ssl")
	for _, code := range []pgtest.Login{pgerrcode.InvalidAuthorizationSpecification, pgerrcode.InvalidPassword, pgerrcode.InvalidCatalogName, pgerrcode.TooManyConnections} {
		add("plain rejected with "+string(code), yes(code, "scram"), "plain", "plain | "+tlsIn, tlsIn, tlsIn)
		add("TLS rejected with "+string(code), yes("scram", code), plainIn, plainIn, "ssl,tls", "ssl,tls")
		add("both rejected with "+string(code), yes(code, code), "plain", "plain | ssl,tls", "ssl,tls", "ssl,tls")
		add("rejected with "+string(code)+" and no TLS", pgtest.Script{Plain: code}, "plain", "plain | ssl", "ssl,plain", "ssl")
	}
	add("wrong password", yes("scram-28P01", "scram-28P01"), "plain,proof", "plain,proof | ssl,tls,proof", "ssl,tls,proof", "ssl,tls,proof")
	add("no such database", yes("scram-ok-3D000", "scram-ok-3D000"), "plain,proof", "plain,proof", "ssl,tls,proof", "ssl,tls,proof")
	add("starting up", yes(pgerrcode.CannotConnectNow, pgerrcode.CannotConnectNow), "plain", "plain", "ssl,tls", "ssl,tls")
	add("plain closed", yes("", "scram"), "plain", "plain", tlsIn, tlsIn)
	add("TLS closed after startup", yes("scram", ""), plainIn, plainIn, "ssl,tls", "ssl,tls")
	for name, ssl := range map[string]pgtest.SSLAnswer{
		"error": pgtest.SSLError, "close": pgtest.SSLClose, "garbage": pgtest.SSLGarbage, "stuffed": pgtest.SSLStuffed,
		"alert": pgtest.SSLHandshakeAlert, "handshake closed": pgtest.SSLHandshakeClose,
	} {
		add(name, answer(ssl), plainIn, plainIn, "ssl", "ssl")
	}
	add("asks for cleartext", yes("cleartext", "cleartext"), "plain", "plain", "ssl,tls", "ssl,tls")
	add("asks for MD5", yes("md5", "md5"), "plain", "plain", "ssl,tls", "ssl,tls")
	add("asks for nothing", yes("trust", "trust"), "plain", "plain", "ssl,tls", "ssl,tls")
	add("lets in before SCRAM is done", yes("trust-sasl", "trust-sasl"), "plain", "plain", "ssl,tls", "ssl,tls")
	add("two billion iterations", yes("iterations", "iterations"), "plain", "plain", "ssl,tls", "ssl,tls")
	add("does not know the password", yes("forged", "forged"), "plain,proof", "plain,proof", "ssl,tls,proof", "ssl,tls,proof")
	add("16 MiB to begin with", yes("oversize", "oversize"), "plain", "plain", "ssl,tls", "ssl,tls")
	add("an error of 16 MiB", yes("oversize-error", "oversize-error"), "plain", "plain", "ssl,tls", "ssl,tls")
	add("speaks before it asks", yes("chatter", "chatter"), "plain", "plain", "ssl,tls", "ssl,tls")
	return table
}

func (b behaviour) start(t *testing.T, cert *tls.Certificate) *pgtest.Scripted {
	t.Helper()
	script := b.Script
	script.Certificate, script.Password = cert, password
	return pgtest.StartScripted(t, script)
}

func (b behaviour) in(mode upstream.SSLMode) string { return b.want[min(indexOf(mode), 3)] }

func indexOf(mode upstream.SSLMode) int {
	for i, m := range modes {
		if m == mode {
			return i
		}
	}
	panic(mode)
}

// shown makes the certificate that scripted servers show, and its authority.
func shown(t *testing.T) (cert *tls.Certificate, caFile string) {
	t.Helper()
	authority := pgtest.CA(t)
	certFile, keyFile := authority.Issue(t, "server.test", "127.0.0.1")
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	return &pair, authority.CertFile
}

// Every mode meets every behaviour: which connections it makes, what it sends over each, and whether it gets in.
func TestModes(t *testing.T) {
	t.Parallel()
	cert, caFile := shown(t)
	for _, b := range behaviours() {
		for _, mode := range modes {
			t.Run(b.name+"/"+string(mode), func(t *testing.T) {
				t.Parallel()
				server := b.start(t, cert)
				cfg := upstream.Config{Host: "127.0.0.1", Port: server.Port, SSLMode: mode}
				if mode.Verifies() {
					cfg.RootCert = caFile
				}
				err := dial(t, cfg, upstream.Login{})
				trace := server.Trace()
				if want := b.in(mode); trace != want {
					t.Errorf("got connections %q, want %q (error: %v)", trace, want, err)
				}
				if in := strings.HasSuffix(trace, ",in"); in != (err == nil) {
					t.Errorf("got error %v after %q", err, trace)
				}
				afterTLSFailed(t, trace)
				if got := server.Passwords(); got != nil {
					t.Errorf("sent a password as it is: %q", got)
				}
			})
		}
	}
}

// afterTLSFailed asserts that nothing was sent in plaintext once a connection with TLS had failed. (A server that answers
// that it has no TLS has not failed: the same connection goes on.)
func afterTLSFailed(t *testing.T, trace string) {
	t.Helper()
	asked := false
	for conn := range strings.SplitSeq(trace, " | ") {
		if asked && strings.Contains(conn, "plain") {
			t.Errorf("a plaintext connection followed one with TLS: %q", trace)
		}
		asked = asked || strings.HasPrefix(conn, "ssl")
	}
}

// deviation is why a cell is not as with a major's libpq, or "". docs/tls.md lists the same.
func deviation(b behaviour, mode upstream.SSLMode, libpq int) string {
	switch {
	case mode == upstream.Allow && strings.HasSuffix(b.name, "and no TLS") && libpq < 17:
		return "when plaintext was rejected and there is no TLS, it is over, as with libpq 17"
	case b.Plain == pgtest.LoginCleartext, b.Plain == pgtest.LoginMD5:
		return "passwords go out as SCRAM proofs only"
	case b.Plain == pgtest.LoginTrust, b.Plain == pgtest.LoginTrustSASL:
		return "a server that does not prove that it knows the password is not talked to"
	case mode == upstream.Prefer && (strings.HasPrefix(b.name, "TLS rejected") || strings.HasPrefix(b.name, "both rejected") ||
		b.name == "wrong password" || b.SSL == pgtest.SSLHandshakeAlert || b.SSL == pgtest.SSLHandshakeClose):
		return "no plaintext after TLS has failed"
	}
	return ""
}

// The same cells with libpq itself: where it does something else, that is a deviation that we know of, and stricter.
func TestModesAsLibpq(t *testing.T) {
	t.Parallel()
	cert, caFile := shown(t)
	for _, libpq := range []int{15, 18} {
		for _, b := range behaviours() {
			if b.Plain == pgtest.LoginIterations {
				continue // libpq would count for an hour
			}
			for _, mode := range modes {
				t.Run(fmt.Sprintf("libpq %d/%s/%s", libpq, b.name, mode), func(t *testing.T) {
					t.Parallel()
					server := b.start(t, cert)
					settings := []string{"PGSSLMODE=" + string(mode)}
					if mode.Verifies() {
						settings = append(settings, "PGSSLROOTCERT="+caFile)
					}
					err := psql(t, libpq, "server.test", server.Port, settings...)
					trace, ours, why := server.Trace(), b.in(mode), deviation(b, mode, libpq)
					switch {
					case trace == ours && why != "":
						t.Errorf("libpq does not differ: %q, although %s", trace, why)
					case trace != ours && why == "":
						t.Errorf("libpq did %q, we do %q (its error: %v)", trace, ours, err)
					case trace != ours && !strings.HasPrefix(trace, ours):
						t.Errorf("libpq did %q, we do %q, which is not less", trace, ours)
					}
				})
			}
		}
	}
}

// The rejections that a caller has to tell apart come through as the server's.
func TestRejectionsAreTheServers(t *testing.T) {
	t.Parallel()
	cert, _ := shown(t)
	for mode, script := range map[upstream.SSLMode]pgtest.Script{
		upstream.Allow:   {Plain: pgtest.LoginWrongPassword}, // and no TLS to try after that
		upstream.Require: {SSL: pgtest.SSLYes, TLS: pgtest.LoginWrongPassword, Certificate: cert},
	} {
		server := pgtest.StartScripted(t, script)
		err := dial(t, upstream.Config{Host: "127.0.0.1", Port: server.Port, SSLMode: mode}, upstream.Login{})
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) || pgErr.Code != pgerrcode.InvalidPassword {
			t.Errorf("ssl_mode %s: got %v, want 28P01", mode, err)
		}
	}
}
