package sqlstore

import (
	"cmp"
	"context"
	"database/sql"
	"slices"
	"time"

	"github.com/hourgate/hourgate/access"
)

// insert puts messages into the outbox, in the transaction of what they tell of. They are numbered by its revision, so that they
// have its order whatever clocks say.
func insert(ctx context.Context, tx *sql.Tx, out []access.Message) error {
	for _, m := range out {
		if _, err := tx.ExecContext(ctx, `
			INSERT INTO hourgate_outbox (id, channel, due, attempts, created, body, subject, seq)
			SELECT $1, $2, $3, 0, $3, $4, $5, value FROM hourgate_state WHERE name = 'revision'`,
			m.ID, m.Channel, m.Created.UnixMicro(), string(m.Body), m.Subject); err != nil {
			return err
		}
	}
	return nil
}

// Claim implements access.Store. A row is claimed by the statement that finds it due: of two that try, the second finds
// it changed.
func (s *Store) Claim(ctx context.Context, channel string, limit int, lease time.Duration) ([]access.Message, error) {
	now, err := s.Now(ctx)
	if err != nil {
		return nil, err
	}
	claimed, err := messages(s.conn.QueryContext(ctx, `
		UPDATE hourgate_outbox SET due = $1, attempts = attempts + 1
		WHERE due <= $2 AND id IN (
			SELECT id FROM hourgate_outbox m
			WHERE channel = $4 AND due <= $2 AND NOT EXISTS (
				SELECT 1 FROM hourgate_outbox o WHERE o.channel = m.channel AND o.subject = m.subject AND o.seq < m.seq)
			ORDER BY seq LIMIT $3)
		RETURNING id, channel, subject, attempts, created, body, seq`, now.Add(lease).UnixMicro(), now.UnixMicro(), limit, channel))
	return claimed, err
}

// messages reads those that a statement returns, in their order.
func messages(rows *sql.Rows, err error) ([]access.Message, error) {
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // Err has what went wrong
	type numbered struct {
		access.Message
		seq int64
	}
	var found []numbered
	for rows.Next() {
		var m numbered
		var created int64
		var body string
		if err := rows.Scan(&m.ID, &m.Channel, &m.Subject, &m.Attempts, &created, &body, &m.seq); err != nil {
			return nil, err
		}
		m.Created, m.Body = time.UnixMicro(created).UTC(), []byte(body)
		found = append(found, m)
	}
	slices.SortFunc(found, func(a, b numbered) int { return cmp.Compare(a.seq, b.seq) })
	var all []access.Message
	for _, m := range found {
		all = append(all, m.Message)
	}
	return all, rows.Err()
}

// Prune implements access.Store.
func (s *Store) Prune(ctx context.Context, before time.Time) ([]access.Message, error) {
	db, err := s.db(ctx)
	if err != nil {
		return nil, err
	}
	return messages(db.QueryContext(ctx, `
		DELETE FROM hourgate_outbox WHERE created < $1 RETURNING id, channel, subject, attempts, created, body, seq`, before.UnixMicro()))
}

// Delay implements access.Store.
func (s *Store) Delay(ctx context.Context, id string, by time.Duration) error {
	now, err := s.Now(ctx)
	if err != nil {
		return err
	}
	_, err = s.conn.ExecContext(ctx, `UPDATE hourgate_outbox SET due = $1 WHERE id = $2`, now.Add(by).UnixMicro(), id)
	return err
}

// Done implements access.Store.
func (s *Store) Done(ctx context.Context, id string) error {
	_, err := s.conn.ExecContext(ctx, `DELETE FROM hourgate_outbox WHERE id = $1`, id)
	return err
}
