package statements

import "sync/atomic"

// asked are the requests that the server has yet to answer, oldest first. One goroutine puts them in and another takes them out,
// without a lock. Memory is allocated for a pipeline that is deeper than any before, and then used again.
//
// A client can ask for more than anybody wants to remember. Beyond maxAsked requests are forgotten, until all that were
// forgotten are answered.
type asked struct {
	// These belong to the goroutine that puts in.
	tail  *askedChunk
	added int64 // requests, ever

	// These belong to the goroutine that takes out.
	head *askedChunk
	next int // in head

	taken     atomic.Int64 // requests, ever
	forgotten atomic.Int64 // ReadyForQuery that are to come for requests that were forgotten
	forgets   atomic.Bool  // set by who puts in
	open      bool         // what was forgotten last has no ReadyForQuery of its own; belongs to who puts in

	spare atomic.Pointer[askedChunk]
}

// maxAsked bounds what a session's unanswered requests take: 6 MB. A driver that sends a million inserts in one pipeline has
// fewer under way, since sockets take no more.
const maxAsked = 1 << 18

// question is one of the client's messages.
type question struct {
	at    int64  // when it was sent, in nanoseconds since the session began
	call  uint32 // that its results belong to
	limit uint32 // of rows (Execute); 0 is none
	kind  byte   // of the message; 0 is no request
}

type askedChunk struct {
	requests [16]question
	written  atomic.Uint32
	after    atomic.Pointer[askedChunk]
}

// add puts a request in. It is called before the request is sent.
func (a *asked) add(r question) {
	if a.forgets.Load() || a.added-a.taken.Load() >= maxAsked {
		if !a.forget(r.kind) {
			return
		}
	}
	a.added++
	c := a.tail
	n := c.written.Load()
	if int(n) == len(c.requests) {
		fresh := a.spare.Swap(nil)
		if fresh == nil {
			fresh = new(askedChunk)
		}
		c.after.Store(fresh)
		c, a.tail, n = fresh, fresh, 0
	}
	c.requests[n] = r
	c.written.Store(n + 1)
}

// forget counts a request that is not put in. It returns true when all of those are answered, so that this one can be.
func (a *asked) forget(kind byte) (remember bool) {
	if a.forgets.Load() && !a.open && a.forgotten.Load() <= 0 && a.added == a.taken.Load() {
		a.forgets.Store(false)
		return true
	}
	a.forgets.Store(true)
	switch kind {
	case 'Q', 'F', 'S':
		a.forgotten.Add(1)
		a.open = false
	default:
		a.open = true
	}
	return false
}

// peek returns the oldest request, nil if there is none. It is valid until take.
func (a *asked) peek() *question {
	if a.next == len(a.head.requests) {
		after := a.head.after.Load()
		if after == nil {
			return nil
		}
		used := a.head
		a.head, a.next = after, 0
		used.written.Store(0)
		used.after.Store(nil)
		a.spare.Store(used)
	}
	if a.next >= int(a.head.written.Load()) {
		return nil
	}
	return &a.head.requests[a.next]
}

// take takes the oldest request out. There must be one.
func (a *asked) take() {
	a.next++
	a.taken.Add(1)
}

// ready notes that the server is ready, while nothing is known to be asked.
func (a *asked) ready() {
	if a.forgets.Load() {
		a.forgotten.Add(-1)
	}
}
