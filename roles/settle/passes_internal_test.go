package settle

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
)

// What may be over soon is tried again by the end itself, each second, and not by the next sweep.
func TestPasses(t *testing.T) {
	t.Parallel()
	code := func(code string) error { return fmt.Errorf("disabling: %w", &pgconn.PgError{Code: code}) }
	for _, c := range []struct {
		err  error
		want bool
	}{
		{code(pgerrcode.DiskFull), true},
		{code(pgerrcode.TooManyConnections), true},
		{code(pgerrcode.OutOfMemory), true},
		{code(pgerrcode.LockNotAvailable), true},
		{code(pgerrcode.AdminShutdown), true},
		{errors.Join(errors.New("one"), code(pgerrcode.DiskFull)), true},
		{errors.Join(fmt.Errorf("%w: %w", errAway, errors.New("no such host")), errors.New("another")), true},
		{fmt.Errorf("trying: %w", context.DeadlineExceeded), true},
		{code(pgerrcode.InsufficientPrivilege), false},
		{code(pgerrcode.DependentObjectsStillExist), false},
		{errors.New("something else"), false},
	} {
		if got := passes(c.err); got != c.want {
			t.Errorf("%v: got %t", c.err, got)
		}
	}
}
