package proxy

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"maps"
	"net"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/hourgate/hourgate/internal/burst"
	"github.com/hourgate/hourgate/internal/relay"
	"github.com/hourgate/hourgate/internal/statements"
)

func newSession(server *Server, conn net.Conn) *session {
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails, see crypto/rand
	s := &session{
		server: server, id: hex.EncodeToString(id[:]), began: time.Now(),
		clientSide: clientSide{client: burst.Wrap(conn), remote: peerAddress(conn), authenticated: func() {}},
	}
	s.log = server.log.With("session", s.id, "remote_addr", s.remote.String())
	s.ctx, s.end = context.WithCancelCause(context.Background())
	return s
}

// serve runs the session and says goodbye.
func (s *session) serve() {
	defer s.end(nil)
	s.farewell(s.caught(s.run))
}

// run is a connection's life. What it acquires is given back by farewell, which knows from the phase what that is.
func (s *session) run(ctx context.Context) error {
	// TLS and SCRAM need a deep stack, which an idle session would keep until the garbage collector comes: so the log-in has
	// one of its own.
	done := make(chan error, 1)
	go func() { done <- s.caught(s.logIn) }()
	if err := <-done; err != nil || s.phase < welcoming {
		return err
	}
	return s.relayMessages(ctx)
}

// logIn goes through all phases before the relay, or serves who wants no relay: then the phase stays below welcoming.
func (s *session) logIn(ctx context.Context) error {
	login, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	limit := time.AfterFunc(s.server.limits.Load().LoginTimeout, func() { cancel(errLoginTimeout) })
	defer limit.Stop()
	conn := s.client
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(past) })
	defer stop()

	s.deadline(s.began.Add(s.server.limits.Load().FirstByteTimeout))
	if err := s.admit(); err != nil {
		return err
	}
	defer s.authenticated()

	now := time.Now()
	if err := s.negotiate(login); err != nil {
		return err
	}
	s.deadline(s.began.Add(s.server.limits.Load().LoginTimeout))
	if s.startup.cancel != nil {
		return s.cancelTarget(login)
	}
	if s.surplus {
		return errGateFull
	}
	now = s.server.metrics.observe("negotiate", now)

	s.enter(authenticating)
	if err := s.authenticate(); err != nil {
		return err
	}
	s.authenticated()
	now = s.server.metrics.observe("authenticate", now)

	s.enter(authorizing)
	if s.wantsConsole() {
		return s.serveConsole(ctx, func() { limit.Stop(); stop() })
	}
	if err := s.authorize(); err != nil {
		limit.Stop() // a person may take longer to decide
		if err := s.apply(ctx, err); err != nil {
			return err
		}
		limit.Reset(s.server.limits.Load().LoginTimeout)
		s.deadline(time.Now().Add(s.server.limits.Load().LoginTimeout))
	}
	if err := s.announce(); err != nil {
		return err
	}
	s.enter(provisioning)
	s.dial()
	if err := s.provision(login); err != nil {
		return err
	}
	now = s.server.metrics.observe("provision", now)

	s.enter(connecting)
	if err := s.connect(login); err != nil {
		return err
	}
	s.server.metrics.observe("connect", now)

	s.enter(welcoming)
	if err := s.welcome(); err != nil {
		return err
	}
	s.log.Info("session started", "role", s.lease.Login().User, "tls_upstream", s.encryption.String(), "setup", time.Since(s.began))
	s.server.metrics.serve(s.decision.Integration)
	return nil
}

