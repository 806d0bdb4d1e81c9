package policy_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hourgate/hourgate/policy"
)

// verdict is a decision in a few words: the grant and the place, or the reason.
func verdict(d policy.Decision) string {
	if d.Grant == nil {
		return string(d.Reason)
	}
	return fmt.Sprintf("%s: %s/%s", d.Grant.Name, d.Integration, d.Database)
}

func TestDecide(t *testing.T) {
	s := set(
		t,
		user("alice", "support"),
		user("bob", "support", "on-call"),
		user("carol"),
		user("dave"),
		user("erin"),
		user("frank"),

		grant("inc", "alice", "READ_ONLY", "orders-prod", "09:00", "17:00"),
		grant("desk", "@support", "READ_ONLY", "orders-prod: orders analytics", "", "12:00"),
		grant("night", "@on-call", "READ_WRITE", "orders-prod: orders", "", "20:00"),

		grant("several", "carol", "READ_ONLY", "orders-prod: shared only-here", "", "17:00"),
		grant("others", "carol", "READ_ONLY", "billing: billing shared", "", "17:00"),
		grant("spaced", "carol", "ADMIN", "data lake", "", "17:00"),

		grant("not-default", "dave", "READ_ONLY", "orders-prod: analytics", "", "17:00"),

		grant("lake", "erin", "READ_ONLY", "analytics", "", "10:00"),
		grant("same-name", "erin", "READ_ONLY", "orders-prod: analytics", "", "17:00"),

		grant("low-late", "frank", "READ_ONLY", "billing", "", "20:00"),
		grant("high-early", "frank", "READ_WRITE", "billing", "", "10:00"),
		grant("mid-b", "frank", "READ_ONLY", "billing: ledger", "", "15:00"),
		grant("mid-a", "frank", "READ_ONLY", "billing: ledger", "", "15:00"),
		grant("mid-c", "frank", "READ_ONLY", "billing: ledger", "", "14:00"),
	)
	for _, tt := range []struct{ name, user, database, at, want string }{
		{"integration alone: its database", "alice", "orders-prod", "13:00", "inc: orders-prod/orders"},
		{"integration and database", "alice", "orders-prod/orders", "13:00", "inc: orders-prod/orders"},
		{"database alone", "alice", "orders", "13:00", "inc: orders-prod/orders"},
		{"through a group", "alice", "orders-prod/analytics", "11:00", "desk: orders-prod/analytics"},
		{"database alone through a group", "alice", "analytics", "11:00", "desk: orders-prod/analytics"},
		{"through the second group", "bob", "orders-prod", "19:00", "night: orders-prod/orders"},
		{"integration with a space", "carol", "data lake", "13:00", "spaced: data lake/lake"},
		{"integration with a space, and database", "carol", "data lake/lake", "13:00", "spaced: data lake/lake"},

		{"first moment", "alice", "orders-prod", "09:00", "inc: orders-prod/orders"},
		{"last minute", "alice", "orders-prod", "16:59", "inc: orders-prod/orders"},
		{"end", "alice", "orders-prod", "17:00", "expired"},
		{"no start: always", "bob", "orders-prod/analytics", "00:00", "desk: orders-prod/analytics"},

		{"highest access counts", "bob", "orders-prod", "11:00", "night: orders-prod/orders"},
		{"highest access before latest end", "frank", "billing", "09:00", "high-early: billing/billing"},
		{"the other once it has ended", "frank", "billing", "10:00", "low-late: billing/billing"},
		{"latest end, then the name", "frank", "ledger", "09:00", "mid-a: billing/ledger"},

		{"database on two integrations", "carol", "shared", "13:00", "ambiguous"},
		{"the same with its integration", "carol", "billing/shared", "13:00", "others: billing/shared"},
		{"the same as database@integration", "carol", "shared@billing", "13:00", "others: billing/shared"},
		{"database@integration that is not the person's", "carol", "shared@elsewhere", "13:00", "no_grant"},
		{"database@integration of somebody else's grant", "alice", "billing@billing", "13:00", "no_grant"},
		{"database@integration that the grant does not name", "carol", "orders@billing", "13:00", "no_grant"},
		{"database on one of two", "carol", "only-here", "13:00", "several: orders-prod/only-here"},
		{"ambiguous no more once both have ended", "carol", "shared", "17:00", "expired"},

		{"default database not granted", "dave", "orders-prod", "13:00", "no_grant"},
		{"other integration of that name is unknown to dave", "dave", "analytics", "13:00", "not-default: orders-prod/analytics"},
		{"integration goes before database", "erin", "analytics", "09:00", "lake: analytics/warehouse"},
		{"and still does when its grant has ended", "erin", "analytics", "13:00", "expired"},
		{"the database with its integration", "erin", "orders-prod/analytics", "13:00", "same-name: orders-prod/analytics"},

		{"somebody else's grant", "alice", "billing", "13:00", "no_grant"},
		{"unknown integration", "alice", "nowhere", "13:00", "no_grant"},
		{"unknown database on a known integration", "alice", "orders-prod/secret", "13:00", "no_grant"},
		{"unknown user", "mallory", "orders-prod", "13:00", "no_grant"},
		{"group name as a user", "support", "orders-prod", "11:00", "no_grant"},
		{"other case", "alice", "Orders-Prod", "13:00", "no_grant"},
		{"slash without a database", "alice", "orders-prod/", "13:00", "no_grant"},
		{"slash without an integration", "alice", "/orders", "13:00", "no_grant"},
		{"two slashes", "alice", "orders-prod/orders/x", "13:00", "no_grant"},
		{"no database", "alice", "", "13:00", "no_database"},
		{"user name as the database", "alice", "alice", "13:00", "no_database"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := s.Decide(policy.Request{User: tt.user, Database: tt.database}, clockAt(tt.at))
			if got := verdict(d); got != tt.want {
				t.Errorf("%s asks for %q at %s: got %s, want %s", tt.user, tt.database, tt.at, got, tt.want)
			}
		})
	}
}

