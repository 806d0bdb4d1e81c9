package roles

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/roles/ledger"
)

// ErrRoleRefused is in the error of Acquire when a grant names a role that reaches further than a grant may.
var ErrRoleRefused = errors.New("roles: a role that the grant names reaches too far")

// group is one of the roles that a grant names, or one that these are members of.
type group struct {
	Name       string
	Super      bool
	Attributes bool // CREATEROLE and the like, which SET ROLE gives before 16
	Login      bool // before 16 a member can set its password, and log in with it after the grant
	Owns       bool
	System     bool // pg_… or rds…
}

// checkRoles looks at the roles that the grant names, and at all that they are members of, as they are now: the policy's
// deny-list knows names only.
func (k *Keeper) checkRoles(ctx context.Context, c *admin.Conn, l *lease) error {
	access := l.grant.Access
	if len(access.Roles) == 0 {
		return nil
	}
	rows, err := c.Query(ctx, `
		WITH RECURSIVE reach(oid) AS (
			SELECT oid FROM pg_roles WHERE rolname = ANY ($1)
			UNION SELECT m.roleid FROM pg_auth_members m JOIN reach ON m.member = reach.oid
		)
		SELECT rolname::text, rolsuper, rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls, rolcanlogin,
		       EXISTS (SELECT FROM pg_shdepend d WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = r.oid AND d.deptype = 'o'),
		       rolname ~ '^(pg_|rds)'
		  FROM reach JOIN pg_roles r USING (oid) ORDER BY 1`, access.Roles)
	if err != nil {
		return err
	}
	groups, err := pgx.CollectRows(rows, pgx.RowToStructByPos[group])
	if err != nil {
		return err
	}
	found := make(map[string]bool)
	for _, g := range groups {
		found[g.Name] = true
		if why := g.refuse(access.Dangerous); why != "" {
			return fmt.Errorf("%w: %s %s", ErrRoleRefused, g.Name, why)
		}
	}
	for _, name := range access.Roles {
		if !found[name] {
			return fmt.Errorf("%w: role %s", ErrNoObject, name)
		}
	}
	return k.mayGrant(ctx, c, access.Roles)
}

// refuse says why the group can't be granted, or "".
func (g group) refuse(dangerous bool) string {
	switch {
	case g.Super:
		return "is a superuser"
	case strings.HasPrefix(g.Name, ledger.RolePrefix) || strings.HasPrefix(g.Name, ledger.ProfilePrefix):
		return "is Hourgate's own"
	case dangerous:
		return ""
	case g.Attributes:
		return "has CREATEROLE, CREATEDB, REPLICATION or BYPASSRLS: it needs dangerous: true"
	case g.Login:
		return "can log in: it needs dangerous: true"
	case g.Owns:
		return "owns objects: it needs dangerous: true"
	case g.System:
		return "reaches beyond the grant's databases: it needs dangerous: true"
	}
	return ""
}

// mayGrant is the error for roles that the admin can't grant.
func (k *Keeper) mayGrant(ctx context.Context, c *admin.Conn, names []string) error {
	if c.Version < 160000 {
		return nil // CREATEROLE is enough
	}
	rows, err := c.Query(ctx, "SELECT rolname::text FROM pg_roles WHERE rolname = ANY ($1) AND NOT pg_has_role(oid, 'MEMBER WITH ADMIN OPTION') ORDER BY 1", names)
	if err != nil {
		return err
	}
	lacking, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(lacking) == 0 {
		return err
	}
	e := &admin.PrivilegeError{Problem: fmt.Sprintf("the admin %s may not grant %s", c.Acting, strings.Join(lacking, ", "))}
	for _, name := range lacking {
		e.Statements = append(e.Statements, fmt.Sprintf("GRANT %s TO %s WITH ADMIN OPTION;", admin.QuoteIdentifier(name), admin.QuoteIdentifier(c.Acting)))
	}
	return e
}
