package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
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

// Conn is a connection as the admin. One goroutine at a time uses it.
type Conn struct {
	*pgx.Conn
	log     *slog.Logger
	Version int    // server_version_num
	Login   string // whom the server authenticated
	Creator string // CreatorRole where that is set up, else ""
	Acting  string // whom statements run as: Creator if there is one, else Login; see Act

	creates  bool             // it may create roles
	database string           // where it is
	passing  bool             // which is no integration's own
	used     time.Time        // when it was last given back to the pool
	demoted  bool             // the server has become a replica: the name leads elsewhere
	kept     time.Time        // when somebody kept aclLock for too long last
	notices  []*pgconn.Notice // since the last call of Warnings

	// before is set by tests only: it is called before each statement, and an error of it ends the connection's use.
	before func(c *Conn, statement string) error
}

// Warnings returns the SQLSTATEs of the notices that came since the last call.
func (c *Conn) Warnings() []string {
	var codes []string
	for _, n := range c.notices {
		codes = append(codes, n.Code)
	}
	c.notices = nil
	return codes
}

// Script sends statements as one message and returns the rows of the last. They are joined here and nowhere else; what
// is put into them is either a constant or quoted by QuoteIdentifier or QuoteLiteral.
func (c *Conn) Script(ctx context.Context, statements ...string) ([][][]byte, error) {
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

func (c *Conn) exec(ctx context.Context, sql string) ([][][]byte, error) {
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
func (c *Conn) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if c.before != nil {
		if err := c.before(c, sql); err != nil {
			return nil, err
		}
	}
	return c.Conn.Query(ctx, sql, args...)
}

// QueryOne reads the only row of a query.
func (c *Conn) QueryOne(ctx context.Context, sql string, args []any, into ...any) error {
	rows, err := c.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	_, err = pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (struct{}, error) { return struct{}{}, row.Scan(into...) })
	return err
}

// Transaction runs fn between BEGIN and COMMIT, which costs two messages besides those of fn. The statements of first
// travel with BEGIN, and their last rows go to fn.
func (c *Conn) Transaction(ctx context.Context, first []string, fn func(rows [][][]byte) error) error {
	rows, err := c.Script(ctx, append([]string{"BEGIN", "SET LOCAL lock_timeout = '1500ms'"}, first...)...)
	if err == nil {
		err = fn(rows)
	}
	if err != nil {
		return errors.Join(err, c.Rollback(ctx))
	}
	_, err = c.Script(ctx, "COMMIT")
	return err
}

// keptFor is how long nobody waits for aclLock after it could not be had.
const keptFor = 10 * time.Second

// Exclusively is Transaction under aclLock. Everybody on the server may take that lock, so waiting for it is bounded, and
// an ephemeral role that holds it is put out: only a tenant who knows this code would. If it can't be had even then, the connection
// does without for a while, unless the lock is free: whoever keeps it must not hold up each of many steps.
func (c *Conn) Exclusively(ctx context.Context, fn func() error) error {
	lock := []string{fmt.Sprintf("SELECT pg_advisory_xact_lock(%d)", aclLock)}
	if time.Since(c.kept) < keptFor {
		lock = []string{fmt.Sprintf("SELECT pg_try_advisory_xact_lock(%d)", aclLock)}
	}
	var locked bool
	once := func() error {
		return c.Transaction(ctx, lock, func([][][]byte) error { locked = true; return fn() })
	}
	err := once()
	if locked || SQLState(err) != pgerrcode.LockNotAvailable {
		return err
	}
	if evictErr := c.evictLockHolders(ctx); evictErr != nil {
		return errors.Join(err, evictErr)
	}
	// Without the lock if it can't be had even now: what collides fails with XX000 and is tried again.
	if err = once(); !locked && SQLState(err) == pgerrcode.LockNotAvailable {
		c.kept, lock = time.Now(), nil
		err = once()
	}
	return err
}

func (c *Conn) evictLockHolders(ctx context.Context) error {
	var ended int
	err := c.QueryOne(ctx, `
		SELECT count(*) FILTER (WHERE pg_terminate_backend(l.pid))
		  FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
		 WHERE l.locktype = 'advisory' AND l.classid = $1 AND l.objid = $2 AND a.usename ~ '^hg_'`,
		[]any{uint32(aclLockHigh), uint32(aclLockLow)}, &ended)
	c.log.Warn("somebody kept hourgate's lock for too long", "tenants_terminated", ended)
	return err
}

// Rollback leaves the connection outside any transaction, or closes it.
func (c *Conn) Rollback(ctx context.Context) error {
	if c.IsClosed() {
		return nil
	}
	_, err := c.Script(context.WithoutCancel(ctx), "ROLLBACK")
	return err
}

// Act makes the following statements run as the admin's login or as CreatorRole.
func (c *Conn) Act(ctx context.Context, role string) error {
	statement := "SET ROLE " + QuoteIdentifier(role)
	if role == c.Login {
		statement = "SET ROLE NONE"
	}
	if _, err := c.Script(ctx, statement); err != nil {
		return err
	}
	c.Acting = role
	return nil
}
