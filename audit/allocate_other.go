//go:build !linux

package audit

import "os"

// allocate gives a new file blocks of its own, so that a full disk shows here and not when its memory is written, where
// it would be a SIGBUS.
func allocate(f *os.File, size int64) error { return fill(f, size) }
