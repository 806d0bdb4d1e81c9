package admin

import (
	"context"
	"sync"
	"time"
)

// A server's connections are few, and many integrations may be databases of one server. So the pools of all that reach a
// server in the same way share its connections, and Limit of them are never exceeded but for ends: see Urgent.
const (
	Limit = useLimit + besideLimit + urgentLimit + guardLimit

	useLimit    = 2 // at work at a time
	loginLimit  = 1 // of these, for log-ins: one is left for settling
	besideLimit = 1 // for who holds one already and needs another database too
	urgentLimit = 1 // kept for ending access
	guardLimit  = 1 // kept for making room for that, see guard
	pooled      = useLimit + besideLimit

	// endsLimit is how many more are opened when roles of as many integrations end at the same moment. Their ends can't wait
	// for each other, and each of these connections is closed when its ends are over.
	endsLimit = 32
)

const (
	idleCheck = time.Second // a connection that lay idle for longer is pinged before it is used
	idleLimit = time.Minute // … and is closed, unless it is the last
)

// Shared are the admin connections to one server. Each is in some database, which matters to those alone who ask for one.
type Shared struct {
	uses, logins, besides, ends chan struct{} // what they hold is in use
	patient                     chan struct{} // held by one of those who are in no hurry

	urgent chan *Conn // of one: the connection that ends access, nil while it is not open
	guard  chan *Conn // of one: see guard.go, nil while it is not open

	mu      sync.Mutex
	taken   int            // connections that are used or being opened; at most pooled
	live    map[string]int // connections that are open, by database, and all of them under ""
	idle    []*Conn        // the one that was used last is last; with those that are taken at most pooled
	changed chan struct{}
	active  map[*Pool]struct{} // pools that were used and not closed since
	duties  map[string]*duty
}

// duty is work on the server as a whole, which one of those who share it does for all.
type duty struct {
	by      *Pool
	running bool
	done    time.Time // the last time that it went well
}

// NewShared returns what pools share that reach one server with the same secret.
func NewShared() *Shared {
	s := &Shared{
		uses:    make(chan struct{}, useLimit),
		logins:  make(chan struct{}, loginLimit),
		besides: make(chan struct{}, besideLimit),
		ends:    make(chan struct{}, endsLimit),
		patient: make(chan struct{}, 1),
		urgent:  make(chan *Conn, 1),
		guard:   make(chan *Conn, 1),
		changed: make(chan struct{}),
		live:    make(map[string]int),
		active:  make(map[*Pool]struct{}),
		duties:  make(map[string]*duty),
	}
	s.urgent <- nil
	s.guard <- nil
	return s
}

// enter waits for a place among those that use connections. Call leave when it is free.
func enter(ctx context.Context, places chan struct{}) (leave func(), err error) {
	select {
	case places <- struct{}{}:
		return func() { <-places }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// begins notes that a pool is used, until it is closed.
func (s *Shared) begins(p *Pool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active[p] = struct{}{}
}

// take returns an idle connection in the database, or in any if that is "", or nil; then the caller opens one. The connection
// that it returns besides has to be closed for that.
func (s *Shared) take(p *Pool, database string) (conn, surplus *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active[p] = struct{}{}
	s.taken++
	if database == "" { // one that is in the integration's own saves another for whoever needs that
		conn = s.pick(p.cfg.Database)
	}
	if conn == nil {
		conn = s.pick(database)
	}
	if conn == nil && s.taken+len(s.idle) > pooled {
		surplus, s.idle = s.idle[0], s.idle[1:]
	}
	return conn, surplus
}

// pick takes an idle connection; the mutex is held.
func (s *Shared) pick(database string) *Conn {
	for i := len(s.idle) - 1; i >= 0; i-- {
		if conn := s.idle[i]; database == "" || conn.database == database {
			s.idle = append(s.idle[:i:i], s.idle[i+1:]...)
			return conn
		}
	}
	return nil
}

// another takes an idle connection in place of one that does not work.
func (s *Shared) another(database string) *Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pick(database)
}

// give takes a connection back, which may be nil, and returns one that nobody needs any more.
func (s *Shared) give(conn *Conn) (old *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken--
	if conn != nil {
		s.idle = append(s.idle, conn)
	}
	if len(s.idle) > 1 && time.Since(s.idle[0].used) > idleLimit {
		old, s.idle = s.idle[0], s.idle[1:]
	}
	s.change("", 0)
	return old
}

// change notes that there are more connections, or fewer, or other idle ones; the mutex is held.
func (s *Shared) change(database string, more int) {
	s.live[""] += more
	if s.live[database] += more; s.live[database] == 0 {
		delete(s.live, database)
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// opened counts a connection.
func (s *Shared) opened(conn *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.change(conn.database, 1)
}

// shut says goodbye to the server.
func (s *Shared) shut(conn *Conn) {
	if conn == nil {
		return
	}
	shut(conn)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.change(conn.database, -1)
}

// await returns a connection in the database, or in any, that becomes idle, or false when none is open that could.
func (s *Shared) await(ctx context.Context, database string) (*Conn, bool) {
	for {
		s.mu.Lock()
		conn, changed, live := s.pick(database), s.changed, s.live[database]
		s.mu.Unlock()
		if conn != nil || live == 0 {
			return conn, conn != nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, false
		}
	}
}

// retire takes a pool out. With the last one all idle connections are closed.
func (s *Shared) retire(p *Pool) {
	s.mu.Lock()
	delete(s.active, p)
	var idle []*Conn
	last := len(s.active) == 0
	if last {
		idle, s.idle = s.idle, nil
	}
	s.mu.Unlock()
	if !last {
		return
	}
	var closing sync.WaitGroup // all at once: a server that hangs holds up each
	defer closing.Wait()
	for _, conn := range idle {
		closing.Go(func() { s.shut(conn) })
	}
	for _, kept := range []chan *Conn{s.urgent, s.guard} {
		select {
		case conn := <-kept:
			if conn != nil {
				closing.Go(func() { shut(conn) })
			}
			kept <- nil
		default: // whoever uses it finds that nobody is active any more
		}
	}
}

// begin reports whether p shall do a duty: not while another pool does, or has done it less than every ago.
func (s *Shared) begin(p *Pool, name string, every time.Duration) (*duty, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.duties[name]
	if d == nil {
		d = new(duty)
		s.duties[name] = d
	}
	if d.by != nil && d.by != p && (d.running || time.Since(d.done) < every) {
		return nil, false
	}
	d.by, d.running = p, true
	return d, true
}

func (s *Shared) ended(d *duty, well bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d.running, d.done = false, time.Time{}
	if well {
		d.done = time.Now()
	}
}

// stow puts the connection of ends, or the guard, back to its place, unless all pools were closed meanwhile: then it is closed, too.
func (s *Shared) stow(place chan *Conn, conn *Conn) {
	place <- conn
	if !s.unused() {
		return
	}
	select {
	case conn := <-place:
		if conn != nil {
			shut(conn)
		}
		place <- nil
	default: // somebody else does
	}
}

// unused reports whether all pools are closed.
func (s *Shared) unused() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.active) == 0
}