// provision takes hold of the grant's role, while the connection upstream is being opened: making a role takes about as
// long as that.
func (s *session) provision(ctx context.Context) error {
	lease, err := s.integration.Acquire(ctx, s.user, s.decision.Grant, s.decision.Database)
	if err != nil {
		if ended := s.ended(ctx); ended != nil {
			return ended
		}
		if errors.Is(err, ErrSessionLimit) {
			return tooManySessions(s.decision.Grant.Name)
		}
		if errors.Is(err, ErrStandby) {
			s.log.Warn("session refused: the server is a standby", "error", err)
			return isStandby(s.decision.Integration)
		}
		if errors.Is(err, ErrReaderLags) {
			s.log.Warn("session refused: the reader lags", "error", err)
			return readerLags(s.decision.Integration)
		}
		s.log.Error("role could not be provided", "error", err)
		return unavailable(s.decision.Integration, s.id, err)
	}
	s.lease = lease
	return nil
}

// welcome ends the start-up phase as PostgreSQL does, with a cancel secret of our own.
func (s *session) welcome() error {
	s.server.cancels.add(s, s.upstream.PID)

	// client ← ParameterStatus…, BackendKeyData, NoticeResponse, ReadyForQuery
	var messages []pgproto3.BackendMessage
	for _, name := range slices.Sorted(maps.Keys(s.upstream.ParameterStatuses)) {
		messages = append(messages, &pgproto3.ParameterStatus{Name: name, Value: s.upstream.ParameterStatuses[name]})
	}
	messages = append(messages, &pgproto3.BackendKeyData{ProcessID: s.cancelKey.pid, SecretKey: s.cancelKey.secret})
	messages = append(messages, s.greetings...)
	s.greetings = nil
	if s.landed {
		messages = append(messages, landingNotice(s.decision))
	}
	if ending := s.decision.Grant.Ending(s.lease.Creates()); ending != "" {
		messages = append(messages, endingNotice(s.decision.Grant, ending))
	}
	messages = append(messages, &pgproto3.ReadyForQuery{TxStatus: s.upstream.TxStatus})
	if err := s.send(messages...); err != nil {
		return err
	}
	// What the log-in needed besides is some ten kilobytes, for as long as the session lasts.
	s.upstream = &pgconn.HijackedConn{Conn: s.upstream.Conn, PID: s.upstream.PID, SecretKey: s.upstream.SecretKey}
	return s.client.SetDeadline(time.Time{})
}

// relayMessages runs until somebody leaves or the session's context ends.
func (s *session) relayMessages(ctx context.Context) error {
	active := s.server.metrics.sessions.WithLabelValues(s.decision.Integration)
	active.Inc()
	defer active.Dec()

	r := relay.New(s.client, s.upstream.Conn, s.watcher(ctx))
	s.enter(relaying)
	s.server.mu.Lock()
	s.relay = r
	if s.server.closing {
		r.Drain()
	}
	s.server.mu.Unlock()

	s.over = r.Run(ctx)
	s.server.cancels.remove(s) // before anybody is told that the session is over
	switch err := s.over.Err; {
	case errors.Is(err, statements.ErrTrail):
		s.server.metrics.trailErrors.Inc()
		s.log.Error("session ended: a statement can't be recorded", "error", err)
		return errTrailStatement
	case errors.Is(err, relay.ErrUpstreamGone):
		return errUpstreamGone
	case errors.Is(err, relay.ErrMessageLength):
		return errMessageLength
	case errors.Is(err, relay.ErrDrained):
		return errShutdown
	default:
		return err
	}
}

// watcher tells the trail what the session asks for. It is nil if nobody wants to know.
func (s *session) watcher(ctx context.Context) relay.Watcher {
	limits := s.server.limits.Load()
	if limits.DiscardStatements {
		return nil
	}
	return statements.New(ctx, statements.Config{
		Trail: s.server.cfg.Trail, Session: s.id, User: s.user, Grant: s.decision.Grant.Name, Began: s.began,
		DiscardParameters: limits.DiscardParameters, DiscardResults: limits.DiscardResults, Waits: limits.StatementsWait,
	})
}

// drain ends the session when it is idle; the server's mutex is held.
func (s *session) drain() {
	if s.relay == nil || s.relay.Drain() {
		s.end(errShutdown)
	}
}
