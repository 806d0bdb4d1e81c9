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

//go:embed sql/memberships.sql
var membershipsSQL string

const (
	batchSize    = 32 // roles of one transaction
	briefLock    = "SET LOCAL lock_timeout = '50ms'"
	scanGap      = 10 * time.Millisecond // between two scans for backends that must both be clean
	blockerTries = 4                     // of a statement while another connection looks for who blocks it
	blockerLooks = 10
	scanLimit    = 60 // scans of one round
	disableTail  = " NOLOGIN PASSWORD NULL VALID UNTIL '-infinity' CONNECTION LIMIT 0"
)

// round takes the power of a batch of roles. It has three passes, because a tenant may hold locks until its sessions end,
// while sessions should not end before they have told their clients why.
func (st *Settler) round(ctx context.Context, c *admin.Conn, batch []*end) error {
	if err := st.find(ctx, c, batch); err != nil {
		return err
	}
	var errs []error
	for _, as := range []string{c.Acting, c.Login} { // a role that the login made before CreatorRole was set up is the login's
		ends := slices.DeleteFunc(slices.Clone(batch), func(e *end) bool {
			return e.gone || (e.may || c.Version < 160000 || c.Acting == c.Login) != (as == c.Acting)
		})
		if len(ends) > 0 {
			errs = append(errs, st.roundAs(ctx, c, as, ends))
		}
		if c.Acting == c.Login {
			break
		}
	}
	// Somebody else dropped these. Their sessions keep what everybody may do, and end too.
	if gone := slices.DeleteFunc(slices.Clone(batch), func(e *end) bool { return !e.gone }); len(gone) > 0 {
		if err := st.terminate(ctx, c, gone); err != nil {
			st.cfg.Log.Warn("sessions of a dropped role could not be terminated; they end with their connections", "error", err)
		}
	}
	return errors.Join(errs...)
}

