//go:build (amd64 || arm64) && !portable

package burst_test

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hourgate/hourgate/internal/burst"
)

// echo answers all that comes, until the end.
func echo(near net.Conn) error {
	var failure error
	burst.Receive(near, func(b []byte, err error) burst.Next {
		_, writeErr := near.Write(b)
		failure = errors.Join(err, writeErr)
		return unless(failure != nil)
	})
	return failure
}

// answers checks that a connection is served.
func answers(t testing.TB, far net.Conn) {
	t.Helper()
	message := []byte("are you there?")
	if _, err := far.Write(message); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(far, message); err != nil {
		t.Fatal(err)
	}
}

// echoing is the other end of a connection in a loop that answers.
func echoing(t *testing.T) net.Conn {
	t.Helper()
	near, far := pair(t)
	inLoop(t, near)
	var done sync.WaitGroup
	done.Go(func() { _ = echo(near) })
	t.Cleanup(func() { _ = far.Close(); done.Wait() })
	return far
}

// stuck is a connection whose peer takes nothing, and whose writer waits.
func stuck(t *testing.T) (near net.Conn, far *net.TCPConn, written <-chan error) {
	t.Helper()
	near, far = pair(t)
	inLoop(t, near)
	result := make(chan error, 1)
	var passed atomic.Int64
	go burst.Receive(near, func(b []byte, err error) burst.Next {
		for err == nil {
			_, err = near.Write(make([]byte, burst.Size))
			passed.Add(1)
		}
		result <- err
		return burst.Stop
	})
	if _, err := far.Write([]byte("go")); err != nil {
		t.Fatal(err)
	}
	for last := int64(-1); passed.Load() != last || last <= 0; time.Sleep(50 * time.Millisecond) {
		last = passed.Load()
	}
	return near, far, result
}

// Peers that take nothing hold up nobody else.
func TestSlowPeersInALoop(t *testing.T) {
	t.Parallel()
	far := echoing(t)
	for range 4 {
		near, _, written := stuck(t)
		for range 100 {
			answers(t, far)
		}
		t.Cleanup(func() { _ = near.Close(); <-written })
	}
}

// A writer that waits ends with its deadline, also one that is set meanwhile, and when its connection is closed or cut.
func TestWriterThatWaitsInALoop(t *testing.T) {
	t.Parallel()
	for name, rule := range map[string]struct {
		end  func(near net.Conn)
		want error
	}{
		"past deadline": {func(near net.Conn) { _ = near.SetWriteDeadline(time.Unix(1, 0)) }, os.ErrDeadlineExceeded},
		"deadline":      {func(near net.Conn) { _ = near.SetWriteDeadline(time.Now().Add(time.Millisecond)) }, os.ErrDeadlineExceeded},
		"close":         {func(near net.Conn) { _ = near.Close() }, net.ErrClosed},
		"cut":           {burst.Cut, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			near, _, written := stuck(t)
			rule.end(near)
			select {
			case err := <-written:
				if err == nil || rule.want != nil && !errors.Is(err, rule.want) {
					t.Errorf("got %v, want %v", err, rule.want)
				}
			case <-time.After(patience):
				t.Error("it still waits")
			}
		})
	}
}

// A writer goes on when its peer reads again, and all arrives.
func TestSlowPeerReadsOn(t *testing.T) {
	t.Parallel()
	near, far, written := stuck(t)
	_ = near.SetWriteDeadline(time.Now().Add(patience)) // another deadline makes it look, and go on
	const much = 32 << 20
	if n, err := io.CopyN(io.Discard, far, much); err != nil {
		t.Errorf("read %d bytes of %d, %v", n, much, err)
	}
	_ = near.Close()
	<-written
}

// What hangs in its turn holds up others for a moment only, and is not called again meanwhile.
func TestTurnThatHangs(t *testing.T) {
	t.Parallel()
	far := echoing(t)
	near, hung := pair(t)
	inLoop(t, near)
	in, out := make(chan struct{}), make(chan struct{})
	var calls atomic.Int64
	var done sync.WaitGroup
	done.Go(func() {
		burst.Receive(near, func(_ []byte, err error) burst.Next {
			if calls.Add(1) == 1 {
				in <- struct{}{}
				<-out
			}
			return unless(err != nil)
		})
	})
	for range 2 {
		if _, err := hung.Write([]byte("something")); err != nil {
			t.Fatal(err)
		}
	}
	<-in
	for range 100 {
		answers(t, far)
	}
	if _, err := hung.Write([]byte("more")); err != nil {
		t.Fatal(err)
	}
	answers(t, far)
	if n := calls.Load(); n != 1 {
		t.Errorf("called %d times, want once", n)
	}
	close(out)
	_ = hung.Close()
	done.Wait() // it has seen the rest
}

