package settle

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/roles/ledger"
)

//go:embed inventory.sql
var inventorySQL string

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
	st   *Settler
	c    *admin.Conn
	role ledger.Role

	name       string // quoted
	left       inventory
	again      bool // the role could not be dropped after it was cleared
	terminated int  // backends
	dropped    []string
	kept       []string // handed to the quarantine role because others depend on them
}

// inventory is what there is to do besides dropping the role; see inventory.sql.
type inventory struct {
	Terminated  int
	Member      bool // the admin is a member of the role
	Prepared    bool
	Memberships bool // the tenant's to others, or others' in the role
	Depends     bool // objects or privileges
	Handed      bool // a profile or one of the grant's roles owns something, or has settings
	Profiles    []string
}

// Settle settles the role, with the records and log lines that belong to it.
func (st *Settler) Settle(ctx context.Context, r ledger.Role) error {
	started := time.Now()
	// Where many grants end at once, all statements end before the first role is removed.
	err := st.cfg.Pool.Use(ctx, func(c *admin.Conn) error {
		s := newSettlement(st, c, r)
		there, err := s.find(ctx)
		if there {
			_, err = s.terminate(ctx)
		}
		return errors.Join(err, s.restore(ctx))
	})
	if err != nil {
		st.cfg.Log.Warn("backends could not be terminated at once", "role", r.Name, "error", err)
	}
	var profiles []string
	err = st.cfg.Pool.Use(ctx, func(c *admin.Conn) error {
		s := newSettlement(st, c, r)
		err := errors.Join(s.run(ctx), s.restore(ctx))
		profiles = s.left.Profiles
		st.cfg.Log.Info("role settled", "role", r.Name, "grant", r.Entry.Grant, "user", r.Entry.User,
			"sessions_terminated", s.terminated, "objects_dropped", len(s.dropped), "objects_quarantined", len(s.kept),
			"duration", time.Since(started), "gone", err == nil)
		return err
	})
	st.cfg.Metrics.settled(err, time.Since(started))
	if err == nil {
		st.removeProfiles(ctx, profiles)
	}
	return st.recordTombstone(r, err)
}

// recordTombstone writes the record of a tombstone, once for each thing that holds it.
func (st *Settler) recordTombstone(r ledger.Role, err error) error {
	var tombstone *TombstoneError
	isTombstone := errors.As(err, &tombstone)
	st.mu.Lock()
	held := ""
	if isTombstone {
		held = strings.Join(tombstone.HeldBy, "; ")
	}
	known := st.tombstones[r.OID] == held
	delete(st.tombstones, r.OID)
	if isTombstone {
		st.tombstones[r.OID] = held
	}
	st.mu.Unlock()
	if !isTombstone || known {
		return err
	}
	return errors.Join(err, st.cfg.Trail.Append(st.record(audit.RoleTombstoned, r, func(rec *audit.Record) {
		rec.HeldBy = tombstone.HeldBy
	})))
}

func newSettlement(st *Settler, c *admin.Conn, r ledger.Role) *settlement {
	return &settlement{st: st, c: c, role: r, name: admin.QuoteIdentifier(r.Name)}
}

// restore gives the connection back its role, if find had to take another.
func (s *settlement) restore(ctx context.Context) error {
	if s.c.Creator == "" || s.c.Acting == s.c.Creator || s.c.IsClosed() {
		return nil
	}
	return s.c.Act(context.WithoutCancel(ctx), s.c.Creator)
}

// run settles the role if it is there.
func (s *settlement) run(ctx context.Context) error {
	there, err := s.find(ctx)
	if err == nil && there {
		err = s.remove(ctx)
	}
	if admin.SQLState(err) == admin.UndefinedObject { // dropped by somebody else meanwhile, such as another proxy's sweep
		there, err = s.find(ctx)
	}
	if err == nil && !there {
		return s.gone(ctx)
	}
	return err
}

