package settle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/admin"
)

const (
	dropBatch   = 200 // objects of one transaction: each takes several locks, and the server has room for max_locks_per_transaction × max_connections
	dropPasses  = 6   // over what is left, while something of it goes
	pageLimit   = 20000
	pieceLimit  = 200 // pieces that resist which one try names, and waits for
	pieceLock   = "SET LOCAL lock_timeout = '200ms'"
	recordLimit = 100 // objects that one record names
)

// piece is something that could not be removed, and why.
type piece struct {
	What string
	Err  error
}

func (p piece) String() string { return p.What + ": " + p.Err.Error() }

// report is what has become of what was left.
type report struct {
	dropped []string
	kept    []string // handed to the quarantine role because others depend on them
	left    []string // not the tenant's for certain, so not touched
	pieces  []piece  // that resist
}

// resists notes a piece that could not be removed.
func (r *report) resists(what string, err error) {
	if len(r.pieces) < pieceLimit {
		r.pieces = append(r.pieces, piece{what, err})
	}
}

// try notes an error under what was being done, and goes on.
func (r *report) try(what string, err error) {
	if err != nil {
		r.resists(what, err)
	}
}

// estate is what one role left in the databases: the ephemeral role, or a group with which its members left things.
type estate struct {
	*report
	st   *Settler
	oid  uint32
	name string // quoted
	all  bool   // what the role was granted goes too, since the role goes

	tenants bool  // nobody else can have made what it owns
	others  ender // of a group whose last member of ours ends; nil in a sweep
}

// clear removes what the role left in c's database, piece by piece, past every piece that resists.
func (s *estate) clear(ctx context.Context, c *admin.Conn) {
	if s.all {
		s.try("privileges", s.revokeGranted(ctx, c))
		s.disarm(ctx, c, false)
	}
	s.defuse(ctx, c)
	s.try("large objects", s.unlink(ctx, c))
	s.try("triggers, casts and user mappings", s.dropOwnerless(ctx, c))
	before, err := owned(ctx, c, s.oid, pageLimit)
	if err != nil {
		s.resists("objects in database "+c.Config().Database, err)
		return
	}
	if s.all && len(before) <= dropBatch {
		// All at once, which also gets past objects of the role that depend on each other in a circle.
		if err := s.dropAtOnce(ctx, c); err == nil {
			s.gone(before, nil)
			return
		}
	}
	ordered, needed, circles, err := s.untangle(ctx, c, before)
	if err != nil {
		s.resists("the order of objects in database "+c.Config().Database, err)
		return
	}
	after, errs := s.dropPieces(ctx, c, ordered)
	if !s.all { // else DROP OWNED takes those in a circle
		needed = append(needed, circles...)
	}
	after, errs = append(after, needed...), append(errs, slices.Repeat([]error{errNeeded}, len(needed))...)
	s.gone(before, after)
	s.quarantineSome(ctx, c, after, errs)
	if !s.all || slices.ContainsFunc(errs, func(err error) bool { return err != nil }) {
		return
	}
	// Nothing is owned any more but what depends on each other: what is left are privileges, default privileges and policies that
	// name the role.
	s.try("privileges in database "+c.Config().Database, s.dropOwned(ctx, c))
}

// quarantineSome hands over those of the objects that others depend on, and sets their errors to what became of that. Extensions
// are the last: what gives them away gives all that the role still owns.
func (s *estate) quarantineSome(ctx context.Context, c *admin.Conn, left []object, errs []error) {
	try := func(extensions bool) (resisting int) {
		for i, o := range left {
			if (o.Type == "extension") != extensions {
				continue
			}
			if (errors.Is(errs[i], errNeeded) || admin.SQLState(errs[i]) == pgerrcode.DependentObjectsStillExist) && o.givable() {
				if errs[i] = s.quarantine(ctx, c, o); errs[i] == nil {
					s.kept = append(s.kept, o.String())
				}
			}
			if errs[i] != nil {
				resisting++
				s.resists(o.String(), errs[i])
			}
		}
		return resisting
	}
	if try(false) == 0 {
		try(true)
		return
	}
	for i, o := range left {
		if o.Type == "extension" {
			s.try(o.String(), errs[i])
		}
	}
}

// gone notes what of before is not in after.
func (s *estate) gone(before, after []object) {
	still := make(map[uint32]bool)
	for _, o := range after {
		still[o.OID] = true
	}
	for _, o := range before {
		if !still[o.OID] {
			s.dropped = append(s.dropped, o.String())
		}
	}
}

