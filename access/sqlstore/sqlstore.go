// Package sqlstore keeps the state of package access in an SQL database. Packages sqlite and postgres open one; the
// statements here are the same for both, since times are microseconds, documents are text, and ids are made here.
package sqlstore

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hourgate/hourgate/access"
)

// Dialect is what the two databases do differently.
type Dialect struct {
	// Lock is run first in the transaction that brings the tables up to date, so that one does it at a time.
	Lock string
	// Now selects the clock, in microseconds since 1970. Empty: this machine's, which is Clock.
	Now   string
	Clock func() time.Time
	// Notify, which takes the revision, tells other processes of a change. It is run in the transaction that makes it.
	Notify string
}

// Store is an access.Store. Its Watch is for those who open it to write.
type Store struct {
	conn    *sql.DB
	dialect Dialect

	migrating sync.Mutex
	migrated  bool
}

// New returns the store in a database, whose tables are brought up to date before they are used first.
func New(db *sql.DB, dialect Dialect) *Store { return &Store{conn: db, dialect: dialect} }

// closeWait is how long a statement that nobody waits for any more may take to end.
const closeWait = 2 * time.Second

// Close closes the database. Its error says that a statement still goes on, as on a disk that does not answer: what that was to
// change may be kept or not.
func (s *Store) Close() error {
	err := s.conn.Close()
	for deadline := time.Now().Add(closeWait); s.conn.Stats().OpenConnections > 0; time.Sleep(closeWait / 200) {
		if time.Now().After(deadline) {
			return errors.Join(err, errors.New("a statement goes on: the state's disk, or its server, does not answer"))
		}
	}
	return err
}

// db is the database, with its tables up to date.
func (s *Store) db(ctx context.Context) (*sql.DB, error) {
	s.migrating.Lock()
	defer s.migrating.Unlock()
	if s.migrated {
		return s.conn, nil
	}
	if err := s.migrate(ctx); err != nil {
		return nil, fmt.Errorf("bringing the tables of the state up to date: %w", err)
	}
	s.migrated = true
	return s.conn, nil
}

// migrations are run in order, each once. One that is released is never changed.
var migrations = []string{
	`CREATE TABLE hourgate_requests (
		id BIGINT PRIMARY KEY, version BIGINT NOT NULL, person TEXT NOT NULL, open BIGINT NOT NULL, owes_review BIGINT NOT NULL, body TEXT NOT NULL)`,
	`CREATE INDEX hourgate_requests_open ON hourgate_requests (id) WHERE open = 1`,
	`CREATE INDEX hourgate_requests_person ON hourgate_requests (person, id)`,
	`CREATE TABLE hourgate_locks (kind TEXT NOT NULL, name TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (kind, name))`,
	`CREATE TABLE hourgate_outbox (
		id TEXT PRIMARY KEY, channel TEXT NOT NULL, due BIGINT NOT NULL, attempts BIGINT NOT NULL, created BIGINT NOT NULL, body TEXT NOT NULL)`,
	`CREATE INDEX hourgate_outbox_due ON hourgate_outbox (due)`,
	`INSERT INTO hourgate_state (name, value) VALUES ('revision', 1), ('last_id', 0)`,
	`ALTER TABLE hourgate_outbox ADD COLUMN subject TEXT NOT NULL DEFAULT ''`,
	`ALTER TABLE hourgate_outbox ADD COLUMN seq BIGINT NOT NULL DEFAULT 0`,
	`CREATE INDEX hourgate_outbox_order ON hourgate_outbox (channel, subject, seq)`,
	`CREATE TABLE hourgate_history (revision BIGINT PRIMARY KEY, token TEXT NOT NULL, restored BIGINT NOT NULL)`,
}

