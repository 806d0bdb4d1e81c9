package policy_test

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hourgate/hourgate/internal/strictyaml"
	"github.com/hourgate/hourgate/policy"
)

// FuzzLoad: no file makes loading panic, a refusal says where, and what is accepted holds to the rules and decides as a
// list of grants would that is gone through from top to bottom.
func FuzzLoad(f *testing.F) {
	example, err := os.ReadFile("../policy.example.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(comment.ReplaceAll(example, nil))
	f.Add([]byte("users: [{name: a}, {name: b, groups: [g]}]\ngrants:\n" +
		"- {name: x, users: [a], integration: orders-prod, databases: [orders, warehouse], access: READ_ONLY, until: 2026-11-22T17:00:00Z}\n" +
		"- {name: y, groups: [g], users: [a], integration: analytics, access: ADMIN, from: 2026-11-22T09:00:00Z, until: 2026-11-22T13:00:00Z}\n" +
		"- {name: z, users: [b], integration: billing, databases: [orders], access: {tables: {s.t: [SELECT]}}, until: 2026-11-23T00:00:00+01:00}\n"))
	for _, fault := range [][2]string{ // each is the only one in a file that is good but for it
		{"", ""},
		{"users: [a]", "users: [a, a]"},
		{"users: [a]", "users: [nobody]"},
		{"users: [a]", "groups: [g, g]"},
		{"users: [a]", "groups: [nobodies]"},
		{"users: [a], ", ""},
		{"[d, e]", "[d, d]"},
		{"[d, e]", "[]"},
		{"[d, e]", "[d/e]"},
		{"billing", "nowhere"},
		{"from: 2026-11-22T09", "from: 2026-11-22T17"},
		{", until: 2026-11-22T17:00:00Z", ""},
		{"ADMIN", "{roles: [r, r]}"},
		{"ADMIN", "{}"},
		{"name: x", `name: "x\n"`},
		{"groups: [g]", "groups: [g, g]"},
		{"name: b", "name: a"},
		{"name: b", `name: "b\u202e"`},
	} {
		good := "users: [{name: a}, {name: b, groups: [g]}]\ngrants: [{name: x, users: [a], integration: billing, databases: [d, e], access: ADMIN, " +
			"from: 2026-11-22T09:00:00Z, until: 2026-11-22T17:00:00Z}]"
		f.Add([]byte(strings.Replace(good, fault[0], fault[1], 1)))
	}
	f.Add([]byte(oneFlow()))
	f.Add([]byte(oneFlow("approval: {all_of: [{groups: [dba]}, {users: [olga]}], count: 1}", "auto_approve:")))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 3000 {
			return // takes long and shows nothing that a shorter file does not
		}
		s, err := policy.Parse([]policy.Source{{File: "p.yaml", Data: data}}, integrations)
		if err != nil {
			var problems strictyaml.Problems
			if s != nil || !errors.As(err, &problems) || len(problems) == 0 {
				t.Fatalf("got set %v and error %#v, want Problems alone", s, err)
			}
			for _, p := range problems {
				if p.File != "p.yaml" || p.Line < 1 || p.Column < 1 || p.Message == "" || strings.ContainsAny(p.String(), "\n\r\x00") {
					t.Errorf("bad problem %#v", p)
				}
			}
			checkNarrow(t, data)
			return
		}
		var l list
		if !strictyaml.Blank(data) {
			if _, err := strictyaml.Decode("p.yaml", data, &l); err != nil {
				t.Fatalf("was accepted, but is %v", err)
			}
		}
		l.checkRules(t, s)
		l.checkDecisions(t, s)
		checkFlows(t, s, l.Users, l.Flows)
	})
}

// checkNarrow: what is refused gives nobody anything, whatever it takes away.
func checkNarrow(t *testing.T, data []byte) {
	t.Helper()
	old, err := policy.Parse([]policy.Source{{File: "p.yaml", Data: []byte(before)}}, integrations)
	if err != nil {
		t.Fatal(err)
	}
	narrowed, _ := policy.ReadSources([]policy.Source{{File: "p.yaml", Data: data}}, integrations).Narrow(old)
	if given := gives(old, narrowed); given != "" {
		t.Errorf("a policy that is refused gives %s", given)
	}
}

