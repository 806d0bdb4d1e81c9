package proxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
)

// readConn is a connection of which only reading counts.
type readConn struct {
	net.Conn
	io.Reader
}

func (c readConn) Read(b []byte) (int, error) { return c.Reader.Read(b) }

func saslMessage(t testing.TB, mechanism, data string) []byte {
	t.Helper()
	b, err := (&pgproto3.SASLInitialResponse{AuthMechanism: mechanism, Data: []byte(data)}).Encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// FuzzSASL feeds the reader of SASL messages and the check of the mechanism.
func FuzzSASL(f *testing.F) {
	f.Add(saslMessage(f, scramSHA256, "n,,n=,r=abc"), false)
	f.Add(saslMessage(f, scramSHA256Plus, "p=tls-server-end-point,,n=,r=abc"), true)
	f.Add(saslMessage(f, scramSHA256, "p=tls-server-end-point,,n=,r=abc"), true)
	f.Add([]byte{'p', 0, 0, 0, 3}, true)
	f.Add([]byte{'p', 0xff, 0xff, 0xff, 0xff, 1}, true)
	f.Add([]byte{'X', 0, 0, 0, 4}, true)
	f.Add([]byte{'Q', 0, 0, 0, 4}, true)
	f.Fuzz(func(t *testing.T, stream []byte, binding bool) {
		in := bytes.NewReader(stream)
		s := &session{client: readConn{Reader: in}, ctx: context.Background(), log: slog.New(slog.DiscardHandler)}
		body, err := s.readSASL()
		if err != nil {
			checkRefusal(t, err)
			return
		}
		length := int(binary.BigEndian.Uint32(stream[1:]))
		if stream[0] != 'p' || len(body) != length-4 || length > maxSASLMessage || in.Len() != len(stream)-1-length {
			t.Fatalf("read %d bytes of %q, left %d", len(body), stream, in.Len())
		}
		mechanism, data, ok := parseInitialResponse(body)
		if !ok {
			return
		}
		if len(mechanism)+1+4+len(data) != len(body) {
			t.Fatalf("%q was taken for %q, %q", body, mechanism, data)
		}
		if !validMechanism(mechanism, data, binding) {
			return
		}
		plus := mechanism == scramSHA256Plus
		if !plus && mechanism != scramSHA256 || plus != strings.HasPrefix(data, "p=") || plus && !binding {
			t.Fatalf("mechanism %q with message %q was accepted, binding offered: %v", mechanism, data, binding)
		}
	})
}
