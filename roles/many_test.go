package roles_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/roles"
)

// BenchmarkManyRoles measures what a role costs where there are many (make ends): to make it, and to settle all at once.
func BenchmarkManyRoles(b *testing.B) {
	for _, major := range []int{13, 15, 18} {
		for _, count := range []int{500, 1500, 5000} {
			b.Run(fmt.Sprintf("PostgreSQL %d/%d", major, count), func(b *testing.B) {
				live := &policy.Live{}
				f := newFixture(b, pgtest.New(b, major, pgtest.Options{}).Database(b), func(c *roles.Config) { c.Policy, c.Linger = live, time.Hour })
				set := manyGrants(b, f, count)
				live.Put(set)
				b.ResetTimer()
				began := time.Now()
				for i := range count {
					user := fmt.Sprintf("p%d", i)
					grant, _ := set.Covers(user, user, f.db.Name, time.Now())
					lease, err := f.Acquire(b.Context(), user, grant, f.db.Name)
					if err != nil {
						b.Fatal(err)
					}
					lease.Release()
				}
				made := time.Now()
				live.Put(manyGrants(b, f, 0))
				for len(f.trail.of(audit.RoleSettled)) < count {
					time.Sleep(10 * time.Millisecond)
				}
				b.ReportMetric(float64(made.Sub(began).Microseconds())/1000/float64(count), "make-ms/role")
				b.ReportMetric(float64(time.Since(made).Microseconds())/1000/float64(count), "settle-ms/role")
			})
		}
	}
}

// BenchmarkProfiles measures what decision 50 is about: a lease that is a member of a profile that all share, and one that has a profile of
// its own, with a GRANT on each table. Growth is what is written to the catalogs that hold privileges.
func BenchmarkProfiles(b *testing.B) {
	for _, major := range []int{13, 15, 18} {
		for _, tables := range []int{100, 1000} {
			for _, own := range []bool{false, true} {
				b.Run(fmt.Sprintf("PostgreSQL %d/%d tables/own %t", major, tables, own), func(b *testing.B) {
					f := newFixture(b, pgtest.New(b, major, pgtest.Options{Settings: map[string]string{"autovacuum": "off", "max_locks_per_transaction": "256"}}).Database(b))
					f.exec(b, fmt.Sprintf("CREATE SCHEMA app; CREATE ROLE shared; GRANT USAGE ON SCHEMA app TO shared; DO $$ BEGIN FOR i IN 1..%d LOOP EXECUTE format('CREATE TABLE app.t%%s (i int)', i); END LOOP; END $$; GRANT SELECT ON ALL TABLES IN SCHEMA app TO shared", tables))
					size := func() (n int64) {
						if err := f.super.QueryRow(b.Context(), "SELECT pg_total_relation_size('pg_class') + pg_total_relation_size('pg_shdepend') + pg_total_relation_size('pg_authid') + pg_total_relation_size('pg_auth_members')").Scan(&n); err != nil {
							b.Fatal(err)
						}
						return n
					}
					before := size()
					var making, ending time.Duration
					for b.Loop() {
						began := time.Now()
						f.exec(b, "BEGIN; CREATE ROLE lease; GRANT shared TO lease; COMMIT")
						if own {
							f.exec(b, "BEGIN; CREATE ROLE own; GRANT USAGE ON SCHEMA app TO own; GRANT SELECT ON ALL TABLES IN SCHEMA app TO own; GRANT own TO lease; COMMIT")
						}
						made := time.Now()
						if own {
							f.exec(b, "BEGIN; DROP OWNED BY own; DROP ROLE own; COMMIT")
						}
						f.exec(b, "DROP ROLE lease")
						making, ending = making+made.Sub(began), ending+time.Since(made)
					}
					b.ReportMetric(float64(making.Microseconds())/1000/float64(b.N), "make-ms/lease")
					b.ReportMetric(float64(ending.Microseconds())/1000/float64(b.N), "end-ms/lease")
					b.ReportMetric(float64(size()-before)/1024/float64(b.N), "growth-KiB/lease")
				})
			}
		}
	}
}
