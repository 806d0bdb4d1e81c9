package gate

import (
	"context"
	"runtime/debug"
	"time"
)

const (
	// quietFor is how long no client has to come before the gate gives memory back.
	quietFor = 2 * time.Second

	// After a rush of log-ins there is much to give, so that it does not wait for long. After a few, giving it back would
	// disturb those who have just come.
	rush           = 100
	quietAfterRush = 400 * time.Millisecond

	// giveAgain is when memory is given back that was needed since, for records and for looks at the servers.
	giveAgain = 30 * time.Second
)

// giveBack returns the memory that a rush of log-ins has needed, until ctx is done. Left to itself, Go keeps it for
// minutes: an idle session of 10,000 took 51 KiB then, and takes 40 (make bench BENCHFLAGS="-only memory").
func (g *Gate) giveBack(ctx context.Context) {
	ticker := time.NewTicker(quietAfterRush)
	defer ticker.Stop()
	q := quiet{gave: time.Now()}
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if q.due(time.Now(), g.server.Accepted()) {
			debug.FreeOSMemory()
		}
	}
}

// quiet decides when memory is given back.
type quiet struct {
	accepted uint64 // connections, at the last look
	since    time.Time
	given    uint64 // connections, when memory was given back last
	gave     time.Time
}

// due takes a look, with how many connections there have been.
func (q *quiet) due(now time.Time, accepted uint64) bool {
	if accepted != q.accepted {
		q.accepted, q.since = accepted, now
		return false
	}
	wait := quietFor
	if accepted-q.given >= rush {
		wait = quietAfterRush
	}
	if now.Sub(q.since) < wait || accepted == q.given && now.Sub(q.gave) < giveAgain {
		return false
	}
	q.given, q.gave = accepted, now
	return true
}
