package settle

import (
	"context"
	_ "embed"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/admin"
)

//go:embed sql/memberships.sql
var membershipsSQL string

// revokeBatch is how many roles of one transaction lose their memberships.
const revokeBatch = 250

// revokeAll takes the memberships of many roles of this process in few statements. What fails is disable's.
func (st *Settler) revokeAll(ctx context.Context, c *admin.Conn, ends []*end) {
	ends = slices.DeleteFunc(slices.Clone(ends), func(e *end) bool { return e.decided != "" }) // which may have been taken over
	if err := st.memberships(ctx, c, ends); err != nil {
		return
	}
	for chunk := range slices.Chunk(ends, revokeBatch) {
		statements := append([]string{briefLock}, revocations(c, chunk)...)
		if err := c.Transaction(ctx, statements, func([][][]byte) error { return nil }); err != nil {
			st.cfg.Log.Warn("memberships could not be revoked together, each role is done by itself", "roles", len(chunk), "error", err)
			continue
		}
		for _, e := range chunk {
			e.stripped = true
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
		if m.Group == e.name && !m.Held {
			st.noteGuest(e.role.OID, m.Member)
		}
		if m.Revocable {
			e.held = append(e.held, m)
		}
	}
	return nil
}

// remember has the groups that earlier tries of the same end took from the role, which a later one can't read from memberships.
func (st *Settler) remember(e *end) {
	st.mu.Lock()
	defer st.mu.Unlock()
	all := maps.Clone(st.held[e.role.OID])
	if all == nil {
		all = make(map[string]bool)
	}
	maps.Copy(all, e.groups)
	st.held[e.role.OID], e.groups = all, all
}

// revoke is the statement that takes a membership from all members. Before 16 a membership has one grantor, who does not
// matter.
func (m membership) revoke(c *admin.Conn, members ...string) string {
	for i, name := range members {
		members[i] = admin.QuoteIdentifier(name)
	}
	statement := "REVOKE " + admin.QuoteIdentifier(m.Group) + " FROM " + strings.Join(members, ", ")
	if c.Version >= 160000 && m.Grantor != "" {
		statement += " GRANTED BY " + admin.QuoteIdentifier(m.Grantor)
	}
	return statement + " CASCADE"
}

// revocations are the statements that take all memberships of the ends, one for each group and grantor: after each the server
// reads the memberships of the admin anew, which is a member of every role that it made.
func revocations(c *admin.Conn, ends []*end) (statements []string) {
	members := make(map[membership][]string)
	var order []membership
	for _, e := range ends {
		for _, m := range e.held {
			key := membership{Group: m.Group, Grantor: m.Grantor}
			if members[key] == nil {
				order = append(order, key)
			}
			if !slices.Contains(members[key], m.Member) { // two of the ends may be members of each other
				members[key] = append(members[key], m.Member)
			}
		}
	}
	for _, key := range order {
		statements = append(statements, key.revoke(c, members[key]...))
	}
	return statements
}
