package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/statements"
	"github.com/hourgate/hourgate/internal/strangers"
)

// maxFuzzed bounds the inputs of fuzz targets: longer ones only take time. It is beyond every limit on strangers.
const maxFuzzed = 12_000

// wire is a client in memory: it serves bytes in pieces of chosen sizes and keeps what it is sent. It has no deadlines,
// so nothing but its bytes decides.
type wire struct {
	net.Conn // nil: what is not below must not be called
	remote   net.TCPAddr

	in    []byte
	cuts  []byte // sizes of the pieces less one, over and over; none: as much as is asked for
	at    int    // bytes served
	reads int
	asked int // the longest read

	sent   []byte
	sentAt []int // bytes served before each write
	closed bool
}

func (w *wire) Read(b []byte) (int, error) {
	w.asked = max(w.asked, len(b))
	if w.at == len(w.in) {
		return 0, io.EOF
	}
	n := min(len(b), len(w.in)-w.at)
	if len(w.cuts) > 0 {
		n = min(n, 1+int(w.cuts[w.reads%len(w.cuts)]))
		w.reads++
	}
	copy(b, w.in[w.at:w.at+n])
	w.at += n
	return n, nil
}

func (w *wire) Write(b []byte) (int, error) {
	w.sent = append(w.sent, b...)
	w.sentAt = append(w.sentAt, w.at)
	return len(b), nil
}

func (w *wire) Close() error                     { w.closed = true; return nil }
func (w *wire) RemoteAddr() net.Addr             { return &w.remote }
func (w *wire) SetDeadline(time.Time) error      { return nil }
func (w *wire) SetReadDeadline(time.Time) error  { return nil }
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

// memoryTrail keeps the last record and their number. It takes no statements.
type memoryTrail struct {
	statements.Trail
	records int
	last    audit.Record
}

func (m *memoryTrail) Append(r audit.Record) error {
	m.records++
	m.last = r
	return nil
}

// endOf is what an error means for the client: silence or a SQLSTATE.
func endOf(t testing.TB, err error) string {
	t.Helper()
	checkRefusal(t, err)
	var r *refusal
	if errors.As(err, &r) {
		return r.code
	}
	return silence
}

// checkErrorResponse holds bytes against the one message that ends a refused connection.
func checkErrorResponse(t testing.TB, b []byte, code string) {
	t.Helper()
	if len(b) < 6 || b[0] != 'E' || int(binary.BigEndian.Uint32(b[1:])) != len(b)-1 || !bytes.HasSuffix(b, []byte{0, 0}) || !utf8.Valid(b[5:]) {
		t.Fatalf("%q is no ErrorResponse", b)
	}
	fields := make(map[byte]string)
	for field := range strings.SplitSeq(string(b[5:len(b)-2]), "\x00") {
		if field == "" || fields[field[0]] != "" || len(field) == 1 {
			t.Fatalf("ErrorResponse %q has an empty field, or one twice", b)
		}
		fields[field[0]] = field[1:]
	}
	if fields['S'] != "FATAL" || fields['V'] != "FATAL" || fields['C'] != code || fields['M'] == "" {
		t.Fatalf("ErrorResponse %q, want FATAL %s", b, code)
	}
}

// checkNegotiateProtocolVersion holds bytes against the message that is due to s.
func checkNegotiateProtocolVersion(t testing.TB, b []byte, s startup) {
	t.Helper()
	want := binary.BigEndian.AppendUint32([]byte{'v', 0, 0, 0, 0}, s.protocol)
	want = binary.BigEndian.AppendUint32(want, uint32(len(s.unrecognized)))
	for _, name := range s.unrecognized {
		want = append(append(want, name...), 0)
	}
	binary.BigEndian.PutUint32(want[1:], uint32(len(want)-1))
	if !bytes.Equal(b, want) {
		t.Fatalf("sent %q, want NegotiateProtocolVersion %q", b, want)
	}
}

// checkTLSRecords: after 'S' or a ClientHello nothing goes out that is not TLS.
func checkTLSRecords(t testing.TB, b []byte) {
	t.Helper()
	for rest := b; len(rest) > 0; {
		if len(rest) < 5 || rest[0] < 20 || rest[0] > 22 || rest[1] != 3 || len(rest) < 5+int(binary.BigEndian.Uint16(rest[3:])) {
			t.Fatalf("%q is not TLS", b)
		}
		rest = rest[5+int(binary.BigEndian.Uint16(rest[3:])):]
	}
}

// startupServer is what the start-up phase needs of a server. It has no certificate, so that every handshake fails before
// anything is computed for it.
func startupServer(trail Trail) *Server {
	s := &Server{
		cfg: Config{AllowPlaintextLoopback: true, Trail: trail},
		log: slog.New(slog.DiscardHandler),
	}
	s.SetLimits(Limits{})
	s.refusals = strangers.Refusals{Append: trail.Append}
	s.metrics = newMetrics(prometheus.NewRegistry(), s.relayedBytes)
	s.identity.Store(&identity{tls: new(tls.Config)})
	return s
}

var noTLS = new(tls.Config)

// startUp runs the phase and, unless it is passed, the farewell.
func startUp(server *Server, w *wire, encrypted bool) (*session, error) {
	s := newSession(server, w)
	defer s.end(nil)
	negotiate := func() error { return s.negotiate(context.Background()) }
	if encrypted { // what negotiate does once the handshake is over
		s.tls = tls.Server(w, noTLS)
		negotiate = func() error { return s.readStartup(nil) }
	}
	err := negotiate()
	if err != nil {
		s.farewell(err)
	}
	return s, err
}

