package secrets

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Use logs in: it calls try with the credential in use, and returns what try returns unless that is ErrRejected.
//
// If it is, Use fetches the current credential afresh, once, and calls try with it if it is another one; then so with
// the pending and the previous one, and with the one that worked last: who writes something wrong into a secret does not
// change the server. Whatever works stays in use, for all callers. Only one caller at a time searches like this, while the
// others wait for the outcome; and no caller tries one credential twice, or more than seven in all.
//
// When nothing works, Use fails with ErrRejected, and so does every Use in the next second (then 2, 4, up to 5 minutes,
// with jitter) without asking the store or the server, unless a refresh brings a changed secret before.
//
// When there is no credential at all yet and the store is down, Use fails with the store's error, and asks it again only
// after a back-off of the same kind. When ctx ends, Use returns its cause.
func (s *Store) Use(ctx context.Context, try func(context.Context, Credential) error) error {
	u := use{store: s, try: try}
	for _, last := range []bool{false, true} {
		cred, generation, err := s.trusted(ctx)
		if err != nil {
			return fmt.Errorf("no credential from %s: %w", s.source, err)
		}
		if cred != nil && !u.tried(*cred) {
			err := u.attempt(ctx, *cred)
			if err == nil {
				s.confirm(*cred)
			}
			if !errors.Is(err, ErrRejected) {
				return err
			}
		}
		if again, err := u.search(ctx, generation, last); !again {
			return err
		}
	}
	panic("unreachable: the last search is final")
}

// use is one call of Store.Use.
type use struct {
	store *Store
	try   func(context.Context, Credential) error
	seen  []Credential // what try was called with
	err   error        // the last rejection
}

func (u *use) tried(c Credential) bool { return slices.ContainsFunc(u.seen, c.Equal) }

func (u *use) attempt(ctx context.Context, cred Credential) error {
	u.seen = append(u.seen, cred)
	err := u.try(ctx, cred)
	if errors.Is(err, ErrRejected) {
		u.err = err
		u.store.distrust(cred)
	}
	return err
}

// search looks for a credential that works, after the one of the given generation did not. It waits for its turn first.
// If another caller, or a refresh, has brought a new credential by then, it returns again, unless this is the last time.
func (u *use) search(ctx context.Context, generation int, last bool) (again bool, err error) {
	s := u.store
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
	defer func() { <-s.turn }()

	s.mu.Lock()
	again = !last && !s.suspect && s.generation != generation
	cached, stage, rejection := *s.cached, s.stage, s.rejection
	s.mu.Unlock()
	if again {
		return true, nil
	}
	if rejection.on() {
		return false, fmt.Errorf("%w (not tried again before %s)", rejection.err, rejection.until.UTC().Format(time.RFC3339))
	}
	return false, u.searchAll(ctx, cached, stage)
}

// searchAll tries the credential in use, which the server may have come to like again, and then each stage.
func (u *use) searchAll(ctx context.Context, cached Credential, stage Stage) error {
	if done, err := u.adoptIfGood(ctx, cached, stage); done {
		return err
	}
	var unusable error
	for _, stage := range []Stage{Current, Pending, Previous} {
		cred, err := u.store.fetch(ctx, stage)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.Is(err, ErrNoStage) {
			continue
		}
		if err != nil {
			unusable = err
			if errors.Is(err, ErrMalformed) {
				continue // the store is up, and another stage may be good
			}
			break
		}
		if done, err := u.adoptIfGood(ctx, cred, stage); done {
			return err
		}
	}
	if worked := u.store.lastWorked(); worked != nil {
		if done, err := u.adoptIfGood(ctx, *worked, Previous); done {
			return err
		}
	}
	return u.giveUp(unusable)
}

func (s *Store) lastWorked() *Credential {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.worked
}

// adoptIfGood tries a credential unless this caller did before. It is done when the server has not rejected it; an
// error that is no rejection says nothing about the credential, and changes nothing.
func (u *use) adoptIfGood(ctx context.Context, cred Credential, stage Stage) (done bool, err error) {
	if u.tried(cred) {
		return false, nil
	}
	err = u.attempt(ctx, cred)
	if errors.Is(err, ErrRejected) {
		return false, nil
	}
	if err == nil {
		u.store.adopt(cred, stage)
	}
	return true, err
}

// giveUp begins a back-off.
func (u *use) giveUp(unusable error) error {
	err := fmt.Errorf("the server rejected every credential of %s, %d in all: %w", u.store.source, len(u.seen), u.err)
	if unusable != nil {
		err = fmt.Errorf("%w; and not all could be had: %w", err, unusable)
	}
	u.store.mu.Lock()
	defer u.store.mu.Unlock()
	u.store.rejection.extend(err)
	return err
}

// distrust marks the credential in use after a rejection, so that further callers wait for a search instead of
// collecting rejections too.
func (s *Store) distrust(cred Credential) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cached.Equal(cred) {
		s.suspect = true
	}
}

// confirm ends all back-off after the credential in use has worked. One that is in use no more does not come back.
func (s *Store) confirm(cred Credential) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.worked = &cred
	if s.cached.Equal(cred) {
		s.suspect, s.rejection = false, backOff{}
	}
}

// adopt puts a credential that a search has found to work in use.
func (s *Store) adopt(cred Credential, stage Stage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.cached.Equal(cred) {
		s.log.Info("another stage of the secret is in use", "source", s.source.String(), "stage", stage.String())
	}
	s.worked = &cred
	s.put(cred, stage)
	s.rejection = backOff{}
}
