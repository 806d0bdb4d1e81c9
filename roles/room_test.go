package roles_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/policy"
)

// Everybody may fill the server's table of locks: nobody can log in, and no role be altered. The tenant's session, which does not
// hear its cancel, does so, or bob does; a second after the end neither has anything.
func TestEndWithoutRoomForLocks(t *testing.T) {
	t.Parallel()
	const flood = "SELECT count(pg_advisory_lock(i)) FROM generate_series(1, 10000000) i"
	const stays = `DO $$ BEGIN LOOP BEGIN PERFORM pg_advisory_lock(i) FROM generate_series(1, 10000000) i; EXCEPTION WHEN OTHERS OR query_canceled THEN
		BEGIN PERFORM pg_sleep(1); EXCEPTION WHEN query_canceled THEN NULL; END; END; END LOOP; END $$`
	for _, major := range []int{13, 18} {
		for _, who := range []string{"BOB", "ME"} {
			t.Run(fmt.Sprintf("PostgreSQL %d, %s", major, who), func(t *testing.T) {
				t.Parallel()
				server := pgtest.New(t, major, pgtest.Options{Settings: map[string]string{"max_connections": "30", "max_locks_per_transaction": "20"}})
				st := newStage(t, server.Database(t))
				ctx, cancel := context.WithCancel(t.Context())
				var running sync.WaitGroup
				running.Go(func() { st.Run(ctx) })
				t.Cleanup(running.Wait)
				t.Cleanup(cancel)
				st.begin(t, plot{tenant: []string{leak, steal}})
				st.as(t, "BOB", []string{"SELECT HOME.leak()"})
				waitFor(t, "there is a guard", func() bool {
					var n int
					_ = st.super.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND state = 'idle in transaction'", st.db.Admin).Scan(&n)
					return n == 1
				})
				filler := st.conns[who]
				if who == "ME" {
					go func() { _, _ = filler.Exec(context.Background(), stays) }()
				} else {
					_, _ = filler.Exec(t.Context(), flood)
				}
				waitFor(t, "the table of locks is full", func() bool {
					_, err := st.super.Exec(t.Context(), "SELECT count(pg_advisory_xact_lock(-i)) FROM generate_series(1, 100) i")
					return err != nil
				})
				ended := time.Now()
				st.live.Put(st.policy(t, policy.Access{}, "ally"))
				waitFor(t, "a second has passed", func() bool { return time.Since(ended) > time.Second })
				waitFor(t, "a try is over", st.tried)
				fresh := st.connect(t, "BOB")
				for _, call := range []string{"SELECT HOME.leak()", "SELECT HOME.steal()"} {
					if _, err := fresh.Exec(t.Context(), st.sql(call)); err == nil {
						t.Errorf("bob can do: %s", call)
					}
				}
				st.none(t, "sessions of the role", "SELECT count(*) FROM pg_stat_activity WHERE usename = $1", st.names["ME"])
				waitForLong(t, 20*time.Second, "the role is gone", func() bool { return !st.exists(t, st.names["ME"]) })
				if who == "BOB" { // the tenant's may have been terminated in a moment in which there was room
					waitFor(t, "who held the locks is recorded", func() bool { return len(st.trail.of(audit.SessionInside)) > 0 })
				}
				st.lease.Release()
			})
		}
	}
}
