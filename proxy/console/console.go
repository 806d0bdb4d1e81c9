package console

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/hourgate/hourgate/internal/relay"
)

// Handler answers the statements of one session. Its methods are called one after the other.
type Handler interface {
	// Describe says what a statement takes and gives, and does nothing. There is one statement in sql, without a semicolon.
	Describe(sql string) (Description, error)
	// Run does what a statement says, which is in the trail by then. args are as many as Description.Parameters; nil is NULL. notice sends
	// the client a NoticeResponse at once; it may be called by any goroutine and does nothing once Run has returned. ctx ends when the
	// client cancels or leaves and when the session is ended: Run must return then.
	Run(ctx context.Context, sql string, args []*string, notice func(text string)) (Result, error)
	// Close is called once, at the session's end.
	Close()
}

// Description is what is known of a statement before it is run.
type Description struct {
	Parameters int      // $1 to $n
	Columns    []string // names; all columns have type text. nil: there are no rows
}

// Result is what a statement has done.
type Result struct {
	Rows [][]*string // as many values as Description.Columns; nil is NULL
	Tag  string      // command tag, such as "INSERT 0 1"; "" is "SELECT" and the number of rows
}

// Error is an error for the client, whose session goes on.
type Error struct {
	Code                  string // SQLSTATE; "" is P0001, raise_exception
	Message, Detail, Hint string // Detail and Hint may be empty
}

func (e *Error) Error() string { return e.Message }

// SQLState is the code that the client is told.
func (e *Error) SQLState() string {
	if e.Code == "" {
		return pgerrcode.RaiseException
	}
	return e.Code
}

// Config is one session of a client that is authenticated. All fields are required.
type Config struct {
	Client  net.Conn
	Handler Handler
	Key     pgproto3.BackendKeyData // what the client shows to cancel a statement
	Log     *slog.Logger
	Session string // for people

	// Record takes each statement down before it is run. After an error nothing is run any more, and Serve returns the error.
	Record func(ctx context.Context, sql string) error
	// MaxMessage bounds a client's message, in bytes with its length word. A statement that is longer is refused, up to 16 MiB.
	MaxMessage uint32
}

const (
	// maxSkipped is the longest message that is read past, so that its sender is told why it was not taken. It is somebody's mistake,
	// such as a file pasted as a reason.
	maxSkipped = 16 << 20
	// ahead is how many messages are read while a statement runs. A driver sends a few behind the one that waits, and its leaving is
	// seen only behind those.
	ahead = 8
)

// Conn is the wire of one session.
type Conn struct {
	cfg    Config
	cancel atomic.Pointer[func()] // ends the statement that runs; nil if none does

	writing sync.Mutex // guards what is written
	out     []byte     // to be sent by flush
	lost    bool       // the client takes nothing any more

	status   byte // of the transaction that the client believes in: I, T or E
	prepared map[string]*statement
	portals  map[string]*portal
	kept     int  // bytes in prepared and portals
	skipping bool // after an error of an extended query, to the next Sync
}

// New returns a Conn, to which nothing has been said yet.
func New(cfg Config) *Conn {
	return &Conn{cfg: cfg, status: 'I', prepared: make(map[string]*statement), portals: make(map[string]*portal)}
}

// ProtocolError is a message that no client may send, after which the session ends.
type ProtocolError struct{ Detail string }

func (e *ProtocolError) Error() string { return "protocol violation: " + e.Detail }

// recordError is an error of Config.Record.
type recordError struct{ error }

func (e recordError) Unwrap() error { return e.error }

// parameters are what drivers insist on, in the order of their names.
var parameters = []pgproto3.ParameterStatus{
	{Name: "DateStyle", Value: "ISO, MDY"},
	{Name: "IntervalStyle", Value: "postgres"},
	{Name: "TimeZone", Value: "UTC"},
	{Name: "client_encoding", Value: "UTF8"},
	{Name: "default_transaction_read_only", Value: "off"},
	{Name: "in_hot_standby", Value: "off"},
	{Name: "integer_datetimes", Value: "on"},
	{Name: "is_superuser", Value: "off"},
	{Name: "server_encoding", Value: "UTF8"},
	{Name: "server_version", Value: "18.0 (Hourgate)"},
	{Name: "standard_conforming_strings", Value: "on"},
}

