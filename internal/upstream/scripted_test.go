package upstream_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/internal/upstream"
)

// peer is a listener that plays a server, and keeps what it was sent in plaintext.
type peer struct {
	port  uint16
	close func() // waits for its connections; idempotent

	mu   sync.Mutex
	seen []*bytes.Buffer // by connection
}

// scripted is one connection to a peer.
type scripted struct {
	net.Conn
	t    *testing.T
	done chan struct{} // closed when the test is over
	in   *bytes.Buffer
}

func script(t *testing.T, play func(*scripted)) *peer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{port: uint16(listener.Addr().(*net.TCPAddr).Port)}
	done := make(chan struct{})
	var running sync.WaitGroup
	p.close = sync.OnceFunc(func() {
		close(done)
		_ = listener.Close()
		running.Wait()
	})
	t.Cleanup(p.close)
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			c := &scripted{Conn: conn, t: t, done: done, in: new(bytes.Buffer)}
			p.mu.Lock()
			p.seen = append(p.seen, c.in)
			p.mu.Unlock()
			running.Go(func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(patience))
				play(c)
			})
		}
	})
	return p
}

// Read keeps a copy.
func (c *scripted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.in.Write(b[:n])
	return n, err
}

var sslRequest = []byte{0, 0, 0, 8, 4, 210, 22, 47}

func (c *scripted) expectSSLRequest() {
	b := make([]byte, len(sslRequest))
	if _, err := io.ReadFull(c, b); err == nil && !bytes.Equal(b, sslRequest) {
		c.t.Errorf("got %q, want SSLRequest", b)
	}
}

func (c *scripted) say(s string) { _, _ = c.Write([]byte(s)) }

// drain reads until the client has gone.
func (c *scripted) drain() { _, _ = io.Copy(io.Discard, c) }

// hold does nothing until the test is over.
func (c *scripted) hold() { <-c.done }

func encode(t *testing.T, messages ...pgproto3.BackendMessage) string {
	t.Helper()
	var b []byte
	for _, m := range messages {
		var err error
		if b, err = m.Encode(b); err != nil {
			t.Fatal(err)
		}
	}
	return string(b)
}

// Servers that do not agree on TLS as they should. Modes that can go without go on in plaintext after an honest 'N'
// only: whatever else goes wrong, there is no second try, and not a byte of a log-in goes out in plaintext.
func TestServersThatMisbehave(t *testing.T) {
	t.Parallel()
	refusal := encode(t, &pgproto3.ErrorResponse{Severity: "FATAL", Code: pgerrcode.CannotConnectNow, Message: "the database system is starting up"})
	stray := pgtest.CA(t)
	strayPair := pair(t, stray)
	for name, play := range map[string]func(*scripted){
		"closes at once":                  func(*scripted) {},
		"closes after SSLRequest":         func(c *scripted) { c.expectSSLRequest() },
		"answers with an error":           func(c *scripted) { c.expectSSLRequest(); c.say(refusal); c.drain() },
		"answers in another protocol":     func(c *scripted) { c.say("SSH-2.0-OpenSSH_9.2\r\n"); c.drain() },
		"answers with another letter":     func(c *scripted) { c.expectSSLRequest(); c.say("G"); c.drain() },
		"answers with a NUL":              func(c *scripted) { c.expectSSLRequest(); c.say("\x00"); c.drain() },
		"says S and closes":               func(c *scripted) { c.expectSSLRequest(); c.say("S") },
		"says S and talks plaintext":      func(c *scripted) { c.expectSSLRequest(); c.say("S" + refusal); c.drain() },
		"says S and an alert":             func(c *scripted) { c.expectSSLRequest(); c.say("S\x15\x03\x03\x00\x02\x02\x28"); c.drain() },
		"says S with an OK stuffed in":    func(c *scripted) { c.expectSSLRequest(); c.say("SR\x00\x00\x00\x08\x00\x00\x00\x00"); c.drain() },
		"has a certificate of a stranger": func(c *scripted) { c.expectSSLRequest(); c.say("S"); c.encrypt(strayPair) },
	} {
		for _, mode := range []upstream.SSLMode{upstream.Prefer, upstream.Require, upstream.VerifyCA, upstream.VerifyFull} {
			t.Run(name+"/"+string(mode), func(t *testing.T) {
				t.Parallel()
				p := script(t, play)
				root := pgtest.CA(t).CertFile
				s := newServer(t, upstream.Config{Host: "127.0.0.1", Port: p.port, SSLMode: mode, RootCert: root})
				if got := connect(t, s, upstream.Login{User: "the_user", Password: "the_password", Database: "the_database"}); got != notReached {
					t.Errorf("got %s, want %s", got, notReached)
				}
				p.close()
				p.expectNoLogin(t)
			})
		}
	}
}

func pair(t *testing.T, authority *pgtest.Authority) tls.Certificate {
	t.Helper()
	certificate, err := tls.LoadX509KeyPair(authority.Issue(t, "localhost", "127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

func (c *scripted) encrypt(certificate tls.Certificate) *tls.Conn {
	conn := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"postgresql"}})
	_ = conn.Handshake()
	return conn
}

// expectNoLogin checks that there was one connection, and that nothing of a log-in was in plaintext.
func (p *peer) expectNoLogin(t *testing.T) {
	t.Helper()
	if len(p.seen) != 1 {
		t.Errorf("%d connections, want one", len(p.seen))
	}
	for _, in := range p.seen {
		for _, word := range []string{"the_user", "the_password", "the_database", "user\x00"} {
			if bytes.Contains(in.Bytes(), []byte(word)) {
				t.Errorf("%q went out in plaintext: %q", word, in)
			}
		}
	}
}

