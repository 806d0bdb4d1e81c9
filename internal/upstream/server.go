package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// Config says where a server is and how it is reached.
type Config struct {
	Host         string        // required: name or address that is dialled
	Port         uint16        // required
	SSLMode      SSLMode       // required
	RootCertFile string        // PEM file of root certificates; required by VerifyCA and VerifyFull
	DialTimeout  time.Duration // limit for TCP and TLS together; default 10 s
}

// Server is one guarded PostgreSQL server. It is safe for concurrent use.
type Server struct {
	cfg      Config
	base     *pgconn.Config // what every log-in's configuration has in common
	roots    rootStore
	sessions tls.ClientSessionCache // TLS resumption saves most of a second handshake
}

const (
	defaultDialTimeout = 10 * time.Second
	keepAlive          = 30 * time.Second

	// maxMessage bounds the messages that pgconn reads for us, which it allocates by their declared length: all of the
	// log-in, and the answers to the admin's statements. It stops a hostile server from exhausting our memory with five
	// bytes. What people's sessions receive does not pass through pgconn and is not bounded.
	maxMessage = 1 << 20
)

// New checks cfg; it does not dial. A root certificate file that can't be read is an error for the modes that verify.
func New(cfg Config) (*Server, error) {
	if cfg.DialTimeout == 0 {
		cfg.DialTimeout = defaultDialTimeout
	}
	if cfg.SSLMode.Verifies() && cfg.RootCertFile == "" {
		return nil, fmt.Errorf("ssl_mode %s needs ssl_root_cert, the file of the certificate authorities to trust", cfg.SSLMode)
	}
	base, err := baseConfig(cfg)
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, base: base, roots: rootStore{file: cfg.RootCertFile}, sessions: tls.NewLRUClientSessionCache(64)}
	if cfg.RootCertFile != "" {
		if _, err := s.roots.pool(); err != nil {
			return nil, fmt.Errorf("ssl_root_cert: %w", err)
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
// pgx's; it gets a configuration that dials exactly once. The password goes out only as a SCRAM-SHA-256 proof.
//
// Errors: *DialError where the server was not reached, *pgconn.PgError where it refused.
func Connect[C any](ctx context.Context, s *Server, l Login, open func(context.Context, *pgconn.Config) (C, error)) (C, error) {
	var conn C
	var err error
	for _, enc := range s.cfg.SSLMode.attempts() {
		conn, err = open(ctx, s.loginConfig(l, enc))
		if !refused(err) {
			break
		}
	}
	// pgconn's own error repeats the address and the user for every layer; the cause is enough for the log.
	var dialErr *DialError
	if errors.As(err, &dialErr) {
		return conn, dialErr
	}
	return conn, err
}

// refused reports that the server itself answered and said no, which is when libpq's "allow" tries the other kind of
// connection. 57P03 (starting up, shutting down) is no such answer since libpq 14.
func refused(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code != "57P03"
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
	cfg.RequireAuth = "scram-sha-256"
	cfg.ChannelBinding = "prefer"
	cfg.MinProtocolVersion, cfg.MaxProtocolVersion = "3.0", "3.0"
	cfg.MaxProtocolMessageBodyLen = maxMessage
	cfg.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	return cfg, nil
}

func (s *Server) loginConfig(l Login, enc encryption) *pgconn.Config {
	cfg := s.base.Copy()
	cfg.User, cfg.Password, cfg.Database = l.User, l.Password, l.Database
	cfg.RuntimeParams = l.Params
	cfg.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) { return s.dial(ctx, enc) }
	return cfg
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
