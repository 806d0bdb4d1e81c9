package sqlstore

import (
	"context"
	"database/sql"
	"time"

	"github.com/hourgate/hourgate/access"
)

// insert puts messages into the outbox, in the transaction of what they tell of.
func insert(ctx context.Context, tx *sql.Tx, out []access.Message) error {
	for _, m := range out {
		if _, err := tx.ExecContext(ctx, `INSERT INTO hourgate_outbox (id, channel, due, attempts, created, body) VALUES ($1, $2, $3, 0, $3, $4)`,
			m.ID, m.Channel, m.Created.UnixMicro(), string(m.Body)); err != nil {
			return err
		}
	}
	return nil
}

// Claim implements access.Store. A row is claimed by the statement that finds it due: of two that try, the second finds
// it changed.
func (s *Store) Claim(ctx context.Context, limit int, lease time.Duration) ([]access.Message, error) {
	now, err := s.Now(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := s.conn.QueryContext(ctx, `
		UPDATE hourgate_outbox SET due = $1, attempts = attempts + 1
		WHERE due <= $2 AND id IN (SELECT id FROM hourgate_outbox WHERE due <= $2 ORDER BY due LIMIT $3)
		RETURNING id, channel, attempts, created, body`, now.Add(lease).UnixMicro(), now.UnixMicro(), limit)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // Err has what went wrong
	var claimed []access.Message
	for rows.Next() {
		var m access.Message
		var created int64
		var body string
		if err := rows.Scan(&m.ID, &m.Channel, &m.Attempts, &created, &body); err != nil {
			return nil, err
		}
		m.Created, m.Body = time.UnixMicro(created).UTC(), []byte(body)
		claimed = append(claimed, m)
	}
	return claimed, rows.Err()
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