// When everybody hangs, as when the trail has no room, who does not is served soon all the same: 300 times what one may
// hold up others for would be over four seconds.
func TestTurnsThatAllHang(t *testing.T) {
	t.Parallel()
	far := echoing(t)
	out := make(chan struct{})
	var hanging, done sync.WaitGroup
	for range 300 {
		near, trigger := pair(t)
		inLoop(t, near)
		hanging.Add(1)
		done.Go(func() {
			burst.Receive(near, func([]byte, error) burst.Next {
				hanging.Done()
				<-out
				return burst.Stop
			})
		})
		if _, err := trigger.Write([]byte("something")); err != nil {
			t.Fatal(err)
		}
	}
	since := time.Now()
	hanging.Wait()
	answers(t, far)
	if took := time.Since(since); took > 3*time.Second {
		t.Errorf("served after %v", took)
	}
	close(out)
	done.Wait()
}

// Closing ends the receiving.
func TestCloseInALoop(t *testing.T) {
	t.Parallel()
	near, _ := pair(t)
	inLoop(t, near)
	ended := make(chan error)
	go func() {
		_, err := receiveAll(near)
		ended <- err
	}()
	_ = near.Close()
	if err := <-ended; !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want %v", err, net.ErrClosed)
	}
	if _, err := near.Write([]byte("late")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("writing: got %v, want %v", err, net.ErrClosed)
	}
}

// A panic is that of who receives, and of nobody else.
func TestPanicInALoop(t *testing.T) {
	t.Parallel()
	far := echoing(t)
	near, trigger := pair(t)
	inLoop(t, near)
	caught := make(chan any)
	go func() {
		defer func() { caught <- recover() }()
		burst.Receive(near, func([]byte, error) burst.Next { panic("receiver") })
	}()
	if _, err := trigger.Write([]byte("go")); err != nil {
		t.Fatal(err)
	}
	p, ok := (<-caught).(*burst.Panic)
	if !ok || p.Value != "receiver" || !strings.Contains(string(p.Stack), "TestPanicInALoop") {
		t.Errorf("got %v, want the receiver's panic and its stack", p)
	}
	answers(t, far)
}

// A loop that has been idle for long wakes up.
func TestLoopAfterSilence(t *testing.T) {
	t.Parallel()
	far := echoing(t)
	for wait := time.Millisecond; wait < 500*time.Millisecond; wait *= 2 {
		answers(t, far)
		time.Sleep(wait) // the silence is what is tested
	}
	answers(t, far)
}

// Connections that are closed leave no descriptor behind. Not parallel: it counts those of all.
func TestLoopLeavesNoDescriptors(t *testing.T) {
	answers(t, echoing(t)) // what loops need themselves is there from now on
	before := descriptors(t)
	var done sync.WaitGroup
	for range 50 {
		a, farA := pair(t)
		b, _ := pair(t)
		burst.Join(a, b)
		done.Go(func() { _ = echo(a); _ = a.Close(); _ = b.Close() })
		answers(t, farA)
		_ = farA.Close()
	}
	done.Wait()
	for since := time.Now(); descriptors(t) > before+50; time.Sleep(time.Millisecond) { // the far ends of the idle ones
		if time.Since(since) > patience {
			t.Fatalf("%d descriptors, %d before", descriptors(t), before)
		}
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// Many sessions with bursts of all sizes, slow peers and deadlines at random: each gets its own bytes, whole and in order.
func TestManyInALoop(t *testing.T) {
	t.Parallel()
	var done sync.WaitGroup
	for i := range 40 {
		done.Go(func() {
			client, near := pair(t)
			far, upstream := near, client
			inLoop(t, upstream)
			go func() { _ = echo(upstream) }()
			converse(t, far, rand.New(rand.NewPCG(7, uint64(i))), func() { _ = upstream.SetReadDeadline(time.Now().Add(patience)) })
		})
	}
	done.Wait()
}

// converse sends pieces, reads them back in others, and compares.
func converse(t *testing.T, far *net.TCPConn, r *rand.Rand, disturb func()) {
	t.Helper()
	const total = 1 << 20
	seed := r.Uint64()
	go func() {
		pattern := rand.New(rand.NewPCG(seed, 0))
		for sent := 0; sent < total; disturb() {
			b := make([]byte, min(total-sent, 1+pattern.IntN(1<<pattern.IntN(17))))
			for i := range b {
				b[i] = byte(sent + i)
			}
			if _, err := far.Write(b); err != nil {
				t.Error(err)
				return
			}
			sent += len(b)
		}
	}()
	b := make([]byte, 64<<10)
	for got := 0; got < total; {
		n, err := far.Read(b[:1+r.IntN(len(b)-1)])
		if err != nil {
			t.Errorf("after %d bytes: %v", got, err)
			return
		}
		for i := range b[:n] {
			if b[i] != byte(got+i) {
				t.Errorf("byte %d is another", got+i)
				return
			}
		}
		got += n
		if r.IntN(100) == 0 {
			time.Sleep(time.Millisecond) // it reads slowly
		}
	}
}
