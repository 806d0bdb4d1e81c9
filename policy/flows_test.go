package policy_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hourgate/hourgate/internal/strictyaml"
	"github.com/hourgate/hourgate/policy"
)

// people are in each policy of these tests. support: bob, dave. dba: carol, and erin through dba-emea. owner: olga.
const people = `users:
  - {name: bob, groups: [support]}
  - {name: dave, groups: [support, on-call]}
  - {name: carol}
  - {name: erin, groups: [dba-emea]}
  - {name: olga}
  - {name: sam, groups: [security]}
groups:
  - {name: dba, members: [carol], groups: [dba-emea]}
  - {name: empty}
operators: {groups: [security]}
`

// oneFlow is a policy with one flow: the good one, of which each change replaces a key, or takes it away.
func oneFlow(changes ...string) string {
	keys := []string{
		"name: support-orders", "requestors: {groups: [support]}",
		"targets: [{integrations: [orders-prod], databases: [orders, analytics], access: [READ_ONLY, READ_WRITE]}]",
		"max_duration: 8h", "duration: 2h",
		`justification: {required: true, min_length: 10, pattern: '^(INC|CHG)-\d+', hint: a ticket}`,
		"approval: {any_of: [{groups: [dba]}, {users: [olga]}]}",
		`auto_approve: [{when: {days: [mon, tue, wed, thu, fri], from: "08:00", to: "18:00", time_zone: Europe/Berlin}, access: [READ_ONLY]}]`,
		"timeframe:", "request_ttl: 24h", "extensions: {max: 2, duration: 4h, approval: same}",
		"break_glass: {groups: [on-call], max_duration: 1h, notify: [security], review_by: [{groups: [security]}]}",
		"settings: {max_sessions: 3, statement_timeout: 30s}",
	}
	text := people + "access_flows:\n  -"
	for _, key := range keys {
		name, value, _ := strings.Cut(key, ":")
		for _, change := range changes {
			if changed, ok := strings.CutPrefix(change, name+":"); ok {
				value = changed
			}
		}
		if strings.TrimSpace(value) != "" {
			text += " " + name + ": " + strings.TrimSpace(value) + "\n   "
		}
	}
	return text + "\n"
}

func parseFlows(t testing.TB, text string) *policy.Set {
	t.Helper()
	s, err := policy.Parse([]policy.Source{{File: "p.yaml", Data: []byte(text)}}, integrations)
	if err != nil {
		t.Fatalf("%v\nin\n%s", err, text)
	}
	return s
}

