package relay

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hourgate/hourgate/internal/burst"
	"github.com/hourgate/hourgate/internal/peer"
)

// endGrace is how long the rest of a message may take to pass after the end of a session, so that the last ErrorResponse
// can follow it. After that the connection is closed in the middle of the message.
const endGrace = 200 * time.Millisecond

// Watcher sees messages as they pass. Request is called for one part after the other, and so is Reply, but both may be
// called at once. Both must be quick: the session waits for them.
type Watcher interface {
	// Waits says that Request or Reply wait, for a disk, as a rule. Then the session gets goroutines of its own. If they wait
	// once in a while only, sessions that share a loop are held up for up to 20 ms. It is asked once.
	Waits() bool
	// Kinds are the types of the messages that it wants to see. It is asked once.
	Kinds() (requests, replies string)
	// Request sees a part of a message of the client's. No byte of the burst that it came in has gone upstream yet. An
	// error ends the session, and the burst does not go.
	Request(*Part) error
	// Reply sees a part of a message of the server's, before the client does. An error ends the session behind the burst
	// that the part came in.
	Reply(*Part) error
}

// Relay passes bytes both ways and follows the messages in them. Bursts of one direction come one after the other; the
// direction from upstream writes to the client and nothing else does. Its exported methods may be called from any goroutine.
type Relay struct {
	client, upstream net.Conn
	watcher          Watcher // or nil
	requests         kinds   // that the watcher wants to see
	replies          kinds
	timed            bool // the watcher wants to see replies, and when they came
	fromClient       direction
	fromUpstream     direction
	activity         activity
	draining         atomic.Bool
	deaf             atomic.Bool            // upstream takes nothing any more, and is heard for a moment only
	notice           atomic.Pointer[[]byte] // messages to be put to the client at the next boundary
	toUpstreamEnded  sync.WaitGroup

	// These belong to the direction that writes to the client.
	writable bool      // no write has failed
	end      time.Time // of the grace for the rest of a message; zero before the session's end
}

// direction is one of the two streams. The frames belong to whoever relays it at the moment.
type direction struct {
	Frames
	bytes atomic.Int64 // that have passed
}

// New returns a relay that does not run yet. watcher may be nil.
func New(client, upstream net.Conn, watcher Watcher) *Relay {
	r := &Relay{client: client, upstream: upstream, watcher: watcher, writable: true}
	var requests, replies string
	if watcher != nil {
		requests, replies = watcher.Kinds()
	}
	r.requests, r.replies, r.timed = kindsOf(requests), kindsOf(replies), replies != ""
	r.fromClient.Frames = *NewFrames(activityRequests+requests, r.seeRequest)
	r.fromUpstream.Frames = *NewFrames(activityReplies+replies, r.seeReply)
	return r
}

// Run relays until one side ends or ctx does. When it returns, nothing of the relay writes to the client any more, and
// nothing that it would still write upstream arrives. A watcher that has not returned yet may keep one goroutine: see Wait.
func (r *Relay) Run(ctx context.Context) End {
	if r.watcher == nil || !r.watcher.Waits() {
		burst.Join(r.client, r.upstream)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	r.toUpstreamEnded.Go(func() {
		defer Caught(cancel)
		if err := r.toUpstream(ctx); !errors.Is(err, errUpstreamDeaf) {
			cancel(err)
		}
	})
	interrupted := make(chan struct{})
	context.AfterFunc(ctx, func() { r.interrupt(); close(interrupted) })

	func() {
		defer Caught(func(err error) { r.writable = false; cancel(err) })
		cancel(r.toClient(ctx))
	}()
	<-interrupted // it changes deadlines, which are the caller's from now on
	return End{Err: context.Cause(ctx), ClientAtBoundary: r.writable && r.fromUpstream.boundary()}
}

// Wait returns when no goroutine of Run runs any more. Both connections have to be closed or interrupted before.
func (r *Relay) Wait() { r.toUpstreamEnded.Wait() }

// Idle reports that the client waits for nothing and is in no transaction.
func (r *Relay) Idle() bool { return r.activity.idle() }

// Drain makes Run end with ErrDrained behind the next reply that leaves the session idle. It reports whether the session is
// idle already, so that no such reply will come.
func (r *Relay) Drain() (idle bool) {
	r.draining.Store(true)
	return r.Idle()
}

// Bytes are those that have passed so far, by the side that they came from.
func (r *Relay) Bytes() (fromClient, fromUpstream int64) {
	return r.fromClient.bytes.Load(), r.fromUpstream.bytes.Load()
}

// LastStatement is when the client last asked for something to be run. It is zero before the first time.
func (r *Relay) LastStatement() time.Time {
	if asked := r.activity.asked.Load(); asked != 0 {
		return time.Unix(0, asked)
	}
	return time.Time{}
}

// Vanished reports which of the two ends has acknowledged nothing for longer than timeout, although it was sent data.
func (r *Relay) Vanished(timeout time.Duration) (client, upstream bool) {
	return peer.Vanished(r.client, timeout), peer.Vanished(r.upstream, timeout)
}

// past is a deadline that makes every blocked read or write return.
var past = time.Unix(1, 0)

// interrupt wakes both directions once ctx is done. The client gets a moment for the rest of a message.
func (r *Relay) interrupt() {
	_ = r.client.SetReadDeadline(past)
	_ = r.client.SetWriteDeadline(time.Now().Add(endGrace))
	burst.OpenReserve(r.client)
	_ = r.upstream.SetDeadline(past)
}

// toUpstream relays the client's messages and returns why it ended.
func (r *Relay) toUpstream(ctx context.Context) (why error) {
	burst.Receive(r.client, func(b []byte, readErr error) burst.Next {
		if ctx.Err() != nil {
			why = context.Cause(ctx) // not a byte after the end
		} else {
			why = r.passRequests(ctx, b, readErr)
		}
		if why != nil {
			return burst.Stop
		}
		return burst.Wait // a client that resets its connection is noticed when the answer is written
	})
	return why
}

// passRequests sends a burst upstream.
func (r *Relay) passRequests(ctx context.Context, b []byte, readErr error) error {
	whole, err := r.fromClient.Scan(b, time.Now())
	if err != nil {
		return err
	}
	if r.fromClient.broken {
		b = b[:whole]
	}
	if len(b) > 0 {
		if _, err := r.upstream.Write(b); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			r.deaf.Store(true)
			_ = r.upstream.SetReadDeadline(time.Now().Add(endGrace)) // for what the server still says
			return errUpstreamDeaf
		}
		r.fromClient.bytes.Add(int64(len(b)))
	}
	switch {
	case r.fromClient.broken:
		return ErrMessageLength
	case readErr == nil:
		return nil
	case r.activity.quit.Load():
		return ErrClientQuit
	}
	return ErrClientGone
}