// TestDenials shows the denials whole, as a person reads them.
func TestDenials(t *testing.T) {
	s := set(
		t,
		user("alice"), user("bob"), user("carol"), user("orders"),
		grant("inc-4211", "alice", "READ_ONLY", "orders-prod", "", "17:00"),
		grant("reports", "alice", "READ_ONLY", "orders-prod: analytics", "", "20:00"),
		grant("reports-too", "alice", "READ_ONLY", "orders-prod: analytics", "", "19:00"),
		grant("later", "alice", "ADMIN", "billing", "18:00", "21:00"),
		grant("earlier", "alice", "READ_ONLY", "billing", "", "08:00"),
		grant("wide", "bob", "READ_ONLY", "billing: a b c d e f g", "", "17:00"),
		grant("wide-too", "bob", "READ_ONLY", "orders-prod: a", "", "17:00"),
		grant("namesake", "orders", "READ_ONLY", "orders-prod: orders", "", "17:00"),
	)
	offers := "You may connect to: analytics (until 2026-11-22 20:00:00 UTC), orders-prod (until 2026-11-22 17:00:00 UTC)."
	nothing := "You have no live grant. Ask for one: Hourgate gives access for a limited time only."
	for _, tt := range []struct {
		name, user, database, at string
		want                     policy.Decision
	}{
		{"no grant", "alice", "elsewhere", "13:00", policy.Decision{
			Reason:  policy.NoGrant,
			Message: `no live grant for "elsewhere"`,
			Hint:    offers,
		}},
		{"ended", "alice", "orders-prod", "17:30", policy.Decision{
			Reason:  policy.Expired,
			Message: `no live grant for "orders-prod"`,
			Detail:  "Grant inc-4211 on orders-prod (database orders) ended at 2026-11-22 17:00:00 UTC.",
			Hint:    "You may connect to: analytics (until 2026-11-22 20:00:00 UTC).",
		}},
		{"ended, by the database's name", "alice", "orders", "17:30", policy.Decision{
			Reason:  policy.Expired,
			Message: `no live grant for "orders"`,
			Detail:  "Grant inc-4211 on orders-prod (database orders) ended at 2026-11-22 17:00:00 UTC.",
			Hint:    "You may connect to: analytics (until 2026-11-22 20:00:00 UTC).",
		}},
		{"the one of two that ended last", "alice", "analytics", "22:00", policy.Decision{
			Reason:  policy.Expired,
			Message: `no live grant for "analytics"`,
			Detail:  "Grant reports on orders-prod (database analytics) ended at 2026-11-22 20:00:00 UTC.",
			Hint:    nothing,
		}},
		{"about to start goes before ended", "alice", "billing", "13:00", policy.Decision{
			Reason:  policy.NotYet,
			Message: `no live grant for "billing"`,
			Detail:  "Grant later on billing (database billing) starts at 2026-11-22 18:00:00 UTC.",
			Hint:    offers,
		}},
		{"no grant at all", "carol", "orders-prod", "13:00", policy.Decision{
			Reason:  policy.NoGrant,
			Message: `no live grant for "orders-prod"`,
			Hint:    nothing,
		}},
		{"no database", "alice", "", "13:00", policy.Decision{
			Reason:  policy.NoDatabase,
			Message: "the connection names no database",
			Hint:    offers,
		}},
		{"psql's default", "alice", "alice", "13:00", policy.Decision{
			Reason:  policy.NoDatabase,
			Message: `no live grant for "alice"`,
			Detail:  "The database name is the user name, which clients send when none is given.",
			Hint:    offers,
		}},
		{"psql's default that was a grant", "orders", "orders", "18:00", policy.Decision{
			Reason:  policy.Expired,
			Message: `no live grant for "orders"`,
			Detail:  "Grant namesake on orders-prod (database orders) ended at 2026-11-22 17:00:00 UTC.",
			Hint:    nothing,
		}},
		{"ambiguous", "bob", "a", "13:00", policy.Decision{
			Reason:  policy.Ambiguous,
			Message: `your grants cover more than one database "a"`,
			Hint:    "Name the integration too, and connect to one of: a@billing, a@orders-prod.",
		}},
		{"more offers than a hint should have", "bob", "x", "13:00", policy.Decision{
			Reason:  policy.NoGrant,
			Message: `no live grant for "x"`,
			Hint: "You may connect to: a@billing (until 2026-11-22 17:00:00 UTC), a@orders-prod (until 2026-11-22 17:00:00 UTC), " +
				"b (until 2026-11-22 17:00:00 UTC), c (until 2026-11-22 17:00:00 UTC), " +
				"d (until 2026-11-22 17:00:00 UTC) and 3 more.",
		}},
		{"hostile name", "carol", "a\x00\"\n\xff\x1b[2J", "13:00", policy.Decision{
			Reason:  policy.NoGrant,
			Message: `no live grant for "a\x00\"\n\xff\x1b[2J"`,
			Hint:    nothing,
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := s.Decide(policy.Request{User: tt.user, Database: tt.database}, clockAt(tt.at))
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// TestDenialsTellNothingOfOthers: for someone without a grant on it, a name that exists reads like one that does not.
func TestDenialsTellNothingOfOthers(t *testing.T) {
	s := set(
		t,
		user("alice"), user("bob"), user("carol"),
		grant("hers", "alice", "READ_ONLY", "billing", "", "17:00"),
		grant("his", "bob", "READ_ONLY", "orders-prod: orders secrets", "", "17:00"),
	)
	for _, person := range []string{"alice", "carol", "mallory"} {
		unknown := s.Decide(policy.Request{User: person, Database: "nowhere"}, clockAt("13:00"))
		for _, name := range []string{"orders-prod", "orders", "secrets", "orders-prod/orders", "orders-prod/secrets", "analytics", "bob", "his"} {
			got := s.Decide(policy.Request{User: person, Database: name}, clockAt("13:00"))
			want := unknown
			want.Message = fmt.Sprintf("no live grant for %q", name)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s asks for %s (-unknown name +this name):\n%s", person, name, diff)
			}
		}
	}
}

// TestLongNames: what a client sends does not make a message long.
func TestLongNames(t *testing.T) {
	s := set(t, user("alice"))
	got := s.Decide(policy.Request{User: "alice", Database: string(make([]byte, 10_000))}, clockAt("13:00"))
	if len(got.Message) > 400 {
		t.Errorf("got a message of %d bytes", len(got.Message))
	}
}

func TestCovers(t *testing.T) {
	s := set(
		t,
		user("alice", "support"), user("bob"),
		grant("inc", "alice", "READ_ONLY", "orders-prod: orders analytics", "09:00", "17:00"),
		grant("desk", "@support", "READ_ONLY", "orders-prod", "", "17:00"),
	)
	for _, tt := range []struct {
		name, user, grant, database, at string
		want                            bool
	}{
		{"live", "alice", "inc", "orders", "13:00", true},
		{"other database of it", "alice", "inc", "analytics", "13:00", true},
		{"through a group", "alice", "desk", "orders", "13:00", true},
		{"not started", "alice", "inc", "orders", "08:59", false},
		{"ended", "alice", "inc", "orders", "17:00", false},
		{"database taken out", "alice", "desk", "analytics", "13:00", false},
		{"not in the group any more", "bob", "desk", "orders", "13:00", false},
		{"not among the users any more", "bob", "inc", "orders", "13:00", false},
		{"user gone", "carol", "inc", "orders", "13:00", false},
		{"grant gone", "alice", "inc-2", "orders", "13:00", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g, ok := s.Covers(tt.user, tt.grant, tt.database, clockAt(tt.at))
			if ok != tt.want {
				t.Errorf("got %v, want %v", ok, tt.want)
			}
			if ok && g.Name != tt.grant {
				t.Errorf("got grant %s, want %s", g.Name, tt.grant)
			}
		})
	}
}

func TestSameRights(t *testing.T) {
	load := func(access, target, from, until string) *policy.Grant {
		t.Helper()
		s := set(t, user("alice"), grant("inc", "alice", access, target, from, until))
		g, ok := s.Covers("alice", "inc", "orders", clockAt("13:00"))
		if !ok {
			t.Fatal("the grant is not live")
		}
		return g
	}
	old := load("READ_ONLY", "orders-prod: orders", "", "17:00")
	for _, tt := range []struct {
		name                        string
		access, target, from, until string
		want                        bool
	}{
		{"unchanged", "READ_ONLY", "orders-prod: orders", "", "17:00", true},
		{"other times", "READ_ONLY", "orders-prod: orders", "09:00", "20:00", true},
		{"one more database", "READ_ONLY", "orders-prod: orders analytics", "", "17:00", true},
		{"more access", "READ_WRITE", "orders-prod: orders", "", "17:00", false},
		{"other integration", "READ_ONLY", "billing: orders", "", "17:00", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := old.SameRights(load(tt.access, tt.target, tt.from, tt.until)); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// BenchmarkDecide has 10,000 users and 10,000 grants; everybody is in one group.
func BenchmarkDecide(b *testing.B) {
	var rules []rule
	for i := range 10_000 {
		name := fmt.Sprintf("user-%d", i)
		rules = append(rules, user(name, "everybody"), grant(fmt.Sprintf("grant-%d", i), name, "READ_ONLY", "orders-prod", "", "17:00"))
	}
	rules = append(rules, grant("all", "@everybody", "READ_ONLY", "billing", "", "17:00"))
	s, now := set(b, rules...), clockAt("13:00")
	for _, bb := range []struct {
		name, database string
		reason         policy.Reason
	}{
		{"integration", "orders-prod", ""},
		{"integration and database", "orders-prod/orders", ""},
		{"database", "orders", ""},
		{"denied", "nowhere", policy.NoGrant},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if d := s.Decide(policy.Request{User: "user-5000", Database: bb.database}, now); d.Reason != bb.reason {
					b.Fatalf("got reason %q, want %q", d.Reason, bb.reason)
				}
			}
		})
	}
}
