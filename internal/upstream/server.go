package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/hourgate/hourgate/internal/peer"
	"github.com/hourgate/hourgate/internal/strictyaml"
)

// Config says where a server is and how it is reached. The names of libpq's parameters are given where they differ.
type Config struct {
	Host           string         // required: name or address that is dialled
	Port           uint16         // required
	SSLMode        SSLMode        // required
	SSLNegotiation SSLNegotiation // "" is Postgres
	RootCert       string         // PEM file of the authorities to trust, RootsSystem or RootsRDS; required by VerifyCA and VerifyFull
	ServerName     string         // name to verify and to send as SNI, where it is not Host: behind an alias or a private endpoint
	ClientCert     string         // PEM file of our certificate towards the server (sslcert); optional, with ClientKey
	ClientKey      string         // PEM file of its key (sslkey)

	// AllowWeakAuth lets the server ask for a cleartext or MD5 password, over TLS only. Default: SCRAM-SHA-256 only.
	AllowWeakAuth bool

	DialTimeout time.Duration // limit for TCP and TLS together; default 10 s
	PeerTimeout time.Duration // how long a server may leave keepalives unanswered; default 20 s
}

// Problems returns what is wrong with the settings by themselves, before any file is read. Paths are names of the
// configuration file, such as ssl_mode.
func (c Config) Problems() strictyaml.Problems {
	var problems strictyaml.Problems
	report := func(wrong bool, key, format string, args ...any) {
		if wrong {
			problems = append(problems, strictyaml.Problem{Path: key, Message: fmt.Sprintf(format, args...)})
		}
	}
	report(c.SSLMode.Verifies() && c.RootCert == "", "ssl_root_cert",
		"required by ssl_mode %s: the file of the certificate authorities to trust", c.SSLMode)
	report(c.RootCert == RootsSystem && c.SSLMode != VerifyFull, "ssl_root_cert",
		"system works with ssl_mode verify-full only: anyone can get a certificate from a public authority for a name of their own")
	report(c.SSLNegotiation == Direct && c.SSLMode != Require && !c.SSLMode.Verifies(), "ssl_negotiation",
		"direct has no way back to plaintext: it needs ssl_mode require, verify-ca or verify-full")
	report(c.SSLMode == Disable && c.ServerName != "", "ssl_server_name", "has no meaning with ssl_mode disable")
	report(c.ClientCert != "" && c.ClientKey == "", "ssl_key", "required by ssl_cert")
	report(c.ClientKey != "" && c.ClientCert == "", "ssl_cert", "required by ssl_key")
	report(c.AllowWeakAuth && c.SSLMode == Disable, "allow_weak_auth", "has no meaning with ssl_mode disable: weak passwords are sent over TLS only")
	return problems
}

// Notes say what the settings mean where that is not obvious, for the log.
func (c Config) Notes() []string {
	var notes []string
	switch {
	case c.SSLMode == Disable:
		notes = append(notes, "ssl_mode disable: connections to the server are not encrypted")
	case c.SSLMode == Require && c.RootCert != "":
		notes = append(notes, "ssl_mode require with ssl_root_cert verifies as verify-ca does, as libpq does")
	case c.verification() == unverified:
		notes = append(notes, fmt.Sprintf("ssl_mode %s without ssl_root_cert: the server's certificate is not verified", c.SSLMode))
	case c.SSLMode == Allow || c.SSLMode == Prefer:
		notes = append(notes, fmt.Sprintf("ssl_mode %s: whoever can change the traffic can turn encryption off", c.SSLMode))
	}
	if c.AllowWeakAuth {
		notes = append(notes, "allow_weak_auth: the server may ask for passwords in cleartext or MD5, over TLS")
	}
	return notes
}

func (c Config) serverName() string {
	if c.ServerName != "" {
		return c.ServerName
	}
	return c.Host
}

