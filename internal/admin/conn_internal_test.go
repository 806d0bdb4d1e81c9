package admin

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/pgtest"
)

// Somebody who keeps Hourgate's lock holds up the first of many steps, and not each. Once the lock is free it is taken again.
func TestLockThatSomebodyKeeps(t *testing.T) {
	t.Parallel()
	db := pgtest.Start(t, 16).Database(t)
	keeper := db.Superuser(t)
	if _, err := keeper.Exec(t.Context(), fmt.Sprintf("SELECT pg_advisory_lock(%d)", int64(aclLock))); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.ConnectConfig(t.Context(), db.Superuser(t).Config())
	if err != nil {
		t.Fatal(err)
	}
	c := &Conn{Conn: conn, log: slog.New(slog.DiscardHandler)}
	t.Cleanup(func() { shut(c) })
	held := func() (n int) {
		t.Helper()
		err := c.Exclusively(t.Context(), func() error {
			return c.QueryOne(t.Context(), "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND granted", nil, &n)
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	began := time.Now()
	const steps = 8 // of 3 s each, if each waited
	for range steps {
		if held() > 0 {
			t.Fatal("the lock was taken while somebody has it")
		}
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("%d steps took %v", steps, took)
	}
	if _, err := keeper.Exec(t.Context(), "SELECT pg_advisory_unlock_all()"); err != nil {
		t.Fatal(err)
	}
	if held() != 1 {
		t.Error("a lock that is free was not taken")
	}
}
