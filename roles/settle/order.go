package settle

import (
	"context"
	_ "embed"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/admin"
)

//go:embed sql/order.sql
var orderSQL string

// byHashing keeps the server from comparing all with all, as it does where it takes the objects for few: 2.5 s for 800 views on 14,
// and 0.1 s for 3,000 this way.
const byHashing = "SET LOCAL enable_nestloop = off; SET LOCAL enable_mergejoin = off"

// errNeeded is an object that can't be dropped because something of somebody else depends on it.
var errNeeded = errors.New("something of somebody else depends on it")

// key identifies an object in a database.
type key struct{ Class, OID uint32 }

func (o object) key() key { return key{o.Class, o.OID} }

// tangle is what hangs together of what a role owns.
type tangle struct {
	needs    map[key][]key // what an object depends on
	neededBy map[key]int   // how many of the role's own depend on it
	others   []key         // on which something of somebody else depends
}

// untangle puts objects into an order in which each can be dropped. Not among them are those that others need, directly or by way of
// something of the role's, and those in a circle or needed by one: these can be dropped together only.
func (s *estate) untangle(ctx context.Context, c *admin.Conn, all []object) (ordered, needed, circles []object, err error) {
	t, err := s.tangled(ctx, c)
	if err != nil {
		return nil, nil, nil, err
	}
	kept := t.reach(t.others)
	byKey := make(map[key]object, len(all))
	var free []key
	for _, o := range all {
		switch k := o.key(); {
		case kept[k]:
			needed = append(needed, o)
		case t.neededBy[k] == 0:
			free = append(free, k)
			fallthrough
		default:
			byKey[k] = o
		}
	}
	for len(free) > 0 {
		k := free[0]
		free = free[1:]
		if o, ok := byKey[k]; ok {
			ordered = append(ordered, o)
			delete(byKey, k)
		}
		for _, n := range t.needs[k] {
			if t.neededBy[n]--; t.neededBy[n] == 0 && !kept[n] {
				free = append(free, n)
			}
		}
	}
	for _, o := range all {
		if _, ok := byKey[o.key()]; ok {
			circles = append(circles, o)
		}
	}
	return ordered, needed, circles, nil
}

func (s *estate) tangled(ctx context.Context, c *admin.Conn) (tangle, error) {
	t := tangle{needs: make(map[key][]key), neededBy: make(map[key]int)}
	read := func([][][]byte) error {
		rows, err := c.Query(ctx, orderSQL, s.oid)
		if err != nil {
			return err
		}
		var of, by key
		_, err = pgx.ForEachRow(rows, []any{&of.Class, &of.OID, &by.Class, &by.OID}, func() error {
			if by == (key{}) {
				t.others = append(t.others, of)
			} else {
				t.needs[by] = append(t.needs[by], of)
				t.neededBy[of]++
			}
			return nil
		})
		return err
	}
	err := c.Transaction(ctx, []string{byHashing}, read)
	return t, err
}

// reach are the objects from, and all that they depend on.
func (t tangle) reach(from []key) map[key]bool {
	all := make(map[key]bool)
	for len(from) > 0 {
		k := from[len(from)-1]
		from = from[:len(from)-1]
		if !all[k] {
			all[k] = true
			from = append(from, t.needs[k]...)
		}
	}
	return all
}
