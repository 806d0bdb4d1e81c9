package roles

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/audit"
)

// Bounds of settling. Each wait on the server is bounded by a lock or statement timeout as well.
const (
	scanGap       = 10 * time.Millisecond // between two scans for backends that must both be clean
	closeAttempts = 20                    // rounds of terminate and disable against a tenant who holds its own row
	dropPasses    = 6                     // of DROP OWNED and DROP ROLE, while new dependencies show up
	lockRetries   = 5                     // of one statement that somebody else's lock held up
	heldByLimit   = 20                    // objects that a tombstone names
	recordLimit   = 100                   // objects that one record names
)

// settlement is one try at settling a role, over one admin connection. Every step is idempotent, so a try that was cut
// off anywhere is simply begun again.
type settlement struct {
	k    *Keeper
	c    *adminConn
	role Role

	name       string // quoted
	terminated int    // backends
	dropped    []string
	kept       []string // handed to the quarantine role because others depend on them
}

// settleLogged settles the role, with the records and log lines that belong to it.
func (k *Keeper) settleLogged(ctx context.Context, r Role) error {
	started := time.Now()
	// Where many grants end at once, all statements end before the first role is removed.
	err := k.pool.use(ctx, func(c *adminConn) error {
		s := &settlement{c: c, role: r}
		there, err := s.find(ctx)
		if there {
			_, err = s.terminate(ctx)
		}
		return err
	})
	if err != nil {
		k.log.Warn("backends could not be terminated at once", "role", r.Name, "error", err)
	}
	err = k.pool.use(ctx, func(c *adminConn) error {
		s := &settlement{k: k, c: c, role: r, name: quoteIdentifier(r.Name)}
		err := s.run(ctx)
		k.log.Info("role settled", "role", r.Name, "grant", r.entry.Grant, "user", r.entry.User,
			"sessions_terminated", s.terminated, "objects_dropped", len(s.dropped), "objects_quarantined", len(s.kept),
			"duration", time.Since(started), "gone", err == nil)
		return err
	})
	k.metrics.settled(err, time.Since(started))
	var tombstone *TombstoneError
	if errors.As(err, &tombstone) {
		return errors.Join(err, k.cfg.Trail.Append(k.record(audit.RoleTombstoned, r, func(rec *audit.Record) {
			rec.HeldBy = tombstone.HeldBy
		})))
	}
	return err
}

// run settles the role if it is there.
func (s *settlement) run(ctx context.Context) error {
	there, err := s.find(ctx)
	if err == nil && there {
		err = s.remove(ctx)
	}
	if sqlstate(err) == codeUndefinedObject { // dropped by somebody else meanwhile, such as another proxy's sweep
		there, err = s.find(ctx)
	}
	if err == nil && !there {
		return s.k.cfg.Trail.Append(s.k.record(audit.RoleSettled, s.role, func(r *audit.Record) { r.Reason = "gone already" }))
	}
	return err
}

// remove is the order that was verified against tenants who try to stay: close, so that nothing new can begin; undo what
// would outlive the role; drop what it owns, database by database; drop the role, with the evidence written first.
func (s *settlement) remove(ctx context.Context) error {
	if err := s.close(ctx); err != nil {
		return fmt.Errorf("closing: %w", err)
	}
	if err := s.join(ctx); err != nil {
		return fmt.Errorf("joining the role: %w", err)
	}
	if err := s.rollbackPrepared(ctx); err != nil {
		return fmt.Errorf("rolling back prepared transactions: %w", err)
	}
	if err := s.revokeMemberships(ctx); err != nil {
		return fmt.Errorf("revoking memberships: %w", err)
	}
	for pass := 1; ; pass++ {
		if err := s.clear(ctx); err != nil {
			return fmt.Errorf("clearing: %w", err)
		}
		err := s.drop(ctx)
		if err == nil {
			return s.verify(ctx)
		}
		if sqlstate(err) != codeDependentObjects && !transient(err) {
			return fmt.Errorf("dropping: %w", err)
		}
		if pass == dropPasses {
			return s.tombstone(ctx)
		}
	}
}

// find looks the role up by name and OID: another role of the same name is none of ours.
func (s *settlement) find(ctx context.Context) (bool, error) {
	var oid uint32
	err := s.c.QueryRow(ctx, "SELECT oid FROM pg_roles WHERE rolname = $1", s.role.Name).Scan(&oid)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	return oid == s.role.OID, err
}

// close ends the role's sessions and its ability to begin new ones. The tenant may hold a lock on its own row (an
// uncommitted ALTER ROLE), so backends are terminated before the role is disabled, and after it once more: a log-in may
// have been under way.
func (s *settlement) close(ctx context.Context) error {
	disable := []string{
		"BEGIN", "SET LOCAL lock_timeout = '200ms'",
		"ALTER ROLE " + s.name + " NOLOGIN PASSWORD NULL VALID UNTIL '-infinity' CONNECTION LIMIT 0",
		"COMMIT",
	}
	for attempt := 1; ; attempt++ {
		if _, err := s.terminate(ctx); err != nil {
			return err
		}
		_, err := s.c.script(ctx, disable...)
		if err == nil {
			break
		}
		if rollbackErr := s.c.rollback(ctx); rollbackErr != nil || !transient(err) || attempt == closeAttempts {
			return errors.Join(err, rollbackErr)
		}
	}
	for clean := 0; clean < 2; {
		n, err := s.terminate(ctx)
		if err != nil {
			return err
		}
		if clean++; n > 0 {
			clean = 0
		}
		if clean < 2 {
			if err := pause(ctx, scanGap); err != nil {
				return err
			}
		}
	}
	return nil
}

