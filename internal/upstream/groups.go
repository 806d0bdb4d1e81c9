package upstream

import (
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"time"
)

// A server that knows none of the groups of which crypto/tls sends key shares asks for another one by HelloRetryRequest
// (RFC 8446, section 4.1.4). That is a round trip more for each log-in, and key shares made for nothing. PostgreSQL before
// 18 is such a server, unless its ssl_ecdh_curve was changed from prime256v1. So a group that a server has asked for is
// the first that it is offered from then on.

// groupHolds is how long that is done before all groups are offered again: the server may have learned better ones.
const groupHolds = 10 * time.Minute

// groups are those that can be offered first, in the order in which crypto/tls offers them, whatever the order in its
// configuration.
var groups = []tls.CurveID{tls.CurveP256, tls.CurveP384, tls.CurveP521}

// narrowOffer is a configuration without the groups that the server has not asked for.
type narrowOffer struct {
	tls   *tls.Config
	until time.Time
}

// offer is the configuration for the next handshake.
func (s *Server) offer() *tls.Config {
	if o := s.narrow.Load(); o != nil && time.Now().Before(o.until) {
		return o.tls
	}
	return s.tls
}

// learn takes note of the group that a server has asked for.
func (s *Server) learn(state tls.ConnectionState) {
	i := slices.Index(groups, state.CurveID)
	if !state.HelloRetryRequest || i < 0 {
		return
	}
	cfg := s.tls.Clone()
	cfg.CurvePreferences = groups[i:]
	s.narrow.Store(&narrowOffer{tls: cfg, until: time.Now().Add(groupHolds)})
}

// tooNarrow reports that a handshake has failed on the server's side, perhaps because its groups are others now, and
// forgets what it asked for. All can be offered then, on a new connection.
func (s *Server) tooNarrow(offered *tls.Config, err error) bool {
	var alert *net.OpError
	if offered == s.tls || !errors.As(err, &alert) || alert.Op != "remote error" {
		return false
	}
	s.narrow.Store(nil)
	return true
}
