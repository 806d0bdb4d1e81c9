//go:build !linux || !(amd64 || arm64) || portable

package burst

import "syscall"

func (c *Conn) prepare()     {}
func (c *Conn) openReserve() {}

// read reads from a descriptor that does not block. What is left to read is never known; the next read says.
func (c *Conn) read(fd uintptr, b []byte) (n, left int, errno syscall.Errno) {
	for {
		n, err := syscall.Read(int(fd), b)
		errno, _ = err.(syscall.Errno) //nolint:errorlint // package syscall returns nothing else, and wraps nothing
		if errno != syscall.EINTR {
			return n, unknown, errno
		}
	}
}

// write writes to a descriptor that does not block.
func write(fd uintptr, b []byte) (n int, errno syscall.Errno) {
	for {
		n, err := syscall.Write(int(fd), b)
		errno, _ = err.(syscall.Errno) //nolint:errorlint // as above
		if errno != syscall.EINTR {
			return n, errno
		}
	}
}
