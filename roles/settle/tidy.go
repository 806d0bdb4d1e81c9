package settle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/roles/ledger"
)

// Members of a profile can leave things with it: before 16 they may SET ROLE to it and then make objects, default
// privileges and settings of it, and on unpatched servers REASSIGN OWNED hands objects to it. This file takes them away.

// tidyProfiles rids the profiles and groups of the settled role of what members left with them. A failure is the sweep's
// to mend: the role itself must go, and another member who is still there may hold a lock.
func (s *settlement) tidyProfiles(ctx context.Context) {
	if s.c.Version < 160000 {
		for _, p := range s.left.Profiles {
			if err := s.st.scrubProfile(ctx, s.c, p); err != nil {
				s.st.cfg.Log.Warn("profile could not be scrubbed, the sweep will", "profile", p, "error", err)
			}
		}
	}
	if !s.left.Handed {
		return
	}
	kept, err := s.st.evictFromGroups(ctx, s.c, slices.Concat(s.left.Profiles, s.role.Entry.Roles))
	s.kept = append(s.kept, kept...)
	if err != nil {
		s.st.cfg.Log.Warn("profile could not be tidied, the sweep will", "profiles", s.left.Profiles, "error", err)
	}
}

// scrubProfile takes a password from a profile. Before 16 a member can set one, and nobody but a superuser can see it. It
// would be of no use, until somebody gave the role LOGIN. Settlements that come together share the work.
func (st *Settler) scrubProfile(ctx context.Context, c *admin.Conn, name string) error {
	asked := time.Now()
	st.scrubbing.Lock()
	defer st.scrubbing.Unlock()
	if st.scrubbed[name].After(asked) {
		return nil
	}
	began := time.Now()
	err := admin.Retry(ctx, func() error {
		return c.Transaction(ctx, []string{"ALTER ROLE " + admin.QuoteIdentifier(name) + " NOLOGIN PASSWORD NULL"}, func([][][]byte) error { return nil })
	})
	if err == nil {
		st.scrubbed[name] = began
	}
	return err
}

// evictFromGroups drops what the named groups own, in all databases, and quarantines what others depend on. None of them
// owned anything when the tenant was made their member.
func (st *Settler) evictFromGroups(ctx context.Context, c *admin.Conn, names []string) (kept []string, err error) {
	st.evicting.Lock()
	defer st.evicting.Unlock()
	rows, err := c.Query(ctx, `
		SELECT DISTINCT r.oid, r.rolname::text, coalesce(d.datname, current_database())::text
		  FROM pg_roles r
		  LEFT JOIN pg_shdepend s ON s.refclassid = 'pg_authid'::regclass AND s.refobjid = r.oid AND s.deptype = 'o'
		  LEFT JOIN pg_db_role_setting t ON t.setrole = r.oid
		  LEFT JOIN pg_database d ON d.oid = s.dbid
		 WHERE r.rolname = ANY ($1) AND (s.dbid IS NOT NULL OR t.setrole IS NOT NULL)`, names)
	if err != nil {
		return nil, err
	}
	type owner struct {
		OID            uint32
		Name, Database string
	}
	owners, err := pgx.CollectRows(rows, pgx.RowToStructByPos[owner])
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, o := range owners {
		s := newSettlement(st, c, ledger.Role{Name: o.Name, OID: o.OID})
		errs = append(errs, s.in(ctx, o.Database, func(c *admin.Conn) error { return s.evict(ctx, c) }))
		kept = append(kept, s.kept...)
	}
	return kept, errors.Join(errs...)
}

// evict is for a settlement that is about a group and not an ephemeral role. Privileges that the group holds stay.
func (s *settlement) evict(ctx context.Context, c *admin.Conn) error {
	if _, err := c.Script(ctx, c.Join(s.name)); err != nil {
		return err
	}
	err := s.evictJoined(ctx, c)
	_, leaveErr := c.Script(ctx, "REVOKE "+s.name+" FROM CURRENT_USER")
	return errors.Join(err, leaveErr)
}

func (s *settlement) evictJoined(ctx context.Context, c *admin.Conn) error {
	if err := admin.Retry(ctx, func() error { return s.dropOwnerless(ctx, c) }); err != nil {
		return err
	}
	if err := s.dropPieces(ctx, c); err != nil {
		return err
	}
	left, err := s.describe(ctx, c, `
		SELECT pg_describe_object(classid, objid, objsubid) FROM pg_shdepend
		 WHERE refclassid = 'pg_authid'::regclass AND refobjid = $1 AND deptype = 'o' AND classid <> 'pg_default_acl'::regclass
		   AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())`)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		if err := admin.Retry(ctx, func() error { return s.quarantine(ctx, c, s.name, false) }); err != nil {
			return err
		}
		s.kept = append(s.kept, left...)
	}
	return admin.Retry(ctx, func() error {
		return c.Exclusively(ctx, func() error { return s.execEach(ctx, c, resetGroup) })
	})
}

// resetGroup generates the statements that end a profile's settings and bring its default privileges back to those of a
// role that never changed them.
const resetGroup = `
	SELECT statement FROM (
		SELECT 1 AS place, format('ALTER ROLE %I %s RESET ALL', r.rolname, coalesce((SELECT format('IN DATABASE %I', datname) FROM pg_database d WHERE d.oid = s.setdatabase), '')) AS statement
		  FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole WHERE s.setrole = $1 AND r.rolname ~ '` + ledger.ProfilePattern + `'
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

// Profiles tidies all profiles, and removes those of named objects that no role is a member of any more.
func (st *Settler) Profiles(ctx context.Context) error {
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
		_, err = st.evictFromGroups(ctx, c, names)
		return errors.Join(append(errs, err)...)
	})
}

// RemoveProfiles removes those of the profiles that are for named objects and have no member left.
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
	s := newSettlement(st, c, ledger.Role{Name: name})
	err = s.in(ctx, e.Database, func(c *admin.Conn) error {
		return admin.Retry(ctx, func() error { return c.Exclusively(ctx, func() error { return dropProfile(ctx, c, name) }) })
	})
	var unreachable *admin.UnreachableError
	if errors.As(err, &unreachable) && admin.SQLState(err) == admin.NoDatabase { // what the profile held went with the database
		_, err = c.Script(ctx, "DROP ROLE IF EXISTS "+admin.QuoteIdentifier(name))
	}
	if admin.SQLState(err) == admin.UndefinedObject {
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
