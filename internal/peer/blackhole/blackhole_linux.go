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
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	drop := []syscall.SockFilter{{Code: syscall.BPF_RET | syscall.BPF_K, K: 0}}
	program := syscall.SockFprog{Len: 1, Filter: unsafe.SliceData(drop)}
	var errno syscall.Errno
	err = raw.Control(func(fd uintptr) {
		_, _, errno = syscall.Syscall6(syscall.SYS_SETSOCKOPT, fd, syscall.SOL_SOCKET, syscall.SO_ATTACH_FILTER,
			uintptr(unsafe.Pointer(&program)), unsafe.Sizeof(program), 0)
	})
	if errno != 0 {
		err = errors.Join(err, errno)
	}
	return err
}
