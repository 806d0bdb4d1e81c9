package burst_test

import (
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hourgate/hourgate/internal/burst"
)

// churn is how long TestChurn goes on. HOURGATE_CHURN has it run for as long as one likes, such as 3m.
func churn(t *testing.T) time.Duration {
	t.Helper()
	wanted := os.Getenv("HOURGATE_CHURN")
	if wanted == "" {
		return 300 * time.Millisecond
	}
	d, err := time.ParseDuration(wanted)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Sessions come and go in all ways beside busy ones, so that descriptors are used again at once. Each gets its own bytes and
// no other's, none ends that was not ended, and none waits for ever.
func TestChurn(t *testing.T) {
	t.Parallel()
	end := time.Now().Add(churn(t))
	var number atomic.Uint64
	var done sync.WaitGroup
	for i := range 8 {
		done.Go(func() { // busy until the end
			s := newRelayed(t, number.Add(1))
			for n := uint64(0); time.Now().Before(end) && s.exchange(t, n); n++ {
			}
			s.end(t, rand.New(rand.NewPCG(1, uint64(i))))
		})
		done.Go(func() {
			r := rand.New(rand.NewPCG(2, uint64(i)))
			for time.Now().Before(end) && !t.Failed() {
				s := newRelayed(t, number.Add(1))
				for n := range uint64(r.IntN(5)) {
					s.exchange(t, n)
				}
				s.end(t, r)
			}
		})
	}
	done.Wait()
	t.Logf("%d sessions", number.Load())
}

// relayed is a session of two connections in a loop, with somebody at both ends.
type relayed struct {
	number              uint64
	near, beside        net.Conn
	client, server      *net.TCPConn
	toServer, fromThere sync.WaitGroup
}

func newRelayed(t *testing.T, number uint64) *relayed {
	s := &relayed{number: number}
	s.near, s.client = connected(t)
	s.beside, s.server = connected(t)
	burst.Join(s.near, s.beside)
	s.toServer.Go(func() { pass(s.near, s.beside) })
	s.fromThere.Go(func() { pass(s.beside, s.near) })
	return s
}

// connected is pair without a clean-up, of which there would be many thousands.
func connected(t *testing.T) (near net.Conn, far *net.TCPConn) {
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Error(err)
		return
	}
	defer listener.Close()
	far, err = net.DialTCP("tcp", nil, listener.Addr().(*net.TCPAddr))
	if err != nil {
		t.Error(err)
		return
	}
	accepted, err := listener.Accept()
	if err != nil {
		t.Error(err)
	}
	_ = far.SetDeadline(time.Now().Add(churnPatience))
	return burst.Wrap(accepted), far
}

const churnPatience = 10 * time.Minute

// pass is a direction of a relay: when it ends, both connections do.
func pass(from, to net.Conn) {
	burst.Receive(from, func(b []byte, err error) burst.Next {
		if len(b) > 0 {
			_, writeErr := to.Write(b)
			err = errors.Join(err, writeErr)
		}
		return unless(err != nil)
	})
	burst.Cut(from)
	burst.Cut(to)
}

// exchange sends a message each way, and reports that both arrived as they were sent.
func (s *relayed) exchange(t *testing.T, n uint64) bool {
	for _, way := range [][2]net.Conn{{s.client, s.server}, {s.server, s.client}} {
		var sent, got [16]byte
		binary.BigEndian.PutUint64(sent[:], s.number)
		binary.BigEndian.PutUint64(sent[8:], n)
		if _, err := way[0].Write(sent[:]); err != nil {
			t.Errorf("session %d, message %d: %v", s.number, n, err)
			return false
		}
		if _, err := io.ReadFull(way[1], got[:]); err != nil || got != sent {
			t.Errorf("session %d, message %d: got %x, %v, want %x", s.number, n, got, err, sent)
			return false
		}
	}
	return true
}

// end ends the session in one of many ways, after which both ends see it.
func (s *relayed) end(t *testing.T, r *rand.Rand) {
	ways := []func(){
		func() { _ = s.client.Close() },
		func() { _ = s.server.Close() },
		func() { _ = s.client.SetLinger(0); _ = s.client.Close() },
		func() { _ = s.server.SetLinger(0); _ = s.server.Close() },
		func() { _ = s.client.CloseWrite() },
		func() { burst.Cut(s.near) },
		func() { _ = s.near.Close() },
		func() { _ = s.beside.Close() },
		func() { _ = s.near.SetReadDeadline(time.Unix(1, 0)) },
		func() { _ = s.beside.SetDeadline(time.Now().Add(time.Millisecond)) },
		func() { _, _ = s.client.Write([]byte("last words")); _ = s.client.Close() },
		func() { go s.near.Close(); go s.beside.Close() },
	}
	ways[r.IntN(len(ways))]()
	over := make(chan struct{})
	go func() {
		s.toServer.Wait()
		s.fromThere.Wait()
		close(over)
	}()
	select {
	case <-over:
	case <-time.After(patience):
		t.Errorf("session %d does not end", s.number)
	}
	for _, c := range []net.Conn{s.near, s.beside, s.client, s.server} {
		_ = c.Close()
	}
}
