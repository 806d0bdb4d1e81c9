package proxy

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/jackc/pgerrcode"

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

// cancelKey is what a client must show to cancel a statement: the server's own process ID, which drivers compare with what
// the server says elsewhere (pg_backend_pid(), notifications, pg_stat_activity), and a secret of ours of 4 bytes for protocol
// 3.0 or 32 for 3.2. The server's own secret never leaves the gate.
type cancelKey struct {
	pid    uint32
	secret []byte
}