// gone ends the sessions of a role that somebody else dropped: they keep what everybody may do.
func (s *settlement) gone(ctx context.Context) error {
	if _, err := s.terminate(ctx); err != nil {
		s.st.cfg.Log.Warn("sessions of a dropped role could not be terminated; they end with their connections",
			"role", s.role.Name, "error", err)
	}
	return s.st.cfg.Trail.Append(s.st.record(audit.RoleSettled, s.role, func(r *audit.Record) {
		r.Cause, r.SessionsTerminated = "gone already", s.terminated
	}))
}

// remove is the order that was verified against tenants who try to stay: close, so that nothing new can begin; undo what
// would outlive the role; drop what it owns, database by database; drop the role, with the evidence written first. For
// a role that left nothing, which the inventory tells in one message, only the first and the last are done.
func (s *settlement) remove(ctx context.Context) error {
	if err := s.close(ctx); err != nil {
		return fmt.Errorf("closing: %w", err)
	}
	if err := s.join(ctx); err != nil {
		return fmt.Errorf("joining the role: %w", err)
	}
	if s.left.Prepared {
		if err := s.rollbackPrepared(ctx); err != nil {
			return fmt.Errorf("rolling back prepared transactions: %w", err)
		}
	}
	if s.left.Memberships {
		if err := s.revokeMemberships(ctx); err != nil {
			return fmt.Errorf("revoking memberships: %w", err)
		}
	}
	s.tidyProfiles(ctx)
	for pass := 1; ; pass++ {
		if s.left.Depends || pass > 1 {
			if err := s.clear(ctx); err != nil {
				return fmt.Errorf("clearing: %w", err)
			}
		}
		err := s.drop(ctx)
		if err == nil {
			return s.verify(ctx)
		}
		if admin.SQLState(err) != admin.DependentObjects && !admin.Transient(err) {
			return fmt.Errorf("dropping: %w", err)
		}
		s.again = true
		if pass == dropPasses {
			return s.tombstone(ctx)
		}
	}
}

// find looks the role up by OID, and makes sure that it is ours: by its name or, when a DBA has renamed it, by its
// comment. It also finds out who may drop it: a role that the login made before admin.CreatorRole was set up is the login's.
func (s *settlement) find(ctx context.Context) (bool, error) {
	var name, comment string
	var may bool
	err := s.c.QueryOne(ctx, `
		SELECT rolname::text, coalesce(shobj_description(oid, 'pg_authid'), ''), pg_has_role(oid, 'MEMBER WITH ADMIN OPTION')
		  FROM pg_roles WHERE oid = $1`, []any{s.role.OID}, &name, &comment, &may)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	if err != nil || name != s.role.Name && comment != s.role.Entry.Comment() {
		return false, err
	}
	if name != s.role.Name {
		s.dropped = append(s.dropped, "the name "+name+", which somebody gave the role")
		s.role.Name, s.name = name, admin.QuoteIdentifier(name)
	}
	if !may && s.c.Version >= 160000 && s.c.Acting != s.c.Login {
		return true, s.c.Act(ctx, s.c.Login)
	}
	return true, nil
}

// close ends the role's sessions and its ability to log in, and takes stock. A tenant may hold the lock on its own row
// (ALTER ROLE inside a transaction), so disabling waits for a moment only and terminating comes before it, again and
// again. Sessions that passed the log-in check before the commit may show up a moment later, so a second look follows.
func (s *settlement) close(ctx context.Context) error {
	disable := []string{"ALTER ROLE " + s.name + " NOLOGIN PASSWORD NULL VALID UNTIL '-infinity' CONNECTION LIMIT 0"}
	for attempt := 1; ; attempt++ {
		err := s.c.Transaction(ctx, disable, func([][][]byte) error { return nil })
		if err == nil {
			break
		}
		if !admin.Transient(err) || attempt == closeAttempts {
			return err
		}
		if _, err := s.terminate(ctx); err != nil {
			return err
		}
	}
	if _, err := s.terminate(ctx); err != nil {
		return err
	}
	for {
		if err := admin.Pause(ctx, scanGap); err != nil {
			return err
		}
		if err := s.takeStock(ctx); err != nil || s.left.Terminated == 0 {
			return err
		}
	}
}

