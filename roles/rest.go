package roles

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	restAfter    = time.Minute     // how long an integration is left as it is after its last use
	restInterval = 5 * time.Minute // the mean time between two sweeps of one that nobody uses
)

// use notes that a role is asked for; the mutex is held.
func (k *Keeper) use() {
	k.used = time.Now()
	select {
	case k.wanted <- struct{}{}:
	default:
	}
}

// unused reports whether the integration may be left alone.
func (k *Keeper) unused() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.cfg.Turns != nil && len(k.ours) == 0 && time.Since(k.used) > restAfter
}

// Rest closes the connections if nobody uses the integration. Whoever has only looked at it calls this, since Run looks after
// connections no more often than it sweeps.
func (k *Keeper) Rest() {
	if k.unused() {
		k.pool.Close()
	}
}

// rest is what Run does while nobody uses the integration: it sweeps now and then, in turn with the others, and closes the
// connections. It reports whether it did.
func (k *Keeper) rest(ctx context.Context) (rested bool) {
	for k.unused() {
		rested = true
		var wait time.Duration
		select {
		case k.cfg.Turns <- struct{}{}:
			k.metrics.reachable(k.Sweep(ctx) == nil)
			wait = k.sweeper.idle(ctx, time.Duration(float64(restInterval)*(0.9+0.2*rand.Float64())))
			k.pool.Close()
			<-k.cfg.Turns
		case <-k.wanted:
			return true
		case <-ctx.Done():
			return true
		}
		select {
		case <-time.After(wait):
		case <-k.wanted:
			return true
		case <-ctx.Done():
			return true
		}
	}
	return rested
}
