package relay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// brokenWrites is a socket whose other end has stopped reading for good, but has said something before.
type brokenWrites struct{ net.Conn }

func (brokenWrites) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

// startRelay runs a relay between two pipes and returns their other ends, and what run returned.
func startRelay(t *testing.T, ctx context.Context, wrap func(net.Conn) net.Conn, watcher Watcher) (client, server net.Conn, r *Relay, ended <-chan End) {
	t.Helper()
	client, nearClient := net.Pipe()
	server, nearServer := net.Pipe()
	r = New(nearClient, wrap(nearServer), watcher)
	result := make(chan End, 1)
	var done sync.WaitGroup
	done.Go(func() {
		result <- r.Run(ctx)
		_ = nearClient.Close()
		_ = nearServer.Close()
		r.Wait()
	})
	t.Cleanup(func() {
		_ = client.Close()
		_ = server.Close()
		done.Wait()
	})
	deadline := time.Now().Add(20 * time.Second)
	_ = errors.Join(client.SetDeadline(deadline), server.SetDeadline(deadline))
	return client, server, r, result
}

func asIs(c net.Conn) net.Conn { return c }

// What a server says before it goes reaches the client, though the client's own bytes no longer reach the server.
func TestLastWordsOfAServerThatStoppedReading(t *testing.T) {
	t.Parallel()
	client, server, _, ended := startRelay(t, context.Background(), func(c net.Conn) net.Conn { return brokenWrites{c} }, nil)
	if _, err := client.Write([]byte{'S', 0, 0, 0, 4}); err != nil {
		t.Fatal(err)
	}
	words := []byte{'E', 0, 0, 0, 5, 0}
	go func() { _, _ = server.Write(words); _ = server.Close() }()
	got := make([]byte, len(words))
	if _, err := io.ReadFull(client, got); err != nil || !bytes.Equal(got, words) {
		t.Errorf("got %q, %v; want %q", got, err, words)
	}
	end := <-ended
	if !errors.Is(end.Err, ErrUpstreamEnded) {
		t.Errorf("ended with %v, want %v", end.Err, ErrUpstreamEnded)
	}
	if !end.ClientAtBoundary {
		t.Error("the client is not at a boundary")
	}
}

// A server that takes no bytes and says nothing either is given up.
func TestServerThatStoppedReadingAndTalking(t *testing.T) {
	t.Parallel()
	client, _, _, ended := startRelay(t, context.Background(), func(c net.Conn) net.Conn { return brokenWrites{c} }, nil)
	if _, err := client.Write([]byte{'S', 0, 0, 0, 4}); err != nil {
		t.Fatal(err)
	}
	end := <-ended
	if !errors.Is(end.Err, ErrUpstreamGone) {
		t.Errorf("ended with %v, want %v", end.Err, ErrUpstreamGone)
	}
}

// A server that goes in the middle of a message: there is no boundary at which the client could be told.
func TestServerGoesInTheMiddleOfAMessage(t *testing.T) {
	t.Parallel()
	client, server, _, ended := startRelay(t, context.Background(), asIs, nil)
	half := []byte{'D', 0, 0, 0, 100, 1, 2, 3}
	go func() { _, _ = server.Write(half); _ = server.Close() }()
	got, err := io.ReadAll(client)
	if err != nil || !bytes.Equal(got, half) {
		t.Errorf("got %q, %v; want %q", got, err, half)
	}
	end := <-ended
	if !errors.Is(end.Err, ErrUpstreamGone) {
		t.Errorf("ended with %v, want %v", end.Err, ErrUpstreamGone)
	}
	if end.ClientAtBoundary {
		t.Error("half a message counts as a boundary")
	}
}

