package roles

import (
	"context"
	"errors"

	"github.com/hourgate/hourgate/internal/admin"
)

// errNotOurs is a backend that this session does not have, or no longer.
var errNotOurs = errors.New("the session has no such backend")

// Cancel asks the server, as the admin, to cancel what the session's backend runs; Opened has named that. It is for
// connections to which the server gave no key of their own. A process that has the pid by now, but not the role, is left
// alone. It waits for an admin connection as log-ins do, so that whoever cancels all the time can't hold settling up.
func (l *Lease) Cancel(ctx context.Context, pid uint32) error {
	k := l.lease.keeper
	if !l.has(pid) {
		return errNotOurs
	}
	pool := k.pool
	if l.reader != nil {
		pool = l.reader.pool
	}
	release, err := pool.Reserve(ctx)
	if err != nil {
		return err
	}
	defer release()
	return pool.Use(ctx, func(c *admin.Conn) error {
		var signalled int
		err := c.QueryOne(ctx, `
			SELECT count(*) FILTER (WHERE pg_cancel_backend(pid)) FROM pg_stat_activity WHERE pid = $1 AND usesysid = $2`,
			[]any{pid, l.lease.role.OID}, &signalled)
		if err == nil && signalled == 0 {
			err = errNotOurs
		}
		return err
	})
}

// has reports whether the pid is that of an open backend of the role.
func (l *Lease) has(pid uint32) bool {
	all, unlock := l.backends()
	defer unlock()
	b, ok := all.ours[pid]
	return ok && !b.closed
}
