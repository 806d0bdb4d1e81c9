package policy_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hourgate/hourgate/policy"
)

// fleet is what discovery knows of the integrations of these tests: orders-prod and stock-prod are tagged as they say,
// bills is called so by a tag, and by-hand is in the configuration.
func fleet() (map[string]string, policy.Known) {
	tag := func(key, value string) policy.Label { return policy.Label{Value: value, Tags: []string{key}} }
	return map[string]string{"orders-prod": "orders", "stock-prod": "stock", "bills": "billing", "by-hand": "postgres"}, policy.Known{
		Labels: map[string]policy.Labels{
			"orders-prod": {"env": tag("env", "prod"), "team": tag("team", "orders")},
			"stock-prod":  {"env": tag("env", "prod"), "team": tag("owner", "orders")},
			"by-hand":     {"env": {Value: "prod"}, "team": {Value: "orders"}},
		},
		NameTags: map[string][]string{"bills": {"hourgate-name"}},
		Open:     true,
	}
}

func labelled(t *testing.T, text string) *policy.Set {
	t.Helper()
	integrations, known := fleet()
	s, err := policy.Parse([]policy.Source{{File: "p.yaml", Data: []byte(text)}}, integrations, known)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const byLabel = `
users: [{name: bob, groups: [support]}]
grants: [{name: read, users: [bob], labels: {env: prod, team: orders}, access: READ_ONLY, until: 2030-01-01T00:00:00Z}]
access_flows:
  - {name: ask, requestors: {users: [bob]}, targets: [{labels: {env: prod, team: orders}, access: [READ_WRITE]}], max_duration: 1h}
`

// Only what the policy trusts counts: whoever can tag a server could otherwise bring it under a grant.
func TestTrustedTags(t *testing.T) {
	now := time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	for trusted, want := range map[string][]string{
		"":                                 {"by-hand"},
		"trusted_tags: [env]":              {"by-hand"},
		"trusted_tags: [env, team]":        {"by-hand", "orders-prod"},
		"trusted_tags: [env, owner]":       {"by-hand", "stock-prod"},
		"trusted_tags: [env, team, owner]": {"by-hand", "orders-prod", "stock-prod"},
	} {
		s := labelled(t, trusted+byLabel)
		var got []string
		for _, integration := range []string{"bills", "by-hand", "orders-prod", "stock-prod"} {
			d := s.Decide(policy.Request{User: "bob", Database: integration}, now)
			if d.Grant == nil {
				continue
			}
			got = append(got, integration)
			if g, ok := s.Covers("bob", d.Grant.Name, d.Database, now); !ok || g.Name != "read@"+integration || g.Integration != integration || d.Integration != integration {
				t.Errorf("%q: the grant on %s is %+v, for %s", trusted, integration, g, d.Integration)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: bob gets into %v, want %v", trusted, got, want)
		}
		for _, integration := range []string{"by-hand", "orders-prod", "stock-prod"} {
			_, err := s.Plan(policy.Wish{User: "bob", Integration: integration, Access: "READ_WRITE", At: now})
			if allowed := err == nil; allowed != slices.Contains(want, integration) {
				t.Errorf("%q: REQUEST ON %s: %v", trusted, integration, err)
			}
		}
		if diff := cmp.Diff(want, targetsOf(t, s, "ask")); diff != "" {
			t.Errorf("%q: the flow is for %s", trusted, diff)
		}
	}
}

func targetsOf(t *testing.T, s *policy.Set, flow string) []string {
	t.Helper()
	f := s.Flow(flow)
	if f == nil {
		t.Fatalf("no flow %s", flow)
	}
	return f.Targets[0].Integrations
}

// A name that a tag says is a label too: whoever tags a production server with the name of a sandbox gets in there.
func TestNamesThatTagsSay(t *testing.T) {
	const grant = `
users: [{name: bob}]
grants: [{name: read, users: [bob], integration: bills, access: READ_ONLY, until: 2030-01-01T00:00:00Z}]
`
	now := time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	s := labelled(t, grant)
	if d := s.Decide(policy.Request{User: "bob", Database: "bills"}, now); d.Grant != nil {
		t.Errorf("a name that a tag says gave %s", d.Grant.Name)
	}
	if got := strings.Join(s.Remarks(), "\n"); !strings.Contains(got, "grant read: integration bills does not count by its name, which its tag hourgate-name says") {
		t.Errorf("remarks: %s", got)
	}
	if d := labelled(t, "trusted_tags: [hourgate-name]"+grant).Decide(policy.Request{User: "bob", Database: "bills"}, now); d.Grant == nil {
		t.Errorf("with the tag trusted: %s", d.Message)
	}
}

// Whoever can tag a sandbox's server gives it a name that people use for a database of production, and gets nobody there.
func TestNamesThatLeadAstray(t *testing.T) {
	now := time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	// Both are names that Bob types: the one for a database on orders-prod, the other for that and the integration.
	for _, name := range []string{"reports", "reports@orders-prod"} {
		set := func(trusted string) *policy.Set {
			s, err := policy.Parse([]policy.Source{{File: "p.yaml", Data: []byte(trusted + `
users: [{name: bob}]
grants:
  - {name: play, users: [bob], labels: {kind: sandbox}, access: READ_WRITE, until: 2030-01-01T00:00:00Z}
  - {name: read, users: [bob], integration: orders-prod, databases: [reports], access: READ_ONLY, until: 2029-01-01T00:00:00Z}
`)}}, map[string]string{"orders-prod": "orders", name: "postgres"}, policy.Known{
				Labels:   map[string]policy.Labels{name: {"kind": {Value: "sandbox"}}},
				NameTags: map[string][]string{name: {"hourgate-name"}},
				Open:     true,
			})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		to := func(s *policy.Set, database string, at time.Time) string {
			d := s.Decide(policy.Request{User: "bob", Database: database}, at)
			return d.Integration + "/" + d.Database + " " + string(d.Reason)
		}
		s := set("")
		if got := to(s, name, now); got != "orders-prod/reports " {
			t.Errorf("%s leads to %s", name, got)
		}
		if got := to(s, name+"/postgres", now); got != name+"/postgres " {
			t.Errorf("said in full it leads to %s", got)
		}
		if got := to(set("trusted_tags: [hourgate-name]"), name, now); got != name+"/postgres " {
			t.Errorf("with the tag trusted %s leads to %s", name, got)
		}
		if got := to(s, name, now.AddDate(2, 6, 0)); got != "/ expired" {
			t.Errorf("after the grant's end %s leads to %s", name, got)
		}
		want := "You may connect to: postgres (until 2030-01-01 00:00:00 UTC), reports (until 2029-01-01 00:00:00 UTC)."
		if got := s.Decide(policy.Request{User: "bob", Database: "x"}, now).Hint; got != want {
			t.Errorf("offers %q, want %q", got, want)
		}
	}
}

// While integrations come and go, a name that none has stops nobody from changing the rest of the policy.
func TestNamesThatAreGone(t *testing.T) {
	s := labelled(t, `
users: [{name: bob}]
grants:
  - {name: gone, users: [bob], integration: shut-down, access: READ_ONLY, until: 2030-01-01T00:00:00Z}
  - {name: there, users: [bob], integration: orders-prod, access: READ_ONLY, until: 2030-01-01T00:00:00Z}
  - {name: nowhere, users: [bob], labels: {env: test}, access: READ_ONLY, until: 2030-01-01T00:00:00Z}
access_flows:
  - {name: ask, requestors: {users: [bob]}, targets: [{integrations: [shut-down, orders-prod], access: [READ_WRITE]}], max_duration: 1h}
`)
	want := []string{"grant gone: there is no integration shut-down now", "grant nowhere: no integration has its labels now", "flow ask: there is no integration shut-down now"}
	if diff := cmp.Diff(want, s.Remarks()); diff != "" {
		t.Errorf("remarks: %s", diff)
	}
	if diff := cmp.Diff([]string{"orders-prod"}, targetsOf(t, s, "ask")); diff != "" {
		t.Errorf("targets: %s", diff)
	}
	if _, grants := s.Size(); grants != 1 {
		t.Errorf("%d grants, want 1", grants)
	}
}

func TestLabelsRefused(t *testing.T) {
	integrations, known := fleet()
	known.Open = false
	for text, want := range map[string]string{
		"grants: [{name: g, users: [bob], labels: {}, access: READ_ONLY, until: 2030-01-01T00:00:00Z}]":                                "grants[0].labels: empty: that would be every integration",
		"grants: [{name: g, users: [bob], labels: {env: ''}, access: READ_ONLY, until: 2030-01-01T00:00:00Z}]":                         "grants[0].labels.env: required: the label's value",
		"grants: [{name: g, users: [bob], labels: {env: prod}, integration: by-hand, access: READ_ONLY, until: 2030-01-01T00:00:00Z}]": "grants[0].labels: has no meaning beside integration",
		"trusted_tags: ['*']": "trusted_tags[0]: want the key of a tag",
		"trusted_tags: ['']":  "trusted_tags[0]: want the key of a tag",
		"access_flows: [{name: f, requestors: {users: [bob]}, targets: [{labels: {}, access: [READ_ONLY]}], max_duration: 1h}]": "access_flows[0].targets[0].labels: empty",
	} {
		_, err := policy.Parse([]policy.Source{{File: "p.yaml", Data: []byte("users: [{name: bob}]\n" + text)}}, integrations, known)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
}
