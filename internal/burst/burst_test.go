package burst_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hourgate/hourgate/internal/burst"
)

const patience = 20 * time.Second

// pair connects two sockets, the first of which Receive can read without waiting.
func pair(t testing.TB) (near net.Conn, far *net.TCPConn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	dialled, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = dialled.Close()
		_ = accepted.Close()
	})
	_ = dialled.SetDeadline(time.Now().Add(patience))
	_ = accepted.SetDeadline(time.Now().Add(patience))
	return burst.Wrap(accepted), dialled.(*net.TCPConn)
}

// secure runs TLS on top of both.
func secure(t testing.TB, near, far net.Conn) (secured, farSecured *tls.Conn) {
	t.Helper()
	lender := httptest.NewTLSServer(nil) // of its certificate
	defer lender.Close()
	burst.ExpectTLS(near)
	secured = tls.Server(near, &tls.Config{Certificates: lender.TLS.Certificates})
	farSecured = tls.Client(far, &tls.Config{InsecureSkipVerify: true})
	var err error
	var both sync.WaitGroup
	both.Go(func() { err = secured.Handshake() })
	if err := farSecured.Handshake(); err != nil {
		t.Error(err)
	}
	both.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return secured, farSecured
}

// kinds of connections; each test runs on all of them.
var kinds = map[string]func(testing.TB) (near, far net.Conn){
	"TCP": func(t testing.TB) (net.Conn, net.Conn) { return pair(t) },
	"TLS": func(t testing.TB) (net.Conn, net.Conn) {
		near, far := pair(t)
		return secure(t, near, far)
	},
	"TLS behind a layer": func(t testing.TB) (net.Conn, net.Conn) {
		near, far := pair(t)
		return secure(t, layer{near}, far)
	},
	"TCP in a loop": func(t testing.TB) (net.Conn, net.Conn) {
		near, far := pair(t)
		return inLoop(t, near), far
	},
	"TLS in a loop": func(t testing.TB) (net.Conn, net.Conn) {
		near, far := pair(t)
		secured, farSecured := secure(t, near, far)
		return inLoop(t, secured), farSecured
	},
	"pipe": func(t testing.TB) (net.Conn, net.Conn) {
		near, far := net.Pipe()
		t.Cleanup(func() { _ = near.Close(); _ = far.Close() })
		return burst.Wrap(near), far
	},
}

// inLoop has a loop serve a connection, beside another one, where the system has loops.
func inLoop(t testing.TB, near net.Conn) net.Conn {
	t.Helper()
	beside, _ := pair(t)
	burst.Join(near, beside)
	_ = near.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() {
		_ = near.Close()
		_ = beside.Close()
	})
	return near
}

// A deadline that was set before Join is one after it: a notice for an idle session comes with one, at any time.
func TestDeadlineBeforeJoin(t *testing.T) {
	t.Parallel()
	near, _ := pair(t)
	beside, _ := pair(t)
	if err := near.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	burst.Join(near, beside)
	t.Cleanup(func() { _ = near.Close(); _ = beside.Close() })
	ended := make(chan error, 1)
	go func() {
		_, err := receiveAll(near)
		ended <- err
	}()
	select {
	case err := <-ended:
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v, want %v", err, os.ErrDeadlineExceeded)
		}
	case <-time.After(patience):
		t.Error("the deadline is forgotten")
	}
}

type layer struct{ net.Conn }

func (l layer) NetConn() net.Conn { return l.Conn }

func eachKind(t *testing.T, test func(t *testing.T, near, far net.Conn)) {
	t.Helper()
	for name, connect := range kinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			near, far := connect(t)
			test(t, near, far)
		})
	}
}

// receiveAll collects what comes until there is an error.
func receiveAll(c net.Conn) (all []byte, err error) {
	burst.Receive(c, func(b []byte, readErr error) burst.Next {
		all = append(all, b...)
		err = readErr
		return unless(err != nil)
	})
	return all, err
}

// unless goes on in the cheap way until the end.
func unless(end bool) burst.Next {
	if end {
		return burst.Stop
	}
	return burst.Wait
}

// A reset that came together with the last bytes is noticed by who looks once more; a server that is stopped at once does
// that to whoever waits for its answer.
func TestResetTogetherWithLastBytes(t *testing.T) {
	t.Parallel()
	for range 50 {
		near, far := pair(t)
		if _, err := near.Write([]byte("a request that nobody reads")); err != nil {
			t.Fatal(err)
		}
		if _, err := far.Write([]byte("last")); err != nil {
			t.Fatal(err)
		}
		_ = far.SetLinger(0)
		_ = far.Close()
		time.Sleep(time.Millisecond) // both are there before anybody looks
		var got []byte
		var err error
		burst.Receive(near, func(b []byte, readErr error) burst.Next {
			got = append(got, b...)
			if err = readErr; err != nil {
				return burst.Stop
			}
			return burst.Look
		})
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("the reset was not noticed, after %q", got)
		}
	}
}

// All comes, in order, whatever the pieces, and then the end.
func TestEverythingArrives(t *testing.T) {
	t.Parallel()
	eachKind(t, func(t *testing.T, near, far net.Conn) {
		r := rand.New(rand.NewPCG(1, 2))
		var sent []byte
		var pieces [][]byte
		for range 200 {
			piece := make([]byte, 1+r.IntN(1<<r.IntN(18)))
			for i := range piece {
				piece[i] = byte(r.Uint32())
			}
			sent = append(sent, piece...)
			pieces = append(pieces, piece)
		}
		go func() {
			for _, piece := range pieces {
				if _, err := far.Write(piece); err != nil {
					t.Error(err)
				}
			}
			_ = far.Close()
		}()
		got, err := receiveAll(near)
		if !errors.Is(err, io.EOF) || !bytes.Equal(got, sent) {
			t.Errorf("got %d bytes and %v, want the %d that were sent and EOF", len(got), err, len(sent))
		}
	})
}

