package settle

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/roles/ledger"
)

// Members of a profile or of a role that a grant names can leave things with it: before 16 they may SET ROLE to it and then
// make objects, default privileges and settings of it, and on unpatched servers REASSIGN OWNED hands objects to it. The group
// keeps its rights, so these things are made powerless before they are removed.

// group is a role that the settled one was a member of, as it is in one database where something is left with it.
type group struct {
	OID            uint32
	Name, Database string
	Shared         bool // others than ephemeral roles and the admin can act as it
}

func (g group) profile() bool { return ledger.IsProfile(g.Name) }

// tidyGroups rids the settled role's profiles and named roles of what members left with them. None of them owned anything
// when the role was made their member.
func (s *settlement) tidyGroups(ctx context.Context) {
	if s.inventory.Handed {
		s.try("what was left with "+fmt.Sprint(s.groups), s.st.evict(ctx, s.c, s.groups, s.report, s.in, s))
	}
}

// scrub takes the password from a role that can't log in. Nobody but a superuser can see it. Settlements that come together
// share the work.
func (st *Settler) scrub(ctx context.Context, c *admin.Conn, name string, others ender) error {
	asked := time.Now()
	st.scrubbing.Lock()
	defer st.scrubbing.Unlock()
	if st.scrubbed[name].After(asked) {
		return nil
	}
	began := time.Now()
	g := &estate{st: st, tenants: ledger.IsProfile(name), others: others}
	err := c.QueryOne(ctx, "SELECT oid FROM pg_roles WHERE rolname = $1", []any{name}, &g.oid)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err == nil {
		err = g.unblocked(ctx, c, func() error {
			return c.Transaction(ctx, []string{pieceLock, "ALTER ROLE " + admin.QuoteIdentifier(name) + " NOLOGIN PASSWORD NULL"}, func([][][]byte) error { return nil })
		})
	}
	if admin.SQLState(err) == pgerrcode.UndefinedObject { // went with its last member
		err = nil
	}
	if err == nil {
		st.scrubbed[name] = began
	}
	return err
}

// scrubGroups takes passwords that members set. Before 16 they can, and it would be of use once somebody gives the role LOGIN.
func (s *settlement) scrubGroups(ctx context.Context) {
	if s.c.Version >= 160000 {
		return
	}
	for _, name := range s.groups {
		s.try("the password of "+name, s.st.scrub(ctx, s.c, name, s))
	}
}

// within runs fn on a connection to a database.
type within func(ctx context.Context, database string, fn func(*admin.Conn) error) error

// ender ends sessions of others in c's database. A sweep has none.
type ender interface {
	endTemporary(ctx context.Context, c *admin.Conn, g group) error        // in whose temporary schema something of the group is
	endInsiders(ctx context.Context, c *admin.Conn, owners []uint32) error // in code of the owners, after that has lost its power
	recordInside(i insider, ended int, err error)                          // one that was ended
}

// evict removes what the named groups own, in all databases, and reports what resists. others may be nil.
func (st *Settler) evict(ctx context.Context, c *admin.Conn, names []string, r *report, in within, others ender) error {
	st.evicting.Lock()
	defer st.evicting.Unlock()
	rows, err := c.Query(ctx, `
		SELECT DISTINCT r.oid, r.rolname::text, coalesce(d.datname, current_database())::text,
		       EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles o ON o.oid = m.member
		                WHERE m.roleid = r.oid AND o.rolname !~ '^hg_' AND o.rolname NOT IN (session_user, current_user))
		  FROM pg_roles r
		  LEFT JOIN pg_shdepend s ON s.refclassid = 'pg_authid'::regclass AND s.refobjid = r.oid AND s.deptype = 'o'
		  LEFT JOIN pg_db_role_setting t ON t.setrole = r.oid
		  LEFT JOIN pg_database d ON d.oid = s.dbid
		 WHERE r.rolname = ANY ($1) AND (s.dbid IS NOT NULL OR t.setrole IS NOT NULL)`, names)
	if err != nil {
		return err
	}
	groups, err := pgx.CollectRows(rows, pgx.RowToStructByPos[group])
	if err != nil {
		return err
	}
	for _, g := range groups {
		err := in(ctx, g.Database, func(c *admin.Conn) error { return st.evictHere(ctx, c, g, names, r, others) })
		r.try("what "+g.Name+" owns in database "+g.Database, err)
	}
	return nil
}

