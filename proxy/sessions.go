package proxy

import (
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"
)

// enter begins a phase, and tells others.
func (s *session) enter(p phase) {
	s.phase = p
	s.publish(Starting)
}

// publish shows others what is known now, once the client is authenticated.
func (s *session) publish(state State) {
	if s.phase < authorizing {
		return
	}
	if s.phase == relaying && state == Starting {
		state = Running
	}
	info := &Info{
		ID: s.id, State: state, User: s.user, Operator: s.operator, Integration: s.decision.Integration, Database: s.decision.Database,
		ClientAddress: s.remote, Application: s.startup.application, Since: s.began,
	}
	if grant := s.decision.Grant; grant != nil {
		info.Grant, info.Access, info.Until = grant.Name, grant.Access.String(), grant.Until
	}
	if s.phase >= connecting {
		info.Role = s.lease.Login().User
	}
	if s.phase >= welcoming {
		info.BackendPID = s.upstream.PID
	}
	s.info.Store(info)
}

// snapshot is the session as others may see it, or false for that of a stranger. The server's mutex is held.
func (s *session) snapshot() (Info, bool) {
	published := s.info.Load()
	if published == nil {
		return Info{}, false
	}
	info := *published
	if s.grant != nil {
		info.Until = s.grant.Until
	}
	if s.relay != nil {
		info.Idle, info.LastStatement = s.relay.Idle(), s.relay.LastStatement()
		info.BytesFromClient, info.BytesFromUpstream = s.relay.Bytes()
	}
	return info, true
}

// Sessions are those of authenticated clients, the oldest first.
func (s *Server) Sessions() []Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Info
	for session := range s.sessions {
		if info, ok := session.snapshot(); ok {
			all = append(all, info)
		}
	}
	slices.SortFunc(all, func(a, b Info) int {
		if c := a.Since.Compare(b.Since); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return all
}

// End ends a session, also one that is still being set up, and reports whether there is one of that name. detail is told to
// the client, and may be empty. It does not wait for the end.
func (s *Server) End(id string, cause Cause, detail string) bool {
	session := s.find(id)
	if session == nil {
		return false
	}
	session.end(cause.refusal(detail))
	return true
}

// Notify puts a NoticeResponse to the client of a session that is running, between two of its messages, and reports
// whether there is one of that name. The text is for a person. It does not wait.
func (s *Server) Notify(id, text string) bool {
	session := s.find(id)
	return session != nil && session.notify(warning(text))
}

// find is the session of that name, or nil.
func (s *Server) find(id string) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	for session := range s.sessions {
		if session.id == id && session.info.Load() != nil {
			return session
		}
	}
	return nil
}

// notify puts a message to the client, if its session is running.
func (s *session) notify(notice *pgproto3.NoticeResponse) bool {
	s.server.mu.Lock()
	r := s.relay
	s.server.mu.Unlock()
	message, err := notice.Encode(nil)
	if r == nil || err != nil {
		return false
	}
	r.Notify(message)
	return true
}
