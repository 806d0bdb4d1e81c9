package gate_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/gatetest"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/internal/testdisk"
)

// While the trail's disk is frozen the gate lives, sessions go on, and access ends when it should, for people who ask
// for something all the time. What is recorded about it gets into the trail after the thaw.
func TestAccessEndsWhileTheTrailIsFrozen(t *testing.T) {
	t.Parallel()
	for _, major := range []int{13, 18} {
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) {
			t.Parallel()
			disk := testdisk.New(t)
			db := pgtest.Start(t, major).Database(t)
			g := gatetest.New(t, db)
			if err := os.Symlink(filepath.Join(disk.Folder, "trail.jsonl"), filepath.Join(g.Folder, "trail.jsonl")); err != nil {
				t.Fatal(err)
			}
			until := time.Now().Add(8 * time.Second)
			g.Run(t, g.Configure(t, gatetest.Options{Grants: gatetest.Grant("short", "access", "READ_WRITE", "until", until.UTC().Format(time.RFC3339Nano))}))
			t.Cleanup(disk.Thaw) // before the gate is stopped
			session := g.Connect(t, "orders")
			role := g.Roles(t)[0]
			disk.Freeze()
			var err error
			said := 0
			for ; err == nil; said++ {
				_, err = session.Exec(t.Context(), "UPDATE orders SET note = 'frozen' WHERE id = 1")
				if said%200 == 0 {
					asked := time.Now()
					if code, _ := g.Get(t, "/livez"); code != http.StatusOK || time.Since(asked) > 2*time.Second {
						t.Errorf("/livez answers %d after %v", code, time.Since(asked))
					}
				}
			}
			late := time.Since(until)
			wantFatal(t, err, pgerrcode.AdminShutdown, "terminating connection: your grant has ended")
			if late < 0 || late > time.Second || said < 100 {
				t.Errorf("the end came %v after the grant's, want at most 1s; %d statements", late, said)
			}
			var left int
			for deadline := until.Add(time.Second); ; {
				err := db.Superuser(t).QueryRow(t.Context(), `SELECT (SELECT count(*) FROM pg_stat_activity WHERE usename = $1)
					+ (SELECT count(*) FROM pg_roles WHERE rolname = $1 AND rolcanlogin)`, role).Scan(&left)
				if err != nil {
					t.Fatal(err)
				}
				if left == 0 || time.Now().After(deadline) {
					break
				}
			}
			if left != 0 {
				t.Errorf("1s after the end the role can log in, or is logged in: %d", left)
			}
			disk.Thaw()
			eventually.True(t, "the role is gone", func() bool { return len(g.Roles(t)) == 0 })
			eventually.True(t, "the end is recorded", func() bool { return len(g.Records(t, audit.SessionEnd)) == 1 })
			if n := len(g.Records(t, audit.SessionStatement)); n != said && n != said-1 { // the last may have come too late
				t.Errorf("%d statements were sent, %d are recorded", said, n)
			}
		})
	}
}
