package audit_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hourgate/hourgate/audit"
)

const shortQuery = "SELECT abalance FROM pgbench_accounts WHERE aid = 4211 /* x */"

// BenchmarkStatement measures what a session pays and what the machine pays, the writer included, in processor time that
// other processes don't disturb: session-cpu-ns/op and cpu-ns/op. Bursts that fit into the spool are followed by a pause outside of the clock in which the
// writer empties it; "flood" has no pause, so that sessions and writer compete.
func BenchmarkStatement(b *testing.B) {
	for _, sessions := range []int{1, 8} {
		b.Run(fmt.Sprintf("burst/sessions=%d", sessions), func(b *testing.B) { benchmarkStatement(b, sessions, 20_000) })
		b.Run(fmt.Sprintf("flood/sessions=%d", sessions), func(b *testing.B) { benchmarkStatement(b, sessions, 0) })
	}
}

func benchmarkStatement(b *testing.B, sessions, burst int) {
	file := filepath.Join(b.TempDir(), "trail.jsonl")
	trail, err := audit.Open(file, audit.Options{Deployment: "prod"})
	if err != nil {
		b.Fatal(err)
	}
	defer trail.Close()
	now := time.Now()
	b.ReportAllocs()
	cpu, session := cpuTime(b), time.Duration(0)
	b.ResetTimer()
	for left := b.N; left > 0; {
		n := left
		if burst > 0 {
			n = min(left, burst/2)
		}
		left -= n
		before := cpuTime(b)
		var wg sync.WaitGroup
		var taken atomic.Int64
		for range sessions {
			wg.Go(func() {
				s := audit.Statement{Session: "00c0ffee00c0ffee", User: "alice@example.com", Grant: "inc-4711", At: now, Kind: audit.StatementQuery, Text: []byte(shortQuery)}
				for taken.Add(64) <= int64(n)+63 {
					for range 64 {
						if err := trail.Statement(context.Background(), &s); err != nil {
							b.Error(err)
						}
					}
				}
			})
		}
		wg.Wait()
		session += cpuTime(b) - before
		if burst > 0 {
			b.StopTimer()
			appendAll(b, trail, start("alice"))
			b.StartTimer()
		}
	}
	b.StopTimer()
	appendAll(b, trail, start("alice"))
	if burst > 0 {
		b.ReportMetric(float64(session)/float64(b.N), "session-cpu-ns/op")
	}
	b.ReportMetric(float64(cpuTime(b)-cpu)/float64(b.N), "cpu-ns/op")
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
