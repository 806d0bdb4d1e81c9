package access

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/wholefile"
	"github.com/hourgate/hourgate/policy"
)

const (
	// poll is how often the store is asked whether something has changed, in case nobody said so.
	poll = time.Second
	// storeTimeout bounds one answer of the store.
	storeTimeout = 3 * time.Second
	// tries is how often a change is tried again that somebody else's came before.
	tries = 5
)

// Config is what a Service needs. All fields are required unless their comment says otherwise.
type Config struct {
	Store    Store // optional: without one nothing can be asked for, and locks are this machine's
	Live     *policy.Live
	Files    *policy.Set // the policy of the files
	Trail    Trail
	Logger   *slog.Logger
	Registry prometheus.Registerer

	// MarkFile remembers how far the store had come, see mark. LockFile has the locks of this machine. Both are optional;
	// without them neither outlives the process.
	MarkFile, LockFile string
	// Staleness is how long grants from requests take new sessions while the store can't be reached. Default: 10 s.
	Staleness time.Duration
	// Channels are told of every change, by name.
	Channels []string
	// Clock is this machine's. Default: time.Now.
	Clock func() time.Time
}

// Trail takes records before the act; *audit.Trail is one.
type Trail interface {
	Append(audit.Record) error
}

// Service is requests, decisions and locks of one gate. Its methods may be called from any goroutine.
type Service struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	wake    chan struct{} // something has changed

	lockFile *wholefile.Writer // of local
	marks    *wholefile.Writer // of mark

	refreshing sync.Mutex // held while the store is read, so that an older reading can't come after a newer one
	mark       mark       // of refreshing

	mu       sync.Mutex // held while a policy is put in force
	files    *policy.Set
	snapshot *Snapshot // as it was read last; empty before
	contact  time.Time // when the store answered last
	stale    bool
	skew     time.Duration // of the store's clock, ahead of ours
	local    []Lock
	// handedOver are locks of local that the store has too, and has not been seen to have.
	handedOver []Lock
	inForce    string        // what the policy in force was made of
	news       chan struct{} // closed, and another made, with each new snapshot
}

// New returns a service that has put its local locks in force, but knows nothing of the store yet: see Refresh and Run.
func New(cfg Config) (*Service, error) {
	cfg.Staleness = cmp.Or(cfg.Staleness, 10*time.Second)
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	s := &Service{
		cfg: cfg, log: cfg.Logger, metrics: newMetrics(cfg.Registry), wake: make(chan struct{}, 1),
		lockFile: wholefile.NewWriter(cfg.LockFile), marks: wholefile.NewWriter(cfg.MarkFile), files: cfg.Files, snapshot: &Snapshot{}, news: make(chan struct{}), contact: cfg.Clock(),
	}
	s.metrics.expect(cfg.Files)
	var err error
	if s.local, err = readLocks(cfg.LockFile); err != nil {
		return nil, fmt.Errorf(`%w (mend it, or write {"locks": []} into it, which lifts them all)`, err)
	}
	if s.mark, err = readMark(cfg.MarkFile); err != nil {
		return nil, fmt.Errorf("%w (restore it; without it, a state that was restored from a copy is not noticed at this start)", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stale = cfg.Store != nil // until it has been read
	s.force()
	return s, nil
}

// Close returns once the files of locks and of the mark are written, or says what a later start will not know. It waits for a disk
// for two seconds or so. Run must have ended, or been given up.
func (s *Service) Close() error {
	var err error
	if lost := s.lockFile.Flush(); lost != nil {
		err = fmt.Errorf("%s lacks the last change of locks, lock again after the next start: %w", s.cfg.LockFile, lost)
	}
	if lost := s.marks.Flush(); lost != nil {
		err = errors.Join(err, fmt.Errorf("writing down how far the state has come in %s: %w", s.cfg.MarkFile, lost))
	}
	return err
}

// SetFiles puts the policy of changed files in force, with what was granted under it.
func (s *Service) SetFiles(files *policy.Set) {
	s.metrics.expect(files)
	s.mu.Lock()
	s.files = files
	s.force()
	s.mu.Unlock()
	s.changed()
}

// now is the time by the store's clock, which all replicas go by.
func (s *Service) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.storeTime()
}

// storeTime is now with the mutex held. It has no more than the store keeps.
func (s *Service) storeTime() time.Time {
	return s.cfg.Clock().Add(s.skew).UTC().Truncate(time.Microsecond)
}

// policySet is the policy of the files that is in force.
func (s *Service) policySet() *policy.Set {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.files
}

// changed has Run look.
func (s *Service) changed() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

var errNoState = &Refused{
	Message: "this gate keeps no requests",
	Hint:    "Tell its operators: it needs state in its configuration.",
}

// store returns the store, or says that there is none.
func (s *Service) store() (Store, error) {
	if s.cfg.Store == nil {
		return nil, errNoState
	}
	return s.cfg.Store, nil
}

// change reads a request, has edit make another of it, and keeps that. It tries again when somebody else was faster, so
// that edit decides about what is there. It returns what is kept, once that is in force here.
func (s *Service) change(ctx context.Context, id int64, edit func(*Request) (event, error)) (*Request, error) {
	store, err := s.store()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	for range tries {
		var was *Request
		if was, err = store.Request(ctx, id); err != nil {
			break
		}
		r := was.clone()
		var e event
		if e, err = edit(r); err != nil {
			return was, err
		}
		if err = store.Update(ctx, r, s.announce(e)); err == nil {
			s.count(e, r)
			s.refreshNow(ctx)
			return r, nil
		}
		if !errors.Is(err, ErrConflict) {
			break
		}
	}
	return nil, s.storeError(err)
}

// storeError is what a person is told who can't be helped now. The error itself is for the log.
func (s *Service) storeError(err error) error {
	var why *Refused
	switch {
	case err == nil || errors.As(err, &why):
		return err
	case errors.Is(err, ErrNotFound):
		return refused("there is no such request")
	case errors.Is(err, ErrConflict):
		return refused("others are changing this request at the same time: look at it and try again")
	case errors.Is(err, errTrail):
		return &Refused{Message: "this can't be recorded, so it can't be done", Hint: "Tell the operators of this gate; nothing is wrong at your end."}
	}
	s.log.Error("state can't be used", "error", err)
	return &Refused{Message: "the state of requests can't be reached now", Hint: "Try again in a moment; if it goes on, tell the operators of this gate."}
}

// refreshNow puts what was just kept in force. It does not fail what is kept already: Run does it again.
func (s *Service) refreshNow(ctx context.Context) {
	if err := s.Refresh(ctx); err != nil {
		s.log.Error("state could not be read after a change", "error", err)
	}
	s.changed()
}