func TestFlowsRefused(t *testing.T) {
	for _, tt := range []struct{ name, change, want string }{
		{"no name", "name:", "access_flows[0].name: required"},
		{"nobody may ask", "requestors:", "access_flows[0].requestors: required: the users and groups who may ask"},
		{"an empty group asks", "requestors: {groups: [empty]}", "access_flows[0].requestors: nobody could ask: there is no such user, and nobody in such a group"},
		{"no targets", "targets:", "access_flows[0].targets: required: what can be asked for"},
		{"no integration", "targets: [{access: [READ_ONLY]}]", "access_flows[0].targets[0].integrations: required"},
		{"no access", "targets: [{integrations: [orders-prod]}]", "access_flows[0].targets[0].access: required: a list of READ_ONLY, READ_WRITE, ADMIN and mappings as in a grant"},
		{"unknown level", "targets: [{integrations: [orders-prod], access: [READONLY]}]", `access_flows[0].targets[0].access[0]: want READ_ONLY, READ_WRITE or ADMIN, got "READONLY"`},
		{"level twice", "targets: [{integrations: [orders-prod], access: [READ_ONLY, ADMIN, READ_ONLY]}]", "access_flows[0].targets[0].access[2]: is in the list twice"},
		{"dangerous role", "targets: [{integrations: [orders-prod], access: [READ_ONLY, {roles: [pg_monitor]}]}]", "access_flows[0].targets[0].access[1].roles[0]: pg_monitor sees other people's statements: it needs dangerous: true"},
		{"no databases", "targets: [{integrations: [orders-prod], databases: [], access: [READ_ONLY]}]", "access_flows[0].targets[0].databases: empty: leave the key out for the integration's database"},
		{"no longest time", "max_duration:", "access_flows[0].max_duration: required: there is no indefinite access (want such as 8h)"},
		{"zero time", "max_duration: 0s", "access_flows[0].max_duration: required: there is no indefinite access (want such as 8h)"},
		{"a hundred years", "max_duration: 876000h", "access_flows[0].max_duration: want 366 days at most"},
		{"milliseconds", "duration: 5ms", "access_flows[0].duration: want a second at least"},
		{"default longer than the longest", "duration: 9h", "access_flows[0].duration: is longer than max_duration"},
		{"a pattern that is none", "justification: {pattern: '('}", "access_flows[0].justification.pattern: want a regular expression: error parsing regexp: missing closing ): `(`"},
		{"a length that nobody types", "justification: {min_length: 5000}", "access_flows[0].justification.min_length: want 0 to 500"},
		{"nobody decides", "approval: {}", "access_flows[0].approval: any_of or all_of required: who decides (or write none, and everything is approved at once)"},
		{"approval with another word", "approval: nobody", "access_flows[0].approval: want none, or a mapping with any_of or all_of"},
		{"any_of and all_of", "approval: {any_of: [{users: [olga]}], all_of: [{users: [olga]}]}", "access_flows[0].approval: has any_of and all_of: want one of them"},
		{"an empty list of approvers", "approval: {any_of: [{}]}", "access_flows[0].approval.any_of[0]: users or groups required"},
		{"an empty group of approvers", "approval: {any_of: [{users: [olga]}, {groups: [empty]}]}", "access_flows[0].approval.any_of[1]: there is nobody in it"},
		{"more approvals than people", "approval: {any_of: [{users: [olga]}], count: 2}", "access_flows[0].approval: nobody could get it: 2 different people besides the one who asks are needed, and there are not as many"},
		{"one person for two groups", "approval: {all_of: [{users: [olga]}, {users: [olga]}]}", "access_flows[0].approval: nobody could get it: 2 different people besides the one who asks are needed, and there are not as many"},
		{"no approvals", "approval: {any_of: [{users: [olga]}], count: -1}", "access_flows[0].approval.count: want 1 to 20"},
		{"auto_approve of everything", "auto_approve: [{}]", "access_flows[0].auto_approve[0]: approves everything: want when, access, users or groups (or approval: none)"},
		{"auto_approve of what is not there", "auto_approve: [{access: [ADMIN]}]", "access_flows[0].auto_approve[0].access[0]: is in none of the flow's targets"},
		{"unknown zone", "timeframe: {days: [mon], time_zone: Europe/Berlinn}", `access_flows[0].timeframe.time_zone: unknown time zone "Europe/Berlinn" (want a name such as Europe/Berlin or UTC)`},
		{"zone of the machine", "timeframe: {days: [mon], time_zone: Local}", `access_flows[0].timeframe.time_zone: unknown time zone "Local" (want a name such as Europe/Berlin or UTC)`},
		{"unknown day", "timeframe: {days: [monday]}", `access_flows[0].timeframe.days[0]: want mon, tue, wed, thu, fri, sat or sun, got "monday"`},
		{"a day twice", "timeframe: {days: [mon, mon]}", `access_flows[0].timeframe.days[1]: "mon" is in the list twice`},
		{"no days", "timeframe: {days: []}", "access_flows[0].timeframe.days: empty: leave the key out for all days"},
		{"no such time", `timeframe: {from: "25:00"}`, `access_flows[0].timeframe.from: want a time of day from 00:00 to 24:00, such as 08:00, got "25:00"`},
		{"no time at all", `timeframe: {from: "08:00", to: "08:00"}`, "access_flows[0].timeframe.to: no time is between 08:00 and 08:00: leave both out for the whole day"},
		{"no limit", "timeframe: {time_zone: UTC}", "access_flows[0].timeframe: limits nothing: want days, or from and to"},
		{"requests that wait for ever", "request_ttl: 10000h", "access_flows[0].request_ttl: want 30 days at most"},
		{"no extensions", "extensions: {max: 0}", "access_flows[0].extensions.max: want 1 to 100 (leave extensions out for none)"},
		{"break-glass for nobody", "break_glass: {max_duration: 1h, review_by: [{groups: [security]}]}", "access_flows[0].break_glass: users or groups required: who may break the glass"},
		{"break-glass without an end", "break_glass: {groups: [on-call], review_by: [{groups: [security]}]}", "access_flows[0].break_glass.max_duration: required (want such as 1h)"},
		{"break-glass longer than the flow", "break_glass: {groups: [on-call], max_duration: 9h, review_by: [{groups: [security]}]}", "access_flows[0].break_glass.max_duration: is longer than the flow's max_duration"},
		{"break-glass that nobody reviews", "break_glass: {groups: [on-call], max_duration: 1h}", "access_flows[0].break_glass.review_by: required: each use owes a review by somebody else"},
		{"break-glass that one reviews oneself", "break_glass: {groups: [on-call], max_duration: 1h, review_by: [{groups: [on-call]}]}", "access_flows[0].break_glass.review_by[0]: there is only dave in it, and nobody may review their own use of break-glass"},
		{"settings", "settings: {max_sessions: 100000}", "access_flows[0].settings.max_sessions: want 1 to 1000"},
		{"misspelt", "settings: {max_session: 1}", `access_flows[0].settings: unknown field "max_session" (did you mean "max_sessions"? known: max_sessions, statement_timeout, idle_in_transaction_session_timeout, lock_timeout, keep_objects_as)`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			changes := []string{tt.change}
			if !strings.HasPrefix(tt.change, "auto_approve:") {
				changes = append(changes, "auto_approve:") // its access may not be in the targets
			}
			data := oneFlow(changes...)
			_, err := policy.Parse([]policy.Source{{File: "p.yaml", Data: []byte(data)}}, integrations)
			var problems strictyaml.Problems
			if !errors.As(err, &problems) {
				t.Fatalf("was accepted:\n%s", data)
			}
			for _, p := range problems {
				if _, got, _ := strings.Cut(p.String(), " "); len(problems) != 1 || got != tt.want || p.Line < 10 {
					t.Errorf("got %s, want %s", got, tt.want)
				}
			}
		})
	}
}

