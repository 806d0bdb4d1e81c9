package roles_test

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/policy"
)

const churnWorkers = 64

// churnCycles is small unless HOURGATE_CHURN says otherwise (make churn).
func churnCycles(t *testing.T) int {
	t.Helper()
	n, err := strconv.Atoi(os.Getenv("HOURGATE_CHURN"))
	if err != nil {
		return 96
	}
	return n
}

// Many people's grants begin and end over the same tables: nobody sees an error, and nothing is left.
func TestChurn(t *testing.T) {
	t.Parallel()
	someMajors(t, func(t *testing.T, db *pgtest.Database) {
		f := newFixture(t, db)
		accesses := []policy.Access{
			{Level: policy.ReadOnly},
			{Level: policy.ReadWrite},
			{Level: policy.Admin},
			{Tables: map[string][]policy.Privilege{"public.orders": {"SELECT"}}},
		}
		for _, a := range accesses[:3] {
			f.warm(t, a.Level)
		}
		before := f.snapshot(t)
		cycles := churnCycles(t)
		work := make(chan int)
		var made atomic.Int64
		var workers sync.WaitGroup
		for range churnWorkers {
			workers.Go(func() {
				for i := range work {
					g := f.grant("", time.Hour)
					g.Access = accesses[i%len(accesses)]
					g.Name = fmt.Sprintf("g-%d", i%7)
					lease, err := f.Acquire(t.Context(), fmt.Sprintf("p%d@example.com", i), g, db.Name)
					if err != nil {
						t.Errorf("cycle %d: %v", i, err)
						continue
					}
					made.Add(1)
					lease.Release()
				}
			})
		}
		for i := range cycles {
			work <- i
		}
		close(work)
		workers.Wait()
		waitForLong(t, 2*time.Minute, "all roles are settled, or left to the sweep", func() bool {
			return len(f.trail.of(audit.RoleSettled))+len(f.trail.of(audit.RoleSettleFailed)) >= int(made.Load())+3
		})
		if err := f.Sweep(t.Context()); err != nil {
			t.Errorf("sweep: %v", err)
		}
		if diff := cmp.Diff(before, f.snapshot(t)); diff != "" {
			t.Errorf("the catalogs changed (-before +after):\n%s", diff)
		}
	})
}

// BenchmarkRole measures making and settling a role, as a person waits for the one and nobody for the other.
func BenchmarkRole(b *testing.B) {
	for _, major := range pgtest.Majors() {
		for _, level := range []policy.Level{policy.ReadOnly, policy.Admin} {
			b.Run(fmt.Sprintf("PostgreSQL %d/%s", major, level), func(b *testing.B) {
				f := newFixture(b, pgtest.Start(b, major).Database(b))
				var provisions, settles []time.Duration
				cycle := func() {
					began := time.Now()
					lease, err := f.Acquire(b.Context(), "alice@example.com", f.grant(level, time.Hour), f.db.Name)
					if err != nil {
						b.Fatal(err)
					}
					made := time.Now()
					lease.Release()
					for f.Live(lease.Login().User) {
						time.Sleep(100 * time.Microsecond)
					}
					provisions, settles = append(provisions, made.Sub(began)), append(settles, time.Since(made))
				}
				cycle() // makes the profile
				provisions, settles = nil, nil
				for b.Loop() {
					cycle()
				}
				report(b, "provision", provisions)
				report(b, "settle", settles)
			})
		}
	}
}

func report(b *testing.B, what string, took []time.Duration) {
	b.Helper()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, what+"-median-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, what+"-p99-ms")
}
