//go:build (amd64 || arm64) && !portable

package burst_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/hourgate/hourgate/internal/burst"
)

// A write that waits for a peer that takes nothing gets through when the reserve is opened, and so does another.
func TestReserve(t *testing.T) {
	t.Parallel()
	near, _ := pair(t)
	var written atomic.Int64
	go func() {
		for b := make([]byte, burst.Size); ; {
			n, err := near.Write(b)
			written.Add(int64(n))
			if err != nil {
				return
			}
		}
	}()
	stalled := func() int64 {
		for {
			before := written.Load()
			time.Sleep(200 * time.Millisecond)
			if after := written.Load(); after == before && after > 0 {
				return after
			}
		}
	}
	before := stalled()
	burst.OpenReserve(near)
	if more := stalled() - before; more < 2*burst.Size {
		t.Errorf("%d bytes were written after the reserve was opened, want at least %d", more, 2*burst.Size)
	}
}
