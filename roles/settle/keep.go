package settle

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/roles/ledger"
)

// A grant with keep_objects_as hands tables, views, sequences and types that the tenant owns to another role when it ends,
// if nothing in or on them would run the tenant's code with that role's rights or be a right of somebody else's; see
// keep.sql. What is not handed over is dropped or quarantined like everything else.

//go:embed sql/keep.sql
var keepSQL string

// keepBatch bounds the objects of one transaction, unless they hang together.
const keepBatch = 100

// keepable is a row of keep.sql.
type keepable struct {
	OID                             uint32
	Kind, Identity, Schema, Problem string
	Needs                           []uint32
}

// keeping hands over what the role owns in the database of c.
type keeping struct {
	c      *admin.Conn
	role   ledger.Role
	owner  string // quoted: who gets it
	oid    uint32 // of the owner
	handed []string
}

// keepObjects hands what the role owns in the database that c is connected to, and that may be handed over, to the role
// that its grant keeps it for, and says what that was. After an error nothing that can be handed over may be dropped: it
// is to be tried again.
func keepObjects(ctx context.Context, c *admin.Conn, role ledger.Role) (handed []string, err error) {
	if role.Entry.Keep == "" {
		return nil, nil
	}
	k := &keeping{c: c, role: role, owner: admin.QuoteIdentifier(role.Entry.Keep)}
	err = c.QueryOne(ctx, "SELECT oid FROM pg_roles WHERE rolname = $1 AND NOT rolsuper", []any{role.Entry.Keep}, &k.oid)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil // nobody to keep it for any more
	}
	if err != nil {
		return nil, err
	}
	if err := k.revoke(ctx); err != nil {
		return nil, fmt.Errorf("taking other people's rights: %w", err)
	}
	all, err := k.owned(ctx)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, batch := range batches(harmless(all)) {
		errs = append(errs, k.hand(ctx, batch))
	}
	return k.handed, errors.Join(errs...)
}

// owned judges all that the role owns.
func (k *keeping) owned(ctx context.Context) ([]keepable, error) {
	rows, err := k.c.Query(ctx, `
		SELECT c.oid FROM pg_class c WHERE c.relowner = $1 AND c.relkind IN ('r', 'v', 'S', 'p', 'm', 'f') AND c.relpersistence <> 't'
		   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')
		                      AND d.refclassid = 'pg_class'::regclass AND c.relkind = 'S')
		UNION ALL
		SELECT t.oid FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid
		 WHERE t.typowner = $1 AND (t.typtype IN ('e', 'd', 'r') OR c.relkind = 'c') AND t.typnamespace NOT IN (SELECT oid FROM pg_namespace WHERE nspname ~ '^pg_temp')`,
		k.role.OID)
	if err != nil {
		return nil, err
	}
	oids, err := pgx.CollectRows(rows, pgx.RowTo[uint32])
	if err != nil || len(oids) == 0 {
		return nil, err
	}
	return k.judge(ctx, oids)
}

func (k *keeping) judge(ctx context.Context, oids []uint32) ([]keepable, error) {
	rows, err := k.c.Query(ctx, keepSQL, oids, k.oid)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[keepable])
}

// harmless are those of all that may go: without a problem, and with everything that they need.
func harmless(all []keepable) []keepable {
	for {
		going := make(map[uint32]bool, len(all))
		for _, o := range all {
			going[o.OID] = o.Problem == ""
		}
		kept := slices.DeleteFunc(slices.Clone(all), func(o keepable) bool {
			return !going[o.OID] || slices.ContainsFunc(o.Needs, func(oid uint32) bool { return !going[oid] })
		})
		if len(kept) == len(all) {
			return kept
		}
		all = kept
	}
}

// batches puts together what has to go together, and otherwise as much as one transaction takes.
func batches(all []keepable) [][]keepable {
	group := make(map[uint32]uint32, len(all)) // to one of the same group, itself for its first
	var first func(uint32) uint32
	first = func(oid uint32) uint32 {
		if group[oid] != oid {
			group[oid] = first(group[oid])
		}
		return group[oid]
	}
	for _, o := range all {
		group[o.OID] = o.OID
	}
	for _, o := range all {
		for _, need := range o.Needs {
			group[first(o.OID)] = first(need)
		}
	}
	members := make(map[uint32][]keepable)
	var order []uint32
	for _, o := range all {
		g := first(o.OID)
		if members[g] == nil {
			order = append(order, g)
		}
		members[g] = append(members[g], o)
	}
	var out [][]keepable
	for _, g := range order {
		if last := len(out) - 1; last >= 0 && len(out[last])+len(members[g]) <= keepBatch {
			out[last] = append(out[last], members[g]...)
			continue
		}
		out = append(out, members[g])
	}
	return out
}

