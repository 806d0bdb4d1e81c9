package settle

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/roles/ledger"
)

// kindQuarantine is in the names of quarantine roles.
const kindQuarantine = "quarantine"

// disarm makes powerless what the role owns in c's database, before it is removed, which may have to wait for somebody's lock.
func (s *estate) disarm(ctx context.Context, c *admin.Conn, routines bool) {
	list, err := armed(ctx, c, s.oid, routines)
	if err != nil {
		s.resists("rights to what "+s.name+" owns", err)
		return
	}
	for batch := range slices.Chunk(list, dropBatch) {
		run := func(statements ...string) error {
			return c.Transaction(ctx, append([]string{pieceLock}, statements...), func([][][]byte) error { return nil })
		}
		if run(batch...) == nil {
			continue
		}
		for _, statement := range batch {
			err := s.unblocked(ctx, c, func() error { return run(statement) })
			if admin.SQLState(err) == pgerrcode.InsufficientPrivilege {
				err = trespass(ctx, c, pieceLock, statement)
				if s.all && admin.SQLState(err) == pgerrcode.InsufficientPrivilege {
					continue // the role has no power to lend, and what can't be dropped either is named then
				}
			}
			if code := admin.SQLState(err); err != nil && code != pgerrcode.UndefinedTable && code != pgerrcode.UndefinedFunction {
				s.resists("rights to what "+s.name+" owns", s.st.told(err))
			}
		}
	}
}

// trespass runs statements about an object that is, or has arguments, in a schema where the admin may not look: SQL finds nothing
// there by name. Before 16 the admin becomes a member of such schemas' owners for the transaction; later it may not.
func trespass(ctx context.Context, c *admin.Conn, list ...string) error {
	owners, err := statements(ctx, c, pgx.RowTo[string], `
		SELECT DISTINCT quote_ident(r.rolname) FROM pg_namespace n JOIN pg_roles r ON r.oid = n.nspowner
		 WHERE NOT has_schema_privilege(n.oid, 'USAGE') AND NOT r.rolsuper AND current_setting('server_version_num')::int < 160000`)
	if err != nil {
		return err
	}
	var join, leave []string
	for _, owner := range owners {
		join, leave = append(join, c.Join(owner)), append(leave, "REVOKE "+owner+" FROM CURRENT_USER")
	}
	return c.Transaction(ctx, slices.Concat(join, list, leave), func([][][]byte) error { return nil })
}

// disarmOne takes from an object the power to act for its owner, and everybody's right to it.
func disarmOne(ctx context.Context, c *admin.Conn, o object) error {
	on := o.grantedOn()
	if on == "" {
		return nil
	}
	others, err := grantees(ctx, c, o)
	if err != nil {
		return err
	}
	var list []string
	if o.routine() && o.Type != "aggregate" { // an aggregate acts as whoever calls it
		list = append(list, "ALTER ROUTINE "+o.Identity+" SECURITY INVOKER")
	}
	for _, who := range others {
		list = append(list, fmt.Sprintf("REVOKE ALL ON %s %s FROM %s CASCADE", on, o.Identity, who))
	}
	if len(list) == 0 {
		return nil
	}
	_, err = c.Script(ctx, list...)
	return err
}

// disarmNow is disarmOne without waiting for those who change privileges at the same time, past who holds the object's row.
func (s *estate) disarmNow(ctx context.Context, c *admin.Conn, o object) error {
	return s.unblocked(ctx, c, func() error {
		return c.Transaction(ctx, []string{pieceLock}, func([][][]byte) error { return disarmOne(ctx, c, o) })
	})
}

// quarantine hands an object to a role that can't log in and holds nothing, because other people's objects depend on it.
// Functions lose the power to act as their owner and everybody's right to call them first, tables their triggers and everybody's
// rights: what hangs on a table runs with the rights of whoever uses it. The new owner needs CREATE for the moment.
func (s *estate) quarantine(ctx context.Context, c *admin.Conn, o object) error {
	err := admin.Retry(ctx, func() error {
		return c.Exclusively(ctx, func() error { return s.hand(ctx, c, o) })
	})
	return s.st.told(err)
}