// Answers to SSLRequest that are honest: 'N' and then a log-in in plaintext, which is prefer's alone.
func TestHonestNo(t *testing.T) {
	t.Parallel()
	for mode, plaintext := range map[upstream.SSLMode]bool{upstream.Prefer: true, upstream.Require: false} {
		p := script(t, func(c *scripted) { c.expectSSLRequest(); c.say("N"); c.readStartup() })
		s := newServer(t, upstream.Config{Host: "127.0.0.1", Port: p.port, SSLMode: mode})
		_ = connect(t, s, upstream.Login{User: "the_user", Password: "the_password", Database: "the_database"})
		p.close()
		if len(p.seen) != 1 {
			t.Errorf("%s: %d connections, want one", mode, len(p.seen))
		}
		in := p.seen[0].String()
		if got := strings.Contains(in, "the_user"); got != plaintext {
			t.Errorf("%s: a log-in in plaintext: %v, want %v", mode, got, plaintext)
		}
		if strings.Contains(in, "the_password") {
			t.Errorf("%s: the password went out: %q", mode, in)
		}
	}
}

// readStartup reads a StartupMessage.
func (c *scripted) readStartup() {
	var word [4]byte
	if _, err := io.ReadFull(c, word[:]); err == nil {
		_, _ = io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(word[:]))-4)
	}
}

// A server that asks for the password itself, in any of the old ways, or for nothing at all, is not a server that we
// talk to: it may be anyone.
func TestRule06ServersThatWantThePassword(t *testing.T) {
	t.Parallel()
	for name, request := range map[string]pgproto3.BackendMessage{
		"in the clear": &pgproto3.AuthenticationCleartextPassword{},
		"as MD5":       &pgproto3.AuthenticationMD5Password{Salt: [4]byte{1, 2, 3, 4}},
		"not at all":   &pgproto3.AuthenticationOk{},
		"SCRAM-SHA-1":  &pgproto3.AuthenticationSASL{AuthMechanisms: []string{"SCRAM-SHA-1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := script(t, func(c *scripted) {
				c.readStartup()
				c.say(encode(t, request, &pgproto3.ReadyForQuery{TxStatus: 'I'}))
				c.drain()
			})
			s := newServer(t, upstream.Config{Host: "127.0.0.1", Port: p.port, SSLMode: upstream.Disable})
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			conn, err := upstream.Connect(ctx, s, upstream.Login{User: "u", Password: "the_password", Database: "d"}, pgconn.ConnectConfig)
			if err == nil {
				_ = conn.Close(ctx)
				t.Error("logged in")
			}
			p.close()
			if in := p.seen[0].String(); strings.Contains(in, "the_password") || strings.Contains(in, "md5") {
				t.Errorf("the password went out: %q", in)
			}
		})
	}
}

// A hostile server can't make us allocate what it declares.
func TestRule06NothingIsAllocatedForALength(t *testing.T) {
	t.Parallel()
	for name, bytes := range map[string]string{
		"an Authentication of 1 GB": "R\x3f\xff\xff\xff",
		"an error of 2 GB":          "E\x7f\xff\xff\xff",
		"a negative length":         "R\xff\xff\xff\xff",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := script(t, func(c *scripted) { c.readStartup(); c.say(bytes); c.drain() })
			s := newServer(t, upstream.Config{Host: "127.0.0.1", Port: p.port, SSLMode: upstream.Disable})
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			_, err := upstream.Connect(ctx, s, upstream.Login{User: "u", Password: "p", Database: "d"}, pgconn.ConnectConfig)
			if err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want a refusal at once", err)
			}
		})
	}
}

// Cancel does not wait for a server that says nothing longer than its context, and fails where TLS fails: it never
// falls back to plaintext for a session that was encrypted.
func TestCancelNeverFallsBack(t *testing.T) {
	t.Parallel()
	p := script(t, func(c *scripted) { c.expectSSLRequest(); c.say("N"); c.drain() })
	s := newServer(t, upstream.Config{Host: "127.0.0.1", Port: p.port, SSLMode: upstream.Prefer})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.Cancel(ctx, &tls.Conn{}, 1, []byte{1, 2, 3, 4}); err == nil {
		t.Error("the cancel request went out, want an error")
	}
	p.close()
	if got := p.seen[0].Len(); got != len(sslRequest) {
		t.Errorf("%d bytes went out, want SSLRequest alone", got)
	}

	silent := script(t, func(c *scripted) { c.hold() })
	s = newServer(t, upstream.Config{Host: "127.0.0.1", Port: silent.port, SSLMode: upstream.Disable})
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	since := time.Now()
	_ = s.Cancel(ctx, &net.TCPConn{}, 1, []byte{1, 2, 3, 4})
	if took := time.Since(since); took < 40*time.Millisecond || took > patience/2 {
		t.Errorf("Cancel took %v, want until the end of its context", took)
	}
}

func TestSSLModeNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"disable", "allow", "prefer", "require", "verify-ca", "verify-full"} {
		var m upstream.SSLMode
		if err := m.UnmarshalText([]byte(name)); err != nil || string(m) != name {
			t.Errorf("%s: got %q, %v", name, m, err)
		}
	}
	for _, name := range []string{"", "Disable", "verify_full", "verify-full ", "on"} {
		var m upstream.SSLMode
		if err := m.UnmarshalText([]byte(name)); err == nil || m != "" {
			t.Errorf("%q was taken for %q", name, m)
		}
	}
}
