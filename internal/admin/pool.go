package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgproto3"
)

const closeTimeout = 2 * time.Second // for saying goodbye to the server

// Pool is the admin's way to one integration. Its connections are those of Config.Shared: they are opened as needed, and
// closed when they lie idle.
type Pool struct {
	// Before is set by tests only, and before the first use: it is called before each statement, and an error of it ends the
	// connection's use.
	Before func(c *Conn, statement string) error

	cfg    Config
	shared *Shared
	open   func(ctx context.Context, database string) (*Conn, error)

	reached atomic.Bool // a log-in has succeeded
	created atomic.Bool // … of a user that may create roles
}

// NewPool returns a pool. The first use opens a connection, if none is open.
func NewPool(cfg Config) *Pool {
	p := &Pool{cfg: cfg, shared: cfg.Shared}
	if p.shared == nil {
		p.shared = NewShared()
	}
	p.open = p.connect
	return p
}

// Use runs fn on a connection to the server, in whatever database that is: for what all databases of a server share.
func (p *Pool) Use(ctx context.Context, fn func(*Conn) error) error {
	return p.use(ctx, p.shared.uses, "", fn)
}

// In runs fn on a connection to a database.
func (p *Pool) In(ctx context.Context, database string, fn func(*Conn) error) error {
	return p.use(ctx, p.shared.uses, database, fn)
}

// Beside is In for those who hold a connection already: it never waits for anybody who may wait for them.
func (p *Pool) Beside(ctx context.Context, database string, fn func(*Conn) error) error {
	return p.use(ctx, p.shared.besides, database, fn)
}

func (p *Pool) use(ctx context.Context, places chan struct{}, database string, fn func(*Conn) error) error {
	leave, err := enter(ctx, places)
	if err != nil {
		return err
	}
	defer leave()
	conn, err := p.acquire(ctx, database)
	if err != nil {
		p.shared.shut(p.shared.give(nil))
		if database != "" && database != p.cfg.Database {
			err = &UnreachableError{database, err}
		}
		return err
	}
	defer p.release(conn)
	err = fn(conn)
	conn.demoted = SQLState(err) == pgerrcode.ReadOnlySQLTransaction
	return err
}