// dropPieces drops objects in batches, as often as that gets further, and returns what is left and why.
func (s *estate) dropPieces(ctx context.Context, c *admin.Conn, all []object) (left []object, errs []error) {
	left = all
	for pass := 1; pass <= dropPasses && len(left) > 0; pass++ {
		count := len(left)
		var next []object
		errs = nil
		for batch := range slices.Chunk(left, dropBatch) {
			rest, why := s.dropSome(ctx, c, batch)
			next, errs = append(next, rest...), append(errs, why...)
		}
		if left = next; len(left) == count {
			break
		}
	}
	return left, errs
}

// dropSome halves a batch that can't be dropped as a whole until what can't be dropped is alone.
func (s *estate) dropSome(ctx context.Context, c *admin.Conn, batch []object) (left []object, errs []error) {
	statements := []string{pieceLock}
	for _, o := range batch {
		statements = append(statements, o.drop())
	}
	err := c.Transaction(ctx, statements, func([][][]byte) error { return nil })
	switch {
	case err == nil:
		return nil, nil
	case len(batch) == 1 && admin.SQLState(err) == pgerrcode.InsufficientPrivilege:
		if err = trespass(ctx, c, statements...); err == nil {
			return nil, nil
		}
		return batch, []error{s.st.told(err)}
	case len(batch) == 1:
		return batch, []error{s.st.told(err)}
	case ctx.Err() != nil || c.IsClosed():
		return batch, slices.Repeat([]error{err}, len(batch))
	}
	left, errs = s.dropSome(ctx, c, batch[:len(batch)/2])
	rest, why := s.dropSome(ctx, c, batch[len(batch)/2:])
	return append(left, rest...), append(errs, why...)
}

// unlink drops the role's large objects. There may be millions, so the server keeps the list, which it makes once: a search for
// the next few would go through all of them each time.
func (s *estate) unlink(ctx context.Context, c *admin.Conn) (err error) {
	const fetch = "FETCH 500 FROM hourgate_large" // each takes a lock, as in dropBatch
	numbers, err := c.Script(ctx, fmt.Sprintf(`
		DECLARE hourgate_large CURSOR WITH HOLD FOR SELECT objid FROM pg_shdepend
		 WHERE refclassid = 'pg_authid'::regclass AND refobjid = %d AND deptype = 'o' AND classid = 'pg_largeobject'::regclass
		   AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())`, s.oid), fetch)
	if err != nil {
		return s.st.told(err)
	}
	defer func() {
		if !c.IsClosed() {
			_, closeErr := c.Script(context.WithoutCancel(ctx), "CLOSE hourgate_large")
			err = errors.Join(err, closeErr)
		}
	}()
	total := 0
	for len(numbers) > 0 {
		batch := make([]string, len(numbers))
		for i, row := range numbers {
			batch[i] = string(row[0])
		}
		n, err := s.unlinkSome(ctx, c, batch)
		if total += n; err != nil {
			return err
		}
		if numbers, err = c.Script(ctx, fetch); err != nil {
			return err
		}
	}
	if total > 0 {
		s.dropped = append(s.dropped, fmt.Sprintf("%d large objects", total))
	}
	return nil
}

// unlinkSome halves a batch of large objects, which the server has numbered, until what can't be dropped is alone.
func (s *estate) unlinkSome(ctx context.Context, c *admin.Conn, batch []string) (dropped int, err error) {
	statement := "SELECT lo_unlink(n) FROM unnest('{" + strings.Join(batch, ",") + "}'::oid[]) n"
	err = c.Transaction(ctx, []string{pieceLock, statement}, func([][][]byte) error { return nil })
	switch {
	case err == nil:
		return len(batch), nil
	case ctx.Err() != nil || c.IsClosed() || admin.SQLState(err) == pgerrcode.SyntaxError:
		return 0, s.st.told(err)
	case len(batch) == 1 && admin.SQLState(err) == pgerrcode.UndefinedObject: // somebody else was quicker
		return 0, nil
	case len(batch) == 1:
		s.resists("large object "+batch[0], err)
		return 0, nil
	}
	half := len(batch) / 2
	dropped, err = s.unlinkSome(ctx, c, batch[:half])
	if err != nil {
		return dropped, err
	}
	n, err := s.unlinkSome(ctx, c, batch[half:])
	return dropped + n, err
}

// dropOwnerless drops triggers on other people's tables that call the role's functions, which would run with the rights of
// whoever writes to the table next, casts of its types, and user mappings for its foreign servers.
func (s *estate) dropOwnerless(ctx context.Context, c *admin.Conn) error {
	all, err := ownerless(ctx, c, s.oid)
	if err != nil {
		return err
	}
	left, errs := s.dropPieces(ctx, c, all)
	s.gone(all, left)
	for i, o := range left {
		s.resists(o.String(), errs[i])
	}
	return nil
}