// terminate signals the backends whose session user is the role, whatever they have SET ROLE to, and counts them. It
// goes by OID and in one statement, so that neither a rename nor a reused pid can mislead it.
func (s *settlement) terminate(ctx context.Context) (int, error) {
	var n int
	err := s.c.QueryRow(ctx,
		"SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usesysid = $1", s.role.OID).Scan(&n)
	if sqlstate(err) == codeInsufficientPrivilege {
		return 0, &PrivilegeError{
			Problem:    "the admin may not terminate the backends of " + s.role.Name,
			Statements: []string{"GRANT pg_signal_backend TO " + quoteIdentifier(s.c.Config().User) + ";"},
		}
	}
	s.terminated += n
	return n, err
}

// join makes the admin a member of the role if it is not, as after a change of the admin's user.
func (s *settlement) join(ctx context.Context) error {
	var member bool
	if err := s.c.QueryRow(ctx, "SELECT pg_has_role($1::oid, 'USAGE')", s.role.OID).Scan(&member); err != nil || member {
		return err
	}
	_, err := s.c.script(ctx, joinRole(s.c, s.name))
	if sqlstate(err) == codeInsufficientPrivilege {
		return &PrivilegeError{
			Problem:    fmt.Sprintf("the admin %s did not create role %s and may not drop it", s.c.Config().User, s.role.Name),
			Statements: []string{"GRANT " + s.name + " TO " + quoteIdentifier(s.c.Config().User) + " WITH ADMIN OPTION;"},
		}
	}
	return err
}

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
		err := s.in(ctx, t.Database, func(c *adminConn) error {
			_, err := c.script(ctx, "SET ROLE "+s.name)
			if err == nil {
				_, err = c.script(ctx, "ROLLBACK PREPARED "+quoteLiteral(t.GID))
			}
			_, resetErr := c.script(ctx, "RESET ROLE")
			return errors.Join(err, resetErr)
		})
		if err != nil {
			return err
		}
		s.dropped = append(s.dropped, "prepared transaction "+t.GID)
	}
	return nil
}

// in runs fn in a database, over the connection that the settlement has already if that is there: waiting for a second one
// of the pool while holding one could last for ever.
func (s *settlement) in(ctx context.Context, database string, fn func(*adminConn) error) error {
	if database == s.c.Config().Database {
		return fn(s.c)
	}
	return s.k.in(ctx, database, fn)
}

// revokeMemberships undoes what the tenant granted: itself to others (13 and 14 let it) and other roles onward. The
// admin's own membership goes with the role.
func (s *settlement) revokeMemberships(ctx context.Context) error {
	rows, err := s.c.Query(ctx, `
		SELECT quote_ident(r.rolname), quote_ident(m.rolname), quote_ident(coalesce(g.rolname, ''))
		  FROM pg_auth_members a
		  JOIN pg_roles r ON r.oid = a.roleid
		  JOIN pg_roles m ON m.oid = a.member
		  LEFT JOIN pg_roles g ON g.oid = a.grantor
		 WHERE a.grantor = $1 OR (a.roleid = $1 AND m.rolname <> current_user)`, s.role.OID)
	if err != nil {
		return err
	}
	type membership struct{ Role, Member, Grantor string }
	memberships, err := pgx.CollectRows(rows, pgx.RowToStructByPos[membership])
	if err != nil {
		return err
	}
	for _, m := range memberships {
		revoke := "REVOKE " + m.Role + " FROM " + m.Member
		if s.c.version >= 160000 {
			revoke += " GRANTED BY " + m.Grantor
		}
		if _, err := s.c.script(ctx, revoke+" CASCADE"); err != nil {
			return err
		}
		s.dropped = append(s.dropped, "membership of "+m.Member+" in "+m.Role)
	}
	return nil
}

// drop removes the role once nothing depends on it. The record is written before COMMIT: if the trail can't take it,
// the role stays, disabled, and is tried again.
func (s *settlement) drop(ctx context.Context) error {
	return s.c.transaction(ctx, false, func() error {
		if _, err := s.c.script(ctx, "DROP ROLE "+s.name); err != nil {
			return err
		}
		return s.k.cfg.Trail.Append(s.k.record(audit.RoleSettled, s.role, func(r *audit.Record) {
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
	err := s.c.QueryRow(ctx, `
		SELECT array_remove(ARRAY[
			(SELECT 'role' WHERE EXISTS (SELECT FROM pg_roles WHERE oid = $1)),
			(SELECT 'dependency' WHERE EXISTS (SELECT FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = $1)),
			(SELECT 'session' WHERE EXISTS (SELECT FROM pg_stat_activity WHERE usesysid = $1)),
			(SELECT 'membership' WHERE EXISTS (SELECT FROM pg_auth_members WHERE $1 IN (roleid, member, grantor)))
		], NULL)`, s.role.OID).Scan(&left)
	if err == nil && len(left) > 0 {
		return fmt.Errorf("role %s was dropped but the server still shows: %v", s.role.Name, left)
	}
	return err
}

// tombstone names what keeps the role.
func (s *settlement) tombstone(ctx context.Context) error {
	rows, err := s.c.Query(ctx, `
		SELECT coalesce((SELECT 'in database ' || datname || ': ' FROM pg_database WHERE oid = dbid AND datname <> current_database()), '')
		       || CASE WHEN dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
		               THEN pg_describe_object(classid, objid, objsubid) ELSE classid::regclass::text || ' ' || objid END
		  FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = $1 LIMIT $2`, s.role.OID, heldByLimit)
	if err != nil {
		return err
	}
	heldBy, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	slices.Sort(heldBy)
	return &TombstoneError{Role: s.role.Name, HeldBy: heldBy}
}

// pause waits, unless ctx ends first.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
