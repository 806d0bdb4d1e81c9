package proxy

import "time"

// tickEvery is how often the server looks at the wall clock.
const tickEvery = time.Second

// tick holds every session's end against the wall clock. A session has a timer of its own, which is more exact, but counts
// the time that this machine was awake: it is late by as much as the clock was put forward or the machine was suspended.
// It also warns those whose end is near.
func (s *Server) tick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return
	}
	now := s.cfg.Now()
	for session := range s.sessions {
		switch {
		case session.grant == nil:
		case !now.Before(session.grant.Until):
			session.end(errGrantEnded)
		default:
			session.warnBeforeEnd(now, s.cfg.NoticeBeforeEnd)
		}
	}
	s.clock.Reset(tickEvery)
}