// revokeGranted takes the privileges that the role holds itself: CREATE on schemas, and what a DBA granted it.
func (s *estate) revokeGranted(ctx context.Context, c *admin.Conn) error {
	statements, err := granted(ctx, c, s.oid, s.name)
	if err != nil || len(statements) == 0 {
		return err
	}
	run := func(statements ...string) error {
		return admin.Retry(ctx, func() error {
			return c.Exclusively(ctx, func() error { _, err := c.Script(ctx, statements...); return err })
		})
	}
	if run(statements...) != nil {
		for _, statement := range statements {
			if err := run(statement); err != nil && admin.SQLState(err) != pgerrcode.InsufficientPrivilege { // which DROP OWNED tells
				s.resists("a privilege", s.st.told(err))
			}
		}
	}
	// A privilege that somebody else granted than REVOKE takes for its grantor is still there, without a word.
	if statements, err = granted(ctx, c, s.oid, s.name); err != nil || len(statements) == 0 {
		return err
	}
	return s.revokeAsGrantors(ctx, c)
}

// dropAtOnce drops what the role owns here if nobody is in the way.
func (s *estate) dropAtOnce(ctx context.Context, c *admin.Conn) error {
	c.Warnings()
	err := c.Transaction(ctx, []string{pieceLock, "DROP OWNED BY " + s.name + " RESTRICT"}, func([][][]byte) error { return nil })
	if err == nil && slices.Contains(c.Warnings(), pgerrcode.PrivilegeNotRevoked) {
		err = errGrantedByOthers
	}
	return err
}

// dropOwned drops what the role owns here and revokes what it was granted. RESTRICT: other people's views and foreign
// keys are not ours to drop. A privilege that somebody else granted is reported as a warning only and would keep the
// role from being dropped.
func (s *estate) dropOwned(ctx context.Context, c *admin.Conn) error {
	var others bool
	drop := func() error {
		c.Warnings()
		_, err := c.Script(ctx, "DROP OWNED BY "+s.name+" RESTRICT")
		others = slices.Contains(c.Warnings(), pgerrcode.PrivilegeNotRevoked)
		return err
	}
	err := admin.Retry(ctx, func() error { return c.Exclusively(ctx, drop) })
	if err != nil || !others {
		return s.st.told(err)
	}
	// What could be revoked is. The rest was granted by others than the owners, perhaps for us: where somebody has the
	// grant option besides the owner, GRANT may choose him as its grantor and DROP OWNED the owner.
	if err := s.revokeAsGrantors(ctx, c); err != nil {
		return err
	}
	if err := drop(); err != nil {
		return err
	}
	if others {
		return errGrantedByOthers
	}
	return nil
}

// revokeAsGrantors revokes what the role was granted by roles for which the admin may act.
func (s *estate) revokeAsGrantors(ctx context.Context, c *admin.Conn) error {
	type revocation struct{ Grantor, Privilege, Kind, Target string }
	rows, err := c.Query(ctx, `
		SELECT DISTINCT pg_get_userbyid(x.grantor)::text, x.privilege_type, a.kind, a.target
		  FROM (SELECT CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind, oid::regclass::text AS target, relacl AS acl FROM pg_class
		        UNION ALL SELECT 'SCHEMA', quote_ident(nspname), nspacl FROM pg_namespace
		        UNION ALL SELECT 'ROUTINE', CASE prokind WHEN 'p' THEN format('%s.%I(%s)', pronamespace::regnamespace, proname, pg_get_function_identity_arguments(oid))
		                                                    ELSE oid::regprocedure::text END, proacl FROM pg_proc
		        UNION ALL SELECT 'DATABASE', quote_ident(datname), datacl FROM pg_database) a,
		       aclexplode(a.acl) x
		 WHERE x.grantee = $1 AND pg_has_role(x.grantor, 'MEMBER')`, s.oid)
	if err != nil {
		return err
	}
	revocations, err := pgx.CollectRows(rows, pgx.RowToStructByPos[revocation])
	if err != nil {
		return err
	}
	for _, r := range revocations {
		err := c.Transaction(ctx, []string{
			"SET LOCAL ROLE " + admin.QuoteIdentifier(r.Grantor),
			fmt.Sprintf("REVOKE %s ON %s %s FROM %s CASCADE", r.Privilege, r.Kind, r.Target, s.name),
		}, func([][][]byte) error { return nil })
		if err != nil && admin.SQLState(err) != pgerrcode.InsufficientPrivilege { // left to the tombstone
			return err
		}
	}
	return nil
}

// capped keeps a tenant with thousands of objects from filling the trail.
func capped(names []string) []string {
	if len(names) <= recordLimit {
		return names
	}
	return append(slices.Clone(names[:recordLimit]), fmt.Sprintf("and %d more", len(names)-recordLimit))
}
