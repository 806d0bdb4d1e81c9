package proxy

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/peer"
	"github.com/hourgate/hourgate/internal/statements"
	"github.com/hourgate/hourgate/internal/strangers"
	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/policy"
)

// ErrServerClosed is returned by Serve after Shutdown or Close.
var ErrServerClosed = errors.New("proxy: server closed")

// Config is what a Server needs to know. All fields are required unless their comment says otherwise.
type Config struct {
	Certificate  tls.Certificate
	ClientCAs    *x509.CertPool // optional: clients must show a certificate of these authorities
	Policy       *policy.Live
	Integrations Integrations
	Trail        Trail
	Logger       *slog.Logger
	Registry     prometheus.Registerer

	// ClientCertificateOptional asks for a certificate of ClientCAs only those users whose policy names one. Default: no,
	// all clients must show one.
	ClientCertificateOptional bool
	// AllowPlaintextLoopback lets clients on the same machine connect without TLS. Default: no.
	AllowPlaintextLoopback bool
	// ProxyProtocol is where load balancers are that say in a PROXY protocol version 2 header where their clients are.
	// Connections from there must begin with one. Default: none.
	ProxyProtocol []netip.Prefix

	// Console serves the database "hourgate". Default: nil, there is none.
	Console Console
	// Desk is where log-ins without a grant may ask for one. Default: nil, they are refused.
	Desk Desk

	// ApplicationNamePrefix goes before the application_name that a client sends when it connects. It is a courtesy to those who
	// read pg_stat_activity, and nothing to rely on: a client may change the name at any time. Default: the client's name is
	// left alone.
	ApplicationNamePrefix string

	// PeerTimeout is how long a client, or the server for a session, may leave unanswered what it was sent, or asked, by the
	// kernel's own means. The other side hears of it some seconds later. Default: 20 s.
	PeerTimeout time.Duration

	// NoticeBeforeEnd is how long before a grant's end its sessions are warned. None is needed.
	NoticeBeforeEnd []time.Duration

	// Now is the wall clock, for tests. Default: time.Now.
	Now func() time.Time

	Limits
}

// Limits may change while sessions run, see [Server.SetLimits]. Zero values are defaults.
type Limits struct {
	// What a client that has not authenticated may take, all counted from accept: FirstByteTimeout until it says
	// anything (default 5 s), StartupTimeout until its StartupMessage, with the TLS handshake (default 15 s), and
	// LoginTimeout until its first ReadyForQuery (default 60 s, as PostgreSQL's authentication_timeout).
	FirstByteTimeout, StartupTimeout, LoginTimeout time.Duration

	// How many such clients there may be, in all (default 2,000) and from one IPv4 address or IPv6 /64 (default 200).
	MaxUnauthenticated, MaxUnauthenticatedPerAddress int

	// MaxConnections is how many connections there may be at once, whatever they are for. Those who come on top are told so,
	// once it is known how to speak to them. At most half of the connections can be unauthenticated. Default: no bound.
	MaxConnections int

	// DiscardStatements keeps what people ask for out of the trail. Default: all is recorded.
	DiscardStatements bool
	// DiscardParameters keeps the values that go with statements out of the trail. Default: they are recorded.
	DiscardParameters bool
	// DiscardResults keeps what became of statements out of the trail: command tag, rows, time, SQLSTATE. Default: it is recorded.
	DiscardResults bool
	// StatementsWait says that the trail waits for the disk with each statement. Default: it waits only when something is wrong.
	StatementsWait bool
}

// Integrations are the guarded servers. They may change while sessions run; a session keeps the one that it began with.
type Integrations interface {
	// Integration returns the one of that name, if there is one now. It must be quick: log-ins hold a lock meanwhile.
	Integration(name string) (Integration, bool)
}

// Integration is one guarded server as the proxy sees it.
type Integration struct {
	Upstream *upstream.Server
	// Acquire returns the ephemeral role of the person's grant, admitted to the database. The error is for the log; the
	// client learns what kind of trouble it is.
	Acquire func(ctx context.Context, user string, grant *policy.Grant, database string) (Lease, error)

	// Standby says that the server may be a standby. Elsewhere one takes no sessions: it can't be told that a role ends.
	Standby bool

	// NotReady says why nobody can be let in now, for people to read. "" where nothing is known against it; otherwise the
	// other fields may be nil.
	NotReady string
}

// Lease is one session's hold on an ephemeral role; exactly one of Release and Discard ends it.
type Lease interface {
	Login() upstream.Login
	Creates() bool     // everybody's rights in the database let the session make objects that outlive it
	Opened(pid uint32) // the server's process for this session: others under the role are intruders
	Closed(pid uint32) // our connection to it is closed
	// Cancel cancels what that process runs, where the server gave no key to do so with.
	Cancel(ctx context.Context, pid uint32) error
	Release()
	Discard() // the server would not let the role in; the next session needs another
}

// Trail takes records before the act; *audit.Trail is one.
type Trail interface {
	Append(audit.Record) error
	statements.Trail
}

// setDefaults fills in what is zero.
func (l *Limits) setDefaults() {
	l.FirstByteTimeout = cmp.Or(l.FirstByteTimeout, 5*time.Second)
	l.StartupTimeout = cmp.Or(l.StartupTimeout, 15*time.Second)
	l.LoginTimeout = cmp.Or(l.LoginTimeout, time.Minute)
	l.MaxUnauthenticated = cmp.Or(l.MaxUnauthenticated, 2000)
	l.MaxUnauthenticatedPerAddress = cmp.Or(l.MaxUnauthenticatedPerAddress, 200)
	l.MaxConnections = cmp.Or(l.MaxConnections, math.MaxInt)
	l.MaxUnauthenticated = min(l.MaxUnauthenticated, max(l.MaxConnections/2, 1))
	// One address leaves room for others.
	l.MaxUnauthenticatedPerAddress = min(l.MaxUnauthenticatedPerAddress, max(l.MaxUnauthenticated/2, 1))
}

// Server accepts clients. Its methods may be called from any goroutine.
type Server struct {
	cfg        Config
	log        *slog.Logger
	metrics    *metrics
	mockSecret [32]byte // makes the challenges of unknown users; per process
	cancels    canceller
	identity   atomic.Pointer[identity]
	limits     atomic.Pointer[Limits]

	unauthenticated                   strangers.Admission
	guesses, strangers, cancelGuesses strangers.Throttle
	aheadCredits                      aheadCredits
	refusals                          strangers.Refusals

	unwatch func() // the policy

	mu       sync.Mutex
	sessions map[*session]struct{}
	left     map[place]time.Time                      // when sessions ended lately; see land
	ended    struct{ fromClient, fromUpstream int64 } // bytes of sessions that are over
	accepted uint64
	surplus  int // connections beyond Limits.MaxConnections
	listener net.Listener
	clock    *time.Timer // see tick
	ticks    uint64
	closing  bool
	running  sync.WaitGroup
}

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

// identity is what a TLS handshake with a client needs. It is replaced as a whole, and shared by connections.
type identity struct {
	tls  *tls.Config
	leaf *x509.Certificate // that clients are shown
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
