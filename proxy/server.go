package proxy

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hourgate/hourgate/internal/descriptors"
	"github.com/hourgate/hourgate/internal/peer"
	"github.com/hourgate/hourgate/internal/strangers"
	"github.com/hourgate/hourgate/policy"
)

// ErrServerClosed is returned by Serve after Shutdown or Close.
var ErrServerClosed = errors.New("proxy: server closed")

// New checks the configuration and returns a server that does not listen yet.
func New(cfg Config) (*Server, error) {
	cfg.PeerTimeout = cmp.Or(cfg.PeerTimeout, peer.DefaultTimeout)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Server{
		cfg: cfg, log: cfg.Logger,
		cancels:  canceller{sessions: make(map[uint32][]*session)},
		sessions: make(map[*session]struct{}), left: make(map[place]time.Time),
	}
	s.metrics = newMetrics(cfg.Registry, s.relayedBytes)
	s.setThrottles()
	s.SetLimits(cfg.Limits)
	s.refusals = strangers.Refusals{Append: cfg.Trail.Append, Failed: func(err error) {
		s.metrics.trailErrors.Inc()
		s.log.Error("refusals could not be recorded", "error", err)
	}}
	_, _ = rand.Read(s.mockSecret[:]) // never fails, see crypto/rand
	if err := s.SetCertificate(cfg.Certificate, cfg.ClientCAs); err != nil {
		return nil, err
	}
	s.unwatch = cfg.Policy.Watch(s.reconsider)
	return s, nil
}

// SetCertificate changes the certificate that clients are shown and the authorities of theirs, as in Config, for
// connections to come.
func (s *Server) SetCertificate(cert tls.Certificate, clientCAs *x509.CertPool) error {
	if len(cert.Certificate) == 0 {
		return errors.New("proxy: no certificate")
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		return fmt.Errorf("parsing certificate: %w", err)
	}
	cert.Leaf = leaf
	s.identity.Store(&identity{s.tlsConfig(cert, clientCAs), leaf})
	s.metrics.certificateExpiry.Set(float64(leaf.NotAfter.Unix()))
	return nil
}

// tlsConfig is for handshakes with clients, which need no certificate if clientCAs is nil. Sessions are not resumed, as by
// PostgreSQL: a client that resumes would bind its password to a certificate that may have been changed since.
func (s *Server) tlsConfig(cert tls.Certificate, clientCAs *x509.CertPool) *tls.Config {
	cfg := &tls.Config{
		Certificates:           []tls.Certificate{cert},
		MinVersion:             tls.VersionTLS12,
		NextProtos:             []string{alpn},
		SessionTicketsDisabled: true,
		// Full records from the start: small ones help whoever shows a page while it loads, and cost the rest a system call
		// for each.
		DynamicRecordSizingDisabled: true,
	}
	if clientCAs != nil {
		cfg.ClientCAs, cfg.ClientAuth = clientCAs, tls.RequireAndVerifyClientCert
		if s.cfg.ClientCertificateOptional {
			cfg.ClientAuth = tls.VerifyClientCertIfGiven
		}
	}
	return cfg
}

// reconsider decides every live session again under a new policy: whose grant is gone or means something else is put out,
// whose grant ends at another time ends then.
func (s *Server) reconsider(set *policy.Set) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for session := range s.sessions {
		session.reconsider(set)
	}
}

// Serve accepts connections until Shutdown or Close, and returns ErrServerClosed then.
func (s *Server) Serve(ln net.Listener) error {
	s.mu.Lock()
	s.listener = ln
	closing := s.closing
	s.clock = time.AfterFunc(tickEvery, s.tick)
	s.mu.Unlock()
	if closing {
		return errors.Join(ErrServerClosed, ln.Close())
	}
	for delay := time.Duration(0); ; {
		conn, err := ln.Accept()
		switch {
		case err == nil:
			delay = 0
			s.start(conn, false, false)
		case s.isClosing():
			return ErrServerClosed
		case errors.Is(err, net.ErrClosed):
			return err
		case s.acceptToRefuse(ln):
		default: // wait for descriptors to be closed
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			s.log.Error("connection could not be accepted, trying again", "error", err, "delay", delay)
			time.Sleep(delay)
		}
	}
}

