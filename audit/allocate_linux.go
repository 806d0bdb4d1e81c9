package audit

import (
	"errors"
	"os"
	"syscall"
)

// allocate gives a new file blocks of its own, so that a full disk shows here and not when its memory is written, where
// it would be a SIGBUS.
func allocate(f *os.File, size int64) error {
	for {
		err := syscall.Fallocate(int(f.Fd()), 0, 0, size)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EOPNOTSUPP), errors.Is(err, syscall.ENOSYS):
			return fill(f, size)
		}
		return err
	}
}
