package policy

import (
	"bytes"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/hourgate/hourgate/internal/strictyaml"
)

// Narrow is for files that are refused. It returns old without what they take away as far as they can be understood, and
// what that is; the policy is old itself if that is nothing. It gives nobody anything. What counts as taken away:
//
//   - a user, grant, group or flow that is gone from a file which is YAML, unless the file looks cut off or mistyped (its
//     last entry has a problem, an entry has no name that can be read, or the list itself is gone), or the name stands in
//     a file that can't be read at all;
//   - a user who is disabled, or proves who they are in another way now;
//   - of an entry, what its values that can be understood take away: holders, databases, time, access, membership.
//
// A file that is no YAML, or can't be read, takes nothing away.
func (r *Reading) Narrow(old *Set) (*Set, []string) {
	n := &narrowing{reading: r, old: old, entries: r.entries(), problems: r.checker.problems}
	users, disabled := n.users()
	groups := n.groups()
	grants := n.grants()
	flows := n.flows()
	if len(n.taken) == 0 {
		return old, nil
	}
	s := *old
	s.users, s.disabled, s.groups, s.flows = users, disabled, groups, flows
	s.member = newMembership(slices.Collect(maps.Values(users)), groups)
	s.operators = n.operators()
	s.grants, s.byUser, s.byGroup = map[string]*Grant{}, map[string][]*Grant{}, map[string][]*Grant{}
	for _, g := range grants {
		s.add(g)
	}
	slices.Sort(n.taken)
	return &s, n.taken
}

// narrowing is one call of Narrow.
type narrowing struct {
	reading  *Reading
	old      *Set
	entries  map[string][]standing // by originKey
	problems strictyaml.Problems
	taken    []string
}

// standing is an entry of a list in a file.
type standing struct {
	file *decoded
	path string
	i    int
}

func (r *Reading) entries() map[string][]standing {
	entries := make(map[string][]standing)
	for i := range r.files {
		f := &r.files[i]
		if f.doc == nil {
			continue
		}
		for _, l := range f.lists() {
			for j := range l.len {
				if name := l.name(j); name != "" {
					key := originKey(l.kind, name)
					entries[key] = append(entries[key], standing{f, fmt.Sprintf("%s[%d]", l.key, j), j})
				}
			}
		}
	}
	return entries
}

func (n *narrowing) take(format string, args ...any) {
	n.taken = append(n.taken, fmt.Sprintf(format, args...))
}

// gone reports whether something of the old policy is taken away by not being there.
func (n *narrowing) gone(kind, name string) bool {
	if len(n.entries[originKey(kind, name)]) > 0 {
		return false
	}
	origin := n.old.originOf(kind, name)
	for _, p := range n.reading.unread {
		if within(origin, p.File) {
			return false
		}
	}
	for i := range n.reading.files {
		f := &n.reading.files[i]
		switch {
		case f.source.File == origin && (f.doc == nil || !n.trusted(f, kind)):
			return false
		case (f.doc == nil || !n.named(f, kind)) && bytes.Contains(f.source.Data, []byte(name)):
			return false // it may have been moved there
		}
	}
	return true
}

// trusted reports whether what is not in a file's list can be taken for gone.
func (n *narrowing) trusted(f *decoded, kind string) bool {
	if !n.named(f, kind) {
		return false
	}
	last := 0 // the line of the last entry of any list
	for _, l := range f.lists() {
		if l.len > 0 {
			last = max(last, f.doc.Line(fmt.Sprintf("%s[%d]", l.key, l.len-1)))
		}
	}
	for _, p := range n.problems {
		if p.File == f.source.File && (p.Path == "" || p.Line >= last) {
			return false // mistyped, or cut off
		}
	}
	return true
}

