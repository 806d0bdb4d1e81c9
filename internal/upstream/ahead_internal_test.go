package upstream

import (
	"net"
	"testing"
	"time"
)

// A connection that has waited for too long is not used: another one is opened.
func TestAheadIsTooOld(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	s, err := New(Config{Host: "127.0.0.1", Port: uint16(listener.Addr().(*net.TCPAddr).Port), SSLMode: Disable})
	if err != nil {
		t.Fatal(err)
	}
	a := s.Ahead(t.Context())
	defer a.Close()
	<-a.opened
	a.began = time.Now().Add(-aheadAge)
	conn, err := s.open(t.Context(), a, plaintext)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if conn == a.conn {
		t.Error("the old connection is used")
	}
}