// comment is a line that holds nothing else.
var comment = regexp.MustCompile(`(?m)^ *#.*\n`)

// stranger can't be in a policy.
const stranger = "stranger\x00"

// list is a policy file as it is written.
type list struct {
	Users     []*policy.User  `yaml:"users"`
	Groups    []*policy.Group `yaml:"groups"`
	Operators *policy.People  `yaml:"operators"`
	Grants    []*policy.Grant `yaml:"grants"`
	Flows     []*policy.Flow  `yaml:"access_flows"`
}

// checkRules goes through what the documentation promises of an accepted file.
func (l *list) checkRules(t *testing.T, s *policy.Set) {
	t.Helper()
	users, names := map[string]bool{}, map[string]bool{}
	for _, u := range l.Users {
		if u.Name == "" || len(u.Name) > 63 || twice(u.Groups) || users[u.Name] || strings.ContainsAny(u.Name, "\x00\n\u202e") {
			t.Errorf("user %q was accepted", u.Name)
		}
		users[u.Name] = true
	}
	// A grant waits for an integration that is not there.
	l.Grants = slices.DeleteFunc(l.Grants, func(g *policy.Grant) bool { return g.Labels == nil && integrations[g.Integration] == "" })
	l.Users = slices.DeleteFunc(l.Users, func(u *policy.User) bool { return u.Disabled })
	if u, g := s.Size(); u != len(l.Users) || g != len(l.Grants) {
		t.Errorf("%d users and %d grants became %d and %d", len(l.Users), len(l.Grants), u, g)
	}
	for _, g := range l.Grants {
		fallback, known := integrations[g.Integration]
		if g.Databases == nil {
			g.Databases = []string{fallback}
		}
		named := len(g.Access.Roles) + len(g.Access.Tables) + len(g.Access.Sequences) + len(g.Access.Functions)
		switch {
		case twice(g.Users) || twice(g.Groups) || twice(g.Databases) || twice(g.Access.Roles),
			g.Name == "" || names[g.Name] || strings.ContainsAny(g.Name, " \"'\n"),
			len(g.Users)+len(g.Groups) == 0 || !known || len(g.Databases) == 0,
			g.Until.IsZero() || !g.From.Before(g.Until),
			(g.Access.Level == "") != (named > 0) || named != len(g.Access.Roles)+len(g.Access.Objects()),
			g.MaxSessions < 0 || min(g.StatementTimeout, g.IdleInTransaction, g.LockTimeout) < 0,
			slices.ContainsFunc(g.Databases, func(d string) bool { return d == "" || len(d) > 63 || strings.Contains(d, "/") }):
			t.Errorf("grant %+v was accepted", g)
		}
		names[g.Name] = true
	}
}

func twice(names []string) bool {
	return len(slices.Compact(slices.Sorted(slices.Values(names)))) < len(names)
}

// checkDecisions asks for what the file names, and for some of what it does not, at the times when grants begin and end.
func (l *list) checkDecisions(t *testing.T, s *policy.Set) {
	t.Helper()
	users := []string{stranger}
	for _, u := range l.Users[:min(2, len(l.Users))] {
		users = append(users, u.Name)
	}
	databases := []string{"", "orders-prod", "orders", "nowhere"}
	times := []time.Time{clockAt("13:00")}
	for _, g := range l.Grants[:min(2, len(l.Grants))] {
		databases = append(databases, g.Integration, g.Databases[0], g.Integration+"/"+g.Databases[0])
		times = append(times, g.From, g.Until.Add(-1), g.Until)
	}
	for _, user := range users {
		for _, database := range databases {
			for _, now := range times {
				r := policy.Request{User: user, Database: database}
				got := s.Decide(r, now)
				if want := l.decide(r, now); verdict(got) != want && (got.Grant != nil || want != "denied" || got.Reason == policy.Ambiguous) {
					t.Fatalf("%+v at %v: got %s, want %s", r, now, verdict(got), want)
				}
				check(t, s, r, got, now)
			}
		}
	}
}

