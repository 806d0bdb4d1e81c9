package settle

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/roles/ledger"
)

// Powerless is the first thing that happens at a role's end, and depends on nothing that comes after it: no log-in, no
// password, no membership of the role in anything or of anybody in the role, no session. What the role made runs without
// rights from then on, whatever fails later.

//go:embed sql/find.sql
var findSQL string

const (
	briefLock       = "SET LOCAL lock_timeout = '50ms'"
	scanGap         = 10 * time.Millisecond // between two scans for backends that must both be clean
	scanLimit       = time.Second           // how long sessions may take to end
	membershipLooks = 3                     // after its sessions are over, in which somebody may go on handing on the role's membership
	disableTail     = " NOLOGIN NOCREATEROLE PASSWORD NULL VALID UNTIL '-infinity' CONNECTION LIMIT 0"
)

// cut takes memberships and sessions from all roles of a batch, and log-in too where they are few. Before its sessions end a
// tenant may hold locks; sessions should not end before they have told their clients why. So what fails here before they
// are terminated is done later, by disableSlice.
func (st *Settler) cut(ctx context.Context, c *admin.Conn, batch []*end) error {
	if err := st.find(ctx, c, batch); err != nil {
		return err
	}
	err := asEach(ctx, c, batch, func(ends []*end) error {
		if len(ends) <= sliceSize {
			st.disable(ctx, c, ends, false)
		} else {
			st.revokeAll(ctx, c, ends)
		}
		if err := awaitTold(ctx, ends); err != nil {
			return err
		}
		st.interrupt(ctx, c, ends)
		return st.terminate(ctx, c, slices.DeleteFunc(ends, func(e *end) bool { return e.taken }))
	})
	// Somebody else dropped these. Their sessions keep what everybody may do, and end too.
	if gone := slices.DeleteFunc(slices.Clone(batch), func(e *end) bool { return !e.gone }); len(gone) > 0 {
		if err := st.terminate(ctx, c, gone); err != nil {
			st.cfg.Log.Warn("sessions of a dropped role could not be terminated; they end with their connections", "error", err)
		}
	}
	return err
}

// disableSlice disables roles whose sessions have been terminated, each by itself where that can't be done for all.
func (st *Settler) disableSlice(ctx context.Context, c *admin.Conn, slice []*end) error {
	return asEach(ctx, c, slice, func(ends []*end) error {
		st.disable(ctx, c, ends, true)
		return nil
	})
}

// scan follows backends that passed the log-in check before the role was disabled and show up a moment later, and waits
// until those that were signalled are gone.
func (st *Settler) scan(ctx context.Context, c *admin.Conn, ends []*end) error {
	return asEach(ctx, c, ends, func(ends []*end) error {
		if err := st.terminate(ctx, c, ends); err != nil {
			return err
		}
		for _, e := range ends {
			if e.scans++; e.scans == 1 {
				e.scanned = time.Now()
			}
			late := !e.quiet && time.Since(e.scanned) > scanLimit
			if late {
				e.err = errors.Join(e.err, fmt.Errorf("a session of %s does not end", e.name))
			}
			e.over = e.quiet && e.scans > 1 || e.denied || late
		}
		return st.lookAgain(ctx, c, ends)
	})
}

// lookAgain looks once more for memberships of roles whose sessions are over. On 13 and 14 one of those may have handed the role's
// membership on while it was revoked from others, and until then whoever got it could do the same.
func (st *Settler) lookAgain(ctx context.Context, c *admin.Conn, ends []*end) error {
	over := slices.DeleteFunc(slices.Clone(ends), func(e *end) bool { return !e.over || !e.clean || e.looks == membershipLooks })
	if err := st.memberships(ctx, c, over); err != nil {
		return err
	}
	again := slices.DeleteFunc(over, func(e *end) bool { return len(e.held) == 0 })
	for _, e := range again {
		e.looks++
		e.clean, e.over, e.scans = false, false, 0
	}
	st.disable(ctx, c, again, true)
	return nil
}

// asEach calls fn with the ends that whom statements run as may alter, and then as the admin's login with the others: a role
// that the login made before CreatorRole was set up is the login's. Roles that are not there are left out.
func asEach(ctx context.Context, c *admin.Conn, batch []*end, fn func([]*end) error) (err error) {
	var ours, logins []*end
	for _, e := range batch {
		switch {
		case e.gone:
		case e.may || c.Version < 160000 || c.Acting == c.Login:
			ours = append(ours, e)
		default:
			logins = append(logins, e)
		}
	}
	if len(ours) > 0 {
		err = fn(ours)
	}
	if len(logins) == 0 {
		return err
	}
	was := c.Acting
	if actErr := c.Act(ctx, c.Login); actErr != nil {
		return errors.Join(err, actErr)
	}
	err = errors.Join(err, fn(logins))
	if !c.IsClosed() {
		err = errors.Join(err, c.Act(context.WithoutCancel(ctx), was))
	}
	return err
}

