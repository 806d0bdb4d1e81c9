package policy_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hourgate/hourgate/policy"
)

const (
	aliceGrant = "  - {name: alices, users: [alice], integration: orders-prod, access: READ_WRITE, until: 2026-11-22T17:00:00Z}\n"
	bobGrant   = "  - {name: bobs, users: [bob], groups: [ops], integration: orders-prod, access: READ_ONLY, until: 2026-11-22T17:00:00Z}\n"
	lastGrant  = "  - {name: last, users: [zed], integration: billing, access: READ_ONLY, until: 2026-11-22T17:00:00Z}\n"
	someUsers  = "users:\n  - {name: alice, certificate: a}\n  - {name: bob, certificate: b}\n  - {name: carol, groups: [ops], certificate: c}\n  - {name: zed, certificate: z}\n"
	someGroups = "groups:\n  - {name: all, members: [alice, bob]}\n"
	before     = someUsers + someGroups + "grants:\n" + aliceGrant + bobGrant + lastGrant
)

func read(files ...string) *policy.Reading {
	sources := make([]policy.Source, 0, len(files))
	for i, data := range files {
		if data != "" {
			sources = append(sources, policy.Source{File: string(rune('a'+i)) + ".yaml", Data: []byte(data)})
		}
	}
	return policy.ReadSources(sources, integrations)
}

// A policy that is refused takes away what it takes away as far as it can be understood, and never gives anything.
func TestRefusedPolicyStillTakesAway(t *testing.T) {
	t.Parallel()
	replace := func(text, old, new string) string {
		if !strings.Contains(text, old) {
			t.Fatalf("%q is not in\n%s", old, text)
		}
		return strings.Replace(text, old, new, 1)
	}
	typo := func(text string) string { return replace(text, "- {name: alice,", "- {nickname: x, name: alice,") }
	const broken = "users: [\n"
	for _, tt := range []struct {
		name  string
		files []string // a.yaml is the policy before, b.yaml was "users: []"
		want  []string
	}{
		{"nothing but a mistake", []string{typo(before), "users: []"}, nil},
		{"another file is broken", []string{replace(before, aliceGrant, ""), broken}, []string{"grant alices"}},
		{"another file is new and broken", []string{replace(before, aliceGrant, ""), "users: []", broken}, []string{"grant alices"}},
		{"what is gone may be in the broken file", []string{replace(before, aliceGrant, ""), "grants: [\n" + aliceGrant}, nil},
		{"a mistake elsewhere in the file", []string{typo(replace(before, bobGrant, "")), "users: []"}, []string{"grant bobs"}},
		{"a user is gone", []string{replace(before, "  - {name: bob, certificate: b}\n", ""), broken}, []string{"user bob"}},
		{"a user is disabled", []string{replace(before, "name: bob,", "name: bob, disabled: true,"), broken}, []string{"user bob"}},
		{"a user is disabled, with a mistake beside it", []string{replace(before, "name: bob,", "nam: x, name: bob, disabled: true,"), "users: []"}, []string{"user bob"}},
		{"a user left a group", []string{replace(before, "groups: [ops], ", "groups: [], "), broken}, []string{"groups or credentials of user carol"}},
		{"another certificate", []string{replace(before, "certificate: c", "certificate: d"), broken}, []string{"groups or credentials of user carol"}},
		{"a declared group lost a member", []string{replace(before, "members: [alice, bob]", "members: [alice]"), broken}, []string{"members of group all"}},
		{"a grant lost its group", []string{replace(before, "groups: [ops], integration", "integration"), broken}, []string{"part of grant bobs"}},
		{"a grant ends earlier", []string{replace(before, "READ_WRITE, until: 2026-11-22T17", "READ_WRITE, until: 2026-11-22T14"), broken}, []string{"part of grant alices"}},
		{"a grant ends later", []string{replace(before, "READ_WRITE, until: 2026-11-22T17", "READ_WRITE, until: 2026-11-22T20"), broken}, nil},
		{"less access", []string{replace(before, "READ_WRITE", "READ_ONLY"), broken}, []string{"part of grant alices"}},
		{"more access", []string{replace(before, "READ_WRITE", "ADMIN"), broken}, nil},
		{"another access", []string{replace(before, "READ_WRITE", "{roles: [r]}"), broken}, []string{"grant alices"}},
		{"access that can't be understood", []string{replace(before, "READ_WRITE", "NOTHING"), "users: []"}, nil},
		{"another integration", []string{replace(before, "integration: orders-prod, access: READ_WRITE", "integration: billing, access: READ_WRITE"), broken}, []string{"grant alices"}},
		{"a user more in a grant", []string{replace(before, "users: [alice]", "users: [alice, bob]"), broken}, nil},
		{"cut off in the last grant", []string{before[:strings.Index(before, ", until: 2026-11-22T17:00:00Z}\n  - {name: bobs")] + "}\n", "users: []"}, nil},
		{"cut off in a word", []string{before[:len(before)-80], "users: []"}, nil},
		{"the list of grants is mistyped", []string{replace(before, "\ngrants:", "\ngrnats:"), "users: []"}, nil},
		{"the list of users is mistyped", []string{replace(before, "users:\n", "usres:\n"), "users: []"}, nil},
		{"a name that can't be read", []string{replace(before, "{name: alices", "{nmae: alices"), "users: []"}, nil},
		{"a name that can't be read, and another grant gone", []string{replace(replace(before, "{name: alices", "{nmae: alices"), bobGrant, ""), "users: []"}, nil},
		{"empty", []string{"# later\n", "users: []"}, nil},
		{"no YAML at all", []string{"}{", "users: []"}, nil},
		{"removed, and another is broken", []string{"", broken}, []string{"grant alices", "grant bobs", "grant last", "group all", "user alice", "user bob", "user carol", "user zed"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			old, err := read(before, "users: []").Set()
			if err != nil {
				t.Fatal(err)
			}
			reading := read(tt.files...)
			reading.Lost(old)
			if _, err := reading.Set(); err == nil {
				t.Fatal("the policy is not refused")
			}
			narrowed, taken := reading.Narrow(old)
			if diff := cmp.Diff(tt.want, taken); diff != "" {
				t.Errorf("taken away (-want +got):\n%s", diff)
			}
			if (narrowed == old) != (taken == nil) {
				t.Error("another policy, and nothing taken away, or the other way round")
			}
			if given := gives(old, narrowed); given != "" {
				t.Errorf("it gives: %s", given)
			}
		})
	}
}