// decide is Decide as its documentation has it, over the list. It does not tell the reasons of a denial apart, but for
// ambiguous.
func (l *list) decide(r policy.Request, now time.Time) string {
	var held, live []*policy.Grant
	for _, u := range l.Users {
		for _, g := range l.Grants {
			if u.Name != r.User || !slices.Contains(g.Users, u.Name) && !slices.ContainsFunc(g.Groups, func(name string) bool { return l.isIn(u, name, len(l.Groups)) }) {
				continue
			}
			held = append(held, g)
			if !now.Before(g.From) && now.Before(g.Until) {
				live = append(live, g)
			}
		}
	}
	integration, database, slash := strings.Cut(r.Database, "/")
	places := map[string]bool{integration: true}
	if !slash && slices.ContainsFunc(held, func(g *policy.Grant) bool { return g.Integration == r.Database }) {
		database = integrations[integration]
	} else if !slash {
		clear(places)
		for _, g := range live {
			if slices.Contains(g.Databases, r.Database) {
				places[g.Integration], integration, database = true, g.Integration, r.Database
			}
		}
	}
	if len(places) > 1 {
		return "ambiguous"
	}
	// The grant that counts comes last.
	slices.SortFunc(live, func(a, b *policy.Grant) int {
		return cmp.Or(power(a)-power(b), a.Until.Compare(b.Until), -strings.Compare(a.Name, b.Name))
	})
	want := "denied"
	for _, g := range live {
		if places[g.Integration] && slices.Contains(g.Databases, database) {
			want = fmt.Sprintf("%s: %s/%s", g.Name, integration, database)
		}
	}
	return want
}

// isIn looks for u in a group and in groups of it, depth levels down.
func (l *list) isIn(u *policy.User, group string, depth int) bool {
	return slices.Contains(u.Groups, group) || slices.ContainsFunc(l.Groups, func(g *policy.Group) bool {
		return g.Name == group && (slices.Contains(g.Members, u.Name) ||
			depth > 0 && slices.ContainsFunc(g.Groups, func(child string) bool { return l.isIn(u, child, depth-1) }))
	})
}

func power(g *policy.Grant) int {
	switch {
	case g.Access.Level != "":
		return slices.Index([]policy.Level{policy.ReadOnly, policy.ReadWrite, policy.Admin}, g.Access.Level) + 3
	case len(g.Access.Roles) > 0:
		return 2
	}
	return 1
}

// check holds a decision against what must be true of each.
func check(t *testing.T, s *policy.Set, r policy.Request, d policy.Decision, now time.Time) {
	t.Helper()
	if !utf8.ValidString(d.Message+d.Detail+d.Hint) || strings.ContainsFunc(d.Message+d.Detail+d.Hint, unicode.IsControl) {
		t.Errorf("%+v: not printable: %+v", r, d)
	}
	if d.Grant == nil {
		if d.Reason == "" || d.Message == "" || d.Integration != "" || d.Database != "" {
			t.Errorf("%+v: bad denial %+v", r, d)
		}
		return
	}
	if !d.Grant.Live(now) || d.Grant.Integration != d.Integration || d.Reason != "" {
		t.Errorf("%+v: bad decision %+v", r, d)
	}
	if g, ok := s.Covers(r.User, d.Grant.Name, d.Database, now); !ok || g != d.Grant {
		t.Errorf("%+v: decided for %s, which does not cover it", r, d.Grant.Name)
	}
	if _, ok := s.Covers(stranger, d.Grant.Name, d.Database, now); ok && r.User != stranger {
		t.Errorf("grant %s covers a stranger", d.Grant.Name)
	}
}
