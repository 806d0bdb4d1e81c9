package policy_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hourgate/hourgate/policy"
)

// integrations is what the tests' policies are about.
var integrations = map[string]string{
	"orders-prod": "orders",
	"billing":     "billing",
	"analytics":   "warehouse", // has the name of a database on orders-prod
	"data lake":   "lake",
}

// clockAt returns a moment of the day on which the tests take place.
func clockAt(hour string) time.Time {
	t, err := time.Parse(time.RFC3339, "2026-11-22T"+hour+":00Z")
	if err != nil {
		panic(err)
	}
	return t
}

// A rule is a line or more of a policy file.
type rule struct{ user, grant string }

func user(name string, groups ...string) rule {
	return rule{user: fmt.Sprintf("  - {name: %q, groups: %s}\n", name, flow(groups))}
}

// grant gives holders (groups have an @ before their name) access to databases, such as orders-prod: orders.
func grant(name, holders, access, target, from, until string) rule {
	var users, groups []string
	for holder := range strings.FieldsSeq(holders) {
		if group, ok := strings.CutPrefix(holder, "@"); ok {
			groups = append(groups, group)
		} else {
			users = append(users, holder)
		}
	}
	integration, databases, named := strings.Cut(target, ": ")
	var b strings.Builder
	fmt.Fprintf(&b, "  - {name: %s, users: %s, groups: %s, access: %s, integration: %q", name, flow(users), flow(groups), access, integration)
	if named {
		fmt.Fprintf(&b, ", databases: %s", flow(strings.Fields(databases)))
	}
	if from != "" {
		fmt.Fprintf(&b, ", from: %s", clockAt(from).Format(time.RFC3339))
	}
	fmt.Fprintf(&b, ", until: %s}\n", clockAt(until).Format(time.RFC3339))
	return rule{grant: b.String()}
}

func flow(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = fmt.Sprintf("%q", w)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// set loads rules as a policy file.
func set(t testing.TB, rules ...rule) *policy.Set {
	t.Helper()
	var users, grants strings.Builder
	for _, r := range rules {
		users.WriteString(r.user)
		grants.WriteString(r.grant)
	}
	file := "users: []\n"
	if users.Len() > 0 {
		file = "users:\n" + users.String()
	}
	if grants.Len() > 0 {
		file += "grants:\n" + grants.String()
	}
	s, err := policy.Parse([]policy.Source{{File: "policy.yaml", Data: []byte(file)}}, integrations)
	if err != nil {
		t.Fatalf("loading\n%s\n%v", file, err)
	}
	return s
}
