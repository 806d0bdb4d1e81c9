package roles

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// poolSize is how many admin connections one integration may have open in its default database: one is always kept for
// settling.
const poolSize = 4

const (
	idleCheck    = time.Second     // a connection that lay idle for longer is pinged before it is used
	closeTimeout = 2 * time.Second // for saying goodbye to the server
)

// pool holds the admin connections in the integration's default database. Connections are opened as needed, up to
// poolSize, and the last one is never closed while it works.
type pool struct {
	open   func(context.Context) (*adminConn, error)
	idle   chan *adminConn
	free   chan struct{} // a token is the right to open one more connection
	logins chan struct{} // bounds the log-ins that hold a connection, so that one is left for settling

	mu   sync.Mutex // guards what follows
	live int
	none chan struct{} // closed while none is live
}

func newPool(open func(context.Context) (*adminConn, error)) *pool {
	p := &pool{
		open:   open,
		idle:   make(chan *adminConn, poolSize),
		free:   make(chan struct{}, poolSize),
		logins: make(chan struct{}, poolSize-1),
		none:   make(chan struct{}),
	}
	close(p.none)
	for range poolSize {
		p.free <- struct{}{}
	}
	return p
}

// use runs fn on a connection of the pool.
func (p *pool) use(ctx context.Context, fn func(*adminConn) error) error {
	conn, err := p.acquire(ctx)
	if err != nil {
		return err
	}
	defer p.release(conn)
	err = fn(conn)
	conn.demoted = sqlstate(err) == codeReadOnly
	return err
}

// reserve waits until a log-in may use a connection. Call release when it is done.
func (p *pool) reserve(ctx context.Context) (release func(), err error) {
	select {
	case p.logins <- struct{}{}:
		return func() { <-p.logins }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// acquire returns a connection that works, as far as can be told: one that lay idle is asked first.
func (p *pool) acquire(ctx context.Context) (*adminConn, error) {
	for {
		conn, err := p.next(ctx)
		if err != nil || time.Since(conn.used) < idleCheck || conn.writable(ctx) == nil {
			return conn, err
		}
		p.discard(conn)
	}
}

// next prefers an idle connection to a new one, and waits for one where no new one can be had.
func (p *pool) next(ctx context.Context) (*adminConn, error) {
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

func (p *pool) release(conn *adminConn) {
	if conn.IsClosed() || conn.demoted || conn.PgConn().TxStatus() != 'I' {
		p.discard(conn)
		return
	}
	conn.notices, conn.used = nil, time.Now()
	p.idle <- conn
}

func (p *pool) discard(conn *adminConn) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_ = conn.Close(ctx)
	p.count(-1)
	p.free <- struct{}{}
}

func (p *pool) count(more int) {
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
func (p *pool) noneLive() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.none
}

// close closes the idle connections; the others are closed by whoever uses them.
func (p *pool) close() {
	for {
		select {
		case conn := <-p.idle:
			p.discard(conn)
		default:
			return
		}
	}
}

// in runs fn on an admin connection to a database: one of the pool for the default database, else a fresh one.
func (k *Keeper) in(ctx context.Context, database string, fn func(*adminConn) error) error {
	if database == k.cfg.Database {
		return k.pool.use(ctx, fn)
	}
	conn, err := k.connect(ctx, database)
	if err != nil {
		return &unreachableError{database, err}
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		_ = conn.Close(ctx)
	}()
	return fn(conn)
}

// unreachableError is a database that can't be connected to.
type unreachableError struct {
	database string
	err      error
}

func (e *unreachableError) Error() string { return fmt.Sprintf("database %s: %v", e.database, e.err) }
func (e *unreachableError) Unwrap() error { return e.err }
