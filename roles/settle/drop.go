package settle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/admin"
)

// rollbackPrepared ends the tenant's prepared transactions, which survive its sessions and, once the role is gone, can
// only be ended by a superuser.
func (s *settlement) rollbackPrepared(ctx context.Context) error {
	rows, err := s.c.Query(ctx, "SELECT gid, database::text FROM pg_prepared_xacts WHERE owner = $1", s.role.Name)
	if err != nil {
		return err
	}
	type prepared struct{ GID, Database string }
	transactions, err := pgx.CollectRows(rows, pgx.RowToStructByPos[prepared])
	if err != nil {
		return err
	}
	for _, t := range transactions {
		err := s.in(ctx, t.Database, func(c *admin.Conn) error {
			acting := c.Acting
			_, err := c.Script(ctx, "SET ROLE "+s.name)
			if err == nil {
				_, err = c.Script(ctx, "ROLLBACK PREPARED "+admin.QuoteLiteral(t.GID))
			}
			return errors.Join(err, c.Act(ctx, acting))
		})
		if err != nil {
			return err
		}
		s.dropped = append(s.dropped, "prepared transaction "+t.GID)
	}
	return nil
}

// drop removes the role once nothing depends on it. The record is written before COMMIT: if the trail can't take it,
// the role stays, disabled, and is tried again.
func (s *settlement) drop(ctx context.Context) error {
	return s.c.Transaction(ctx, []string{"DROP ROLE " + s.name}, func([][][]byte) error {
		return s.st.cfg.Trail.Append(s.st.record(audit.RoleSettled, s.role, func(r *audit.Record) {
			r.SessionsTerminated, r.Dropped, r.Quarantined = s.terminated, capped(s.dropped), capped(s.kept)
		}))
	})
}

// capped keeps a tenant with thousands of objects from filling the trail.
func capped(names []string) []string {
	if len(names) <= recordLimit {
		return names
	}
	return append(slices.Clone(names[:recordLimit]), fmt.Sprintf("and %d more", len(names)-recordLimit))
}

// verify looks for everything by OID that could still carry the role.
func (s *settlement) verify(ctx context.Context) error {
	var left []string
	err := s.c.QueryOne(ctx, `
		SELECT array_remove(ARRAY[
			(SELECT 'role' WHERE EXISTS (SELECT FROM pg_roles WHERE oid = $1)),
			(SELECT 'dependency' WHERE EXISTS (SELECT FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = $1)),
			(SELECT 'session' WHERE EXISTS (SELECT FROM pg_stat_activity WHERE usesysid = $1)),
			(SELECT 'membership' WHERE EXISTS (SELECT FROM pg_auth_members WHERE $1 IN (roleid, member, grantor)))
		], NULL)`, []any{s.role.OID}, &left)
	if err == nil && len(left) > 0 {
		return fmt.Errorf("role %s was dropped but the server still shows: %v", s.role.Name, left)
	}
	return err
}

// tombstone names what keeps the role, and takes from it what it could still hand to others: its memberships.
func (s *settlement) tombstone(ctx context.Context) error {
	for _, p := range append(slices.Clone(s.left.Profiles), s.role.Entry.Roles...) {
		if _, err := s.c.Script(ctx, "REVOKE "+admin.QuoteIdentifier(p)+" FROM "+s.name); err != nil {
			s.st.cfg.Log.Warn("tombstone keeps a membership", "role", s.role.Name, "group", p, "error", err)
		}
	}
	heldBy, err := s.describe(ctx, s.c, `
		SELECT coalesce((SELECT 'in database ' || datname || ': ' FROM pg_database WHERE oid = dbid AND datname <> current_database()), '')
		       || CASE WHEN dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
		               THEN pg_describe_object(classid, objid, objsubid) ELSE classid::regclass::text || ' ' || objid END
		  FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = $1 LIMIT `+strconv.Itoa(heldByLimit))
	if err != nil {
		return err
	}
	slices.Sort(heldBy)
	return &TombstoneError{Role: s.role.Name, HeldBy: heldBy}
}
