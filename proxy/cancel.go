package proxy

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// cancelTimeout bounds the work for one CancelRequest.
const cancelTimeout = 10 * time.Second

// cancelKey is what a client must show to cancel a statement: the server's own process ID, which drivers compare with what
// the server says elsewhere (pg_backend_pid(), notifications, pg_stat_activity), and a secret of ours of 4 bytes for protocol
// 3.0 or 32 for 3.2. The server's own secret never leaves the gate.
type cancelKey struct {
	pid    uint32
	secret []byte
}

const (
	cancelSecret30 = 4
	cancelSecret32 = 32
)

// canceller knows the sessions whose statements can be cancelled. Processes of several servers may have the same ID.
type canceller struct {
	mu       sync.Mutex
	sessions map[uint32][]*session // by process ID
}

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

// parseCancel reads a CancelRequest's body. PostgreSQL closes the connection in silence whatever the request says, and
// so do we.
func (s *session) parseCancel(body []byte) error {
	if len(body) != 4+cancelSecret30 && len(body) != 4+cancelSecret32 {
		return errDisconnect
	}
	s.startup.cancel = &cancelKey{pid: binary.BigEndian.Uint32(body), secret: body[4:]}
	return nil
}

// backendPID is the server's process for the connection. A server or a middlebox that sends no BackendKeyData is asked: the
// lease has to know the process, which would be taken for an intruder's otherwise and could not be cancelled. The
// client's search_path holds already, so the function is named in full.
func backendPID(ctx context.Context, conn *pgconn.PgConn) (uint32, error) {
	if len(conn.SecretKey()) > 0 {
		return conn.PID(), nil
	}
	results, err := conn.Exec(ctx, "SELECT pg_catalog.pg_backend_pid()").ReadAll()
	if err != nil {
		return 0, fmt.Errorf("asking for the process ID: %w", err)
	}
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) != 1 {
		return 0, errors.New("asking for the process ID: not one row with one column")
	}
	pid, err := strconv.ParseUint(string(results[0].Rows[0][0]), 10, 32)
	if err != nil {
		return 0, fmt.Errorf("asking for the process ID: %w", err)
	}
	return uint32(pid), nil
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
