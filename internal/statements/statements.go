package statements

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/relay"
)

// Trail takes records; *audit.Trail is one.
type Trail interface {
	// Statement returns once the record outlives the process, or with an error, after which nothing may be done.
	Statement(ctx context.Context, s *audit.Statement) error
	// Result waits for nothing. It reports whether there was room for the record.
	Result(r *audit.Result) bool
}

// ErrTrail is in the error of Request when a statement can't be recorded.
var ErrTrail = errors.New("a statement can't be recorded")

// Config is whose statements are recorded, and what of them.
type Config struct {
	Trail                Trail
	Session, User, Grant string    // of every record
	Began                time.Time // when the session did
	DiscardParameters    bool      // parameters and arguments are not recorded
	DiscardResults       bool      // what became of statements is not recorded
	Waits                bool      // the trail takes the time of a disk for each
}

// Watcher tells the trail what a session asks for, from the messages on their way upstream. All of
// a text is recorded, in parts if it is long; of Bind and FunctionCall also the values, unless noValues; and of COPY how
// much was sent: see docs/decisions/0012 and 0024.
//
// A message that has arrived in part may have been sent on, since PostgreSQL does nothing before it has the whole. Its end
// is not sent before all of it was recorded.
type Watcher struct {
	trail Trail
	ctx   context.Context // ends a wait for the trail
	who   audit.Statement // session, user and grant, which every record has

	noValues bool // parameters and arguments are not recorded
	waits    bool // the trail takes the time of a disk

	at     time.Time       // when the burst came that holds the part being seen
	record audit.Statement // the next one
	copied int64           // bytes of CopyData since the COPY began

	// Of a message that comes in several bursts.
	held []byte // what is not recorded yet
	goes bool   // a part of it was recorded, the next record goes on with it
	over bool   // nothing that comes behind matters

	calls   uint32             // that were recorded
	answers *answers           // sees what becomes of them; nil if that is not recorded
	portal  uint32             // the call of the unnamed portal
	portals map[string]*uint32 // of the others

	values  values
	headed  bool // the names of a Bind or the OID of a FunctionCall were read; the rest is values
	types   map[string][]uint32
	unnamed []uint32 // types of the unnamed statement
}

// New returns a Watcher, which a relay uses. ctx ends a wait for the trail.
func New(ctx context.Context, cfg Config) *Watcher {
	w := &Watcher{
		trail: cfg.Trail, ctx: ctx, who: audit.Statement{Session: cfg.Session, User: cfg.User, Grant: cfg.Grant},
		noValues: cfg.DiscardParameters, waits: cfg.Waits,
	}
	if !cfg.DiscardResults {
		w.answers = newAnswers(cfg.Trail, cfg.Session, cfg.Began)
	}
	return w
}

// maxTyped is how many prepared statements of a session have their types remembered. They are only a help to whoever reads
// binary values, and clients may prepare as many statements as they like.
const maxTyped = 1000

// Waits says whether each statement waits for the disk.
func (s *Watcher) Waits() bool { return s.waits }

// Kinds are the messages that say what is asked for, and if results are recorded, all that are answered and what is said of them.
func (s *Watcher) Kinds() (requests, replies string) {
	if s.answers != nil {
		return "QPBFCdcfDES", answerKinds
	}
	return "QPBFCdcf", ""
}

// Reply takes a part of a message of the server's. It belongs to another goroutine than everything else here.
func (s *Watcher) Reply(m *relay.Part) error {
	s.answers.reply(m)
	return nil
}

// Request takes a part of a message. After an error nothing of the burst may go upstream.
func (s *Watcher) Request(m *relay.Part) error {
	s.at = m.At
	if m.Kind == 'D' || m.Kind == 'E' || m.Kind == 'S' { // Describe, Execute, Sync
		s.expect(m)
		return nil
	}
	if err := s.recordRequest(m); err != nil {
		return err
	}
	if s.answers != nil && m.Kind != 'd' {
		s.expect(m)
	}
	return nil
}

func (s *Watcher) recordRequest(m *relay.Part) error {
	switch m.Kind {
	case 'd': // CopyData
		s.copied += int64(len(m.Bytes))
		return nil
	case 'c', 'f': // CopyDone, CopyFail
		if m.Rest > 0 {
			return nil
		}
		return s.endCopy()
	case 'C': // Close
		s.close(m)
		return nil
	}
	if m.First && s.copied > 0 { // the server ended the COPY
		if err := s.endCopy(); err != nil {
			return err
		}
	}
	switch {
	case m.Kind == 'B' || m.Kind == 'F': // Bind, FunctionCall
		return s.call(m)
	case m.First && m.Rest == 0 && len(m.Bytes) <= audit.MaxStatementText:
		return s.message(m.Kind, m.Bytes, false)
	}
	return s.gather(m)
}

func (s *Watcher) endCopy() error {
	s.record = audit.Statement{Kind: audit.StatementCopyData, Length: s.copied}
	s.copied = 0
	return s.tell()
}

