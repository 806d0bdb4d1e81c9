package proxy

import "time"

// tickEvery is how often the server looks at the wall clock.
const tickEvery = time.Second

// vanishedEvery is at how many ticks a session's peers are looked at: the sessions take turns.
const vanishedEvery = 5

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
	s.ticks++
	s.forgetPlaces(now)
	for session := range s.sessions {
		switch {
		case session.grant == nil:
		case !now.Before(session.grant.Until):
			session.endOfGrant()
		default:
			session.warnBeforeEnd(now, s.cfg.NoticeBeforeEnd)
		}
		if session.number%vanishedEvery == s.ticks%vanishedEvery {
			session.endIfVanished(s.cfg.PeerTimeout)
		}
	}
	s.clock.Reset(tickEvery)
}

// endIfVanished ends a session whose client or server has vanished, so that the other one hears of it and the role is not
// held for nobody. The server's mutex is held.
func (s *session) endIfVanished(timeout time.Duration) {
	if s.relay == nil {
		return
	}
	switch client, upstream := s.relay.Vanished(timeout); {
	case upstream:
		s.end(errUpstreamVanished)
	case client:
		s.end(errClientVanished)
	}
}
