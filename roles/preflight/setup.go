package preflight

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/admin"
)

// SetupSQL is what a DBA runs once on the server so that roles are made by admin.CreatorRole and not by the admin's user: for
// the server's major version, the owners in the databases, and what Hourgate has made there already. It changes nothing.
func (s Server) SetupSQL(ctx context.Context, databases []string) (string, error) {
	var b strings.Builder
	err := s.Pool.Use(ctx, func(c *admin.Conn) error {
		options, login := "", admin.QuoteIdentifier(c.Login)
		if c.Version >= 160000 {
			options = " WITH INHERIT TRUE, SET TRUE"
		}
		fmt.Fprintf(&b, "-- Hourgate, integration %s (%s), PostgreSQL %d. To be run once by a superuser or, on RDS, by a member of\n"+
			"-- rds_superuser who has ADMIN OPTION on the roles that are named. It may be run again.\n\n", s.Integration, s.Address, c.Version/10000)
		fmt.Fprintf(&b, "-- The creator of all roles of Hourgate. It stays when the admin's user is replaced.\n"+
			"DO $$ BEGIN\n  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '%[1]s') THEN CREATE ROLE %[1]s NOLOGIN CREATEROLE; END IF;\nEND $$;\n"+
			"GRANT %[1]s TO %[2]s%[3]s;\nGRANT pg_signal_backend TO %[1]s;\n", admin.CreatorRole, login, options)
		made, err := lines(ctx, c, `SELECT quote_ident(rolname) FROM pg_roles WHERE rolname ~ '^(hg_|hourgate_)' AND rolname <> $1 ORDER BY 1`, admin.CreatorRole)
		if err != nil {
			return err
		}
		if len(made) > 0 {
			b.WriteString("\n-- What Hourgate has made already.\n")
		}
		for _, role := range made {
			fmt.Fprintf(&b, "GRANT %s TO %s WITH ADMIN OPTION;\n", role, admin.CreatorRole)
		}
		return nil
	})
	for _, database := range append([]string{s.Database}, databases...) {
		if err == nil {
			err = s.Pool.In(ctx, database, func(c *admin.Conn) error { return setupOwners(ctx, c, &b) })
		}
	}
	return b.String(), err
}

// setupOwners writes the memberships in a database's owners, which are what lets the creator grant on their objects.
func setupOwners(ctx context.Context, c *admin.Conn, b *strings.Builder) error {
	owners, err := lines(ctx, c, `
		SELECT quote_ident(r.rolname) FROM pg_roles r
		 WHERE NOT rolsuper AND rolname !~ '^(hg_|hourgate_|pg_|rds)' AND rolname <> $1 AND oid IN (
			SELECT relowner FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			 WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND nspname !~ '^pg_' AND nspname <> 'information_schema'
			UNION SELECT nspowner FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
			UNION SELECT datdba FROM pg_database WHERE datname = current_database())
		 ORDER BY 1`, c.Login)
	if err != nil {
		return err
	}
	options := ""
	if c.Version >= 160000 {
		options = " WITH INHERIT TRUE, SET FALSE"
	}
	fmt.Fprintf(b, "\n-- The owners in database %s.\n", c.Config().Database)
	for _, owner := range owners {
		fmt.Fprintf(b, "GRANT %s TO %s%s;\n", owner, admin.CreatorRole, options)
	}
	return setupMasters(ctx, c, b)
}

// setupMasters explains what to do about owners that nobody but a superuser can grant, such as the master user on RDS from 16
// on: a role has no ADMIN OPTION on itself.
func setupMasters(ctx context.Context, c *admin.Conn, b *strings.Builder) error {
	if c.Version < 160000 {
		return nil
	}
	masters, err := lines(ctx, c, `
		SELECT quote_ident(r.rolname) FROM pg_roles r
		 WHERE NOT rolsuper AND rolcanlogin AND rolname !~ '^(hg_|hourgate_|pg_|rds)'
		   AND NOT EXISTS (SELECT FROM pg_auth_members m WHERE m.roleid = r.oid AND m.admin_option)
		   AND EXISTS (SELECT FROM pg_shdepend d WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = r.oid AND d.deptype = 'o'
		                  AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()))
		 ORDER BY 1`)
	owner := admin.QuoteIdentifier(c.Config().Database + "_owner")
	for _, master := range masters {
		fmt.Fprintf(b, "-- If that is refused for %[1]s, because there is no superuser (RDS), %[1]s gives what it owns to a role of\n"+
			"-- its own, whose member it is and stays, in this database:\n"+
			"--   CREATE ROLE %[2]s NOLOGIN;\n--   GRANT %[2]s TO %[3]s WITH INHERIT TRUE, SET FALSE;\n"+
			"--   GRANT %[2]s TO %[1]s WITH INHERIT TRUE, SET TRUE;\n--   REASSIGN OWNED BY %[1]s TO %[2]s;\n", master, owner, admin.CreatorRole)
	}
	return err
}

func lines(ctx context.Context, c *admin.Conn, query string, args ...any) ([]string, error) {
	rows, err := c.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}
