package settle

import (
	"context"
	_ "embed"
	"errors"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/admin"
)

// A transaction that has changed a row holds it until it ends, and whoever called a tenant's function may keep his open: then what
// takes the power from the role, from a group or from what a group owns waits for him. Nobody can hold such a row but who acted as the
// owner.

const (
	blockerTries = 4 // of a statement while another connection looks for who blocks it
	blockerLooks = 10
	blockerLimit = 2 * time.Second // of looking, which needs a second connection
)

//go:embed sql/blockers.sql
var blockersSQL string

//go:embed sql/makers.sql
var makersSQL string

// pastBlockers runs a statement that waits for a row of the role's own or, if g is not nil, of that group's or of what the group
// owns, and ends the sessions that hold it; see blockers.sql for which.
func (st *Settler) pastBlockers(ctx context.Context, c *admin.Conn, g *estate, run func() error) error {
	waiting, group, tenants := c.PgConn().PID(), uint32(0), false
	if g != nil {
		group, tenants = g.oid, g.tenants
	}
	looked := make(chan error, 1)
	var ended []insider
	go func() {
		ctx, cancel := context.WithTimeout(ctx, blockerLimit)
		defer cancel()
		looked <- st.cfg.Pool.Beside(ctx, "", func(other *admin.Conn) (err error) {
			for range blockerLooks {
				if ended, err = endBlockers(ctx, other, waiting, group, tenants); err != nil || len(ended) > 0 {
					return err
				}
				if err := admin.Pause(ctx, scanGap); err != nil {
					return err
				}
			}
			return nil
		})
	}()
	err := tryWhileLocked(run)
	lookErr := <-looked
	if len(ended) > 0 && admin.SQLState(err) == pgerrcode.LockNotAvailable { // the other connection took its time
		err = tryWhileLocked(run)
	}
	if g != nil && g.others != nil {
		for _, i := range ended {
			g.others.recordInside(i, 1, nil)
		}
	}
	if err == nil {
		return nil
	}
	return errors.Join(err, lookErr)
}

func tryWhileLocked(run func() error) (err error) {
	for range blockerTries {
		if err = run(); admin.SQLState(err) != pgerrcode.LockNotAvailable {
			return err
		}
	}
	return err
}

func endBlockers(ctx context.Context, c *admin.Conn, waiting, group uint32, tenants bool) ([]insider, error) {
	rows, err := c.Query(ctx, blockersSQL, waiting, group, tenants)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[insider])
}

// unblocked runs a transaction about a group or what it owns, past who holds a row of these.
func (s *estate) unblocked(ctx context.Context, c *admin.Conn, run func() error) error {
	if s.all {
		return admin.Retry(ctx, run)
	}
	blocked := false
	err := admin.Retry(ctx, func() error {
		err := run()
		if blocked = admin.SQLState(err) == pgerrcode.LockNotAvailable; blocked {
			return nil
		}
		return err
	})
	if blocked {
		return s.st.pastBlockers(ctx, c, s, run)
	}
	return err
}
