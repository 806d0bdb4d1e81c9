package policy

import (
	"maps"
	"reflect"
	"slices"
)

// Changes are the names of what differs between two policies, sorted.
type Changes struct {
	UsersAdded, UsersRemoved, UsersChanged                 []string // changed: their groups or how they prove who they are
	GrantsAdded, GrantsRemoved, GrantsMoved, GrantsChanged []string // moved: only their times differ
	FlowsAdded, FlowsRemoved, FlowsChanged                 []string
}

// Changes says what is new in after.
func (s *Set) Changes(after *Set) Changes {
	var c Changes
	c.UsersAdded, c.UsersRemoved, c.UsersChanged = compare(s.users, after.users, func(name string, a, b *User) bool {
		return s.SameIdentity(after, name) && slices.Equal(s.member[name], after.member[name])
	})
	c.FlowsAdded, c.FlowsRemoved, c.FlowsChanged = compare(s.flows, after.flows, func(_ string, a, b *Flow) bool { return reflect.DeepEqual(a, b) })
	var differ []string
	c.GrantsAdded, c.GrantsRemoved, differ = compare(s.grants, after.grants, func(_ string, a, b *Grant) bool { return reflect.DeepEqual(a, b) })
	for _, name := range differ {
		moved := *s.grants[name]
		moved.From, moved.Until = after.grants[name].From, after.grants[name].Until
		if reflect.DeepEqual(&moved, after.grants[name]) {
			c.GrantsMoved = append(c.GrantsMoved, name)
		} else {
			c.GrantsChanged = append(c.GrantsChanged, name)
		}
	}
	return c
}

func compare[T any](before, after map[string]*T, same func(name string, a, b *T) bool) (added, removed, changed []string) {
	for _, name := range slices.Sorted(maps.Keys(after)) {
		switch old, ok := before[name]; {
		case !ok:
			added = append(added, name)
		case !same(name, old, after[name]):
			changed = append(changed, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if _, ok := after[name]; !ok {
			removed = append(removed, name)
		}
	}
	return added, removed, changed
}
