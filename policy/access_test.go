package policy_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hourgate/hourgate/policy"
)

func TestAccessOfNamedThings(t *testing.T) {
	s := set(
		t,
		user("alice"), user("bob"),
		grant("objects", "alice", `{tables: {public.orders: [UPDATE, SELECT], "sales.*": [SELECT], '"My.Schema".T': [INSERT]}, sequences: {public.s: [USAGE]}, functions: {public.f(integer): [EXECUTE], public.g: [EXECUTE]}}`, "billing", "", "17:00"),
		grant("roles", "alice", "{roles: [support_reader]}", "billing", "", "16:00"),
		grant("objects-of-bob", "bob", "{tables: {public.orders: [SELECT]}}", "billing", "", "17:00"),
		grant("level-of-bob", "bob", "READ_ONLY", "billing", "", "09:00"),
	)
	objects, _ := s.Covers("alice", "objects", "billing", clockAt("13:00"))
	want := []policy.Object{
		{Kind: "tables", Schema: "My.Schema", Name: "T", Privileges: []policy.Privilege{"INSERT"}},
		{Kind: "tables", Schema: "public", Name: "orders", Privileges: []policy.Privilege{"SELECT", "UPDATE"}},
		{Kind: "tables", Schema: "sales", Privileges: []policy.Privilege{"SELECT"}},
		{Kind: "sequences", Schema: "public", Name: "s", Privileges: []policy.Privilege{"USAGE"}},
		{Kind: "functions", Schema: "public", Name: "f", Arguments: "(integer)", Privileges: []policy.Privilege{"EXECUTE"}},
		{Kind: "functions", Schema: "public", Name: "g", Privileges: []policy.Privilege{"EXECUTE"}},
	}
	if diff := cmp.Diff(want, objects.Access.Objects()); diff != "" {
		t.Errorf("objects (-want +got):\n%s", diff)
	}
	if got, want := objects.Access.String(), "INSERT on My.Schema.T; SELECT, UPDATE on public.orders; SELECT on sales.*; USAGE on public.s; EXECUTE on public.f(integer); EXECUTE on public.g"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, test := range []struct{ user, at, want string }{
		{"alice", "13:00", "roles: billing/billing"}, // roles count before objects
		{"alice", "16:30", "objects: billing/billing"},
		{"bob", "08:00", "level-of-bob: billing/billing"}, // a level counts before both
		{"bob", "10:00", "objects-of-bob: billing/billing"},
	} {
		if got := verdict(s.Decide(policy.Request{User: test.user, Database: "billing"}, clockAt(test.at))); got != test.want {
			t.Errorf("%s at %s: got %s, want %s", test.user, test.at, got, test.want)
		}
	}
}

func TestSameRightsAndLimits(t *testing.T) {
	named := func() *policy.Grant {
		return &policy.Grant{Access: policy.Access{Roles: []string{"r"}, Tables: map[string][]policy.Privilege{"public.t": {"SELECT"}}}}
	}
	for name, change := range map[string]func(*policy.Grant){
		"privilege": func(g *policy.Grant) { g.Access.Tables["public.t"] = []policy.Privilege{"SELECT", "UPDATE"} },
		"table":     func(g *policy.Grant) { g.Access.Tables["public.u"] = []policy.Privilege{"SELECT"} },
		"role":      func(g *policy.Grant) { g.Access.Roles = []string{"s"} },
		"dangerous": func(g *policy.Grant) { g.Access.Dangerous = true },
		"act as":    func(g *policy.Grant) { g.Access.ActAs = "r" },
		"create in": func(g *policy.Grant) { g.Access.CreateIn = []string{"app"} },
		"level":     func(g *policy.Grant) { g.Access = policy.Access{Level: policy.Admin} },
	} {
		changed := named()
		change(changed)
		if changed.SameRights(named()) || !named().SameRights(named()) {
			t.Errorf("%s: a change of rights is not seen", name)
		}
		if changed.Access.Fingerprint() == named().Access.Fingerprint() {
			t.Errorf("%s: has the fingerprint of another access", name)
		}
	}
	limited := named()
	limited.StatementTimeout = time.Second
	if !limited.SameRights(named()) || limited.SameLimits(named()) {
		t.Error("a change of limits is one of rights, or is not seen")
	}
}
