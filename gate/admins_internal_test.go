package gate

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/secrets"
)

// Servers that come and go leave nothing behind, and those that stay keep what they share.
func TestAdminsForgetWhoHasGone(t *testing.T) {
	t.Parallel()
	var a admins
	kept := a.of(upstream.Config{Host: "stays"}, secrets.Config{})
	passing := make([]*admin.Shared, 0, 1000)
	for i := range cap(passing) {
		passing = append(passing, a.of(upstream.Config{Host: fmt.Sprintf("passes-%d", i)}, secrets.Config{}))
	}
	runtime.KeepAlive(passing)
	eventually.True(t, "all but one are forgotten", func() bool {
		runtime.GC()
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.ways) == 1
	})
	if a.of(upstream.Config{Host: "stays"}, secrets.Config{}) != kept {
		t.Error("the one that is used was forgotten")
	}
}
