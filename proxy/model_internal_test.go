package proxy

import (
	"encoding/binary"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgerrcode"
)

// This file reads a client's first bytes a second time, in the simplest way and from PostgreSQL's sources, for the fuzz
// targets to hold the real reader against. It shares nothing with that but the list of parameters and the types.

// dialogue is how the start-up phase must go for given bytes.
type dialogue struct {
	replies string // N and S
	at      []int  // where in the stream each is due
	read    int    // bytes that the phase takes; of no meaning for overTLS
	end     string // one of the four below, or a SQLSTATE
	startup startup
}

const (
	silence  = "silence"
	accepted = "accepted"
	canceled = "cancel"
	overTLS  = "a handshake" // TLS reads from here on
)

// wantedPhase reads a whole stream the simple way.
func wantedPhase(stream []byte, encrypted, plaintextAllowed bool) (p dialogue) {
	if !encrypted && len(stream) > 0 && stream[0] == 0x16 {
		p.end = overTLS
		return p
	}
	for {
		rest := stream[p.read:]
		if len(rest) < 4 {
			p.read, p.end = len(stream), silence
			return p
		}
		length := int64(binary.BigEndian.Uint32(rest))
		if length < 8 || length > 10_004 {
			p.read, p.end = p.read+4, silence
			return p
		}
		if int64(len(rest)) < length {
			p.read, p.end = len(stream), silence
			return p
		}
		packet := string(rest[4:length])
		p.read += int(length)
		switch {
		case packet == "\x04\xd2\x16\x30" && !encrypted && p.replies == "": // GSSENCRequest: 1234.5680
			p.replies, p.at = "N", append(p.at, p.read)
			continue
		case packet == "\x04\xd2\x16\x2f" && !encrypted: // SSLRequest: 1234.5679
			p.replies, p.at, p.end = p.replies+"S", append(p.at, p.read), overTLS
		case packet[:4] == "\x04\xd2\x16\x2e" && (length == 16 || length == 44): // CancelRequest: 1234.5678
			p.end = canceled
		case packet[:4] == "\x04\xd2\x16\x2e":
			p.end = silence
		case !encrypted && !plaintextAllowed:
			p.end = pgerrcode.InvalidAuthorizationSpecification
		default:
			p.startup, p.end = wantedStartup(packet)
		}
		return p
	}
}

// wantedStartup takes a StartupMessage apart with strings.Split, and says accepted, silence or the SQLSTATE.
func wantedStartup(packet string) (s startup, end string) {
	version := binary.BigEndian.Uint32([]byte(packet))
	switch version >> 16 {
	case 0, 1, 2:
		return s, silence
	case 3:
	default:
		return s, pgerrcode.FeatureNotSupported
	}
	s.protocol, s.negotiate, s.params = min(version, 0x30002), version > 0x30002, map[string]string{}

	texts := strings.Split(packet[4:], "\x00")
	end1, end2 := len(texts)-2, len(texts)-1 // the empty name and the nothing behind it
	if len(texts)%2 != 0 || texts[end1] != "" || texts[end2] != "" {
		return s, pgerrcode.ProtocolViolation
	}
	texts = texts[:end1]
	seen := make(map[string]bool)
	options, others := "", make([][2]string, 0, len(texts)/2)
	for i := 0; i < len(texts); i += 2 {
		name, value := texts[i], texts[i+1]
		if name == "" || seen[foldBytes(name)] {
			return s, pgerrcode.ProtocolViolation
		}
		seen[foldBytes(name)] = true
		if name == "options" {
			options = value
		} else {
			others = append(others, [2]string{name, value})
		}
	}
	if end := wantedOptions(&s, options); end != accepted {
		return s, end
	}
	for _, o := range others {
		if end := wantedParameter(&s, o[0], o[1]); end != accepted {
			return s, end
		}
	}
	if s.user == "" {
		return s, pgerrcode.InvalidAuthorizationSpecification
	}
	return s, accepted
}

