package upstream

import (
	"context"
	"net"
	"time"
)

// aheadAge is how old a connection may be that is logged in over: the server closes one on which nobody logs in, and
// after a failover its name leads elsewhere.
const aheadAge = 5 * time.Second

// Ahead is a connection that is opened before it is known whom to log in as: TCP and TLS, without a StartupMessage. Its
// methods are for one goroutine.
type Ahead struct {
	cancel context.CancelFunc
	began  time.Time
	opened chan struct{} // closed when conn or err is set
	conn   net.Conn
	err    error
	taken  bool // conn is its taker's to close
}

// Ahead begins to open a connection as the SSL mode tries it first, and returns at once. It is good for one log-in
// (Login.Ahead). When ctx is done, opening it fails. Close must be called in any case.
func (s *Server) Ahead(ctx context.Context) *Ahead {
	ctx, cancel := context.WithCancel(ctx)
	a := &Ahead{cancel: cancel, began: time.Now(), opened: make(chan struct{})}
	go func() {
		defer close(a.opened)
		a.conn, a.err = s.dial(ctx, s.cfg.SSLMode.attempts()[0])
	}()
	return a
}

// fresh reports that a log-in may use it.
func (a *Ahead) fresh() bool { return !a.taken && time.Since(a.began) < aheadAge }

// take waits for the connection and hands it over.
func (a *Ahead) take(ctx context.Context) (net.Conn, error) {
	select {
	case <-a.opened:
		a.taken = true
		return a.conn, a.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Close ends the attempt, and the connection unless a log-in has taken it. When it returns, nothing of it runs any more.
func (a *Ahead) Close() {
	a.cancel()
	<-a.opened
	if a.conn != nil && !a.taken {
		_ = a.conn.Close()
	}
}
