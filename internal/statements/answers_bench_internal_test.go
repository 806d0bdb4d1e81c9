package statements

import (
	"context"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/relay"
)

// BenchmarkTransactionInTheTrail measures the processor time that a transaction takes to be recorded, the trail's writer
// included, without results and with them.
func BenchmarkTransactionInTheTrail(b *testing.B) {
	simple := request('Q', "SELECT abalance FROM pgbench_accounts WHERE aid = 4211\x00")
	for name, results := range map[string]bool{"statements": false, "statements and results": true} {
		b.Run("simple/"+name, func(b *testing.B) { benchmarkWatcher(b, simple, results) })
		b.Run("extended/"+name, func(b *testing.B) { benchmarkWatcher(b, extended, results) })
	}
}

func benchmarkWatcher(b *testing.B, asks []byte, results bool) {
	trail, err := audit.Open(filepath.Join(b.TempDir(), "trail.jsonl"), audit.Options{})
	if err != nil {
		b.Fatal(err)
	}
	s := &Watcher{trail: trail, ctx: context.Background(), who: audit.Statement{Session: "00c0ffee00c0ffee", User: "alice@example.com", Grant: "inc-4711"}}
	if results {
		s.answers = newAnswers(trail, "00c0ffee00c0ffee", time.Now())
	}
	requests, replies := s.Kinds()
	up, down := relay.NewFrames(requests, s.Request), relay.NewFrames(replies, s.Reply)
	says := join(request('1', ""), request('2', ""), request('T', "\x00\x00"), request('D', "\x00\x00"), request('C', "SELECT 1\x00"), request('Z', "I"))
	if asks[0] == 'Q' {
		says = join(request('T', "\x00\x00"), request('D', "\x00\x00"), request('C', "SELECT 1\x00"), request('Z', "I"))
	}
	b.ReportAllocs()
	before := cpuTime(b)
	for b.Loop() {
		if _, err := up.Scan(asks, time.Now()); err != nil {
			b.Fatal(err)
		}
		if _, err := down.Scan(says, time.Now()); err != nil {
			b.Fatal(err)
		}
	}
	if err := trail.Close(); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