// gives returns what somebody may do under one policy and not under the one before it.
func gives(before, after *policy.Set) string {
	rank := map[policy.Level]int{policy.ReadOnly: 1, policy.ReadWrite: 2, policy.Admin: 3}
	for _, user := range []string{"alice", "bob", "carol", "zed", "x"} {
		for _, integration := range []string{"orders-prod", "billing"} {
			for hour := range 24 {
				now := time.Date(2026, 11, 22, hour, 30, 0, 0, time.UTC)
				was := before.Decide(policy.Request{User: user, Database: integration}, now).Grant
				is := after.Decide(policy.Request{User: user, Database: integration}, now).Grant
				if is != nil && (was == nil || rank[is.Access.Level] > rank[was.Access.Level]) {
					return user + " " + is.Name + " " + now.String()
				}
			}
		}
	}
	return ""
}

// What was narrowed can be narrowed again, and nobody who was put out gets in.
func TestNarrowTwice(t *testing.T) {
	t.Parallel()
	old, err := read(before, "users: []").Set()
	if err != nil {
		t.Fatal(err)
	}
	without := strings.Replace(before, aliceGrant, "", 1)
	once, _ := read(without, "users: [\n").Narrow(old)
	twice, taken := read(strings.Replace(before, bobGrant, "", 1), "users: [\n").Narrow(once)
	if diff := cmp.Diff([]string{"grant bobs"}, taken); diff != "" {
		t.Errorf("taken away (-want +got):\n%s", diff)
	}
	if given := gives(once, twice); given != "" {
		t.Errorf("it gives: %s", given)
	}
}

