//go:build !linux

package gate

import (
	"os"
	"time"
)

func changed(info os.FileInfo) time.Time { return info.ModTime() }
