package proxy

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/burst"
	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/policy"
)

// farewellTimeout bounds the last message to a client and the end of its TLS. With endGrace it has to stay well below the
// second within which access ends.
const farewellTimeout = 500 * time.Millisecond

// session is one client connection from accept to its last record. Its fields belong to the goroutine that runs it,
// but for those said to be otherwise.
type session struct {
	server *Server
	id     string
	log    *slog.Logger
	ctx    context.Context
	end    context.CancelCauseFunc // any goroutine; the cause is what the client is told
	began  time.Time

	frontend
	permit
	backend

	cancelKey cancelKey // written under the canceller's mutex
	started   bool      // the trail has the session's start
	relay     *relay    // belongs to the server's mutex until it is set
}

// frontend is the client: where it is, what it has said, and who it turned out to be.
type frontend struct {
	client net.Conn
	tls    *tls.Conn         // the same, once it is encrypted
	leaf   *x509.Certificate // that the client was shown

	remote        netip.AddrPort // where the client is; behind a balancer, what that says
	network       string         // the part of it that limits count
	authenticated func()         // tells the limits that the client is no stranger any more, or gone; may be called twice

	startup startup
	user    string // authenticated
	proof   string // how, for the trail: a SASL mechanism, "certificate", or both
}

// permit is what the policy said.
type permit struct {
	policy   *policy.Set // in force when the client began to authenticate
	decision policy.Decision
	// grant and expiry belong to the server's mutex: a reload changes them.
	grant  *policy.Grant
	expiry *time.Timer
}

// backend is the server's side.
type backend struct {
	integration Integration
	ahead       *upstream.Ahead // to the server of the integration aheadTo
	aheadTo     string
	lease       Lease
	upstream    *pgconn.HijackedConn
	encryption  upstream.Encryption // of the connection upstream
}

func newSession(server *Server, conn net.Conn) *session {
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails, see crypto/rand
	s := &session{
		server: server, id: hex.EncodeToString(id[:]), began: time.Now(),
		frontend: frontend{client: burst.Wrap(conn), remote: peerAddress(conn), authenticated: func() {}},
	}
	s.log = server.log.With("session", s.id, "remote_addr", s.remote.String())
	s.ctx, s.end = context.WithCancelCause(context.Background())
	return s
}

// serve runs the session and says goodbye.
func (s *session) serve() {
	defer s.end(nil)
	defer s.closeAhead() // after the last word: a client that is refused must not see in the time whether there was one
	err := s.run(s.ctx)
	s.farewell(err)
}

// run is a connection's life.
func (s *session) run(ctx context.Context) error {
	login, cancel := context.WithTimeoutCause(ctx, s.server.cfg.LoginTimeout, errLoginTimeout)
	defer cancel()
	conn := s.client
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(past) })
	defer stop()

	s.deadline(s.began.Add(s.server.cfg.FirstByteTimeout))
	if err := s.admit(); err != nil {
		return err
	}
	defer s.authenticated()

	now := time.Now()
	if err := s.negotiate(login); err != nil {
		return err
	}
	s.deadline(s.began.Add(s.server.cfg.LoginTimeout))
	if s.startup.cancel != nil {
		return s.cancelTarget(login)
	}
	now = s.server.metrics.observe("negotiate", now)

	if err := s.authenticate(); err != nil {
		return err
	}
	s.authenticated()
	now = s.server.metrics.observe("authenticate", now)

	if err := s.authorize(); err != nil {
		return err
	}
	if err := s.announce(); err != nil {
		return err
	}
	s.dial()
	if err := s.provision(login); err != nil {
		return err
	}
	defer s.settle()
	now = s.server.metrics.observe("provision", now)

	if err := s.connect(login); err != nil {
		return err
	}
	defer s.closeUpstream()
	s.server.metrics.observe("connect", now)

	if err := s.welcome(); err != nil {
		return err
	}
	defer s.server.cancels.remove(s.cancelKey)

	stop()
	cancel()
	return s.relayMessages(ctx)
}

// authorize finds the grant that lets the user in and arms its end. It holds the server's mutex, so that a reload either
// sees the grant of this session or is seen by it.
func (s *session) authorize() error {
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	now := s.server.cfg.Policy.Set()
	if now != s.policy && !now.SameIdentity(s.policy, s.user) {
		return wrongPassword(s.user) // what the user proved does not count any more
	}
	s.decision = now.Decide(policy.Request{User: s.user, Database: s.requestedDatabase()}, time.Now())
	if s.decision.Grant == nil {
		return denied(s.decision)
	}
	integration, ok := s.server.cfg.Integrations.Integration(s.decision.Integration)
	if !ok {
		return notServed(s.decision.Integration)
	}
	s.grant, s.integration = s.decision.Grant, integration
	s.expiry = time.AfterFunc(time.Until(s.grant.Until), func() { s.end(errGrantEnded) })
	s.log = s.log.With("user", s.user, "integration", s.decision.Integration, "database", s.decision.Database, "grant", s.grant.Name)
	return nil
}

// requestedDatabase is what the client named, which for PostgreSQL is the user's name if it named nothing.
func (s *session) requestedDatabase() string {
	if s.startup.database == "" {
		return s.startup.user
	}
	return s.startup.database
}

// reconsider decides the session again under a new policy; the server's mutex is held.
func (s *session) reconsider(set *policy.Set) {
	if s.grant == nil {
		return
	}
	grant, ok := set.Covers(s.user, s.grant.Name, s.decision.Database, time.Now())
	if !ok || !grant.SameRights(s.grant) {
		s.end(errGrantRevoked)
		return
	}
	s.grant = grant
	s.expiry.Reset(time.Until(grant.Until))
}