// Urgent runs fn on a connection that nothing but ends uses, so that ending access waits neither for log-ins nor for roles
// that are being removed, nor for the ends of other integrations on the server. Where that connection is not open and can't
// be opened, fn gets one of the others.
func (p *Pool) Urgent(ctx context.Context, fn func(*Conn) error) error {
	s := p.shared
	s.begins(p)
	var conn *Conn
	select {
	case conn = <-s.urgent:
	default:
		select {
		case conn = <-s.urgent:
		case s.ends <- struct{}{}:
			defer func() { <-s.ends }()
			return p.once(ctx, fn)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	conn, err := p.revive(ctx, conn)
	if err != nil {
		s.urgent <- nil
		return p.Use(ctx, fn)
	}
	err = fn(conn)
	conn.demoted = SQLState(err) == pgerrcode.ReadOnlySQLTransaction
	s.stow(s.urgent, p.keep(conn))
	return err
}

// once runs fn on a connection that is opened for it and closed after it.
func (p *Pool) once(ctx context.Context, fn func(*Conn) error) error {
	conn, err := p.open(ctx, p.cfg.Database)
	if err != nil {
		return p.Use(ctx, fn)
	}
	defer shut(conn)
	return fn(conn)
}

// Ready opens the connection of Urgent, or asks whether it still works, and the guard's.
func (p *Pool) Ready(ctx context.Context) error {
	p.shared.begins(p)
	defer p.keepGuard(ctx)
	select {
	case conn := <-p.shared.urgent:
		conn, err := p.revive(ctx, conn)
		p.shared.stow(p.shared.urgent, conn)
		return err
	default:
		return nil // it is being used
	}
}

// revive returns conn if it works, else a new one.
func (p *Pool) revive(ctx context.Context, conn *Conn) (*Conn, error) {
	if conn != nil && (time.Since(conn.used) < idleCheck || conn.writable(ctx) == nil) {
		return conn, nil
	}
	if conn != nil {
		shut(conn)
	}
	conn, err := p.open(ctx, p.cfg.Database)
	if err != nil {
		return nil, err
	}
	conn.used = time.Now()
	return conn, nil
}

// keep returns conn as it may be used again, or nil.
func (p *Pool) keep(conn *Conn) *Conn {
	if !conn.reusable() {
		shut(conn)
		return nil
	}
	conn.notices, conn.used = nil, time.Now()
	return conn
}

func (c *Conn) reusable() bool { return !c.IsClosed() && !c.demoted && c.PgConn().TxStatus() == 'I' }

// shut says goodbye to the server, and waits until that has closed the connection: only then is there room for another.
func shut(conn *Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	taken, err := conn.PgConn().Hijack()
	if err != nil { // it is closed, or broken in the middle of something
		_ = conn.Close(ctx)
		return
	}
	defer taken.Conn.Close()
	_ = taken.Conn.SetDeadline(time.Now().Add(closeTimeout))
	taken.Frontend.Send(&pgproto3.Terminate{})
	if taken.Frontend.Flush() == nil {
		_, _ = io.Copy(io.Discard, taken.Conn)
	}
}

// Reserve waits until a log-in may use a connection. Call release when it is done.
func (p *Pool) Reserve(ctx context.Context) (release func(), err error) {
	return enter(ctx, p.shared.logins)
}

// Patient waits until work that is in no hurry may use connections, so that no log-in waits for all of it. Call release
// when it is done.
func (p *Pool) Patient(ctx context.Context) (release func(), err error) {
	return enter(ctx, p.shared.patient)
}

// acquire returns a connection that works, as far as can be told: one that lay idle is asked first.
func (p *Pool) acquire(ctx context.Context, database string) (*Conn, error) {
	conn, surplus := p.shared.take(p, database)
	for p.shared.shut(surplus); conn != nil; conn = p.shared.another(database) {
		if time.Since(conn.used) < idleCheck || p.check(ctx, conn) == nil {
			return conn, nil
		}
		p.shared.shut(conn)
	}
	wanted := database
	if wanted == "" {
		wanted = p.cfg.Database
	}
	conn, err := p.open(ctx, wanted)
	if err == nil {
		conn.used, conn.database, conn.passing = time.Now(), wanted, wanted != p.cfg.Database
		p.shared.opened(conn)
		return conn, nil
	}
	// The server has no slot left or the secret can't be had: wait for a connection that is there already, if one is, and
	// as long as one is.
	if conn, ok := p.shared.await(ctx, database); ok {
		return conn, nil
	}
	return nil, errors.Join(err, context.Cause(ctx))
}

// release gives a connection back. In a database that is not an integration's own nobody stays.
func (p *Pool) release(conn *Conn) {
	back := conn
	if conn.passing || !conn.reusable() || p.shared.unused() {
		p.shared.shut(conn)
		back = nil
	} else {
		conn.notices, conn.used = nil, time.Now()
	}
	p.shared.shut(p.shared.give(back))
}

// Duty does work on the server as a whole, unless the pool of another integration there is doing it or has done it less than
// every ago.
func (p *Pool) Duty(name string, every time.Duration, do func() error) error {
	d, ours := p.shared.begin(p, name, every)
	if !ours {
		return nil
	}
	err := do()
	p.shared.ended(d, err == nil)
	return err
}

// Close closes the connections that lie idle, unless pools of other integrations use them too. The others are closed by whoever
// uses them.
func (p *Pool) Close() { p.shared.retire(p) }

// UnreachableError is a database that can't be connected to.
type UnreachableError struct {
	Database string
	Err      error
}

func (e *UnreachableError) Error() string { return fmt.Sprintf("database %s: %v", e.Database, e.Err) }

// Unwrap returns what the server or the network said.
func (e *UnreachableError) Unwrap() error { return e.Err }
