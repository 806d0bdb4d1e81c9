package peer_test

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/peer"
	"github.com/hourgate/hourgate/internal/peer/blackhole"
)

// pair is a connection, and the other end of it.
func pair(t *testing.T) (near, far *net.TCPConn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	dialed, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dialed.Close(); _ = accepted.Close() })
	return accepted.(*net.TCPConn), dialed.(*net.TCPConn)
}

const limit = 2 * time.Second

// A silent peer that vanishes is given up by keepalives.
func TestVanishedPeerInSilence(t *testing.T) {
	t.Parallel()
	near, far := pair(t)
	peer.KeepAlive(near, limit)
	if err := blackhole.Swallow(far); err != nil {
		t.Fatal(err)
	}
	_ = near.SetReadDeadline(time.Now().Add(15 * limit))
	if _, err := near.Read(make([]byte, 1)); !errors.Is(err, syscall.ETIMEDOUT) {
		t.Errorf("got %v, want %v", err, syscall.ETIMEDOUT)
	}
}

// A peer that vanishes while data is on its way to it is seen to have done so.
func TestVanishedPeerWithData(t *testing.T) {
	t.Parallel()
	near, far := pair(t)
	since := time.Now() // the peer is last heard of after this
	if _, err := near.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if peer.Vanished(near, limit) {
		t.Error("a peer that is there has vanished")
	}
	if err := blackhole.Swallow(far); err != nil {
		t.Fatal(err)
	}
	if _, err := near.Write([]byte("are you there?")); err != nil {
		t.Fatal(err)
	}
	eventually.Within(t, 15*limit, "it is noticed", func() bool { return peer.Vanished(near, limit) })
	if took := time.Since(since); took < limit {
		t.Errorf("noticed after %v, want at least %v", took, limit)
	}
}

// A peer that reads nothing for a long time, but is there, has not vanished: somebody reads a long result with a pager.
func TestPeerThatReadsNothing(t *testing.T) {
	t.Parallel()
	near, far := pair(t)
	peer.KeepAlive(near, limit)
	sent := make(chan error, 1)
	const size = 16 << 20 // more than the kernel keeps
	go func() {
		_, err := near.Write(make([]byte, size))
		sent <- err
	}()
	for since := time.Now(); time.Since(since) < 4*limit; time.Sleep(time.Millisecond) {
		if peer.Vanished(near, limit) {
			t.Fatalf("vanished after %v", time.Since(since))
		}
	}
	select {
	case err := <-sent:
		t.Fatalf("all was sent to a peer that reads nothing, or %v", err)
	default:
	}
	if n, err := io.CopyN(io.Discard, far, size); err != nil {
		t.Fatalf("read %d bytes, %v", n, err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// A network loses the question, or the answer, whether a peer that reads nothing has room again. It is asked again, and answers.
func TestPausedPeerAndALostProbe(t *testing.T) {
	t.Parallel()
	near, far := paused(t)
	if err := blackhole.Swallow(far); err != nil {
		t.Fatal(err)
	}
	eventually.True(t, "a probe is sent", func() bool { return tcpInfo(t, near).Probes > 0 })
	if err := blackhole.Restore(far); err != nil {
		t.Fatal(err)
	}
	eventually.True(t, "the next probe is answered", func() bool {
		if peer.Vanished(near, time.Millisecond) {
			t.Fatal("vanished, after one probe without an answer")
		}
		return tcpInfo(t, near).Probes == 0
	})
}

// paused is a connection whose other end reads nothing, and has said that it has no room.
func paused(t *testing.T) (near, far *net.TCPConn) {
	t.Helper()
	near, far = pair(t)
	go func() { _, _ = near.Write(make([]byte, 16<<20)) }()
	eventually.True(t, "the peer has no room, and says so", func() bool {
		info := tcpInfo(t, near)
		return info.Unacked == 0 && info.Backoff > 0
	})
	return near, far
}

func tcpInfo(t *testing.T, conn *net.TCPConn) syscall.TCPInfo {
	t.Helper()
	info, err := peer.TCPInfo(conn)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// A peer that vanishes while it reads nothing is noticed, too.
func TestPausedPeerThatVanishes(t *testing.T) {
	t.Parallel()
	near, far := paused(t)
	if err := blackhole.Swallow(far); err != nil {
		t.Fatal(err)
	}
	eventually.Within(t, 15*limit, "it is noticed", func() bool { return peer.Vanished(near, limit) })
}

// What is no TCP connection is left alone.
func TestPipe(t *testing.T) {
	t.Parallel()
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	peer.KeepAlive(near, limit)
	if peer.Vanished(near, 0) {
		t.Error("a pipe has vanished")
	}
}
