package admin

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
)

// A server has one table for the locks of all sessions, of max_locks_per_transaction × max_connections and a little more. Everybody may fill
// it: `SELECT pg_advisory_lock(i) FROM generate_series(1, 1000000) i` takes a tenth of a second and no privilege. Nobody can
// log in then, and no role can be altered nor a session terminated, since all of these read shared catalogs under a lock. A session goes
// on that holds these locks already. So one connection does, in a transaction that stays open: the guard. It has no snapshot, so that
// it keeps no vacuum from its work, and it is begun anew now and then, while the table has room.

const (
	// holdLocks takes the locks on the shared catalogs and all their indexes that pg_terminate_backend and the names of users need.
	holdLocks = "BEGIN READ ONLY; SELECT (SELECT count(*) FROM pg_roles WHERE oid = 0) + (SELECT count(*) FROM pg_auth_members WHERE member = 0) + (SELECT count(*) FROM pg_database WHERE oid = 0)"

	// probe fails if there is no room for as many locks as an end may need.
	probe = "SELECT count(pg_advisory_xact_lock_shared(%d + k)) FROM generate_series(1, 64) k"

	notFull = "ROLLBACK TO SAVEPOINT room; RELEASE SAVEPOINT room"

	guardAge  = 5 * time.Minute        // of its transaction, after which it is begun anew
	roomTries = 50                     // sessions that are terminated at most for one call of Room
	roomWait  = time.Second            // for one of them to end
	roomLook  = 10 * time.Millisecond  // between two looks at that
	openGuard = 500 * time.Millisecond // for a guard that there is none of when room is needed
)

// Holder is a session that was terminated because it held so much of the server's table of locks that it was full.
type Holder struct {
	PID, UserID uint32
	User        string
	Locks       int
}

// keepGuard keeps the guard open, and its transaction young. A server that has no slot left for it does without.
func (p *Pool) keepGuard(ctx context.Context) {
	select {
	case conn := <-p.shared.guard:
		p.shared.stow(p.shared.guard, p.guarding(ctx, conn))
	default: // it is being used
	}
}

func (p *Pool) guarding(ctx context.Context, conn *Conn) *Conn {
	if conn != nil {
		if conn.standing(ctx) == nil {
			return conn
		}
		shut(conn)
	}
	conn, err := p.open(ctx, p.cfg.Database)
	if err == nil {
		if _, err = conn.exec(ctx, "SET idle_in_transaction_session_timeout = 0; "+holdLocks); err == nil {
			conn.used = time.Now()
			return conn
		}
		shut(conn)
	}
	p.cfg.Log.Debug("there is no guard against a full table of locks", "error", err)
	return nil
}

// standing asks whether the guard still works, and begins its transaction anew if that is old and the table has room: if it has not,
// what the guard holds is worth most.
func (c *Conn) standing(ctx context.Context) error {
	if time.Since(c.used) < guardAge {
		return c.Ping(ctx)
	}
	full, err := c.full(ctx)
	if err != nil || full {
		return err
	}
	c.used = time.Now()
	_, err = c.exec(ctx, "ROLLBACK; "+holdLocks)
	return err
}

func probing() string { return fmt.Sprintf(probe, int64(aclLock)) }

// Room makes room in the server's table of locks if it is full, by terminating those sessions that hold the most, and more than
// max_locks_per_transaction: if the table is full, somebody does. It returns whom it terminated. The admin's own sessions, and
// those that it may not terminate, are passed over.
func (p *Pool) Room(ctx context.Context) (ended []Holder, err error) {
	var conn *Conn
	select {
	case conn = <-p.shared.guard:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() {
		if conn != nil && (conn.IsClosed() || conn.PgConn().TxStatus() != 'T') {
			shut(conn)
			conn = nil
		}
		p.shared.stow(p.shared.guard, conn)
	}()
	if conn == nil {
		openCtx, cancel := context.WithTimeout(ctx, openGuard)
		defer cancel()
		if conn = p.guarding(openCtx, nil); conn == nil {
			return nil, fmt.Errorf("the server's table of locks is full, and there is no guard to make room")
		}
	}
	passed := []string{"0"}
	for range roomTries {
		full, err := conn.full(ctx)
		if err != nil || !full {
			return ended, err
		}
		h, err := conn.endHolder(ctx, passed)
		switch {
		case err != nil:
			return ended, err
		case h.PID == 0:
			return ended, fmt.Errorf("the server's table of locks is full, and nobody whom the admin may terminate holds much of it (GRANT pg_signal_backend)")
		case h.Locks > 0:
			ended = append(ended, h)
		}
		passed = append(passed, strconv.FormatUint(uint64(h.PID), 10))
	}
	return ended, nil
}

// full reports whether there is no room, and leaves the transaction as it was.
func (c *Conn) full(ctx context.Context) (bool, error) {
	_, err := c.exec(ctx, "SAVEPOINT room; "+probing()+"; "+notFull)
	if SQLState(err) != pgerrcode.OutOfMemory {
		return false, err
	}
	_, err = c.exec(ctx, notFull)
	return true, err
}

// endHolder terminates the session that holds the most, and waits until it is over. Its Locks are zero if the admin may not.
func (c *Conn) endHolder(ctx context.Context, passed []string) (h Holder, err error) {
	rows, err := c.exec(ctx, `
		SELECT l.pid, s.usesysid, pg_get_userbyid(s.usesysid), l.n
		  FROM (SELECT pid, count(*) AS n FROM pg_lock_status() WHERE granted AND pid IS NOT NULL GROUP BY 1) l
		  JOIN (SELECT pg_stat_get_backend_pid(b) AS pid, pg_stat_get_backend_userid(b) AS usesysid FROM pg_stat_get_backend_idset() b) s USING (pid)
		 WHERE l.n > current_setting('max_locks_per_transaction')::int AND s.usesysid <> 0
		   AND s.usesysid <> (SELECT usesysid FROM pg_stat_get_activity(pg_backend_pid())) AND l.pid NOT IN (`+strings.Join(passed, ", ")+`)
		 ORDER BY l.n DESC LIMIT 1`)
	if err != nil || len(rows) == 0 {
		return h, err
	}
	row := rows[0]
	h = Holder{PID: number(row[0]), UserID: number(row[1]), User: string(row[2]), Locks: int(number(row[3]))}
	if _, err = c.exec(ctx, fmt.Sprintf("SAVEPOINT room; SELECT pg_terminate_backend(%d); %s", h.PID, notFull)); err != nil {
		h.Locks = 0
		_, err = c.exec(ctx, notFull)
		return h, err
	}
	for began := time.Now(); time.Since(began) < roomWait; {
		rows, err := c.exec(ctx, fmt.Sprintf("SELECT FROM pg_lock_status() WHERE pid = %d LIMIT 1", h.PID))
		if err != nil || len(rows) == 0 {
			return h, err
		}
		if err := Pause(ctx, roomLook); err != nil {
			return h, err
		}
	}
	return h, nil
}

func number(text []byte) uint32 {
	n, _ := strconv.ParseUint(string(text), 10, 32) // the server's own numbers
	return uint32(n)
}
