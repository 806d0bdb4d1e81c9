package roles

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// aclLock is the advisory lock under which privileges of shared objects change: concurrent changes of one ACL fail with
// XX000 otherwise. ("hourgate" in ASCII.)
const (
	aclLockHigh = 0x686f7572
	aclLockLow  = 0x67617465
	aclLock     = aclLockHigh<<32 | aclLockLow
)

// adminConn is a connection as the admin. It is used by one goroutine at a time.
type adminConn struct {
	*pgx.Conn
	log     *slog.Logger
	version int              // server_version_num
	login   string           // whom the server authenticated
	creator string           // creatorRole where that is set up, else ""
	acting  string           // whom statements run as: creator if there is one, else login
	used    time.Time        // when it was last given back to the pool
	demoted bool             // the server has become a replica: the name leads elsewhere
	notices []*pgconn.Notice // since the last call of warnings

	// before is set by tests only: it is called before each statement, and an error of it ends the connection's use.
	before func(c *adminConn, statement string) error
}

// warnings returns the SQLSTATEs of the notices that came since the last call.
func (c *adminConn) warnings() []string {
	var codes []string
	for _, n := range c.notices {
		codes = append(codes, n.Code)
	}
	c.notices = nil
	return codes
}

// script sends statements as one message and returns the rows of the last. They are joined here and nowhere else; what
// is put into them is either a constant or quoted by quoteIdentifier or quoteLiteral.
func (c *adminConn) script(ctx context.Context, statements ...string) ([][][]byte, error) {
	if c.before == nil {
		return c.exec(ctx, strings.Join(statements, ";\n"))
	}
	var rows [][][]byte
	for _, statement := range statements {
		if err := c.before(c, statement); err != nil {
			return nil, err
		}
		var err error
		if rows, err = c.exec(ctx, statement); err != nil {
			return nil, err
		}
	}
	return rows, nil
}

func (c *adminConn) exec(ctx context.Context, sql string) ([][][]byte, error) {
	results, err := c.PgConn().Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	if len(results) == 0 {
		return nil, nil
	}
	return results[len(results)-1].Rows, nil
}

// Query is pgx's, with the tests' hook.
func (c *adminConn) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if c.before != nil {
		if err := c.before(c, sql); err != nil {
			return nil, err
		}
	}
	return c.Conn.Query(ctx, sql, args...)
}

// queryOne reads the only row of a query.
func (c *adminConn) queryOne(ctx context.Context, sql string, args []any, into ...any) error {
	rows, err := c.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	_, err = pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (struct{}, error) { return struct{}{}, row.Scan(into...) })
	return err
}

// transaction runs fn between BEGIN and COMMIT, which costs two messages besides those of fn. The statements of first
// travel with BEGIN, and their last rows go to fn.
func (c *adminConn) transaction(ctx context.Context, first []string, fn func(rows [][][]byte) error) error {
	rows, err := c.script(ctx, append([]string{"BEGIN", "SET LOCAL lock_timeout = '1500ms'"}, first...)...)
	if err == nil {
		err = fn(rows)
	}
	if err != nil {
		return errors.Join(err, c.rollback(ctx))
	}
	_, err = c.script(ctx, "COMMIT")
	return err
}

// exclusively is transaction under aclLock. Everybody on the server may take that lock, so waiting for it is bounded, and
// an ephemeral role that holds it is put out: only a tenant who knows this code would.
func (c *adminConn) exclusively(ctx context.Context, fn func() error) error {
	lock := []string{fmt.Sprintf("SELECT pg_advisory_xact_lock(%d)", aclLock)}
	var locked bool
	once := func() error {
		return c.transaction(ctx, lock, func([][][]byte) error { locked = true; return fn() })
	}
	err := once()
	if locked || sqlstate(err) != codeLockNotAvailable {
		return err
	}
	if evictErr := c.evictLockHolders(ctx); evictErr != nil {
		return errors.Join(err, evictErr)
	}
	// Without the lock if it can't be had even now: what collides fails with XX000 and is tried again.
	if err = once(); !locked && sqlstate(err) == codeLockNotAvailable {
		lock = nil
		err = once()
	}
	return err
}

func (c *adminConn) evictLockHolders(ctx context.Context) error {
	var ended int
	err := c.queryOne(ctx, `
		SELECT count(*) FILTER (WHERE pg_terminate_backend(l.pid))
		  FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
		 WHERE l.locktype = 'advisory' AND l.classid = $1 AND l.objid = $2 AND a.usename ~ '^hg_'`,
		[]any{uint32(aclLockHigh), uint32(aclLockLow)}, &ended)
	c.log.Warn("somebody kept hourgate's lock for too long", "tenants_terminated", ended)
	return err
}

// rollback leaves the connection outside any transaction, or closes it.
func (c *adminConn) rollback(ctx context.Context) error {
	if c.IsClosed() {
		return nil
	}
	_, err := c.script(context.WithoutCancel(ctx), "ROLLBACK")
	return err
}

// act makes the following statements run as the admin's login or as creatorRole.
func (c *adminConn) act(ctx context.Context, role string) error {
	statement := "SET ROLE " + quoteIdentifier(role)
	if role == c.login {
		statement = "SET ROLE NONE"
	}
	if _, err := c.script(ctx, statement); err != nil {
		return err
	}
	c.acting = role
	return nil
}

func quoteIdentifier(name string) string { return pgx.Identifier{name}.Sanitize() }

// quoteLiteral quotes for standard_conforming_strings = on, which every admin connection pins.
func quoteLiteral(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