// After the end, the rest of a message may pass, for a moment, and nothing of the next; nothing passes upstream at all.
func TestEndWaitsForTheRestOfAMessage(t *testing.T) {
	t.Parallel()
	for _, rule := range []struct {
		name       string
		before     []byte // the end
		after      []byte
		want       []byte
		atBoundary bool
	}{
		{"between messages", []byte{'N', 0, 0, 0, 4}, nil, []byte{'N', 0, 0, 0, 4}, true},
		{"the rest comes", []byte{'D', 0, 0, 0, 6, 'a'}, []byte{'b'}, []byte{'D', 0, 0, 0, 6, 'a', 'b'}, true},
		{"the rest comes, and more", []byte{'D', 0, 0, 0, 6, 'a'}, []byte{'b', 'D', 0, 0}, []byte{'D', 0, 0, 0, 6, 'a', 'b'}, true},
		{"the rest of the header comes", []byte{'D', 0}, []byte{0, 0, 4, 'Z', 0}, []byte{'D', 0, 0, 0, 4}, true},
		{"the rest never comes", []byte{'D', 0, 0, 0, 6, 'a'}, nil, []byte{'D', 0, 0, 0, 6, 'a'}, false},
	} {
		t.Run(rule.name, func(t *testing.T) {
			t.Parallel()
			reason := errors.New("the end")
			ctx, cancel := context.WithCancelCause(context.Background())
			client, server, _, ended := startRelay(t, ctx, asIs, nil)
			if _, err := server.Write(rule.before); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(rule.before))
			if _, err := io.ReadFull(client, got); err != nil {
				t.Fatal(err)
			}
			cancel(reason)
			go func() { _, _ = server.Write(rule.after) }()
			rest, _ := io.ReadAll(client)
			if got = append(got, rest...); !bytes.Equal(got, rule.want) {
				t.Errorf("got %q, want %q", got, rule.want)
			}
			end := <-ended
			if !errors.Is(end.Err, reason) {
				t.Errorf("ended with %v, want %v", end.Err, reason)
			}
			if end.ClientAtBoundary != rule.atBoundary {
				t.Errorf("at a boundary: %v, want %v", end.ClientAtBoundary, rule.atBoundary)
			}
		})
	}
}

// A server that sends a length that can't be is not listened to any more. The client gets the messages before it, and can
// be told.
func TestServerSendsALengthThatCantBe(t *testing.T) {
	t.Parallel()
	client, server, _, ended := startRelay(t, context.Background(), asIs, nil)
	good := []byte{'N', 0, 0, 0, 4}
	go func() { _, _ = server.Write(append(bytes.Clone(good), 'D', 0, 0, 0, 3, 'x')) }()
	got, err := io.ReadAll(client)
	if err != nil || !bytes.Equal(got, good) {
		t.Errorf("got %q, %v; want %q", got, err, good)
	}
	end := <-ended
	if !errors.Is(end.Err, ErrUpstreamGone) {
		t.Errorf("ended with %v, want %v", end.Err, ErrUpstreamGone)
	}
	if !end.ClientAtBoundary {
		t.Error("the client is not at a boundary")
	}
}

// A session that nobody has asked anything is idle, also before its relay runs: Shutdown may look at once.
func TestNewRelayIsIdle(t *testing.T) {
	t.Parallel()
	if !New(nil, nil, nil).Idle() {
		t.Error("a new relay is not idle")
	}
}

// recorder is a watcher that keeps what it sees, and fails at a message.
type recorder struct {
	requests, replies string // the types of what it has seen
	fail              byte
}

var errWatcher = errors.New("the watcher says no")

func (w *recorder) Waits() bool { return false }

func (w *recorder) Kinds() (requests, replies string) { return "Q", "CZ" }

func (w *recorder) Request(m *Part) error { return w.see(&w.requests, m) }

func (w *recorder) Reply(m *Part) error { return w.see(&w.replies, m) }

func (w *recorder) see(seen *string, m *Part) error {
	if m.At.IsZero() {
		return errors.New("no time")
	}
	if m.First {
		*seen += string(m.Kind)
	}
	if m.Kind == w.fail {
		return errWatcher
	}
	return nil
}

