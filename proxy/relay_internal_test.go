package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/hourgate/hourgate/audit"
)

// brokenWrites is a socket whose other end has stopped reading for good, but has said something before.
type brokenWrites struct{ net.Conn }

func (brokenWrites) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

// startRelay runs a relay between two pipes and returns their other ends, and what run returned.
func startRelay(t *testing.T, ctx context.Context, wrap func(net.Conn) net.Conn) (client, server net.Conn, r *relay, ended <-chan error) {
	t.Helper()
	client, nearClient := net.Pipe()
	server, nearServer := net.Pipe()
	r = newRelay(nearClient, wrap(nearServer), &statements{trail: nowhere{}, who: audit.Statement{Session: "s"}})
	result := make(chan error, 1)
	var done sync.WaitGroup
	done.Go(func() {
		result <- r.run(ctx)
		_ = nearClient.Close()
		_ = nearServer.Close()
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
	client, server, r, ended := startRelay(t, context.Background(), func(c net.Conn) net.Conn { return brokenWrites{c} })
	if _, err := client.Write([]byte{'S', 0, 0, 0, 4}); err != nil {
		t.Fatal(err)
	}
	words := []byte{'E', 0, 0, 0, 5, 0}
	go func() { _, _ = server.Write(words); _ = server.Close() }()
	got := make([]byte, len(words))
	if _, err := io.ReadFull(client, got); err != nil || !bytes.Equal(got, words) {
		t.Errorf("got %q, %v; want %q", got, err, words)
	}
	if err := <-ended; !errors.Is(err, errUpstreamEnded) {
		t.Errorf("ended with %v, want %v", err, errUpstreamEnded)
	}
	if !r.clientAtBoundary() {
		t.Error("the client is not at a boundary")
	}
}

// A server that takes no bytes and says nothing either is given up.
func TestServerThatStoppedReadingAndTalking(t *testing.T) {
	t.Parallel()
	client, _, _, ended := startRelay(t, context.Background(), func(c net.Conn) net.Conn { return brokenWrites{c} })
	if _, err := client.Write([]byte{'S', 0, 0, 0, 4}); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, errUpstreamGone) {
		t.Errorf("ended with %v, want %v", err, errUpstreamGone)
	}
}

// A server that goes in the middle of a message: there is no boundary at which the client could be told.
func TestServerGoesInTheMiddleOfAMessage(t *testing.T) {
	t.Parallel()
	client, server, r, ended := startRelay(t, context.Background(), asIs)
	half := []byte{'D', 0, 0, 0, 100, 1, 2, 3}
	go func() { _, _ = server.Write(half); _ = server.Close() }()
	got, err := io.ReadAll(client)
	if err != nil || !bytes.Equal(got, half) {
		t.Errorf("got %q, %v; want %q", got, err, half)
	}
	if err := <-ended; !errors.Is(err, errUpstreamGone) {
		t.Errorf("ended with %v, want %v", err, errUpstreamGone)
	}
	if r.clientAtBoundary() {
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
			ctx, end := context.WithCancelCause(context.Background())
			client, server, r, ended := startRelay(t, ctx, asIs)
			if _, err := server.Write(rule.before); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(rule.before))
			if _, err := io.ReadFull(client, got); err != nil {
				t.Fatal(err)
			}
			end(reason)
			go func() { _, _ = server.Write(rule.after) }()
			rest, _ := io.ReadAll(client)
			if got = append(got, rest...); !bytes.Equal(got, rule.want) {
				t.Errorf("got %q, want %q", got, rule.want)
			}
			if err := <-ended; !errors.Is(err, reason) {
				t.Errorf("ended with %v, want %v", err, reason)
			}
			if r.clientAtBoundary() != rule.atBoundary {
				t.Errorf("at a boundary: %v, want %v", r.clientAtBoundary(), rule.atBoundary)
			}
		})
	}
}

// A server that sends a length that can't be is not listened to any more. The client gets the messages before it, and can
// be told.
func TestServerSendsALengthThatCantBe(t *testing.T) {
	t.Parallel()
	client, server, r, ended := startRelay(t, context.Background(), asIs)
	good := []byte{'N', 0, 0, 0, 4}
	go func() { _, _ = server.Write(append(bytes.Clone(good), 'D', 0, 0, 0, 3, 'x')) }()
	got, err := io.ReadAll(client)
	if err != nil || !bytes.Equal(got, good) {
		t.Errorf("got %q, %v; want %q", got, err, good)
	}
	if err := <-ended; !errors.Is(err, errUpstreamGone) {
		t.Errorf("ended with %v, want %v", err, errUpstreamGone)
	}
	if !r.clientAtBoundary() {
		t.Error("the client is not at a boundary")
	}
}

// A session that nobody has asked anything is idle, also before its relay runs: Shutdown may look at once.
func TestNewRelayIsIdle(t *testing.T) {
	t.Parallel()
	if !newRelay(nil, nil, nil).activity.idle() {
		t.Error("a new relay is not idle")
	}
}
