package proxy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/hourgate/hourgate/internal/upstream"
)

// connect logs in upstream as the grant's role.
func (s *session) connect(ctx context.Context) error {
	login := s.lease.Login()
	login.Params, login.Ahead = s.upstreamParameters(), s.ahead
	conn, err := upstream.Connect(ctx, s.integration.Upstream, login, func(ctx context.Context, cfg *pgconn.Config) (*pgconn.PgConn, error) {
		s.greetings = nil // of an attempt before
		cfg.OnNotice = s.greeted
		return pgconn.ConnectConfig(ctx, cfg)
	})
	if err == nil && !s.integration.Standby {
		err = notStandby(ctx, conn)
	}
	if err == nil {
		s.upstream, err = takeOver(ctx, conn)
	}
	if err != nil {
		if ended := s.ended(ctx); ended != nil {
			return ended
		}
		if errors.Is(err, ErrStandby) {
			s.log.Warn("session refused: the server is a standby", "role", login.User)
			return isStandby(s.decision.Integration)
		}
		s.log.Error("log-in upstream failed", "role", login.User, "error", err)
		var pgErr *pgconn.PgError
		if errors.As(err, &pgErr) && (pgErr.Code == pgerrcode.InvalidPassword || pgErr.Code == pgerrcode.InvalidAuthorizationSpecification) {
			s.lease.Discard()
		}
		if r, ok := refusedParameter(err, s.startup.params); ok {
			return r
		}
		return unavailable(s.decision.Integration, s.id, err)
	}
	s.encryption = s.integration.Upstream.Describe(s.upstream.Conn)
	s.server.metrics.upstreams.WithLabelValues(s.decision.Integration, s.encryption.Label()).Inc()
	s.lease.Opened(s.upstream.PID)
	s.log.Debug("connected upstream", "role", login.User, "pid", s.upstream.PID)
	return nil
}

// maxGreetings bounds what a server can have us keep for a client that is not served yet.
const maxGreetings = 100

// greeted keeps what the server says at a log-in, such as a trigger's RAISE NOTICE, for the client.
func (s *session) greeted(_ *pgconn.PgConn, n *pgconn.Notice) {
	if len(s.greetings) < maxGreetings {
		s.greetings = append(s.greetings, &pgproto3.NoticeResponse{
			Severity: n.Severity, SeverityUnlocalized: n.SeverityUnlocalized, Code: n.Code, Message: n.Message, Detail: n.Detail, Hint: n.Hint,
			Position: n.Position, InternalPosition: n.InternalPosition, InternalQuery: n.InternalQuery, Where: n.Where,
			SchemaName: n.SchemaName, TableName: n.TableName, ColumnName: n.ColumnName, DataTypeName: n.DataTypeName,
			ConstraintName: n.ConstraintName, File: n.File, Line: n.Line, Routine: n.Routine,
		})
	}
}

// notStandby closes a connection to a server that is a standby: one that was demoted, or to which the name leads for a moment in
// a failover. It knows the role and its password, but can't be told that the role ends.
func notStandby(ctx context.Context, conn *pgconn.PgConn) error {
	standby := conn.ParameterStatus("in_hot_standby")
	if standby == "" { // before 14
		results, err := conn.Exec(ctx, "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN 'on' ELSE 'off' END").ReadAll()
		if err == nil && (len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) != 1) {
			err = errors.New("not one row with one column")
		}
		if err != nil {
			_ = conn.Close(ctx)
			return fmt.Errorf("asking whether the server is a standby: %w", err)
		}
		standby = string(results[0].Rows[0][0])
	}
	if standby == "on" {
		_ = conn.Close(ctx)
		return ErrStandby
	}
	return nil
}

// takeOver takes the socket out of pgconn's hands, once nothing of the server's is left in its buffer.
func takeOver(ctx context.Context, conn *pgconn.PgConn) (*pgconn.HijackedConn, error) {
	pid, err := backendPID(ctx, conn)
	if err == nil {
		err = conn.SyncConn(ctx)
	}
	if err != nil {
		_ = conn.Close(ctx)
		return nil, err
	}
	hijacked, err := conn.Hijack()
	if err == nil {
		hijacked.PID = pid
	}
	return hijacked, err
}

// maxApplicationName keeps a name that a client has filled its packet with from making ours too long. The server cuts all
// names after 63 bytes.
const maxApplicationName = 256

// upstreamParameters are the client's settings, checked in startup.go.
func (s *session) upstreamParameters() map[string]string {
	params := maps.Clone(s.startup.params)
	if params == nil {
		params = make(map[string]string)
	}
	if len(s.startup.overridden) > 0 {
		params["options"] = strings.Join(s.startup.overridden, " ")
	}
	if name := s.server.cfg.ApplicationNamePrefix + s.startup.application; name != "" {
		params["application_name"] = name[:min(len(name), maxApplicationName)]
	}
	return params
}

// cancelUpstream asks the server to cancel what this session runs. It is called by the goroutines of other connections,
// for a session that is being relayed.
func (s *session) cancelUpstream(ctx context.Context) error {
	if s.console {
		if c := s.wire.Load(); c != nil {
			c.Cancel()
		}
		return nil
	}
	if len(s.upstream.SecretKey) == 0 {
		return s.lease.Cancel(ctx, s.upstream.PID)
	}
	return s.integration.Upstream.Cancel(ctx, s.upstream.Conn, s.upstream.PID, s.upstream.SecretKey)
}
