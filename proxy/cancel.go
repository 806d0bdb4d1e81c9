package proxy

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"sync"
	"time"
)

// cancelTimeout bounds the work for one CancelRequest.
const cancelTimeout = 10 * time.Second

// cancelKey is what a client must show to cancel a statement: a process ID that is not one, and a secret of 4 bytes for
// protocol 3.0 or 32 for 3.2. The server's own key never leaves the gate.
type cancelKey struct {
	pid    uint32
	secret []byte
}

const (
	cancelSecret30 = 4
	cancelSecret32 = 32
)

// canceller knows the sessions whose statements can be cancelled.
type canceller struct {
	mu       sync.Mutex
	sessions map[uint32]*session // by the process ID that we made up
}

// add gives the session a key that no live session has, from when on its statements can be cancelled.
func (c *canceller) add(s *session, secretLen int) {
	key := cancelKey{secret: make([]byte, secretLen)}
	_, _ = rand.Read(key.secret) // never fails, see crypto/rand
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		var b [4]byte
		_, _ = rand.Read(b[:])
		key.pid = binary.BigEndian.Uint32(b[:]) >> 1 // drivers read it as a signed number
		if _, taken := c.sessions[key.pid]; !taken && key.pid != 0 {
			break
		}
	}
	s.cancelKey = key
	c.sessions[key.pid] = s
}

func (c *canceller) remove(key cancelKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.sessions, key.pid)
}

// find returns the session that the key belongs to, or nil.
func (c *canceller) find(key cancelKey) *session {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.sessions[key.pid]
	if s == nil || subtle.ConstantTimeCompare(s.cancelKey.secret, key.secret) != 1 {
		return nil
	}
	return s
}

// parseCancel reads a CancelRequest's body. PostgreSQL closes the connection in silence whatever the request says, and
// so do we.
func (s *session) parseCancel(body []byte) error {
	if len(body) != 4+cancelSecret30 && len(body) != 4+cancelSecret32 {
		return errDisconnect
	}
	s.startup.cancel = &cancelKey{pid: binary.BigEndian.Uint32(body), secret: body[4:]}
	return nil
}

// cancelTarget forwards a CancelRequest over a new connection of the target's kind. The client learns nothing of what
// came of it.
func (s *session) cancelTarget(ctx context.Context) error {
	if s.server.cancelGuesses.wait(s.network) > 0 {
		s.server.metrics.cancels.WithLabelValues("throttled").Inc()
		return errDisconnect
	}
	target := s.server.cancels.find(*s.startup.cancel)
	if target == nil {
		s.server.cancelGuesses.failed(s.network)
		s.server.metrics.cancels.WithLabelValues("unknown").Inc()
		return errDisconnect
	}
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
