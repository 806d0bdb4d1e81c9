package settle

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/roles/ledger"
)

//go:embed sql/inventory.sql
var inventorySQL string

const (
	roleTries   = 6  // of clearing and DROP ROLE, while new dependencies show up
	heldByLimit = 20 // objects that a tombstone names
)

// errAtOnce says that another try need not wait.
var errAtOnce = errors.New("what was in the way is gone")

var errGrantedByOthers = errors.New("somebody for whom the admin may not act has granted it")

// settlement removes what one role left, over one admin connection, after its power was taken. Every step is idempotent, so a
// try that was cut off anywhere is simply begun again.
type settlement struct {
	estate
	c         *admin.Conn
	end       *end
	role      ledger.Role
	groups    []string // profiles and named roles that it was a member of
	inventory inventory
	handed    []string // to the role that the grant keeps it for
}

// inventory is what there is to do besides dropping the role; see inventory.sql.
type inventory struct {
	Prepared bool
	Depends  bool     // objects or privileges
	Handed   bool     // a group owns something, or has settings
	Others   []string // databases with transactions of others that began before the end
}

func newSettlement(st *Settler, c *admin.Conn, e *end) *settlement {
	s := &settlement{c: c, end: e, role: e.role, estate: estate{report: &report{}, st: st, oid: e.role.OID, all: true, tenants: true}}
	if e.name != "" && e.name != s.role.Name {
		s.dropped = append(s.dropped, "the name "+e.name+", which somebody gave the role")
		s.role.Name = e.name
	}
	s.name = admin.QuoteIdentifier(s.role.Name)
	for _, name := range e.groupNames() {
		if ledger.IsProfile(name) { // of other roles only those that owned nothing when the role was made their member
			s.groups = append(s.groups, name)
		}
	}
	s.groups = append(s.groups, e.role.Entry.Roles...)
	return s
}

// run removes what is left, in the order that was verified against tenants who try to stay. Whatever resists is passed and
// named. The role is dropped last, and only if nothing resists.
func (s *settlement) run(ctx context.Context) (err error) {
	if s.end.gone {
		return s.goneAlready()
	}
	if s.end.err != nil && s.end.name == "" {
		return s.end.err // the server could not even be asked
	}
	if was := s.c.Acting; !s.end.may && s.c.Version >= 160000 && was != s.c.Login {
		if err := s.c.Act(ctx, s.c.Login); err != nil {
			return err
		}
		defer func() {
			if !s.c.IsClosed() {
				err = errors.Join(err, s.c.Act(context.WithoutCancel(ctx), was))
			}
		}()
	}
	s.try("sessions of who was a member of the role", s.endGuests(ctx)) // before stock is taken: they may make things as its profile
	if err := s.takeStock(ctx); err != nil {
		return errors.Join(s.end.err, err)
	}
	s.endOthers(ctx)
	if s.inventory.Prepared {
		s.try("prepared transactions", s.rollbackPrepared(ctx))
		if s.end.err != nil && len(s.dropped) > 0 {
			return errors.Join(s.end.err, errAtOnce) // one of them may have held the role's row
		}
	}
	s.tidyGroups(ctx)
	s.scrubGroups(ctx)
	if s.inventory.Depends {
		s.try("subscriptions", s.dropSubscriptions(ctx)) // after what has power, since the server may call the publisher
	}
	for try := 1; ; try++ {
		if s.inventory.Depends || try > 1 {
			if err := s.clearAll(ctx); err != nil {
				return errors.Join(s.end.err, err)
			}
		}
		if s.end.err != nil || len(s.pieces) > 0 {
			return s.resisting(ctx)
		}
		err := s.drop(ctx)
		switch {
		case err == nil:
			return s.verify(ctx)
		case admin.SQLState(err) == pgerrcode.UndefinedObject: // dropped by somebody else meanwhile, such as another proxy's sweep
			return s.goneAlready()
		case admin.SQLState(err) != pgerrcode.DependentObjectsStillExist && !admin.Transient(err):
			return fmt.Errorf("dropping role %s: %w", s.role.Name, err)
		case try == roleTries:
			s.resists("the role", err)
			return s.resisting(ctx)
		}
	}
}

