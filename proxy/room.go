package proxy

import (
	"net"

	"github.com/hourgate/hourgate/internal/descriptors"
)

// maxSurplus is how many connections there may be for which there is no room, in order to tell them so. It bounds what the
// telling takes: a flood gets no answer.
const maxSurplus = 16

// maxFromReserve is how many of them may be accepted with descriptors of the reserve, which others need more.
const maxFromReserve = 4

// makeRoom reports whether a connection may stay, and marks it if it may only until it has been told that there is no room.
// Who runs the gate finds room in any case. The server's mutex is held.
func (s *Server) makeRoom(session *session) bool {
	switch {
	case s.closing:
		return false
	case session.operator || len(s.sessions)-s.surplus < s.limits.Load().MaxConnections && !session.surplus:
		return true
	case s.surplus == maxSurplus:
		s.metrics.refused.WithLabelValues(errGateFull.reason).Inc()
		return false
	}
	session.surplus = true
	s.surplus++
	return true
}

// acceptToRefuse takes a connection when there is no descriptor left but those in reserve, and tells it that there is no
// room. It reports whether there was one.
func (s *Server) acceptToRefuse(ln net.Listener) bool {
	s.mu.Lock()
	enough := s.surplus >= maxFromReserve
	s.mu.Unlock()
	if enough {
		return false
	}
	conn, err := descriptors.Accept(ln)
	if err != nil {
		return false
	}
	s.start(conn, false, true)
	return true
}
