package proxy

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/hourgate/hourgate/internal/burst"
)

// negotiate takes the connection from accept to a parsed StartupMessage or CancelRequest, encrypted before the former.
func (s *session) negotiate(ctx context.Context) error {
	// client → TLS ClientHello (sslnegotiation=direct)
	var first [1]byte
	if _, err := io.ReadFull(s.client, first[:]); err != nil {
		return errDisconnect
	}
	s.deadline(s.began.Add(s.server.limits.Load().StartupTimeout))
	if first[0] == tlsHandshakeByte {
		s.client = &prefixConn{Conn: s.client, prefix: first[:]}
		if err := s.startTLS(ctx, first[:]...); err != nil {
			return err
		}
		if s.tlsState().NegotiatedProtocol != alpn {
			return errDisconnect // PostgreSQL 17 and later: direct TLS without ALPN might be another protocol
		}
		return s.readStartup(nil)
	}

	prefix := first[:]
	for askedGSS, refusedTLS := false, false; ; {
		packet, err := readStartupPacket(s.client, prefix)
		if err != nil {
			return err
		}
		prefix = nil
		switch code := binary.BigEndian.Uint32(packet); {
		// client → GSSENCRequest, at most once and before SSLRequest: alternating them for ever was CVE-2026-6479
		case code == gssEncRequestCode && len(packet) == 4 && !askedGSS:
			askedGSS = true
			if _, err := s.client.Write([]byte{'N'}); err != nil {
				return errDisconnect
			}
		// client → SSLRequest
		case code == sslRequestCode && len(packet) == 4 && s.operator && !refusedTLS:
			refusedTLS = true
			if _, err := s.client.Write([]byte{'N'}); err != nil {
				return errDisconnect
			}
		case code == sslRequestCode && len(packet) == 4 && !s.operator:
			if _, err := s.client.Write([]byte{'S'}); err != nil {
				return errDisconnect
			}
			if err := s.startTLS(ctx); err != nil {
				return err
			}
			return s.readStartup(nil)
		default:
			return s.parseStartup(packet)
		}
	}
}

// startTLS does the handshake with the certificate that is in force now, and keeps that certificate for channel binding.
// seen are the bytes of it that were read already.
func (s *session) startTLS(ctx context.Context, seen ...byte) error {
	id := s.server.identity.Load()
	burst.ExpectTLS(s.client, seen...)
	conn := tls.Server(s.client, id.tls)
	if err := conn.HandshakeContext(ctx); err != nil {
		s.log.Debug("TLS handshake failed", "error", err)
		return errDisconnect
	}
	s.client, s.tls, s.leaf = conn, conn, id.leaf
	return nil
}

func (s *session) tlsState() tls.ConnectionState {
	if s.tls == nil {
		return tls.ConnectionState{}
	}
	return s.tls.ConnectionState()
}

func (s *session) readStartup(prefix []byte) error {
	packet, err := readStartupPacket(s.client, prefix)
	if err != nil {
		return err
	}
	return s.parseStartup(packet)
}

// parseStartup takes a packet that is neither SSLRequest nor GSSENCRequest where one is allowed.
func (s *session) parseStartup(packet []byte) error {
	code := binary.BigEndian.Uint32(packet)
	// client → CancelRequest, plaintext or not: libpq before 17 can't encrypt it
	if code == cancelRequestCode {
		return s.parseCancel(packet[4:])
	}
	// client → StartupMessage
	parsed, err := parseStartupMessage(packet)
	if s.tls == nil && !s.plaintextAllowed() {
		return s.refusePlaintext(parsed)
	}
	if err != nil {
		return err
	}
	s.startup = parsed
	return s.sendNegotiation()
}

// parseCancel reads a CancelRequest's body. PostgreSQL closes the connection in silence whatever the request says, and
// so do we.
func (s *session) parseCancel(body []byte) error {
	if len(body) != 4+cancelSecret30 && len(body) != 4+cancelSecret32 {
		return errDisconnect
	}
	s.startup.cancel = &cancelKey{pid: binary.BigEndian.Uint32(body), secret: body[4:]}
	return nil
}

// plaintextAllowed is for clients on this machine, if the configuration says so.
func (s *session) plaintextAllowed() bool {
	return s.operator || s.remote.Addr().Unmap().IsLoopback() && s.server.cfg.AllowPlaintextLoopback
}

// plaintextMemory is how long a failed log-in explains a connection in plaintext by the same user from the same network.
const plaintextMemory = 15 * time.Second

// refusePlaintext ends a connection that is not encrypted. With sslmode=prefer, libpq makes one after a log-in over TLS that has
// failed, and shows its user the last error only: that must be the one that matters.
func (s *session) refusePlaintext(asked startup) error {
	s.startup.user, s.startup.database, s.startup.application = asked.user, asked.database, asked.application
	if asked.user != "" && s.server.guesses.Lately(s.guessKey(), plaintextMemory) {
		return errWrongPasswordBefore(asked.user)
	}
	return errPlaintext
}

// sendNegotiation answers a minor version or an option that we don't know. The client decides whether it goes on.
func (s *session) sendNegotiation() error {
	if !s.startup.negotiate {
		return nil
	}
	// client ← NegotiateProtocolVersion
	return s.send(&pgproto3.NegotiateProtocolVersion{
		NewestMinorProtocol: s.startup.protocol,
		UnrecognizedOptions: s.startup.unrecognized,
	})
}

// prefixConn gives back bytes that were read to find out what a client speaks.
type prefixConn struct {
	net.Conn
	prefix []byte
}

func (c *prefixConn) Read(b []byte) (int, error) {
	if len(c.prefix) > 0 {
		n := copy(b, c.prefix)
		c.prefix = c.prefix[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

// NetConn is the connection underneath, as tls.Conn's.
func (c *prefixConn) NetConn() net.Conn { return c.Conn }
