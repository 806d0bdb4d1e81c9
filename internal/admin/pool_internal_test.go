package admin

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/pgtest"
)

// Where no connection can be opened, a log-in waits for one that others use. If that breaks, nothing is left to wait for,
// and the log-in must not sit out its whole time.
func TestPoolDoesNotWaitForNothing(t *testing.T) {
	t.Parallel()
	db := pgtest.Start(t, 18).Database(t)
	refused := errors.New("password authentication failed")
	opening := make(chan error, 1)
	p := NewPool(Config{})
	p.open = func(ctx context.Context, _ string) (*Conn, error) {
		if err := <-opening; err != nil {
			return nil, err
		}
		conn, err := pgx.ConnectConfig(ctx, db.Superuser(t).Config())
		return &Conn{Conn: conn}, err
	}
	opening <- nil
	used, err := p.acquire(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	waited := make(chan error, 1)
	go func() {
		_, err := p.acquire(ctx, "")
		waited <- err
	}()
	opening <- refused
	select {
	case err := <-waited:
		t.Fatalf("got %v, want it to wait for the connection that is used", err)
	case <-time.After(100 * time.Millisecond):
	}
	if err := used.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.release(used)
	if err := <-waited; !errors.Is(err, refused) || ctx.Err() != nil {
		t.Errorf("got %v, want %v at once", err, refused)
	}
}

// A pool that is closed while its kept connections are being opened leaves none of them open: another gate would take it for one that lives.
func TestCloseWhileConnectionsOpen(t *testing.T) {
	t.Parallel()
	super := pgtest.Start(t, 18).Database(t).Superuser(t)
	const name = "TestCloseWhileConnectionsOpen"
	opening, goOn := make(chan struct{}, 2), make(chan struct{})
	p := NewPool(Config{})
	p.open = func(ctx context.Context, _ string) (*Conn, error) {
		opening <- struct{}{}
		<-goOn
		cfg := super.Config()
		cfg.RuntimeParams["application_name"] = name
		conn, err := pgx.ConnectConfig(ctx, cfg)
		return &Conn{Conn: conn}, err
	}
	ready := make(chan error, 1)
	go func() { ready <- p.Ready(t.Context()) }()
	<-opening
	p.Close()
	close(goOn)
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	eventually.True(t, "no connection is left", func() bool {
		var n int
		err := super.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", name).Scan(&n)
		return err == nil && n == 0
	})
	runtime.KeepAlive(p) // else the collector closes them
}

// Pools of one server share its connections: whoever needs one in another database gets it in place of one that lies idle, and
// who has one already gets another even when all places are taken. What has been idle for long is closed, but for the last.
func TestSharedConnections(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, 18)
	super := server.Database(t).Superuser(t)
	shared := NewShared()
	open := func(ctx context.Context, _ string) (*Conn, error) {
		conn, err := pgx.ConnectConfig(ctx, super.Config())
		return &Conn{Conn: conn}, err
	}
	var pools []*Pool
	for _, database := range []string{"a", "b", "c", "d"} {
		p := NewPool(Config{Database: database, Shared: shared})
		p.open = open
		pools = append(pools, p)
	}
	where := func(p *Pool, use func(context.Context, func(*Conn) error) error) (database string) {
		t.Helper()
		if err := use(t.Context(), func(c *Conn) error { database = c.database; return nil }); err != nil {
			t.Fatal(err)
		}
		return database
	}
	in := func(p *Pool) func(context.Context, func(*Conn) error) error {
		return func(ctx context.Context, fn func(*Conn) error) error { return p.In(ctx, p.cfg.Database, fn) }
	}
	for _, p := range pools {
		if got := where(p, in(p)); got != p.cfg.Database {
			t.Errorf("in %s, want %s", got, p.cfg.Database)
		}
	}
	if n := shared.live[""]; n != pooled {
		t.Errorf("%d connections for four databases, want %d", n, pooled)
	}
	if got := where(pools[1], pools[1].Use); got != "b" {
		t.Errorf("used the connection in %s, want the integration's own", got)
	}
	if got := where(pools[0], pools[0].Use); got != "b" { // the last that was used; its own was closed
		t.Errorf("used the connection in %s, want one that is there", got)
	}
	err := pools[2].Use(t.Context(), func(*Conn) error {
		return pools[3].Use(t.Context(), func(*Conn) error {
			return pools[0].Beside(t.Context(), "a", func(c *Conn) error {
				if c.database != "a" || shared.live[""] != pooled {
					t.Errorf("in %s of %d connections", c.database, shared.live[""])
				}
				return nil
			})
		})
	})
	if err != nil {
		t.Error(err)
	}
	for _, conn := range shared.idle {
		conn.used = conn.used.Add(-2 * idleLimit)
	}
	for range pooled {
		where(pools[0], pools[0].Use)
	}
	if n := shared.live[""]; n != 1 {
		t.Errorf("%d connections after a long time, want 1", n)
	}
	for _, p := range pools {
		p.Close()
	}
	if n := shared.live[""]; n != 0 {
		t.Errorf("%d connections of closed pools", n)
	}
}
