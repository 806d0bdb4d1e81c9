package roles

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// clear removes what the role owns and what it was granted, in every database where the server knows of something, and
// takes from the profiles what the tenant may have handed to them.
func (s *settlement) clear(ctx context.Context) error {
	databases, err := s.databases(ctx)
	if err != nil {
		return err
	}
	for _, database := range databases {
		if err := s.in(ctx, database, func(c *adminConn) error { return s.clearDatabase(ctx, c) }); err != nil {
			return err
		}
	}
	return nil
}

// databases are those where something depends on the role or is owned by a profile. Privileges on shared objects, such
// as databases, are handled from any of them.
func (s *settlement) databases(ctx context.Context) ([]string, error) {
	rows, err := s.c.Query(ctx, `
		SELECT DISTINCT coalesce(d.datname, current_database())::text
		  FROM pg_shdepend s LEFT JOIN pg_database d ON d.oid = s.dbid
		 WHERE s.refclassid = 'pg_authid'::regclass
		   AND (s.refobjid = $1 OR s.deptype = 'o' AND s.refobjid IN (SELECT oid FROM pg_roles WHERE rolname ~ $2))`,
		s.role.OID, "^"+profilePrefix+"(ro|rw|admin)_")
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

func (s *settlement) clearDatabase(ctx context.Context, c *adminConn) error {
	owned, err := s.owned(ctx, c)
	if err != nil {
		return err
	}
	if err := s.evictFromProfiles(ctx, c); err != nil {
		return err
	}
	if err := s.dropForeignTriggers(ctx, c); err != nil {
		return err
	}
	err = retry(ctx, func() error { return s.dropOwned(ctx, c) })
	if sqlstate(err) == codeDependentObjects {
		if err := retry(ctx, func() error { return s.quarantine(ctx, c, s.name, true) }); err != nil {
			return err
		}
		s.kept = append(s.kept, owned...)
		return nil
	}
	if err == nil {
		s.dropped = append(s.dropped, owned...)
	}
	return err
}

// owned describes the objects that the role owns in this database, for the record.
func (s *settlement) owned(ctx context.Context, c *adminConn) ([]string, error) {
	rows, err := c.Query(ctx, `
		SELECT pg_describe_object(classid, objid, objsubid) FROM pg_shdepend
		 WHERE refclassid = 'pg_authid'::regclass AND refobjid = $1 AND deptype = 'o'
		   AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
		 ORDER BY 1`, s.role.OID)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// dropOwned drops what the role owns here and revokes what it was granted. RESTRICT: other people's views and foreign
// keys are not ours to drop. A privilege that somebody else granted is reported as a warning only and would keep the
// role from being dropped.
func (s *settlement) dropOwned(ctx context.Context, c *adminConn) error {
	return c.transaction(ctx, true, func() error {
		c.warnings()
		if _, err := c.script(ctx, "DROP OWNED BY "+s.name+" RESTRICT"); err != nil {
			return err
		}
		if slices.Contains(c.warnings(), codePrivilegeNotRevoked) {
			return s.tombstone(ctx)
		}
		return nil
	})
}

// dropForeignTriggers drops the triggers on other people's tables that call the role's functions. They would run the
// tenant's code with the rights of whoever writes to the table next.
func (s *settlement) dropForeignTriggers(ctx context.Context, c *adminConn) error {
	return s.execEach(ctx, c, `
		SELECT format('DROP TRIGGER %I ON %I.%I', t.tgname, n.nspname, r.relname)
		  FROM pg_trigger t
		  JOIN pg_proc f ON f.oid = t.tgfoid
		  JOIN pg_class r ON r.oid = t.tgrelid
		  JOIN pg_namespace n ON n.oid = r.relnamespace
		 WHERE f.proowner = $1 AND r.relowner <> $1 AND NOT t.tgisinternal AND t.tgparentid = 0`, s.role.OID)
}

// evictFromProfiles hands to the quarantine role what a profile owns here. A profile never owns anything by itself; on
// servers before 16, and on unpatched ones after it, a member can make it the owner.
func (s *settlement) evictFromProfiles(ctx context.Context, c *adminConn) error {
	rows, err := c.Query(ctx, `
		SELECT DISTINCT r.oid, r.rolname::text FROM pg_shdepend d JOIN pg_roles r ON r.oid = d.refobjid
		 WHERE d.refclassid = 'pg_authid'::regclass AND d.deptype = 'o' AND r.rolname ~ $1
		   AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())`, "^"+profilePrefix+"(ro|rw|admin)_")
	if err != nil {
		return err
	}
	type owner struct {
		OID  uint32
		Name string
	}
	owners, err := pgx.CollectRows(rows, pgx.RowToStructByPos[owner])
	if err != nil {
		return err
	}
	for _, o := range owners {
		evicted := &settlement{k: s.k, c: c, role: Role{Name: o.Name, OID: o.OID}, name: quoteIdentifier(o.Name)}
		objects, err := evicted.owned(ctx, c)
		if err != nil {
			return err
		}
		if err := evicted.join(ctx); err != nil {
			return err
		}
		if err := retry(ctx, func() error { return evicted.quarantine(ctx, c, evicted.name, false) }); err != nil {
			return err
		}
		if _, err := c.script(ctx, "REVOKE "+evicted.name+" FROM CURRENT_USER"); err != nil {
			return err
		}
		s.kept = append(s.kept, objects...)
	}
	return nil
}

// quarantine hands the role's objects in this database to a role that can't log in and holds nothing, because other
// people's objects depend on them. Functions lose the power to act as their owner and everybody's right to call them
// first: REASSIGN OWNED to a role with rights is how a tenant would gain them. The new owner needs CREATE for the
// moment.
func (s *settlement) quarantine(ctx context.Context, c *adminConn, owner string, dropRest bool) error {
	return c.transaction(ctx, true, func() error {
		keeper, err := ensureQuarantine(ctx, c)
		if err != nil {
			return err
		}
		if err := s.execEach(ctx, c, `
			SELECT statement FROM pg_proc f,
			       LATERAL (SELECT format('%s %s', CASE f.prokind WHEN 'p' THEN 'PROCEDURE' WHEN 'a' THEN 'AGGREGATE' ELSE 'FUNCTION' END, f.oid::regprocedure)) o(object),
			       LATERAL (VALUES ('ALTER ' || object || ' SECURITY INVOKER'), ('REVOKE ALL ON ' || replace(object, 'AGGREGATE', 'FUNCTION') || ' FROM PUBLIC')) v(statement)
			 WHERE f.proowner = $1 AND NOT (f.prokind = 'a' AND statement LIKE 'ALTER%')`, s.role.OID); err != nil {
			return err
		}
		if err := s.execEach(ctx, c, quarantineCreate("GRANT", "TO", keeper), s.role.OID); err != nil {
			return err
		}
		if _, err := c.script(ctx, "REASSIGN OWNED BY "+owner+" TO "+keeper); err != nil {
			return err
		}
		if dropRest {
			if _, err := c.script(ctx, "DROP OWNED BY "+owner+" RESTRICT"); err != nil {
				return err
			}
		}
		return s.execEach(ctx, c, quarantineCreate("REVOKE", "FROM", keeper), s.role.OID)
	})
}

// quarantineCreate generates the statements that give or take the quarantine role's right to create in this database's
// schemas. $1 is there for execEach only.
func quarantineCreate(verb, preposition, keeper string) string {
	return `
		SELECT '` + verb + ` CREATE ON SCHEMA ' || quote_ident(nspname) || ` + quoteLiteral(" "+preposition+" "+keeper) + `
		  FROM pg_namespace
		 WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' AND pg_has_role(nspowner, 'USAGE') AND $1::oid IS NOT NULL`
}

// ensureQuarantine makes this database's quarantine role and the admin a member of it, and returns its quoted name.
func ensureQuarantine(ctx context.Context, c *adminConn) (string, error) {
	name := databaseRoleName("quarantine", c.Config().Database)
	quoted := quoteIdentifier(name)
	var exists, member bool
	err := c.QueryRow(ctx, `
		SELECT count(*) > 0, coalesce(bool_or(pg_has_role(oid, 'USAGE')), false) FROM pg_roles WHERE rolname = $1`,
		name).Scan(&exists, &member)
	if err != nil {
		return "", err
	}
	if !exists {
		if _, err := c.script(ctx, "CREATE ROLE "+quoted+" NOLOGIN",
			"COMMENT ON ROLE "+quoted+" IS 'Hourgate: owns what ended grants left behind and others depend on; holds no rights'"); err != nil {
			return "", err
		}
	}
	if !member {
		if _, err := c.script(ctx, joinRole(c, quoted)); err != nil {
			return "", err
		}
	}
	return quoted, nil
}

// execEach runs a query that returns statements, and the statements.
func (s *settlement) execEach(ctx context.Context, c *adminConn, query string, oid uint32) error {
	rows, err := c.Query(ctx, query, oid)
	if err != nil {
		return err
	}
	statements, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(statements) == 0 {
		return err
	}
	_, err = c.script(ctx, statements...)
	return err
}

// retry repeats fn while somebody else's lock holds it up.
func retry(ctx context.Context, fn func() error) error {
	for attempt := 1; ; attempt++ {
		err := fn()
		if err == nil || !transient(err) || attempt == lockRetries {
			return err
		}
		if err := pause(ctx, time.Duration(attempt)*50*time.Millisecond); err != nil {
			return err
		}
	}
}
