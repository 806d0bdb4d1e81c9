package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
)

// Probe connects as the SSL mode's last attempt does, without logging in, and returns how that was encrypted and the
// certificates that the server has shown, its own first; none in plaintext. The error is a *DialError.
func (s *Server) Probe(ctx context.Context) (Encryption, []*x509.Certificate, error) {
	attempts := s.cfg.SSLMode.attempts()
	conn, err := s.dial(ctx, attempts[len(attempts)-1])
	if err != nil {
		return Encryption{}, nil, err
	}
	defer conn.Close()
	var shown []*x509.Certificate
	if secured, ok := conn.(*tls.Conn); ok {
		shown = secured.ConnectionState().PeerCertificates
	}
	return s.Describe(conn), shown, nil
}
