package roles_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/policy"
)

// sleep runs a statement that does not end by itself, and returns what it ends with.
func (f *fixture) sleep(t *testing.T, conn *pgx.Conn) <-chan error {
	t.Helper()
	pid := conn.PgConn().PID()
	ended := make(chan error, 1)
	go func() {
		_, err := conn.Exec(context.Background(), "SELECT pg_sleep(60)")
		ended <- err
	}()
	waitFor(t, "the statement runs", func() bool { return f.asleep(t, pid) })
	return ended
}

func (f *fixture) asleep(t *testing.T, pid uint32) (asleep bool) {
	t.Helper()
	err := f.super.QueryRow(t.Context(), "SELECT count(*) > 0 FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'PgSleep'", pid).Scan(&asleep)
	if err != nil {
		t.Fatal(err)
	}
	return asleep
}

// The admin cancels what a session runs, and nobody else's.
func TestCancel(t *testing.T) {
	t.Parallel()
	someMajors(t, func(t *testing.T, db *pgtest.Database) {
		f := newFixture(t, db)
		lease := f.acquire(t, f.grant(policy.ReadOnly, time.Hour))
		conn := f.login(t, lease.Login())
		pid := conn.PgConn().PID()
		lease.Opened(pid)
		other := f.login(t, upstream.Login{User: db.Owner, Password: db.OwnerPassword, Database: db.Name}) // the owner, whom the admin could cancel as well
		theirs := f.sleep(t, other)
		ours := f.sleep(t, conn)

		// The server may have given the process ID to somebody else meanwhile.
		stranger := other.PgConn().PID()
		if err := lease.Cancel(t.Context(), stranger); err == nil {
			t.Error("a process that the session never had was cancelled")
		}
		lease.Opened(stranger)
		if err := lease.Cancel(t.Context(), stranger); err == nil {
			t.Error("a process of another role was cancelled")
		}
		if !f.asleep(t, stranger) || !f.asleep(t, pid) {
			t.Fatal("a statement was cancelled that should not have been")
		}

		if err := lease.Cancel(t.Context(), pid); err != nil {
			t.Fatal(err)
		}
		var pgErr *pgconn.PgError
		if err := <-ours; !errors.As(err, &pgErr) || pgErr.Code != pgerrcode.QueryCanceled {
			t.Errorf("the statement ended with %v, want 57014", err)
		}
		if err := conn.Ping(t.Context()); err != nil {
			t.Errorf("the session did not go on: %v", err)
		}
		if !f.asleep(t, stranger) {
			t.Error("another's statement was cancelled")
		}
		f.exec(t, "SELECT pg_terminate_backend($1)", stranger)
		<-theirs

		lease.Closed(pid)
		if err := lease.Cancel(t.Context(), pid); err == nil {
			t.Error("a process was cancelled whose connection is closed")
		}
		lease.Release()
		f.waitGone(t, lease.Login().User)
	})
}
