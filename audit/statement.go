package audit

import (
	"context"
	"errors"
	"fmt"
	"time"
	"unsafe"

	"github.com/hourgate/hourgate/internal/redact"
)

// Limits of a statement. They bound what one message of a client may take of the spool and of the trail.
const (
	// MaxStatementText is the length in bytes of the longest text that a statement record holds. The caller records a
	// longer one in parts: see StatementMore.
	MaxStatementText = 64 << 10

	// MaxStatementName is the length in bytes of the longest name of a prepared statement or portal. Drivers use some
	// dozens; a longer one is an error, because a cut name would say that it is another.
	MaxStatementName = 8 << 10

	maxSession = 255
)

// StatementKind says with which message of PostgreSQL's protocol a session asks. The set is closed.
type StatementKind string

// The kinds. Execute is not among them: it can run only what a Bind, or a DECLARE in a recorded text, has named.
const (
	StatementQuery        StatementKind = "query"
	StatementParse        StatementKind = "parse"
	StatementBind         StatementKind = "bind"
	StatementFunctionCall StatementKind = "function_call"
	StatementMore         StatementKind = "more"        // Text goes on with that of the session's statement before
	StatementMoreValues   StatementKind = "more_values" // Parameters goes on with that of the session's statement before
	StatementCopyData     StatementKind = "copy_data"   // the end of a COPY from the client; Length counts its data
)

var statementKinds = [...]StatementKind{
	1: StatementQuery, StatementParse, StatementBind, StatementFunctionCall, StatementCopyData, StatementMore,
	StatementMoreValues, "", "", // the last two are kindResult and kindRecord, of which no Statement can be
}

const (
	kindResult = 8 // of a Result's entry
	kindRecord = 9 // of a record of something else, whose text is the body that encode has made
)

// hasValues says that records of the kind have parameters and no text.
func (k StatementKind) hasValues() bool {
	return k == StatementBind || k == StatementFunctionCall || k == StatementMoreValues
}

// code returns a kind's number, 0 when it is unknown.
func (k StatementKind) code() uint8 {
	for i := 1; i < kindResult; i++ {
		if statementKinds[i] == k {
			return uint8(i)
		}
	}
	return 0
}

// Statement is what a session asks the server to do, in the terms of PostgreSQL's protocol. The trail copies what it
// needs before [Trail.Statement] returns, so the slices may point into a buffer that is used again.
type Statement struct {
	Session string // id of the session
	User    string // whose session it is, as authenticated
	Grant   string // by which grant
	At      time.Time

	Kind     StatementKind
	Name     []byte // of the prepared statement (Parse, Bind); empty for the unnamed one
	Portal   []byte // (Bind)
	Text     []byte // SQL of Query and Parse, at most MaxStatementText bytes, in the client's encoding
	GoesOn   bool   // the text is longer than a record: a StatementMore follows
	Function uint32 // OID of the function (FunctionCall)

	// Call numbers what can have a result within its session, from 1 on: see Result. 0 is none.
	Call uint32

	// Parameters are the values that go with a Bind, a FunctionCall or a StatementMoreValues. Optional.
	Parameters *Parameters
	Length     int64 // of the data in bytes (CopyData)
}

// check refuses what does not fit into a record.
func (s *Statement) check() error {
	switch {
	case s.Kind.code() == 0:
		return fmt.Errorf("unknown kind of statement %q", s.Kind)
	case len(s.Text) > MaxStatementText:
		return fmt.Errorf("statement has more than %d bytes", MaxStatementText)
	case len(s.Name) > MaxStatementName || len(s.Portal) > MaxStatementName:
		return fmt.Errorf("name of statement or portal has more than %d bytes", MaxStatementName)
	case len(s.Session) > maxSession || len(s.User) > maxSession || len(s.Grant) > maxSession:
		return fmt.Errorf("name of session, user or grant has more than %d bytes", maxSession)
	case s.Parameters != nil && (len(s.Parameters.b) > MaxStatementText || len(s.Text) > 0 || !s.Kind.hasValues()):
		return errors.New("statement has too many parameters, or none of its kind has any")
	case s.Length < 0:
		return errors.New("length of statement is negative")
	}
	return nil
}

// Statement records what a session is about to ask the server for. When it returns nil, the record survives this
// process, and with [Options.Sync] the machine. When it returns an error the statement must not be sent; a later call
// works again as soon as there is room.
//
// Passwords in CREATE and ALTER ROLE are replaced in the record, where a text fits into one: see package redact. In a
// longer one nothing is replaced.
//
// Several sessions may call it at once; they wait for each other only when the spool is full.
func (t *Trail) Statement(ctx context.Context, s *Statement) error {
	err := s.check()
	if err == nil {
		e := entry{
			at: s.At.UnixNano(), kind: s.Kind.code(), session: bytesOf(s.Session), user: bytesOf(s.User), grant: bytesOf(s.Grant),
			name: s.Name, portal: s.Portal, text: s.Text, function: s.Function, length: s.Length, call: s.Call,
		}
		if s.Parameters != nil {
			e.text = s.Parameters.b
		}
		if !s.Kind.hasValues() && !s.GoesOn && s.Kind != StatementMore { // a part may mean something else than the whole
			e.redact()
		}
		err = t.statement(ctx, &e)
	}
	if err != nil {
		return fmt.Errorf("writing to trail %s: %w", t.path, err)
	}
	return nil
}

// bytesOf is a string's bytes, to be read only, without an allocation.
func bytesOf(s string) []byte {
	return unsafe.Slice(unsafe.StringData(s), len(s)) //nolint:gosec // G103: nobody writes to an entry's session
}

// redact replaces passwords in an entry's text.
func (e *entry) redact() {
	text, redacted := redact.Passwords(e.text)
	if !redacted {
		return
	}
	e.redacted = true
	if len(text) > MaxStatementText { // passwords shorter than what replaces them
		text, e.length = text[:MaxStatementText], max(e.length, int64(len(e.text)))
	}
	e.text = text
}
