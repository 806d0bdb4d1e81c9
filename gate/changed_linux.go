package gate

import (
	"os"
	"syscall"
	"time"
)

// changed is when the file, its rights or its name were last changed, by the kernel's own account. Who copies a file with its
// times, or sets them all to one moment, as builds that can be repeated do, can't set this one.
func changed(info os.FileInfo) time.Time {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return time.Unix(stat.Ctim.Unix())
	}
	return info.ModTime()
}
