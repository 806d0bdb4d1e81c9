package sqlite

import (
	"context"
	"time"

	"github.com/hourgate/hourgate/access"
)

// The file's disk may not answer, and then SQLite does not, whatever a context says. Nobody waits for it longer than their context
// allows. What was begun may be done when the disk answers again: whoever asked was told that it is not known.

// closeWait is how long Close waits for what is under way.
const closeWait = 2 * time.Second

// await runs f until ctx is done.
func await[T any](ctx context.Context, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := f()
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
	}
	select {
	case r := <-done: // just now, or because of ctx
		return r.value, r.err
	case <-time.After(grace):
		return *new(T), context.Cause(ctx)
	}
}

// grace is for SQLite to come back by itself from what ctx has interrupted.
const grace = 100 * time.Millisecond

// awaitError is await for what has no other result.
func awaitError(ctx context.Context, f func() error) error {
	_, err := await(ctx, func() (struct{}, error) { return struct{}{}, f() })
	return err
}

// Revision implements access.Store.
func (s *Store) Revision(ctx context.Context) (int64, error) {
	return await(ctx, func() (int64, error) { return s.Store.Revision(ctx) })
}

// Load implements access.Store.
func (s *Store) Load(ctx context.Context) (*access.Snapshot, error) {
	return await(ctx, func() (*access.Snapshot, error) { return s.Store.Load(ctx) })
}

// History implements access.Store.
func (s *Store) History(ctx context.Context, revision int64) (access.History, error) {
	return await(ctx, func() (access.History, error) { return s.Store.History(ctx, revision) })
}

// Now implements access.Store.
func (s *Store) Now(ctx context.Context) (time.Time, error) {
	return await(ctx, func() (time.Time, error) { return s.Store.Now(ctx) })
}

// Request implements access.Store.
func (s *Store) Request(ctx context.Context, id int64) (*access.Request, error) {
	return await(ctx, func() (*access.Request, error) { return s.Store.Request(ctx, id) })
}

// Requests implements access.Store.
func (s *Store) Requests(ctx context.Context, f access.Filter) ([]*access.Request, error) {
	return await(ctx, func() ([]*access.Request, error) { return s.Store.Requests(ctx, f) })
}

// Create implements access.Store.
func (s *Store) Create(ctx context.Context, r *access.Request, limit int, announce access.Announce[*access.Request]) error {
	return awaitError(ctx, func() error { return s.Store.Create(ctx, r, limit, announce) })
}

// Update implements access.Store.
func (s *Store) Update(ctx context.Context, r *access.Request, announce access.Announce[*access.Request]) error {
	return awaitError(ctx, func() error { return s.Store.Update(ctx, r, announce) })
}

// Restore implements access.Store.
func (s *Store) Restore(ctx context.Context, revision, lastID int64, locks []access.Lock, end func(*access.Request)) error {
	return awaitError(ctx, func() error { return s.Store.Restore(ctx, revision, lastID, locks, end) })
}

// Lock implements access.Store.
func (s *Store) Lock(ctx context.Context, l access.Lock, announce access.Announce[access.Lock]) error {
	return awaitError(ctx, func() error { return s.Store.Lock(ctx, l, announce) })
}

// Unlock implements access.Store.
func (s *Store) Unlock(ctx context.Context, kind access.LockKind, name string, announce access.Announce[access.Lock]) error {
	return awaitError(ctx, func() error { return s.Store.Unlock(ctx, kind, name, announce) })
}

// Claim implements access.Store.
func (s *Store) Claim(ctx context.Context, channel string, limit int, lease time.Duration) ([]access.Message, error) {
	return await(ctx, func() ([]access.Message, error) { return s.Store.Claim(ctx, channel, limit, lease) })
}

// Prune implements access.Store.
func (s *Store) Prune(ctx context.Context, before time.Time) ([]access.Message, error) {
	return await(ctx, func() ([]access.Message, error) { return s.Store.Prune(ctx, before) })
}

// Delay implements access.Store.
func (s *Store) Delay(ctx context.Context, id string, by time.Duration) error {
	return awaitError(ctx, func() error { return s.Store.Delay(ctx, id, by) })
}

// Done implements access.Store.
func (s *Store) Done(ctx context.Context, id string) error {
	return awaitError(ctx, func() error { return s.Store.Done(ctx, id) })
}

// Close closes the file. What is under way when its disk does not answer is left to the end of the process.
func (s *Store) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeWait)
	defer cancel()
	return awaitError(ctx, s.Store.Close)
}
