package profile

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/roles/ledger"
)

var (
	// ErrNoObject is a grant that names objects or roles that the database does not have.
	ErrNoObject = errors.New("roles: the grant names what is not there")
	// ErrRoleRefused is a grant that names a role that reaches further than a grant may.
	ErrRoleRefused = errors.New("roles: a role that the grant names reaches too far")
)

// group is one of the roles that a grant names, or one that these are members of.
type group struct {
	Name       string
	Super      bool
	Attributes bool // CREATEROLE and the like, which SET ROLE gives before 16
	Login      bool // before 16 a member can set its password, and log in with it after the grant
	Owns       bool
	HandsOn    bool // holds a privilege WITH GRANT OPTION or a membership WITH ADMIN OPTION, here
	Settings   bool // has settings, which before 16 a member can change
	Server     bool // may change settings of the server as a whole (ALTER SYSTEM, 15 and later)
	System     bool // pg_… or rds…
}

// CheckNamed looks at the roles that the grant names, and at all that they are members of, as they are now: the policy's
// deny-list knows names only. Errors: ErrNoObject, ErrRoleRefused, *admin.PrivilegeError, and those of the connection.
func CheckNamed(ctx context.Context, c *admin.Conn, g *policy.Grant) error {
	access := g.Access
	if err := checkKeeper(ctx, c, g.KeepObjectsAs); err != nil {
		return err
	}
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
		       EXISTS (SELECT FROM pg_auth_members m WHERE m.member = r.oid AND m.admin_option) OR `+handsOn(c.Version)+`,
		       EXISTS (SELECT FROM pg_db_role_setting s WHERE s.setrole = r.oid), `+altersSystem(c.Version)+`,
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
	return mayGrant(ctx, c, access.Roles)
}

// handsOn is whether role r holds a privilege WITH GRANT OPTION on something in this database or on the server. Settings of the
// server have privileges from 15 on.
func handsOn(version int) string {
	parameters := ""
	if version >= 150000 {
		parameters = "WHEN 'pg_parameter_acl'::regclass THEN (SELECT paracl FROM pg_parameter_acl WHERE oid = d.objid)"
	}
	return fmt.Sprintf(`
	EXISTS (SELECT FROM pg_shdepend d, aclexplode(CASE d.classid
	          WHEN 'pg_class'::regclass THEN CASE d.objsubid WHEN 0 THEN (SELECT relacl FROM pg_class WHERE oid = d.objid)
	                                                         ELSE (SELECT attacl FROM pg_attribute WHERE attrelid = d.objid AND attnum = d.objsubid) END
	          WHEN 'pg_proc'::regclass THEN (SELECT proacl FROM pg_proc WHERE oid = d.objid)
	          WHEN 'pg_namespace'::regclass THEN (SELECT nspacl FROM pg_namespace WHERE oid = d.objid)
	          WHEN 'pg_database'::regclass THEN (SELECT datacl FROM pg_database WHERE oid = d.objid)
	          WHEN 'pg_type'::regclass THEN (SELECT typacl FROM pg_type WHERE oid = d.objid)
	          WHEN 'pg_language'::regclass THEN (SELECT lanacl FROM pg_language WHERE oid = d.objid)
	          WHEN 'pg_foreign_server'::regclass THEN (SELECT srvacl FROM pg_foreign_server WHERE oid = d.objid)
	          WHEN 'pg_foreign_data_wrapper'::regclass THEN (SELECT fdwacl FROM pg_foreign_data_wrapper WHERE oid = d.objid)
	          WHEN 'pg_tablespace'::regclass THEN (SELECT spcacl FROM pg_tablespace WHERE oid = d.objid)
	          WHEN 'pg_largeobject'::regclass THEN (SELECT lomacl FROM pg_largeobject_metadata WHERE oid = d.objid)
	          WHEN 'pg_default_acl'::regclass THEN (SELECT defaclacl FROM pg_default_acl WHERE oid = d.objid) %s END) x
	         WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = r.oid AND d.deptype = 'a'
	           AND d.dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
	           AND x.grantee = r.oid AND x.is_grantable)`, parameters)
}

// altersSystem is whether role r may change a setting of the server as a whole, for good.
func altersSystem(version int) string {
	if version < 150000 {
		return "false"
	}
	return "EXISTS (SELECT FROM pg_parameter_acl p, aclexplode(p.paracl) x WHERE x.grantee = r.oid AND x.privilege_type = 'ALTER SYSTEM')"
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
	case g.HandsOn:
		return "may hand on what it has (GRANT OPTION or ADMIN OPTION), and what is handed on stays: it needs dangerous: true"
	case g.Settings:
		return "has settings (ALTER ROLE … SET), which a member can change on some versions: it needs dangerous: true"
	case g.Server:
		return "may change settings of the server (ALTER SYSTEM), which stay: it needs dangerous: true"
	case g.System:
		return "reaches beyond the grant's databases: it needs dangerous: true"
	}
	return ""
}

// mayGrant is the error for roles that the admin can't grant.
func mayGrant(ctx context.Context, c *admin.Conn, names []string) error {
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

// checkKeeper is the error for a role that can't be given what people made, or that the admin can't give it to.
func checkKeeper(ctx context.Context, c *admin.Conn, name string) error {
	if name == "" {
		return nil
	}
	var super, member bool
	err := c.QueryOne(ctx, "SELECT rolsuper, pg_has_role(oid, CASE WHEN $2 THEN 'SET' ELSE 'MEMBER' END) FROM pg_roles WHERE rolname = $1",
		[]any{name, c.Version >= 160000}, &super, &member)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return fmt.Errorf("%w: role %s, which is to keep what people make", ErrNoObject, name)
	case err != nil:
		return err
	case super:
		return fmt.Errorf("%w: %s is a superuser, and gets nothing that people made", ErrRoleRefused, name)
	case member:
		return nil
	}
	options := ""
	if c.Version >= 160000 {
		options = " WITH INHERIT TRUE, SET TRUE"
	}
	return &admin.PrivilegeError{
		Problem:    fmt.Sprintf("the admin %s can't hand to %s what people make", c.Acting, name),
		Statements: []string{fmt.Sprintf("GRANT %s TO %s%s;", admin.QuoteIdentifier(name), admin.QuoteIdentifier(c.Acting), options)},
	}
}
