package proxy

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/hourgate/hourgate/policy"
)

// landingMemory is how long a session that is over still says where its person was.
const landingMemory = time.Minute

// land answers a database name that is on several integrations of the person's. Clients that reconnect by the real name, as
// psql's \c and graphical ones do, mean the server that they were on. That can be told if all sessions that the person has
// from the same address, or had within the last minute, are on one integration. The policy decides anew about that database
// there, so nobody gets what its full name would not give. The server's mutex is held.
func (s *session) land(set *policy.Set, now time.Time) (policy.Decision, bool) {
	where := ""
	for target := range s.server.placesOf(s.user, s.remote.Addr()) {
		if where != "" && where != target {
			return policy.Decision{}, false
		}
		where = target
	}
	if where == "" {
		return policy.Decision{}, false
	}
	d := set.Decide(policy.Request{User: s.user, Database: where + "/" + s.requestedDatabase()}, now)
	return d, d.Grant != nil
}

// placesOf are the targets where the person has sessions from there, or had some lately. The mutex is held.
func (s *Server) placesOf(user string, address netip.Addr) map[string]bool {
	targets, now := make(map[string]bool), s.cfg.Now()
	for session := range s.sessions {
		if session.grant != nil && session.user == user && session.remote.Addr() == address {
			targets[session.target()] = true
		}
	}
	for p, left := range s.left {
		if p.user == user && p.address == address && now.Sub(left) < landingMemory {
			targets[p.target] = true
		}
	}
	return targets
}

// remember keeps where a session was that is over. The mutex is held.
func (s *Server) remember(session *session) {
	if session.grant != nil {
		s.left[place{session.user, session.remote.Addr(), session.target()}] = s.cfg.Now()
	}
}

// forgetPlaces drops what is too old to count. The mutex is held.
func (s *Server) forgetPlaces(now time.Time) {
	for p, left := range s.left {
		if now.Sub(left) >= landingMemory {
			delete(s.left, p)
		}
	}
}

// landingNotice says which of several databases of one name it is.
func landingNotice(d policy.Decision) *pgproto3.NoticeResponse {
	return &pgproto3.NoticeResponse{
		Severity: "NOTICE", SeverityUnlocalized: "NOTICE", Code: pgerrcode.SuccessfulCompletion,
		Message: fmt.Sprintf("this is database %s of %s, where you were connected", d.Database, d.Integration),
		Hint:    fmt.Sprintf("To be certain, connect to %s@%s.", d.Database, d.Integration),
	}
}
