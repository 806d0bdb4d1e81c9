package proxy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
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

// upstreamParameters are the client's settings, checked in options.go.
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

// backendPID is the server's process for the connection. A server or a middlebox that sends no BackendKeyData is asked: the
// lease has to know the process, which would be taken for an intruder's otherwise and could not be cancelled. The
// client's search_path holds already, so the function is named in full.
func backendPID(ctx context.Context, conn *pgconn.PgConn) (uint32, error) {
	if len(conn.SecretKey()) > 0 {
		return conn.PID(), nil
	}
	results, err := conn.Exec(ctx, "SELECT pg_catalog.pg_backend_pid()").ReadAll()
	if err != nil {
		return 0, fmt.Errorf("asking for the process ID: %w", err)
	}
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) != 1 {
		return 0, errors.New("asking for the process ID: not one row with one column")
	}
	pid, err := strconv.ParseUint(string(results[0].Rows[0][0]), 10, 32)
	if err != nil {
		return 0, fmt.Errorf("asking for the process ID: %w", err)
	}
	return uint32(pid), nil
}
