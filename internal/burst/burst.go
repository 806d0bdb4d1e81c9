// Package burst receives what a connection brings in bursts: all that has arrived, in one buffer, which is held only while
// there is something in it. A connection that is silent costs no buffer, and one that is busy costs one read(2) a burst.
//
// It is net.Conn.Read turned inside out. Whoever calls Read must bring a buffer and keep it while it waits, and a tls.Conn
// returns one record at a time. Here the waiting comes first, and the buffer when there is something to put in it.
package burst

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Size is that of a buffer, in bytes: no burst is longer. Half as much costs 1.04 times the processor time for bulk, and
// twice as much saves none.
const Size = 128 << 10

var buffers = sync.Pool{New: func() any { return new([Size]byte) }}

// Conn is a connection that can be read without waiting. TLS may run on top of it. It behaves as the connection underneath
// until [Receive] takes its reading over.
type Conn struct {
	net.Conn
	raw    syscall.RawConn
	seat   atomic.Pointer[seat] // nil while Go's poller has the connection: see Join
	hinted bool                 // the kernel says what is left to read

	// These belong to Receive's goroutine.
	receiving bool
	fd        uintptr     // valid within a turn
	left      int         // bytes there are to read, or unknown
	empty     bool        // there is nothing to read, as far as is known
	certain   bool        // a read has failed for that
	layered   bool        // something runs on top
	records   records     // of TLS, if that is what runs on top
	spare     *[Size]byte // holds what was read ahead, nil if nothing
	ahead     []byte      // the rest of that

	timing          sync.Mutex // guards what follows, which a seat takes over
	readBy, writeBy time.Time

	writing sync.Mutex // guards what follows
	rest    []byte     // of what is being written
	failure error      // of writing it
	attempt func(fd uintptr) (done bool)
}

// Wrap makes a connection one that Receive can read without waiting, and returns one that is not backed by a file
// descriptor (net.Pipe) as it is.
func Wrap(c net.Conn) net.Conn {
	if backed, ok := c.(syscall.Conn); ok {
		if raw, err := backed.SyscallConn(); err == nil {
			socket := &Conn{Conn: c, raw: raw}
			socket.attempt = socket.writeRest
			socket.prepare()
			return socket
		}
	}
	return c
}

// errWouldBlock makes a tls.Conn keep what it has and try again at the next Read, as all temporary errors do.
var errWouldBlock net.Error = wouldBlock{}

type wouldBlock struct{}

func (wouldBlock) Error() string   { return "nothing has arrived" }
func (wouldBlock) Timeout() bool   { return false }
func (wouldBlock) Temporary() bool { return true }

// Read reads what has arrived, and waits only if nobody receives.
func (c *Conn) Read(b []byte) (int, error) {
	switch {
	case !c.receiving:
		n, err := c.Conn.Read(b)
		c.records.follow(b[:n])
		return n, err
	case len(c.ahead) > 0:
		return c.takeAhead(b), nil
	case c.empty:
		return 0, errWouldBlock
	case c.layered && c.left > 2*len(b):
		c.spare = buffers.Get().(*[Size]byte)
		n, err := c.readNow(c.spare[:])
		c.ahead = c.spare[:n]
		return c.takeAhead(b), err
	}
	n, err := c.readNow(b)
	c.records.follow(b[:n])
	return n, err
}

const unknown = -1 // number of bytes

// readNow reads without waiting.
func (c *Conn) readNow(b []byte) (int, error) {
	n, left, errno := c.read(c.fd, b)
	if s := c.seat.Load(); s != nil && errno == 0 {
		left = s.left(n, len(b))
	}
	c.left, c.empty = left, left == 0
	switch {
	case errno == syscall.EAGAIN:
		c.empty, c.certain = true, true
		return 0, errWouldBlock
	case errno != 0:
		return 0, c.opError("read", errno)
	case n == 0 && len(b) > 0:
		return 0, io.EOF
	}
	return n, nil
}