// goneAlready is for a role that somebody else dropped. Its sessions were terminated all the same.
func (s *settlement) goneAlready() error {
	return s.st.append(s.st.record(audit.RoleSettled, s.role, func(r *audit.Record) {
		r.Cause, r.SessionsTerminated = "gone already", s.end.terminated
	}))
}

// takeStock learns what the role left.
func (s *settlement) takeStock(ctx context.Context) error {
	if err := s.recall(ctx); err != nil {
		return err
	}
	if err := s.reach(ctx); err != nil {
		return err
	}
	rows, err := s.c.Query(ctx, inventorySQL, s.oid, s.groups, s.end.closed, s.rights())
	if err == nil {
		s.inventory, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[inventory])
	}
	return err
}

// recall takes all profiles of this database for the role's where nobody knows which ones were: each role has one until it is powerless,
// and a gate that was killed came that far.
func (s *settlement) recall(ctx context.Context) error {
	if slices.ContainsFunc(s.groups, ledger.IsProfile) {
		return nil
	}
	profiles, err := statements(ctx, s.c, pgx.RowTo[string], `
		SELECT rolname::text FROM pg_roles r
		 WHERE rolname ~ $1 AND EXISTS (SELECT FROM pg_shdepend d JOIN pg_database b ON b.oid = d.dbid
		                                 WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = r.oid AND b.datname = current_database())`, ledger.ProfilePattern)
	s.groups = append(s.groups, profiles...)
	return err
}

// reach adds to the groups what the named roles are members of: the tenant could act as these, too, or was as good as their owner.
func (s *settlement) reach(ctx context.Context) error {
	if len(s.role.Entry.Roles) == 0 {
		return nil
	}
	more, err := statements(ctx, s.c, pgx.RowTo[string], `
		WITH RECURSIVE reach(oid) AS (
			SELECT oid FROM pg_roles WHERE rolname = ANY ($1)
			UNION SELECT m.roleid FROM pg_auth_members m JOIN reach ON m.member = reach.oid
		)
		SELECT rolname::text FROM reach JOIN pg_roles USING (oid) WHERE rolname <> ALL ($1) AND rolname <> ALL ($2) AND NOT rolsuper AND rolname !~ '^(pg_|rds)'`,
		s.role.Entry.Roles, s.groups)
	s.groups = append(s.groups, more...)
	return err
}

func (s *settlement) in(ctx context.Context, database string, fn func(*admin.Conn) error) error {
	return s.st.beside(s.c)(ctx, database, fn)
}

// clearAll removes what the role owns and what it was granted, in every database where the server knows of something. A
// database that can't be reached does not keep the others waiting.
func (s *settlement) clearAll(ctx context.Context) error {
	rows, err := s.c.Query(ctx, `
		SELECT DISTINCT coalesce(d.datname, current_database())::text
		  FROM pg_shdepend s LEFT JOIN pg_database d ON d.oid = s.dbid
		 WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = $1`, s.oid)
	if err != nil {
		return err
	}
	databases, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	s.pieces = slices.DeleteFunc(s.pieces, func(p piece) bool { return p.What == "the role" })
	for _, database := range databases {
		err := s.in(ctx, database, func(c *admin.Conn) error {
			s.try("sessions inside the role's code", s.endInsiders(ctx, c, []uint32{s.oid}))
			s.try("privileges", s.revokeGranted(ctx, c)) // also where what is to be kept resists
			handed, err := keepObjects(ctx, c, s.role)
			if s.handed = append(s.handed, handed...); err != nil {
				s.resists("what the grant keeps in database "+database, err) // and is not dropped instead
				return nil
			}
			s.clear(ctx, c)
			return nil
		})
		if err != nil && admin.SQLState(err) != pgerrcode.InvalidCatalogName { // dropped meanwhile, and with it what it held
			s.resists("database "+database, err)
		}
	}
	return nil
}

