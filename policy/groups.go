package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hourgate/hourgate/internal/strictyaml"
)

// A Group is people under one name. Users can also name their own groups; both count together.
type Group struct {
	Name    string   `yaml:"name"`
	Members []string `yaml:"members"` // users
	Groups  []string `yaml:"groups"`  // whose members are members of this one too
}

// People are users by their own names and by those of their groups.
type People struct {
	Users  []string `yaml:"users"`
	Groups []string `yaml:"groups"`
}

func (p People) empty() bool { return len(p.Users)+len(p.Groups) == 0 }

// String names the people, for a person to read.
func (p People) String() string {
	names := slices.Clone(p.Users)
	for _, g := range p.Groups {
		names = append(names, "group "+g)
	}
	return strings.Join(names, ", ")
}

// membership is which groups each user is in, directly or through other groups, sorted.
type membership map[string][]string

// newMembership follows groups of groups. It ends for cycles too, and skips what is nil: a checker reports both.
func newMembership(users []*User, groups []*Group) membership {
	parents := make(map[string][]string) // group → groups that have its members too
	direct := make(map[string][]string)  // user → groups
	absent := func(u *User) bool { return u == nil || u.Disabled }
	users = slices.DeleteFunc(slices.Clone(users), absent)
	for _, u := range users {
		direct[u.Name] = append(direct[u.Name], u.Groups...)
	}
	for _, g := range groups {
		if g == nil {
			continue
		}
		for _, member := range g.Members {
			direct[member] = append(direct[member], g.Name)
		}
		for _, child := range g.Groups {
			parents[child] = append(parents[child], g.Name)
		}
	}
	m := make(membership, len(users))
	for _, u := range users {
		in := make(map[string]bool)
		for next := direct[u.Name]; len(next) > 0; {
			group := next[len(next)-1]
			next = next[:len(next)-1]
			if !in[group] {
				in[group] = true
				next = append(slices.Clip(next), parents[group]...)
			}
		}
		m[u.Name] = slices.Sorted(maps.Keys(in))
	}
	return m
}

// includes reports whether user, who exists, is among p.
func (m membership) includes(p People, user string) bool {
	groups, exists := m[user]
	return exists && (slices.Contains(p.Users, user) ||
		slices.ContainsFunc(p.Groups, func(group string) bool { return slices.Contains(groups, group) }))
}

// people returns the users among p, sorted.
func (m membership) people(p People) []string {
	var users []string
	for user := range m {
		if m.includes(p, user) {
			users = append(users, user)
		}
	}
	slices.Sort(users)
	return users
}

// Includes reports whether user is one of p, by name or through a group.
func (s *Set) Includes(p People, user string) bool { return s.member.includes(p, user) }

// Groups returns the groups that user is in, directly or through other groups, sorted.
func (s *Set) Groups(user string) []string { return slices.Clone(s.member[user]) }

// People returns the users among p, sorted.
func (s *Set) People(p People) []string { return s.member.people(p) }

// Known reports whether there is a user of that name.
func (s *Set) Known(user string) bool { return s.users[user] != nil }

// Operator reports whether user may look after everybody's sessions and requests, and set locks.
func (s *Set) Operator(user string) bool { return s.member.includes(s.operators, user) }

// noteGroups takes down the names of all groups, so that those of a later file are known.
func (c *checker) noteGroups(f decoded) {
	for i, g := range f.Groups {
		if !f.doc.Sound(fmt.Sprintf("groups[%d]", i)) {
			c.partial = true
			continue
		}
		c.declared[g.Name] = g
		c.members[g.Name] = true
	}
}

func (c *checker) checkGroups(f decoded) {
	for i, g := range f.Groups {
		path := fmt.Sprintf("groups[%d]", i)
		if !f.doc.Sound(path) {
			continue
		}
		c.checkName(f.doc, path+".name", g.Name)
		c.checkUnique(f.doc, path+".name", "group", g.Name, c.groups)
		c.checkList(f.doc, path+".members", g.Members, c.checkKnownUser)
		c.checkList(f.doc, path+".groups", g.Groups, c.checkKnownGroup)
		if cycle := c.cycle(g); cycle != nil {
			c.report(f.doc, path+".groups", "a group can't be within itself: %s", strings.Join(cycle, " → "))
		}
	}
}

// cycle returns the way from g through its groups back to g, if there is one.
func (c *checker) cycle(g *Group) []string {
	seen := make(map[string]bool)
	var walk func(at *Group, way []string) []string
	walk = func(at *Group, way []string) []string {
		for _, name := range at.Groups {
			next := c.declared[name]
			switch {
			case name == g.Name:
				return append(way, name)
			case next == nil || seen[name]:
				continue
			}
			seen[name] = true
			if found := walk(next, append(slices.Clip(way), name)); found != nil {
				return found
			}
		}
		return nil
	}
	return walk(g, []string{g.Name})
}

// checkPeople checks names of users and groups.
func (c *checker) checkPeople(doc *strictyaml.Document, path string, p People) {
	c.checkList(doc, path+".users", p.Users, c.checkKnownUser)
	c.checkList(doc, path+".groups", p.Groups, c.checkKnownGroup)
}
