package proxy

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hourgate/hourgate/internal/burst"
)

// endGrace is how long the rest of a message may take to pass after the end of a session, so that the last ErrorResponse
// can follow it. After that the connection is closed in the middle of the message.
const endGrace = 200 * time.Millisecond

var (
	errClientGone    = errors.New("client disconnected")
	errClientQuit    = errors.New("client terminated the session")
	errUpstreamEnded = errors.New("upstream ended the session after an ErrorResponse")
	errUpstreamDeaf  = errors.New("upstream takes nothing any more") // whether it still speaks, the other direction finds out
)

// relay passes bytes both ways between two authenticated connections and follows the messages in them. Each direction
// has one goroutine: the caller's writes to the client and nothing else does.
type relay struct {
	client, upstream net.Conn
	fromClient       direction
	fromUpstream     direction
	activity         activity
	statements       *statements // nil: nobody wants to know
	draining         atomic.Bool

	// These belong to the goroutine that writes to the client.
	writable bool      // no write has failed
	end      time.Time // of the grace for the rest of a message; zero before the session's end
}

// direction is one of the two streams. The frames belong to the goroutine that relays it.
type direction struct {
	frames
	bytes atomic.Int64 // that have passed
}

var (
	requests         = kindsOf("QFSEcfX")
	requestsRecorded = kindsOf("QFSEcfX" + recorded)
	replies          = kindsOf("ZGE")
)

func newRelay(client, upstream net.Conn, s *statements) *relay {
	r := &relay{client: client, upstream: upstream, statements: s, writable: true}
	r.fromClient.frames = frames{watched: requests, visit: r.seeRequest}
	if s != nil {
		r.fromClient.watched = requestsRecorded
	}
	r.fromUpstream.frames = frames{watched: replies, visit: r.activity.seeReply}
	return r
}

// run relays until one side ends or ctx does, and returns why: a cause of ctx, or one of the errors above. When it
// returns, no goroutine of it runs any more, and the client may be sent one more message if clientAtBoundary says so.
func (r *relay) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	var up sync.WaitGroup
	up.Go(func() {
		if err := r.toUpstream(ctx); !errors.Is(err, errUpstreamDeaf) {
			cancel(err)
		}
	})
	stop := context.AfterFunc(ctx, r.interrupt)
	defer stop()

	cancel(r.toClient(ctx))
	up.Wait()
	return context.Cause(ctx)
}

// past is a deadline that makes every blocked read or write return.
var past = time.Unix(1, 0)

// interrupt wakes both directions once ctx is done. The client gets a moment for the rest of a message.
func (r *relay) interrupt() {
	_ = r.client.SetReadDeadline(past)
	_ = r.client.SetWriteDeadline(time.Now().Add(endGrace))
	burst.OpenReserve(r.client)
	_ = r.upstream.SetDeadline(past)
}

// clientAtBoundary reports that the client has received whole messages only.
func (r *relay) clientAtBoundary() bool { return r.writable && r.fromUpstream.boundary() }

// toUpstream relays the client's messages and returns why it ended.
func (r *relay) toUpstream(ctx context.Context) (why error) {
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
func (r *relay) passRequests(ctx context.Context, b []byte, readErr error) error {
	whole := r.fromClient.scan(b)
	if r.fromClient.broken {
		b = b[:whole]
	}
	if r.statements != nil {
		if err := r.statements.check(); err != nil {
			return err
		}
	}
	if len(b) > 0 {
		if _, err := r.upstream.Write(b); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			_ = r.upstream.SetReadDeadline(time.Now().Add(endGrace)) // for what the server still says
			return errUpstreamDeaf
		}
		r.fromClient.bytes.Add(int64(len(b)))
	}
	switch {
	case r.fromClient.broken:
		return errMessageLength
	case readErr == nil:
		return nil
	case r.activity.quit.Load():
		return errClientQuit
	}
	return errClientGone
}

func (r *relay) seeRequest(kind byte, first bool, part []byte, rest int64) {
	if first {
		r.activity.seeRequest(kind)
	}
	if r.statements != nil {
		r.statements.see(kind, first, part, rest)
	}
}

// toClient relays the server's messages and returns why it ended. Once ctx is done it goes on to the end of the message
// that it is in.
func (r *relay) toClient(ctx context.Context) (why error) {
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
func (r *relay) passReplies(ctx context.Context, b []byte, readErr error) error {
	down := &r.fromUpstream
	whole := down.scan(b)
	broken := down.broken
	if whole > 0 && (broken || ctx.Err() != nil) {
		b = b[:whole]
		down.cut()
	}
	if len(b) > 0 {
		if _, err := r.client.Write(b); err != nil {
			r.writable = false
			return errClientGone
		}
		down.bytes.Add(int64(len(b)))
	}
	switch {
	case ctx.Err() != nil:
		return r.passTheRest(ctx, readErr)
	case broken:
		return errUpstreamGone
	case readErr != nil:
		return r.upstreamEnd()
	case r.draining.Load() && r.activity.idle() && down.boundary():
		return errShutdown
	}
	return nil
}

// passTheRest goes on after the end, for a moment, unless the client is at a boundary already.
func (r *relay) passTheRest(ctx context.Context, readErr error) error {
	if r.end.IsZero() {
		r.end = time.Now().Add(endGrace)
	}
	goesOn := readErr == nil || errors.Is(readErr, os.ErrDeadlineExceeded)
	if r.fromUpstream.boundary() || !goesOn || time.Now().After(r.end) {
		return context.Cause(ctx)
	}
	_ = r.upstream.SetReadDeadline(r.end)
	return nil
}

// upstreamEnd tells an end that the client asked for or was told of from one that comes out of the blue.
func (r *relay) upstreamEnd() error {
	switch {
	case r.activity.quit.Load():
		return errClientQuit
	case r.fromUpstream.kind == 'E':
		return errUpstreamEnded
	}
	return errUpstreamGone
}