func (st *Settler) roundAs(ctx context.Context, c *admin.Conn, as string, ends []*end) (err error) {
	if was := c.Acting; as != was {
		if err := c.Act(ctx, as); err != nil {
			return err
		}
		defer func() {
			if !c.IsClosed() {
				err = errors.Join(err, c.Act(context.WithoutCancel(ctx), was))
			}
		}()
	}
	st.disable(ctx, c, ends, false)
	if err := awaitTold(ctx, ends); err != nil {
		return err
	}
	ends = slices.DeleteFunc(ends, func(e *end) bool { return e.taken })
	if err := st.terminate(ctx, c, ends); err != nil || len(ends) == 0 {
		return err
	}
	st.disable(ctx, c, ends, true)
	return st.terminateUntilQuiet(ctx, c, ends)
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
		e.name, e.comment, e.may, e.member = f.Name, f.Comment, f.May, f.Member
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

// disable takes log-in and memberships from the roles that still have them, many in a transaction. With alone, a role that
// can't be disabled with others is tried by itself, and then each of its statements: whatever can be taken is taken.
func (st *Settler) disable(ctx context.Context, c *admin.Conn, ends []*end, alone bool) {
	ends = slices.DeleteFunc(slices.Clone(ends), func(e *end) bool { return e.clean || e.taken || e.gone })
	if err := st.memberships(ctx, c, ends); err != nil {
		for _, e := range ends {
			e.err = err
		}
		return
	}
	for chunk := range slices.Chunk(ends, batchSize) {
		err := st.disableTogether(ctx, c, chunk)
		if err == nil {
			continue
		}
		for _, e := range chunk {
			if e.err = err; alone {
				st.disableAlone(ctx, c, e)
			}
		}
	}
}

// membership is a row of memberships.sql.
type membership struct {
	OID                    uint32
	Group, Member, Grantor string
	Revocable              bool
	Held                   bool // by the role, not in it
}

// memberships finds out what there is to revoke.
func (st *Settler) memberships(ctx context.Context, c *admin.Conn, ends []*end) error {
	if len(ends) == 0 {
		return nil
	}
	rows, err := c.Query(ctx, membershipsSQL, oids(ends))
	if err != nil {
		return err
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[membership])
	if err != nil {
		return err
	}
	byOID := make(map[uint32]*end)
	for _, e := range ends {
		byOID[e.role.OID], e.held = e, nil
	}
	for _, m := range all {
		e := byOID[m.OID]
		if m.Held {
			if e.groups == nil {
				e.groups = make(map[string]bool)
			}
			e.groups[m.Group] = true
		}
		if m.Revocable {
			e.held = append(e.held, m.revoke(c))
		}
	}
	return nil
}

// revoke is the statement. Before 16 a membership has one grantor, who does not matter.
func (m membership) revoke(c *admin.Conn) string {
	statement := "REVOKE " + admin.QuoteIdentifier(m.Group) + " FROM " + admin.QuoteIdentifier(m.Member)
	if c.Version >= 160000 && m.Grantor != "" {
		statement += " GRANTED BY " + admin.QuoteIdentifier(m.Grantor)
	}
	return statement + " CASCADE"
}

// statements are those that take a role's power. A role that the admin is not a member of, as after a change of the admin's
// user, is joined first, which allows to terminate its backends.
func (e *end) statements(c *admin.Conn) []string {
	name := admin.QuoteIdentifier(e.name)
	statements := append([]string{"ALTER ROLE " + name + disableTail}, e.held...)
	if !e.member {
		statements = append(statements, c.Join(name))
	}
	return statements
}

func (st *Settler) disableTogether(ctx context.Context, c *admin.Conn, ends []*end) error {
	statements := []string{briefLock}
	for _, e := range ends {
		statements = append(statements, e.statements(c)...)
	}
	statements = append(statements, commentsOf(ends))
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
	for i, statement := range e.statements(c) {
		run := func() error {
			return c.Transaction(ctx, []string{briefLock, statement}, func([][][]byte) error { return nil })
		}
		err := run()
		if i == 0 && admin.SQLState(err) == pgerrcode.LockNotAvailable {
			err = st.pastBlockers(ctx, c, run)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	e.err = errors.Join(errs...)
	e.clean = e.err == nil
}

// pastBlockers runs a statement that waits for a lock on the role's own row, and ends the sessions that hold it: only somebody
// who acts as the role can.
func (st *Settler) pastBlockers(ctx context.Context, c *admin.Conn, run func() error) error {
	waiting := c.PgConn().PID()
	looked := make(chan error, 1)
	go func() {
		looked <- st.cfg.Pool.Use(ctx, func(other *admin.Conn) error {
			for range blockerLooks {
				var ended int
				err := other.QueryOne(ctx, "SELECT count(*) FILTER (WHERE pg_terminate_backend(b)) FROM unnest(pg_blocking_pids($1)) b", []any{waiting}, &ended)
				if err != nil || ended > 0 {
					return err
				}
				if err := admin.Pause(ctx, scanGap); err != nil {
					return err
				}
			}
			return nil
		})
	}()
	var err error
	for range blockerTries {
		if err = run(); admin.SQLState(err) != pgerrcode.LockNotAvailable {
			break
		}
	}
	return errors.Join(err, <-looked)
}

// terminate signals the backends whose session user is one of the roles, whatever they have SET ROLE to. It goes by OID and
// in one statement for all, so that neither a rename nor a reused pid can mislead it.
func (st *Settler) terminate(ctx context.Context, c *admin.Conn, ends []*end) error {
	counts, closed, err := signal(ctx, c, ends)
	if admin.SQLState(err) == pgerrcode.InsufficientPrivilege && len(ends) > 1 {
		// One backend that the admin may not signal fails the statement for all.
		for _, e := range ends {
			e.err = errors.Join(e.err, st.terminate(ctx, c, []*end{e}))
		}
		return nil
	}
	if err != nil {
		return explain(c, ends[0], err)
	}
	for _, e := range ends {
		e.terminated += counts[e.role.OID]
		e.quiet, e.closed = counts[e.role.OID] == 0, closed
	}
	return nil
}

func signal(ctx context.Context, c *admin.Conn, ends []*end) (map[uint32]int, time.Time, error) {
	var closed time.Time
	counts := make(map[uint32]int)
	rows, err := c.Query(ctx, `
		SELECT s.oid, count(a.pid) FILTER (WHERE pg_terminate_backend(a.pid))::int, clock_timestamp()
		  FROM unnest($1::oid[]) s(oid) LEFT JOIN pg_stat_activity a ON a.usesysid = s.oid GROUP BY 1`, oids(ends))
	if err != nil {
		return nil, closed, err
	}
	var oid uint32
	var n int
	_, err = pgx.ForEachRow(rows, []any{&oid, &n, &closed}, func() error { counts[oid] = n; return nil })
	return counts, closed, err
}

// terminateUntilQuiet follows backends that passed the log-in check before the role was disabled and show up a moment later,
// and waits until those that were signalled are gone.
func (st *Settler) terminateUntilQuiet(ctx context.Context, c *admin.Conn, ends []*end) error {
	loud := slices.DeleteFunc(slices.Clone(ends), func(e *end) bool { return e.taken })
	for scan := 0; len(loud) > 0; scan++ {
		if err := st.terminate(ctx, c, loud); err != nil {
			return err
		}
		if scan > 0 {
			loud = slices.DeleteFunc(loud, func(e *end) bool { return e.quiet })
		}
		if scan == scanLimit {
			for _, e := range loud {
				e.err = errors.Join(e.err, fmt.Errorf("a session of %s does not end", e.name))
			}
			return nil
		}
		if err := admin.Pause(ctx, scanGap); err != nil {
			return err
		}
	}
	return nil
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