// named reports whether a file's list can be understood so far that each entry has a name.
func (n *narrowing) named(f *decoded, kind string) bool {
	for _, l := range f.lists() {
		if l.kind != kind {
			continue
		}
		if !f.doc.Sound(l.key) || kind == kindUser && !f.doc.Has(l.key) && n.old.hadUsersIn(f.source.File) {
			return false
		}
		for i := range l.len {
			if l.name(i) == "" {
				return false
			}
		}
	}
	return true
}

func (s *Set) hadUsersIn(file string) bool {
	for name := range s.users {
		if s.originOf(kindUser, name) == file {
			return true
		}
	}
	return false
}

// clean reports whether nothing is wrong at path or below it.
func (n *narrowing) clean(p standing, path string) bool {
	return !slices.ContainsFunc(n.problems, func(problem strictyaml.Problem) bool {
		rest, ok := strings.CutPrefix(problem.Path, path)
		return ok && problem.File == p.file.source.File && (rest == "" || rest[0] == '.' || rest[0] == '[')
	})
}

// says reports whether the value of a key in an entry can be understood. A key that is left out says something only where
// nothing else is wrong with the entry.
func (n *narrowing) says(p standing, key string) bool {
	path := p.path + "." + key
	if !p.file.doc.Has(path) {
		return n.clean(p, p.path)
	}
	return n.clean(p, path)
}

func both(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return !slices.Contains(b, s) })
}

func (n *narrowing) users() (users map[string]*User, disabled map[string]bool) {
	users, disabled = maps.Clone(n.old.users), maps.Clone(n.old.disabled)
	for name, old := range n.old.users {
		if n.gone(kindUser, name) {
			n.take("user %s", name)
			delete(users, name)
			continue
		}
		narrowed := *old
		for _, p := range n.entries[originKey(kindUser, name)] {
			u := p.file.Users[p.i]
			if u.Disabled && n.says(p, "disabled") {
				delete(users, name)
				disabled[name] = true
			}
			if n.says(p, "groups") {
				narrowed.Groups = both(narrowed.Groups, u.Groups)
			}
			if n.says(p, "scram") {
				narrowed.SCRAM = u.SCRAM
			}
			if n.says(p, "certificate") {
				narrowed.Certificate = u.Certificate
			}
		}
		switch {
		case disabled[name]:
			n.take("user %s", name)
		case !reflect.DeepEqual(narrowed, *old):
			n.take("groups or credentials of user %s", name)
			users[name] = &narrowed
		}
	}
	return users, disabled
}

func (n *narrowing) groups() (groups []*Group) {
	for _, old := range n.old.groups {
		if n.gone(kindGroup, old.Name) {
			n.take("group %s", old.Name)
			continue
		}
		narrowed := *old
		for _, p := range n.entries[originKey(kindGroup, old.Name)] {
			g := p.file.Groups[p.i]
			if n.says(p, "members") {
				narrowed.Members = both(narrowed.Members, g.Members)
			}
			if n.says(p, "groups") {
				narrowed.Groups = both(narrowed.Groups, g.Groups)
			}
		}
		if !slices.Equal(narrowed.Members, old.Members) || !slices.Equal(narrowed.Groups, old.Groups) {
			n.take("members of group %s", old.Name)
			old = &narrowed
		}
		groups = append(groups, old)
	}
	return groups
}

// operators are those of the old policy that the files, if they can all be read, still have.
func (n *narrowing) operators() People {
	for _, f := range n.reading.files {
		if f.doc == nil || !f.doc.Sound("operators") {
			return n.old.operators
		}
	}
	for _, f := range n.reading.files {
		if f.Operators != nil {
			return People{Users: both(n.old.operators.Users, f.Operators.Users), Groups: both(n.old.operators.Groups, f.Operators.Groups)}
		}
	}
	return n.old.operators
}

