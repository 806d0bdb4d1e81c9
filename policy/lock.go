package policy

import (
	"fmt"
	"slices"
	"time"
)

// LockKind is what a lock stops.
type LockKind string

// The kinds of locks.
const (
	LockUser        LockKind = "user"
	LockGrant       LockKind = "grant"
	LockIntegration LockKind = "integration"
	LockAll         LockKind = "all"
)

// LockKinds are all kinds.
var LockKinds = []LockKind{LockUser, LockGrant, LockIntegration, LockAll}

// A Lock is an immediate stop. It goes before every grant.
type Lock struct {
	Kind   LockKind  `json:"kind"`
	Name   string    `json:"name,omitempty"` // of the user, grant or integration
	Reason string    `json:"reason"`
	Until  time.Time `json:"until,omitzero"` // zero: until it is lifted
}

// String is what is locked, in words.
func (l Lock) String() string {
	if l.Kind == LockAll {
		return "everything"
	}
	return fmt.Sprintf("%s %s", l.Kind, l.Name)
}

func (l Lock) live(now time.Time) bool { return l.Until.IsZero() || now.Before(l.Until) }

// Locked returns the lock that stops user, a grant or an integration at now. Names that are empty match none.
func (s *Set) Locked(user, grant, integration string, now time.Time) (Lock, bool) {
	i := slices.IndexFunc(s.overlay.Locks, func(l Lock) bool {
		if !l.live(now) {
			return false
		}
		switch l.Kind {
		case LockUser:
			return l.Name == user
		case LockGrant:
			return l.Name == grant
		case LockIntegration:
			return l.Name == integration
		}
		return true
	})
	if i < 0 {
		return Lock{}, false
	}
	return s.overlay.Locks[i], true
}
