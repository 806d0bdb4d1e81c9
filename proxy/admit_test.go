package proxy_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/proxy"
)

// dialRaw opens a TCP connection to the gate and says nothing.
func (g *gate) dialRaw() net.Conn {
	g.t.Helper()
	conn, err := net.Dial("tcp", g.addr)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn
}

// closedAfter waits for the gate to close the connection in silence, and returns how long that took.
func closedAfter(t *testing.T, conn net.Conn) time.Duration {
	t.Helper()
	started := time.Now()
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil || isTimeout(err) {
		t.Fatalf("got %d bytes and %v, want the end in silence", n, err)
	}
	return time.Since(started)
}

// Who says nothing, or does not get on with it, is put out in time.
func TestRule03Deadlines(t *testing.T) {
	t.Parallel()
	g := startGate(t, pgtest.Start(t, 15).Database(t), gateOptions{change: func(c *proxy.Config) {
		c.FirstByteTimeout, c.StartupTimeout = 300*time.Millisecond, 900*time.Millisecond
	}})
	silent, slow := g.dialRaw(), g.dialRaw()
	if _, err := slow.Write([]byte{0}); err != nil { // of a length word
		t.Fatal(err)
	}
	if took := closedAfter(t, silent); took > 800*time.Millisecond {
		t.Errorf("a silent client was put out after %v, want 300ms", took)
	}
	if took := closedAfter(t, slow); took > 2*time.Second {
		t.Errorf("a slow client was put out after %v more, want 900ms in all", took)
	}
}

// There are only so many strangers at a time; who has authenticated does not count, and who has left neither.
func TestRule03ManyStrangers(t *testing.T) {
	t.Parallel()
	g := startGate(t, pgtest.Start(t, 15).Database(t), gateOptions{change: func(c *proxy.Config) {
		c.MaxUnauthenticatedPerAddress, c.FirstByteTimeout = 3, 2*time.Second
	}})
	known := g.pgx()
	for range 5 {
		g.dialRaw()
	}
	eventually.True(t, "two of five strangers are turned away", func() bool {
		return g.metric("hourgate_connections_refused_total", "reason", "too_many_unauthenticated") == 2
	})
	if err := known.Ping(t.Context()); err != nil {
		t.Errorf("a session suffers from strangers: %v", err)
	}
	eventually.True(t, "there is room again when their time is up", func() bool {
		conn, err := pgx.Connect(t.Context(), g.url(""))
		if err == nil {
			_ = conn.Close(t.Context())
		}
		return err == nil
	})
}

// Each failure makes the next try of the same user from the same address wait longer; others don't wait.
func TestGuessing(t *testing.T) {
	t.Parallel()
	g := startGate(t, pgtest.Start(t, 15).Database(t), gateOptions{})
	try := func(user string) {
		to := g.target()
		to.password = "wrong"
		p := dial(t, to, negotiated)
		p.send(startup(v30, "user", user, "database", "orders"))
		_, _ = p.authenticate()
	}
	// The wait after the seventh failure is two seconds; fourteen failures from one address cost somebody else nothing.
	answered := make(chan string, 3)
	var failing, tries sync.WaitGroup
	for _, user := range []string{alice, "nobody"} {
		failing.Add(1)
		tries.Go(func() {
			for range 7 {
				try(user)
			}
			failed := time.Now()
			failing.Done()
			try(user)
			answered <- user
			if waited := time.Since(failed); waited < time.Second {
				t.Errorf("a try as %s was answered %v after the one before, want a wait of about two seconds", user, waited)
			}
		})
	}
	failing.Wait()
	try(bob)
	answered <- bob
	if first := <-answered; first != bob {
		t.Errorf("%s was answered first, want %s, who had not guessed", first, bob)
	}
	tries.Wait()
}

// Behind a load balancer, the client's address is what the PROXY protocol's header says.
func TestProxyProtocol(t *testing.T) {
	t.Parallel()
	g := startGate(t, pgtest.Start(t, 15).Database(t), gateOptions{change: func(c *proxy.Config) {
		c.ProxyProtocol = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	}})
	header := []byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x01\x0a\x00\x00\x01\x30\x39\x19\x20")
	conn := g.dialRaw()
	if _, err := conn.Write(append(header, startup(v30, "user", alice)...)); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(conn); err != nil || len(answer) == 0 || answer[0] != 'E' {
		t.Errorf("plaintext behind a balancer: got %q, %v, want a refusal", answer, err)
	}
	eventually.True(t, "the refusal is recorded", func() bool { return len(g.trail.of(audit.SessionRefused)) == 1 })
	if got := g.trail.of(audit.SessionRefused)[0].RemoteAddr; got != "192.0.2.1:12345" {
		t.Errorf("the trail has the address %s, want the client's", got)
	}

	without := g.dialRaw()
	if _, err := without.Write(startup(v30, "user", alice, "application_name", fmt.Sprint(t.Name()))); err != nil {
		t.Fatal(err)
	}
	closedAfter(t, without)
}
