package admin

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

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
	p.open = func(ctx context.Context) (*Conn, error) {
		if err := <-opening; err != nil {
			return nil, err
		}
		conn, err := pgx.ConnectConfig(ctx, db.Superuser(t).Config())
		return &Conn{Conn: conn}, err
	}
	opening <- nil
	used, err := p.acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	waited := make(chan error, 1)
	go func() {
		_, err := p.acquire(ctx)
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
