package gate

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// What does not end within the limit is named, all of it, and waited for no longer.
func TestAwait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hung := make(chan struct{})
		defer close(hung)
		began := time.Now()
		left := await(3*time.Second,
			begin("first", func() { <-hung }),
			begin("quick", func() {}),
			begin("slow", func() { time.Sleep(2 * time.Second) }),
			begin("last", func() { <-hung }),
		)
		if diff := cmp.Diff([]string{"first", "last"}, left); diff != "" || time.Since(began) != 3*time.Second {
			t.Errorf("after %v, want -, got +:\n%s", time.Since(began), diff)
		}
	})
}