// Accepted is the number of connections so far.
func (s *Server) Accepted() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.accepted
}

func (s *Server) isClosing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}

// start gives the connection a session and a goroutine. surplus is one that is to be told that there is no room.
func (s *Server) start(conn net.Conn, operator, surplus bool) {
	peer.KeepAlive(conn, s.cfg.PeerTimeout)
	session := newSession(s, conn)
	session.operator, session.surplus = operator, surplus
	s.mu.Lock()
	if !s.makeRoom(session) {
		s.mu.Unlock()
		_ = conn.Close()
		return
	}
	s.sessions[session] = struct{}{}
	s.accepted++
	session.number = s.accepted
	s.running.Add(1)
	s.mu.Unlock()
	go func() {
		defer s.running.Done()
		session.serve()
		s.forget(session)
	}()
}

// maxSurplus is how many connections there may be for which there is no room, in order to tell them so. It bounds what the
// telling takes: a flood gets no answer.
const maxSurplus = 16

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

// maxFromReserve is how many of them may be accepted with descriptors of the reserve, which others need more.
const maxFromReserve = 4

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

// forget drops a session that is over, and keeps what it has counted.
func (s *Server) forget(session *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, session)
	s.remember(session)
	if session.surplus {
		s.surplus--
	}
	if session.relay != nil {
		fromClient, fromUpstream := session.relay.Bytes()
		s.ended.fromClient += fromClient
		s.ended.fromUpstream += fromUpstream
	}
}

// relayedBytes counts those of all sessions, from clients and from upstream.
func (s *Server) relayedBytes() (fromClient, fromUpstream int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fromClient, fromUpstream = s.ended.fromClient, s.ended.fromUpstream
	for session := range s.sessions {
		if session.relay != nil {
			c, u := session.relay.Bytes()
			fromClient += c
			fromUpstream += u
		}
	}
	return fromClient, fromUpstream
}

// Shutdown stops accepting, ends sessions as soon as they are idle outside a transaction, and the rest when ctx is done.
// It returns when all have ended.
func (s *Server) Shutdown(ctx context.Context) error {
	defer s.unwatch()
	s.stopAccepting(func(session *session) { session.drain() })
	ended := make(chan struct{})
	go func() { s.running.Wait(); close(ended) }()
	select {
	case <-ended:
		s.refusals.Flush()
		return nil
	case <-ctx.Done():
		return errors.Join(context.Cause(ctx), s.Close())
	}
}

// Close stops accepting and ends all sessions now. It returns when they have ended.
func (s *Server) Close() error {
	defer s.unwatch()
	s.stopAccepting(func(session *session) { session.end(errShutdown) })
	s.running.Wait()
	s.refusals.Flush()
	return nil
}

func (s *Server) stopAccepting(each func(*session)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing = true
	if s.listener != nil {
		s.clock.Stop()
		_ = s.listener.Close()
	}
	for session := range s.sessions {
		each(session)
	}
}

// Expect shows the counters of an integration before its first session, so that this one is an increase. Those of other
// integrations begin with that session: of a thousand that are seldom used, all would be 20,000 numbers at each scrape.
func (s *Server) Expect(integration string) { s.metrics.serve(integration) }

// Forget takes away what is shown of an integration that is gone, once its last session has ended.
func (s *Server) Forget(integration string) {
	of := prometheus.Labels{"integration": integration}
	s.metrics.sessions.DeletePartialMatch(of)
	s.metrics.ended.DeletePartialMatch(of)
	s.metrics.upstreams.DeletePartialMatch(of)
	s.metrics.served.Delete(integration)
}
