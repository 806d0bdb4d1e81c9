package gate

import (
	"context"
	"runtime/debug"
	"time"
)

// quietFor is how long no client has to come before the gate gives memory back.
const quietFor = 2 * time.Second

// giveBack returns the memory that a rush of log-ins has needed, until ctx is done. Left to itself, Go keeps it for
// minutes: an idle session of 10,000 took 51 KiB then, and takes 40 (make bench BENCHFLAGS="-only memory").
func (g *Gate) giveBack(ctx context.Context) {
	ticker := time.NewTicker(quietFor)
	defer ticker.Stop()
	var before, given uint64
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := g.server.Accepted()
		if now == before && now != given {
			debug.FreeOSMemory()
			given = now
		}
		before = now
	}
}