func (r *Relay) seeRequest(m *Part) error {
	if m.First {
		r.activity.seeRequest(m)
	}
	if r.requests.has(m.Kind) {
		return r.watcher.Request(m)
	}
	return nil
}

func (r *Relay) seeReply(m *Part) error {
	r.activity.seeReply(m)
	if r.replies.has(m.Kind) {
		return r.watcher.Reply(m)
	}
	return nil
}

// toClient relays the server's messages and returns why it ended. Once ctx is done it goes on to the end of the message
// that it is in.
func (r *Relay) toClient(ctx context.Context) (why error) {
	burst.Receive(r.upstream, func(b []byte, readErr error) burst.Next {
		why = r.passReplies(ctx, b, readErr)
		switch {
		case why != nil:
			return burst.Stop
		case r.fromUpstream.kind == 'Z' && r.fromUpstream.boundary() && r.activity.pending.Load() <= 0:
			return burst.Wait // a server that resets its connection is noticed when the next request is written
		}
		return burst.Look
	})
	return why
}

// passReplies sends a burst to the client.
func (r *Relay) passReplies(ctx context.Context, b []byte, readErr error) error {
	down := &r.fromUpstream
	before := down.boundary()
	var at time.Time
	if r.timed {
		at = time.Now()
	}
	whole, watchErr := down.Scan(b, at)
	broken := down.broken
	if (whole > 0 || before) && (broken || ctx.Err() != nil) {
		b = b[:whole]
		down.cut()
	}
	if r.notice.Load() != nil && (whole > 0 || before) {
		if err := r.passNotice(ctx, b[:whole]); err != nil {
			return err
		}
		b = b[whole:]
	}
	if err := r.write(ctx, b); err != nil {
		return err
	}
	down.bytes.Add(int64(len(b)))
	switch {
	case watchErr != nil:
		return watchErr
	case ctx.Err() != nil:
		return r.passTheRest(ctx, readErr)
	case broken:
		return ErrUpstreamGone
	case readErr != nil && !r.wokenForNotice(ctx, readErr):
		return r.upstreamEnd()
	case r.draining.Load() && r.activity.idle() && down.boundary():
		return ErrDrained
	}
	return nil
}

// write sends bytes to the client.
func (r *Relay) write(ctx context.Context, b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if ctx.Err() != nil {
		// The deadline that interrupt has set may have passed while this goroutine waited for a processor.
		_ = r.client.SetWriteDeadline(r.graceEnd())
	}
	if _, err := r.client.Write(b); err != nil {
		r.writable = false
		return ErrClientGone
	}
	return nil
}

// graceEnd is until when the rest of a message may pass. The time begins when it is first asked for.
func (r *Relay) graceEnd() time.Time {
	if r.end.IsZero() {
		r.end = time.Now().Add(endGrace)
	}
	return r.end
}

// passTheRest goes on after the end, for a moment, unless the client is at a boundary already.
func (r *Relay) passTheRest(ctx context.Context, readErr error) error {
	end := r.graceEnd()
	goesOn := readErr == nil || errors.Is(readErr, os.ErrDeadlineExceeded)
	if r.fromUpstream.boundary() || !goesOn || time.Now().After(end) {
		return context.Cause(ctx)
	}
	_ = r.upstream.SetReadDeadline(end)
	return nil
}

// upstreamEnd tells an end that the client asked for or was told of from one that comes out of the blue.
func (r *Relay) upstreamEnd() error {
	switch {
	case r.activity.quit.Load():
		return ErrClientQuit
	case r.fromUpstream.kind == 'E':
		return ErrUpstreamEnded
	}
	return ErrUpstreamGone
}
