package upstream_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/hourgate/hourgate/internal/pgtest"
)

// PostgreSQL resumes no TLS session, which is why this package keeps none. A version that does fails here, and then
// tls.Config.ClientSessionCache would save a verification and a signature for each log-in.
func TestPostgreSQLResumesNoSession(t *testing.T) {
	t.Parallel()
	for _, major := range pgtest.Majors() {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(fmt.Sprintf("PostgreSQL %d, %s", major, tls.VersionName(version)), func(t *testing.T) {
				t.Parallel()
				server := pgtest.Start(t, major)
				cache := &countingCache{ClientSessionCache: tls.NewLRUClientSessionCache(1)}
				for range 2 {
					state := handshake(t, server, &tls.Config{
						ServerName: "localhost", InsecureSkipVerify: true, ClientSessionCache: cache,
						MinVersion: version, MaxVersion: version,
					})
					if state.DidResume || state.Version != version {
						t.Errorf("got %s, resumed %t", tls.VersionName(state.Version), state.DidResume)
					}
				}
				if n := cache.puts.Load(); n > 0 {
					t.Errorf("the server sent %d tickets", n)
				}
			})
		}
	}
}

// handshake goes on to the first message of the server, behind which no ticket of TLS 1.3 can be.
func handshake(t *testing.T, server *pgtest.Server, cfg *tls.Config) tls.ConnectionState {
	t.Helper()
	conn, err := net.Dial("tcp", server.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	request, _ := (&pgproto3.SSLRequest{}).Encode(nil)
	_, _ = conn.Write(request)
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	secured := tls.Client(conn, cfg)
	startup, _ := (&pgproto3.StartupMessage{
		ProtocolVersion: pgproto3.ProtocolVersion30, Parameters: map[string]string{"user": "nobody", "database": "postgres"},
	}).Encode(nil)
	if _, err := secured.Write(startup); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(secured, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	return secured.ConnectionState()
}

type countingCache struct {
	tls.ClientSessionCache
	puts atomic.Int32
}

func (c *countingCache) Put(key string, session *tls.ClientSessionState) {
	if session != nil {
		c.puts.Add(1)
	}
	c.ClientSessionCache.Put(key, session)
}
