package policy_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hourgate/hourgate/policy"
)

// What a grant leaves is said before it is used, and to whoever uses it.
func TestRemarks(t *testing.T) {
	s := set(
		t, user("alice"),
		grant("plain", "alice", "READ_WRITE", "billing", "", "17:00"),
		grant("acts", "alice", "{roles: [app, other], act_as: app, dangerous: true}", "billing", "", "17:00"),
		grant("member", "alice", "{roles: [app, other], dangerous: true}", "billing", "", "17:00"),
		grant("creates", "alice", "{level: ADMIN, create_in: [b, a]}", "billing", "", "17:00"),
	)
	want := []string{
		"grant acts: sessions work as app: what they make or change is that role's and stays after the grant, functions and privileges too",
		"grant creates: creates in a, b: while the grant lives, a function of the person's there may be what others call who have the schema on their search_path and do not name it",
		"grant member: what is done as app, other stays after the grant, functions and privileges too",
	}
	if diff := cmp.Diff(want, s.Remarks()); diff != "" {
		t.Errorf("remarks (-want +got):\n%s", diff)
	}
	accesses := map[string]string{
		"acts":    "roles app, other; acting as app",
		"creates": "ADMIN, creating in a, b",
	}
	for name, want := range accesses {
		if g, _ := s.Covers("alice", name, "billing", clockAt("13:00")); g.Access.String() != want {
			t.Errorf("%s: got %q, want %q", name, g.Access.String(), want)
		}
	}
}

func TestRemarksOnNames(t *testing.T) {
	text := "users: [{name: Bob@example.com}, {name: bob@example.com}, {name: carol}]\n"
	flow := "access_flows: [{name: f, requestors: {users: [bob@example.com]}, approval: {any_of: [{users: [carol]}]}, max_duration: 1h, " +
		"targets: [{integrations: [orders], access: [READ_ONLY]}]}]\n"
	for _, test := range []struct {
		text string
		want []string
	}{
		{text, nil},
		{text + flow, []string{"users Bob@example.com and bob@example.com: if they are one person, that one may decide requests of their own"}},
	} {
		s, err := policy.Parse([]policy.Source{{File: "p.yaml", Data: []byte(test.text)}}, map[string]string{"orders": "orders"})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(test.want, s.Remarks()); diff != "" {
			t.Errorf("remarks (-want +got):\n%s", diff)
		}
	}
}

func TestEnding(t *testing.T) {
	keep := func(a policy.Access, role string) *policy.Grant { return &policy.Grant{Access: a, KeepObjectsAs: role} }
	for _, test := range []struct {
		grant   *policy.Grant
		creates bool
		want    string
	}{
		{keep(policy.Access{Level: policy.ReadWrite}, ""), false, ""},
		{keep(policy.Access{Level: policy.ReadWrite}, ""), true, "what you own is kept until then, also when you disconnect, and dropped then"},
		{keep(policy.Access{Level: policy.Admin}, ""), false, "what you own is kept until then, also when you disconnect, and dropped then"},
		{keep(policy.Access{Roles: []string{"r"}}, ""), false, "what you own is kept until then, also when you disconnect, and dropped then"},
		{keep(policy.Access{Level: policy.Admin}, "app"), false, "tables, sequences, types and views of yours that run no code go to app then, and the rest is dropped"},
		{keep(policy.Access{Roles: []string{"app"}, ActAs: "app", Dangerous: true}, ""), false, "you work as app, and what you make is that role's and stays"},
		{keep(policy.Access{Roles: []string{"app"}, Dangerous: true}, ""), false, "what you own yourself is dropped then, and what you make as app stays"},
	} {
		if got := test.grant.Ending(test.creates); got != test.want {
			t.Errorf("%s, %t: got %q, want %q", test.grant.Access, test.creates, got, test.want)
		}
	}
}
