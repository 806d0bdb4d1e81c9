package proxy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/relay"
	"github.com/hourgate/hourgate/proxy/console"
)

// wantsConsole reports that the client has asked for the gate's own database.
func (s *session) wantsConsole() bool {
	return s.server.cfg.Console != nil && (s.operator || s.requestedDatabase() == ConsoleDatabase)
}

// serveConsole serves the gate's own database to an authenticated user. stop ends the limits of the log-in.
func (s *session) serveConsole(ctx context.Context, stop func()) error {
	if err := s.authorizeConsole(); err != nil {
		return err
	}
	if err := s.announce(); err != nil {
		return err
	}
	s.enter(provisioning)
	handler, err := s.server.cfg.Console.Open(ctx, *s.info.Load())
	if err != nil {
		return consoleRefusal(err)
	}
	defer handler.Close()
	s.server.cancels.add(s, consolePID)
	defer s.server.cancels.remove(s)
	c := console.New(console.Config{
		Client: s.client, Handler: handler, Key: pgproto3.BackendKeyData{ProcessID: s.cancelKey.pid, SecretKey: s.cancelKey.secret},
		Log: s.log, Session: s.id, Record: s.recordStatement, MaxMessage: audit.MaxStatementText,
	})
	s.wire.Store(c)
	if err := c.Welcome(); err != nil {
		return err
	}
	stop()
	s.deadline(time.Time{})
	s.publish(Running)
	s.log.Info("console opened")
	err = c.Serve(ctx)
	var violation *console.ProtocolError
	switch {
	case errors.Is(err, relay.ErrMessageLength):
		return errMessageLength
	case errors.As(err, &violation):
		return protocolViolation(violation.Detail)
	}
	return err
}

// consolePID stands where a server has its process ID, which is never 0.
const consolePID = 1

// authorizeConsole lets in every user who can still prove who they are. It holds the server's mutex as authorize does.
func (s *session) authorizeConsole() error {
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	if now := s.server.cfg.Policy.Set(); !s.operator && now != s.policy && !now.SameIdentity(s.policy, s.user) {
		return wrongPassword(s.user)
	}
	s.console = true
	s.decision.Database = ConsoleDatabase
	return nil
}

// recordStatement writes a statement of the console into the trail, unless the trail wants none.
func (s *session) recordStatement(ctx context.Context, sql string) error {
	if s.server.limits.Load().DiscardStatements {
		return nil
	}
	err := s.server.cfg.Trail.Statement(ctx, &audit.Statement{Kind: audit.StatementQuery, Session: s.id, User: s.user, At: time.Now(), Text: []byte(sql)})
	if err != nil {
		s.server.metrics.trailErrors.Inc()
		return fmt.Errorf("%w: %w", errTrailStatement, err)
	}
	return nil
}

// consoleRefusal is what a client is told whose console could not be opened.
func consoleRefusal(err error) error {
	var told *console.Error
	if !errors.As(err, &told) {
		return fmt.Errorf("opening console: %w", err)
	}
	return &refusal{code: told.SQLState(), message: told.Message, detail: told.Detail, hint: told.Hint, reason: "console"}
}
