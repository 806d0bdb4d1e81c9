package access

import (
	"time"

	"github.com/hourgate/hourgate/policy"
)

// LockKind is what a lock stops.
type LockKind = policy.LockKind

// A Lock stops a user, a grant, an integration or everything, until it is lifted or its time is over.
type Lock struct {
	policy.Lock
	By    string    `json:"by"`
	At    time.Time `json:"at"`
	Local bool      `json:"-"` // kept on this machine, not in the store
}
