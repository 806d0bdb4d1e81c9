package settle

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/roles/ledger"
)

const (
	stepTimeout = 5 * time.Second // of one step of a round; what fails is tried again
	batchLimit  = 1000            // roles that are cut off together
	sliceSize   = 16              // roles that one step disables
)

// end is one role that is to have no power from now on.
type end struct {
	role    ledger.Role
	told    <-chan struct{} // closed once its sessions have told their clients; nil for at once
	decided string          // the comment by which it was decided that it ends; see End

	done chan struct{} // closed when the lane is done with it, before which what follows is not to be read

	err        error // why it still has power, or may have
	gone       bool  // there is no such role
	taken      bool  // by another process
	stripped   bool  // without memberships, together with many others, and not disabled yet
	clean      bool  // disabled and without memberships
	quiet      bool  // no session was left at the last look
	denied     bool  // the admin may not terminate its sessions
	over       bool  // no session was left at two scans, or those that are left don't end
	name       string
	comment    string
	may        bool // the role that statements run as may alter it
	member     bool // … and terminate its backends
	attributes string
	held       []membership
	groups     map[string]bool // what it was a member of
	terminated int
	closed     time.Time // the server's clock, after its sessions were terminated
	scans      int       // since it was disabled
	scanned    time.Time // first, since it was disabled
	looks      int       // since its sessions were over, that found a membership
}

// lane takes the power of roles, those together that come together. What is quick is done for all at once: memberships and
// sessions. Disabling takes a statement for each role, and on 16 and later each of these looks at all roles that the admin
// made, so it is done in slices. Ends that come meanwhile are cut off after the next slice. Ends that come for the first
// time have a lane of their own, so that they never wait for one that somebody's lock holds up.
type lane struct {
	st  *Settler
	use func(context.Context, func(*admin.Conn) error) error

	mu      sync.Mutex
	waiting []*end
	running bool

	// What follows belongs to work.
	enabled  []*end // cut off, and to be disabled
	loud     []*end // disabled as far as can be, and sessions may not be over
	finished []*end // what they left is removed after all have been disabled, which it would slow down
}

// close takes part in what comes next and waits until the role's power is taken, or could not be.
func (l *lane) close(e *end) {
	e.done = make(chan struct{})
	l.mu.Lock()
	l.waiting = append(l.waiting, e)
	if !l.running {
		l.running = true
		go l.work()
	}
	l.mu.Unlock()
	<-e.done
}

// work goes round until nothing is left. After an error it takes another connection, since that one may be no good.
func (l *lane) work() {
	for l.goesOn() {
		ctx, cancel := context.WithTimeout(context.Background(), stepTimeout)
		connected := false
		err := l.use(ctx, func(c *admin.Conn) error {
			connected = true
			for l.pending() {
				if err := l.round(c); err != nil {
					return err
				}
			}
			return nil
		})
		room := !connected && full(err, nil) && l.st.makeRoom(ctx, l.first())
		cancel()
		if !connected && !room {
			err = fmt.Errorf("%w: %w", errAway, err)
			l.fail(err, l.next()...)
			l.fail(err, append(l.enabled, l.loud...)...)
			l.enabled, l.loud = nil, nil
		}
		l.release()
	}
}

// goesOn ends the work if there is none.
func (l *lane) goesOn() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running = l.some()
	return l.running
}

func (l *lane) pending() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.some()
}

func (l *lane) some() bool { return len(l.waiting)+len(l.enabled)+len(l.loud)+len(l.finished) > 0 }

// first is one of those that are to be done, or nil.
func (l *lane) first() *end {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, some := range [][]*end{l.waiting, l.enabled, l.loud} {
		if len(some) > 0 {
			return some[0]
		}
	}
	return nil
}

// next takes what waits.
func (l *lane) next() []*end {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := min(len(l.waiting), batchLimit)
	batch := l.waiting[:n:n]
	l.waiting = l.waiting[n:]
	return batch
}

// round cuts off all that wait, disables one slice of those that were cut off, and looks once at the sessions of those that
// were disabled. An error of a step is that of all ends in it.
func (l *lane) round(c *admin.Conn) error {
	batch := l.next()
	if err := l.step(c, batch, l.st.cut); err != nil {
		return err
	}
	for _, e := range batch {
		l.pass(e, &l.enabled)
	}
	n := min(len(l.enabled), sliceSize)
	slice := l.enabled[:n:n]
	l.enabled = l.enabled[n:]
	if err := l.step(c, slice, l.st.disableSlice); err != nil {
		return err
	}
	for _, e := range slice {
		l.pass(e, &l.loud)
	}
	scanned := l.loud
	l.loud = nil
	if err := l.step(c, scanned, l.st.scan); err != nil {
		return err
	}
	for _, e := range scanned {
		l.pass(e, &l.loud)
	}
	if len(l.enabled) > 0 {
		return nil
	}
	l.release()
	if len(l.loud) == 0 {
		return nil
	}
	return admin.Pause(context.Background(), scanGap)
}

// step runs one step for ends, which it fails for all of them or none.
func (l *lane) step(c *admin.Conn, ends []*end, do func(context.Context, *admin.Conn, []*end) error) error {
	if len(ends) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), stepTimeout)
	defer cancel()
	err := do(ctx, c, ends)
	if full(err, ends) && l.st.makeRoom(ctx, ends[0]) {
		err = do(ctx, c, ends)
	}
	if err != nil {
		l.fail(err, ends...)
	}
	return err
}

// pass puts an end where it goes on, unless nothing is to be done for it.
func (l *lane) pass(e *end, to *[]*end) {
	if e.gone || e.taken || e.over {
		to = &l.finished
	}
	*to = append(*to, e)
}

func (l *lane) fail(err error, ends ...*end) {
	for _, e := range ends {
		if e.err == nil {
			e.err = err
		}
	}
	l.finished = append(l.finished, ends...)
}

// release lets go on who waits in close.
func (l *lane) release() {
	for _, e := range l.finished {
		close(e.done)
	}
	l.finished = nil
}
