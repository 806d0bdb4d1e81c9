package strangers

import (
	"net/netip"
	"sync"
	"time"
)

// Limits on what a throttle remembers. None of them bounds what an honest client does.
const (
	// throttleEntries bounds the memory of a throttle. An attacker with more addresses than that makes it forget, and
	// is then held back by the limits on connections only.
	throttleEntries = 10_000

	// forgiveAfter is how long failures count.
	forgiveAfter = 10 * time.Minute
)

// Throttle makes whoever fails wait longer and longer, by a key such as an address. It holds nobody up who has not
// failed, and remembers a bounded number of keys: when one generation is full, the one before is forgotten.
type Throttle struct {
	Free    int           // failures that cost nothing
	First   time.Duration // Wait after the next one; it doubles with each further one
	Longest time.Duration // wait, however many there were

	now      func() time.Time // for tests; nil is time.Now
	mu       sync.Mutex
	young    map[string]failures
	old      map[string]failures
	capacity int // of a generation; 0 is throttleEntries / 2
}

type failures struct {
	count int
	last  time.Time // may be a turn that is still to come
}

func (t *Throttle) clock() time.Time {
	if t.now != nil {
		return t.now()
	}
	return time.Now()
}

// Wait is how long the key has to wait from now until its next try.
func (t *Throttle) Wait(key string) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.clock()
	return t.left(t.find(key, now), now)
}

// left is how long somebody with these failures has to wait.
func (t *Throttle) left(f failures, now time.Time) time.Duration {
	if f.count <= t.Free {
		return 0
	}
	delay := t.Longest
	if doublings := f.count - t.Free - 1; doublings < 16 {
		delay = min(t.First<<doublings, t.Longest)
	}
	return max(0, f.last.Add(delay).Sub(now))
}

// Failed counts a failure of the key.
func (t *Throttle) Failed(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.clock()
	f := t.find(key, now)
	t.put(key, failures{f.count + 1, now})
}

// Reserve takes the key's next turn, and says how long that is to be waited for. The turn counts as a failure, unless
// Succeeded or Returned is called: of those who come together, each has to wait for the ones before. If the turn is
// further away than patience, none is taken.
func (t *Throttle) Reserve(key string, patience time.Duration) (wait time.Duration, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.clock()
	f := t.find(key, now)
	if wait = t.left(f, now); wait > patience {
		return wait, false
	}
	t.put(key, failures{f.count + 1, now.Add(wait)})
	return wait, true
}

// Returned gives back a turn that was no failure.
func (t *Throttle) Returned(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f := t.find(key, t.clock()); f.count > 0 {
		t.put(key, failures{f.count - 1, f.last})
	}
}

// Lately reports that the key has failed within a time.
func (t *Throttle) Lately(key string, within time.Duration) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.clock()
	f := t.find(key, now)
	return f.count > 0 && now.Sub(f.last) < within
}

// Succeeded forgets the failures of the key.
func (t *Throttle) Succeeded(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.young, key)
	delete(t.old, key)
}

func (t *Throttle) find(key string, now time.Time) failures {
	f, ok := t.young[key]
	if !ok {
		f = t.old[key]
	}
	if now.Sub(f.last) > forgiveAfter {
		return failures{}
	}
	return f
}

func (t *Throttle) put(key string, f failures) {
	capacity := t.capacity
	if capacity == 0 {
		capacity = throttleEntries / 2
	}
	if len(t.young) >= capacity {
		t.old, t.young = t.young, nil
	}
	if t.young == nil {
		t.young = make(map[string]failures)
	}
	t.young[key] = f
}

// Network is the part of an address that counts as one stranger: an IPv4 address, or the /64 that an IPv6 host can
// choose from freely.
func Network(addr netip.Addr) string {
	addr = addr.Unmap()
	if addr.Is4() {
		return addr.String()
	}
	if !addr.IsValid() {
		return "" // as of a pipe in tests
	}
	prefix, _ := addr.WithZone("").Prefix(64) // never fails for IPv6
	return prefix.String()
}

// Admission counts the connections that have not authenticated, in all and for each network.
type Admission struct {
	inAll, each int // limits
	mu          sync.Mutex
	total       int
	networks    map[string]int
}

// Bound sets how many there may be, in all and of each network.
func (a *Admission) Bound(inAll, each int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.inAll, a.each = inAll, each
}

// Enter counts a connection, unless there are too many.
func (a *Admission) Enter(network string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.total >= a.inAll || a.networks[network] >= a.each {
		return false
	}
	if a.networks == nil {
		a.networks = make(map[string]int)
	}
	a.total++
	a.networks[network]++
	return true
}

// Leave takes back what Enter has counted.
func (a *Admission) Leave(network string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.total--
	if a.networks[network]--; a.networks[network] == 0 {
		delete(a.networks, network)
	}
}