// evictHere is for one of the named groups in c's database. The admin joins it for that time.
func (st *Settler) evictHere(ctx context.Context, c *admin.Conn, g group, names []string, r *report, others ender) error {
	name := admin.QuoteIdentifier(g.Name)
	joined, err := joinGroup(ctx, c, g, names)
	if err != nil {
		return err
	}
	s := &estate{report: r, st: st, oid: g.OID, name: name, tenants: g.profile() || !g.Shared, others: others}
	if others != nil {
		r.try("sessions with temporary things of "+g.Name, others.endTemporary(ctx, c, g))
	}
	all, err := owned(ctx, c, g.OID, pageLimit)
	if err == nil {
		if s.tenants {
			s.disarm(ctx, c, true)
		} else {
			s.sortOut(ctx, c, all)
		}
		if others != nil {
			r.try("sessions inside code of "+g.Name, others.endInsiders(ctx, c, []uint32{g.OID}))
		}
		if s.tenants {
			s.clear(ctx, c)
		}
		err = s.reset(ctx, c, g)
	}
	_, leaveErr := c.Script(ctx, "REVOKE "+joined+" FROM CURRENT_USER")
	return errors.Join(err, leaveErr)
}

// joinGroup makes the admin a member of a group or, where it may not, of one of the others that is a member of it, as the tenant
// was. It returns which, quoted.
func joinGroup(ctx context.Context, c *admin.Conn, g group, names []string) (joined string, err error) {
	joined = admin.QuoteIdentifier(g.Name)
	_, err = c.Script(ctx, c.Join(joined))
	if admin.SQLState(err) != pgerrcode.InsufficientPrivilege {
		return joined, err
	}
	ways, askErr := statements(ctx, c, pgx.RowTo[string], `
		SELECT quote_ident(rolname) FROM pg_roles
		 WHERE rolname = ANY ($1) AND oid <> $2 AND pg_has_role(oid, $2, 'USAGE') AND pg_has_role(oid, 'MEMBER WITH ADMIN OPTION')`, names, g.OID)
	if askErr != nil || len(ways) == 0 {
		return "", errors.Join(err, askErr)
	}
	_, err = c.Script(ctx, c.Join(ways[0]))
	return ways[0], err
}

//go:embed sql/powerful.sql
var powerfulSQL string

// sortOut is for a named role that other people act as too, who may have made what it owns. The tenant could have made it
// anew all the same. What runs with its rights is made powerless and kept in quarantine, where it can be looked at and given
// back; data is left alone, but nobody else keeps a privilege on it. Both are recorded.
func (s *estate) sortOut(ctx context.Context, c *admin.Conn, all []object) {
	for _, o := range all { // first, as somebody may hold the lock that quarantine takes
		if o.routine() || o.Type == "view" {
			s.try(o.String(), s.disarmNow(ctx, c, o))
		}
	}
	for _, o := range all {
		powerful := o.routine() || o.Type == "view"
		if (o.relation() || o.Type == "type") && !powerful {
			err := c.QueryOne(ctx, powerfulSQL, []any{o.OID}, &powerful)
			if err != nil && !errors.Is(err, pgx.ErrNoRows) {
				s.resists(o.String(), err)
				continue
			}
		}
		if !powerful {
			s.try(o.String(), s.leave(ctx, c, o))
			continue
		}
		if err := s.quarantine(ctx, c, o); err != nil {
			s.resists(o.String(), err)
			continue
		}
		s.kept = append(s.kept, o.String())
	}
}

