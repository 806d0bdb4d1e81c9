package policy

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"
)

// AllGrants returns all grants, live or not, by name.
func (s *Set) AllGrants() []*Grant {
	return slices.SortedFunc(maps.Values(s.grants), func(a, b *Grant) int { return strings.Compare(a.Name, b.Name) })
}

// Counts says how many grants are live at now, how many are to come, and how many have ended.
func (s *Set) Counts(now time.Time) (live, future, ended int) {
	for _, g := range s.grants {
		switch {
		case g.Live(now):
			live++
		case now.Before(g.From):
			future++
		default:
			ended++
		}
	}
	return live, future, ended
}

// Default returns the database that an integration's name alone stands for, and whether there is such an integration.
func (s *Set) Default(integration string) (database string, ok bool) {
	database, ok = s.defaults[integration]
	return database, ok
}

// A Holder is a person who may connect to a database, and by what.
type Holder struct {
	User    string
	Grant   *Grant // the one that counts
	Through string // the group by which the person holds it; "" for by name
}

// Holders returns who may connect to a database of an integration at now, by user.
func (s *Set) Holders(integration, database string, now time.Time) []Holder {
	var holders []Holder
	for user := range s.users {
		g := s.Decide(Request{User: user, Database: integration + "/" + database}, now).Grant
		if g == nil {
			continue
		}
		h := Holder{User: user, Grant: g}
		if !slices.Contains(g.Users, user) {
			i := slices.IndexFunc(g.Groups, func(group string) bool { return slices.Contains(s.member[user], group) })
			h.Through = g.Groups[max(i, 0)]
		}
		holders = append(holders, h)
	}
	slices.SortFunc(holders, func(a, b Holder) int { return cmp.Compare(a.User, b.User) })
	return holders
}

// FlowCount returns how many access flows there are.
func (s *Set) FlowCount() int { return len(s.flows) }