func (s *estate) hand(ctx context.Context, c *admin.Conn, o object) error {
	keeper, err := ensureQuarantine(ctx, c)
	if err != nil {
		return err
	}
	if err := disarmOne(ctx, c, o); err != nil {
		return err
	}
	if s.tenants && o.routine() {
		list, err := s.defusing(ctx, c, o.OID)
		if err == nil && len(list) > 0 {
			_, err = c.Script(ctx, list...)
		}
		if err != nil {
			return err
		}
	}
	if o.relation() {
		if err := unhook(ctx, c, o); err != nil {
			return err
		}
	}
	creates, err := statements(ctx, c, pgx.RowTo[string], `
		SELECT quote_ident(nspname) FROM pg_namespace
		 WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' AND pg_has_role(nspowner, 'USAGE')`)
	if err != nil {
		return err
	}
	var list, after []string
	for _, schema := range creates {
		list = append(list, "GRANT CREATE ON SCHEMA "+schema+" TO "+keeper)
		after = append(after, "REVOKE CREATE ON SCHEMA "+schema+" FROM "+keeper)
	}
	rename, err := s.rename(ctx, c, o)
	if err != nil {
		return err
	}
	_, err = c.Script(ctx, slices.Concat(list, []string{o.give(s.name, keeper)}, rename, after)...)
	return err
}

// rename is what takes a tenant's object, which has been given away, out of the way of other people's in the same schema: a name there
// can come before one that others mean, and would mean something that nobody may use.
func (s *estate) rename(ctx context.Context, c *admin.Conn, o object) ([]string, error) {
	if !s.tenants {
		return nil, nil
	}
	identity := o.Identity
	return statements(ctx, c, func(row pgx.CollectableRow) (string, error) {
		var kind, name string
		err := row.Scan(&kind, &name)
		return "ALTER " + kind + " " + identity + " RENAME TO " + admin.QuoteIdentifier(name), err
	}, `
		SELECT s.kind, 'hourgate_quarantined_' || $2::oid
		  FROM (SELECT 'ROUTINE', pronamespace FROM pg_proc WHERE oid = $2 AND $1::oid = 'pg_proc'::regclass
		        UNION ALL SELECT CASE relkind WHEN 'c' THEN 'TYPE' ELSE 'TABLE' END, relnamespace FROM pg_class WHERE oid = $2 AND $1 = 'pg_class'::regclass
		        UNION ALL SELECT CASE typtype WHEN 'd' THEN 'DOMAIN' ELSE 'TYPE' END, typnamespace FROM pg_type WHERE oid = $2 AND $1 = 'pg_type'::regclass) s(kind, nsp)
		  JOIN pg_namespace n ON n.oid = s.nsp WHERE n.nspname !~ '^(hg_|pg_)' AND has_schema_privilege(n.oid, 'CREATE')`, o.Class, o.OID)
}

// unhook drops what people made to run when a relation is written to, and foreign keys by which it keeps others from theirs.
func unhook(ctx context.Context, c *admin.Conn, o object) error {
	triggers, err := objects(ctx, c, `
		SELECT 'pg_trigger'::regclass::oid, t.oid, i.type, i.identity FROM pg_trigger t, pg_identify_object('pg_trigger'::regclass, t.oid, 0) i
		 WHERE t.tgrelid = $1 AND NOT t.tgisinternal AND t.tgparentid = 0`, o.OID)
	if err != nil {
		return err
	}
	list, err := statements(ctx, c, func(row pgx.CollectableRow) (string, error) {
		var name string
		err := row.Scan(&name)
		return "ALTER TABLE " + o.Identity + " DROP CONSTRAINT " + admin.QuoteIdentifier(name), err
	}, `
		SELECT k.conname::text FROM pg_constraint k JOIN pg_class r ON r.oid = k.conrelid JOIN pg_class t ON t.oid = k.confrelid
		 WHERE k.contype = 'f' AND k.conrelid = $1 AND k.conparentid = 0 AND t.relowner <> r.relowner`, o.OID)
	if err != nil {
		return err
	}
	for _, t := range triggers {
		list = append(list, t.drop())
	}
	if len(list) == 0 {
		return nil
	}
	_, err = c.Script(ctx, list...)
	return err
}

// ensureQuarantine makes this database's quarantine role and the admin a member of it, and returns its quoted name.
func ensureQuarantine(ctx context.Context, c *admin.Conn) (string, error) {
	name := ledger.DatabaseRole(kindQuarantine, c.Config().Database)
	quoted := admin.QuoteIdentifier(name)
	var member bool
	err := c.QueryOne(ctx, "SELECT pg_has_role(oid, 'USAGE') FROM pg_roles WHERE rolname = $1", []any{name}, &member)
	if errors.Is(err, pgx.ErrNoRows) {
		_, err = c.Script(ctx, "CREATE ROLE "+quoted+" NOLOGIN",
			"COMMENT ON ROLE "+quoted+" IS 'Hourgate: owns what ended grants left behind and others depend on; holds no rights'")
	}
	if err == nil && !member {
		_, err = c.Script(ctx, c.Join(quoted))
	}
	return quoted, err
}
