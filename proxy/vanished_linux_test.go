package proxy_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"

	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/peer/blackhole"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/proxy"
)

// A client that has vanished does not keep its session and its role, whether a result was on its way to it or not.
func TestVanishedClient(t *testing.T) {
	t.Parallel()
	db := database(t, 18)
	for name, statement := range map[string]string{
		"in silence":              "",
		"while a result comes":    "SELECT generate_series(1, 1e12::bigint)",
		"while a statement waits": "SELECT pg_sleep(3), repeat('x', 1000)",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := startGate(t, db, gateOptions{change: func(c *proxy.Config) { c.PeerTimeout = 3 * time.Second }})
			p := connect(t, g.target())
			if statement != "" {
				p.send(query(statement))
			}
			if err := blackhole.Swallow(p.conn.(*tls.Conn).NetConn().(*net.TCPConn)); err != nil {
				t.Fatal(err)
			}
			eventually.True(t, "the session ends", func() bool { return len(g.server.Sessions()) == 0 })
			eventually.True(t, "the backend is gone", func() bool { return len(g.backends("true")) == 0 })
		})
	}
}

// A client that only stops reading, as a pager does, keeps its session.
func TestClientWithAPager(t *testing.T) {
	t.Parallel()
	g := startGate(t, database(t, 18), gateOptions{change: func(c *proxy.Config) { c.PeerTimeout = time.Second }})
	p := connect(t, g.target())
	p.send(query("SELECT repeat('x', 1000) FROM generate_series(1, 80000)"))
	p.expect('T')
	g.awaitStall()
	for since := time.Now(); time.Since(since) < 8*time.Second; {
		if len(g.server.Sessions()) == 0 {
			t.Fatalf("the session ended after %v", time.Since(since))
		}
		time.Sleep(10 * time.Millisecond)
	}
	p.in = bufio.NewReaderSize(p.in, 1<<20)
	_ = p.conn.SetDeadline(time.Now().Add(2 * patience))
	p.skipTo('Z')
}

// A client that listens for something that comes late has said nothing for much longer than a peer may leave unanswered, and
// hears of it: a peer that says nothing answers the kernel's probes.
func TestListenerThatWaits(t *testing.T) {
	t.Parallel()
	g := startGate(t, database(t, 18), gateOptions{change: func(c *proxy.Config) { c.PeerTimeout = time.Second }})
	listener := connect(t, g.target())
	listener.send(query("LISTEN late"))
	listener.skipTo('Z')
	_ = listener.conn.SetDeadline(time.Now().Add(2 * patience))
	other := connect(t, g.direct())
	other.send(query("SELECT pg_sleep(7)"))
	other.skipTo('Z')
	other.send(query("NOTIFY late, 'at last'"))
	if m := listener.expect('A'); !strings.Contains(string(m.body), "late\x00at last\x00") {
		t.Errorf("got %q", m.body)
	}
}

// A client whose statement went to a server that is dead hears of it.
func TestVanishedServer(t *testing.T) {
	t.Parallel()
	db := database(t, 18)
	for name, asked := range map[string]bool{"before the statement": false, "while it runs": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			way := startWay(t, db.Server)
			server, err := upstream.New(upstream.Config{
				Host: "localhost", Port: uint16(way.port), SSLMode: upstream.VerifyFull, RootCert: db.Server.CAFile, PeerTimeout: 3 * time.Second,
			})
			if err != nil {
				t.Fatal(err)
			}
			g := startGate(t, db, gateOptions{upstream: server, change: func(c *proxy.Config) { c.PeerTimeout = 3 * time.Second }})
			p := connect(t, g.target())
			statement := query("SELECT pg_sleep(60)")
			if asked {
				p.send(statement)
				g.awaitSleep()
			}
			if err := blackhole.Swallow(<-way.accepted); err != nil {
				t.Fatal(err)
			}
			if !asked {
				p.send(statement)
			}
			got := p.expectEnd()
			if got.Code != pgerrcode.ConnectionFailure {
				t.Errorf("got %+v, want 08006", got)
			}
		})
	}
}

// way leads to a server.
type way struct {
	port     int
	accepted chan *net.TCPConn
}

func startWay(t *testing.T, server *pgtest.Server) way {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	w := way{listener.Addr().(*net.TCPAddr).Port, make(chan *net.TCPConn, 10)}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("tcp", server.Address())
			if err != nil {
				_ = conn.Close()
				continue
			}
			t.Cleanup(func() { _ = conn.Close(); _ = to.Close() })
			go func() { _, _ = io.Copy(to, conn); _ = to.Close() }()
			go func() { _, _ = io.Copy(conn, to); _ = conn.Close() }()
			w.accepted <- conn.(*net.TCPConn)
		}
	}()
	return w
}
