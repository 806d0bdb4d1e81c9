package settle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/roles/ledger"
)

// errAnybodys is a prepared transaction of a named role that began under the grant and that another member may have made.
var errAnybodys = errors.New("it was prepared during the grant, by the tenant or by somebody else who acts as that role: commit it or roll it back")

// prepared is a transaction that outlives its session, holds its locks, and can be committed by whoever acts as its owner.
type prepared struct {
	GID, Owner, Database string
	At                   time.Time
	Shared               bool // others than ephemeral roles and the admin can act as the owner
}

// rollbackPrepared ends the tenant's prepared transactions: its own, those that it prepared as one of its profiles, which
// nobody else acts as, and those of named roles that began under the grant. Once the owner is gone only a superuser could.
// What another member of a named role may have prepared is not rolled back, but keeps the role from being settled, unless the role
// was given as dangerous: then it is recorded as left.
func (s *settlement) rollbackPrepared(ctx context.Context) error {
	rows, err := s.c.Query(ctx, `
		SELECT p.gid, p.owner::text, p.database::text, p.prepared,
		       EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid JOIN pg_roles o ON o.oid = m.member
		                WHERE g.rolname = p.owner AND o.rolname !~ '^hg_' AND o.rolname NOT IN (session_user, current_user))
		       OR EXISTS (SELECT FROM pg_roles g WHERE g.rolname = p.owner AND g.rolcanlogin)
		  FROM pg_prepared_xacts p WHERE p.owner = ANY ($1) ORDER BY p.prepared`, s.rights())
	if err != nil {
		return err
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[prepared])
	if err != nil {
		return err
	}
	for _, p := range all {
		what := fmt.Sprintf("prepared transaction %s of role %s in database %s", p.GID, p.Owner, p.Database)
		if named := p.Owner != s.role.Name && !ledger.IsProfile(p.Owner); named {
			if s.c.Version >= 160000 && p.Owner != s.role.Entry.ActAs || p.At.Before(s.role.Entry.Made) {
				continue // the tenant could not act as that role, or it began before
			}
			switch {
			case p.Shared && slices.Contains(s.groups, p.Owner):
				s.resists(what, errAnybodys)
				continue
			case p.Shared:
				s.left = append(s.left, what)
				continue
			}
		}
		if err := s.in(ctx, p.Database, func(c *admin.Conn) error { return rollback(ctx, c, p) }); err != nil {
			s.resists(what, s.st.told(err))
			continue
		}
		s.dropped = append(s.dropped, what)
	}
	return nil
}

// rollback ends a prepared transaction as its owner, of which the admin becomes a member for that time.
func rollback(ctx context.Context, c *admin.Conn, p prepared) error {
	acting, owner := c.Acting, admin.QuoteIdentifier(p.Owner)
	var member bool
	if err := c.QueryOne(ctx, "SELECT pg_has_role($1::name, 'MEMBER')", []any{p.Owner}, &member); err != nil {
		return err
	}
	if !member {
		if _, err := c.Script(ctx, c.Join(owner)); err != nil {
			return err
		}
	}
	_, err := c.Script(ctx, "SET ROLE "+owner)
	if err == nil {
		_, err = c.Script(ctx, "ROLLBACK PREPARED "+admin.QuoteLiteral(p.GID))
		if admin.SQLState(err) == pgerrcode.UndefinedObject { // somebody else was quicker
			err = nil
		}
	}
	err = errors.Join(err, c.Act(ctx, acting))
	if !member {
		_, leaveErr := c.Script(ctx, "REVOKE "+owner+" FROM CURRENT_USER")
		err = errors.Join(err, leaveErr)
	}
	return err
}
