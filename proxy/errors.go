package proxy

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/hourgate/hourgate/internal/descriptors"
	"github.com/hourgate/hourgate/internal/strangers"
	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/policy"
)

// refusal is what a client is told when its connection ends: the fields of an ErrorResponse with severity FATAL, and the
// reason for metrics, logs and the trail. The variables and functions below are all there are; any other error becomes
// errInternal, so that no internal text reaches a client.
type refusal struct {
	code    string // SQLSTATE
	message string
	detail  string
	hint    string
	reason  string // from a closed set
}

func (r *refusal) Error() string {
	if r.detail == "" {
		return r.message
	}
	return r.message + ": " + r.detail
}

// The closed table. A message never depends on an error's text.
var (
	errPlaintext = &refusal{
		code: pgerrcode.InvalidAuthorizationSpecification, reason: "plaintext",
		message: "this gate takes encrypted connections only",
		hint:    "Connect with sslmode=verify-full, or at least sslmode=require.",
	}
	errReplication = &refusal{
		code: pgerrcode.FeatureNotSupported, reason: "replication",
		message: "replication connections are not let through",
		hint:    "Connect without the replication parameter.",
	}
	errNoUser = &refusal{
		code: pgerrcode.InvalidAuthorizationSpecification, reason: "protocol",
		message: "no PostgreSQL user name specified in startup packet",
	}
	errMechanism = &refusal{
		code: pgerrcode.ProtocolViolation, reason: "protocol",
		message: "client selected an invalid SASL authentication mechanism",
		hint:    "Use a client that knows SCRAM-SHA-256.",
	}
	errTrail = &refusal{
		code: pgerrcode.SystemError, reason: "trail",
		message: "this session can't be recorded, so it can't begin",
		hint:    "Tell the operators of this gate; nothing is wrong at your end.",
	}
	errTrailStatement = &refusal{
		code: pgerrcode.SystemError, reason: "trail",
		message: "terminating connection: what it asks for can't be recorded",
		hint:    "Tell the operators of this gate; nothing is wrong at your end.",
	}
	errGrantEnded = &refusal{
		code: pgerrcode.AdminShutdown, reason: "grant_expired",
		message: "terminating connection: your grant has ended",
		hint:    "Ask for a new grant if you need more time.",
	}
	errGrantRevoked = &refusal{
		code: pgerrcode.AdminShutdown, reason: "grant_revoked",
		message: "terminating connection: your grant was withdrawn or changed",
		hint:    "Connect again to see what you may use now.",
	}
	errShutdown = &refusal{
		code: pgerrcode.AdminShutdown, reason: "shutdown",
		message: "terminating connection: the gate is shutting down",
		hint:    "Connect again in a moment.",
	}
	errIdentityChanged = &refusal{
		code: pgerrcode.AdminShutdown, reason: "identity_changed",
		message: "terminating connection: your log-in was withdrawn or changed",
		hint:    "Connect again to see what you may use now.",
	}
	errEndedByOperator = &refusal{
		code: pgerrcode.AdminShutdown, reason: "ended_by_operator",
		message: "terminating connection: an operator of the gate has ended your session",
		hint:    "Ask the operators of this gate; your grant may still be live.",
	}
	errEndedByUser = &refusal{
		code: pgerrcode.AdminShutdown, reason: "ended_by_user",
		message: "terminating connection: you have ended this session",
	}
	errLocked = &refusal{
		code: pgerrcode.AdminShutdown, reason: "locked",
		message: "terminating connection: access is locked",
		hint:    "Ask the operators of this gate.",
	}
	errUpstreamGone = &refusal{
		code: pgerrcode.ConnectionFailure, reason: "upstream_closed",
		message: "the database server closed the connection unexpectedly",
		hint:    "Connect again; if it goes on, tell the operators of the database.",
	}
	errUpstreamVanished = &refusal{
		code: pgerrcode.ConnectionFailure, reason: "upstream_vanished",
		message: "the database server does not answer any more",
		hint:    "Connect again; if it goes on, tell the operators of the database.",
	}
	errClientVanished = &refusal{
		code: pgerrcode.ConnectionFailure, reason: "client_vanished",
		message: "the client does not answer any more",
	}
	errMessageLength = &refusal{
		code: pgerrcode.ProtocolViolation, reason: "protocol",
		message: "invalid message length",
	}
	errGateFull = &refusal{
		code: pgerrcode.TooManyConnections, reason: "gate_full",
		message: "this gate has no room for another connection",
		hint:    "Close connections that you don't need, or try again in a moment.",
	}
	errLoginTimeout = &refusal{
		code: pgerrcode.ProtocolViolation, reason: "timeout",
		message: "the connection was not set up in time",
	}
)