// A watcher sees what it has asked for, both ways.
func TestWatcherSeesMessages(t *testing.T) {
	t.Parallel()
	w := &recorder{}
	client, server, _, ended := startRelay(t, context.Background(), asIs, w)
	pass(t, client, server, join(raw('Q', 6, 'x', 0), raw('S', 4)))
	pass(t, server, client, join(raw('D', 5, 1), raw('C', 5, 0), raw('Z', 5, 'I')))
	_ = client.Close()
	if end := <-ended; !errors.Is(end.Err, ErrClientGone) {
		t.Errorf("ended with %v, want %v", end.Err, ErrClientGone)
	}
	if w.requests != "Q" || w.replies != "CZ" {
		t.Errorf("saw requests %q and replies %q, want Q and CZ", w.requests, w.replies)
	}
}

// A request that the watcher refuses goes nowhere, and neither does what came with it. A reply has been made already: it is
// passed on, and is the last.
func TestWatcherRefuses(t *testing.T) {
	t.Parallel()
	t.Run("a request", func(t *testing.T) {
		t.Parallel()
		client, server, _, ended := startRelay(t, context.Background(), asIs, &recorder{fail: 'Q'})
		if _, err := client.Write(join(raw('S', 4), raw('Q', 6, 'x', 0))); err != nil {
			t.Fatal(err)
		}
		end := <-ended
		if !errors.Is(end.Err, errWatcher) || !end.ClientAtBoundary {
			t.Errorf("ended with %v, at a boundary: %v; want %v at a boundary", end.Err, end.ClientAtBoundary, errWatcher)
		}
		if got, _ := io.ReadAll(server); len(got) > 0 {
			t.Errorf("%q went upstream", got)
		}
	})
	t.Run("a reply", func(t *testing.T) {
		t.Parallel()
		client, server, _, ended := startRelay(t, context.Background(), asIs, &recorder{fail: 'C'})
		burst := join(raw('C', 5, 0), raw('Z', 5, 'I'))
		pass(t, server, client, burst)
		end := <-ended
		if !errors.Is(end.Err, errWatcher) || !end.ClientAtBoundary {
			t.Errorf("ended with %v, at a boundary: %v; want %v at a boundary", end.Err, end.ClientAtBoundary, errWatcher)
		}
	})
}

// pass writes to one end and reads the same from the other.
func pass(t *testing.T, from io.Writer, to io.Reader, b []byte) {
	t.Helper()
	go func() { _, _ = from.Write(b) }()
	got := make([]byte, len(b))
	if _, err := io.ReadFull(to, got); err != nil || !bytes.Equal(got, b) {
		t.Fatalf("got %q, %v; want %q", got, err, b)
	}
}

