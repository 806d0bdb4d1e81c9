package roles

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Cancelling waits where log-ins wait, so that whoever cancels all the time never takes the connection that is kept for
// settling.
func TestCancelLeavesRoomForSettling(t *testing.T) {
	t.Parallel()
	k := New(Config{Logger: slog.New(slog.DiscardHandler), Metrics: NewMetrics(prometheus.NewRegistry())})
	opened := 0
	k.pool = newPool(func(context.Context) (*adminConn, error) { opened++; return nil, errors.New("no server") })
	l := &Lease{lease: &lease{keeper: k, backends: newBackends()}}
	l.Opened(4711)
	for range poolSize - 1 {
		if _, err := k.pool.reserve(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := l.Cancel(ctx, 4711); !errors.Is(err, context.DeadlineExceeded) || opened != 0 {
		t.Errorf("got %v and %d connections opened, want it to wait for a log-in to end", err, opened)
	}
}
