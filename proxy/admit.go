package proxy

import (
	"errors"
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

// slowDown makes a network wait from which many have failed. It is a wait only, and no turn: many people may share it.
func (s *session) slowDown() error { return s.pause(s.server.strangers.Wait(s.network)) }

// guessPatience is the longest time that a guess waits for its turn.
const guessPatience = 30 * time.Second

var errTooManyGuesses = errors.New("too many guesses at once")

// takeTurn waits until a guess at this user's password may be looked at, from this network. The turn is taken before the
// wait, so that many connections together may not guess oftener than one. It is the same for users that exist and users
// that don't.
func (s *session) takeTurn() error {
	left := time.Until(s.began.Add(s.server.limits.Load().LoginTimeout))
	wait, ok := s.server.guesses.Reserve(s.guessKey(), min(guessPatience, max(left, 0)))
	if !ok {
		return s.authenticationFailed(errTooManyGuesses)
	}
	return s.pause(wait)
}

func (s *session) pause(wait time.Duration) error {
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
