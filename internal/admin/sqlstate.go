package admin

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// SQLSTATEs that are acted upon (PostgreSQL's src/backend/utils/errcodes.txt). Messages are never matched: servers
// answer in other languages too.
const (
	InsufficientPrivilege = "42501"
	DependentObjects      = "2BP01"
	DuplicateObject       = "42710"
	UndefinedObject       = "42704"
	UndefinedTable        = "42P01"
	UndefinedFunction     = "42883"
	SyntaxError           = "42601"
	UniqueViolation       = "23505"
	LockNotAvailable      = "55P03"
	Deadlock              = "40P01"
	Internal              = "XX000" // "tuple concurrently updated"
	OutOfMemory           = "53200" // more locks than the server has room for, too
	NotConnectable        = "55000" // datallowconn = false, at log-in
	NoDatabase            = "3D000"
	PrivilegeNotRevoked   = "01006"
	ReadOnly              = "25006" // read_only_sql_transaction: the server has become a replica
)

// PrivilegeError is an admin that lacks a right which it needs. Statements are what a DBA runs to mend it.
type PrivilegeError struct {
	Problem    string
	Statements []string
}

func (e *PrivilegeError) Error() string {
	return fmt.Sprintf("%s; a DBA has to run: %s", e.Problem, strings.Join(e.Statements, " "))
}

// SQLState is the SQLSTATE of a server's error, or "".
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
	case LockNotAvailable, Deadlock, Internal:
		return true
	}
	return false
}

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