// A notice comes at once between messages, and otherwise behind the message that is on its way, never inside it.
func TestNotify(t *testing.T) {
	t.Parallel()
	notice := raw('N', 6, 'h', 'i')
	t.Run("in silence", func(t *testing.T) {
		t.Parallel()
		client, server, r, _ := startRelay(t, context.Background(), asIs, nil)
		for range 3 {
			r.Notify(notice)
			expect(t, client, notice)
		}
		pass(t, client, server, raw('S', 4))
		pass(t, server, client, raw('Z', 5, 'I'))
	})
	t.Run("two at once", func(t *testing.T) {
		t.Parallel()
		client, _, r, _ := startRelay(t, context.Background(), asIs, nil)
		r.Notify(notice)
		r.Notify(notice)
		expect(t, client, join(notice, notice))
	})
	t.Run("in the middle of a message", func(t *testing.T) {
		t.Parallel()
		client, server, r, _ := startRelay(t, context.Background(), asIs, nil)
		pass(t, server, client, raw('D', 7, 'a'))
		r.Notify(notice)
		go func() { _, _ = server.Write(join([]byte("bc"), raw('D', 6, 'd'))) }()
		expect(t, client, join([]byte("bc"), notice, raw('D', 6, 'd')))
		pass(t, server, client, []byte("e"))
	})
	t.Run("in the middle of a message that goes on in silence", func(t *testing.T) {
		t.Parallel()
		client, server, r, _ := startRelay(t, context.Background(), asIs, nil)
		pass(t, server, client, raw('D', 7, 'a'))
		r.Notify(notice)
		pass(t, server, client, []byte("b"))
		go func() { _, _ = server.Write([]byte("c")) }()
		expect(t, client, join([]byte("c"), notice))
	})
	t.Run("as the session ends", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancelCause(context.Background())
		client, _, r, ended := startRelay(t, ctx, asIs, nil)
		go func() { _, _ = io.Copy(io.Discard, client) }()
		reason := errors.New("the end")
		var notifying sync.WaitGroup
		for range 4 {
			notifying.Go(func() {
				for range 100 {
					r.Notify(notice)
				}
			})
		}
		cancel(reason)
		end := <-ended
		if !errors.Is(end.Err, reason) || !end.ClientAtBoundary {
			t.Errorf("ended with %v, at a boundary: %v; want %v at a boundary", end.Err, end.ClientAtBoundary, reason)
		}
		notifying.Wait()
	})
}

func expect(t *testing.T, from io.Reader, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(from, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("got %q, %v; want %q", got, err, want)
	}
}

// A panic in either direction ends the relay and nothing else.
func TestPanicEndsTheRelay(t *testing.T) {
	t.Parallel()
	for _, kind := range []byte("QC") {
		client, server, _, ended := startRelay(t, context.Background(), asIs, panicky{})
		if kind == 'Q' {
			_, _ = client.Write(raw('Q', 4))
		} else {
			_, _ = server.Write(raw('C', 4))
		}
		end := <-ended
		var caught *PanicError
		if !errors.As(end.Err, &caught) || caught.Value != "watcher" || !bytes.Contains(caught.Stack, []byte("panicky")) {
			t.Errorf("after %q: ended with %v, want the watcher's panic and its stack", kind, end.Err)
		}
	}
}

type panicky struct{}

func (panicky) Waits() bool                       { return false }
func (panicky) Kinds() (requests, replies string) { return "Q", "C" }
func (panicky) Request(*Part) error               { panic("watcher") }
func (panicky) Reply(*Part) error                 { panic("watcher") }

// A watcher that hangs does not hold up the end. What it was looking at goes nowhere when it returns.
func TestWatcherThatHangs(t *testing.T) {
	t.Parallel()
	w := hanging{asked: make(chan struct{}), goOn: make(chan struct{})}
	ctx, cancel := context.WithCancelCause(context.Background())
	client, near := net.Pipe()
	server, far := net.Pipe()
	r := New(near, far, w)
	ended := make(chan End, 1)
	go func() { ended <- r.Run(ctx) }()
	if _, err := client.Write(raw('Q', 4)); err != nil {
		t.Fatal(err)
	}
	<-w.asked
	reason := errors.New("the end")
	cancel(reason)
	if end := <-ended; !errors.Is(end.Err, reason) || !end.ClientAtBoundary {
		t.Errorf("ended with %v, at a boundary: %v; want %v at a boundary", end.Err, end.ClientAtBoundary, reason)
	}
	close(w.goOn)
	r.Wait()
	_ = near.Close()
	_ = far.Close()
	if got, _ := io.ReadAll(server); len(got) > 0 {
		t.Errorf("%q went upstream after the end", got)
	}
}

type hanging struct{ asked, goOn chan struct{} }

func (hanging) Waits() bool                       { return false }
func (hanging) Kinds() (requests, replies string) { return "Q", "" }
func (hanging) Reply(*Part) error                 { return nil }

func (h hanging) Request(*Part) error {
	close(h.asked)
	<-h.goOn
	return nil
}