// announce writes the session's start.
func (s *session) announce() error {
	if err := s.server.cfg.Trail.Append(s.record(audit.SessionStart)); err != nil {
		s.server.metrics.trailErrors.Inc()
		s.log.Error("session refused: the trail can't be written", "error", err)
		return errTrail
	}
	s.started = true
	return nil
}

// provision takes hold of the grant's role, while the connection upstream is being opened: making a role takes about as
// long as that.
func (s *session) provision(ctx context.Context) error {
	lease, err := s.integration.Acquire(ctx, s.user, s.decision.Grant, s.decision.Database)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.Is(err, ErrSessionLimit) {
			return tooManySessions(s.decision.Grant.Name)
		}
		s.log.Error("role could not be provided", "error", err)
		return unavailable(s.decision.Integration, s.id, err)
	}
	s.lease = lease
	return nil
}

// settle ends what the session held besides its sockets. The role itself is settled by its keeper.
func (s *session) settle() { s.lease.Release() }

// welcome ends the start-up phase as PostgreSQL does, with a cancel key of our own.
func (s *session) welcome() error {
	secretLen := cancelSecret30
	if s.startup.protocol >= protocolLatest {
		secretLen = cancelSecret32
	}
	s.server.cancels.add(s, secretLen)

	// client ← ParameterStatus…, BackendKeyData, NoticeResponse, ReadyForQuery
	var messages []pgproto3.BackendMessage
	for _, name := range slices.Sorted(maps.Keys(s.upstream.ParameterStatuses)) {
		messages = append(messages, &pgproto3.ParameterStatus{Name: name, Value: s.upstream.ParameterStatuses[name]})
	}
	messages = append(messages, &pgproto3.BackendKeyData{ProcessID: s.cancelKey.pid, SecretKey: s.cancelKey.secret})
	if ending := s.decision.Grant.Ending(false); ending != "" {
		messages = append(messages, s.endingNotice(ending))
	}
	messages = append(messages, &pgproto3.ReadyForQuery{TxStatus: s.upstream.TxStatus})
	if err := s.send(messages...); err != nil {
		s.server.cancels.remove(s.cancelKey)
		return err
	}
	// What the log-in needed besides is some ten kilobytes, for as long as the session lasts.
	s.upstream = &pgconn.HijackedConn{Conn: s.upstream.Conn, PID: s.upstream.PID, SecretKey: s.upstream.SecretKey}
	return s.client.SetDeadline(time.Time{})
}

// endingNotice tells whoever can create objects what becomes of them.
func (s *session) endingNotice(ending string) *pgproto3.NoticeResponse {
	return &pgproto3.NoticeResponse{
		Severity: "NOTICE", SeverityUnlocalized: "NOTICE", Code: "00000",
		Message: fmt.Sprintf("grant %s ends at %s; %s", s.decision.Grant.Name, s.decision.Grant.Until.UTC().Format("2006-01-02 15:04:05 UTC"), ending),
	}
}

// relayMessages runs until somebody leaves or the session's context ends.
func (s *session) relayMessages(ctx context.Context) error {
	s.log.Info("session started", "role", s.lease.Login().User, "tls_upstream", s.encryption.String(), "setup", time.Since(s.began))
	active := s.server.metrics.sessions.WithLabelValues(s.decision.Integration)
	active.Inc()
	defer active.Dec()

	var recorded *statements
	if !s.server.cfg.DiscardStatements {
		recorded = &statements{
			trail: s.server.cfg.Trail, ctx: ctx, who: audit.Statement{Session: s.id, User: s.user, Grant: s.decision.Grant.Name},
		}
	}
	r := newRelay(s.client, s.upstream.Conn, recorded)
	s.server.mu.Lock()
	s.relay = r
	if s.server.closing {
		r.draining.Store(true)
	}
	s.server.mu.Unlock()
	err := r.run(ctx)
	if errors.Is(err, errTrailStatement) {
		s.server.metrics.trailErrors.Inc()
		s.log.Error("session ended: a statement can't be recorded", "error", err)
	}
	return err
}

// relayedBytes counts those from the client and from upstream; the server's mutex is held.
func (s *session) relayedBytes() (fromClient, fromUpstream int64) {
	if s.relay == nil {
		return 0, 0
	}
	return s.relay.fromClient.bytes.Load(), s.relay.fromUpstream.bytes.Load()
}

// drain ends the session when it is idle; the server's mutex is held.
func (s *session) drain() {
	if s.relay == nil {
		s.end(errShutdown)
		return
	}
	s.relay.draining.Store(true)
	if s.relay.activity.idle() {
		s.end(errShutdown)
	}
}

// send writes messages to the client in one write.
func (s *session) send(messages ...pgproto3.BackendMessage) error {
	var b []byte
	for _, m := range messages {
		var err error
		if b, err = m.Encode(b); err != nil {
			return fmt.Errorf("encoding %T: %w", m, err)
		}
	}
	if _, err := s.client.Write(b); err != nil {
		return s.startupReadError(err)
	}
	return nil
}

// startupReadError says why a client could not be heard or reached before the relay: the session was ended, the time is
// up, or the client has gone.
func (s *session) startupReadError(err error) error {
	switch {
	case s.ctx.Err() != nil:
		return context.Cause(s.ctx)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errLoginTimeout
	}
	return errDisconnect
}
