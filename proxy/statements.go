package proxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/relay"
)

// statements is the watcher that tells the trail what a session asks for, from the messages on their way upstream. All of
// a text is recorded, in parts if it is long; of Bind the names and not the values, and of COPY how much was sent: see
// docs/decisions/0012.
//
// A message that has arrived in part may have been sent on, since PostgreSQL does nothing before it has the whole. Its end
// is not sent before all of it was recorded.
type statements struct {
	trail Trail
	ctx   context.Context // ends a wait for the trail
	who   audit.Statement // session, user and grant, which every record has

	at     time.Time       // when the burst came that holds the part being seen
	record audit.Statement // the next one
	copied int64           // bytes of CopyData since the COPY began

	// Of a message that comes in several bursts.
	held []byte // what is not recorded yet
	goes bool   // a part of its text was recorded, held goes on with it
	over bool   // nothing that comes behind matters
}

// Kinds are the messages that say what is asked for.
func (s *statements) Kinds() (requests, replies string) { return "QPBFdcf", "" }

// Reply is not called: see Kinds.
func (s *statements) Reply(*relay.Part) error { return nil }

// Request takes a part of a message. After an error nothing of the burst may go upstream.
func (s *statements) Request(m *relay.Part) error {
	s.at = m.At
	switch {
	case m.Kind == 'd': // CopyData
		s.copied += int64(len(m.Bytes))
		return nil
	case m.Kind == 'c' || m.Kind == 'f': // CopyDone, CopyFail
		if m.Rest > 0 {
			return nil
		}
		s.record = audit.Statement{Kind: audit.StatementCopyData, Length: s.copied}
		s.copied = 0
		return s.tell()
	case m.First && m.Rest == 0 && len(m.Bytes) <= audit.MaxStatementText:
		return s.message(m.Kind, m.Bytes, false)
	}
	return s.gather(m)
}

// gather holds the parts of a message until there is enough for a record.
func (s *statements) gather(m *relay.Part) (err error) {
	if m.First {
		s.goes, s.over = false, false
	}
	part, rest := m.Bytes, m.Rest
	for len(part) > 0 && !s.over && err == nil {
		n := min(len(part), audit.MaxStatementText-len(s.held))
		s.held = append(s.held, part[:n]...)
		part = part[n:]
		if len(s.held) < audit.MaxStatementText && rest > 0 {
			break
		}
		cut := len(s.held)
		if rest > 0 || len(part) > 0 {
			cut -= unfinished(s.held)
		}
		if s.goes {
			err = s.text(audit.Statement{Kind: audit.StatementMore}, s.held[:cut])
		} else {
			err = s.message(m.Kind, s.held[:cut], cut < len(s.held) || len(part) > 0 || rest > 0)
		}
		s.goes = true
		s.held = append(s.held[:0], s.held[cut:]...)
	}
	if rest == 0 || s.over {
		s.held = nil
	}
	return err
}

// unfinished is the length of the part of a UTF-8 character at the end of b that lacks the rest.
func unfinished(b []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(b); n++ {
		if tail := b[len(b)-n:]; utf8.RuneStart(tail[0]) {
			if utf8.FullRune(tail) {
				return 0
			}
			return n
		}
	}
	return 0
}

// message records a message, or as much of its beginning as matters or is there
// (https://www.postgresql.org/docs/current/protocol-message-formats.html).
func (s *statements) message(kind byte, body []byte, goesOn bool) error {
	switch kind {
	case 'Q': // Query: text
		return s.text(audit.Statement{Kind: audit.StatementQuery, GoesOn: goesOn}, body)
	case 'P': // Parse: name, text, types
		name, rest, _ := bytes.Cut(body, []byte{0})
		return s.text(audit.Statement{Kind: audit.StatementParse, Name: name, GoesOn: goesOn}, rest)
	case 'B': // Bind: portal, name, values
		portal, rest, _ := bytes.Cut(body, []byte{0})
		name, _, _ := bytes.Cut(rest, []byte{0})
		s.record = audit.Statement{Kind: audit.StatementBind, Portal: portal, Name: name}
	case 'F': // FunctionCall: OID, arguments
		s.record = audit.Statement{Kind: audit.StatementFunctionCall}
		if len(body) >= 4 {
			s.record.Function = binary.BigEndian.Uint32(body)
		}
	}
	s.over = true
	return s.tell()
}

// text records a text, which ends at a NUL.
func (s *statements) text(record audit.Statement, text []byte) error {
	record.Text, _, s.over = bytes.Cut(text, []byte{0})
	record.GoesOn = record.GoesOn && !s.over
	s.record = record
	return s.tell()
}

// tell sends the record to the trail.
func (s *statements) tell() error {
	r := &s.record
	r.Session, r.User, r.Grant, r.At = s.who.Session, s.who.User, s.who.Grant, s.at
	if err := s.trail.Statement(s.ctx, r); err != nil {
		return fmt.Errorf("%w: %w", errTrailStatement, err)
	}
	return nil
}