func (n *narrowing) grants() (grants []*Grant) {
	for name, old := range n.old.grants {
		written, integration, chosen := strings.Cut(name, "@") // of grants by labels there is one for each integration
		if n.gone(kindGrant, written) {
			n.take("grant %s", name)
			continue
		}
		narrowed, kept := *old, true
		for _, p := range n.entries[originKey(kindGrant, written)] {
			g := p.file.Grants[p.i]
			kept = kept && n.narrow(&narrowed, p, g)
			if chosen && n.says(p, "labels") {
				kept = kept && g.Labels != nil && n.reading.checker.has(integration, g.Labels)
			}
		}
		switch {
		case !kept || !narrowed.From.Before(narrowed.Until) || len(narrowed.Users)+len(narrowed.Groups) == 0 || len(narrowed.Databases) == 0:
			n.take("grant %s", name)
			continue
		case !reflect.DeepEqual(narrowed, *old):
			n.take("part of grant %s", name)
			old = &narrowed
		}
		grants = append(grants, old)
	}
	return grants
}

// narrow takes from a grant what an entry takes away, and reports whether any of it stays.
func (n *narrowing) narrow(g *Grant, p standing, entry *Grant) bool {
	if n.says(p, "users") {
		g.Users = both(g.Users, entry.Users)
	}
	if n.says(p, "groups") {
		g.Groups = both(g.Groups, entry.Groups)
	}
	if n.says(p, "databases") && entry.Databases != nil {
		g.Databases = both(g.Databases, entry.Databases)
	}
	if n.says(p, "until") && !entry.Until.IsZero() && entry.Until.Before(g.Until) {
		g.Until = entry.Until
	}
	if n.says(p, "from") && entry.From.After(g.From) {
		g.From = entry.From
	}
	if n.says(p, "integration") && entry.Integration != "" && entry.Integration != g.Integration {
		return false
	}
	if !n.says(p, "access") || entry.Access.Equal(g.Access) {
		return true
	}
	// Of two levels the lower one counts. What is otherwise another access is not this one any more.
	level := g.Access
	level.Level = entry.Access.Level
	if level.Level == "" || !level.Equal(entry.Access) {
		return false
	}
	if entry.Access.rank() < g.Access.rank() {
		g.Access = entry.Access
	}
	return true
}

func (n *narrowing) flows() map[string]*Flow {
	flows := maps.Clone(n.old.flows)
	for name, old := range n.old.flows {
		if n.gone(kindFlow, name) {
			n.take("access flow %s", name)
			delete(flows, name)
			continue
		}
		narrowed := *old
		for _, p := range n.entries[originKey(kindFlow, name)] {
			f := p.file.Flows[p.i]
			if n.says(p, "requestors") {
				narrowed.Requestors = People{
					Users: both(narrowed.Requestors.Users, f.Requestors.Users), Groups: both(narrowed.Requestors.Groups, f.Requestors.Groups),
				}
			}
			if n.says(p, "max_duration") && f.MaxDuration > 0 {
				narrowed.MaxDuration = min(narrowed.MaxDuration, f.MaxDuration)
				narrowed.Duration = min(narrowed.Duration, narrowed.MaxDuration)
			}
			if n.says(p, "targets") {
				narrowed.Targets = slices.DeleteFunc(slices.Clone(narrowed.Targets), func(t Target) bool {
					return !slices.ContainsFunc(f.Targets, func(o Target) bool {
						return reflect.DeepEqual(t.Access, o.Access) && reflect.DeepEqual(t.Databases, o.Databases) && sameIntegrations(t, o)
					})
				})
			}
		}
		if !reflect.DeepEqual(narrowed, *old) {
			n.take("part of access flow %s", name)
			flows[name] = &narrowed
		}
	}
	return flows
}

// sameIntegrations compares a target of a policy in force with one as it is written. Those that labels choose can't be
// compared by name.
func sameIntegrations(loaded, written Target) bool {
	if loaded.Labels != nil || written.Labels != nil {
		return maps.Equal(loaded.Labels, written.Labels)
	}
	for _, name := range loaded.Integrations {
		if !slices.Contains(written.Integrations, name) {
			return false
		}
	}
	return true
}