// ErrSessionLimit is what Integration.Acquire returns when the person has too many sessions under the grant already.
var ErrSessionLimit = errors.New("too many sessions under one grant")

// ErrReaderLags is what Integration.Acquire returns when the reader did not come to know the role in time.
var ErrReaderLags = errors.New("the reader lags behind its writer")

// ErrStandby is what Integration.Acquire returns when the server has become a standby, or its name leads to one.
var ErrStandby = errors.New("the server is a standby")

func isStandby(integration string) *refusal {
	return &refusal{
		code: pgerrcode.CannotConnectNow, reason: "standby",
		message: fmt.Sprintf("the database server of %q is a standby at present", integration),
		hint:    "Connect again in a moment: it may be failing over. If it goes on, tell the operators of this gate.",
	}
}

func readerLags(integration string) *refusal {
	return &refusal{
		code: pgerrcode.CannotConnectNow, reason: "reader_lags",
		message: fmt.Sprintf("the reader of %q is behind its writer and does not know you yet", integration),
		hint:    fmt.Sprintf("Connect again in a moment, or connect to %q.", integration),
	}
}

func tooManySessions(grant string) *refusal {
	return &refusal{
		code: pgerrcode.TooManyConnections, reason: "session_limit",
		message: fmt.Sprintf("you have too many connections open under grant %s", grant),
		hint:    "Close connections that you don't need.",
	}
}

// lockedOut is for a session that a lock ends.
func lockedOut(l policy.Lock) *refusal {
	told := *errLocked
	told.detail = fmt.Sprintf("%s is locked: %s", l, l.Reason)
	return &told
}

func protocolViolation(detail string) *refusal {
	return &refusal{code: pgerrcode.ProtocolViolation, reason: "protocol", message: "protocol violation", detail: detail}
}

func wrongPassword(user string) *refusal {
	return &refusal{
		code: pgerrcode.InvalidPassword, reason: "authentication",
		message: fmt.Sprintf("password authentication failed for user %q", strangers.Printable(user)),
	}
}

// errWrongPasswordBefore is errPlaintext for somebody whose password over TLS was wrong a moment ago.
func errWrongPasswordBefore(user string) *refusal {
	r := wrongPassword(user)
	r.reason = errPlaintext.reason
	r.detail = "That was over TLS. Your client has tried again without encryption, which this gate does not take."
	r.hint = errPlaintext.hint
	return r
}

// unsupportedParameter is for a setting that is not let through. Of one that no PostgreSQL knows it says what PostgreSQL says.
func unsupportedParameter(name string) *refusal {
	if !knownSettings()[name] {
		return &refusal{
			code: pgerrcode.UndefinedObject, reason: "parameter",
			message: fmt.Sprintf("unrecognized configuration parameter %q", strangers.Printable(name)),
		}
	}
	return &refusal{
		code: pgerrcode.FeatureNotSupported, reason: "parameter",
		message: fmt.Sprintf("startup parameter %q is not let through", strangers.Printable(name)),
		hint:    "Leave it out, or use SET once you are connected.",
	}
}

// invalidName is PostgreSQL's answer to a setting of the user's own with such a name.
func invalidName(name string) *refusal {
	return &refusal{
		code: pgerrcode.InvalidName, reason: "parameter",
		message: fmt.Sprintf("invalid configuration parameter name %q", strangers.Printable(name)),
		detail:  "Custom parameter names must be two or more simple identifiers separated by dots.",
	}
}

// roleRefused is PostgreSQL's answer to a role that the user is no member of.
func roleRefused(name string) *refusal {
	return &refusal{
		code: pgerrcode.InsufficientPrivilege, reason: "parameter",
		message: fmt.Sprintf("permission denied to set role %q", strangers.Printable(name)),
		hint:    "Leave the parameter role out, or name a role of your grant.",
	}
}

func denied(d policy.Decision) *refusal {
	return &refusal{
		code: pgerrcode.InvalidAuthorizationSpecification, reason: string(d.Reason),
		message: d.Message, detail: d.Detail, hint: d.Hint,
	}
}

