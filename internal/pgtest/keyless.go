package pgtest

import (
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// Keyless runs a middlebox in front of the server until the test ends, and returns its port on 127.0.0.1. It passes on
// everything but BackendKeyData, so that clients never learn with what to cancel, and CancelRequest, which it swallows. It
// does not understand TLS: clients have to come without.
func Keyless(t testing.TB, s *Server) (port int) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // at once or not at all
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() { withoutKey(client, s.Address()) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		running.Wait()
	})
	return listener.Addr().(*net.TCPAddr).Port
}

func withoutKey(client net.Conn, address string) {
	defer client.Close()
	var first [8]byte
	if _, err := io.ReadFull(client, first[:]); err != nil || binary.BigEndian.Uint32(first[4:]) == 80877102 {
		return
	}
	server, err := net.DialTimeout("tcp", address, 5*time.Second) //nolint:noctx // bounded
	if err != nil {
		return
	}
	defer server.Close()
	if _, err := server.Write(first[:]); err != nil {
		return
	}
	var up sync.WaitGroup
	up.Go(func() {
		_, _ = io.Copy(server, client)
		_ = server.Close()
	})
	if dropKey(client, server) == nil {
		_, _ = io.Copy(client, server)
	}
	_ = client.Close()
	up.Wait()
}

// dropKey passes the server's messages on up to BackendKeyData, which it drops.
func dropKey(client io.Writer, server io.Reader) error {
	for {
		var header [5]byte
		if _, err := io.ReadFull(server, header[:]); err != nil {
			return err
		}
		body := make([]byte, binary.BigEndian.Uint32(header[1:])-4)
		if _, err := io.ReadFull(server, body); err != nil {
			return err
		}
		if header[0] == 'K' {
			return nil
		}
		if _, err := client.Write(append(header[:], body...)); err != nil {
			return err
		}
	}
}
