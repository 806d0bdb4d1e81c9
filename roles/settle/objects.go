package settle

import (
	"context"
	_ "embed"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/admin"
)

// SQL about objects is made here and nowhere else, from what the catalogs call them. An identity is the server's own text,
// quoted by the server, and is put behind a keyword as it is. No text is ever replaced in a statement.

//go:embed sql/owned.sql
var ownedSQL string

//go:embed sql/granted.sql
var grantedSQL string

//go:embed sql/ownerless.sql
var ownerlessSQL string

//go:embed sql/armed.sql
var armedSQL string

// object is something in a database.
type object struct {
	Class, OID uint32
	Type       string // pg_identify_object's word
	Identity   string
}

// String is how records name the object.
func (o object) String() string { return o.Type + " " + o.Identity }

// routine reports whether the object is a function, a procedure or an aggregate. SQL calls all of them ROUTINE, which also
// takes an aggregate without arguments by the name that pg_identify_object has for it.
func (o object) routine() bool {
	switch o.Type {
	case "function", "procedure", "aggregate":
		return true
	}
	return false
}

// relation reports whether ALTER TABLE and GRANT ON TABLE take the object.
func (o object) relation() bool {
	switch o.Type {
	case "table", "view", "materialized view", "foreign table", "sequence":
		return true
	}
	return false
}

// keyword is what SQL calls the object's type.
func (o object) keyword() string {
	switch {
	case o.routine():
		return "ROUTINE"
	case o.Type == "statistics object":
		return "STATISTICS"
	case o.Type == "foreign-data wrapper":
		return "FOREIGN DATA WRAPPER"
	}
	return strings.ToUpper(o.Type)
}

// drop is the statement that drops the object unless something else depends on it.
func (o object) drop() string {
	if o.Type == "user mapping" { // nothing can, and the grammar has no RESTRICT for it
		return "DROP USER MAPPING IF EXISTS " + o.Identity
	}
	return "DROP " + o.keyword() + " IF EXISTS " + o.Identity + " RESTRICT"
}

// givable reports whether the object can get another owner. What has none can't.
func (o object) givable() bool {
	switch o.Type {
	case "user mapping", "trigger", "cast":
		return false
	}
	return true
}

// give is the statement that makes another role the owner; both names are quoted. An extension can't be given by itself: all goes
// that the old owner has in the database.
func (o object) give(from, owner string) string {
	keyword := o.keyword()
	switch {
	case o.relation():
		keyword = "TABLE"
	case o.Type == "extension":
		return "REASSIGN OWNED BY " + from + " TO " + owner
	}
	return "ALTER " + keyword + " " + o.Identity + " OWNER TO " + owner
}

// grantedOn is what GRANT calls the object, or "" if privileges on it do no harm.
func (o object) grantedOn() string {
	switch {
	case o.relation():
		return "TABLE"
	case o.routine():
		return "ROUTINE"
	}
	return ""
}

// owned returns up to limit objects that a role owns in c's database; see owned.sql.
func owned(ctx context.Context, c *admin.Conn, role uint32, limit int) ([]object, error) {
	return objects(ctx, c, ownedSQL, role, limit)
}

// ownerless returns what carries the role's code on without having an owner; see ownerless.sql.
func ownerless(ctx context.Context, c *admin.Conn, role uint32) ([]object, error) {
	return objects(ctx, c, ownerlessSQL, role)
}

// objects runs a query for them. On version 13 the server reports an internal error about an object that somebody else drops
// meanwhile.
func objects(ctx context.Context, c *admin.Conn, query string, args ...any) (found []object, err error) {
	err = admin.Retry(ctx, func() error {
		rows, err := c.Query(ctx, query, args...)
		if err == nil {
			found, err = pgx.CollectRows(rows, pgx.RowToStructByPos[object])
		}
		return err
	})
	return found, err
}

// granted returns the statements that revoke what the role, whose quoted name is given, was granted on the objects in c's
// database and on the server.
func granted(ctx context.Context, c *admin.Conn, role uint32, name string) ([]string, error) {
	return statements(ctx, c, func(row pgx.CollectableRow) (string, error) {
		var kind, identity string
		err := row.Scan(&kind, &identity)
		return fmt.Sprintf("REVOKE ALL ON %s %s FROM %s CASCADE", kind, identity, name), err
	}, grantedSQL, role)
}

// statements runs a query whose rows become statements.
func statements(ctx context.Context, c *admin.Conn, make pgx.RowToFunc[string], query string, args ...any) (made []string, err error) {
	err = admin.Retry(ctx, func() error {
		rows, err := c.Query(ctx, query, args...)
		if err == nil {
			made, err = pgx.CollectRows(rows, make)
		}
		return err
	})
	return made, err
}

// armed returns the statements that make powerless what a role owns in c's database; see armed.sql. None of them waits for
// whoever uses an object.
func armed(ctx context.Context, c *admin.Conn, role uint32, routines bool) ([]string, error) {
	return statements(ctx, c, func(row pgx.CollectableRow) (string, error) {
		var kind, identity string
		var grantee *string
		var definer bool
		err := row.Scan(&kind, &identity, &grantee, &definer)
		switch {
		case definer:
			return "ALTER ROUTINE " + identity + " SECURITY INVOKER", err
		case grantee == nil:
			return fmt.Sprintf("REVOKE ALL ON %s %s FROM PUBLIC CASCADE", kind, identity), err
		}
		return fmt.Sprintf("REVOKE ALL ON %s %s FROM %s CASCADE", kind, identity, admin.QuoteIdentifier(*grantee)), err
	}, armedSQL, role, routines)
}

// grantees returns everybody but the owner who holds privileges on a relation, its columns or a routine, quoted.
func grantees(ctx context.Context, c *admin.Conn, o object) ([]string, error) {
	catalog := `SELECT relacl, relowner FROM pg_class WHERE oid = $1
		UNION ALL SELECT a.attacl, c.relowner FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE c.oid = $1`
	if o.routine() {
		catalog = "SELECT coalesce(proacl, acldefault('f', proowner)), proowner FROM pg_proc WHERE oid = $1"
	}
	return statements(ctx, c, func(row pgx.CollectableRow) (string, error) {
		var name *string
		err := row.Scan(&name)
		if name == nil {
			return "PUBLIC", err
		}
		return admin.QuoteIdentifier(*name), err
	}, `SELECT DISTINCT CASE WHEN x.grantee <> 0 THEN pg_get_userbyid(x.grantee)::text END
		  FROM (`+catalog+`) o(acl, owner), aclexplode(o.acl) x WHERE x.grantee <> o.owner`, o.OID)
}
