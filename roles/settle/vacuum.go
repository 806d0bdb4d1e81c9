package settle

import (
	"context"
	_ "embed"
	"errors"
	"fmt"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/hourgate/hourgate/internal/admin"
)

//go:embed sql/vacuum.sql
var vacuumSQL string

// vacuumLock is longer than the server's deadlock_timeout, after which a worker of autovacuum that is in somebody's way is canceled.
const vacuumLock = "SET LOCAL lock_timeout = '1400ms'"

// errVacuum is a worker of autovacuum that goes on with the role's rights, as far as can be told.
var errVacuum = errors.New("autovacuum is inside code that the role made, and goes on although it was canceled (18 and later: GRANT pg_signal_autovacuum_worker)")

// worker is a row of vacuum.sql.
type worker struct {
	PID   uint32
	Start pgtype.Timestamptz
	Table *string
}

// endVacuum ends the workers of autovacuum that are inside code that the owners made. Where the admin may not terminate them,
// which takes a role that only 18 has, it gets in the way of those that are on a table of the owners: then the server cancels them.
func (s *settlement) endVacuum(ctx context.Context, c *admin.Conn, owners []uint32) error {
	workers, err := s.workers(ctx, c, owners)
	if err != nil {
		return err
	}
	for _, w := range workers {
		i := insider{PID: w.PID, Start: w.Start, User: "autovacuum", Address: "local"}
		terminated, err := w.terminate(ctx, c)
		if err != nil && w.Table != nil {
			err = w.getInTheWay(ctx, c)
		}
		s.recordInside(i, terminated, err)
		if err != nil {
			s.resists(fmt.Sprintf("worker %d of autovacuum", w.PID), errors.Join(errVacuum, s.st.told(err)))
		}
	}
	return nil
}

func (s *settlement) workers(ctx context.Context, c *admin.Conn, owners []uint32) ([]worker, error) {
	rows, err := c.Query(ctx, vacuumSQL, owners, s.end.closed, s.rights())
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[worker])
}

func (w worker) terminate(ctx context.Context, c *admin.Conn) (terminated int, err error) {
	err = c.QueryOne(ctx, `
		SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity
		 WHERE pid = $1 AND usesysid IS NULL AND coalesce(backend_start, '-infinity') = $2`, []any{w.PID, w.Start}, &terminated)
	return terminated, err
}

// getInTheWay waits for a lock that the worker holds. It changes what autovacuum does with the table, so that none comes after
// this one. Whoever may set deadlock_timeout (15 and later: GRANT SET ON PARAMETER) waits less than its second.
func (w worker) getInTheWay(ctx context.Context, c *admin.Conn) error {
	statements := []string{vacuumLock}
	if c.Version >= 150000 {
		statements = append(statements, `
			SELECT set_config('deadlock_timeout', '10ms', true) WHERE has_parameter_privilege('deadlock_timeout', 'SET')`)
	}
	err := c.Transaction(ctx, append(statements, "ALTER TABLE "+*w.Table+" SET (autovacuum_enabled = false)"), func([][][]byte) error { return nil })
	if admin.SQLState(err) == pgerrcode.UndefinedTable {
		return nil
	}
	return err
}
