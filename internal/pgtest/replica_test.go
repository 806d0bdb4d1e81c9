package pgtest_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/pgtest"
)

// What is committed on the one server shows on its replica, and not while its replay is paused.
func TestReplica(t *testing.T) {
	for _, major := range pgtest.Majors() {
		server := pgtest.Start(t, major)
		db := server.Database(t)
		replica := server.Replica(t)
		writer := db.Superuser(t)
		reader := replica.Superuser(t, db.Name)
		count := func() (n int) {
			if err := reader.QueryRow(t.Context(), "SELECT count(*) FROM orders WHERE note = 'new'").Scan(&n); err != nil {
				t.Fatalf("PostgreSQL %d: %v", major, err)
			}
			return n
		}
		add := func() {
			if _, err := writer.Exec(t.Context(), "INSERT INTO orders (customer_id, amount, note) SELECT 1, 1, 'new'"); err != nil {
				t.Fatalf("PostgreSQL %d: %v", major, err)
			}
		}
		await := func(want int) {
			eventually.True(t, fmt.Sprintf("the replica of PostgreSQL %d shows %d rows", major, want), func() bool { return count() == want })
		}
		add()
		await(1)
		resume := replica.PauseReplay(t)
		add()
		var received bool
		for deadline := time.Now().Add(30 * time.Second); !received && time.Now().Before(deadline); {
			if err := reader.QueryRow(t.Context(), "SELECT pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()").Scan(&received); err != nil {
				t.Fatal(err)
			}
		}
		if got := count(); got != 1 || !received {
			t.Errorf("PostgreSQL %d: while paused %d rows show, want 1; received: %v", major, got, received)
		}
		resume()
		await(2)
	}
}
