// Package notify tells the world what becomes of requests and locks: by webhook, in Slack, by mail. It takes messages from
// the outbox of a store, so that none is lost with a process, and sends each until it was taken or is too old. Messages
// carry words and commands. Nothing that is sent decides anything, and no answer is looked at but whether it was taken.
package notify

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/hourgate/hourgate/access"
)

// Outbox is where messages wait; an access.Store is one.
type Outbox interface {
	Claim(ctx context.Context, channel string, limit int, lease time.Duration) ([]access.Message, error)
	Prune(ctx context.Context, before time.Time) ([]access.Message, error)
	Delay(ctx context.Context, id string, by time.Duration) error
	Done(ctx context.Context, id string) error
}

// A Channel takes messages.
type Channel interface {
	Send(ctx context.Context, m access.Message) error
}

// ErrRefused is an answer that says that sending it again is no use.
var ErrRefused = errors.New("refused for good")

const (
	// lease is how long a message belongs to the gate that claimed it; a send takes less.
	lease       = time.Minute
	sendTimeout = 20 * time.Second
	// giveUp is how old a message gets that nobody takes.
	giveUp = 3 * 24 * time.Hour
	// batch is how many messages are claimed at a time. They are sent one after the other, within the lease.
	batch = 2
	poll  = 2 * time.Second

	firstRetry, longestRetry = 5 * time.Second, time.Hour
)

// Sender sends what is in an outbox.
type Sender struct {
	Outbox   Outbox
	Channels map[string]Channel
	Log      *slog.Logger
	// Results counts by channel, and sent, failed or given_up.
	Results *prometheus.CounterVec
	// Changed is closed when there may be something to send. Optional: it is looked for every two seconds, too.
	Changed func() <-chan struct{}
}

// NewResults registers the counter of a Sender.
func NewResults(registry prometheus.Registerer) *prometheus.CounterVec {
	return promauto.With(registry).NewCounterVec(prometheus.CounterOpts{
		Name: "hourgate_notifications_total", Help: "Notifications that were sent, failed and will be tried again, or were given up.",
	}, []string{"channel", "result"})
}

// Run sends until ctx is done. Each channel has its own pace: one that is slow or down does not hold up the others.
func (s *Sender) Run(ctx context.Context) {
	var running sync.WaitGroup
	for name := range s.Channels {
		for _, result := range []string{"sent", "failed", "given_up"} {
			s.Results.WithLabelValues(name, result) // a counter that begins with its first event hides that one
		}
		running.Go(func() { s.runChannel(ctx, name) })
	}
	running.Go(func() { s.prune(ctx) })
	running.Wait()
}

func (s *Sender) runChannel(ctx context.Context, name string) {
	for ctx.Err() == nil {
		var changed <-chan struct{}
		if s.Changed != nil {
			changed = s.Changed()
		}
		if s.sendSome(ctx, name) {
			continue
		}
		wait := time.NewTimer(poll)
		select {
		case <-changed:
		case <-wait.C:
		case <-ctx.Done():
		}
		wait.Stop()
	}
}

// pruneEvery is how often messages are looked for that no gate sends any more.
const pruneEvery = time.Hour

// prune forgets messages of channels that were taken out of the configuration. They are kept for as long as others: another gate may
// have the channel, or this one again.
func (s *Sender) prune(ctx context.Context) {
	tick := time.NewTicker(pruneEvery)
	defer tick.Stop()
	for {
		s.pruneNow(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (s *Sender) pruneNow(ctx context.Context) {
	pruning, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	old, _ := s.Outbox.Prune(pruning, time.Now().Add(-giveUp-2*longestRetry)) // the service says that the state can't be reached
	for _, m := range old {
		s.Log.Error("a notification was given up: no gate has sent it", "channel", m.Channel, "message", m.ID, "attempts", m.Attempts)
	}
}

// sendSome sends a few messages that are due, and reports whether there were any.
func (s *Sender) sendSome(ctx context.Context, channel string) bool {
	claiming, cancel := context.WithTimeout(ctx, sendTimeout)
	messages, err := s.Outbox.Claim(claiming, channel, batch, lease)
	cancel()
	if err != nil {
		return false // the service says that the state can't be reached
	}
	for _, m := range messages {
		s.send(ctx, m)
	}
	return len(messages) > 0
}

func (s *Sender) send(ctx context.Context, m access.Message) {
	sending, cancel := context.WithTimeout(ctx, sendTimeout)
	err := s.Channels[m.Channel].Send(sending, m)
	cancel()
	if ctx.Err() != nil {
		return // the lease runs out, and it is sent again
	}
	result := "sent"
	switch {
	case err == nil:
	case errors.Is(err, ErrRefused), time.Since(m.Created) > giveUp:
		result = "given_up"
		s.Log.Error("a notification was given up", "channel", m.Channel, "message", m.ID, "attempts", m.Attempts, "error", err)
	default:
		result = "failed"
		s.Log.Warn("a notification could not be sent, trying again", "channel", m.Channel, "message", m.ID, "attempts", m.Attempts, "error", err)
	}
	keeping, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	if result == "failed" {
		err = s.Outbox.Delay(keeping, m.ID, backOff(m.Attempts))
	} else {
		err = s.Outbox.Done(keeping, m.ID)
	}
	if err != nil {
		s.Log.Error("a notification may be sent twice: the state can't be reached", "message", m.ID, "error", err)
	}
	s.Results.WithLabelValues(m.Channel, result).Inc()
}

// backOff doubles with each attempt, give or take a quarter.
func backOff(attempts int) time.Duration {
	d := firstRetry << min(max(attempts-1, 0), 10)
	d = min(d, longestRetry)
	return d - d/4 + rand.N(d/2)
}
