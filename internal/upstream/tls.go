package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/hourgate/hourgate/internal/burst"
	"github.com/hourgate/hourgate/internal/peer"
)

// alpn is the protocol name that PostgreSQL 17 and later expect in the TLS handshake.
const alpn = "postgresql"

// dial opens a connection and encrypts it as enc says. Names are resolved at every call, so that a failover that
// moves the name is followed. Every error is a *DialError.
func (s *Server) dial(ctx context.Context, enc encryption) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.DialTimeout)
	defer cancel()

	offer := s.offer()
	conn, err := s.dialOnce(ctx, enc, offer)
	if err != nil && s.tooNarrow(offer, err) {
		conn, err = s.dialOnce(ctx, enc, s.tls)
	}
	if err != nil {
		return nil, &DialError{s.Address(), err}
	}
	return conn, nil
}

// dialOnce opens a connection, with this offer of TLS if that is what it comes to.
func (s *Server) dialOnce(ctx context.Context, enc encryption, offer *tls.Config) (net.Conn, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", s.Address())
	if err != nil {
		return nil, err
	}
	peer.KeepAlive(conn, s.cfg.PeerTimeout)
	conn = burst.Wrap(conn)
	if enc == plaintext {
		return conn, nil
	}
	secured, err := s.secure(ctx, conn, enc, offer)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return secured, nil
}

// secure asks for TLS, unless TLS comes first, and does the handshake.
func (s *Server) secure(ctx context.Context, conn net.Conn, enc encryption, offer *tls.Config) (net.Conn, error) {
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	if s.cfg.SSLNegotiation != Direct {
		agreed, err := s.negotiate(conn)
		if err != nil {
			return nil, err
		}
		if !agreed && enc == tlsIfOffered {
			return conn, conn.SetDeadline(time.Time{})
		}
		if !agreed {
			return nil, fmt.Errorf("ssl_mode %s: the server does not support TLS", s.cfg.SSLMode)
		}
	}

	// upstream ↔ TLS handshake
	burst.ExpectTLS(conn)
	secured := tls.Client(conn, offer)
	if err := secured.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	s.learn(secured.ConnectionState())
	// Without it, a client that is sent to a server of another protocol could be made to talk to that.
	if s.cfg.SSLNegotiation == Direct && secured.ConnectionState().NegotiatedProtocol != alpn {
		return nil, errors.New("ssl_negotiation direct: the server did not answer with ALPN (PostgreSQL does from version 17 on)")
	}
	return secured, conn.SetDeadline(time.Time{})
}

// negotiate asks for TLS as before PostgreSQL 17, where plaintext comes first.
func (s *Server) negotiate(conn net.Conn) (agreed bool, err error) {
	// upstream ← SSLRequest
	request, err := (&pgproto3.SSLRequest{}).Encode(nil)
	if err != nil {
		return false, err
	}
	if _, err := conn.Write(request); err != nil {
		return false, fmt.Errorf("sending SSLRequest: %w", err)
	}

	// upstream → 'S' or 'N'. Exactly one byte is read: what came with it unencrypted is not taken for what comes
	// encrypted (CVE-2021-23222).
	var answer [1]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return false, fmt.Errorf("reading the answer to SSLRequest: %w", err)
	}
	switch answer[0] {
	case 'S':
		return true, nil
	case 'N':
		return false, nil
	default:
		return false, fmt.Errorf("the server answered SSLRequest with %q; is it PostgreSQL?", answer[0])
	}
}

// tlsConfig verifies by itself, because Go's rules for names are not libpq's. Sessions are not resumed: PostgreSQL
// issues no tickets.
func (s *Server) tlsConfig() *tls.Config {
	cfg := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         s.cfg.serverName(), // sent as SNI unless it is an address, as by libpq
		NextProtos:         []string{alpn},
		InsecureSkipVerify: true, //nolint:gosec // see VerifyConnection; without a root certificate nothing is verified, as by libpq

		DynamicRecordSizingDisabled: true, // full records from the start: each costs a system call
	}
	if s.cfg.verification() != unverified {
		cfg.VerifyConnection = s.verify
	}
	if s.clientCert != nil {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return s.clientCert.get() }
	}
	return cfg
}