// takeStock terminates once more and learns what the role left.
func (s *settlement) takeStock(ctx context.Context) error {
	rows, err := s.c.Query(ctx, inventorySQL, s.role.OID, ledger.ProfilePattern, s.role.Entry.Roles)
	if err == nil {
		s.left, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[inventory])
	}
	s.terminated += s.left.Terminated
	return s.explain(err)
}

// terminate signals the backends whose session user is the role, whatever they have SET ROLE to, and counts them. It
// goes by OID and in one statement, so that neither a rename nor a reused pid can mislead it.
func (s *settlement) terminate(ctx context.Context) (int, error) {
	var n int
	err := s.c.QueryOne(ctx,
		"SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usesysid = $1", []any{s.role.OID}, &n)
	s.terminated += n
	return n, s.explain(err)
}

// explain turns the refusal to terminate into what a DBA has to do.
func (s *settlement) explain(err error) error {
	if admin.SQLState(err) == admin.InsufficientPrivilege {
		return &admin.PrivilegeError{
			Problem:    "the admin may not terminate the backends of " + s.role.Name,
			Statements: []string{"GRANT pg_signal_backend TO " + admin.QuoteIdentifier(s.c.Acting) + ";"},
		}
	}
	return err
}

// join makes the admin a member of the role if it is not, as after a change of the admin's user.
func (s *settlement) join(ctx context.Context) error {
	if s.left.Member {
		return nil
	}
	_, err := s.c.Script(ctx, s.c.Join(s.name))
	if admin.SQLState(err) == admin.InsufficientPrivilege {
		return &admin.PrivilegeError{
			Problem:    fmt.Sprintf("the admin %s did not create role %s and may not drop it", s.c.Acting, s.role.Name),
			Statements: []string{"GRANT " + s.name + " TO " + admin.QuoteIdentifier(s.c.Acting) + " WITH ADMIN OPTION;"},
		}
	}
	return err
}

// in runs fn in a database, over the connection that the settlement has already if that is there: waiting for a second one
// of the pool while holding one could last for ever.
func (s *settlement) in(ctx context.Context, database string, fn func(*admin.Conn) error) error {
	if database == s.c.Config().Database {
		return fn(s.c)
	}
	return s.st.cfg.Pool.In(ctx, database, func(c *admin.Conn) error {
		if c.Acting != s.c.Acting {
			if err := c.Act(ctx, s.c.Acting); err != nil {
				return err
			}
		}
		return fn(c)
	})
}

// revokeMemberships undoes what the tenant granted: itself to others (13 and 14 let it) and other roles onward. What is
// not the admin's to revoke goes with the role, or keeps it as a tombstone.
func (s *settlement) revokeMemberships(ctx context.Context) error {
	rows, err := s.c.Query(ctx, `
		SELECT quote_ident(r.rolname), quote_ident(m.rolname), quote_ident(coalesce(g.rolname, ''))
		  FROM pg_auth_members a
		  JOIN pg_roles r ON r.oid = a.roleid
		  JOIN pg_roles m ON m.oid = a.member
		  LEFT JOIN pg_roles g ON g.oid = a.grantor
		 WHERE a.grantor = $1 OR (a.roleid = $1 AND NOT (m.rolname = session_user OR m.rolname = current_user))`, s.role.OID)
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
		if s.c.Version >= 160000 {
			revoke += " GRANTED BY " + m.Grantor
		}
		_, err := s.c.Script(ctx, revoke+" CASCADE")
		switch {
		case admin.SQLState(err) == admin.InsufficientPrivilege:
			s.st.cfg.Log.Warn("membership left to the drop of the role", "role", s.role.Name, "error", err)
			continue
		case err != nil:
			return err
		}
		s.dropped = append(s.dropped, "membership of "+m.Member+" in "+m.Role)
	}
	return nil
}
