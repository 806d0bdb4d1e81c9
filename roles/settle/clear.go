package settle

import (
	"context"
	"errors"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/roles/ledger"
)

// dropBatch bounds the objects of one transaction: each takes several locks, and the server has room for
// max_locks_per_transaction × max_connections in all.
const dropBatch = 200

// clear removes what the role owns and what it was granted, in every database where the server knows of something.
func (s *settlement) clear(ctx context.Context) error {
	databases, err := s.databases(ctx)
	if err != nil {
		return err
	}
	for _, database := range databases {
		err := s.in(ctx, database, func(c *admin.Conn) error { return s.clearDatabase(ctx, c) })
		var unreachable *admin.UnreachableError
		if errors.As(err, &unreachable) {
			switch admin.SQLState(err) {
			case admin.NoDatabase: // dropped meanwhile, and with it what it held
				continue
			case admin.NotConnectable, admin.InsufficientPrivilege:
				s.st.cfg.Log.Error("database can't be cleared", "role", s.role.Name, "database", database, "error", err)
				return s.tombstone(ctx)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// databases are those where something depends on the role. Privileges on shared objects, such as databases, are handled
// from any of them.
func (s *settlement) databases(ctx context.Context) ([]string, error) {
	rows, err := s.c.Query(ctx, `
		SELECT DISTINCT coalesce(d.datname, current_database())::text
		  FROM pg_shdepend s LEFT JOIN pg_database d ON d.oid = s.dbid
		 WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = $1`, s.role.OID)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

func (s *settlement) clearDatabase(ctx context.Context, c *admin.Conn) error {
	before, err := s.owned(ctx, c)
	if err != nil {
		return err
	}
	if err := admin.Retry(ctx, func() error { return s.dropOwnerless(ctx, c) }); err != nil {
		return err
	}
	if s.again { // DROP OWNED was not enough, and did not say so
		if err := admin.Retry(ctx, func() error { return s.revokeAsGrantors(ctx, c) }); err != nil {
			return err
		}
	}
	err = admin.Retry(ctx, func() error { return s.dropOwned(ctx, c) })
	if code := admin.SQLState(err); code == admin.DependentObjects || code == admin.OutOfMemory {
		// Others depend on some of it, or it is more than the server can lock at once: piece by piece, then the rest.
		if err := s.dropPieces(ctx, c); err != nil {
			return err
		}
		err = admin.Retry(ctx, func() error { return s.dropOwned(ctx, c) })
	}
	if admin.SQLState(err) == admin.DependentObjects {
		if before, err = s.keep(ctx, c, before); err != nil {
			return err
		}
	}
	if err == nil {
		s.dropped = append(s.dropped, before...)
	}
	return err
}

// keep hands what is left to the quarantine role, and returns what of before is not.
func (s *settlement) keep(ctx context.Context, c *admin.Conn, before []string) ([]string, error) {
	kept, err := s.owned(ctx, c)
	if err != nil {
		return nil, err
	}
	if err := admin.Retry(ctx, func() error { return s.quarantine(ctx, c, s.name, true) }); err != nil {
		return nil, err
	}
	s.kept = append(s.kept, kept...)
	return slices.DeleteFunc(before, func(o string) bool { return slices.Contains(kept, o) }), nil
}

// owned describes the objects that the role owns in this database, for the record.
func (s *settlement) owned(ctx context.Context, c *admin.Conn) ([]string, error) {
	return s.describe(ctx, c, `
		SELECT pg_describe_object(classid, objid, objsubid) FROM pg_shdepend
		 WHERE refclassid = 'pg_authid'::regclass AND refobjid = $1 AND deptype = 'o'
		   AND dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
		   AND pg_describe_object(classid, objid, objsubid) IS NOT NULL
		 ORDER BY 1`)
}

// dropOwned drops what the role owns here and revokes what it was granted. RESTRICT: other people's views and foreign
// keys are not ours to drop. A privilege that somebody else granted is reported as a warning only and would keep the
// role from being dropped.
func (s *settlement) dropOwned(ctx context.Context, c *admin.Conn) error {
	var others bool
	err := c.Exclusively(ctx, func() error {
		c.Warnings()
		_, err := c.Script(ctx, "DROP OWNED BY "+s.name+" RESTRICT")
		others = slices.Contains(c.Warnings(), admin.PrivilegeNotRevoked)
		return err
	})
	if err != nil || !others {
		return err
	}
	// What could be revoked is. The rest was granted by others than the owners, perhaps for us: where somebody has the
	// grant option besides the owner, GRANT may choose him as its grantor and DROP OWNED the owner.
	if err := s.revokeAsGrantors(ctx, c); err != nil {
		return err
	}
	c.Warnings()
	if _, err := c.Script(ctx, "DROP OWNED BY "+s.name+" RESTRICT"); err != nil {
		return err
	}
	if slices.Contains(c.Warnings(), admin.PrivilegeNotRevoked) {
		return s.tombstone(ctx)
	}
	return nil
}

// revokeAsGrantors revokes what the role was granted by roles for which the admin may act.
func (s *settlement) revokeAsGrantors(ctx context.Context, c *admin.Conn) error {
	rows, err := c.Query(ctx, `
		SELECT DISTINCT quote_ident(pg_get_userbyid(x.grantor)), format('REVOKE %s ON %s %s FROM %I CASCADE', x.privilege_type, a.kind, a.target, pg_get_userbyid($1))
		  FROM (SELECT CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind, oid::regclass::text AS target, relacl AS acl FROM pg_class
		        UNION ALL SELECT 'SCHEMA', quote_ident(nspname), nspacl FROM pg_namespace
		        UNION ALL SELECT 'ROUTINE', oid::regprocedure::text, proacl FROM pg_proc
		        UNION ALL SELECT 'DATABASE', quote_ident(datname), datacl FROM pg_database) a,
		       aclexplode(a.acl) x
		 WHERE x.grantee = $1 AND pg_has_role(x.grantor, 'MEMBER')`, s.role.OID)
	if err != nil {
		return err
	}
	type revocation struct{ Grantor, Statement string }
	revocations, err := pgx.CollectRows(rows, pgx.RowToStructByPos[revocation])
	if err != nil {
		return err
	}
	for _, r := range revocations {
		err := c.Transaction(ctx, []string{"SET LOCAL ROLE " + r.Grantor, r.Statement}, func([][][]byte) error { return nil })
		if err != nil && admin.SQLState(err) != admin.InsufficientPrivilege { // left to the tombstone
			return err
		}
	}
	return nil
}

// dropPieces drops the role's objects in batches, the youngest first, since what depends on another is mostly younger. What
// can't be dropped stays.
func (s *settlement) dropPieces(ctx context.Context, c *admin.Conn) error {
	statements, err := s.describe(ctx, c, `
		SELECT CASE o.type WHEN 'large object' THEN 'SELECT lo_unlink(' || d.objid || ')'
		                   WHEN 'statistics object' THEN 'DROP STATISTICS IF EXISTS ' || o.identity
		                   ELSE 'DROP ' || o.type || ' IF EXISTS ' || o.identity END
		  FROM pg_shdepend d, pg_identify_object(d.classid, d.objid, d.objsubid) o
		 WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = $1 AND d.deptype = 'o'
		   AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
		   AND o.type IN ('table', 'view', 'materialized view', 'foreign table', 'sequence', 'function', 'procedure', 'aggregate',
		                  'type', 'schema', 'collation', 'conversion', 'operator', 'statistics object', 'large object',
		                  'text search dictionary', 'text search configuration')
		 ORDER BY d.objid DESC`)
	if err != nil {
		return err
	}
	for batch := range slices.Chunk(statements, dropBatch) {
		if err := dropSome(ctx, c, batch); err != nil {
			return err
		}
	}
	return nil
}

// dropSome halves a batch that can't be dropped as a whole until only what can't be dropped is left.
func dropSome(ctx context.Context, c *admin.Conn, statements []string) error {
	err := admin.Retry(ctx, func() error {
		return c.Transaction(ctx, statements, func([][][]byte) error { return nil })
	})
	switch admin.SQLState(err) {
	case admin.DependentObjects:
		if len(statements) == 1 {
			return nil
		}
	case admin.OutOfMemory:
		if len(statements) == 1 {
			return err
		}
	default:
		return err
	}
	half := len(statements) / 2
	if err := dropSome(ctx, c, statements[:half]); err != nil {
		return err
	}
	return dropSome(ctx, c, statements[half:])
}

// dropOwnerless drops what has no owner and would carry the role's code on: triggers on other people's tables that call
// its functions, which would run with the rights of whoever writes to the table next, and casts of its types.
func (s *settlement) dropOwnerless(ctx context.Context, c *admin.Conn) error {
	statements, err := s.generate(ctx, c, `
		SELECT format('DROP TRIGGER %I ON %I.%I', t.tgname, n.nspname, r.relname)
		  FROM pg_trigger t
		  JOIN pg_proc f ON f.oid = t.tgfoid
		  JOIN pg_class r ON r.oid = t.tgrelid
		  JOIN pg_namespace n ON n.oid = r.relnamespace
		 WHERE f.proowner = $1 AND r.relowner <> $1 AND NOT t.tgisinternal AND t.tgparentid = 0
		UNION ALL
		SELECT format('DROP CAST (%s AS %s)', c.castsource::regtype, c.casttarget::regtype)
		  FROM pg_cast c JOIN pg_type a ON a.oid = c.castsource JOIN pg_type b ON b.oid = c.casttarget
		 WHERE $1 IN (a.typowner, b.typowner)
		   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_cast'::regclass AND d.objid = c.oid AND d.deptype IN ('i', 'e'))`)
	if err != nil || len(statements) == 0 {
		return err
	}
	return c.Transaction(ctx, statements, func([][][]byte) error { return nil })
}

// quarantine hands the role's objects in this database to a role that can't log in and holds nothing, because other
// people's objects depend on them. Functions lose the power to act as their owner and everybody's right to call them
// first, tables their triggers: REASSIGN OWNED to a role with rights is how a tenant would gain them. The new owner
// needs CREATE for the moment.
func (s *settlement) quarantine(ctx context.Context, c *admin.Conn, owner string, dropRest bool) error {
	return c.Exclusively(ctx, func() error {
		keeper, err := ensureQuarantine(ctx, c)
		if err != nil {
			return err
		}
		if err := s.execEach(ctx, c, `
			SELECT statement FROM pg_proc f,
			       LATERAL (SELECT format('%s %s', CASE f.prokind WHEN 'p' THEN 'PROCEDURE' WHEN 'a' THEN 'AGGREGATE' ELSE 'FUNCTION' END, f.oid::regprocedure)) o(object),
			       LATERAL (VALUES ('ALTER ' || object || ' SECURITY INVOKER'), ('REVOKE ALL ON ' || replace(object, 'AGGREGATE', 'FUNCTION') || ' FROM PUBLIC')) v(statement)
			 WHERE f.proowner = $1 AND NOT (f.prokind = 'a' AND statement LIKE 'ALTER%')
			UNION ALL
			SELECT format('DROP TRIGGER %I ON %s', t.tgname, t.tgrelid::regclass) FROM pg_trigger t JOIN pg_class r ON r.oid = t.tgrelid
			 WHERE r.relowner = $1 AND NOT t.tgisinternal AND t.tgparentid = 0`); err != nil {
			return err
		}
		if err := s.execEach(ctx, c, quarantineCreate("GRANT", "TO", keeper)); err != nil {
			return err
		}
		if _, err := c.Script(ctx, "REASSIGN OWNED BY "+owner+" TO "+keeper); err != nil {
			return err
		}
		if dropRest {
			if _, err := c.Script(ctx, "DROP OWNED BY "+owner+" RESTRICT"); err != nil {
				return err
			}
		}
		return s.execEach(ctx, c, quarantineCreate("REVOKE", "FROM", keeper))
	})
}

// quarantineCreate generates the statements that give or take the quarantine role's right to create in this database's
// schemas. $1 is there for generate only.
func quarantineCreate(verb, preposition, keeper string) string {
	return `
		SELECT '` + verb + ` CREATE ON SCHEMA ' || quote_ident(nspname) || ` + admin.QuoteLiteral(" "+preposition+" "+keeper) + `
		  FROM pg_namespace
		 WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' AND pg_has_role(nspowner, 'USAGE') AND $1::oid IS NOT NULL`
}

// ensureQuarantine makes this database's quarantine role and the admin a member of it, and returns its quoted name.
func ensureQuarantine(ctx context.Context, c *admin.Conn) (string, error) {
	name := ledger.DatabaseRole("quarantine", c.Config().Database)
	quoted := admin.QuoteIdentifier(name)
	var exists, member bool
	err := c.QueryOne(ctx, `
		SELECT count(*) > 0, coalesce(bool_or(pg_has_role(oid, 'USAGE')), false) FROM pg_roles WHERE rolname = $1`,
		[]any{name}, &exists, &member)
	if err != nil {
		return "", err
	}
	if !exists {
		if _, err := c.Script(ctx, "CREATE ROLE "+quoted+" NOLOGIN",
			"COMMENT ON ROLE "+quoted+" IS 'Hourgate: owns what ended grants left behind and others depend on; holds no rights'"); err != nil {
			return "", err
		}
	}
	if !member {
		if _, err := c.Script(ctx, c.Join(quoted)); err != nil {
			return "", err
		}
	}
	return quoted, nil
}

// generate runs a query about the role that returns statements.
func (s *settlement) generate(ctx context.Context, c *admin.Conn, query string) ([]string, error) {
	rows, err := c.Query(ctx, query, s.role.OID)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// describe runs a query about the role that describes objects. On version 13 the server reports an internal error about an
// object that somebody else drops meanwhile.
func (s *settlement) describe(ctx context.Context, c *admin.Conn, query string) (described []string, err error) {
	err = admin.Retry(ctx, func() error {
		described, err = s.generate(ctx, c, query)
		return err
	})
	return described, err
}

// execEach runs a query that returns statements, and the statements.
func (s *settlement) execEach(ctx context.Context, c *admin.Conn, query string) error {
	statements, err := s.generate(ctx, c, query)
	if err != nil || len(statements) == 0 {
		return err
	}
	_, err = c.Script(ctx, statements...)
	return err
}
