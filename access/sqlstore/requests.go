package sqlstore

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/hourgate/hourgate/access"
)

// Request implements access.Store.
func (s *Store) Request(ctx context.Context, id int64) (*access.Request, error) {
	db, err := s.db(ctx)
	if err != nil {
		return nil, err
	}
	found, err := requests(db.QueryContext(ctx, `SELECT body FROM hourgate_requests WHERE id = $1`, id))
	switch {
	case err != nil:
		return nil, err
	case len(found) == 0:
		return nil, access.ErrNotFound
	}
	return found[0], nil
}

// Requests implements access.Store.
func (s *Store) Requests(ctx context.Context, f access.Filter) ([]*access.Request, error) {
	db, err := s.db(ctx)
	if err != nil {
		return nil, err
	}
	return requests(db.QueryContext(ctx, `
		SELECT body FROM hourgate_requests
		WHERE ($1 = '' OR person = $1) AND ($2 = 0 OR open = 1) AND ($3 = 0 OR owes_review = 1)
		ORDER BY id DESC LIMIT $4`,
		f.User, number(f.Open), number(f.OwesReview), cmp.Or(f.Limit, access.DefaultLimit)))
}

// Create implements access.Store.
func (s *Store) Create(ctx context.Context, r *access.Request, limit int, announce access.Announce[*access.Request]) error {
	created := *r
	err := s.change(ctx, func(tx *sql.Tx) error {
		if err := mayCreate(ctx, tx, r, limit); err != nil {
			return err
		}
		if err := tx.QueryRowContext(ctx, `UPDATE hourgate_state SET value = value + 1 WHERE name = 'last_id' RETURNING value`).Scan(&created.ID); err != nil {
			return err
		}
		created.Version = 1
		body, err := json.Marshal(&created)
		if err != nil {
			return err
		}
		if _, err = tx.ExecContext(ctx, `INSERT INTO hourgate_requests (id, version, person, open, owes_review, body) VALUES ($1, 1, $2, $3, $4, $5)`,
			created.ID, created.User, number(created.State.Open()), number(created.OwesReview()), string(body)); err != nil {
			return err
		}
		return announced(ctx, tx, announce, &created)
	})
	if err == nil {
		*r = created
	}
	return err
}

func mayCreate(ctx context.Context, tx *sql.Tx, r *access.Request, limit int) error {
	var open, owed int
	if err := tx.QueryRowContext(ctx, `SELECT coalesce(sum(open), 0), coalesce(sum(owes_review), 0) FROM hourgate_requests WHERE person = $1`, r.User).Scan(&open, &owed); err != nil {
		return err
	}
	switch {
	case open >= limit:
		return &access.Refused{
			Message: fmt.Sprintf("you have %d open requests already", open),
			Hint:    "End or withdraw some with END and their number; SHOW REQUESTS lists them.",
		}
	case r.BreakGlass && owed > 0:
		return &access.Refused{
			Message: "your last use of break-glass has not been reviewed",
			Hint:    "Have it reviewed, or ask without break-glass.",
		}
	}
	return nil
}

// announced has a change recorded and keeps the messages about it, in the transaction that makes it.
func announced[T any](ctx context.Context, tx *sql.Tx, announce access.Announce[T], what T) error {
	out, err := announce(what)
	if err != nil {
		return err
	}
	return insert(ctx, tx, out)
}

// Update implements access.Store.
func (s *Store) Update(ctx context.Context, r *access.Request, announce access.Announce[*access.Request]) error {
	updated := *r
	updated.Version++
	err := s.change(ctx, func(tx *sql.Tx) error {
		if err := update(ctx, tx, &updated, r.Version); err != nil {
			return err
		}
		return announced(ctx, tx, announce, &updated)
	})
	if err == nil {
		*r = updated
	}
	return err
}

// update replaces the request of that version.
func update(ctx context.Context, tx *sql.Tx, r *access.Request, version int64) error {
	body, err := json.Marshal(r)
	if err != nil {
		return err
	}
	result, err := tx.ExecContext(ctx, `
		UPDATE hourgate_requests SET version = $1, open = $2, owes_review = $3, body = $4 WHERE id = $5 AND version = $6`,
		r.Version, number(r.State.Open()), number(r.OwesReview()), string(body), r.ID, version)
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n != 1 {
		return errors.Join(err, access.ErrConflict)
	}
	return nil
}

// Restore implements access.Store.
func (s *Store) Restore(ctx context.Context, revision, lastID int64, locks []access.Lock, end func(*access.Request)) error {
	return s.change(ctx, func(tx *sql.Tx) error {
		var now int64
		if err := tx.QueryRowContext(ctx, `SELECT value FROM hourgate_state WHERE name = 'revision'`).Scan(&now); err != nil {
			return err
		}
		if now > revision { // the change itself has raised it by one
			return access.ErrConflict
		}
		open, err := requests(tx.QueryContext(ctx, `SELECT body FROM hourgate_requests WHERE open = 1 ORDER BY id`))
		if err != nil {
			return err
		}
		for _, r := range open {
			end(r)
			r.Version++
			if err := update(ctx, tx, r, r.Version-1); err != nil {
				return err
			}
		}
		for _, l := range locks {
			if err := putLock(ctx, tx, l); err != nil {
				return err
			}
		}
		for name, least := range map[string]int64{"revision": revision + 1, "last_id": lastID} {
			if _, err := tx.ExecContext(ctx, `UPDATE hourgate_state SET value = $1 WHERE name = $2 AND value < $1`, least, name); err != nil {
				return err
			}
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM hourgate_history WHERE revision = $1`, now); err != nil {
			return err
		}
		return remember(ctx, tx, max(now, revision+1), true)
	})
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Lock implements access.Store.
func (s *Store) Lock(ctx context.Context, l access.Lock, announce access.Announce[access.Lock]) error {
	return s.change(ctx, func(tx *sql.Tx) error {
		if err := putLock(ctx, tx, l); err != nil {
			return err
		}
		return announced(ctx, tx, announce, l)
	})
}

func putLock(ctx context.Context, tx *sql.Tx, l access.Lock) error {
	body, err := json.Marshal(l)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `
		INSERT INTO hourgate_locks (kind, name, body) VALUES ($1, $2, $3)
		ON CONFLICT (kind, name) DO UPDATE SET body = excluded.body`, string(l.Kind), l.Name, string(body))
	return err
}

// Unlock implements access.Store.
func (s *Store) Unlock(ctx context.Context, kind access.LockKind, name string, announce access.Announce[access.Lock]) error {
	return s.change(ctx, func(tx *sql.Tx) error {
		lifted, err := scan[access.Lock](tx.QueryContext(ctx, `DELETE FROM hourgate_locks WHERE kind = $1 AND name = $2 RETURNING body`, string(kind), name))
		switch {
		case err != nil:
			return err
		case len(lifted) == 0:
			return access.ErrNotFound
		}
		return announced(ctx, tx, announce, lifted[0])
	})
}