func TestGroupsRefused(t *testing.T) {
	for _, tt := range []struct{ name, groups, want string }{
		{"itself", "[{name: a, groups: [a]}]", "p.yaml:2:28: groups[0].groups: a group can't be within itself: a → a"},
		{"a cycle", "[{name: a, groups: [b]}, {name: b, groups: [c]}, {name: c, groups: [a]}]", "p.yaml:2:28: groups[0].groups: a group can't be within itself: a → b → c → a"},
		{"twice", "[{name: a, members: [bob]}, {name: a}]", `p.yaml:2:44: groups[1].name: group "a" is already at p.yaml:2:17`},
		{"no name", "[{members: [bob]}]", "p.yaml:2:10: groups[0].name: required"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := policy.Parse([]policy.Source{{File: "p.yaml", Data: []byte("users: [{name: bob}]\ngroups: " + tt.groups)}}, integrations)
			if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

// TestNestedGroups: a grant to a group reaches members of its groups.
func TestNestedGroups(t *testing.T) {
	s := parseFlows(t, people+"grants: [{name: g, groups: [dba], integration: orders-prod, access: READ_ONLY, until: 2026-11-22T17:00:00Z}]")
	for user, want := range map[string]string{"carol": "g: orders-prod/orders", "erin": "g: orders-prod/orders", "bob": "no_grant"} {
		if got := verdict(s.Decide(policy.Request{User: user, Database: "orders-prod"}, clockAt("13:00"))); got != want {
			t.Errorf("%s: got %s, want %s", user, got, want)
		}
	}
	if got := strings.Join(s.Groups("erin"), " "); got != "dba dba-emea" {
		t.Errorf("erin is in %q", got)
	}
}

// Reserved: a grant in a file can't pass for one that was asked for.
func TestReservedGrantName(t *testing.T) {
	_, err := policy.Parse([]policy.Source{{File: "p.yaml", Data: []byte(people + "grants: [{name: request-7, users: [bob], integration: orders-prod, access: READ_ONLY, until: 2026-11-22T17:00:00Z}]")}}, integrations)
	if err == nil || !strings.Contains(err.Error(), "grants[0].name: request-7 is the name of a grant that was asked for: want another") {
		t.Errorf("got %v", err)
	}
}

func TestWindow(t *testing.T) {
	for _, tt := range []struct {
		window  string
		in, out []string
	}{
		{`{days: [mon, fri]}`, []string{"2026-11-23T00:00:00Z", "2026-11-27T23:59:59Z"}, []string{"2026-11-24T00:00:00Z", "2026-11-22T23:59:59Z"}},
		{`{from: "08:00", to: "18:00", time_zone: Europe/Berlin}`, []string{"2026-11-25T07:00:00Z", "2026-11-25T16:59:59Z", "2026-07-01T06:00:00Z"}, []string{"2026-11-25T06:59:59Z", "2026-11-25T17:00:00Z", "2026-07-01T16:00:00Z"}},
		{`{days: [fri], from: "22:00", to: "06:00"}`, []string{"2026-11-27T22:00:00Z", "2026-11-28T05:59:00Z"}, []string{"2026-11-27T05:00:00Z", "2026-11-28T06:00:00Z", "2026-11-28T22:30:00Z"}},
		{`{from: "20:00"}`, []string{"2026-11-25T20:00:00Z", "2026-11-25T23:59:59Z"}, []string{"2026-11-25T19:59:59Z", "2026-11-25T00:00:00Z"}},
		{`{to: "02:00"}`, []string{"2026-11-25T00:00:00Z"}, []string{"2026-11-25T02:00:00Z"}},
		// The night on which clocks are set forward from 02:00 to 03:00, and the one on which they are set back from 03:00.
		{`{from: "02:30", to: "03:30", time_zone: Europe/Berlin}`, []string{"2026-03-29T01:00:00Z", "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"}, []string{"2026-03-29T00:59:00Z", "2026-03-29T01:30:00Z"}},
	} {
		f := parseFlows(t, oneFlow("timeframe: "+tt.window)).Flow("support-orders")
		for _, at := range tt.in {
			if !f.Timeframe.Contains(instant(t, at)) {
				t.Errorf("%s: %s is not in it", tt.window, at)
			}
		}
		for _, at := range tt.out {
			if f.Timeframe.Contains(instant(t, at)) {
				t.Errorf("%s: %s is in it", tt.window, at)
			}
		}
	}
}

func instant(t testing.TB, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

const (
	workday = "2026-11-25T12:00:00Z" // a Wednesday, within auto_approve
	night   = "2026-11-25T22:00:00Z"
)

// TestPlan: who may ask for what.
func TestPlan(t *testing.T) {
	const ticket = "INC-4211 refund"
	for _, tt := range []struct {
		name, change string
		wish         policy.Wish
		at, want     string
	}{
		{"decided by others", "", policy.Wish{User: "bob", Access: "READ_WRITE", Reason: ticket}, workday, "READ_WRITE orders 2h0m0s by carol erin olga"},
		{"approved by the clock", "", policy.Wish{User: "bob", Access: "READ_ONLY", Reason: ticket}, workday, "READ_ONLY orders 2h0m0s at once"},
		{"not at night", "", policy.Wish{User: "bob", Access: "READ_ONLY", Reason: ticket}, night, "READ_ONLY orders 2h0m0s by carol erin olga"},
		{"another database", "", policy.Wish{User: "bob", Access: "READ_WRITE", Databases: []string{"analytics"}, For: time.Hour, Reason: ticket}, workday, "READ_WRITE analytics 1h0m0s by carol erin olga"},
		{"no approval", "approval: none\x00auto_approve:", policy.Wish{User: "bob", Access: "READ_WRITE", Reason: ticket}, night, "READ_WRITE orders 2h0m0s at once"},
		{"an approver asks", "requestors: {groups: [dba]}", policy.Wish{User: "carol", Access: "READ_WRITE", Reason: ticket}, workday, "READ_WRITE orders 2h0m0s by erin olga"},
		{"break-glass", "", policy.Wish{User: "dave", Access: "READ_WRITE", Reason: "all is down", BreakGlass: true}, night, "READ_WRITE orders 1h0m0s at once"},
		{"after hours, filed", `timeframe: {days: [mon]}`, policy.Wish{User: "bob", Access: "READ_WRITE", Reason: ticket}, workday, "READ_WRITE orders 2h0m0s by carol erin olga"},

		{"a stranger", "", policy.Wish{User: "olga", Access: "READ_WRITE", Reason: ticket}, workday, "no access flow lets you ask for READ_WRITE on orders-prod"},
		{"too much", "", policy.Wish{User: "bob", Access: "ADMIN", Reason: ticket}, workday, "no access flow lets you ask for ADMIN on orders-prod"},
		{"another database of the server", "", policy.Wish{User: "bob", Access: "READ_ONLY", Databases: []string{"secrets"}, Reason: ticket}, workday, "no access flow lets you ask for READ_ONLY on orders-prod/secrets"},
		{"a flow that is not there", "", policy.Wish{User: "bob", Flow: "x", Access: "READ_ONLY", Reason: ticket}, workday, `no access flow lets you ask for READ_ONLY on orders-prod under "x"`},
		{"too long", "", policy.Wish{User: "bob", Access: "READ_ONLY", For: 9 * time.Hour, Reason: ticket}, workday, "flow support-orders gives access for 8 hours at most"},
		{"the past", "", policy.Wish{User: "bob", Access: "READ_ONLY", For: -time.Hour, Reason: ticket}, workday, "access for no time is no access"},
		{"no reason", "", policy.Wish{User: "bob", Access: "READ_ONLY"}, workday, "this request needs a reason"},
		{"a short reason", "", policy.Wish{User: "bob", Access: "READ_ONLY", Reason: "."}, workday, "the reason is too short: at least 10 characters are required"},
		{"no ticket", "", policy.Wish{User: "bob", Access: "READ_ONLY", Reason: "because I want to"}, workday, `the reason must match ^(INC|CHG)-\d+`},
		{"at once, but not now", `timeframe: {days: [mon]}`, policy.Wish{User: "bob", Access: "READ_ONLY", Reason: ticket}, workday, "flow support-orders gives access only within its timeframe: mon UTC"},
		{"no break-glass for bob", "", policy.Wish{User: "bob", Access: "READ_WRITE", Reason: "all is down", BreakGlass: true}, night, "no access flow lets you ask for READ_WRITE on orders-prod by breaking the glass"},
		{"break-glass without a reason", "", policy.Wish{User: "dave", Access: "READ_WRITE", BreakGlass: true}, night, "this request needs a reason"},
		{"break-glass for too long", "", policy.Wish{User: "dave", Access: "READ_WRITE", Reason: "all is down", For: 2 * time.Hour, BreakGlass: true}, night, "flow support-orders gives access for 1 hour at most"},
		{"the only approver asks", "requestors: {groups: [support, dba]}\x00approval: {any_of: [{users: [carol]}]}", policy.Wish{User: "carol", Access: "READ_WRITE", Reason: ticket}, workday, "nobody but you could decide this request under flow support-orders"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := parseFlows(t, oneFlow(strings.Split(tt.change, "\x00")...))
			tt.wish.Integration, tt.wish.At = "orders-prod", instant(t, tt.at)
			p, err := s.Plan(tt.wish)
			got := ""
			switch {
			case err != nil:
				got = err.Error()
			case p.AtOnce != "":
				got = fmt.Sprintf("%s %s %s at once", p.Access, strings.Join(p.Databases, " "), p.For)
			default:
				got = fmt.Sprintf("%s %s %s by %s", p.Access, strings.Join(p.Databases, " "), p.For, strings.Join(p.Deciders, " "))
			}
			if got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func granted(t testing.TB, user string) policy.Granted {
	return policy.Granted{
		Request: 17, User: user, Flow: "support-orders", Integration: "orders-prod", Databases: []string{"orders"},
		Access: "READ_WRITE", Approved: instant(t, workday), Until: instant(t, workday).Add(2 * time.Hour),
	}
}

// TestAsked: what a person can ask for is found by every name that a client can connect with.
func TestAsked(t *testing.T) {
	const more = `
  - name: more
    requestors: {users: [bob]}
    targets: [{integrations: [orders-test], databases: [analytics, logs], access: [READ_WRITE]}, {integrations: [analytics], access: [ADMIN]}]
    max_duration: 1h
    approval: none
`
	text := oneFlow() + more
	s, err := policy.Parse([]policy.Source{{File: "p.yaml", Data: []byte(text)}}, map[string]string{"orders-prod": "orders", "orders-test": "orders", "analytics": "events"})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"orders-prod":           "orders-prod: READ_ONLY READ_WRITE READ_ONLY READ_WRITE",
		"orders-prod/orders":    "orders-prod/orders: READ_ONLY READ_WRITE",
		"orders@orders-prod":    "orders-prod/orders: READ_ONLY READ_WRITE",
		"analytics@orders-test": "orders-test/analytics: READ_WRITE",
		"orders":                "orders-prod/orders: READ_ONLY READ_WRITE",
		"logs":                  "orders-test/logs: READ_WRITE",
		"analytics":             "analytics: ADMIN", // the integration goes before the databases
		"events":                "analytics/events: ADMIN",
		"orders@orders-test":    ": ",
		"@orders-prod":          ": ",
		"secrets@orders-prod":   ": ",
		"orders-prod/":          "orders-prod: READ_ONLY READ_WRITE READ_ONLY READ_WRITE",
		"":                      ": ",
		"x":                     ": ",
	} {
		a := s.Asked("bob", name)
		var accesses []string
		for _, o := range a.Offers {
			accesses = append(accesses, o.Access)
		}
		if got := a.Target + ": " + strings.Join(accesses, " "); got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
	if a := s.Asked("olga", "orders-prod"); len(a.Offers) > 0 {
		t.Errorf("olga can ask for %v", a)
	}
}

// TestMayGrant: whose approvals make a request access, under the flows in force.
func TestMayGrant(t *testing.T) {
	for _, tt := range []struct{ name, change, user, approvers, want string }{
		{"one of any", "", "bob", "erin", "granted"},
		{"the owner", "", "bob", "olga", "granted"},
		{"nobody", "", "bob", "", "more"},
		{"a stranger", "", "bob", "sam", "more"},
		{"somebody unknown, removed meanwhile", "", "bob", "mallory", "more"},
		{"oneself", "requestors: {groups: [dba]}", "carol", "carol", "more"},
		{"two of any", "approval: {any_of: [{groups: [dba]}, {users: [olga]}], count: 2}", "bob", "erin olga", "granted"},
		{"one of two", "approval: {any_of: [{groups: [dba]}, {users: [olga]}], count: 2}", "bob", "erin", "more"},
		{"the same twice", "approval: {any_of: [{groups: [dba]}, {users: [olga]}], count: 2}", "bob", "erin erin", "more"},
		{"one of each", "approval: {all_of: [{groups: [dba]}, {users: [olga]}]}", "bob", "erin olga", "granted"},
		{"two of one", "approval: {all_of: [{groups: [dba]}, {users: [olga]}]}", "bob", "erin carol", "more"},
		{"a person stands for one group", "approval: {all_of: [{groups: [dba]}, {users: [carol, olga]}]}", "bob", "carol", "more"},
		{"and makes room", "approval: {all_of: [{groups: [dba]}, {users: [carol, olga]}]}", "bob", "carol erin", "granted"},
		{"no approval needed by now", "approval: none\x00auto_approve:", "bob", "", "granted"},

		{"flow renamed", "name: other", "bob", "erin", "flow support-orders is not in force any more"},
		{"requestor left the group", "requestors: {users: [dave]}", "bob", "erin", "flow support-orders is not for bob any more"},
		{"target gone", "targets: [{integrations: [orders-prod], databases: [analytics], access: [READ_ONLY, READ_WRITE]}]", "bob", "erin", "flow support-orders does not give READ_WRITE on orders-prod/orders any more"},
		{"access gone", "targets: [{integrations: [orders-prod], access: [READ_ONLY]}]", "bob", "erin", "flow support-orders does not give READ_WRITE on orders-prod/orders any more"},
		{"out of the timeframe", "timeframe: {days: [mon]}", "bob", "erin", "flow support-orders gives access only within its timeframe: mon UTC"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := parseFlows(t, oneFlow(strings.Split(tt.change, "\x00")...))
			enough, o := s.MayGrant(granted(t, tt.user), strings.Fields(tt.approvers), instant(t, workday))
			got := map[bool]string{true: "granted", false: "more"}[enough]
			if o != nil {
				got = o.Message
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// TestCeiling: what was granted stands as far as the flow in force allows.
func TestCeiling(t *testing.T) {
	for _, tt := range []struct {
		name, change string
		extensions   []time.Duration
		until        time.Duration // after the approval
		want         string
	}{
		{"as granted", "", nil, 2 * time.Hour, "2h0m0s"},
		{"shortened", "max_duration: 1h\x00duration:", nil, 2 * time.Hour, "1h0m0s"},
		{"extended", "", []time.Duration{4 * time.Hour}, 10 * time.Hour, "10h0m0s"},
		{"extended within what is left", "max_duration: 1h\x00duration:", []time.Duration{4 * time.Hour}, 10 * time.Hour, "5h0m0s"},
		{"extensions taken away", "extensions:", []time.Duration{4 * time.Hour}, 12 * time.Hour, "8h0m0s"},
		{"fewer extensions", "extensions: {max: 1}", []time.Duration{time.Hour, time.Hour}, 12 * time.Hour, "9h0m0s"},
		{"timeframe moved away", "timeframe: {days: [mon]}", nil, 2 * time.Hour, "flow support-orders gives access only within its timeframe: mon UTC"},
		{"flow taken away", "name: other", nil, 2 * time.Hour, "flow support-orders is not in force any more"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := parseFlows(t, oneFlow(append(strings.Split(tt.change, "\x00"), "break_glass:")...))
			given := granted(t, "bob")
			given.Extensions, given.Until = tt.extensions, given.Approved.Add(tt.until)
			grant, o := s.Grant(given)
			got := ""
			if o != nil {
				got = o.Message
			} else {
				got = grant.Until.Sub(given.Approved).String()
				if grant.Name != "request-17" || !slices.Equal(grant.Users, []string{"bob"}) || grant.MaxSessions != 3 || grant.StatementTimeout != 30*time.Second {
					t.Errorf("bad grant %+v", grant)
				}
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestMayExtendNarrowDecide(t *testing.T) {
	s := parseFlows(t, oneFlow())
	now := instant(t, workday)
	g := granted(t, "bob")
	said := func(o *policy.Objection) string {
		if o == nil {
			return ""
		}
		return o.Message
	}
	extend := func(g policy.Granted, d time.Duration) string {
		free, o := s.MayExtend(g, d, now)
		return fmt.Sprint(free) + " " + said(o)
	}
	twice := g
	twice.Extensions = []time.Duration{time.Hour, time.Hour}
	broken := granted(t, "dave")
	broken.BreakGlass = true
	reader := g
	reader.Access = "READ_ONLY"
	for i, pair := range [][2]string{
		{extend(g, time.Hour), "false "},
		{extend(reader, time.Hour), "true "}, // by auto_approve
		{extend(g, 5*time.Hour), "false flow support-orders extends by 4 hours at most"},
		{extend(twice, time.Hour), "false the extensions that flow support-orders allows (2) have been used"},
		{extend(broken, time.Hour), "false access by break-glass is not extended"},
		{extend(g, -time.Hour), "false an extension by no time is none"},
		{said(s.MayNarrow(g, "READ_ONLY")), ""},
		{said(s.MayNarrow(reader, "READ_WRITE")), "an approver may lower access, never widen it: READ_ONLY was asked for"},
		{said(s.MayNarrow(g, "ADMIN")), "flow support-orders does not give ADMIN there"},
		{said(s.MayDecide("carol", g)), ""},
		{said(s.MayDecide("erin", g)), ""},
		{said(s.MayDecide("bob", g)), "nobody decides their own request"},
		{said(s.MayDecide("sam", g)), "you are not among those who decide under flow support-orders"},
		{said(s.MayReview("sam", broken)), ""},
		{said(s.MayReview("dave", broken)), "nobody reviews their own use of break-glass"},
		{said(s.MayReview("olga", broken)), "you are not among those who review break-glass under flow support-orders"},
		{fmt.Sprint(s.Operator("sam"), s.Operator("bob")), "true false"},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%d: got %q, want %q", i, pair[0], pair[1])
		}
	}
}

// checkFlows holds what was accepted against what no flow may do.
func checkFlows(t *testing.T, s *policy.Set, users []*policy.User, flows []*policy.Flow) {
	t.Helper()
	now := clockAt("13:00")
	for _, f := range flows[:min(3, len(flows))] {
		target := f.Targets[0]
		for _, u := range users[:min(3, len(users))] {
			p, err := s.Plan(policy.Wish{User: u.Name, Integration: target.Integrations[0], Access: target.Access[0].String(), Reason: "INC-1 what for", At: now})
			if err == nil && (p.For <= 0 || p.For > p.Flow.MaxDuration || slices.Contains(p.Deciders, u.Name) || p.AtOnce == "" && len(p.Deciders) == 0) {
				t.Errorf("bad plan %+v", p)
			}
			g := policy.Granted{
				Request: 1, User: u.Name, Flow: f.Name, Integration: target.Integrations[0], Databases: target.Databases, Access: target.Access[0].String(),
				Approved: now, Until: now.Add(10_000 * time.Hour),
			}
			if s.MayDecide(u.Name, g) == nil || s.MayReview(u.Name, g) == nil {
				t.Errorf("%q decides their own request", u.Name)
			}
			if enough, o := s.MayGrant(g, []string{u.Name}, now); enough && o == nil && s.AtOnce(g, now) == "" {
				t.Errorf("%q was let in by their own approval", u.Name)
			}
			if grant, o := s.Grant(g); o == nil && grant.Until.After(now.Add(f.MaxDuration)) {
				t.Errorf("flow %+v gave %+v", f, grant)
			}
		}
	}
}
