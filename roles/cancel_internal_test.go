package roles

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hourgate/hourgate/secrets"
)

// Cancelling waits where log-ins wait, so that whoever cancels all the time never takes the connection that is kept for
// settling.
func TestCancelLeavesRoomForSettling(t *testing.T) {
	t.Parallel()
	var secret noSecret
	k := New(Config{Secret: &secret, Logger: slog.New(slog.DiscardHandler), Metrics: NewMetrics(prometheus.NewRegistry())})
	l := &Lease{lease: &lease{keeper: k, backends: newBackends()}}
	l.Opened(4711)
	if _, err := k.pool.Reserve(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := l.Cancel(ctx, 4711); !errors.Is(err, context.DeadlineExceeded) || secret.asked != 0 {
		t.Errorf("got %v and %d log-ins as the admin, want it to wait for a log-in to end", err, secret.asked)
	}
}

// noSecret counts how often it was asked.
type noSecret struct{ asked int }

func (s *noSecret) Use(context.Context, func(context.Context, secrets.Credential) error) error {
	s.asked++
	return errors.New("no secret")
}
