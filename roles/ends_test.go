package roles_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/roles"
)

// Many grants end at the same moment, with a session each that ignores its client: all statements end together, and all roles
// go. HOURGATE_ENDS=500 (make ends) prints figures for as many.
func TestManyEnds(t *testing.T) {
	t.Parallel()
	count := 24
	if n, err := strconv.Atoi(os.Getenv("HOURGATE_ENDS")); err == nil {
		count = n
	}
	for _, major := range []int{13, 18} {
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) {
			if os.Getenv("HOURGATE_ENDS") == "" { // figures are taken one after the other
				t.Parallel()
			}
			server := pgtest.New(t, major, pgtest.Options{Settings: map[string]string{"max_connections": strconv.Itoa(count + 40)}})
			live := &policy.Live{}
			f := newFixture(t, server.Database(t), func(c *roles.Config) { c.Policy = live })
			set := manyGrants(t, f, count)
			live.Put(set)
			leases := make([]*roles.Lease, count)
			over := make([]time.Time, count) // when the statement's client heard of its end
			var sessions sync.WaitGroup
			for i := range count {
				user := fmt.Sprintf("p%d", i)
				grant, _ := set.Covers(user, user, f.db.Name, time.Now())
				lease, err := f.Acquire(t.Context(), user, grant, f.db.Name)
				if err != nil {
					t.Fatal(err)
				}
				leases[i] = lease
				conn := f.login(t, lease.Login())
				statement := "SELECT pg_sleep(600)"
				if i%8 == 0 {
					statement = do("LOOP BEGIN PERFORM pg_sleep(600); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP")
				}
				sessions.Go(func() {
					_, _ = conn.Exec(context.Background(), statement)
					over[i] = time.Now()
					lease.Release()
				})
			}
			busy := func() (n int) {
				err := f.super.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE usename ~ '^hg_' AND wait_event = 'PgSleep'").Scan(&n)
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
			waitForLong(t, time.Minute, "all sessions run", func() bool { return busy() == count })

			ended := time.Now()
			live.Put(manyGrants(t, f, 0))
			sessions.Wait()
			statements := slices.MaxFunc(over, time.Time.Compare).Sub(ended)
			if n := busy(); n > 0 {
				t.Errorf("%d statements run on although their clients were told", n)
			}
			waitForLong(t, 2*time.Minute, "all roles are settled", func() bool { return len(f.trail.of(audit.RoleSettled)) == count })
			settled := time.Since(ended)
			t.Logf("%d ends: last statement after %v, last role after %v, %v a role", count, statements, settled, settled/time.Duration(count))
			if os.Getenv("HOURGATE_STRICT") != "" && statements > time.Second {
				t.Errorf("the last statement ended after %v", statements)
			}
		})
	}
}

// manyGrants is a policy with so many people, each with a grant.
func manyGrants(t testing.TB, f *fixture, count int) *policy.Set {
	t.Helper()
	var users, grants strings.Builder
	for i := range count {
		fmt.Fprintf(&users, "  - {name: p%d}\n", i)
		fmt.Fprintf(&grants, "  - {name: p%d, users: [p%d], integration: orders, access: READ_ONLY, until: %s}\n", i, i, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	}
	text := "users: [{name: nobody}]\ngrants: []\n"
	if count > 0 {
		text = "users:\n" + users.String() + "grants:\n" + grants.String()
	}
	set, err := policy.Parse([]policy.Source{{File: "p.yaml", Data: []byte(text)}}, map[string]string{"orders": f.db.Name})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// A role of a proxy that was killed ends with its grant, although somebody has a session with that proxy's application_name
// and the next sweep is a minute away.
func TestOrphanEndsWithItsGrant(t *testing.T) {
	t.Parallel()
	for _, major := range []int{13, 18} {
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t, major, pgtest.Options{}).Database(t)
			f := newFixture(t, db)
			ctx, cancel := context.WithCancel(t.Context())
			var running sync.WaitGroup
			running.Go(func() { f.Run(ctx) })
			defer running.Wait()
			defer cancel()
			until := time.Now().Add(4 * time.Second).UTC()
			role := "hg_orphan_" + strings.TrimPrefix(db.Name, "db_")
			admin := pgx.Identifier{db.Admin}.Sanitize()
			comment := fmt.Sprintf(`{"hourgate":1,"deployment":%q,"proxy":"faked","integration":"orders","user":"carol","grant":"g","until":%q}`, f.deployment(), until.Format(time.RFC3339Nano))
			fake, err := pgx.Connect(t.Context(), db.Server.URL(db.Owner, db.OwnerPassword, db.Name).String())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = fake.Close(context.Background()) }()
			if _, err := fake.Exec(t.Context(), "SET application_name = 'hourgate faked "+f.deployment()+"'"); err != nil {
				t.Fatal(err)
			}
			f.exec(t, fmt.Sprintf("SET ROLE %s; CREATE ROLE %s LOGIN PASSWORD 'orphan' VALID UNTIL '%s'; RESET ROLE; COMMENT ON ROLE %s IS '%s'", admin, role, until.Format(time.RFC3339), role, comment))
			conn, err := pgx.Connect(t.Context(), db.Server.URL(role, "orphan", db.Name).String())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close(context.Background()) }()
			_, err = conn.Exec(t.Context(), "SELECT pg_sleep(60)")
			ended := time.Since(until)
			if err == nil || ended < 0 {
				t.Errorf("the statement ended %v after its grant with %v", ended, err)
			}
			t.Logf("the statement ended %v after its grant", ended)
			f.waitGone(t, role)
			if os.Getenv("HOURGATE_STRICT") != "" && ended > time.Second {
				t.Errorf("the statement ended %v after its grant", ended)
			}
		})
	}
}
