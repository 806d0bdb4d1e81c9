package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/hourgate/hourgate/internal/relay"
	"github.com/hourgate/hourgate/internal/strangers"
	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/proxy/console"
)

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

// identity is what a TLS handshake with a client needs. It is replaced as a whole, and shared by connections.
type identity struct {
	tls  *tls.Config
	leaf *x509.Certificate // that clients are shown
}

// session is one client connection from accept to its last record. Its fields belong to the goroutine that runs it, unless
// their comment says otherwise.
type session struct {
	server  *Server
	id      string
	log     *slog.Logger
	ctx     context.Context
	end     context.CancelCauseFunc // any goroutine; the cause is what the client is told
	began   time.Time
	number  uint64               // of the connection; belongs to the server's mutex
	phase   phase                // how far it has come; see enter
	surplus bool                 // there is no room for it: it is to be told so
	info    atomic.Pointer[Info] // what others may know, since the phase began; nil before the client is authenticated

	clientSide
	permit
	upstreamSide

	cancelKey cancelKey    // written under the canceller's mutex
	relay     *relay.Relay // belongs to the server's mutex until it is set
	over      relay.End    // how the relay ended, once it has

	wire atomic.Pointer[console.Conn] // of a session with the gate itself
}

// clientSide is the client: where it is, what it has said, and who it turned out to be.
type clientSide struct {
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

// upstreamSide is the server's side.
type upstreamSide struct {
	integration Integration
	ahead       *upstream.Ahead // to the server of the integration aheadTo
	aheadTo     string
	lease       Lease
	upstream    *pgconn.HijackedConn
	encryption  upstream.Encryption       // of the connection upstream
	greetings   []pgproto3.BackendMessage // what the server said at the log-in, for the client
}

// permit is what the policy said.
type permit struct {
	policy   *policy.Set // in force when the client began to authenticate
	decision policy.Decision
	landed   bool // the database's name did not say on which integration; see land
	// These belong to the server's mutex: a reload and the clock change them.
	grant  *policy.Grant
	expiry *time.Timer
	warned time.Duration // see warnBeforeEnd

	console  bool // the gate itself serves the session, without a grant
	operator bool // it came through the admin socket; see ServeOperators
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

// ended is why the log-in's work was broken off, or nil if it was not. The session's own context is asked first: the log-in's, which
// is derived from it, may end a moment later than what the end has broken off.
func (s *session) ended(login context.Context) error {
	for _, ctx := range []context.Context{s.ctx, login} {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
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

// target is the integration's name, with what stands for its readers where the session is on one of them.
func (s *session) target() string {
	if s.decision.Reader {
		return s.decision.Integration + "/" + policy.ReaderSuffix
	}
	return s.decision.Integration
}

// requestedDatabase is what the client named, which for PostgreSQL is the user's name if it named nothing.
func (s *session) requestedDatabase() string {
	if s.startup.database == "" {
		return s.startup.user
	}
	return s.startup.database
}

// deadline sets the time until which the client may take for what comes next, unless the session has been ended.
func (s *session) deadline(t time.Time) {
	_ = s.client.SetDeadline(t)
	if s.ctx.Err() != nil {
		_ = s.client.SetReadDeadline(past)
	}
}

// canceller knows the sessions whose statements can be cancelled. Processes of several servers may have the same ID.
type canceller struct {
	mu       sync.Mutex
	sessions map[uint32][]*session // by process ID
}

// place is where somebody has a session: who, from where, and on what.
type place struct {
	user    string
	address netip.Addr
	target  string // see session.target
}

// past is a deadline that makes every blocked read or write return.
var past = time.Unix(1, 0)
