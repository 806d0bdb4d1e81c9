package roles

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/roles/ledger"
)

// What a grant says besides its rights may change while its role lives: its end, and its limits. The gate goes by the
// grant as it is. The server is told too: VALID UNTIL keeps log-ins out that come another way, and the comment is what
// other processes go by once this one is gone.

// tellTimeout bounds one try at telling the server, and tellPause is between two.
const (
	tellTimeout = 5 * time.Second
	tellPause   = 2 * time.Second
)

// limits are the grant's timeouts, as settings of PostgreSQL.
func limits(g *policy.Grant) map[string]time.Duration {
	return map[string]time.Duration{
		"statement_timeout":                   g.StatementTimeout,
		"idle_in_transaction_session_timeout": g.IdleInTransaction,
		"lock_timeout":                        g.LockTimeout,
	}
}

// settings are the grant's limits as the role's own settings. The session can change them, as it could had they come with
// its startup packet; but these end with the role and need nothing from whoever connects.
func settings(g *policy.Grant, name string) []string {
	var statements []string
	for setting, d := range limits(g) {
		if d > 0 {
			statements = append(statements, fmt.Sprintf("ALTER ROLE %s SET %s = '%dms'", name, setting, d.Milliseconds()))
		}
	}
	slices.Sort(statements)
	return statements
}

// validUntil is the grant's end as PostgreSQL knows it, to the microsecond: up to then log-ins are to succeed.
func validUntil(g *policy.Grant) string {
	return admin.QuoteLiteral(g.Until.UTC().Format("2006-01-02T15:04:05.999999Z07:00"))
}

// terms are the statements that make a role that is there have the grant's end and limits.
func terms(role ledger.Role, g *policy.Grant, entry ledger.Entry) []string {
	name := admin.QuoteIdentifier(role.Name)
	statements := []string{
		fmt.Sprintf("ALTER ROLE %s CONNECTION LIMIT %d VALID UNTIL %s", name, sessionLimit(g)+connectionReserve, validUntil(g)),
		fmt.Sprintf("COMMENT ON ROLE %s IS %s", name, admin.QuoteLiteral(entry.Comment())),
	}
	for setting, d := range limits(g) {
		if d == 0 {
			statements = append(statements, fmt.Sprintf("ALTER ROLE %s RESET %s", name, setting))
		}
	}
	return append(statements, settings(g, name)...)
}

// tell tells the server in the background what it does not know of the grant yet, and tries again until it does.
func (l *lease) tell() {
	k := l.keeper
	k.mu.Lock()
	defer k.mu.Unlock()
	if l.told == nil || l.telling || l.over || l.upToDate() {
		return
	}
	l.telling = true
	k.tended.Go(func() {
		ctx, cancel := context.WithTimeout(k.ending, tellTimeout)
		defer cancel()
		err := l.tellNow(ctx, l.current())
		if err != nil && k.ending.Err() == nil && !l.closed() {
			k.log.Warn("the server could not be told a grant's new end, trying again", "role", l.identity().Name, "error", err)
			select {
			case <-time.After(tellPause):
			case <-k.ending.Done():
			}
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		l.telling = false
		l.wake()
	})
}

// tellNow makes the role on the server, and its comment, have the grant's end and limits. It gives no right to log in, and
// leaves a role alone that is being settled.
func (l *lease) tellNow(ctx context.Context, g *policy.Grant) error {
	role := l.identity()
	statements := terms(role, g, l.entry(g))
	err := l.keeper.pool.Use(ctx, func(c *admin.Conn) error {
		return ifOurs(ctx, c, role, statements[0], func() error {
			if l.closed() {
				return ErrGrantGone
			}
			_, err := c.Script(ctx, statements[1:]...)
			return err
		})
	})
	if err == nil {
		l.heard(g)
	}
	return err
}

// heard notes what the server knows. The grant may have moved while the server was being told, or while the role was made.
func (l *lease) heard(g *policy.Grant) {
	entry := l.entry(g)
	l.keeper.mu.Lock()
	defer l.keeper.mu.Unlock()
	l.told, l.role.Entry = g, entry
	if !l.upToDate() {
		l.wake()
	}
}

// upToDate reports whether the server knows the grant's end and limits as they are; the keeper's mutex is held.
func (l *lease) upToDate() bool {
	return l.told.Until.Equal(l.grant.Until) && l.told.SameLimits(l.grant)
}