var (
	sslRequest    = []byte{0, 0, 0, 8, 4, 210, 22, 47}
	gssEncRequest = []byte{0, 0, 0, 8, 4, 210, 22, 48}
	cancelRequest = []byte{0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 1, 0, 0, 0, 2}
)

// FuzzNegotiation is the whole start-up phase: a client's bytes in pieces of any sizes, our replies, the farewell and the
// trail, held against a reader that sees the stream at once. encrypted starts where the handshake is over.
func FuzzNegotiation(f *testing.F) {
	libpq := startupPacket(protocol30, "user", "alice", "database", "orders", "application_name", "psql", "client_encoding", "UTF8")
	grease := startupPacket(3<<16|9999, "user", "alice", "_pq_.test_protocol_negotiation", "")
	oldHello := "\x16\x03\x01\x00\x2d\x01\x00\x00\x29\x03\x01" + strings.Repeat("r", 32) + "\x00\x00\x02\x00\x2f\x01\x00"
	cancel := func(length int) []byte { // the right lengths are 16 and 44
		return join([]byte{0, 0, 0, byte(length)}, cancelRequest[4:8], make([]byte, length-8))
	}
	for _, stream := range [][]byte{
		cancel(8), cancel(12), cancel(15), cancel(17), cancel(44), cancel(45), cancel(48),
		nil, libpq, grease, cancelRequest, []byte(oldHello), sslRequest,
		join(gssEncRequest, libpq), join(gssEncRequest, gssEncRequest, libpq), join(gssEncRequest, cancelRequest),
		join(sslRequest, libpq), join(gssEncRequest, sslRequest, []byte(oldHello)), join(libpq, libpq),
		startupPacket(2 << 16), startupPacket(4<<16, "user", "alice"), startupPacket(3<<16|2, "user", "alice", "options", `-c geqo=off --jit=on\`),
		{0, 0, 0x27, 0x14},
		{0, 0, 0x27, 0x15},
		{0, 0, 0, 7},
		{0xff, 0xff, 0xff, 0xff, 0, 3, 0, 0},
	} {
		f.Add(stream, []byte(nil), false, true)
		f.Add(stream, []byte{0, 2}, true, false)
		f.Add(stream, []byte{6}, false, false)
	}
	trail := new(memoryTrail)
	server := startupServer(trail)
	f.Fuzz(func(t *testing.T, stream, cuts []byte, encrypted, loopback bool) {
		if len(stream) > maxFuzzed {
			return
		}
		want := wantedPhase(stream, encrypted, loopback)
		remote := net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}
		if loopback {
			remote.IP = net.IPv4(127, 0, 0, 1)
		}
		server.refusals.Flush() // so that the next one is the first of its kind, which is recorded
		*trail = memoryTrail{}
		w := &wire{remote: remote, in: stream, cuts: cuts}
		s, err := startUp(server, w, encrypted)
		checkPhase(t, want, w, s, err)

		refused := err != nil && want.end != silence && want.end != overTLS
		if (trail.records == 1) != refused || trail.records > 1 || refused && (trail.last.Event != audit.SessionRefused || trail.last.Code != want.end) {
			t.Fatalf("%d records in the trail, the last is %+v, want one of a refusal only: %v", trail.records, trail.last, err)
		}

		// What was read decides, all at once or in pieces and whatever stands behind it.
		again := &wire{remote: remote, in: stream[:w.at]}
		if _, err2 := startUp(server, again, encrypted); !errors.Is(err2, err) && endOf(t, err2) != endOf(t, err) || !bytes.Equal(again.sent, w.sent) {
			t.Fatalf("the same bytes at once: %v and %q, in pieces: %v and %q", err2, again.sent, err, w.sent)
		}
	})
}

// checkPhase holds what a session made of a stream against what it should.
func checkPhase(t *testing.T, want dialogue, w *wire, s *session, err error) {
	t.Helper()
	got := accepted
	switch {
	case err != nil:
		got = endOf(t, err)
	case s.startup.cancel != nil:
		got = canceled
	}
	if got != want.end && (want.end != overTLS || got != silence) {
		t.Fatalf("%q ended with %s (%v), want %s", w.in, got, err, want.end)
	}
	if w.closed != (err != nil) {
		t.Fatalf("closed: %v, with %v", w.closed, err)
	}
	if !bytes.HasPrefix(w.sent, []byte(want.replies)) || !slices.Equal(want.at, w.sentAt[:min(len(want.at), len(w.sentAt))]) {
		t.Fatalf("%q was sent at %v, want %q at %v", w.sent, w.sentAt, want.replies, want.at)
	}
	last := w.sent[len(want.replies):]
	if want.end == overTLS {
		checkTLSRecords(t, last)
		return
	}
	if w.at != want.read || w.asked > maxStartupPacket {
		t.Fatalf("read %d bytes with room for %d, want %d", w.at, w.asked, want.read)
	}
	switch {
	case err == nil && s.startup.cancel == nil:
		if !sameStartup(s.startup, want.startup) {
			t.Fatalf("got %+v, want %+v", s.startup, want.startup)
		}
		checkParameters(t, s.startup.params)
		if s.startup.negotiate {
			checkNegotiateProtocolVersion(t, last, s.startup)
			return
		}
	case err != nil && got != silence:
		checkErrorResponse(t, last, got)
		return
	}
	if len(last) != 0 {
		t.Fatalf("sent %q, want nothing", last)
	}
}
