package proxy

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// relayBuffer is the size of one read: a TLS record and its header fit.
	relayBuffer = 32 << 10

	// endGrace is how long the rest of a message may take to pass after the end of a session, so that the last
	// ErrorResponse can follow it. After that the connection is closed in the middle of the message.
	endGrace = 100 * time.Millisecond
)

var relayBuffers = sync.Pool{New: func() any { return new([relayBuffer]byte) }}

var (
	errClientGone    = errors.New("client disconnected")
	errClientQuit    = errors.New("client terminated the session")
	errUpstreamEnded = errors.New("upstream ended the session after an ErrorResponse")
)

// relay passes bytes both ways between two authenticated connections and follows the messages in them. Each direction
// has one goroutine: the caller's writes to the client and nothing else does.
type relay struct {
	client, upstream net.Conn
	metrics          *metrics

	fromClient, fromUpstream atomic.Int64 // bytes

	// What the protocol's state is, for a drain: requests that a ReadyForQuery has yet to answer, and the transaction
	// status of the last one.
	pending  atomic.Int64
	status   atomic.Uint32
	draining atomic.Bool
	// PostgreSQL ignores Sync within COPY IN: those that it has sent since its last Execute, and those until CopyDone or
	// CopyFail, are not answered. Without this, a client that used COPY once would never be found idle.
	syncs  atomic.Int64
	copyIn atomic.Bool

	quit     atomic.Bool // the client sent Terminate
	down     frames      // upstream → client; the caller's goroutine
	lastKind byte        // last message that began in that direction
	writable bool        // nothing has failed in writing to the client
}

// run relays until one side ends or ctx does, and returns why: a cause of ctx, or one of the errors above. When it
// returns, no goroutine of it runs any more, and the client may be sent one more message if clientAtBoundary says so.
func (r *relay) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r.writable = true

	var up sync.WaitGroup
	up.Go(func() {
		if err := r.toUpstream(ctx); err != nil {
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
	_ = r.upstream.SetDeadline(past)
}

// clientAtBoundary reports that the client has received whole messages only.
func (r *relay) clientAtBoundary() bool { return r.writable && r.down.boundary() }

// idle reports that the client waits for nothing and is in no transaction.
func (r *relay) idle() bool {
	status := r.status.Load()
	return r.pending.Load() <= 0 && (status == 'I' || status == 0) // 0: nothing was asked yet
}

// toUpstream relays the client's messages and returns why it ended; nil leaves it to the other direction to find out.
func (r *relay) toUpstream(ctx context.Context) error {
	buf := relayBuffers.Get().(*[relayBuffer]byte)
	defer relayBuffers.Put(buf)
	var up frames
	for {
		n, readErr := r.client.Read(buf[:])
		if ctx.Err() != nil {
			return context.Cause(ctx) // not a byte after the end
		}
		if n > 0 {
			up.scan(buf[:n], r.seeRequest)
			if _, err := r.upstream.Write(buf[:n]); err != nil {
				if ctx.Err() == nil { // toClient reads why, and what the server still said
					_ = r.upstream.SetReadDeadline(time.Now().Add(endGrace))
				}
				return context.Cause(ctx)
			}
			r.fromClient.Add(int64(n))
			r.metrics.bytesFromClient.Add(float64(n))
		}
		switch {
		case readErr != nil && r.quit.Load():
			return errClientQuit
		case readErr != nil:
			return errClientGone
		}
	}
}

// seeRequest counts what PostgreSQL will answer with ReadyForQuery.
func (r *relay) seeRequest(kind byte, start bool, _ []byte) {
	if !start {
		return
	}
	switch kind {
	case 'Q', 'F': // Query, FunctionCall
		r.pending.Add(1)
		r.syncs.Store(0)
	case 'S': // Sync
		if !r.copyIn.Load() {
			r.pending.Add(1)
			r.syncs.Add(1)
		}
	case 'E': // Execute
		r.syncs.Store(0)
	case 'c', 'f': // CopyDone, CopyFail
		r.copyIn.Store(false)
	case 'X': // Terminate
		r.quit.Store(true)
	}
}

// toClient relays the server's messages and returns why it ended. Once ctx is done it goes on to the end of the message
// that it is in.
func (r *relay) toClient(ctx context.Context) error {
	buf := relayBuffers.Get().(*[relayBuffer]byte)
	defer relayBuffers.Put(buf)
	var end time.Time // of the grace, once ctx is done
	for {
		n, readErr := r.upstream.Read(buf[:])
		whole := r.down.scan(buf[:n], r.seeReply)
		if ctx.Err() != nil && whole > 0 {
			n = whole
			r.down = frames{}
		}
		if n > 0 {
			if _, err := r.client.Write(buf[:n]); err != nil {
				r.writable = false
				return errClientGone
			}
			r.fromUpstream.Add(int64(n))
			r.metrics.bytesFromUpstream.Add(float64(n))
		}
		if r.draining.Load() && r.idle() && r.down.boundary() {
			return errShutdown
		}
		if ctx.Err() != nil {
			if end.IsZero() {
				end = time.Now().Add(endGrace)
			}
			if r.down.boundary() || time.Now().After(end) || !timedOut(readErr) {
				return context.Cause(ctx)
			}
			_ = r.upstream.SetReadDeadline(end)
			continue
		}
		if readErr != nil {
			return r.upstreamEnd()
		}
	}
}

// seeReply follows the transaction's status.
func (r *relay) seeReply(kind byte, start bool, part []byte) {
	r.lastKind = kind
	switch {
	case kind == 'Z' && len(part) > 0: // ReadyForQuery
		r.status.Store(uint32(part[0]))
		r.pending.Add(-1)
	case kind == 'G' && start: // CopyInResponse
		r.copyIn.Store(true)
		r.pending.Add(-r.syncs.Swap(0))
	case kind == 'E' && start: // ErrorResponse
		r.copyIn.Store(false)
	}
}

// upstreamEnd tells an end that the client asked for or was told of from one that comes out of the blue.
func (r *relay) upstreamEnd() error {
	switch {
	case r.quit.Load():
		return errClientQuit
	case r.lastKind == 'E':
		return errUpstreamEnded
	}
	return errUpstreamGone
}

// timedOut reports that a read ended at a deadline, or that there was no error at all.
func timedOut(err error) bool {
	return err == nil || errors.Is(err, os.ErrDeadlineExceeded)
}
