package admin

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
)

// PrivilegeError is an admin that lacks a right which it needs. Statements are what a DBA runs to mend it.
type PrivilegeError struct {
	Problem    string
	Statements []string
}

func (e *PrivilegeError) Error() string {
	return fmt.Sprintf("%s; a DBA has to run: %s", e.Problem, strings.Join(e.Statements, " "))
}

// SQLState is the SQLSTATE of a server's error, or "". Messages are never matched: servers answer in other languages too.
func SQLState(err error) string {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Code
	}
	return ""
}

// Transient reports an error that another try can get past: somebody else held a lock or changed the same row.
func Transient(err error) bool {
	switch SQLState(err) {
	case pgerrcode.LockNotAvailable, pgerrcode.DeadlockDetected, pgerrcode.InternalError: // the last is "tuple concurrently updated"
		return true
	}
	return false
}

// Exhausted reports that the server lacks something that it may have again soon: room on its disk, memory, connection slots.
func Exhausted(err error) bool { return strings.HasPrefix(SQLState(err), "53") }

// lockRetries is how often Retry tries.
const lockRetries = 5

// Retry repeats fn while somebody else's lock holds it up.
func Retry(ctx context.Context, fn func() error) error {
	for attempt := 1; ; attempt++ {
		err := fn()
		if err == nil || !Transient(err) || attempt == lockRetries {
			return err
		}
		if err := Pause(ctx, time.Duration(attempt)*50*time.Millisecond); err != nil {
			return err
		}
	}
}

// Pause waits, unless ctx ends first.
func Pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
