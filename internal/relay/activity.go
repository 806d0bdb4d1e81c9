package relay

import "sync/atomic"

// activity is what the messages of a session tell about whether it is idle, so that a drain can end it without harm. One
// goroutine sees the requests and one the replies; anyone may ask.
type activity struct {
	pending atomic.Int64  // requests that a ReadyForQuery has yet to answer
	status  atomic.Uint32 // of the transaction, from the last ReadyForQuery; 0 before the first
	quit    atomic.Bool   // the client sent Terminate
	asked   atomic.Int64  // when the last statement came, in nanoseconds since 1970; 0 before the first

	// PostgreSQL ignores Sync within COPY IN: those that it has sent since its last Execute, and those until CopyDone or
	// CopyFail, are not answered. Without this, a client that used COPY once would never be found idle.
	syncs  atomic.Int64
	copyIn atomic.Bool
}

const (
	activityRequests = "QFSEcfX"
	activityReplies  = "ZGE"
)

// idle reports that the client waits for nothing and is in no transaction.
func (a *activity) idle() bool {
	status := a.status.Load()
	return a.pending.Load() <= 0 && (status == 'I' || status == 0)
}

// seeRequest counts what PostgreSQL will answer with ReadyForQuery.
func (a *activity) seeRequest(m *Part) {
	switch m.Kind {
	case 'Q', 'F': // Query, FunctionCall
		a.pending.Add(1)
		a.syncs.Store(0)
		a.asked.Store(m.At.UnixNano())
	case 'S': // Sync
		if !a.copyIn.Load() {
			a.pending.Add(1)
			a.syncs.Add(1)
		}
	case 'E': // Execute
		a.syncs.Store(0)
		a.asked.Store(m.At.UnixNano())
	case 'c', 'f': // CopyDone, CopyFail
		a.copyIn.Store(false)
	case 'X': // Terminate
		a.quit.Store(true)
	}
}

// seeReply follows the transaction's status.
func (a *activity) seeReply(m *Part) {
	switch {
	case m.Kind == 'Z' && m.Rest == 0 && len(m.Bytes) > 0: // ReadyForQuery
		a.status.Store(uint32(m.Bytes[0]))
		a.pending.Add(-1)
	case m.Kind == 'G' && m.First: // CopyInResponse
		a.copyIn.Store(true)
		a.pending.Add(-a.syncs.Swap(0))
	case m.Kind == 'E' && m.First: // ErrorResponse
		a.copyIn.Store(false)
	}
}
