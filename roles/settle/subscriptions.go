package settle

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/admin"
)

// subscriptionLimit bounds the call to a publisher, which the server makes for tables that were being copied, and which may not answer.
const subscriptionLimit = "SET LOCAL statement_timeout = '3s'"

// dropSubscriptions drops the role's subscriptions, which belong to the server as a whole and which DROP OWNED passes over. From 16
// on people can make them with a role that is a member of pg_create_subscription. Their workers run as the role, so none has
// started since it can't log in. The slot at the publisher is not ours to reach, and is named.
func (s *settlement) dropSubscriptions(ctx context.Context) error {
	type subscription struct {
		Name, Database string
		Slot           *string
	}
	rows, err := s.c.Query(ctx, `
		SELECT s.subname::text, d.datname::text, s.subslotname::text
		  FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE s.subowner = $1 ORDER BY 1`, s.oid)
	if err != nil {
		return err
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[subscription])
	if err != nil {
		return err
	}
	for _, sub := range all {
		what, name := fmt.Sprintf("subscription %s in database %s", sub.Name, sub.Database), admin.QuoteIdentifier(sub.Name)
		err := s.in(ctx, sub.Database, func(c *admin.Conn) error {
			return c.Transaction(ctx, []string{
				pieceLock, subscriptionLimit, "ALTER SUBSCRIPTION " + name + " DISABLE", "ALTER SUBSCRIPTION " + name + " SET (slot_name = NONE)", "DROP SUBSCRIPTION " + name,
			}, func([][][]byte) error { return nil })
		})
		if err != nil {
			s.resists(what, s.st.told(err))
			continue
		}
		if sub.Slot != nil {
			what += fmt.Sprintf(", whose slot %s may be left at its publisher", *sub.Slot)
		}
		s.dropped = append(s.dropped, what)
	}
	return nil
}
