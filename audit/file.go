package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/hourgate/hourgate/internal/descriptors"
)

// openLocked opens or makes a trail's file and locks it. The file may be renamed between the two steps; then the lock
// would guard a file that nobody finds any more, so it tries again.
func openLocked(path string) (*os.File, error) {
	defer descriptors.Borrow()()
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND|syscall.O_NONBLOCK, 0o600) // O_NONBLOCK: a FIFO must not hang us
		if err != nil {
			return nil, err
		}
		if err := lock(f); err != nil {
			_ = f.Close()
			return nil, err
		}
		same, err := isAt(f, path)
		if err == nil && same {
			return f, nil
		}
		_ = f.Close()
		if err != nil {
			return nil, err
		}
	}
}

func lock(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("not a regular file")
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return ErrLocked
	}
	return err
}

// closeLocked closes a file and gives its lock up, also where a child that is just being forked still has a copy of it.
func closeLocked(f *os.File) error {
	return errors.Join(syscall.Flock(int(f.Fd()), syscall.LOCK_UN), f.Close())
}

// isAt says whether path still leads to f.
func isAt(f *os.File, path string) (bool, error) {
	have, err := f.Stat()
	if err != nil {
		return false, err
	}
	want, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return os.SameFile(have, want), nil
}

// lastLine reads the end of a file: its last whole line without newline (nil if there is none) and what comes after.
func lastLine(f *os.File) (last, torn []byte, err error) {
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	size := info.Size()
	for n := int64(64 << 10); ; n *= 2 {
		n = min(n, size)
		tail := make([]byte, n)
		if _, err := f.ReadAt(tail, size-n); err != nil {
			return nil, nil, fmt.Errorf("reading its end: %w", err)
		}
		end := bytes.LastIndexByte(tail, '\n')
		start := bytes.LastIndexByte(tail[:max(end, 0)], '\n') + 1
		switch {
		case end >= 0 && (start > 0 || n == size):
			return tail[start:end], tail[end+1:], nil
		case n == size:
			return nil, tail, nil
		case n > 4*MaxRecord:
			return nil, nil, fmt.Errorf("no line ends in its last %d bytes", n)
		}
	}
}

// setAside adds a torn line to a side file and makes sure that it is on the disk before the trail is cut.
func setAside(side string, torn []byte) error {
	defer descriptors.Borrow()()
	f, err := os.OpenFile(side, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(bytes.Clone(torn), '\n'))
	return errors.Join(err, f.Sync(), f.Close())
}

func syncFolder(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func hashLine(line []byte) string {
	sum := sha256.Sum256(line)
	return hex.EncodeToString(sum[:])
}

// fill writes zeros, the way to get blocks that works everywhere.
func fill(f *os.File, size int64) error {
	zeros := make([]byte, 64<<10)
	for size > 0 {
		n, err := f.Write(zeros[:min(size, int64(len(zeros)))])
		if err != nil {
			return err
		}
		size -= int64(n)
	}
	return nil
}