func wantedParameter(s *startup, name, value string) (end string) {
	switch {
	case len(name) >= 5 && name[:5] == "_pq_.":
		s.unrecognized, s.negotiate = append(s.unrecognized, name), true
	case name == "user":
		s.user = value
	case name == "database":
		s.database = value
	case name == "replication":
		if !slices.Contains([]string{"false", "off", "no", "0"}, value) {
			return pgerrcode.FeatureNotSupported
		}
	default:
		return wantedSetting(s, foldBytes(name), value)
	}
	return accepted
}

// wantedSetting is for a name in lower case.
func wantedSetting(s *startup, name, value string) (end string) {
	dotted := strings.Contains(name, ".")
	switch {
	case name == "application_name":
		s.application = value
	case len(name) >= 9 && name[:9] == "hourgate.":
		if s.setPetition(name, value) != nil { // has tests of its own
			return pgerrcode.InvalidParameterValue
		}
	case allowedParameters[name], name == "track_activities", name == "role" && (s.params["role"] == "" || s.params["role"] == value),
		dotted && !slices.ContainsFunc(strings.Split(name, "."), func(part string) bool { return !identifier(part) }):
		s.params[name] = value
	case name == "role":
		return pgerrcode.ProtocolViolation
	case dotted:
		return pgerrcode.InvalidName
	case strings.Contains("\n"+settingNames, "\n"+name+"\n"):
		return pgerrcode.FeatureNotSupported
	default:
		return pgerrcode.UndefinedObject
	}
	return accepted
}

// identifier reports that PostgreSQL takes a part of a setting's name.
func identifier(part string) bool {
	for i := range len(part) {
		c := part[i]
		letter := c >= 'a' && c <= 'z' || c == '_' || c >= 0x80
		if !letter && (i == 0 || (c < '0' || c > '9') && c != '$') {
			return false
		}
	}
	return part != ""
}

// wantedOptions goes through the arguments as getopt would, and says accepted or the SQLSTATE.
func wantedOptions(s *startup, options string) string {
	for args := postgresSplit(options); len(args) > 0; args = args[1:] {
		setting := args[0]
		switch {
		case len(setting) < 2 || setting[:2] != "-c" && setting[:2] != "--":
			return pgerrcode.ProtocolViolation
		case setting == "-c" && len(args) > 1:
			args = args[1:]
			setting = args[0]
		default:
			setting = setting[2:]
		}
		equals := strings.IndexByte(setting, '=')
		if equals < 1 {
			return pgerrcode.ProtocolViolation
		}
		name := strings.ReplaceAll(foldBytes(setting[:equals]), "-", "_")
		if end := wantedSetting(s, name, setting[equals+1:]); end != accepted {
			return end
		}
	}
	return accepted
}

// postgresSplit is PostgreSQL's pg_split_opts (src/backend/utils/init/postinit.c), step by step.
func postgresSplit(optstr string) (argv []string) {
	space := func(c byte) bool { return strings.IndexByte(" \t\n\v\f\r", c) >= 0 }
	for i := 0; i < len(optstr); {
		for i < len(optstr) && space(optstr[i]) {
			i++
		}
		if i == len(optstr) {
			break
		}
		var arg []byte
		lastWasEscape := false
		for i < len(optstr) {
			if space(optstr[i]) && !lastWasEscape {
				break
			}
			if !lastWasEscape && optstr[i] == '\\' {
				lastWasEscape = true
			} else {
				lastWasEscape = false
				arg = append(arg, optstr[i])
			}
			i++
		}
		argv = append(argv, string(arg))
	}
	return argv
}

// foldBytes makes ASCII letters small and leaves every other byte alone.
func foldBytes(s string) string {
	b := []byte(s)
	for i := range b {
		if b[i] >= 'A' && b[i] <= 'Z' {
			b[i] |= 0x20
		}
	}
	return string(b)
}

func sameStartup(a, b startup) bool {
	return a.protocol == b.protocol && a.user == b.user && a.database == b.database && a.application == b.application &&
		a.negotiate == b.negotiate && maps.Equal(a.params, b.params) && slices.Equal(a.unrecognized, b.unrecognized)
}
