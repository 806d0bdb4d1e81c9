package gate

import (
	"testing"
	"time"
)

// Memory is given back once nobody comes: soon after a rush, later after a few, and again after a while.
func TestQuiet(t *testing.T) {
	t.Parallel()
	began := time.Now()
	q := quiet{gave: began}
	for _, look := range []struct {
		at       time.Duration
		accepted uint64
		due      bool
	}{
		{0, 0, false},
		{time.Second, 5, false},
		{1400 * time.Millisecond, 5, false},
		{2900 * time.Millisecond, 5, false},
		{3 * time.Second, 5, true},
		{4 * time.Second, 5, false},
		{10 * time.Second, 110, false},
		{10200 * time.Millisecond, 300, false},
		{10500 * time.Millisecond, 300, false},
		{10600 * time.Millisecond, 300, true},
		{40 * time.Second, 300, false},
		{40600 * time.Millisecond, 300, true},
		{41 * time.Second, 300, false},
	} {
		if due := q.due(began.Add(look.at), look.accepted); due != look.due {
			t.Errorf("after %v, %d connections: got %v, want %v", look.at, look.accepted, due, look.due)
		}
	}
}