// drop removes the role once nothing depends on it. The record is written before COMMIT: if the trail can't take it,
// the role stays, without power, and is tried again.
func (s *settlement) drop(ctx context.Context) error {
	return s.c.Transaction(ctx, []string{"DROP ROLE " + s.name}, func([][][]byte) error {
		return s.st.append(s.st.record(audit.RoleSettled, s.role, func(r *audit.Record) {
			r.SessionsTerminated, r.Dropped, r.Quarantined, r.Left = s.end.terminated, capped(s.dropped), capped(s.kept), capped(s.left)
			if len(s.handed) > 0 {
				r.Handed, r.HandedTo = capped(s.handed), s.role.Entry.Keep
			}
		}))
	})
}

// verify looks for everything by OID that could still carry the role. That it granted memberships shows in pg_shdepend from 16
// on; before, powerless looked for them. pg_stat_activity would ask for each session what the admin may see of it, which takes
// milliseconds where he is a member of thousands of roles and has just dropped one.
func (s *settlement) verify(ctx context.Context) error {
	var left []string
	err := s.c.QueryOne(ctx, `
		SELECT array_remove(ARRAY[
			(SELECT 'role' WHERE EXISTS (SELECT FROM pg_roles WHERE oid = $1)),
			(SELECT 'dependency' WHERE EXISTS (SELECT FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = $1)),
			(SELECT 'session' WHERE EXISTS (SELECT FROM pg_stat_get_backend_idset() b WHERE pg_stat_get_backend_userid(b) = $1)),
			(SELECT 'membership' WHERE EXISTS (SELECT FROM pg_auth_members WHERE roleid = $1) OR EXISTS (SELECT FROM pg_auth_members WHERE member = $1))
		], NULL)`, []any{s.oid}, &left)
	if err == nil && len(left) > 0 {
		return fmt.Errorf("role %s was dropped but the server still shows: %v", s.role.Name, left)
	}
	return err
}

// resisting is the error of a try that did not settle the role: one that is tried again soon where that may help, else a
// tombstone that names what holds it.
func (s *settlement) resisting(ctx context.Context) error {
	var there bool
	if err := s.c.QueryOne(ctx, "SELECT EXISTS (SELECT FROM pg_roles WHERE oid = $1)", []any{s.oid}, &there); err == nil && !there {
		return s.goneAlready() // by another proxy's sweep, while we were at it
	}
	pieces := s.pieces
	if s.end.err != nil {
		pieces = append([]piece{{"log-in and memberships", s.end.err}}, pieces...)
	}
	err := &resistError{role: s.role.Name, pieces: pieces}
	if s.end.err != nil || passes(err) {
		return err
	}
	heldBy, describeErr := s.heldBy(ctx)
	if describeErr != nil {
		return errors.Join(err, describeErr)
	}
	for _, p := range pieces {
		if len(heldBy) < heldByLimit && !slices.Contains(heldBy, p.What) && !errors.Is(p.Err, errGrantedByOthers) {
			heldBy = append(heldBy, p.String())
		}
	}
	return &TombstoneError{Role: s.role.Name, HeldBy: heldBy}
}

// heldBy describes what still depends on the role.
func (s *settlement) heldBy(ctx context.Context) ([]string, error) {
	heldBy, err := statements(ctx, s.c, pgx.RowTo[string], `
		SELECT coalesce((SELECT 'in database ' || datname || ': ' FROM pg_database WHERE oid = dbid AND datname <> current_database()), '')
		       || CASE WHEN dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
		               THEN pg_describe_object(classid, objid, objsubid) ELSE classid::regclass::text || ' ' || objid END
		  FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = $1 LIMIT `+strconv.Itoa(heldByLimit), s.oid)
	slices.Sort(heldBy)
	return heldBy, err
}