// notReady is for an integration of which it is known that nobody can be let in. why is ours, not a server's.
func notReady(integration, why string) *refusal {
	return &refusal{
		code: pgerrcode.CannotConnectNow, reason: "not_ready",
		message: fmt.Sprintf("%q is not ready: %s", integration, why),
		hint:    "Tell the operators of this gate.",
	}
}

// notServed is for a grant whose integration is not there now.
func notServed(integration string) *refusal {
	return &refusal{
		code: pgerrcode.CannotConnectNow, reason: "not_served",
		message: fmt.Sprintf("%q is not served by this gate at present", integration),
		hint:    "Your grant waits for it. Tell the operators of this gate.",
	}
}

func errInternal(session string) *refusal {
	return &refusal{
		code: pgerrcode.InternalError, reason: "internal",
		message: "internal error, session " + session,
		hint:    "Tell the operators of this gate the session's name.",
	}
}

// errPanic is errInternal for a defect of the gate that was caught in time.
func errPanic(session string) *refusal {
	r := errInternal(session)
	r.reason = "panic"
	return r
}

// unavailable is what a client learns of a server or an admin that does not work: that it is not the client's fault,
// what kind of trouble it is, and whom to tell. Hosts, roles and secrets stay in the log.
func unavailable(integration, session string, err error) *refusal {
	r := &refusal{
		code: pgerrcode.SystemError, reason: "provision",
		message: fmt.Sprintf("access to %q could not be prepared", integration),
		hint:    "Tell the operators of this gate: session " + session + ".",
	}
	var dialErr *upstream.DialError
	var pgErr *pgconn.PgError
	switch {
	case descriptors.Exhausted(err):
		return errGateFull
	case errors.As(err, &dialErr):
		r.code, r.reason = pgerrcode.SQLClientUnableToEstablishSQLConnection, "unreachable"
		r.message = fmt.Sprintf("the database server of %q can't be reached", integration)
	case errors.Is(err, context.DeadlineExceeded):
		r.code, r.reason = pgerrcode.SQLClientUnableToEstablishSQLConnection, "unreachable"
		r.message = fmt.Sprintf("the database server of %q did not answer in time", integration)
	case errors.As(err, &pgErr) && pgErr.Code == pgerrcode.TooManyConnections:
		r.code, r.reason = pgerrcode.TooManyConnections, "server_full"
		r.message = fmt.Sprintf("the database server of %q has no free connection", integration)
		r.hint = "Close connections that you don't need, or try again in a moment."
	case errors.As(err, &pgErr) && pgErr.Code == pgerrcode.CannotConnectNow:
		r.code, r.reason = pgerrcode.CannotConnectNow, "unreachable"
		r.message = fmt.Sprintf("the database server of %q is starting up or shutting down", integration)
		r.hint = "Try again in a moment."
	}
	return r
}

// refusedParameter is for a log-in upstream that failed because of a setting that the client sent along, if it did. Only
// what the client itself chose can be wrong in this way, and the server's text speaks of nothing else.
func refusedParameter(err error, sent map[string]string) (*refusal, bool) {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return nil, false
	}
	switch pgErr.Code {
	case pgerrcode.InvalidParameterValue, pgerrcode.UndefinedObject, pgerrcode.InvalidName:
	case pgerrcode.InsufficientPrivilege:
		if !wantsPrivilege(sent) {
			return nil, false
		}
	default:
		return nil, false
	}
	return &refusal{
		code: pgErr.Code, reason: "parameter",
		message: pgErr.Message, detail: pgErr.Detail, hint: pgErr.Hint,
	}, true
}

// wantsPrivilege reports that a client has sent a setting that not everybody may set.
func wantsPrivilege(sent map[string]string) bool {
	for name := range sent {
		if name == roleParameter || grantableParameters[name] || strings.Contains(name, ".") {
			return true
		}
	}
	return false
}

// response is the refusal as the client's last message.
func (r *refusal) response() *pgproto3.ErrorResponse {
	return &pgproto3.ErrorResponse{
		Severity: "FATAL", SeverityUnlocalized: "FATAL",
		Code: r.code, Message: r.message, Detail: r.detail, Hint: r.hint,
	}
}

// errDisconnect ends a connection without a word, as PostgreSQL does where the peer does not speak its protocol or has
// gone. There is nobody to tell.
var errDisconnect = errors.New("not a PostgreSQL client, or gone")
