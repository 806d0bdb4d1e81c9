package proxy

import (
	"net/netip"
	"time"
)

// phase is how far a session has come. Each holds what those before it have acquired.
type phase int

const (
	negotiating    phase = iota // it is not known what the client wants
	authenticating              // nor who it is
	authorizing                 // the client is authenticated
	provisioning                // the trail has the session's start
	connecting                  // a lease is held
	welcoming                   // the connection upstream is open, and logged in
	relaying                    // the client may ask
)

// State is what a session is doing, from a closed set.
type State string

// The states.
const (
	Starting State = "starting" // the client is authenticated, and its session is being set up
	Running  State = "running"
	Ending   State = "ending" // the client may still be reading its last message
)

// Info is what can be known of a session while it lives. It is a copy: nothing in it changes.
type Info struct {
	ID          string // as in the log and in the trail
	State       State
	User        string // authenticated
	Operator    bool   // came through the admin socket; User is no user of the policy then
	Grant       string // its name; empty as long as none was found
	Integration string
	Database    string // its own name on the integration
	Role        string // the ephemeral role; empty before it is there
	Access      string // that the grant gives, as in the trail

	ClientAddress netip.AddrPort
	Application   string    // what the client calls itself, as sent: it may be anything
	BackendPID    uint32    // the server's process; 0 before it is known
	Since         time.Time // when the client connected
	Until         time.Time // the grant's end

	Idle                               bool // the client waits for nothing and is in no transaction
	BytesFromClient, BytesFromUpstream int64
	LastStatement                      time.Time // zero before the first
}

// Cause is why a session is ended from outside. The set is closed: each has its own words for the client.
type Cause int

// The causes.
const (
	EndedByOperator   Cause = iota // somebody who runs the gate
	EndedByUser                    // the person themselves, elsewhere
	EndedByLock                    // a lock on the user, the grant, the integration or everything
	EndedByWithdrawal              // the grant was taken away or changed
)

// refusal is what the client is told.
func (c Cause) refusal(detail string) *refusal {
	told := *errEndedByOperator
	switch c {
	case EndedByOperator:
	case EndedByUser:
		told = *errEndedByUser
	case EndedByLock:
		told = *errLocked
	case EndedByWithdrawal:
		told = *errGrantRevoked
	}
	told.detail = detail
	return &told
}