// hand gives a batch to its new owner. What somebody holds a lock on stays behind alone.
func (k *keeping) hand(ctx context.Context, batch []keepable) error {
	err := admin.Retry(ctx, func() error { return k.handAll(ctx, batch) })
	switch groups := separable(batch); {
	case err == nil:
		for _, o := range batch {
			k.handed = append(k.handed, o.Kind+" "+o.Identity)
		}
		return nil
	case errors.Is(err, errNotHarmless):
		return nil // changed since it was judged: it is dropped, with what needed it
	case len(groups) > 1:
		half := len(groups) / 2
		return errors.Join(k.hand(ctx, slices.Concat(groups[:half]...)), k.hand(ctx, slices.Concat(groups[half:]...)))
	}
	return fmt.Errorf("keeping %s: %w", batch[0].Identity, err)
}

// separable are the groups of a batch that don't need each other.
func separable(batch []keepable) [][]keepable {
	var out [][]keepable
	for _, o := range batch {
		joined := [][]keepable{{o}}
		rest := out[:0]
		for _, group := range out {
			if slices.ContainsFunc(group, func(m keepable) bool {
				return slices.Contains(m.Needs, o.OID) || slices.Contains(o.Needs, m.OID)
			}) {
				joined = append(joined, group)
			} else {
				rest = append(rest, group)
			}
		}
		out = append(rest, slices.Concat(joined...))
	}
	return out
}

var errNotHarmless = errors.New("an object has changed since it was judged")

// handAll is one transaction. It judges again what has its new owner, since the change of owner is what locks it: an
// accomplice may have put something onto a table until then.
func (k *keeping) handAll(ctx context.Context, batch []keepable) error {
	own, err := k.ownSchema(ctx, batch)
	if err != nil {
		return err
	}
	statements := own
	oids := make([]uint32, len(batch))
	for i, o := range batch {
		oids[i] = o.OID
		statements = append(statements, fmt.Sprintf("ALTER %s %s OWNER TO %s", o.Kind, o.Identity, k.owner))
	}
	return k.c.Transaction(ctx, statements, func([][][]byte) error {
		again, err := k.judge(ctx, oids)
		if err == nil && len(harmless(again)) != len(batch) {
			err = errNotHarmless
		}
		return err
	})
}

// ownSchema are the statements that hand over the schema that was made for the role, if something in it is kept. The new
// owner could not own anything there otherwise.
func (k *keeping) ownSchema(ctx context.Context, batch []keepable) ([]string, error) {
	name := admin.QuoteIdentifier(k.role.Name)
	var owns bool
	err := k.c.QueryOne(ctx, "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1 AND nspowner = $2)", []any{k.role.Name, k.role.OID}, &owns)
	if err != nil || !owns || !slices.ContainsFunc(batch, func(o keepable) bool { return o.Schema == name || o.Schema == k.role.Name }) {
		return nil, err
	}
	return []string{"ALTER SCHEMA " + name + " OWNER TO " + k.owner}, nil
}

// revoke takes what the tenant gave to others on what it owns: an accomplice with TRIGGER on a table that is kept would
// put code there, and others would go on reading it.
func (k *keeping) revoke(ctx context.Context) error {
	rows, err := k.c.Query(ctx, `
		WITH grants AS (
			SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind, c.oid::regclass::text AS target, x.grantee, '' AS columns
			  FROM pg_class c, aclexplode(c.relacl) x WHERE c.relowner = $1 AND c.relkind IN ('r', 'v', 'S', 'p', 'm', 'f')
			UNION SELECT 'TABLE', c.oid::regclass::text, x.grantee, '(' || quote_ident(a.attname) || ')'
			  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid, aclexplode(a.attacl) x WHERE c.relowner = $1
			UNION SELECT 'TYPE', t.oid::regtype::text, x.grantee, '' FROM pg_type t, aclexplode(t.typacl) x
			 WHERE t.typowner = $1 AND t.typtype IN ('e', 'd', 'r') AND x.grantee <> 0
			UNION SELECT 'SCHEMA', quote_ident(n.nspname), x.grantee, '' FROM pg_namespace n, aclexplode(n.nspacl) x WHERE n.nspowner = $1
		)
		SELECT format('REVOKE ALL %s ON %s %s FROM %s CASCADE', columns, kind, target, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END)
		  FROM grants WHERE grantee <> $1 AND (grantee = 0 OR EXISTS (SELECT FROM pg_roles WHERE oid = grantee)) ORDER BY 1`, k.role.OID)
	if err != nil {
		return err
	}
	statements, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for batch := range slices.Chunk(statements, dropBatch) {
		err := admin.Retry(ctx, func() error {
			return k.c.Transaction(ctx, batch, func([][][]byte) error { return nil })
		})
		if err != nil {
			return err
		}
	}
	return nil
}
