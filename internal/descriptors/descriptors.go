// Package descriptors keeps some of the process's file descriptors back. People who connect must not be able to use up those
// that ending access and recording it need.
//
// There are two fences. [Connections] is how many connections fit beside what the gate itself opens; the proxy turns away
// what comes on top. And a few descriptors are held ([Hold]), and lent to whoever ends access when the rest is gone all the
// same ([Borrow]): the limit was lowered, or something leaks.
package descriptors

import (
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

const (
	held   = 16 // descriptors
	lent   = 6  // at a time: a name is looked up with up to four, then the connection is one
	always = 48 // what a gate opens: listeners, trail, spool, state, policy files, the operator port's connections

	// ForIntegration is what one server takes besides people's sessions: the admin's connections, to further databases too.
	ForIntegration = 8

	// perConnection is what one connection takes: the client's side and the server's.
	perConnection = 2
)

// Limit is how many descriptors this process may have open. Go has raised the soft limit to the hard one before main
// (package os, rlimit.go).
func Limit() int {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		return 1024 // every system has that many
	}
	return int(min(limit.Cur, 1<<30))
}

// Connections is how many connections of people a process that may open so many descriptors has room for, beside what it
// needs for integrations. It is 0 where there is no room at all.
func Connections(limit, integrations int) int {
	own := min(always+held+ForIntegration*integrations, limit*3/4) // a quarter of the limit is for people in any case
	return max(limit-own, 0) / perConnection
}

// Descriptors belong to the process, and so does the reserve.
var reserve struct {
	mu   sync.Mutex
	want int
	fds  []int
}

// Hold begins to hold descriptors back. It may be called again, to no effect.
func Hold() {
	reserve.mu.Lock()
	defer reserve.mu.Unlock()
	reserve.want = held
	refill()
}

// Borrow sees to it that the caller can open a few descriptors, as far as the reserve has them. giveBack must be called when
// the caller has opened what it needs; what it keeps open is missing in the reserve until there is room again.
func Borrow() (giveBack func()) {
	reserve.mu.Lock()
	defer reserve.mu.Unlock()
	if reserve.want == 0 {
		return func() {}
	}
	refill()
	if available(lent) {
		return func() {}
	}
	n := min(lent, len(reserve.fds))
	closeAll(reserve.fds[len(reserve.fds)-n:])
	reserve.fds = reserve.fds[:len(reserve.fds)-n]
	return func() {
		reserve.mu.Lock()
		defer reserve.mu.Unlock()
		refill()
	}
}

// moment is how long a connection is waited for that was there a moment ago.
const moment = 50 * time.Millisecond

// Accept is the listener's, with a descriptor of the reserve: for after Exhausted, and for those who must be let in all the
// same. It returns soon, also when nobody is there.
func Accept(ln net.Listener) (net.Conn, error) {
	bounded, ok := ln.(interface{ SetDeadline(t time.Time) error })
	if !ok {
		return nil, syscall.EMFILE // it might wait for hours with what it has borrowed
	}
	defer Borrow()()
	_ = bounded.SetDeadline(time.Now().Add(moment))
	defer bounded.SetDeadline(time.Time{}) //nolint:errcheck // the next Accept says what is wrong
	return ln.Accept()
}

// Listener is one whose connections are accepted with the reserve where there is no other descriptor.
type Listener struct{ net.Listener }

// Accept accepts a connection.
func (l Listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil && Exhausted(err) {
		return Accept(l.Listener)
	}
	return conn, err
}

// Exhausted reports an error that comes of having no descriptor left. An error of a look-up of a name has lost its cause; it
// counts if there is none left now.
func Exhausted(err error) bool {
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		return true
	}
	var lookup *net.DNSError
	return errors.As(err, &lookup) && !available(1)
}

// refill holds as many as are wanted, as far as they can be had. The mutex is held.
func refill() {
	for len(reserve.fds) < reserve.want {
		fd, err := open()
		if err != nil {
			return
		}
		reserve.fds = append(reserve.fds, fd)
	}
}

// available reports whether n descriptors can be opened now.
func available(n int) bool {
	var fds []int
	defer func() { closeAll(fds) }()
	for range n {
		fd, err := open()
		if err != nil {
			return false
		}
		fds = append(fds, fd)
	}
	return true
}

// open takes a descriptor that means nothing and that no program that we run gets.
func open() (int, error) {
	return syscall.Open(os.DevNull, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
}

func closeAll(fds []int) {
	for _, fd := range slices.Backward(fds) {
		_ = syscall.Close(fd)
	}
}
