//go:build (amd64 || arm64) && !portable

package burst

import (
	"errors"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// seat is a connection's place in a loop.
type seat struct {
	loop   *loop
	conn   *Conn
	fd     int
	holds  atomic.Int32 // of the descriptor, which is closed by who gives up the last one
	closed atomic.Bool
	state  atomic.Uint32
	ended  atomic.Bool // the kernel has told of an end of the stream or of the connection: read until it comes

	receiver *receiver // belongs to whoever has made the state serving
	finished chan struct{}
	panicked *Panic

	room atomic.Pointer[chan struct{}] // gets a value when there may be room to write, once somebody has waited for some

	mu        sync.Mutex // guards the timer; deadlines are in nanoseconds since 1970, 0 for none
	readBy    atomic.Int64
	writeBy   atomic.Int64
	readTimer *time.Timer
}

// The states of a seat.
const (
	seatEmpty   = iota // nobody receives
	seatIdle           // nothing to do
	seatServing        // a turn is under way
	seatAgain          // and there is something to do after it
)

// seat makes a place for a connection, with a descriptor of its own, since Go's poller lets none go. The connection does
// not use it before move.
func (l *loop) seat(c *Conn) (*seat, error) {
	s := &seat{loop: l, conn: c, finished: make(chan struct{})}
	s.holds.Store(1)
	var err error
	if controlErr := c.raw.Control(func(fd uintptr) { s.fd, err = duplicate(fd) }); controlErr != nil || err != nil {
		return nil, errors.Join(controlErr, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := watchFor(l.poll, s.fd, everything); err != nil {
		return nil, errors.Join(err, syscall.Close(s.fd))
	}
	l.seats[int32(s.fd)] = s //nolint:gosec // G115: descriptors are small
	return s, nil
}

// move makes the connection use its seat, and nothing else. A deadline that somebody sets meanwhile is set here or there.
func (s *seat) move() {
	s.conn.timing.Lock()
	s.conn.seat.Store(s)
	s.setReadDeadline(s.conn.readBy)
	s.setWriteDeadline(s.conn.writeBy)
	s.conn.timing.Unlock()
	_ = s.conn.Conn.Close() // its descriptor; the connection is not affected
	s.conn.forgoHint(s.fd)
}

// leave gives the place up. The leader is woken, since it may have been the last.
func (s *seat) leave() {
	s.loop.mu.Lock()
	delete(s.loop.seats, int32(s.fd)) //nolint:gosec // G115: as above
	unwatch(s.loop.poll, s.fd)
	s.loop.mu.Unlock()
	s.release()
	s.loop.post(s)
}

// hold keeps the descriptor open until release, unless it has been closed.
func (s *seat) hold() bool {
	for {
		n := s.holds.Load()
		if n == 0 || s.closed.Load() {
			return false
		}
		if s.holds.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (s *seat) release() {
	if s.holds.Add(-1) == 0 {
		_ = syscall.Close(s.fd)
	}
}

// tell notes an event, and says whether the receiver has to be served.
func (s *seat) tell(events uint32) bool {
	const (
		end  = syscall.EPOLLRDHUP | syscall.EPOLLHUP | syscall.EPOLLERR
		gone = syscall.EPOLLHUP | syscall.EPOLLERR
	)
	if events&end != 0 {
		s.ended.Store(true)
	}
	if events&(syscall.EPOLLOUT|gone) != 0 {
		s.makeRoom()
	}
	return events&(syscall.EPOLLIN|end) != 0
}

// serve takes a turn, or has one taken after the one that is under way.
func (s *seat) serve() {
	for {
		switch s.state.Load() {
		case seatEmpty, seatAgain:
			return
		case seatServing:
			if s.state.CompareAndSwap(seatServing, seatAgain) {
				return
			}
		case seatIdle:
			if s.state.CompareAndSwap(seatIdle, seatServing) {
				s.takeTurn()
				return
			}
		}
	}
}

// takeTurn lets the receiver have what has come.
func (s *seat) takeTurn() {
	over, again := s.receive()
	if over {
		s.state.Store(seatEmpty)
		close(s.finished)
		return
	}
	if again || !s.state.CompareAndSwap(seatServing, seatIdle) {
		s.state.Store(seatIdle)
		s.loop.post(s)
	}
}

// receive calls the receiver for one burst, or for what has ended the waiting.
func (s *seat) receive() (over, again bool) {
	defer func() {
		if value := recover(); value != nil {
			s.panicked, over = &Panic{value, debug.Stack()}, true
		}
	}()
	r := s.receiver
	var err error
	switch {
	case !s.hold():
		err = net.ErrClosed
	case passed(&s.readBy):
		s.release()
		err = os.ErrDeadlineExceeded
	default:
		defer s.release()
		again = r.turn(uintptr(s.fd)) || r.more
		return r.next == Stop, again
	}
	r.next = r.each(nil, err)
	return r.next == Stop, true
}

// serveAll has the loop call a receiver until it wants no more.
func (s *seat) serveAll(r *receiver) {
	s.receiver, r.next = r, Wait
	s.state.Store(seatIdle)
	s.loop.post(s) // something may have been read ahead
	<-s.finished
	if s.panicked != nil {
		panic(s.panicked)
	}
}

// write writes all of b, and waits where the peer takes nothing.
func (s *seat) write(b []byte) (n int, err error) {
	if !s.hold() {
		return 0, s.conn.wrap("write", net.ErrClosed)
	}
	defer s.release()
	for n < len(b) {
		if passed(&s.writeBy) {
			return n, s.conn.wrap("write", os.ErrDeadlineExceeded)
		}
		m, errno := write(uintptr(s.fd), b[n:])
		switch errno {
		case 0:
			n += m
		case syscall.EAGAIN:
			s.awaitRoom()
		default:
			return n, s.conn.opError("write", errno)
		}
		if s.closed.Load() {
			return n, s.conn.wrap("write", net.ErrClosed)
		}
	}
	return n, nil
}

// awaitRoom returns when there may be room to write, or another reason to look. The first time it only prepares to be told.
func (s *seat) awaitRoom() {
	room := s.room.Load()
	if room == nil {
		c := make(chan struct{}, 1)
		s.room.Store(&c)
		return
	}
	s.loop.relieve(s.loop.turn.Load())
	var late <-chan time.Time
	if by := s.writeBy.Load(); by != 0 {
		timer := time.NewTimer(time.Until(time.Unix(0, by)))
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-*room:
	case <-late:
	}
}

// makeRoom has a writer try again.
func (s *seat) makeRoom() {
	if room := s.room.Load(); room != nil {
		select {
		case *room <- struct{}{}:
		default:
		}
	}
}

// passed reports that there is a deadline and it has passed.
func passed(deadline *atomic.Int64) bool {
	by := deadline.Load()
	return by != 0 && time.Now().UnixNano() >= by
}

func nanoseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func (s *seat) setReadDeadline(t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readBy.Store(nanoseconds(t))
	if s.readTimer != nil {
		s.readTimer.Stop()
	}
	switch wait := time.Until(t); {
	case t.IsZero():
	case wait <= 0:
		s.loop.post(s)
	default:
		s.readTimer = time.AfterFunc(wait, func() { s.loop.post(s) })
	}
}

func (s *seat) setWriteDeadline(t time.Time) {
	s.writeBy.Store(nanoseconds(t))
	s.makeRoom()
}

// close ends reads and writes under way, as net.Conn's does.
func (s *seat) close() error {
	if s.closed.Swap(true) {
		return s.conn.wrap("close", net.ErrClosed)
	}
	s.setReadDeadline(time.Time{})
	if s.holds.Load() > 1 {
		_ = syscall.Shutdown(s.fd, syscall.SHUT_RDWR)
	}
	s.makeRoom()
	s.leave()
	return nil
}

// Read, Write and Control make a seat a syscall.RawConn, of which Control alone is of use.
func (s *seat) Control(f func(fd uintptr)) error {
	if !s.hold() {
		return net.ErrClosed
	}
	defer s.release()
	f(uintptr(s.fd))
	return nil
}

func (s *seat) Read(func(fd uintptr) bool) error  { return errors.ErrUnsupported }
func (s *seat) Write(func(fd uintptr) bool) error { return errors.ErrUnsupported }