// call takes a part of a Bind or FunctionCall: first its head, whole or in held, then its values.
func (s *Watcher) call(m *relay.Part) error {
	part := m.Bytes
	if m.First {
		s.held, s.headed, s.goes = s.held[:0], false, false
	}
	if !s.headed {
		if len(s.held) > 0 || m.Rest > 0 {
			s.held = append(s.held, part...)
			part = s.held
		}
		n, ok := s.head(m.Kind, part)
		if !ok && m.Rest > 0 {
			if len(s.held) > 2*audit.MaxStatementName+2 {
				return fmt.Errorf("%w: a name is longer than %d bytes", ErrTrail, audit.MaxStatementName)
			}
			return nil
		}
		part, s.headed = part[n:], true
		if s.values.flush == nil {
			s.values.flush = s.tellValues
		}
		s.values.begin(s.typesOf(s.record.Name))
		if s.noValues {
			s.values.step = stepRest
		}
	}
	if err := s.values.feed(part); err != nil || m.Rest > 0 {
		return err
	}
	defer func() { s.held = nil }()
	if s.goes && s.values.list.Empty() {
		return nil
	}
	return s.tellValues()
}

// head reads what comes before the values and returns how long that is. What is cut short, PostgreSQL refuses.
func (s *Watcher) head(kind byte, b []byte) (n int, ok bool) {
	if kind == 'F' {
		s.record = audit.Statement{Kind: audit.StatementFunctionCall}
		if len(b) < 4 {
			return len(b), false
		}
		s.record.Function = binary.BigEndian.Uint32(b)
		return 4, true
	}
	portal, rest, _ := bytes.Cut(b, []byte{0})
	name, rest, ok := bytes.Cut(rest, []byte{0})
	s.record = audit.Statement{Kind: audit.StatementBind, Portal: portal, Name: name}
	return len(b) - len(rest), ok
}

// tellValues records the values so far, with the names or the OID the first time.
func (s *Watcher) tellValues() error {
	if s.goes {
		s.record = audit.Statement{Kind: audit.StatementMoreValues}
	}
	s.goes = true
	s.record.Parameters = &s.values.list
	return s.tell()
}

// declare remembers the types that a Parse declares for a statement: Int16 n, n × Int32.
func (s *Watcher) declare(name, b []byte) {
	var types []uint32
	if len(name) == 0 {
		types = s.unnamed[:0]
	}
	if len(b) >= 2 && binary.BigEndian.Uint16(b) <= 1<<10 {
		for b = b[2:]; len(b) >= 4; b = b[4:] {
			types = append(types, binary.BigEndian.Uint32(b))
		}
	}
	if len(name) == 0 {
		s.unnamed = types
		return
	}
	if _, again := s.types[string(name)]; again {
		types = nil // the server may refuse it, and the first one stays
	}
	if types == nil && s.types == nil {
		return
	}
	if s.types == nil {
		s.types = make(map[string][]uint32)
	}
	if len(s.types) < maxTyped || types == nil {
		s.types[string(name)] = types
	}
}

func (s *Watcher) typesOf(name []byte) []uint32 {
	if s.record.Kind == audit.StatementFunctionCall {
		return nil
	}
	if len(name) == 0 {
		return s.unnamed
	}
	return s.types[string(name)]
}

// close forgets the types of a statement that is closed; of all, where its name comes in pieces.
func (s *Watcher) close(m *relay.Part) {
	if !m.First || m.Rest > 0 {
		clear(s.types)
		return
	}
	if name, isStatement := bytes.CutPrefix(m.Bytes, []byte{'S'}); isStatement {
		name, _, _ = bytes.Cut(name, []byte{0})
		delete(s.types, string(name))
	}
}

// gather holds the parts of a message until there is enough for a record.
func (s *Watcher) gather(m *relay.Part) (err error) {
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
func (s *Watcher) message(kind byte, body []byte, goesOn bool) error {
	switch kind {
	case 'Q': // Query: text
		return s.text(audit.Statement{Kind: audit.StatementQuery, GoesOn: goesOn}, body)
	case 'P': // Parse: name, text, types
		name, rest, _ := bytes.Cut(body, []byte{0})
		_, types, _ := bytes.Cut(rest, []byte{0})
		if goesOn {
			types = nil
		}
		s.declare(name, types)
		return s.text(audit.Statement{Kind: audit.StatementParse, Name: name, GoesOn: goesOn}, rest)
	}
	return nil
}

// text records a text, which ends at a NUL.
func (s *Watcher) text(record audit.Statement, text []byte) error {
	record.Text, _, s.over = bytes.Cut(text, []byte{0})
	record.GoesOn = record.GoesOn && !s.over
	s.record = record
	return s.tell()
}

// tell sends the record to the trail.
func (s *Watcher) tell() error {
	r := &s.record
	r.Session, r.User, r.Grant, r.At = s.who.Session, s.who.User, s.who.Grant, s.at
	switch r.Kind {
	case audit.StatementQuery, audit.StatementParse, audit.StatementBind, audit.StatementFunctionCall:
		s.calls++
		r.Call = s.calls
	}
	if r.Kind == audit.StatementBind && s.answers != nil {
		s.bound(r.Portal)
	}
	if err := s.trail.Statement(s.ctx, r); err != nil {
		return fmt.Errorf("%w: %w", ErrTrail, err)
	}
	return nil
}
