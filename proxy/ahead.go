package proxy

import (
	"strings"

	"github.com/hourgate/hourgate/policy"
)

// dialEarly begins to connect upstream for a client that is authenticating, if it may, and returns what to call when
// that is over. Whether it does depends on the client's network and on the database, never on the user.
func (s *session) dialEarly() (finished func()) {
	name, rest, _ := strings.Cut(s.requestedDatabase(), "/")
	if first, _, _ := strings.Cut(rest, "/"); first == policy.ReaderSuffix {
		return func() {} // which of the readers it will be is not known yet
	}
	integration, ok := s.server.cfg.Integrations.Integration(name)
	if !ok || integration.NotReady != "" || !s.server.aheadCredits.spend(s.network) {
		return func() {}
	}
	s.ahead, s.aheadTo = integration.Upstream.Ahead(s.ctx), name
	return s.server.aheadCredits.finished
}

// dial begins to connect to the server that the policy lets the client use, unless that has begun already.
func (s *session) dial() {
	s.server.aheadCredits.restore(s.network)
	if s.aheadTo == s.target() {
		return
	}
	s.closeAhead() // a bare database of that name, and an integration that is not the user's
	s.ahead, s.aheadTo = s.integration.Upstream.Ahead(s.ctx), s.target()
}

// closeAhead closes the connection, unless connect has taken it.
func (s *session) closeAhead() {
	if s.ahead != nil {
		s.ahead.Close()
	}
}