// find looks the roles up by OID, and makes sure that they are ours: by name or, when a DBA has renamed one, by its comment.
func (st *Settler) find(ctx context.Context, c *admin.Conn, batch []*end) error {
	rows, err := c.Query(ctx, findSQL, oids(batch))
	if err != nil {
		return err
	}
	type found struct {
		OID           uint32
		Name, Comment string
		May, Member   bool
		Attributes    string
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[found])
	if err != nil {
		return err
	}
	byOID := make(map[uint32]found)
	for _, f := range all {
		byOID[f.OID] = f
	}
	for _, e := range batch {
		f, ok := byOID[e.role.OID]
		e.gone = !ok || f.Name != e.role.Name && !sameGrant(f.Comment, e.role.Entry)
		e.name, e.comment, e.may, e.member, e.attributes = f.Name, f.Comment, f.May, f.Member, f.Attributes
	}
	return nil
}

// sameGrant reports whether a comment is that of a role for the same person and grant.
func sameGrant(comment string, of ledger.Entry) bool {
	e, ok := ledger.Parse(comment)
	return ok && e.Deployment == of.Deployment && e.User == of.User && e.Grant == of.Grant
}

// awaitTold waits until the sessions have told their clients, who would hear PostgreSQL's own words otherwise. Whoever closes
// told bounds that.
func awaitTold(ctx context.Context, ends []*end) error {
	for _, e := range ends {
		if e.told == nil {
			continue
		}
		select {
		case <-e.told:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// disable takes log-in and memberships from the roles that still have them, in one transaction. With alone, a role that
// can't be disabled with others is tried by itself, and then each of its statements: whatever can be taken is taken.
func (st *Settler) disable(ctx context.Context, c *admin.Conn, ends []*end, alone bool) {
	ends = slices.DeleteFunc(slices.Clone(ends), func(e *end) bool { return e.clean || e.taken })
	if len(ends) == 0 {
		return
	}
	err := st.memberships(ctx, c, ends)
	if err == nil {
		if err = st.disableTogether(ctx, c, ends); err == nil {
			return
		}
	} else {
		alone = false
	}
	for _, e := range ends {
		if e.err = err; alone {
			st.disableAlone(ctx, c, e)
		}
	}
}

// disabling are the statements that take a role's log-in, and attributes that somebody gave it. A role that the admin is not a
// member of, as after a change of the admin's user, is joined, which allows to terminate its backends.
func (e *end) disabling(c *admin.Conn) []string {
	name := admin.QuoteIdentifier(e.name)
	statements := []string{"ALTER ROLE " + name + disableTail}
	if e.attributes != "" {
		statements = append(statements, "ALTER ROLE "+name+e.attributes)
	}
	if !e.member {
		statements = append(statements, c.Join(name))
	}
	return statements
}

func (st *Settler) disableTogether(ctx context.Context, c *admin.Conn, ends []*end) error {
	statements := []string{briefLock}
	for _, e := range ends {
		statements = append(statements, e.disabling(c)...)
	}
	statements = append(append(statements, revocations(c, ends)...), commentsOf(ends))
	err := c.Transaction(ctx, statements, func(rows [][][]byte) error { return notTaken(ends, rows) })
	if err != nil {
		return err
	}
	for _, e := range ends {
		e.clean, e.member, e.err = true, true, nil
	}
	return nil
}

// errTaken is a role that another process has taken over or prolonged since it was decided upon.
var errTaken = errors.New("the role was taken over")

// commentsOf asks once more what the ledger says, now that nobody else can change the roles.
func commentsOf(ends []*end) string {
	list := make([]string, len(ends))
	for i, o := range oids(ends) {
		list[i] = strconv.FormatUint(uint64(o), 10)
	}
	return "SELECT oid, coalesce(shobj_description(oid, 'pg_authid'), '') FROM pg_roles WHERE oid IN (" + strings.Join(list, ", ") + ")"
}

// notTaken compares what commentsOf returned with what the ends were decided upon.
func notTaken(ends []*end, rows [][][]byte) error {
	comments := make(map[string]string)
	for _, row := range rows {
		comments[string(row[0])] = string(row[1])
	}
	var err error
	for _, e := range ends {
		if e.decided != "" && comments[strconv.FormatUint(uint64(e.role.OID), 10)] != e.decided {
			e.taken, err = true, errTaken
		}
	}
	return err
}

// disableAlone takes what can be taken from one role. Each statement that fails is told, and the others are done.
func (st *Settler) disableAlone(ctx context.Context, c *admin.Conn, e *end) {
	if e.taken {
		return
	}
	if e.err = st.disableTogether(ctx, c, []*end{e}); e.err == nil || e.taken {
		return
	}
	var errs []error
	statements := e.disabling(c)
	for _, m := range e.held {
		statements = append(statements, m.revoke(c, m.Member))
	}
	for i, statement := range statements {
		run := func() error {
			return c.Transaction(ctx, []string{briefLock, statement}, func([][][]byte) error { return nil })
		}
		err := run()
		if i == 0 && admin.SQLState(err) == pgerrcode.LockNotAvailable {
			err = st.pastBlockers(ctx, c, nil, run)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	e.err = errors.Join(errs...)
	e.clean = e.err == nil
}

// terminate signals the backends whose session user is one of the roles, whatever they have SET ROLE to. It goes by OID and
// in one statement for all, so that neither a rename nor a reused pid can mislead it.
func (st *Settler) terminate(ctx context.Context, c *admin.Conn, ends []*end) error {
	if len(ends) == 0 {
		return nil
	}
	counts, closed, err := signal(ctx, c, ends, "")
	if admin.SQLState(err) == pgerrcode.InsufficientPrivilege && len(ends) > 1 {
		// One backend that the admin may not signal fails the statement for all.
		for _, e := range ends {
			if err := st.terminate(ctx, c, []*end{e}); err != nil {
				e.err, e.denied = errors.Join(e.err, err), true
			}
		}
		return nil
	}
	if err != nil {
		return explain(c, ends[0], err)
	}
	for _, e := range ends {
		e.terminated += counts[e.role.OID]
		e.quiet, e.denied, e.closed = counts[e.role.OID] == 0, false, closed
	}
	return nil
}

// signal terminates the backends of the roles but for those in one state, if that is not empty. See verify for why it doesn't
// read pg_stat_activity.
func signal(ctx context.Context, c *admin.Conn, ends []*end, but string) (map[uint32]int, time.Time, error) {
	var closed time.Time
	counts := make(map[uint32]int)
	rows, err := c.Query(ctx, `
		SELECT s.oid, count(a.pid) FILTER (WHERE pg_terminate_backend(a.pid))::int, clock_timestamp()
		  FROM unnest($1::oid[]) s(oid)
		  LEFT JOIN (SELECT pg_stat_get_backend_pid(b) AS pid, pg_stat_get_backend_userid(b) AS usesysid FROM pg_stat_get_backend_idset() b) a
		         ON a.usesysid = s.oid AND ($2 = '' OR (SELECT state FROM pg_stat_get_activity(a.pid)) <> $2) GROUP BY 1`, oids(ends), but)
	if err != nil {
		return nil, closed, err
	}
	var oid uint32
	var n int
	_, err = pgx.ForEachRow(rows, []any{&oid, &n, &closed}, func() error { counts[oid] = n; return nil })
	return counts, closed, err
}

// interrupt ends what many sessions run, before they are terminated: the end of a server process takes the machine ten times as
// long as the end of its statement. Sessions that ignore it are terminated first. What a client has sent ahead may begin meanwhile,
// so only roles without memberships are meant. Nothing depends on it: terminate follows.
func (st *Settler) interrupt(ctx context.Context, c *admin.Conn, ends []*end) {
	ends = slices.DeleteFunc(slices.Clone(ends), func(e *end) bool { return !e.stripped })
	if len(ends) == 0 {
		return
	}
	var canceled int
	err := c.QueryOne(ctx, "SELECT count(*) FILTER (WHERE pg_cancel_backend(pid)) FROM pg_stat_activity WHERE usesysid = ANY ($1) AND state <> 'idle'",
		[]any{oids(ends)}, &canceled)
	var counts map[uint32]int
	if err == nil {
		counts, _, err = signal(ctx, c, ends, "idle")
	}
	if err != nil {
		st.cfg.Log.Warn("statements could not be ended together, each session is terminated", "roles", len(ends), "error", err)
	}
	for _, e := range ends {
		e.terminated += counts[e.role.OID]
	}
}

// explain turns the refusal to terminate into what a DBA has to do.
func explain(c *admin.Conn, e *end, err error) error {
	if admin.SQLState(err) == pgerrcode.InsufficientPrivilege {
		return &admin.PrivilegeError{
			Problem:    "the admin may not terminate the backends of " + e.role.Name,
			Statements: []string{"GRANT pg_signal_backend TO " + admin.QuoteIdentifier(c.Acting) + ";"},
		}
	}
	return err
}

func oids(ends []*end) []uint32 {
	list := make([]uint32, len(ends))
	for i, e := range ends {
		list[i] = e.role.OID
	}
	return list
}

// groupNames are the roles that the role was a member of, in order.
func (e *end) groupNames() []string { return slices.Sorted(maps.Keys(e.groups)) }
