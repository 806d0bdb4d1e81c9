package proxy

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hourgate/hourgate/internal/strangers"
)

// setThrottles says how failures are slowed down.
func (s *Server) setThrottles() {
	// Three slips of the hand are free; after some more, guessing a password takes ten seconds a try.
	s.guesses = strangers.Throttle{Free: 3, First: 250 * time.Millisecond, Longest: 10 * time.Second}
	// Many people may share an address, so it never waits for long, whatever one of them does.
	s.strangers = strangers.Throttle{Free: 20, First: 100 * time.Millisecond, Longest: 2 * time.Second}
	// A CancelRequest with a wrong key is a guess at one of 2³² at least: the process ID is no secret.
	s.cancelGuesses = strangers.Throttle{Free: 20, First: 100 * time.Millisecond, Longest: 10 * time.Second}
}

// SetLimits changes what clients may take, for connections to come. Those that are there already count against a new bound.
func (s *Server) SetLimits(l Limits) {
	l.setDefaults()
	s.limits.Store(&l)
	s.unauthenticated.Bound(l.MaxUnauthenticated, l.MaxUnauthenticatedPerAddress)
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
	s.network = strangers.Network(s.remote.Addr())
	if !s.server.unauthenticated.Enter(s.network) {
		s.server.metrics.refused.WithLabelValues("too_many_unauthenticated").Inc()
		return errDisconnect
	}
	s.authenticated = sync.OnceFunc(func() { s.server.unauthenticated.Leave(s.network) })
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

// peerAddress is the address of a connection's other end; it is not valid for a pipe.
func peerAddress(conn net.Conn) netip.AddrPort {
	if addr, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		return addr.AddrPort()
	}
	return netip.AddrPort{}
}