// A TLS record that comes a byte at a time is put together.
func TestRecordInPieces(t *testing.T) {
	t.Parallel()
	near, far := pair(t)
	secured, farSecured := secure(t, near, &slowWriter{far})
	go func() {
		_, _ = farSecured.Write([]byte("in pieces"))
		_ = farSecured.Close()
	}()
	if got, err := receiveAll(secured); string(got) != "in pieces" || !errors.Is(err, io.EOF) {
		t.Errorf("got %q, %v", got, err)
	}
}

type slowWriter struct{ net.Conn }

func (s *slowWriter) Write(b []byte) (int, error) {
	for i := range b {
		if _, err := s.Conn.Write(b[i : i+1]); err != nil {
			return i, err
		}
		runtime.Gosched()
	}
	return len(b), nil
}

// The end of the stream is seen though it came together with the last bytes, which a short read alone would miss: the
// kernel tells of both once.
func TestEndTogetherWithLastBytes(t *testing.T) {
	t.Parallel()
	for range 50 {
		near, far := pair(t)
		if _, err := far.Write([]byte("last")); err != nil {
			t.Fatal(err)
		}
		_ = far.CloseWrite()
		time.Sleep(time.Millisecond) // both are there before anybody looks
		if got, err := receiveAll(near); string(got) != "last" || !errors.Is(err, io.EOF) {
			t.Fatalf("got %q, %v; want the last bytes and EOF", got, err)
		}
	}
}

// A deadline interrupts the waiting; with another one it goes on, and nothing is lost.
func TestDeadlineAndOn(t *testing.T) {
	t.Parallel()
	eachKind(t, func(t *testing.T, near, far net.Conn) {
		var got []byte
		deadlines := 0
		_ = near.SetReadDeadline(time.Unix(1, 0))
		burst.Receive(near, func(b []byte, err error) burst.Next {
			got = append(got, b...)
			if errors.Is(err, os.ErrDeadlineExceeded) && deadlines == 0 {
				deadlines++
				_ = near.SetReadDeadline(time.Now().Add(patience))
				go func() { _, _ = far.Write([]byte("after all")) }()
				return burst.Wait
			}
			if err != nil {
				t.Error(err)
			}
			return unless(err != nil || len(got) == len("after all"))
		})
		if deadlines != 1 || string(got) != "after all" {
			t.Errorf("%d deadlines, got %q", deadlines, got)
		}
	})
}

// Whoever is told to stop does, though there is more.
func TestStop(t *testing.T) {
	t.Parallel()
	eachKind(t, func(t *testing.T, near, far net.Conn) {
		go func() { _, _ = far.Write(make([]byte, 3*burst.Size)); _ = far.Close() }()
		calls := 0
		burst.Receive(near, func(b []byte, err error) burst.Next {
			if len(b) == 0 && err == nil || len(b) > burst.Size {
				t.Errorf("a burst of %d bytes and no error", len(b))
			}
			calls++
			return burst.Stop
		})
		if calls != 1 {
			t.Errorf("called %d times, want 1", calls)
		}
	})
}

// A connection that is silent holds no buffer.
func TestNoBufferWhileSilent(t *testing.T) {
	const connections = 100
	before := heap()
	var received, done sync.WaitGroup
	var fars []*net.TCPConn
	for range connections {
		near, far := pair(t)
		fars = append(fars, far)
		received.Add(1)
		done.Go(func() {
			once := sync.OnceFunc(received.Done)
			burst.Receive(near, func(_ []byte, err error) burst.Next { once(); return unless(err != nil) })
		})
		if _, err := far.Write([]byte("something")); err != nil {
			t.Fatal(err)
		}
	}
	received.Wait()
	runtime.GC() // empties the pool, in two steps
	if each := (heap() - before) / connections; each > burst.Size/16 {
		t.Errorf("a silent connection holds %d bytes", each)
	}
	for _, far := range fars {
		_ = far.Close()
	}
	done.Wait()
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// BenchmarkReceive measures a message of 100 bytes there and a reply back, received in bursts and, for comparison, with
// Read. crypto/tls allocates for each record that it reads (an io.Reader of its own); this package allocates nothing.
func BenchmarkReceive(b *testing.B) {
	for name, connect := range kinds {
		if name == "pipe" || name == "TLS behind a layer" {
			continue
		}
		looped := strings.HasSuffix(name, "in a loop")
		b.Run(name+"/bursts", func(b *testing.B) {
			if looped { // package testing has taken away the P that a loop brings with it
				defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 1))
			}
			near, far := connect(b)
			benchmark(b, far, func() {
				burst.Receive(near, func(got []byte, err error) burst.Next {
					_, writeErr := near.Write(got)
					return unless(err != nil || writeErr != nil)
				})
			})
		})
		if looped {
			continue // nothing else may read from those
		}
		b.Run(name+"/reads", func(b *testing.B) {
			near, far := connect(b)
			benchmark(b, far, func() {
				buf := make([]byte, burst.Size)
				for {
					n, err := near.Read(buf)
					if err != nil {
						return
					}
					_, _ = near.Write(buf[:n])
				}
			})
		})
	}
}

func benchmark(b *testing.B, far net.Conn, answer func()) {
	_ = far.SetDeadline(time.Time{})
	var done sync.WaitGroup
	done.Go(answer)
	message := make([]byte, 100)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := far.Write(message); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(far, message); err != nil {
			b.Fatal(err)
		}
	}
	_ = far.Close()
	done.Wait()
}
