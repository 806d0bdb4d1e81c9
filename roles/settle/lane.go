package settle

import (
	"context"
	"sync"
	"time"

	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/roles/ledger"
)

const (
	roundTimeout = 5 * time.Second // of taking the power of one batch; what fails is tried again
	roundLimit   = 1000            // roles of one batch
)

// end is one role that is to have no power from now on.
type end struct {
	role    ledger.Role
	told    <-chan struct{} // closed once its sessions have told their clients; nil for at once
	decided string          // the comment by which it was decided that it ends; see End

	done chan struct{} // closed when the round is over, before which what follows is not to be read

	err        error // why it still has power, or may have
	gone       bool  // there is no such role
	taken      bool  // by another process
	clean      bool  // disabled and without memberships
	quiet      bool  // no session was left at the last scan
	name       string
	comment    string
	may        bool // the role that statements run as may alter it
	member     bool // … and terminate its backends
	held       []string
	groups     map[string]bool // what it was a member of
	terminated int
	closed     time.Time // the server's clock, after its sessions were terminated
}

// lane ends roles that come together in one batch, one batch at a time. Ends that come for the first time have a lane of
// their own, so that they never wait for one that somebody's lock holds up.
type lane struct {
	use func(context.Context, func(*admin.Conn) error) error
	run func(context.Context, *admin.Conn, []*end) error

	mu      sync.Mutex
	waiting []*end
	running bool
}

// close takes part in the next batch and waits until that is over.
func (l *lane) close(e *end) {
	e.done = make(chan struct{})
	l.mu.Lock()
	l.waiting = append(l.waiting, e)
	if !l.running {
		l.running = true
		go l.work()
	}
	l.mu.Unlock()
	<-e.done // bounded by roundTimeout
}

func (l *lane) work() {
	for batch := l.next(); len(batch) > 0; batch = l.next() {
		ctx, cancel := context.WithTimeout(context.Background(), roundTimeout)
		err := l.use(ctx, func(c *admin.Conn) error { return l.run(ctx, c, batch) })
		cancel()
		for _, e := range batch {
			if e.err == nil {
				e.err = err
			}
			close(e.done)
		}
	}
}

// next takes what waits, or ends the work.
func (l *lane) next() []*end {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := min(len(l.waiting), roundLimit)
	batch := l.waiting[:n:n]
	l.waiting = l.waiting[n:]
	l.running = n > 0
	return batch
}
