//go:build (amd64 || arm64) && !portable

package burst

// The system calls here are raw: the scheduler is not told of them, because there is nothing that they could wait for. Told,
// it takes the processor away from whoever is 20 µs in a system call, which happens when a write wakes up a peer on the
// same core, and gives it to another thread, only to give it back: beside PgBouncer, the gate took 1.67 times the processor
// time for a transaction and 4.3 context switches, and 0.98 times and 2.0 without.

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"unsafe"
)

// Of linux/tcp.h.
const (
	tcpNotSentLowat = 25 // since Linux 3.12
	tcpINQ          = 36 // and the type of the control message that it asks for; since Linux 4.18
)

// unsent is how many bytes the kernel may keep that the peer has no room for. Left alone, it takes up to 4 MB
// (net.ipv4.tcp_wmem), and once they are full, a write waits for a third of them to leave. A slow client may take longer for
// that than the end of a session may. The rest is the reserve. With less than this, bulk costs more: 1.2 times the processor
// time with 128 KiB.
const unsent = 1 << 20

// prepare asks the kernel to say with each read what is left to read, and to leave a reserve.
func (c *Conn) prepare() {
	_ = c.raw.Control(func(fd uintptr) {
		c.hinted = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpINQ, 1) == nil
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpNotSentLowat, unsent)
	})
}

// openReserve wakes up a write that waits (do_tcp_setsockopt in Linux's net/ipv4/tcp.c calls sk_write_space).
func (c *Conn) openReserve() {
	c.control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpNotSentLowat, 0)
	})
}

// read reads from a descriptor that does not block, and says how many bytes are left to read, if that is known: 0 only if
// the end of the stream is not there either. A short read alone does not say so: the end may have come with the last
// bytes, and epoll, which told of both at once, would not tell again (tcp_inq_hint in Linux's net/ipv4/tcp.c takes care of
// that case, but not of a reset: see Look).
//
// To find it out by a second read would cost a system call a burst, 0.9 µs where this was measured.
func (c *Conn) read(fd uintptr, b []byte) (n, left int, err syscall.Errno) {
	if !c.hinted {
		n, err = receive(fd, b)
		return n, unknown, err
	}
	var control struct {
		syscall.Cmsghdr
		left int32
		_    int32
	}
	buffer := syscall.Iovec{Base: unsafe.SliceData(b)}
	buffer.SetLen(len(b))
	message := syscall.Msghdr{Iov: &buffer, Iovlen: 1, Control: (*byte)(unsafe.Pointer(&control))}
	for {
		message.SetControllen(int(unsafe.Sizeof(control)))
		got, _, errno := syscall.RawSyscall(syscall.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&message)), 0)
		switch errno {
		case 0:
			if c.hinted && control.Level == syscall.IPPROTO_TCP && control.Type == tcpINQ {
				return int(got), int(control.left), 0
			}
			return int(got), unknown, 0
		case syscall.EINTR:
		default:
			return 0, unknown, errno
		}
	}
}

// receive is read without a hint.
func receive(fd uintptr, b []byte) (n int, errno syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0, 0, 0)
		if errno != syscall.EINTR {
			return int(n), errno
		}
	}
}

// forgoHint is for a loop, which is told of the end of a stream.
func (c *Conn) forgoHint(fd int) {
	c.hinted = false
	_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, tcpINQ, 0)
}

// left is how many bytes there are to read after a read of n bytes into a buffer of the given size. One that did not fill
// it has emptied the socket, and whatever came later the kernel tells of, the end too; so does none that came before.
func (s *seat) left(n, size int) int {
	switch {
	case s.ended.Load():
		return unknown
	case n < size:
		return 0
	}
	return Size // or less, or more
}

// write writes to a descriptor that does not block. A sendto finds the socket with less ado than a write.
func write(fd uintptr, b []byte) (n int, errno syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
			syscall.MSG_NOSIGNAL, 0, 0)
		if errno != syscall.EINTR {
			return int(n), errno
		}
	}
}

// newPoll returns an epoll set, and an eventfd in it that wakes whoever waits.
func newPoll() (poll, bell int, err error) {
	if strings.Contains(os.Getenv("GODEBUG"), "asyncpreemptoff=1") {
		return 0, 0, errors.ErrUnsupported // nothing would interrupt waitHolding
	}
	if poll, err = syscall.EpollCreate1(syscall.EPOLL_CLOEXEC); err != nil {
		return 0, 0, err
	}
	fd, _, errno := syscall.RawSyscall(syscall.SYS_EVENTFD2, 0, syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	if errno != 0 {
		return 0, 0, errors.Join(errno, syscall.Close(poll))
	}
	return poll, int(fd), watchFor(poll, int(fd), syscall.EPOLLIN)
}

// everything that a seat is told of.
const everything = syscall.EPOLLIN | syscall.EPOLLOUT | syscall.EPOLLRDHUP

// watchFor asks to be told of what happens to a descriptor, once each time.
func watchFor(poll, fd int, events uint32) error {
	const edge = 1 << 31                                              // syscall.EPOLLET is negative
	event := syscall.EpollEvent{Events: events | edge, Fd: int32(fd)} //nolint:gosec // G115: descriptors are small
	return syscall.EpollCtl(poll, syscall.EPOLL_CTL_ADD, fd, &event)
}

func unwatch(poll, fd int) {
	_ = syscall.EpollCtl(poll, syscall.EPOLL_CTL_DEL, fd, &syscall.EpollEvent{})
}

func duplicate(fd uintptr) (int, error) {
	copied, _, errno := syscall.RawSyscall(syscall.SYS_FCNTL, fd, syscall.F_DUPFD_CLOEXEC, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(copied), nil
}

// waitHolding waits for events. The scheduler is not told of it: it interrupts with a signal (SIGURG) when it wants the
// goroutine to stop, which ends the wait, and says so again until it does.
func waitHolding(poll int, events []syscall.EpollEvent, block bool) (n int, ok bool) {
	timeout := 0
	if block {
		timeout = -1
	}
	got, _, errno := syscall.RawSyscall6(syscall.SYS_EPOLL_PWAIT, uintptr(poll), uintptr(unsafe.Pointer(unsafe.SliceData(events))),
		uintptr(len(events)), uintptr(timeout), 0, 0)
	if errno != 0 {
		return 0, false
	}
	return int(got), true
}

// ring wakes whoever waits, or waits next. Nobody has to take the number out: each write is an event of its own.
func ring(bell int) {
	one := uint64(1)
	_, _, _ = syscall.RawSyscall(syscall.SYS_WRITE, uintptr(bell), uintptr(unsafe.Pointer(&one)), 8)
}