// leave takes the privileges of others on what stays with a named role: it can't be told who gave them.
func (s *estate) leave(ctx context.Context, c *admin.Conn, o object) error {
	what := o.String()
	if o.relation() {
		others, err := grantees(ctx, c, o)
		if err != nil {
			return err
		}
		if len(others) > 0 {
			what += ", without the privileges of " + strings.Join(others, ", ")
		}
		if err := admin.Retry(ctx, func() error { return disarmOne(ctx, c, o) }); err != nil {
			return s.st.told(err)
		}
	}
	s.left = append(s.left, what)
	return nil
}

// reset ends a group's settings and brings its default privileges back to those of a role that never changed them.
func (s *estate) reset(ctx context.Context, c *admin.Conn, g group) error {
	settings := g.profile() || !g.Shared || c.Version < 160000 // from 16 on members of the gate can't have set them
	return admin.Retry(ctx, func() error {
		return c.Exclusively(ctx, func() error {
			list, err := statements(ctx, c, pgx.RowTo[string], resetGroup, s.oid, settings)
			if err == nil && len(list) > 0 {
				_, err = c.Script(ctx, list...)
			}
			return err
		})
	})
}

const resetGroup = `
	SELECT statement FROM (
		SELECT 1 AS place, format('ALTER ROLE %I %s RESET ALL', r.rolname, coalesce((SELECT format('IN DATABASE %I', datname) FROM pg_database d WHERE d.oid = s.setdatabase), '')) AS statement
		  FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole WHERE s.setrole = $1 AND $2
		UNION ALL
		SELECT 2, format('ALTER DEFAULT PRIVILEGES FOR ROLE %I %s REVOKE ALL ON %s FROM %s', d.owner, d.place, d.kind,
		                 CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END)
		  FROM (SELECT a.*, pg_get_userbyid(defaclrole) AS owner,
		               coalesce('IN SCHEMA ' || quote_ident(n.nspname), '') AS place,
		               CASE defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'FUNCTIONS' WHEN 'T' THEN 'TYPES'
		                                  WHEN 'n' THEN 'SCHEMAS' ELSE 'LARGE OBJECTS' END AS kind
		          FROM pg_default_acl a LEFT JOIN pg_namespace n ON n.oid = a.defaclnamespace WHERE defaclrole = $1) d,
		       aclexplode(d.defaclacl) x
		UNION ALL
		SELECT 3, format('ALTER DEFAULT PRIVILEGES FOR ROLE %1$I GRANT %2$s TO %3$s', pg_get_userbyid(a.defaclrole), v.what, CASE WHEN v.everybody THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.defaclrole)) END)
		  FROM pg_default_acl a JOIN (VALUES ('r', 'ALL ON TABLES', false), ('S', 'ALL ON SEQUENCES', false), ('f', 'ALL ON FUNCTIONS', false), ('f', 'EXECUTE ON FUNCTIONS', true),
		       ('T', 'ALL ON TYPES', false), ('T', 'USAGE ON TYPES', true), ('n', 'ALL ON SCHEMAS', false), ('L', 'ALL ON LARGE OBJECTS', false)) v(objtype, what, everybody)
		    ON v.objtype = a.defaclobjtype::text
		 WHERE a.defaclrole = $1 AND a.defaclnamespace = 0
	) s ORDER BY place, statement`

// Profiles tidies all profiles of the server, for what a crash left, and removes those of named objects that no role is a
// member of. One integration does it for all on the server.
func (st *Settler) Profiles(ctx context.Context) error {
	return st.cfg.Pool.Duty("profiles", profilesEvery, func() error { return st.profiles(ctx) })
}

const profilesEvery = 45 * time.Second // less than sweeps are apart