// Server is one guarded PostgreSQL server. It is safe for concurrent use.
type Server struct {
	cfg        Config
	base       *pgconn.Config // what every log-in's configuration has in common
	roots      *watched[*anchors]
	clientCert *watched[*tls.Certificate]
	tls        *tls.Config                  // offers all groups
	narrow     atomic.Pointer[narrowOffer]  // nil until the server has asked for a group
	chain      atomic.Pointer[trustedChain] // the last
}

const (
	defaultDialTimeout = 10 * time.Second

	// maxMessage bounds the messages that pgconn reads for us, which it allocates by their declared length: what follows
	// AuthenticationOk, and the answers to the admin's statements. It stops a hostile server from exhausting our memory
	// with five bytes. What people's sessions receive does not pass through pgconn and is not bounded. Before
	// AuthenticationOk the guard is stricter.
	maxMessage = 1 << 20
)

// New checks cfg; it does not dial. What is wrong with a setting is a Problem. A certificate file that can't be read is an error in every mode; libpq's weaker modes
// would go on without it.
func New(cfg Config) (*Server, error) {
	if cfg.DialTimeout == 0 {
		cfg.DialTimeout = defaultDialTimeout
	}
	if cfg.PeerTimeout == 0 {
		cfg.PeerTimeout = peer.DefaultTimeout
	}
	if problems := cfg.Problems(); len(problems) > 0 {
		return nil, problems
	}
	base, err := baseConfig(cfg)
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, base: base, roots: rootsOf(cfg.RootCert), clientCert: clientCertOf(cfg.ClientCert, cfg.ClientKey)}
	s.tls = s.tlsConfig()
	if s.roots != nil {
		if _, err := s.roots.get(); err != nil {
			return nil, strictyaml.Problems{{Path: "ssl_root_cert", Message: err.Error()}}
		}
	}
	if s.clientCert != nil {
		if _, err := s.clientCert.get(); err != nil {
			return nil, strictyaml.Problems{{Path: "ssl_cert", Message: err.Error()}}
		}
	}
	return s, nil
}

// Address is host:port.
func (s *Server) Address() string {
	return net.JoinHostPort(s.cfg.Host, strconv.Itoa(int(s.cfg.Port)))
}

// Login is whom to log in as.
type Login struct {
	User, Password, Database string
	Params                   map[string]string // startup parameters, sent as they are

	// Token marks a Password that is a token, such as RDS's IAM authentication takes: it is sent in cleartext when the
	// server asks for that, and so only to a server of which chain and name were verified.
	Token bool

	// Ahead is the connection to log in over, if one was opened ahead on the same Server. Optional: without it, if it has
	// become too old, and for a second attempt, Connect opens one.
	Ahead *Ahead
}

// DialError is a server that could not be reached or did not agree on TLS; no log-in was tried.
type DialError struct {
	Address string
	Err     error
}

func (e *DialError) Error() string { return fmt.Sprintf("connecting to %s: %v", e.Address, e.Err) }

// Unwrap returns the cause.
func (e *DialError) Unwrap() error { return e.Err }

// Connect opens a connection and logs in, with as many attempts as the SSL mode has. open is pgconn.ConnectConfig, or
// pgx's; it gets a configuration that dials exactly once. The password goes out only as a SCRAM-SHA-256 proof, but for
// tokens and Config.AllowWeakAuth.
//
// Errors: *DialError where the server was not reached, *pgconn.PgError where it refused.
func Connect[C any](ctx context.Context, s *Server, l Login, open func(context.Context, *pgconn.Config) (C, error)) (C, error) {
	var none C
	if l.Token && s.cfg.verification() != verifiedName {
		return none, fmt.Errorf("a token is sent in cleartext, which needs ssl_mode verify-full, not %s", s.cfg.SSLMode)
	}
	var refusal error
	for _, enc := range s.cfg.SSLMode.attempts() {
		g := &guard{}
		conn, err := open(ctx, s.loginConfig(l, enc, g))
		// pgconn's own error repeats the address and the user for every layer; the cause is enough for the log.
		var dialErr *DialError
		if errors.As(err, &dialErr) {
			err = dialErr
			if refusal != nil {
				err = refusal // there was no other kind of connection after all: what the server said counts
			}
		}
		if err == nil || g.authenticated || !refused(err) {
			return conn, err
		}
		if refusal == nil || !wrongPassword(refusal) { // that matters more than which kind of connection is welcome
			refusal = err
		}
	}
	return none, refusal
}

