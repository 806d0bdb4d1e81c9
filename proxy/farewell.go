package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"time"

	"github.com/hourgate/hourgate/internal/burst"
	"github.com/hourgate/hourgate/internal/relay"
)

// farewellTimeout bounds the last message to a client and the end of its TLS. With the relay's grace for a message that is
// on its way it has to stay well below the second within which access ends.
const farewellTimeout = 500 * time.Millisecond

// farewell is the one place where a session ends. Whoever had access loses it before anything that may wait for a disk: the
// server's side is closed, the client is told and cut off, the role is given back, and only then is the end recorded. A
// refusal takes nothing from anybody, and is recorded before it is spoken.
func (s *session) farewell(err error) {
	s.publish(Ending)
	if s.expiry != nil {
		s.expiry.Stop()
	}
	r := s.lastWords(err)
	if s.phase < provisioning {
		s.recordEnd(r, err)
		s.tell(r)
		s.giveBack()
	} else {
		s.closeUpstream()
		s.tell(r)
		s.giveBack()
		s.recordEnd(r, err)
	}
	if s.relay != nil {
		s.relay.Wait()
	}
	_ = s.client.Close()
}

// caught runs a function and makes an error of its panic: it must not end other people's sessions.
func (s *session) caught(run func(context.Context) error) (err error) {
	defer relay.Caught(func(caught error) { err = caught })
	return run(s.ctx)
}

// lastWords is what the client is told, or nil if there is nothing to say or nobody to say it to.
func (s *session) lastWords(err error) *refusal {
	var r *refusal
	var panicked *relay.PanicError
	switch {
	case errors.Is(err, errDisconnect), errors.Is(err, relay.ErrClientGone), errors.Is(err, relay.ErrClientQuit), errors.Is(err, relay.ErrUpstreamEnded):
		return nil
	case errors.As(err, &r):
		return r
	case errors.As(err, &panicked):
		s.server.metrics.panics.Inc()
		s.log.Error("session panicked: this is a defect of the gate, please report it", "error", err, "stack", string(panicked.Stack))
		return errPanic(s.id)
	}
	s.log.Error("session failed", "error", err)
	return errInternal(s.id)
}

// tell sends the last message, if the client is between two messages, and cuts the client off. The socket itself stays
// open, since a goroutine that waits for the trail may still hold it.
func (s *session) tell(r *refusal) {
	if s.tls != nil {
		// close_notify alone could wait for five seconds for a client that does not read.
		cut := time.AfterFunc(farewellTimeout, func() { burst.Cut(s.tls.NetConn()) })
		defer cut.Stop()
	}
	if r != nil && (s.phase < relaying || s.over.ClientAtBoundary) {
		_ = s.client.SetDeadline(time.Now().Add(farewellTimeout))
		_ = s.send(r.response())
	}
	if s.tls != nil {
		_ = s.tls.CloseWrite() // sends close_notify
	}
	burst.Cut(s.client)
}

// closeUpstream closes the socket without a last word: tls.Conn.Close would wait for a server that does not read. A client
// that sent Terminate has said the last word already.
func (s *session) closeUpstream() {
	if s.phase < welcoming {
		return
	}
	conn := s.upstream.Conn
	if secured, ok := conn.(*tls.Conn); ok {
		conn = secured.NetConn()
	}
	_ = conn.Close()
}

// giveBack gives back what the phases have acquired. The role itself is settled by its keeper. The connection that was
// opened ahead goes after the last word: a client that is refused must not see in the time whether there was one.
func (s *session) giveBack() {
	if s.phase >= welcoming {
		s.server.cancels.remove(s)
		s.lease.Closed(s.upstream.PID)
	}
	if s.phase >= connecting {
		s.lease.Release()
	}
	s.closeAhead()
}
