package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/hourgate/hourgate/internal/burst"
	"github.com/hourgate/hourgate/internal/strangers"
)

// Codes of the messages that have no type byte;
// https://www.postgresql.org/docs/current/protocol-message-formats.html.
const (
	cancelRequestCode = 80877102
	sslRequestCode    = 80877103
	gssEncRequestCode = 80877104

	protocol30     = 3 << 16
	protocolLatest = 3<<16 | 2

	// maxStartupPacket is PostgreSQL's own bound (MAX_STARTUP_PACKET_LENGTH, src/include/libpq/pqcomm.h), without the
	// length word. It is what a stranger can make us allocate.
	maxStartupPacket = 10_000

	tlsHandshakeByte = 0x16 // the first byte of a TLS ClientHello record
	alpn             = "postgresql"
)

// errDisconnect ends a connection without a word, as PostgreSQL does where the peer does not speak its protocol or has
// gone. There is nobody to tell.
var errDisconnect = errors.New("not a PostgreSQL client, or gone")

// startup is what a client asked for in its first packets.
type startup struct {
	protocol     uint32            // 3.0 or 3.2, as agreed
	user         string            // as sent; not authenticated yet
	database     string            // as sent, "" if absent
	params       map[string]string // to be sent upstream; checked against an allow-list
	overridden   []string          // settings that the client gave another value as well, as arguments for "options"
	application  string            // application_name as sent
	unrecognized []string          // _pq_ options that we don't know
	negotiate    bool              // NegotiateProtocolVersion is due

	petition *petition // what options hourgate.… have said; nil if there were none

	cancel *cancelKey // set, and nothing else, for a CancelRequest
}

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

// readStartupPacket reads a length word and the packet behind it, no byte more. prefix holds bytes of the length word
// that were read already. What is no startup packet ends the connection silently, as PostgreSQL does it.
func readStartupPacket(r io.Reader, prefix []byte) ([]byte, error) {
	var word [4]byte
	n := copy(word[:], prefix)
	if _, err := io.ReadFull(r, word[n:]); err != nil {
		return nil, errDisconnect
	}
	length := binary.BigEndian.Uint32(word[:])
	if length < 8 || length > maxStartupPacket+4 {
		return nil, errDisconnect
	}
	packet := make([]byte, length-4)
	if _, err := io.ReadFull(r, packet); err != nil {
		return nil, errDisconnect
	}
	return packet, nil
}

// parseStartupMessage checks a StartupMessage as strictly as PostgreSQL does and, where a proxy would be at risk, more so:
// a parameter that comes twice is refused, since PostgreSQL takes the last and others take the first.
func parseStartupMessage(packet []byte) (startup, error) {
	s := startup{protocol: binary.BigEndian.Uint32(packet), params: make(map[string]string)}
	switch major := s.protocol >> 16; {
	case major < 3:
		return s, errDisconnect
	case major > 3:
		return s, &refusal{
			code: pgerrcode.FeatureNotSupported, reason: "protocol",
			message: fmt.Sprintf("unsupported frontend protocol %d.%d: server supports 3.0 to 3.2", major, s.protocol&0xffff),
		}
	}
	if s.protocol > protocolLatest {
		s.protocol, s.negotiate = protocolLatest, true
	}
	pairs, err := splitParameters(packet[4:])
	if err != nil {
		return s, err
	}
	// A parameter of its own wins over the same in "options", wherever it stands, as in PostgreSQL.
	if i := slices.IndexFunc(pairs, func(p parameter) bool { return p.name == "options" }); i > 0 {
		pairs[0], pairs[i] = pairs[i], pairs[0]
	}
	for _, p := range pairs {
		if err := s.set(p.name, p.value); err != nil {
			return s, err
		}
	}
	if s.user == "" {
		return s, errNoUser
	}
	return s, nil
}

type parameter struct{ name, value string }

// splitParameters takes the NUL-terminated names and values apart. An empty name ends the list and must be the packet's
// last byte.
func splitParameters(b []byte) ([]parameter, error) {
	errLayout := protocolViolation("invalid startup packet layout: expected terminator as last byte")
	var pairs []parameter
	seen := make(map[string]bool)
	for {
		name, rest, ok := bytes.Cut(b, []byte{0})
		if !ok {
			return nil, errLayout
		}
		if len(name) == 0 {
			if len(rest) != 0 {
				return nil, errLayout
			}
			return pairs, nil
		}
		value, rest, ok := bytes.Cut(rest, []byte{0})
		if !ok {
			return nil, errLayout
		}
		key := lowerASCII(string(name))
		if seen[key] {
			return nil, protocolViolation(fmt.Sprintf("startup parameter %q comes twice", strangers.Printable(key)))
		}
		seen[key] = true
		pairs = append(pairs, parameter{string(name), string(value)})
		b = rest
	}
}

// set takes one startup parameter in.
func (s *startup) set(name, value string) error {
	switch {
	case strings.HasPrefix(name, "_pq_."):
		s.unrecognized = append(s.unrecognized, name)
		s.negotiate = true
	case name == "user":
		s.user = value
	case name == "database":
		s.database = value
	case name == "replication":
		if value != "false" && value != "off" && value != "no" && value != "0" {
			return errReplication
		}
	case name == "options":
		return s.setOptions(value)
	default:
		return s.setting(lowerASCII(name), value)
	}
	return nil
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

// plaintextAllowed is for clients on this machine, if the configuration says so.
func (s *session) plaintextAllowed() bool {
	return s.operator || s.remote.Addr().Unmap().IsLoopback() && s.server.cfg.AllowPlaintextLoopback
}
