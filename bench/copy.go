//go:build linux

package main

import (
	"context"
	"runtime"
	"syscall"
	"unsafe"
)

// The copy loop is the least that a proxy does: one thread, one epoll set, and for what has come a wait, a read and a write,
// without TLS, and without a look at the bytes. It shows what no proxy can be below. Its system calls are raw, so that it costs
// what a loop in C does.

func (r *rig) startCopy(ctx context.Context, upstream int) (*proxy, error) {
	p, err := r.startSelf(ctx, copyName, stubConfig{Server: upstream, Copy: true})
	if err == nil {
		p.plain = true
	}
	return p, err
}

// runCopy is the copy loop's process, until a signal.
func runCopy(port, upstream int) error {
	listener, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := syscall.Bind(listener, loopback(port)); err != nil {
		return err
	}
	if err := syscall.Listen(listener, 1000); err != nil {
		return err
	}
	return copyBetween(listener, upstream)
}

// copyBetween serves whoever connects to the listener, until a system call fails that should not.
func copyBetween(listener, upstream int) error {
	runtime.LockOSThread()
	poll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	if err := watch(poll, listener); err != nil {
		return err
	}
	peers := make(map[int]int) // of each connection the other
	events := make([]syscall.EpollEvent, 128)
	buf := make([]byte, 64<<10)
	var gone []int
	for {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_EPOLL_PWAIT, uintptr(poll), //nolint:gosec // the system call's argument
			uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), ^uintptr(0), 0, 0)
		if errno == syscall.EINTR {
			continue
		} else if errno != 0 {
			return errno
		}
		for _, event := range events[:n] {
			fd := int(event.Fd)
			peer, known := peers[fd]
			switch {
			case fd == listener:
				if err := join(poll, listener, upstream, peers); err != nil {
					return err
				}
			case known && !pass(fd, peer, buf):
				delete(peers, fd)
				delete(peers, peer)
				gone = append(gone, fd, peer)
			}
		}
		// Not before: another connection would get the descriptor, and an event of this one that is still to come would be
		// taken for its own. The read for that event waits, and meanwhile nobody is served.
		for _, fd := range gone {
			_ = syscall.Close(fd)
		}
		gone = gone[:0]
	}
}

func loopback(port int) *syscall.SockaddrInet4 {
	return &syscall.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}
}

func watch(poll, fd int) error {
	event := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd)} //nolint:gosec // G115: descriptors are small
	return syscall.EpollCtl(poll, syscall.EPOLL_CTL_ADD, fd, &event)
}

// join takes a client and connects it.
func join(poll, listener, upstream int, peers map[int]int) error {
	client, _, err := syscall.Accept4(listener, syscall.SOCK_CLOEXEC)
	if err != nil {
		return err
	}
	server, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := syscall.Connect(server, loopback(upstream)); err != nil {
		return err
	}
	peers[client], peers[server] = server, client
	for _, fd := range []int{client, server} {
		if err := syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1); err != nil {
			return err
		}
		if err := watch(poll, fd); err != nil {
			return err
		}
	}
	return nil
}

// pass copies what has come, and waits where the peer takes nothing. It reports whether both are still there.
func pass(fd, peer int, buf []byte) bool {
	n, errno := transfer(syscall.SYS_RECVFROM, fd, buf)
	if errno != 0 || n == 0 {
		return false
	}
	for b := buf[:n]; len(b) > 0; b = b[n:] {
		if n, errno = transfer(syscall.SYS_SENDTO, peer, b); errno != 0 {
			return false
		}
	}
	return true
}

func transfer(call uintptr, fd int, b []byte) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall6(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), //nolint:gosec // likewise
			uintptr(len(b)), syscall.MSG_NOSIGNAL, 0, 0)
		if errno != syscall.EINTR {
			return int(n), errno
		}
	}
}
