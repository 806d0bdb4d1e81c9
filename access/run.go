package access

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Run keeps what is in force up to date, and does what is due by itself, until ctx is done. Each gate does it for all
// requests: whoever comes first does it.
func (s *Service) Run(ctx context.Context) {
	var running sync.WaitGroup
	running.Go(func() { s.watchLocks(ctx) })
	if s.cfg.Store != nil {
		running.Go(func() { s.cfg.Store.Watch(ctx, s.changed) })
		running.Go(func() { s.keep(ctx) })
	}
	running.Wait()
}

// keep follows the store.
func (s *Service) keep(ctx context.Context) {
	behind := false
	for {
		s.marks.Again()
		err := s.marks.Trouble()
		if err != nil && !behind { // it is tried again
			s.log.Error(markBehind, "error", err)
		}
		behind = err != nil
		s.look(ctx)
		s.due(ctx)
		wait := time.NewTimer(s.untilNext())
		select {
		case <-s.wake:
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return
		}
		wait.Stop()
	}
}

// look reads the store if it has changed. Without an answer for too long, grants from requests take no new sessions.
func (s *Service) look(ctx context.Context) {
	err := s.lookNow(ctx)
	if err == nil || ctx.Err() != nil {
		return
	}
	s.log.Error("the state of requests can't be reached", "error", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cfg.Clock().Sub(s.contact) >= s.cfg.Staleness {
		s.stale = true
		s.force()
	}
}

func (s *Service) lookNow(ctx context.Context) error {
	asking, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	revision, err := s.cfg.Store.Revision(asking)
	if err != nil {
		return err
	}
	s.mu.Lock()
	current := revision == s.snapshot.Revision && !s.stale
	if current {
		s.contact = s.cfg.Clock()
	}
	s.mu.Unlock()
	if current {
		return nil
	}
	_, err = s.refresh(ctx) // what another gate ends next must not wait for the mark's disk
	return err
}

// untilNext is how long nothing is due, at most until the next poll.
func (s *Service) untilNext() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.storeTime()
	wait := poll
	for _, r := range s.snapshot.Open {
		if next := r.next(); !next.IsZero() {
			wait = min(wait, next.Sub(now))
		}
	}
	// What is due and could not be done is not tried without a pause.
	return max(wait, 20*time.Millisecond)
}

// due does what time and the flows in force have made necessary.
func (s *Service) due(ctx context.Context) {
	s.mu.Lock()
	open, stale := s.snapshot.Open, s.stale
	s.mu.Unlock()
	if stale {
		return
	}
	for _, r := range open {
		if _, ok := s.overdue(r.clone()); !ok {
			continue
		}
		_, err := s.change(ctx, r.ID, func(r *Request) (event, error) {
			e, ok := s.overdue(r)
			if !ok {
				return event{}, errNothingDue
			}
			return e, nil
		})
		if err != nil && !errors.Is(err, errNothingDue) && ctx.Err() == nil {
			s.log.Error("a request could not be moved on", "request", r.ID, "error", err)
		}
	}
}

var errNothingDue = errors.New("nothing is due")

// overdue makes of a request what it has to become now, if anything.
func (s *Service) overdue(r *Request) (event, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.storeTime()
	switch {
	case r.State == Pending && !now.Before(r.Lapses):
		return event{kind: requestLapsed}, r.move(Lapsed) == nil
	case !r.State.Granted():
		return event{}, false
	case !now.Before(r.Until):
		return event{kind: requestEnded}, r.stop(Expired, now, "", "") == nil
	}
	grant, o := s.files.Grant(r.granted())
	switch {
	case o != nil:
		return event{kind: requestEnded, reason: o.Message}, r.stop(Forbidden, now, "", o.Message) == nil
	case !now.Before(grant.Until):
		return event{kind: requestEnded, reason: "the flow in force allows less time"}, r.stop(Forbidden, now, "", "the flow in force allows less time") == nil
	case grant.Until.Before(r.Until):
		r.Until = grant.Until
		return event{kind: requestShortened}, true
	case r.State == Approved:
		return event{kind: requestActive}, r.move(Active) == nil
	}
	if x := r.extension(); x != nil && !now.Before(x.Lapses) {
		x.State = Lapsed
		return event{kind: extensionLapsed}, true
	}
	return event{}, false
}