// refused reports that the server itself answered and said no, which is when libpq's "allow" tries the other kind of
// connection. 57P03 (starting up, shutting down) is no such answer since libpq 14.
func refused(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code != pgerrcode.CannotConnectNow
}

func wrongPassword(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == pgerrcode.InvalidPassword
}

// baseConfig builds a pgconn configuration from fields, never from a connection string. pgconn insists on having
// parsed one, so it gets a constant.
func baseConfig(c Config) (*pgconn.Config, error) {
	cfg, err := pgconn.ParseConfig("host=invalid user=invalid sslmode=disable")
	if err != nil {
		return nil, fmt.Errorf("a PG* variable of the environment can't be parsed, unset it: %w", err)
	}
	cfg.Host, cfg.Port = c.Host, c.Port
	cfg.Fallbacks, cfg.TLSConfig = nil, nil
	cfg.ConnectTimeout = 0 // the caller's context is the limit
	cfg.ChannelBinding = "prefer"
	cfg.MinProtocolVersion, cfg.MaxProtocolVersion = "3.0", "3.0"
	cfg.MaxProtocolMessageBodyLen = maxMessage
	cfg.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	return cfg, nil
}

func (s *Server) loginConfig(l Login, enc encryption, g *guard) *pgconn.Config {
	cfg := s.base.Copy()
	cfg.User, cfg.Password, cfg.Database = l.User, l.Password, l.Database
	cfg.RuntimeParams = l.Params
	cfg.RequireAuth = s.methods(l) // it also refuses AuthenticationOk that comes without any authentication
	cfg.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
		if g.dialed { // pgconn wants to cancel what the connection that it gives up may be doing
			if !g.authenticated {
				return nil, errors.New("nothing to cancel")
			}
			return s.dial(ctx, enc)
		}
		g.dialed = true
		conn, err := s.open(ctx, l.Ahead, enc)
		_, g.secured = conn.(*tls.Conn)
		return conn, err
	}
	cfg.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		g.server = r
		return pgproto3.NewFrontend(g, w)
	}
	return cfg
}

// open returns the connection that was opened ahead, or opens one.
func (s *Server) open(ctx context.Context, ahead *Ahead, enc encryption) (net.Conn, error) {
	if ahead != nil && ahead.fresh() {
		return ahead.take(ctx)
	}
	return s.dial(ctx, enc)
}

// methods is the list of authentication methods that the server may choose from, in the words of libpq's require_auth.
// The guard refuses the weak ones in plaintext.
func (s *Server) methods(l Login) string {
	switch {
	case l.Token:
		return "password"
	case s.cfg.AllowWeakAuth:
		return "scram-sha-256,md5,password"
	}
	return "scram-sha-256"
}

// Cancel asks the server to cancel the statement that the backend with this key runs, over a connection of the same
// kind as conn. It returns when the server has closed the connection, which it does after it sent the signal, or
// with an error. There is no other answer.
// See https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-CANCELING-REQUESTS.
func (s *Server) Cancel(ctx context.Context, conn net.Conn, pid uint32, key []byte) error {
	enc := plaintext
	if _, ok := conn.(*tls.Conn); ok {
		enc = tlsRequired
	}
	c, err := s.dial(ctx, enc)
	if err != nil {
		return err
	}
	defer c.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(deadline)
	}
	request, err := (&pgproto3.CancelRequest{ProcessID: pid, SecretKey: key}).Encode(nil)
	if err != nil {
		return err
	}
	if _, err := c.Write(request); err != nil {
		return fmt.Errorf("sending cancel request: %w", err)
	}
	_, _ = c.Read(make([]byte, 1)) // EOF: the signal is sent
	return nil
}