// A file in which all users are gone does not say that it is meant.
func TestAllUsersLost(t *testing.T) {
	t.Parallel()
	old, err := read(before).Set()
	if err != nil {
		t.Fatal(err)
	}
	for data, want := range map[string]string{
		"grants: []\n": "a.yaml:1:1: the policy has lost all its users: write users: [] if nobody is to get in",
		"users: []\n":  "",
		someUsers:      "",
	} {
		reading := read(data)
		reading.Lost(old)
		_, err := reading.Set()
		if got := strings.Join(lines(err), "\n"); got != want {
			t.Errorf("%q: got %q, want %q", data, got, want)
		}
	}
}

// Who has gone from the users is no reason to refuse a policy, wherever else the name stands; nor is an integration that
// is not there.
func TestUnknownNamesAreWarnings(t *testing.T) {
	t.Parallel()
	s, err := read(someUsers + "groups:\n  - {name: g, members: [rob], groups: [none]}\n" +
		"grants:\n  - {name: x, users: [alcie], groups: [suport], integration: orders-prod, access: READ_ONLY, until: 2026-11-22T17:00:00Z}\n" +
		"  - {name: y, users: [alice], integration: order-prod, access: READ_ONLY, until: 2026-11-22T17:00:00Z}\n" +
		"access_flows:\n  - {name: f, requestors: {users: [alice, alcie]}, targets: [{integrations: [orders-prod, order-prod], access: [READ_ONLY]}], max_duration: 1h, approval: {any_of: [{users: [bob, rob]}]}}\n").Set()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, w := range s.Warnings() {
		text := w.Path + ": " + w.Message
		if w.Suggestion != "" {
			text += " (" + w.Suggestion + ")"
		}
		got = append(got, text)
	}
	want := []string{
		`groups[0].members[0]: unknown user "rob" (did you mean "bob"?)`,
		`groups[0].groups[0]: unknown group "none": no user is in it`,
		`grants[0].users[0]: unknown user "alcie" (did you mean "alice"?)`,
		`grants[0].groups[0]: unknown group "suport": no user is in it`,
		`grants[1].integration: unknown integration "order-prod" (did you mean "orders-prod"?)`,
		`access_flows[0].requestors.users[1]: unknown user "alcie" (did you mean "alice"?)`,
		`access_flows[0].targets[0].integrations[1]: unknown integration "order-prod" (did you mean "orders-prod"?)`,
		`access_flows[0].approval.any_of[0].users[1]: unknown user "rob" (did you mean "bob"?)`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
	if got := verdict(s.Decide(policy.Request{User: "alice", Database: "order-prod"}, clockAt("13:00"))); got != "no_grant" {
		t.Errorf("an integration that is not there: got %s", got)
	}
}

func TestDisabledUser(t *testing.T) {
	t.Parallel()
	s, err := read(strings.Replace(before, "name: bob,", "name: bob, disabled: true,", 1)).Set()
	if err != nil {
		t.Fatal(err)
	}
	if got := verdict(s.Decide(policy.Request{User: "bob", Database: "orders-prod"}, clockAt("13:00"))); got != "no_grant" {
		t.Errorf("a disabled user: got %s", got)
	}
	if s.Certificate("bob") != "" || s.Known("bob") || !s.Disabled("bob") || len(s.Groups("bob")) > 0 {
		t.Error("a disabled user has an identity")
	}
	if len(s.Warnings()) > 0 {
		t.Errorf("warnings about a user who is disabled: %v", s.Warnings())
	}
}

func TestUserWhoCanNeverLogIn(t *testing.T) {
	t.Parallel()
	s, err := read("users: [{name: ghost}, {name: off, disabled: true}]").Set()
	if err != nil {
		t.Fatal(err)
	}
	if w := s.Warnings(); len(w) != 1 || w[0].Path != "users[0]" || !strings.HasPrefix(w[0].Message, "can never log in") {
		t.Errorf("got %v", w)
	}
}
