package proxy_test

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/xdg-go/scram"

	"github.com/hourgate/hourgate/internal/pgtest"
)

// target is where a raw client connects: the gate, or PostgreSQL itself for comparison.
type target struct {
	addr, user, password, database string
	tls                            *tls.Config
	name                           string
	major                          int // of PostgreSQL; 0 is the gate
}

func (to target) String() string { return to.name }

// peer is a client that sends what it is told, byte by byte, and shows what it gets.
type peer struct {
	t      testing.TB
	target target
	conn   net.Conn
	in     *bufio.Reader // once nothing but messages is to come
}

// message is one of the server's, with its type byte; the body is without the length word.
type message struct {
	kind byte
	body []byte
}

// encryption is how a client starts.
type encryption int

const (
	negotiated encryption = iota // SSLRequest, 'S', TLS
	plain                        // nothing before the first packet
	directTLS                    // TLS at once, with ALPN
)

func dial(t testing.TB, to target, e encryption) *peer {
	t.Helper()
	conn, err := net.Dial("tcp", to.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	p := &peer{t: t, target: to, conn: conn}
	switch e {
	case negotiated:
		p.send(sslRequest)
		if got := p.byte(); got != 'S' {
			t.Fatalf("answer to SSLRequest is %q, want 'S'", got)
		}
		if err := p.handshake(); err != nil {
			t.Fatalf("TLS handshake: %v", err)
		}
	case directTLS:
		if err := p.handshake("postgresql"); err != nil {
			t.Fatalf("TLS handshake: %v", err)
		}
	case plain:
	}
	return p
}

// handshake encrypts from here on.
func (p *peer) handshake(alpn ...string) error {
	cfg := p.target.tls.Clone()
	cfg.NextProtos = alpn
	conn := tls.Client(p.conn, cfg)
	if err := conn.Handshake(); err != nil {
		return err
	}
	p.conn = conn
	return nil
}

// send ignores errors: whoever is cut off learns it by reading.
func (p *peer) send(parts ...[]byte) {
	var b []byte
	for _, part := range parts {
		b = append(b, part...)
	}
	_, _ = p.conn.Write(b)
}

// byte reads one byte, or returns 0 at the end of the connection.
func (p *peer) byte() byte {
	var b [1]byte
	if _, err := io.ReadFull(p.conn, b[:]); err != nil {
		return 0
	}
	return b[0]
}

// read returns the next whole message; io.EOF only between two of them.
func (p *peer) read() (message, error) {
	if p.in == nil {
		p.in = bufio.NewReaderSize(p.conn, 64<<10)
	}
	var header [5]byte
	if _, err := io.ReadFull(p.in, header[:]); err != nil {
		return message{}, err
	}
	length := binary.BigEndian.Uint32(header[1:])
	if length < 4 || length > 1<<30 {
		return message{}, fmt.Errorf("message %q of length %d", header[0], length)
	}
	m := message{header[0], make([]byte, length-4)}
	_, err := io.ReadFull(p.in, m.body)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return m, err
}

func (p *peer) expect(kind byte) message {
	p.t.Helper()
	m, err := p.read()
	if err != nil {
		p.t.Fatalf("waiting for %q: %v", kind, err)
	}
	if m.kind != kind {
		p.t.Fatalf("got %s, want a message %q", m, kind)
	}
	return m
}

// expectEnd reads to the end of the connection, which must come between two messages, and returns the ErrorResponse
// that was the last. The end may be close_notify or, where the client had sent what nobody read any more, a reset.
func (p *peer) expectEnd() *pgproto3.ErrorResponse {
	p.t.Helper()
	last := message{}
	for {
		m, err := p.read()
		switch {
		case err == nil:
			last = m
		case errors.Is(err, io.EOF):
			if last.kind != 'E' {
				p.t.Fatalf("connection closed after %s, want an ErrorResponse", last)
			}
			return last.error(p.t)
		default:
			p.t.Fatalf("reading to the end: %v", err)
		}
	}
}

// expectSilence checks that the connection is closed without a word.
func (p *peer) expectSilence() {
	p.t.Helper()
	if m, err := p.read(); err == nil || isTimeout(err) {
		p.t.Errorf("got %s, %v; want the connection closed", m, err)
	}
}

func isTimeout(err error) bool {
	var netErr net.Error
	return errors.As(err, &netErr) && netErr.Timeout()
}

func (m message) error(t testing.TB) *pgproto3.ErrorResponse {
	t.Helper()
	var e pgproto3.ErrorResponse
	if m.kind != 'E' {
		t.Fatalf("got %s, want an ErrorResponse", m)
	}
	if err := e.Decode(m.body); err != nil {
		t.Fatal(err)
	}
	return &e
}

// String shows errors and negotiation in full, other messages by type.
func (m message) String() string {
	switch m.kind {
	case 'E':
		var e pgproto3.ErrorResponse
		_ = e.Decode(m.body)
		return fmt.Sprintf("%s %s: %s", e.Severity, e.Code, e.Message)
	case 'v':
		var v pgproto3.NegotiateProtocolVersion
		_ = v.Decode(m.body)
		return fmt.Sprintf("version %d.%d %q", v.NewestMinorProtocol>>16, v.NewestMinorProtocol&0xffff, v.UnrecognizedOptions)
	case 0:
		return "nothing"
	}
	return fmt.Sprintf("message %q", m.kind)
}

// login sends a StartupMessage and authenticates. It returns the messages up to ReadyForQuery.
func (p *peer) login(startup []byte) []message {
	p.t.Helper()
	p.send(startup)
	messages, err := p.authenticate()
	if err != nil {
		p.t.Fatalf("logging in: %v after %v", err, messages)
	}
	return messages
}

// authenticate answers the server's messages until ReadyForQuery or the end.
func (p *peer) authenticate() ([]message, error) {
	var messages []message
	var conversation *scram.ClientConversation
	for {
		m, err := p.read()
		if err != nil {
			return messages, err
		}
		messages = append(messages, m)
		switch {
		case m.kind == 'Z':
			return messages, nil
		case m.kind != 'R':
			continue
		}
		switch binary.BigEndian.Uint32(m.body) {
		case 10: // AuthenticationSASL
			conversation = newConversation("", p.target.password) // as libpq: the name is in the StartupMessage
			first, err := conversation.Step("")
			if err != nil {
				return messages, err
			}
			p.send(saslInitial("SCRAM-SHA-256", first))
		case 11: // AuthenticationSASLContinue
			final, err := conversation.Step(string(m.body[4:]))
			if err != nil {
				return messages, err
			}
			p.send(sasl(final))
		case 12: // AuthenticationSASLFinal
			if conversation == nil {
				break // the caller did SCRAM itself
			}
			if _, err := conversation.Step(string(m.body[4:])); err != nil {
				return messages, err
			}
		}
	}
}

func newConversation(user, password string) *scram.ClientConversation {
	client, err := scram.SHA256.NewClient(user, password, "")
	if err != nil {
		panic(err)
	}
	client.WithMinIterations(pgtest.Iterations) // the server may ask for fewer than 4,096
	return client.NewConversation()
}

// outcome is what becomes of a client that has sent its startup packet: version and ready, an error, or closed.
func (p *peer) outcome() string {
	messages, err := p.authenticate()
	var said []string
	for _, m := range messages {
		switch m.kind {
		case 'v', 'E':
			said = append(said, m.String())
		case 'Z':
			said = append(said, "ready")
		}
	}
	if isTimeout(err) {
		said = append(said, "silence")
	}
	if len(said) == 0 {
		return "closed"
	}
	return strings.Join(said, ", ")
}

// connect is a client that is logged in, at the protocol's version 3.0.
func connect(t testing.TB, to target, parameters ...string) *peer {
	t.Helper()
	p := dial(t, to, negotiated)
	p.login(startup(v30, append([]string{"user", to.user, "database", to.database}, parameters...)...))
	return p
}

// Protocol versions.
const (
	v20     = 2 << 16
	v30     = 3 << 16
	v31     = 3<<16 | 1
	v32     = 3<<16 | 2
	v39999  = 3<<16 | 9999
	v40     = 4 << 16
	vCancel = 80877102
	vTLS    = 80877103
	vGSS    = 80877104
)

var (
	sslRequest = packet(vTLS)
	gssRequest = packet(vGSS)
	terminate  = []byte{'X', 0, 0, 0, 4}
)

// packet is a message without a type byte.
func packet(code uint32, body ...byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(8+len(body)))
	b = binary.BigEndian.AppendUint32(b, code)
	return append(b, body...)
}

// startup is a StartupMessage with names and values, and its terminator.
func startup(version uint32, pairs ...string) []byte {
	var b []byte
	for _, s := range pairs {
		b = append(append(b, s...), 0)
	}
	return packet(version, append(b, 0)...)
}

// typed is a message with any type and length word.
func typed(kind byte, length uint32, body ...byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{kind}, length), body...)
}

func sasl(data string) []byte { return typed('p', uint32(4+len(data)), []byte(data)...) }

func saslInitial(mechanism, data string) []byte {
	return encode(&pgproto3.SASLInitialResponse{AuthMechanism: mechanism, Data: []byte(data)})
}

func query(sql string) []byte { return encode(&pgproto3.Query{String: sql}) }

func encode(messages ...pgproto3.FrontendMessage) []byte {
	var b []byte
	for _, m := range messages {
		var err error
		if b, err = m.Encode(b); err != nil {
			panic(err)
		}
	}
	return b
}
