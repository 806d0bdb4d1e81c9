// Package blackhole makes a network swallow what is sent to a socket, for tests.
package blackhole

import (
	"errors"
	"net"
	"syscall"
	"unsafe"
)

// Swallow makes the kernel drop all that arrives for a TCP connection, acknowledgements included, by a filter that takes no
// byte: the other end sees a peer that has vanished.
func Swallow(conn *net.TCPConn) error {
	drop := []syscall.SockFilter{{Code: syscall.BPF_RET | syscall.BPF_K, K: 0}}
	return set(conn, syscall.SO_ATTACH_FILTER, syscall.SockFprog{Len: 1, Filter: unsafe.SliceData(drop)})
}

// Restore lets through again what arrives.
func Restore(conn *net.TCPConn) error {
	return set(conn, syscall.SO_DETACH_FILTER, syscall.SockFprog{})
}

func set(conn *net.TCPConn, option uintptr, program syscall.SockFprog) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var errno syscall.Errno
	err = raw.Control(func(fd uintptr) {
		_, _, errno = syscall.Syscall6(syscall.SYS_SETSOCKOPT, fd, syscall.SOL_SOCKET, option,
			uintptr(unsafe.Pointer(&program)), unsafe.Sizeof(program), 0)
	})
	if errno != 0 {
		err = errors.Join(err, errno)
	}
	return err
}
