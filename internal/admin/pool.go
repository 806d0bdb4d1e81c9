package admin

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgerrcode"
)

// PoolSize is how many admin connections one integration may have open in its default database: one is always kept for
// settling.
const PoolSize = 4

const (
	idleCheck    = time.Second     // a connection that lay idle for longer is pinged before it is used
	closeTimeout = 2 * time.Second // for saying goodbye to the server
)

// Pool holds the admin connections in the integration's default database. Connections are opened as needed, up to
// PoolSize, and the last one is never closed while it works.
type Pool struct {
	// Before is set by tests only, and before the first use: it is called before each statement, and an error of it ends the
	// connection's use.
	Before func(c *Conn, statement string) error

	cfg    Config
	open   func(context.Context) (*Conn, error)
	idle   chan *Conn
	free   chan struct{} // a token is the right to open one more connection
	logins chan struct{} // bounds the log-ins that hold a connection, so that one is left for settling

	reached atomic.Bool // a log-in has succeeded

	urgent chan *Conn // of one: the connection that ends access, nil while it is not open

	mu   sync.Mutex // guards what follows
	live int
	none chan struct{} // closed while none is live
}

// NewPool returns a pool without a connection: the first use opens one.
func NewPool(cfg Config) *Pool {
	p := &Pool{
		cfg:    cfg,
		idle:   make(chan *Conn, PoolSize),
		free:   make(chan struct{}, PoolSize),
		logins: make(chan struct{}, PoolSize-1),
		urgent: make(chan *Conn, 1),
		none:   make(chan struct{}),
	}
	p.urgent <- nil
	p.open = func(ctx context.Context) (*Conn, error) { return p.connect(ctx, cfg.Database) }
	close(p.none)
	for range PoolSize {
		p.free <- struct{}{}
	}
	return p
}

// Use runs fn on a connection of the pool.
func (p *Pool) Use(ctx context.Context, fn func(*Conn) error) error {
	conn, err := p.acquire(ctx)
	if err != nil {
		return err
	}
	defer p.release(conn)
	err = fn(conn)
	conn.demoted = SQLState(err) == pgerrcode.ReadOnlySQLTransaction
	return err
}

// Urgent runs fn on a connection that nothing else uses, so that ending access waits neither for log-ins nor for roles that
// are being removed. Where that connection is not open and can't be opened, fn gets one of the others.
func (p *Pool) Urgent(ctx context.Context, fn func(*Conn) error) error {
	var conn *Conn
	select {
	case conn = <-p.urgent:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	conn, err := p.revive(ctx, conn)
	if err != nil {
		p.urgent <- nil
		return p.Use(ctx, fn)
	}
	err = fn(conn)
	conn.demoted = SQLState(err) == pgerrcode.ReadOnlySQLTransaction
	p.urgent <- p.keep(conn)
	return err
}

// Ready opens the connection of Urgent, or asks whether it still works.
func (p *Pool) Ready(ctx context.Context) error {
	select {
	case conn := <-p.urgent:
		conn, err := p.revive(ctx, conn)
		p.urgent <- conn
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
	conn, err := p.open(ctx)
	if err != nil {
		return nil, err
	}
	conn.used = time.Now()
	return conn, nil
}

// keep returns conn as it may be used again, or nil.
func (p *Pool) keep(conn *Conn) *Conn {
	if conn.IsClosed() || conn.demoted || conn.PgConn().TxStatus() != 'I' {
		shut(conn)
		return nil
	}
	conn.notices, conn.used = nil, time.Now()
	return conn
}

// shut says goodbye to the server.
func shut(conn *Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_ = conn.Close(ctx)
}

// Reserve waits until a log-in may use a connection. Call release when it is done.
func (p *Pool) Reserve(ctx context.Context) (release func(), err error) {
	select {
	case p.logins <- struct{}{}:
		return func() { <-p.logins }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// acquire returns a connection that works, as far as can be told: one that lay idle is asked first.
func (p *Pool) acquire(ctx context.Context) (*Conn, error) {
	for {
		conn, err := p.next(ctx)
		if err != nil || time.Since(conn.used) < idleCheck || p.check(ctx, conn) == nil {
			return conn, err
		}
		p.discard(conn)
	}
}

// next prefers an idle connection to a new one, and waits for one where no new one can be had.
func (p *Pool) next(ctx context.Context) (*Conn, error) {
	select {
	case conn := <-p.idle:
		return conn, nil
	default:
	}
	select {
	case conn := <-p.idle:
		return conn, nil
	case <-p.free:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	conn, err := p.open(ctx)
	if err == nil {
		conn.used = time.Now()
		p.count(1)
		return conn, nil
	}
	p.free <- struct{}{}
	// The server has no slot left or the secret can't be had: wait for a connection that is there already, if one is, and
	// as long as one is.
	select {
	case conn := <-p.idle:
		return conn, nil
	case <-p.noneLive():
		return nil, err
	case <-ctx.Done():
		return nil, errors.Join(err, context.Cause(ctx))
	}
}

func (p *Pool) release(conn *Conn) {
	if conn = p.keep(conn); conn == nil {
		p.dropped()
		return
	}
	p.idle <- conn
}

func (p *Pool) discard(conn *Conn) {
	shut(conn)
	p.dropped()
}

func (p *Pool) dropped() {
	p.count(-1)
	p.free <- struct{}{}
}

func (p *Pool) count(more int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.live
	p.live += more
	switch {
	case before == 0:
		p.none = make(chan struct{})
	case p.live == 0:
		close(p.none)
	}
}

// noneLive returns a channel that is closed as soon as no connection is open.
func (p *Pool) noneLive() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.none
}

// Close closes the idle connections, all at once: a server that hangs holds up each. The others are closed by whoever uses
// them.
func (p *Pool) Close() {
	var closing sync.WaitGroup
	defer closing.Wait()
	select {
	case conn := <-p.urgent:
		if conn != nil {
			closing.Go(func() { shut(conn) })
		}
		p.urgent <- nil
	default:
	}
	for {
		select {
		case conn := <-p.idle:
			closing.Go(func() { p.discard(conn) })
		default:
			return
		}
	}
}

// In runs fn on an admin connection to a database: one of the pool for the default database, else a fresh one.
func (p *Pool) In(ctx context.Context, database string, fn func(*Conn) error) error {
	if database == p.cfg.Database {
		return p.Use(ctx, fn)
	}
	conn, err := p.connect(ctx, database)
	if err != nil {
		return &UnreachableError{database, err}
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		_ = conn.Close(ctx)
	}()
	return fn(conn)
}

// UnreachableError is a database that can't be connected to.
type UnreachableError struct {
	Database string
	Err      error
}

func (e *UnreachableError) Error() string { return fmt.Sprintf("database %s: %v", e.Database, e.Err) }

// Unwrap returns what the server or the network said.
func (e *UnreachableError) Unwrap() error { return e.Err }
