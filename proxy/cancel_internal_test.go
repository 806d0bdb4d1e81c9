package proxy

import "testing"

// Processes of two servers may have the same ID: the secret tells their sessions apart.
func TestSessionsWithTheSameProcessID(t *testing.T) {
	t.Parallel()
	c := canceller{sessions: make(map[uint32][]*session)}
	a, b := new(session), new(session)
	b.startup.protocol = protocolLatest
	c.add(a, 7)
	c.add(b, 7)
	if len(a.cancelKey.secret) != cancelSecret30 || len(b.cancelKey.secret) != cancelSecret32 {
		t.Errorf("secrets of %d and %d bytes", len(a.cancelKey.secret), len(b.cancelKey.secret))
	}
	for _, s := range []*session{a, b} {
		if got := c.find(s.cancelKey); got != s {
			t.Errorf("found %p, want %p", got, s)
		}
	}
	if got := c.find(cancelKey{8, a.cancelKey.secret}); got != nil {
		t.Error("found by the secret alone")
	}
	c.remove(a)
	if c.find(a.cancelKey) != nil || c.find(b.cancelKey) != b {
		t.Error("removing one removed the other, or nothing")
	}
	c.remove(a)
	c.remove(new(session)) // has no key
	c.remove(b)
	if len(c.sessions) != 0 {
		t.Errorf("%d process IDs are left", len(c.sessions))
	}
}
