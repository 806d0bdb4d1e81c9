// Package sqlite keeps the state of one gate in a file.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"time"

	_ "modernc.org/sqlite" // the driver

	"github.com/hourgate/hourgate/access/sqlstore"
)

// Store is an access.Store in a file, which it holds alone.
type Store struct{ *sqlstore.Store }

// Open opens the file, or makes it (mode 0600). It refuses one that others can read, and one that another process holds.
// What was committed survives the process and the machine: the log is synced with each change.
func Open(ctx context.Context, file string) (*Store, error) { return OpenAt(ctx, file, time.Now) }

// OpenAt is Open with another clock, for tests.
func OpenAt(ctx context.Context, file string, clock func() time.Time) (*Store, error) {
	if err := prepare(file); err != nil {
		return nil, fmt.Errorf("state %s: %w", file, err)
	}
	options := url.Values{"_pragma": {
		"locking_mode(EXCLUSIVE)", "journal_mode(WAL)", "synchronous(FULL)", "busy_timeout(2000)", "trusted_schema(OFF)",
	}, "_txlock": {"immediate"}}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", OmitHost: true, Path: file, RawQuery: options.Encode()}).String())
	if err != nil {
		return nil, fmt.Errorf("state %s: %w", file, err)
	}
	db.SetMaxOpenConns(1) // the file is locked for one connection
	var state string
	if err := db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&state); err != nil || state != "ok" {
		if err == nil {
			err = errors.New(state)
		}
		return nil, errors.Join(fmt.Errorf("state %s can't be used (another process may hold it, or it is damaged: restore a copy, or move it away to begin without requests): %w", file, err), db.Close())
	}
	store := sqlstore.New(db, sqlstore.Dialect{Clock: clock})
	if _, err := store.Revision(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("state %s: %w", file, err), db.Close())
	}
	return &Store{store}, nil
}

// prepare makes the file, so that it has its mode from the beginning. SQLite gives the same to the files beside it.
func prepare(file string) error {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		var pathError *fs.PathError
		if errors.As(err, &pathError) {
			return pathError.Err
		}
		return err
	}
	defer func() { _ = f.Close() }() // nothing was written
	info, err := f.Stat()
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return errors.New("not a regular file")
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("others may read or write it (mode %04o): chmod 600 it", info.Mode().Perm())
	}
	return nil
}

// Watch returns when ctx is done: nobody else changes the file.
func (s *Store) Watch(ctx context.Context, _ func()) { <-ctx.Done() }