// migrate is one transaction: it happens whole or not at all.
func (s *Store) migrate(ctx context.Context) error {
	return transaction(ctx, s.conn, func(tx *sql.Tx) error {
		if s.dialect.Lock != "" {
			if _, err := tx.ExecContext(ctx, s.dialect.Lock); err != nil {
				return err
			}
		}
		if _, err := tx.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS hourgate_state (name TEXT PRIMARY KEY, value BIGINT NOT NULL)`); err != nil {
			return err
		}
		var done int
		err := tx.QueryRowContext(ctx, `SELECT value FROM hourgate_state WHERE name = 'schema'`).Scan(&done)
		if errors.Is(err, sql.ErrNoRows) {
			_, err = tx.ExecContext(ctx, `INSERT INTO hourgate_state (name, value) VALUES ('schema', 0)`)
		}
		switch {
		case err != nil:
			return err
		case done > len(migrations):
			return fmt.Errorf("they are of a later version of Hourgate (%d, this one knows %d)", done, len(migrations))
		}
		for _, statement := range migrations[done:] {
			if _, err := tx.ExecContext(ctx, statement); err != nil {
				return err
			}
		}
		_, err = tx.ExecContext(ctx, `UPDATE hourgate_state SET value = $1 WHERE name = 'schema'`, len(migrations))
		return err
	})
}

// transaction runs f in one, which is committed if f returns nil.
func transaction(ctx context.Context, db *sql.DB, f func(*sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := f(tx); err != nil {
		return errors.Join(err, ignoreDone(tx.Rollback()))
	}
	return tx.Commit()
}

// ignoreDone drops the error of a transaction that its context has rolled back already.
func ignoreDone(err error) error {
	if errors.Is(err, sql.ErrTxDone) {
		return nil
	}
	return err
}

// change is a transaction that others wait for from its first statement on: the row of the revision is locked by it. So
// changes are made one after the other, and each sees all those before it.
func (s *Store) change(ctx context.Context, f func(*sql.Tx) error) error {
	db, err := s.db(ctx)
	if err != nil {
		return err
	}
	return transaction(ctx, db, func(tx *sql.Tx) error {
		var revision int64
		if err := tx.QueryRowContext(ctx, `UPDATE hourgate_state SET value = value + 1 WHERE name = 'revision' RETURNING value`).Scan(&revision); err != nil {
			return err
		}
		if err := remember(ctx, tx, revision, false); err != nil {
			return err
		}
		if err := f(tx); err != nil {
			return err
		}
		if s.dialect.Notify == "" {
			return nil
		}
		_, err := tx.ExecContext(ctx, s.dialect.Notify, fmt.Sprint(revision))
		return err
	})
}

// historyKept is how many changes are known by their token.
const historyKept = 10_000

// remember gives a change a token that no other history of the state has.
func remember(ctx context.Context, tx *sql.Tx, revision int64, restored bool) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO hourgate_history (revision, token, restored) VALUES ($1, $2, $3)`, revision, rand.Text(), number(restored))
	if err == nil {
		_, err = tx.ExecContext(ctx, `DELETE FROM hourgate_history WHERE revision <= $1`, revision-historyKept)
	}
	return err
}

// History implements access.Store.
func (s *Store) History(ctx context.Context, revision int64) (access.History, error) {
	db, err := s.db(ctx)
	if err != nil {
		return access.History{}, err
	}
	var h access.History
	err = db.QueryRowContext(ctx, `
		SELECT coalesce((SELECT token FROM hourgate_history WHERE revision = $1), ''),
			coalesce((SELECT min(revision) FROM hourgate_history), 0),
			coalesce((SELECT max(revision) FROM hourgate_history WHERE restored = 1), 0)`, revision).Scan(&h.Token, &h.Oldest, &h.Restored)
	return h, err
}

// Revision implements access.Store.
func (s *Store) Revision(ctx context.Context) (revision int64, err error) {
	db, err := s.db(ctx)
	if err == nil {
		err = db.QueryRowContext(ctx, `SELECT value FROM hourgate_state WHERE name = 'revision'`).Scan(&revision)
	}
	return revision, err
}

// Now implements access.Store.
func (s *Store) Now(ctx context.Context) (time.Time, error) {
	if s.dialect.Now == "" {
		return s.dialect.Clock().UTC(), nil
	}
	var now int64
	db, err := s.db(ctx)
	if err == nil {
		err = db.QueryRowContext(ctx, s.dialect.Now).Scan(&now)
	}
	return time.UnixMicro(now).UTC(), err
}

// Load implements access.Store.
func (s *Store) Load(ctx context.Context) (*access.Snapshot, error) {
	snapshot := &access.Snapshot{}
	if _, err := s.db(ctx); err != nil {
		return nil, err
	}
	now, err := s.Now(ctx)
	if err != nil {
		return nil, err
	}
	snapshot.Now = now
	tx, err := s.conn.BeginTx(ctx, &sql.TxOptions{ReadOnly: true, Isolation: s.readIsolation()})
	if err != nil {
		return nil, err
	}
	defer func() { _ = tx.Rollback() }() // it has read only
	for name, value := range map[string]*int64{"revision": &snapshot.Revision, "last_id": &snapshot.LastID} {
		if err := tx.QueryRowContext(ctx, `SELECT value FROM hourgate_state WHERE name = $1`, name).Scan(value); err != nil {
			return nil, err
		}
	}
	err = tx.QueryRowContext(ctx, `SELECT coalesce((SELECT token FROM hourgate_history WHERE revision = $1), '')`, snapshot.Revision).Scan(&snapshot.Token)
	if err != nil {
		return nil, err
	}
	if snapshot.Open, err = requests(tx.QueryContext(ctx, `SELECT body FROM hourgate_requests WHERE open = 1 ORDER BY id`)); err != nil {
		return nil, err
	}
	snapshot.Locks, err = scan[access.Lock](tx.QueryContext(ctx, `SELECT body FROM hourgate_locks ORDER BY kind, name`))
	return snapshot, err
}

// readIsolation makes a transaction see one moment. SQLite's always do, and its driver knows no other name for it.
func (s *Store) readIsolation() sql.IsolationLevel {
	if s.dialect.Now == "" {
		return sql.LevelDefault
	}
	return sql.LevelRepeatableRead
}

// scan decodes one document a row.
func scan[T any](rows *sql.Rows, err error) ([]T, error) {
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // Err has what went wrong
	var all []T
	for rows.Next() {
		var body string
		var one T
		if err := rows.Scan(&body); err != nil {
			return nil, err
		}
		if err := json.Unmarshal([]byte(body), &one); err != nil {
			return nil, fmt.Errorf("reading the state: %w", err)
		}
		all = append(all, one)
	}
	return all, rows.Err()
}

func requests(rows *sql.Rows, err error) ([]*access.Request, error) {
	return scan[*access.Request](rows, err)
}
