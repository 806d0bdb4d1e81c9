package access

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/hourgate/hourgate/policy"
)

// skewTolerated is a difference of clocks that the way to the store alone can make.
const skewTolerated = 250 * time.Millisecond

// Refresh reads the store, puts in force what it says, and waits until how far that is has been written down.
func (s *Service) Refresh(ctx context.Context) error {
	number, err := s.refresh(ctx)
	if err := s.marks.Wait(number); err != nil {
		s.log.Error(markBehind, "error", err)
	}
	return err
}

// markBehind is a mark that could not be written. It is tried again.
const markBehind = "how far the state has come can't be written down: after a restart a restored copy could pass for the state"

// refresh is Refresh without the wait. It returns the number of the mark, 0 if that has not moved.
func (s *Service) refresh(ctx context.Context) (number uint64, err error) {
	if s.cfg.Store == nil {
		return 0, nil
	}
	s.refreshing.Lock()
	defer s.refreshing.Unlock()
	snapshot, skew, err := s.load(ctx)
	if err != nil {
		return 0, err
	}
	other, err := s.another(ctx, snapshot)
	if err == nil && other {
		if err = s.restored(ctx, snapshot); err == nil {
			snapshot, skew, err = s.load(ctx)
		}
	}
	if err != nil {
		return 0, err
	}
	s.read(snapshot, skew)
	number = s.remember(snapshot)
	s.release()
	return number, nil
}

// read puts in force what was read.
func (s *Service) read(snapshot *Snapshot, skew time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if snapshot.Revision != s.snapshot.Revision {
		close(s.news)
		s.news = make(chan struct{})
	}
	s.contact, s.stale, s.snapshot = s.cfg.Clock(), false, snapshot
	if (skew - s.skew).Abs() > skewTolerated {
		s.log.Warn("the clock of the state and of this machine differ", "ahead", skew)
	}
	s.skew = skew
	s.metrics.skew.Set(skew.Seconds())
	s.force()
}

// load reads the store, and how far its clock is ahead of ours.
func (s *Service) load(ctx context.Context) (*Snapshot, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	snapshot, err := s.cfg.Store.Load(ctx)
	if err != nil {
		return nil, 0, err
	}
	// What Load took is within the difference: it makes the store's clock look late, and ends early, never late.
	skew := snapshot.Now.Sub(s.cfg.Clock())
	if skew.Abs() <= skewTolerated {
		skew = 0
	}
	return snapshot, skew, nil
}

// force puts in force what the files, the store and the locks come to, if that is something else than before. The mutex
// is held, so that it happens in order.
func (s *Service) force() {
	granted, locks := s.granted(), s.locks()
	s.measure(len(locks))
	var key strings.Builder
	fmt.Fprintf(&key, "%p %t %v", s.files, s.stale, locks)
	for _, g := range granted {
		fmt.Fprintf(&key, " %s %d", g.Name, g.Until.UnixMicro())
	}
	if key.String() == s.inForce {
		return
	}
	s.inForce = key.String()
	overlay := policy.Overlay{Unconfirmed: s.stale, Asking: s.cfg.Store != nil}
	for _, l := range locks {
		l.Until = s.ours(l.Until)
		overlay.Locks = append(overlay.Locks, l.Lock)
	}
	s.cfg.Live.Put(policy.Combine(s.files, granted).With(overlay))
}

// granted are the grants of requests, as far as the flows in force allow them.
func (s *Service) granted() []*policy.Grant {
	var granted []*policy.Grant
	for _, r := range s.snapshot.Open {
		if !r.State.Granted() {
			continue
		}
		grant, o := s.files.Grant(r.granted())
		if o != nil {
			continue // Run ends it
		}
		if s.skew > 0 {
			// Our clock is behind the store's, by which the end counts. Where it is ahead, access ends early instead.
			grant.Until = grant.Until.Add(-s.skew)
		}
		granted = append(granted, grant)
	}
	return granted
}

// ours is the time of the store's clock by our own.
func (s *Service) ours(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return t.Add(-s.skew)
}

// locks are those of the store and of this machine.
func (s *Service) locks() []Lock {
	all := append([]Lock(nil), s.snapshot.Locks...)
	for _, l := range s.local {
		l.Local = true
		all = append(all, l)
	}
	return all
}

// measure sets the gauges.
func (s *Service) measure(locks int) {
	pending := 0
	active := make(map[string]int)
	for _, r := range s.snapshot.Open {
		if r.State.Granted() {
			active[r.Flow]++
		} else {
			pending++
		}
	}
	s.metrics.pending.Set(float64(pending))
	s.metrics.locks.Set(float64(locks))
	s.metrics.active.Reset()
	for flow, n := range active {
		s.metrics.active.WithLabelValues(flow).Set(float64(n))
	}
	up := 1.0
	if s.stale {
		up = 0
	}
	s.metrics.up.Set(up)
}
