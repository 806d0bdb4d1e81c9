package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/relay"
)

// ConsoleDatabase is the name of the database that the gate serves itself, if it has a Console.
const ConsoleDatabase = "hourgate"

// Console answers what people ask of the gate itself, in the database "hourgate". The wire is spoken here, with simple and
// extended queries; a Console sees statements as text and answers with text.
//
// BEGIN, COMMIT, ROLLBACK, SET, RESET, SHOW, DISCARD and DEALLOCATE are answered here, as far as clients need them. Nothing is
// undone by ROLLBACK.
type Console interface {
	// Open is called for each session, for an authenticated user. An error that is a *ConsoleError is told to the client, and
	// any other is an internal error.
	Open(ctx context.Context, who Info) (ConsoleSession, error)
}

// ConsoleSession is one session of a Console. Its methods are called one after the other.
type ConsoleSession interface {
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

// ConsoleError is an error for the client, whose session goes on.
type ConsoleError struct {
	Code                  string // SQLSTATE; "" is P0001, raise_exception
	Message, Detail, Hint string // Detail and Hint may be empty
}

func (e *ConsoleError) Error() string { return e.Message }

// maxConsoleMessage bounds a client's message to the console, with its length word: what one statement record holds.
const maxConsoleMessage = audit.MaxStatementText

// console is a session that is served here.
type console struct {
	*session
	handler ConsoleSession

	writing sync.Mutex // guards what is written
	out     []byte     // to be sent by flush

	status   byte // of the transaction that the client believes in: I, T or E
	prepared map[string]*consoleStatement
	portals  map[string]*consolePortal
	skipping bool // after an error of an extended query, to the next Sync
}

// wantsConsole reports that the client has asked for the gate's own database.
func (s *session) wantsConsole() bool {
	return s.server.cfg.Console != nil && (s.operator || s.requestedDatabase() == ConsoleDatabase)
}

// serveConsole serves the gate's own database to an authenticated user. stop ends the limits of the log-in.
func (s *session) serveConsole(ctx context.Context, stop func()) error {
	if err := s.authorizeConsole(); err != nil {
		return err
	}
	if err := s.announce(); err != nil {
		return err
	}
	s.enter(provisioning)
	handler, err := s.server.cfg.Console.Open(ctx, *s.info.Load())
	if err != nil {
		return consoleRefusal(err)
	}
	defer handler.Close()
	c := &console{session: s, handler: handler, status: 'I', prepared: make(map[string]*consoleStatement), portals: make(map[string]*consolePortal)}
	if err := c.welcome(); err != nil {
		return err
	}
	defer s.server.cancels.remove(s)
	stop()
	s.deadline(time.Time{})
	s.publish(Running)
	s.log.Info("console opened")
	return c.loop(ctx)
}

// authorizeConsole lets in every user who can still prove who they are. It holds the server's mutex as authorize does.
func (s *session) authorizeConsole() error {
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	if now := s.server.cfg.Policy.Set(); !s.operator && now != s.policy && !now.SameIdentity(s.policy, s.user) {
		return wrongPassword(s.user)
	}
	s.console = true
	s.decision.Database = ConsoleDatabase
	return nil
}

// consoleRefusal is what a client is told whose console could not be opened.
func consoleRefusal(err error) error {
	var told *ConsoleError
	if !errors.As(err, &told) {
		return fmt.Errorf("opening console: %w", err)
	}
	return &refusal{code: told.code(), message: told.Message, detail: told.Detail, hint: told.Hint, reason: "console"}
}

func (e *ConsoleError) code() string {
	if e.Code == "" {
		return pgerrcode.RaiseException
	}
	return e.Code
}

// consoleParameters are what drivers insist on, in the order of their names.
var consoleParameters = []pgproto3.ParameterStatus{
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

// consolePID stands where a server has its process ID, which is never 0.
const consolePID = 1

func (c *console) welcome() error {
	c.server.cancels.add(c.session, consolePID)
	// client ← ParameterStatus…, BackendKeyData, ReadyForQuery
	for i := range consoleParameters {
		c.put(&consoleParameters[i])
	}
	c.put(&pgproto3.BackendKeyData{ProcessID: c.cancelKey.pid, SecretKey: c.cancelKey.secret})
	c.ready()
	return c.flush()
}

// message is one of the client's.
type message struct {
	kind byte
	body []byte
}

// loop answers messages until the client leaves or the session ends. A goroutine of its own reads them, so that a client
// that leaves while a statement waits is noticed.
func (c *console) loop(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(ctx, func() { _ = c.client.SetReadDeadline(past) })
	defer stop()
	messages := make(chan message)
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
func (c *console) readAll(ctx context.Context, to chan<- message) error {
	for {
		var header [5]byte
		if _, err := io.ReadFull(c.client, header[:]); err != nil {
			return relay.ErrClientGone
		}
		length := binary.BigEndian.Uint32(header[1:])
		if length < 4 || length > maxConsoleMessage {
			return errMessageLength
		}
		m := message{header[0], make([]byte, length-4)}
		if _, err := io.ReadFull(c.client, m.body); err != nil {
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
func (c *console) handle(ctx context.Context, m message) error {
	if m.kind == 'S' { // Sync
		c.skipping = false
		clear(c.portals)
		c.ready()
		return c.flush()
	}
	if c.skipping {
		return nil
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
		err = &ConsoleError{Code: pgerrcode.FeatureNotSupported, Message: "functions can't be called here"}
	case 'd', 'c', 'f': // the rest of a COPY that was refused
		return nil
	default:
		return protocolViolation(fmt.Sprintf("invalid frontend message type %d", m.kind))
	}
	if err != nil {
		c.skipping = true
		return c.fail(ctx, err)
	}
	return nil
}

// simple answers a Query, which may hold several statements. An error ends it.
func (c *console) simple(ctx context.Context, body []byte) error {
	query := pgproto3.Query{}
	if query.Decode(body) != nil {
		return protocolViolation("invalid Query message")
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
	clear(c.portals)
	c.ready()
	return c.flush()
}

func (c *console) runSimple(ctx context.Context, sql string) error {
	d, result, err := c.run(ctx, sql, nil, func(d Description) error {
		if d.Parameters > 0 {
			return &ConsoleError{Code: pgerrcode.UndefinedParameter, Message: "there is no parameter $1"}
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
func (c *console) run(ctx context.Context, sql string, args []*string, check func(Description) error) (Description, Result, error) {
	d, result, own := c.housekeeping(sql)
	if c.status == 'E' && (!own || result.Tag != "ROLLBACK") {
		return d, result, &ConsoleError{Code: pgerrcode.InFailedSQLTransaction, Message: "current transaction is aborted, commands ignored until end of transaction block"}
	}
	if !own {
		var err error
		if d, err = c.handler.Describe(sql); err != nil {
			return d, result, err
		}
	}
	if err := check(d); err != nil {
		return d, result, err
	}
	if own {
		c.follow(result.Tag)
		return d, result, nil
	}
	if err := c.record(ctx, sql); err != nil {
		return d, result, err
	}
	result, err := c.interruptible(ctx, func(ctx context.Context, notice func(string)) (Result, error) {
		return c.handler.Run(ctx, sql, args, notice)
	})
	return d, result, err
}

// record writes the statement into the trail, unless the trail wants none.
func (c *console) record(ctx context.Context, sql string) error {
	if c.server.limits.Load().DiscardStatements {
		return nil
	}
	err := c.server.cfg.Trail.Statement(ctx, &audit.Statement{Kind: audit.StatementQuery, Session: c.id, User: c.user, At: time.Now(), Text: []byte(sql)})
	if err != nil {
		c.server.metrics.trailErrors.Inc()
		return fmt.Errorf("%w: %w", errTrailStatement, err)
	}
	return nil
}

// errCanceled ends a statement whose client has sent a CancelRequest.
var errCanceled = &ConsoleError{Code: pgerrcode.QueryCanceled, Message: "canceling statement due to user request"}

// interruptible runs something that a CancelRequest may end.
func (c *console) interruptible(ctx context.Context, run func(context.Context, func(string)) (Result, error)) (Result, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	canceled := func() { cancel(errCanceled) }
	c.cancelConsole.Store(&canceled)
	defer c.cancelConsole.Store(nil)

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