// Welcome ends the client's log-in. Errors: relay.ErrClientGone.
func (c *Conn) Welcome() error {
	// client ← ParameterStatus…, BackendKeyData, ReadyForQuery
	for i := range parameters {
		c.put(&parameters[i])
	}
	c.put(&c.cfg.Key)
	c.ready()
	return c.flush()
}

// Cancel ends the statement that runs, if one does. Any goroutine may call it.
func (c *Conn) Cancel() {
	if cancel := c.cancel.Load(); cancel != nil {
		(*cancel)()
	}
}

// message is one of the client's.
type message struct {
	kind    byte
	body    []byte
	tooLong int64 // the length of a message that was read past; 0 for one that is here
}

// Serve answers messages until the client leaves or the session ends. A goroutine of its own reads them, so that a client
// that leaves while a statement waits is noticed. Errors: relay.ErrClientGone,
// relay.ErrClientQuit, relay.ErrMessageLength, *ProtocolError, those of Config.Record, and the cause of ctx.
func (c *Conn) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(ctx, func() { _ = c.cfg.Client.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	messages := make(chan message, ahead)
	go func() {
		defer close(messages)
		defer relay.Caught(cancel)
		cancel(c.readAll(ctx, messages))
	}()
	defer func() {
		cancel(nil)
		for range messages { // until the reader has ended
		}
	}()
	for m := range messages {
		if err := c.handle(ctx, m); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// readAll hands on messages until there are no more, and returns why.
func (c *Conn) readAll(ctx context.Context, to chan<- message) error {
	for {
		var header [5]byte
		if _, err := io.ReadFull(c.cfg.Client, header[:]); err != nil {
			return relay.ErrClientGone
		}
		m := message{kind: header[0]}
		var err error
		switch length := int64(binary.BigEndian.Uint32(header[1:])); {
		case length < 4 || length > maxSkipped:
			return relay.ErrMessageLength
		case length > int64(c.cfg.MaxMessage):
			m.tooLong = length
			_, err = io.CopyN(io.Discard, c.cfg.Client, length-4)
		default:
			m.body = make([]byte, length-4)
			_, err = io.ReadFull(c.cfg.Client, m.body)
		}
		if err != nil {
			return relay.ErrClientGone
		}
		if m.kind == 'X' { // Terminate
			return relay.ErrClientQuit
		}
		select {
		case to <- m:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// handle answers a message.
func (c *Conn) handle(ctx context.Context, m message) error {
	if m.kind == 'S' { // Sync
		c.skipping = false
		c.closePortals()
		c.ready()
		return c.flush()
	}
	if c.skipping {
		return nil
	}
	if m.tooLong > 0 && strings.IndexByte("QPBDECF", m.kind) >= 0 {
		return c.refuse(ctx, m.kind, &Error{
			Code: pgerrcode.ProgramLimitExceeded, Message: fmt.Sprintf("the statement is too long: %d bytes, and at most %d are taken", m.tooLong, c.cfg.MaxMessage),
		})
	}
	var err error
	switch m.kind {
	case 'Q':
		return c.simple(ctx, m.body)
	case 'P':
		err = c.parse(m.body)
	case 'B':
		err = c.bind(m.body)
	case 'D':
		err = c.describe(m.body)
	case 'E':
		err = c.execute(ctx, m.body)
	case 'C':
		err = c.close(m.body)
	case 'H': // Flush
		return c.flush()
	case 'F':
		err = &Error{Code: pgerrcode.UndefinedFunction, Message: "there are no functions here"}
	case 'd', 'c', 'f': // the rest of a COPY that was refused
		return nil
	default:
		return &ProtocolError{fmt.Sprintf("invalid frontend message type %d", m.kind)}
	}
	if err != nil {
		return c.refuse(ctx, m.kind, err)
	}
	return nil
}

// refuse answers a message with an error. After those of an extended query the client sends a Sync; others it has answered at once.
func (c *Conn) refuse(ctx context.Context, kind byte, err error) error {
	c.skipping = kind != 'Q' && kind != 'F'
	if err := c.fail(ctx, err); err != nil || c.skipping {
		return err
	}
	c.ready()
	return c.flush()
}

// simple answers a Query, which may hold several statements. An error ends it.
func (c *Conn) simple(ctx context.Context, body []byte) error {
	query := pgproto3.Query{}
	if query.Decode(body) != nil {
		return &ProtocolError{"invalid Query message"}
	}
	statements := splitStatements(query.String)
	if len(statements) == 0 {
		c.put(&pgproto3.EmptyQueryResponse{})
	}
	for _, sql := range statements {
		if err := c.runSimple(ctx, sql); err != nil {
			if err := c.fail(ctx, err); err != nil {
				return err
			}
			break
		}
	}
	c.closePortals()
	c.ready()
	return c.flush()
}

func (c *Conn) runSimple(ctx context.Context, sql string) error {
	d, result, err := c.run(ctx, sql, nil, func(d Description) error {
		if d.Parameters > 0 {
			return &Error{Code: pgerrcode.UndefinedParameter, Message: "there is no parameter $1"}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if d.Columns != nil {
		c.put(rowDescription(d.Columns))
	}
	for _, row := range result.Rows {
		c.put(dataRow(row))
	}
	c.put(result.complete())
	return nil
}

// run runs a statement, here or by the handler, after the trail has it. check looks at its description first.
func (c *Conn) run(ctx context.Context, sql string, args []*string, check func(Description) error) (Description, Result, error) {
	chore, own := c.housekeeping(sql)
	d, result := chore.Description, chore.Result
	if c.status == 'E' && (!own || result.Tag != "ROLLBACK") {
		return d, result, &Error{Code: pgerrcode.InFailedSQLTransaction, Message: "current transaction is aborted, commands ignored until end of transaction block"}
	}
	if !own {
		var err error
		if d, err = c.cfg.Handler.Describe(sql); err != nil {
			return d, result, err
		}
	}
	if err := check(d); err != nil {
		return d, result, err
	}
	if own {
		return d, result, chore.do()
	}
	if err := c.cfg.Record(ctx, sql); err != nil {
		return d, result, recordError{err}
	}
	result, err := c.interruptible(ctx, func(ctx context.Context, notice func(string)) (Result, error) {
		return c.cfg.Handler.Run(ctx, sql, args, notice)
	})
	return d, result, err
}

// errCanceled ends a statement whose client has sent a CancelRequest.
var errCanceled = &Error{Code: pgerrcode.QueryCanceled, Message: "canceling statement due to user request"}

// interruptible runs something that a CancelRequest may end.
func (c *Conn) interruptible(ctx context.Context, run func(context.Context, func(string)) (Result, error)) (Result, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	canceled := func() { cancel(errCanceled) }
	c.cancel.Store(&canceled)
	defer c.cancel.Store(nil)

	var notices sync.Mutex
	open := true
	defer func() { notices.Lock(); defer notices.Unlock(); open = false }()
	result, err := run(ctx, func(text string) {
		notices.Lock()
		defer notices.Unlock()
		if open {
			c.put(&pgproto3.NoticeResponse{Severity: "NOTICE", SeverityUnlocalized: "NOTICE", Code: pgerrcode.SuccessfulCompletion, Message: text})
			_ = c.flush() // that the client is gone, the reader finds out
		}
	})
	if err != nil && errors.Is(context.Cause(ctx), errCanceled) {
		return result, errCanceled
	}
	return result, err
}
