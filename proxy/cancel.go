package proxy

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"slices"
	"time"
)

// cancelTimeout bounds the work for one CancelRequest.
const cancelTimeout = 10 * time.Second

const (
	cancelSecret30 = 4
	cancelSecret32 = 32
)

// add gives the session a key with that process ID, from when on its statements can be cancelled.
func (c *canceller) add(s *session, pid uint32) {
	length := cancelSecret30
	if s.startup.protocol >= protocolLatest {
		length = cancelSecret32
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	key := cancelKey{pid, make([]byte, length)}
	for _, _ = rand.Read(key.secret); c.match(key) != nil; {
		_, _ = rand.Read(key.secret) // never fails, see crypto/rand
	}
	s.cancelKey = key
	c.sessions[pid] = append(c.sessions[pid], s)
}

// remove takes the session's key back, if it has one.
func (c *canceller) remove(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	pid := s.cancelKey.pid
	left := slices.DeleteFunc(c.sessions[pid], func(other *session) bool { return other == s })
	if c.sessions[pid] = left; len(left) == 0 {
		delete(c.sessions, pid)
	}
}

// find returns the session that the key belongs to, or nil.
func (c *canceller) find(key cancelKey) *session {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.match(key)
}

// match is find for whoever holds the mutex.
func (c *canceller) match(key cancelKey) *session {
	for _, s := range c.sessions[key.pid] {
		if subtle.ConstantTimeCompare(s.cancelKey.secret, key.secret) == 1 {
			return s
		}
	}
	return nil
}

// cancelTarget forwards a CancelRequest over a new connection of the target's kind, or through the admin. The client learns
// nothing of what came of it.
func (s *session) cancelTarget(ctx context.Context) error {
	// The turn is taken first: many connections together may not guess oftener than one.
	if _, ok := s.server.cancelGuesses.Reserve(s.network, 0); !ok {
		s.server.metrics.cancels.WithLabelValues("throttled").Inc()
		return errDisconnect
	}
	target := s.server.cancels.find(*s.startup.cancel)
	if target == nil {
		s.server.metrics.cancels.WithLabelValues("unknown").Inc()
		return errDisconnect
	}
	s.server.cancelGuesses.Returned(s.network)
	ctx, cancel := context.WithTimeout(ctx, cancelTimeout)
	defer cancel()
	result := "forwarded"
	if err := target.cancelUpstream(ctx); err != nil {
		result = "failed"
		target.log.Warn("cancel request could not be forwarded", "error", err)
	}
	s.server.metrics.cancels.WithLabelValues(result).Inc()
	return errDisconnect
}

// cancelUpstream asks the server to cancel what this session runs. It is called by the goroutines of other connections,
// for a session that is being relayed.
func (s *session) cancelUpstream(ctx context.Context) error {
	if s.console {
		if c := s.wire.Load(); c != nil {
			c.Cancel()
		}
		return nil
	}
	if len(s.upstream.SecretKey) == 0 {
		return s.lease.Cancel(ctx, s.upstream.PID)
	}
	return s.integration.Upstream.Cancel(ctx, s.upstream.Conn, s.upstream.PID, s.upstream.SecretKey)
}
