package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// alpn is the protocol name that PostgreSQL 17 and later expect in the TLS handshake.
const alpn = "postgresql"

// dial opens one connection and encrypts it as enc says. Names are resolved at every call, so that a failover that
// moves the name is followed. Every error is a *DialError.
func (s *Server) dial(ctx context.Context, enc encryption) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.DialTimeout)
	defer cancel()

	dialer := net.Dialer{KeepAlive: keepAlive}
	conn, err := dialer.DialContext(ctx, "tcp", s.Address())
	if err != nil {
		return nil, &DialError{s.Address(), err}
	}
	if enc == plaintext {
		return conn, nil
	}
	secured, err := s.secure(ctx, conn, enc)
	if err != nil {
		conn.Close()
		return nil, &DialError{s.Address(), err}
	}
	return secured, nil
}

// secure asks for TLS and does the handshake.
func (s *Server) secure(ctx context.Context, conn net.Conn, enc encryption) (net.Conn, error) {
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	// upstream ← SSLRequest
	request, err := (&pgproto3.SSLRequest{}).Encode(nil)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(request); err != nil {
		return nil, fmt.Errorf("sending SSLRequest: %w", err)
	}

	// upstream → 'S' or 'N'. Exactly one byte is read: what came with it unencrypted is not taken for what comes
	// encrypted (CVE-2021-23222).
	var answer [1]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return nil, fmt.Errorf("reading the answer to SSLRequest: %w", err)
	}
	switch answer[0] {
	case 'S':
	case 'N':
		if enc == tlsIfOffered {
			return conn, conn.SetDeadline(time.Time{})
		}
		return nil, fmt.Errorf("ssl_mode %s: the server does not support TLS", s.cfg.SSLMode)
	default:
		return nil, fmt.Errorf("the server answered SSLRequest with %q; is it PostgreSQL?", answer[0])
	}

	// upstream ↔ TLS handshake
	cfg, err := s.tlsConfig()
	if err != nil {
		return nil, err
	}
	secured := tls.Client(conn, cfg)
	if err := secured.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	return secured, conn.SetDeadline(time.Time{})
}

// tlsConfig verifies as the SSL mode says. A root certificate makes "require" verify the chain, as libpq does.
func (s *Server) tlsConfig() (*tls.Config, error) {
	cfg := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         s.cfg.Host,
		NextProtos:         []string{alpn},
		ClientSessionCache: s.sessions,
	}
	if s.cfg.RootCertFile == "" {
		cfg.InsecureSkipVerify = true // disable to require without a root certificate: encrypted, not verified
		return cfg, nil
	}
	roots, err := s.roots.pool()
	if err != nil {
		return nil, fmt.Errorf("ssl_root_cert: %w", err)
	}
	cfg.RootCAs = roots
	if s.cfg.SSLMode != VerifyFull {
		cfg.InsecureSkipVerify = true // VerifyConnection verifies the chain, only the name is left out
		cfg.VerifyConnection = func(state tls.ConnectionState) error { return verifyChain(state, roots) }
	}
	return cfg, nil
}

// verifyChain is verify-ca: the certificate comes from an authority that we trust, whatever its name is. It runs for
// resumed sessions too.
func verifyChain(state tls.ConnectionState, roots *x509.CertPool) error {
	if len(state.PeerCertificates) == 0 {
		return errors.New("the server sent no certificate")
	}
	intermediates := x509.NewCertPool()
	for _, cert := range state.PeerCertificates[1:] {
		intermediates.AddCert(cert)
	}
	_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates})
	return err
}

// rootStore is a file of root certificates that is read again when it changes, so that a new authority needs no
// restart.
type rootStore struct {
	file string

	mu       sync.Mutex
	modified time.Time
	size     int64
	roots    *x509.CertPool
}

func (r *rootStore) pool() (*x509.CertPool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	info, err := os.Stat(r.file)
	if err != nil {
		return nil, err
	}
	if r.roots != nil && info.ModTime().Equal(r.modified) && info.Size() == r.size {
		return r.roots, nil
	}
	pem, err := os.ReadFile(r.file)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no PEM certificate", r.file)
	}
	r.roots, r.modified, r.size = roots, info.ModTime(), info.Size()
	return roots, nil
}
