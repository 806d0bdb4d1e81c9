package proxy_test

import (
	"encoding/binary"
	"io"
	"net"
	"testing"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/hourgate/hourgate/internal/upstream"
)

// noSQLSTATE: the server's errors lack what every error has, at log-in and after it.
func noSQLSTATE(t *testing.T, _ *gate) {
	for _, body := range []string{"SFATAL\x00Mboom\x00\x00", "\x00", ""} {
		g := startGate(t, database(t, 18), gateOptions{upstream: says(t, typed('E', uint32(4+len(body)), []byte(body)...))})
		refusedWith(t, g.target(), `FATAL 58000: access to "orders" could not be prepared`, "user", alice, "database", "orders")
	}
}

// says is a server that answers every StartupMessage with these bytes, and hangs up.
func says(t *testing.T, answer []byte) *upstream.Server {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			var word [4]byte
			if _, err := io.ReadFull(conn, word[:]); err == nil {
				_, _ = io.CopyN(io.Discard, conn, int64(binary.BigEndian.Uint32(word[:]))-4)
				_, _ = conn.Write(answer)
			}
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = listener.Close(); <-done })
	server, err := upstream.New(upstream.Config{Host: "127.0.0.1", Port: uint16(listener.Addr().(*net.TCPAddr).Port), SSLMode: upstream.Disable})
	if err != nil {
		t.Fatal(err)
	}
	return server
}

// strangersWords: whoever answers in the server's place, the client reads the gate's own words.
func strangersWords(t *testing.T, _ *gate) {
	g := startGate(t, database(t, 18), gateOptions{upstream: says(t, encodeError(pgerrcode.InvalidAuthorizationSpecification, "call this number"))})
	refusedWith(t, g.target(), `FATAL 58000: access to "orders" could not be prepared`, "user", alice, "database", "orders")
}

func encodeError(code, message string) []byte {
	b, err := (&pgproto3.ErrorResponse{Severity: "FATAL", SeverityUnlocalized: "FATAL", Code: code, Message: message}).Encode(nil)
	if err != nil {
		panic(err)
	}
	return b
}
