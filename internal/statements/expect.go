package statements

import (
	"bytes"
	"encoding/binary"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/relay"
)

// Named portals of a session that are known by their calls. Results of others have no call.
const (
	maxPortals    = 1000
	maxPortalName = 63 // PostgreSQL's NAMEDATALEN
)

// expect tells the other half of a message that was recorded, once it is whole, so that the half knows what the server
// answers.
func (s *Watcher) expect(m *relay.Part) {
	r := question{kind: m.Kind, call: s.calls}
	if m.Kind == 'E' { // Execute: portal, Int32 limit
		body, ok := s.whole(m)
		if !ok {
			return
		}
		portal, limit, _ := bytes.Cut(body, []byte{0})
		r.call = s.callOf(portal)
		if len(limit) == 4 {
			r.limit = binary.BigEndian.Uint32(limit)
		}
	}
	if m.Rest == 0 {
		r.at = int64(m.At.Sub(s.answers.began))
		s.answers.asked.add(r)
	}
}

// whole puts a short message together, and says whether it is whole. Of a longer one it gives the beginning.
func (s *Watcher) whole(m *relay.Part) ([]byte, bool) {
	if m.First {
		if m.Rest == 0 {
			return m.Bytes, true
		}
		s.held = s.held[:0]
	}
	s.held = append(s.held, m.Bytes[:min(len(m.Bytes), 2*audit.MaxStatementName-len(s.held))]...)
	if m.Rest > 0 {
		return nil, false
	}
	body := s.held
	s.held = nil
	return body, true
}

// bound notes which call a portal belongs to.
func (s *Watcher) bound(portal []byte) {
	if len(portal) == 0 {
		s.portal = s.calls
		return
	}
	if known := s.portals[string(portal)]; known != nil {
		*known = s.calls
		return
	}
	if len(portal) > maxPortalName {
		return
	}
	if s.portals == nil {
		s.portals = make(map[string]*uint32)
	}
	if len(s.portals) >= maxPortals {
		clear(s.portals)
	}
	call := s.calls
	s.portals[string(portal)] = &call
}

// callOf is the call of a portal, 0 if that is not known: DECLARE makes portals, too.
func (s *Watcher) callOf(portal []byte) uint32 {
	if len(portal) == 0 {
		return s.portal
	}
	if known := s.portals[string(portal)]; known != nil {
		return *known
	}
	return 0
}
