package proxy

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"math"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/statements"
	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/proxy/console"
)

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

// Desk is where somebody who has no grant may ask for one while they connect: psql "… options=-chourgate.reason=INC-42".
type Desk interface {
	// Ask makes a request of a log-in that the policy has refused, and waits for its decision, at most Applicant.Wait. The
	// client is authenticated and knows it; notice tells it something at once, by any goroutine, until Ask returns. ctx ends
	// when the client leaves. After nil the policy is asked again. An error that is a *DeskRefusal is told to the client; any
	// other is an internal error.
	Ask(ctx context.Context, a Applicant, notice func(text string)) error
}

// Applicant is a log-in that asks.
type Applicant struct {
	Info
	Wanted   string          // the database as the client has named it
	Decision policy.Decision // why it was refused
	Reason   string          // hourgate.reason, as sent: at most 1,000 bytes of valid UTF-8 without control characters
	Access   string          // hourgate.access, as sent; "" was not said
	For      time.Duration   // hourgate.for; 0 was not said
	Wait     time.Duration   // hourgate.wait; default 5 minutes, at most 30. 0 asks and leaves
}

// DeskReason says why an applicant was not let in, for logs, metrics and the trail. The set is closed.
type DeskReason string

// The reasons.
const (
	RequestPending DeskReason = "request_pending" // it is made, and not decided yet
	RequestDenied  DeskReason = "request_denied"
	RequestInvalid DeskReason = "request_invalid" // no flow allows it
)

// DeskRefusal is what an applicant is told who is not let in. Detail and Hint may be empty.
type DeskRefusal struct {
	Reason                DeskReason
	Message, Detail, Hint string
}

func (e *DeskRefusal) Error() string { return e.Message }

// ConsoleDatabase is the name of the database that the gate serves itself, if it has a Console.
const ConsoleDatabase = "hourgate"

// Console answers what people ask of the gate itself, in the database "hourgate". Package console speaks the wire.
type Console interface {
	// Open is called for each session, for an authenticated user. An error that is a *console.Error is told to the client, and
	// any other is an internal error.
	Open(ctx context.Context, who Info) (console.Handler, error)
}