// takeAhead reads from what was read ahead. TLS asks for a record at a time, and where more has arrived than that, one
// read for many of them costs less than each its own.
func (c *Conn) takeAhead(b []byte) int {
	n := copy(b, c.ahead)
	c.records.follow(b[:n])
	if c.ahead = c.ahead[n:]; len(c.ahead) == 0 {
		buffers.Put(c.spare)
		c.spare, c.ahead = nil, nil
	}
	return n
}

// ExpectTLS says that all that will be read from c, which Wrap has returned, is TLS, and so were the bytes seen before. It is
// not required: Receive does a little less work for connections of which it knows.
func ExpectTLS(c net.Conn, seen ...byte) {
	if socket := underneath(c); socket != nil {
		socket.records.known = true
		socket.records.follow(seen)
	}
}

// exhausted reports that another Read, by whatever runs on top, could only fail.
func (c *Conn) exhausted() bool {
	return c.empty && len(c.ahead) == 0 && (!c.layered || c.records.none())
}

// Write is that of the connection underneath, but for how it asks the kernel: see write.
func (c *Conn) Write(b []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if s := c.seat.Load(); s != nil {
		return s.write(b)
	}
	c.rest, c.failure = b, nil
	err := c.raw.Write(c.attempt)
	if err == nil {
		err = c.failure
	}
	n := len(b) - len(c.rest)
	c.rest = nil
	return n, err
}

// writeRest writes as much as the socket takes, and returns false if it has to wait for the socket to take more.
func (c *Conn) writeRest(fd uintptr) (done bool) {
	for len(c.rest) > 0 {
		n, errno := write(fd, c.rest)
		switch errno {
		case 0:
			c.rest = c.rest[n:]
		case syscall.EAGAIN:
			return false
		default:
			c.failure = c.opError("write", errno)
			return true
		}
	}
	return true
}

// OpenReserve lets what is being written to c, and a little more, go to the kernel at once, if c's peer reads slowly or has
// stopped. It is for the last words to a peer that will be cut off. Where the system has no means for it, such a write waits
// as all do.
func OpenReserve(c net.Conn) {
	if socket := underneath(c); socket != nil {
		socket.openReserve()
	}
}

// SyscallConn gives access to the socket, for options and for what the kernel knows of it.
func (c *Conn) SyscallConn() (syscall.RawConn, error) {
	if s := c.seat.Load(); s != nil {
		return s, nil
	}
	return c.raw, nil
}

// control calls f with the descriptor, unless it is closed.
func (c *Conn) control(f func(fd uintptr)) {
	raw, _ := c.SyscallConn()
	_ = raw.Control(f)
}

// SetDeadline is that of net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline is that of net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.timing.Lock()
	defer c.timing.Unlock()
	c.readBy = t
	if s := c.seat.Load(); s != nil {
		s.setReadDeadline(t)
		return nil
	}
	return c.Conn.SetReadDeadline(t)
}

// SetWriteDeadline is that of net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.timing.Lock()
	defer c.timing.Unlock()
	c.writeBy = t
	if s := c.seat.Load(); s != nil {
		s.setWriteDeadline(t)
		return nil
	}
	return c.Conn.SetWriteDeadline(t)
}

// Close is that of net.Conn.
func (c *Conn) Close() error {
	if s := c.seat.Load(); s != nil {
		return s.close()
	}
	return c.Conn.Close()
}

// Cut ends both directions of c at once, without waiting for whoever reads from it or writes to it: they see the end. What
// was written arrives. c has to be closed later all the same.
func Cut(c net.Conn) {
	socket := underneath(c)
	if socket == nil {
		_ = c.Close()
		return
	}
	socket.control(func(fd uintptr) { _ = syscall.Shutdown(int(fd), syscall.SHUT_RDWR) })
}

func (c *Conn) opError(call string, errno syscall.Errno) error {
	return c.wrap(call, os.NewSyscallError(call, errno))
}

