package policy

import (
	"slices"
	"sync"
	"sync/atomic"
)

// Live is the policy in force: the one place where everybody looks, and where everybody learns that it has changed. Its
// methods may be called from any goroutine.
//
// Whoever decides something that must not outlive a change takes its own lock, reads Set, and notes what it decided
// before it lets go. Its watcher takes the same lock. Then each decision was made on the new policy, or the watcher finds
// it.
type Live struct {
	set atomic.Pointer[Set]

	mu       sync.Mutex // held while watchers are told, so that changes reach each of them in order
	watchers []*func(*Set)
}

// NewLive returns a Live with a first policy.
func NewLive(set *Set) *Live {
	l := &Live{}
	l.set.Store(set)
	return l
}

// Set returns what is in force.
func (l *Live) Set() *Set { return l.set.Load() }

// Put puts set in force, and returns when every watcher has been told.
func (l *Live) Put(set *Set) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.set.Store(set)
	for _, told := range l.watchers {
		(*told)(set)
	}
}

// Watch has told called with each policy that is put in force from now on, one at a time. told must be quick, and must not
// call Put, Watch or stop. After stop, which may be called more than once, it is not called any more.
func (l *Live) Watch(told func(*Set)) (stop func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	entry := &told
	l.watchers = append(slices.Clip(l.watchers), entry)
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.watchers = slices.DeleteFunc(slices.Clone(l.watchers), func(w *func(*Set)) bool { return w == entry })
	}
}
