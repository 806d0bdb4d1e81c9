package settle

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/admin"
)

//go:embed sql/inside.sql
var insideSQL string

// errInside is a session of somebody else that goes on with the role's rights and that the admin may not terminate.
var errInside = errors.New("a session is inside code that the role made, and the admin may not terminate it (GRANT pg_signal_backend)")

// insider is a session of somebody else; see inside.sql.
type insider struct {
	PID, UserID                uint32
	Start                      pgtype.Timestamptz // -infinity where the admin is not shown it
	User, Address, Application string
}

//go:embed sql/temporary.sql
var temporarySQL string

// endOthers ends the sessions of others that are inside the role's code in databases where it may have left none: a tenant can drop a
// function that somebody is inside.
func (s *settlement) endOthers(ctx context.Context) {
	for _, database := range s.inventory.Others {
		err := s.in(ctx, database, func(c *admin.Conn) error {
			err := s.endAll(ctx, c, makersSQL, s.groups, s.end.closed)
			return errors.Join(err, s.endInsiders(ctx, c, []uint32{s.oid}))
		})
		if admin.SQLState(err) != pgerrcode.InvalidCatalogName { // dropped meanwhile, which takes that nobody is in it
			s.try("sessions inside the role's code in database "+database, err)
		}
	}
}

// rights are the names of the role and of all roles whose rights it had.
func (s *settlement) rights() []string {
	return slices.Compact(slices.Sorted(slices.Values(slices.Concat([]string{s.role.Name}, s.end.groupNames(), s.groups))))
}

// endInsiders ends the sessions of others that are inside code that the owners made, in c's database. Those of the gate go,
// and those of others if the admin may; each is recorded. A role is not settled while one of them goes on.
func (s *settlement) endInsiders(ctx context.Context, c *admin.Conn, owners []uint32) error {
	var code, tables, could bool // could: it had a schema in which to make code
	err := c.QueryOne(ctx, `
		SELECT EXISTS (SELECT FROM pg_proc WHERE proowner = ANY ($1)) OR EXISTS (SELECT FROM pg_class WHERE relkind = 'v' AND relowner = ANY ($1)),
		       EXISTS (SELECT FROM pg_class WHERE relkind IN ('r', 'm', 'p') AND relowner = ANY ($1)),
		       EXISTS (SELECT FROM pg_namespace n, pg_roles g WHERE n.nspname !~ '^pg_' AND g.rolname = ANY ($2) AND has_schema_privilege(g.oid, n.oid, 'CREATE'))`,
		[]any{owners, s.rights()}, &code, &tables, &could)
	if err == nil && (code || tables) {
		err = s.endVacuum(ctx, c, owners)
	}
	if err != nil || !code && !could {
		return err
	}
	return s.endAll(ctx, c, insideSQL, owners, s.end.closed, s.rights(), code)
}

// endTemporary ends the sessions of others whose temporary schema holds something of a group's, and waits until it is gone with them.
func (s *settlement) endTemporary(ctx context.Context, c *admin.Conn, g group) error {
	return s.endAll(ctx, c, temporarySQL, g.OID, s.end.closed, g.profile() || !g.Shared)
}

// endAll ends the sessions that a query finds, and waits until they are over.
func (s *settlement) endAll(ctx context.Context, c *admin.Conn, query string, args ...any) error {
	rows, err := c.Query(ctx, query, args...)
	if err != nil {
		return err
	}
	sessions, err := pgx.CollectRows(rows, pgx.RowToStructByPos[insider])
	if err != nil {
		return err
	}
	pids := make([]uint32, len(sessions))
	for n, i := range sessions {
		s.endInsider(ctx, c, i)
		pids[n] = i.PID
	}
	return awaitOver(ctx, c, pids, s.end.closed)
}

