package proxy

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// setThrottles says how failures are slowed down.
func (s *Server) setThrottles() {
	// Three slips of the hand are free; after some more, guessing a password takes ten seconds a try.
	s.guesses = throttle{free: 3, first: 250 * time.Millisecond, longest: 10 * time.Second}
	// Many people may share an address, so it never waits for long, whatever one of them does.
	s.strangers = throttle{free: 20, first: 100 * time.Millisecond, longest: 2 * time.Second}
	// A CancelRequest with a wrong key is a guess at one of 2⁶³ at least.
	s.cancelGuesses = throttle{free: 20, first: 100 * time.Millisecond, longest: 10 * time.Second}
}

// SetLimits changes what clients may take, for connections to come. Those that are there already count against a new bound.
func (s *Server) SetLimits(l Limits) {
	l.setDefaults()
	s.limits.Store(&l)
	s.unauthenticated.bound(l.MaxUnauthenticated, l.MaxUnauthenticatedPerAddress)
}

// admit finds out where the client is, and lets it in unless too many wait there, or in all, that have not
// authenticated. Who is turned away is not told: answering would cost more than the attack does.
func (s *session) admit() error {
	if s.operator {
		return nil
	}
	if s.behindBalancer() {
		// client → PROXY protocol header
		addr, err := readProxyHeader(s.client)
		if err != nil {
			s.log.Warn("connection without a PROXY protocol header from a balancer's address", "error", err)
			return errDisconnect
		}
		if addr.IsValid() {
			s.remote = addr
			s.log = s.server.log.With("session", s.id, "remote_addr", addr.String())
		}
	}
	s.network = network(s.remote.Addr())
	if !s.server.unauthenticated.enter(s.network) {
		s.server.metrics.refused.WithLabelValues("too_many_unauthenticated").Inc()
		return errDisconnect
	}
	s.authenticated = sync.OnceFunc(func() { s.server.unauthenticated.leave(s.network) })
	return nil
}

// behindBalancer reports that the peer is one of the load balancers that speak the PROXY protocol to us.
func (s *session) behindBalancer() bool {
	peer := s.remote.Addr().Unmap()
	for _, prefix := range s.server.cfg.ProxyProtocol {
		if prefix.Contains(peer) {
			return true
		}
	}
	return false
}

// slowDown makes whoever has failed before wait, in the same way for users that exist and users that don't.
func (s *session) slowDown() error {
	wait := max(s.server.guesses.wait(s.guessKey()), s.server.strangers.wait(s.network))
	if wait == 0 {
		return nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-s.ctx.Done():
		return s.startupReadError(s.ctx.Err())
	}
}

func (s *session) guessKey() string { return s.startup.user + "\x00" + s.network }

// deadline sets the time until which the client may take for what comes next, unless the session has been ended.
func (s *session) deadline(t time.Time) {
	_ = s.client.SetDeadline(t)
	if s.ctx.Err() != nil {
		_ = s.client.SetReadDeadline(past)
	}
}

// peerAddress is the address of a connection's other end; it is not valid for a pipe.
func peerAddress(conn net.Conn) netip.AddrPort {
	if addr, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		return addr.AddrPort()
	}
	return netip.AddrPort{}
}
