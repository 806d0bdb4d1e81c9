package secrets

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

const (
	defaultRefresh = 5 * time.Minute
	fetchTimeout   = 20 * time.Second // above what each Source allows itself

	firstBackOff = time.Second
	maxBackOff   = 5 * time.Minute
)

// ErrRejected is what the function given to [Store.Use] wraps when the server refused the credential itself (SQLSTATE
// 28P01), and not when it refused anything else or could not be reached.
var ErrRejected = errors.New("credential rejected by the server")

// StoreConfig is optional in all parts.
type StoreConfig struct {
	// Refresh is the mean time between two fetches by Run; each is drawn from ±10 % around it, so that many proxies
	// don't ask at once. 0 means 5 minutes.
	Refresh time.Duration

	// Log gets a line when the secret changes and when a refresh fails. nil means none.
	Log *slog.Logger
}

// Store keeps the credential of one Source in memory. Its methods may be called from several goroutines.
type Store struct {
	source  Source
	refresh time.Duration
	log     *slog.Logger
	flight  singleflight.Group // at most one fetch of Current at a time
	turn    chan struct{}      // holds one token; whoever has it may look for another credential

	mu         sync.Mutex
	cached     *Credential // what Use tries first; nil until the first fetch
	stage      Stage       // where cached came from
	generation int         // counts the changes of cached
	suspect    bool        // the server's last word about cached was a rejection
	worked     *Credential // the last that the server took
	current    *Credential // Current as last fetched. It differs from cached while only another stage works
	fetched    time.Time   // when Current was last fetched
	outage     backOff     // after failed fetches
	rejection  backOff     // after everything was rejected
}

// NewStore makes a store with an empty cache. The first Use, Refresh or Run fills it.
func NewStore(source Source, cfg StoreConfig) *Store {
	s := &Store{source: source, refresh: cfg.Refresh, log: cfg.Log, turn: make(chan struct{}, 1)}
	if s.refresh <= 0 {
		s.refresh = defaultRefresh
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s
}

// String names the source.
func (s *Store) String() string { return s.source.String() }

// Status is the state of a store, for metrics and readiness.
type Status struct {
	Loaded        bool      // there is a credential
	Stage         Stage     // where the credential in use came from
	Fetched       time.Time // when the store last gave the current one; zero if never
	FetchError    error     // why the last fetch failed; nil when it worked
	Rejected      bool      // the server rejected the credential in use, and nothing better was found yet
	RejectedUntil time.Time // no log-in is tried before, unless the secret changes; zero when there is no such time
}

// Status returns the state of the store.
func (s *Store) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Status{
		Loaded: s.cached != nil, Stage: s.stage, Fetched: s.fetched, FetchError: s.outage.err,
		Rejected: s.suspect, RejectedUntil: s.rejection.until,
	}
}

// Run fetches the current credential at once and then again and again until ctx ends. When the store is down, it tries
// again after 1 second, then after twice as long each time, up to the refresh time or 5 minutes, whichever is less.
func (s *Store) Run(ctx context.Context) {
	for {
		if err := s.Refresh(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("secret not refreshed", "source", s.source.String(), "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(s.pause()):
		}
	}
}

func (s *Store) pause() time.Duration {
	pause := time.Duration(float64(s.refresh) * (0.9 + 0.2*rand.Float64()))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.outage.err != nil {
		pause = min(pause, max(time.Until(s.outage.until), firstBackOff/2))
	}
	return pause
}

// Refresh fetches the current credential now. If it has changed since the last fetch, it becomes the one in use, and a
// back-off after rejections ends. If the fetch fails, the one in use stays.
func (s *Store) Refresh(ctx context.Context) error {
	_, err := s.fetchCurrent(ctx)
	return err
}

// trusted returns the credential in use, or nil if the server has rejected it. An empty cache is filled first.
func (s *Store) trusted(ctx context.Context) (*Credential, int, error) {
	s.mu.Lock()
	empty, outage := s.cached == nil, s.outage
	s.mu.Unlock()
	if empty {
		if outage.on() {
			return nil, 0, fmt.Errorf("%w (not asked again before %s)", outage.err, outage.until.UTC().Format(time.RFC3339))
		}
		if _, err := s.fetchCurrent(ctx); err != nil {
			return nil, 0, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.suspect {
		return nil, s.generation, nil
	}
	return s.cached, s.generation, nil
}

// fetchCurrent fetches Current, or waits for a fetch that is under way. The fetch does not end with the caller that
// happened to start it, because others wait for it too.
func (s *Store) fetchCurrent(ctx context.Context) (Credential, error) {
	done := s.flight.DoChan("", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
		defer cancel()
		cred, err := s.source.Fetch(ctx, Current)
		s.note(cred, err)
		return cred, err
	})
	select {
	case <-ctx.Done():
		return Credential{}, context.Cause(ctx)
	case r := <-done:
		return r.Val.(Credential), r.Err
	}
}

// fetch fetches any stage afresh.
func (s *Store) fetch(ctx context.Context, stage Stage) (Credential, error) {
	if stage == Current {
		return s.fetchCurrent(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	return s.source.Fetch(ctx, stage)
}

// note remembers the outcome of a fetch of Current. It compares with what was Current before, and not with what is in
// use: while only the pending or previous one works, a refresh must not put the same useless one back.
func (s *Store) note(cred Credential, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.outage.extend(err)
		return
	}
	s.outage, s.fetched = backOff{}, time.Now()
	if s.current != nil && s.current.Equal(cred) {
		return
	}
	if s.current != nil && !cred.Token {
		s.log.Info("secret changed", "source", s.source.String())
	}
	s.current = &cred
	if s.cached != nil && s.cached.Equal(cred) {
		s.stage = Current // the pending one that was in use already has arrived
		return
	}
	s.put(cred, Current)
	s.rejection.until = time.Time{}
}

func (s *Store) put(cred Credential, stage Stage) {
	s.cached, s.stage, s.suspect = &cred, stage, false
	s.generation++
}

// backOff is the time after a failure in which nothing is tried.
type backOff struct {
	failures int
	until    time.Time
	err      error // the last failure; nil when there was none
}

func (b *backOff) on() bool { return b.err != nil && time.Now().Before(b.until) }

func (b *backOff) extend(err error) {
	d := min(firstBackOff<<min(b.failures, 16), maxBackOff)
	d = d/2 + rand.N(d/2+1)
	b.failures++
	b.until, b.err = time.Now().Add(d), err
}