func (s *settlement) endInsider(ctx context.Context, c *admin.Conn, i insider) {
	var ended int
	err := c.QueryOne(ctx, `
		SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity
		 WHERE pid = $1 AND usesysid = $2 AND coalesce(backend_start, '-infinity') = $3`, []any{i.PID, i.UserID, i.Start}, &ended)
	if err == nil && ended == 0 {
		return // it is over by itself
	}
	what := fmt.Sprintf("session %d of %s", i.PID, i.User)
	if err != nil {
		s.resists(what, errors.Join(errInside, err))
	}
	s.recordInside(i, ended, err)
}

// recordInside tells of a session that was inside, the first time.
func (s *settlement) recordInside(i insider, ended int, err error) {
	s.st.cfg.Log.Warn("somebody else's session was inside code that an ended role made", "role", s.role.Name,
		"pid", i.PID, "session_user", i.User, "terminated", ended, "error", err)
	if !s.st.firstSight(i) {
		return
	}
	appended := s.st.append(s.st.record(audit.SessionInside, s.role, func(rec *audit.Record) {
		rec.RemoteAddr, rec.Application, rec.SessionsTerminated = i.Address, i.Application, ended
		rec.Detail = map[string]string{"pid": fmt.Sprint(i.PID), "session_user": i.User}
	}))
	if appended != nil {
		s.st.cfg.Log.Error("a session could not be recorded", "role", s.role.Name, "error", appended)
	}
}

// firstSight reports whether an insider was not recorded yet, so that each is recorded once and not at every try.
func (st *Settler) firstSight(i insider) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	key := insider{PID: i.PID, Start: i.Start}
	seen := st.insiders[key]
	for old := range st.insiders {
		if time.Since(st.insiders[old]) > time.Hour {
			delete(st.insiders, old)
		}
	}
	st.insiders[key] = time.Now()
	return seen.IsZero()
}

// noteGuest remembers who was a member of a role until it is settled.
func (st *Settler) noteGuest(role uint32, member string) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if !slices.Contains(st.guests[role], member) {
		st.guests[role] = append(st.guests[role], member)
	}
}

// endGuests ends the sessions of those who were members of the role at its end, as endInsiders does. Such a session may have SET
// ROLE to the role, or before 16 to what that was a member of. It keeps that user when the membership is revoked, and the
// server shows nobody which one it is. Whoever may make roles is left alone: it may be an admin of another gate.
func (s *settlement) endGuests(ctx context.Context) error {
	s.st.mu.Lock()
	guests := slices.Clone(s.st.guests[s.oid])
	s.st.mu.Unlock()
	if len(guests) == 0 {
		return nil
	}
	return s.endAll(ctx, s.c, `
		SELECT a.pid, a.usesysid, coalesce(a.backend_start, '-infinity'), a.usename::text, coalesce(host(a.client_addr), 'local'), coalesce(a.application_name, '')
		  FROM pg_stat_activity a JOIN pg_roles u ON u.oid = a.usesysid
		 WHERE NOT u.rolsuper AND NOT u.rolcreaterole AND u.rolname NOT IN (session_user, current_user)
		   AND (a.backend_start < $2 OR a.backend_start IS NULL)
		   AND EXISTS (SELECT FROM pg_roles g WHERE g.rolname = ANY ($1) AND NOT g.rolcreaterole AND pg_has_role(a.usesysid, g.oid, 'MEMBER'))`, guests, s.end.closed)
}

// awaitOver waits until sessions that began before closed are over, if they are so soon: what they made until then is seen after that.
func awaitOver(ctx context.Context, c *admin.Conn, pids []uint32, closed time.Time) error {
	for began := time.Now(); len(pids) > 0 && time.Since(began) < scanLimit; {
		err := c.QueryOne(ctx, "SELECT coalesce(array_agg(pid), '{}') FROM pg_stat_activity WHERE pid = ANY ($1::int[]) AND (backend_start < $2 OR backend_start IS NULL)",
			[]any{pids, closed}, &pids)
		if err == nil && len(pids) > 0 {
			err = admin.Pause(ctx, scanGap)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
