package proxy

import (
	"slices"
	"time"

	"github.com/hourgate/hourgate/policy"
)

// authorize finds the grant that lets the user in and arms its end. It holds the server's mutex, so that a reload either
// sees the grant of this session or is seen by it.
func (s *session) authorize() error {
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	now := s.server.cfg.Policy.Set()
	if now != s.policy && !now.SameIdentity(s.policy, s.user) {
		return wrongPassword(s.user) // what the user proved does not count any more
	}
	s.decision = now.Decide(policy.Request{User: s.user, Database: s.requestedDatabase()}, time.Now())
	if s.decision.Reason == policy.Ambiguous {
		if d, ok := s.land(now, time.Now()); ok {
			s.decision, s.landed = d, true
		}
	}
	if s.decision.Grant == nil {
		return denied(s.decision)
	}
	if role, sent := s.startup.params[roleParameter]; sent && role != "none" && !slices.Contains(s.decision.Grant.Access.Roles, role) {
		return roleRefused(role)
	}
	integration, ok := s.server.cfg.Integrations.Integration(s.target())
	if !ok {
		return notServed(s.decision.Integration)
	}
	if integration.NotReady != "" {
		return notReady(s.decision.Integration, integration.NotReady)
	}
	s.grant, s.integration = s.decision.Grant, integration
	s.expiry = time.AfterFunc(time.Until(s.grant.Until), s.endOfGrant)
	s.log = s.log.With("integration", s.decision.Integration, "database", s.decision.Database, "grant", s.grant.Name)
	return nil
}

// reconsider decides the session again under a new policy; the server's mutex is held.
func (s *session) reconsider(set *policy.Set) {
	if s.console && !s.operator && !set.SameIdentity(s.policy, s.user) {
		s.end(errIdentityChanged)
	}
	if s.grant == nil {
		return
	}
	now := time.Now()
	if l, locked := set.Locked(s.user, s.grant.Name, s.decision.Integration, now); locked {
		s.end(lockedOut(l))
		return
	}
	grant, ok := set.Covers(s.user, s.grant.Name, s.decision.Database, now)
	if !ok || !grant.SameRights(s.grant) {
		if lock, locked := set.Locked(s.user, s.grant.Name, s.decision.Integration, time.Now()); locked {
			s.end(EndedByLock.refusal(lock.Reason))
		} else {
			s.end(errGrantRevoked)
		}
		return
	}
	s.grant = grant
	s.expiry.Reset(time.Until(grant.Until))
}