func (c *Conn) wrap(call string, err error) error {
	return &net.OpError{Op: call, Net: c.LocalAddr().Network(), Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// Next says how to go on after a burst.
type Next int

const (
	// Stop receiving.
	Stop Next = iota
	// Wait for more. That the connection was reset may not be noticed, if that came together with the last bytes, before
	// something is written to it: the kernel does not say so with the bytes, and it says all once.
	Wait
	// Look once more before waiting, which notices that too, and costs a system call. It is for whoever waits for an answer
	// and writes nothing until it comes.
	Look
)

// Panic is a panic of the function that Receive calls, if a loop has called it (see Join). Receive panics with it in the
// goroutine that it was called by.
type Panic struct {
	Value any
	Stack []byte
}

// Receive calls each with what has arrived, whenever something has, until each returns Stop. err is why nothing more
// comes; os.ErrDeadlineExceeded can be got over by another deadline. b is valid until each returns and is never empty
// unless err is set.
//
// c is a Conn, a tls.Conn on top of one, or any other connection, for which Receive is a loop around Read. Nobody else may
// read from c, before Receive returns or after.
func Receive(c net.Conn, each func(b []byte, err error) Next) {
	socket := underneath(c)
	if socket == nil {
		receiveWaiting(c, each)
		return
	}
	r := receiver{plain: c, socket: socket, each: each, seated: socket.seat.Load() != nil}
	socket.receiving, socket.layered = true, c != net.Conn(socket)
	if s := socket.seat.Load(); s != nil {
		s.serveAll(&r)
		return
	}
	turn := r.turn
	for r.next = Wait; r.next != Stop; {
		// All work is done within turn: between two calls of raw.Read, the news that something has arrived could be lost.
		if err := socket.raw.Read(turn); err != nil {
			r.next = each(nil, err)
		}
	}
}

// underneath finds the socket that c reads from, through all layers that have tls.Conn's NetConn.
func underneath(c net.Conn) *Conn {
	for {
		layer, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		c = layer.NetConn()
	}
	socket, _ := c.(*Conn)
	return socket
}

type receiver struct {
	plain  io.Reader // on top of
	socket *Conn
	each   func([]byte, error) Next
	next   Next
	seated bool // turns have to be short, since others wait for theirs
	more   bool // there may be more to read than the last turn has
}

// turn empties the socket, or in a loop takes a burst, and returns whether that was the last time; if not, it is called
// again when more has arrived.
func (r *receiver) turn(fd uintptr) (done bool) {
	r.socket.fd, r.socket.left, r.socket.empty, r.socket.certain = fd, unknown, false, false
	r.more = false
	buf := buffers.Get().(*[Size]byte)
	defer buffers.Put(buf)
	for {
		n, err := r.fill(buf[:])
		wait := err == errWouldBlock //nolint:errorlint // by whoever called us to read: nobody wraps it
		if wait {
			err = nil
		}
		if n > 0 || err != nil {
			if r.next = r.each(buf[:n], err); r.next == Stop || err != nil {
				return true
			}
		}
		switch {
		case r.seated:
			r.more = !wait
			return false // a loop is told of everything, so there is no need to look
		case wait && r.next == Look && !r.socket.certain:
			r.socket.empty = false
		case wait:
			return false
		}
	}
}

// fill reads until the buffer is full or nothing more has arrived.
func (r *receiver) fill(buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		if n > 0 && r.socket.exhausted() {
			return n, errWouldBlock
		}
		var m int
		m, err = r.plain.Read(buf[n:])
		n += m
		r.socket.records.taken(n == len(buf), err != nil)
	}
	return n, err
}

// receiveWaiting receives from a connection that can only be read by waiting.
func receiveWaiting(c net.Conn, each func([]byte, error) Next) {
	buf := buffers.Get().(*[Size]byte)
	defer buffers.Put(buf)
	for {
		if n, err := c.Read(buf[:]); each(buf[:n], err) == Stop {
			return
		}
	}
}
