package settle

import (
	"context"
	"fmt"

	"github.com/jackc/pgerrcode"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/admin"
)

// full reports whether a step, or something that it did for one of the ends, failed because the server had no room for another lock.
func full(err error, ends []*end) bool {
	if admin.SQLState(err) == pgerrcode.OutOfMemory {
		return true
	}
	for _, e := range ends {
		if admin.SQLState(e.err) == pgerrcode.OutOfMemory {
			return true
		}
	}
	return false
}

// makeRoom ends sessions that have filled the server's table of locks, so that nothing could be ended, and reports whether there
// were any. They are recorded as sessions in the way of that end.
func (st *Settler) makeRoom(ctx context.Context, of *end) bool {
	holders, err := st.cfg.Pool.Room(ctx)
	if err != nil {
		st.cfg.Log.Error("there is no room for locks on the server, so that access can't be ended", "error", err)
	}
	for _, h := range holders {
		st.cfg.Log.Warn("a session held so many locks that access could not be ended, it was terminated", "pid", h.PID, "session_user", h.User, "locks", h.Locks)
		if of == nil {
			continue
		}
		go func() { // ending access does not wait for the trail
			appended := st.append(st.record(audit.SessionInside, of.role, func(rec *audit.Record) {
				rec.SessionsTerminated = 1
				rec.Detail = map[string]string{"pid": fmt.Sprint(h.PID), "session_user": h.User, "locks": fmt.Sprint(h.Locks)}
			}))
			if appended != nil {
				st.cfg.Log.Error("a session could not be recorded", "role", of.role.Name, "error", appended)
			}
		}()
	}
	return len(holders) > 0
}