func (st *Settler) profiles(ctx context.Context) error {
	release, err := st.cfg.Pool.Patient(ctx)
	if err != nil {
		return err
	}
	defer release()
	return st.cfg.Pool.Use(ctx, func(c *admin.Conn) error {
		rows, err := c.Query(ctx, `
			SELECT rolname::text, rolname ~ $2 AND NOT EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member
			                                                    WHERE m.roleid = p.oid AND r.rolname ~ '^hg_')
			  FROM pg_roles p WHERE rolname ~ $1`, ledger.ProfilePattern, ledger.ObjectsPattern)
		if err != nil {
			return err
		}
		type swept struct {
			Name   string
			Unused bool
		}
		profiles, err := pgx.CollectRows(rows, pgx.RowToStructByPos[swept])
		if err != nil {
			return err
		}
		var names []string
		var errs []error
		for _, p := range profiles {
			names = append(names, p.Name)
			if p.Unused {
				errs = append(errs, st.removeProfile(ctx, c, p.Name))
			}
		}
		r := &report{}
		err = st.evict(ctx, c, names, r, st.beside(c), nil)
		for _, p := range r.pieces {
			errs = append(errs, fmt.Errorf("%s: %w", p.What, p.Err))
		}
		return errors.Join(append(errs, err)...)
	})
}

// beside runs in other databases with a connection that acts as c does, and in c's own over c.
func (st *Settler) beside(c *admin.Conn) within {
	return func(ctx context.Context, database string, fn func(*admin.Conn) error) error {
		if database == c.Config().Database {
			return fn(c)
		}
		return st.cfg.Pool.Beside(ctx, database, func(other *admin.Conn) error {
			if other.Acting != c.Acting {
				if err := other.Act(ctx, c.Acting); err != nil {
					return err
				}
			}
			return fn(other)
		})
	}
}

// removeProfiles removes those of the profiles that are for named objects and have no member left.
func (st *Settler) removeProfiles(ctx context.Context, names []string) {
	for _, name := range names {
		if !ledger.IsObjectsProfile(name) {
			continue
		}
		if err := st.cfg.Pool.Use(ctx, func(c *admin.Conn) error { return st.removeProfile(ctx, c, name) }); err != nil {
			st.cfg.Log.Warn("profile could not be removed, the sweep will", "profile", name, "error", err)
		}
	}
}

// removeProfile removes a profile of named objects unless a role is a member of it, or it is another deployment's. It
// holds the lock under which members are added.
func (st *Settler) removeProfile(ctx context.Context, c *admin.Conn, name string) error {
	var comment string
	err := c.QueryOne(ctx, "SELECT coalesce(shobj_description(oid, 'pg_authid'), '') FROM pg_roles WHERE rolname = $1", []any{name}, &comment)
	var e ledger.ObjectsEntry
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err != nil:
		return err
	case json.Unmarshal([]byte(comment), &e) != nil || e.Version != ledger.Version || e.Deployment != st.cfg.Deployment:
		return nil
	}
	err = st.beside(c)(ctx, e.Database, func(c *admin.Conn) error {
		return admin.Retry(ctx, func() error { return c.Exclusively(ctx, func() error { return dropProfile(ctx, c, name) }) })
	})
	var unreachable *admin.UnreachableError
	if errors.As(err, &unreachable) && admin.SQLState(err) == pgerrcode.InvalidCatalogName { // what the profile held went with the database
		_, err = c.Script(ctx, "DROP ROLE IF EXISTS "+admin.QuoteIdentifier(name))
	}
	if admin.SQLState(err) == pgerrcode.UndefinedObject {
		return nil // another proxy was quicker
	}
	if err != nil {
		return fmt.Errorf("removing profile %s: %w", name, err)
	}
	return nil
}

func dropProfile(ctx context.Context, c *admin.Conn, name string) error {
	var used bool
	err := c.QueryOne(ctx, `
		SELECT EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles p ON p.oid = m.roleid JOIN pg_roles r ON r.oid = m.member
		                WHERE p.rolname = $1 AND r.rolname ~ '^hg_')`, []any{name}, &used)
	if err != nil || used {
		return err
	}
	quoted := admin.QuoteIdentifier(name)
	_, err = c.Script(ctx, c.Join(quoted), "DROP OWNED BY "+quoted+" RESTRICT", "DROP ROLE "+quoted)
	return err
}
