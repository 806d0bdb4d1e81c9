package desk_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/hourgate/hourgate/access"
	"github.com/hourgate/hourgate/access/desk"
	"github.com/hourgate/hourgate/access/sqlite"
	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/policy"
)

const policyText = `
users:
  - {name: bob@example.com, groups: [support]}
  - {name: dave, groups: [support, on-call]}
  - {name: carol, groups: [dba]}
  - {name: sam, groups: [security]}
operators: {groups: [security]}
grants:
  - {name: report, users: [dave], integration: orders-prod, access: READ_ONLY, until: 2099-01-01T00:00:00Z}
access_flows:
  - name: orders
    requestors: {groups: [support]}
    targets: [{integrations: [orders-prod], access: [READ_ONLY, READ_WRITE, {roles: [support reader]}]}]
    max_duration: 8h
    duration: 2h
    justification: {required: true}
    approval: {any_of: [{groups: [dba]}]}
    extensions: {max: 2}
    break_glass: {groups: [on-call], max_duration: 1h, review_by: [{groups: [security]}]}
`

type nowhere struct{}

func (nowhere) Append(audit.Record) error { return nil }

type sessions struct{ killed []string }

func (s *sessions) Sessions() []desk.Session {
	return []desk.Session{
		{ID: "aaaa", User: "bob@example.com", Integration: "orders-prod", Database: "orders", Application: "psql\x1b[2J", State: "running"},
		{ID: "bbbb", User: "carol", Database: "hourgate"},
	}
}

func (s *sessions) Kill(id string, byOperator bool) bool {
	s.killed = append(s.killed, fmt.Sprint(id, " ", byOperator))
	return true
}

type world struct {
	*desk.Desk
	t        testing.TB
	sessions *sessions
}

func newWorld(t testing.TB) *world {
	t.Helper()
	set, err := policy.Parse([]policy.Source{{File: "p.yaml", Data: []byte(policyText)}}, map[string]string{"orders-prod": "orders"})
	if err != nil {
		t.Fatal(err)
	}
	store, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	live := policy.NewLive(set)
	service, err := access.New(access.Config{
		Store: store, Live: live, Files: set, Trail: nowhere{}, Logger: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry(),
	})
	if err == nil {
		err = service.Refresh(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, sessions: &sessions{}}
	w.Desk = desk.New(service, live, w.sessions)
	return w
}

// say is what a person gets for a statement: the rows, a line each, or the error.
func (w *world) say(person, sql string, args ...string) string {
	w.t.Helper()
	var texts []*string
	for i := range args {
		texts = append(texts, &args[i])
	}
	params, columns, err := w.Describe(sql)
	if err == nil && params != len(args) {
		w.t.Errorf("%s: described with %d parameters", sql, params)
	}
	result, runErr := w.Run(w.t.Context(), access.Actor{Name: person}, sql, texts, func(string) {})
	if err != nil && runErr == nil {
		w.t.Errorf("%s: could be run, but was described with %v", sql, err)
	}
	if runErr != nil {
		var told *desk.Error
		if !errors.As(runErr, &told) {
			w.t.Fatalf("%s: %v", sql, runErr)
		}
		return strings.TrimSuffix(told.Code+" "+told.Message+" / "+told.Hint, " / ")
	}
	var lines []string
	for _, row := range result.Rows {
		if len(row) != len(columns) {
			w.t.Errorf("%s: %d values in %d columns", sql, len(row), len(columns))
		}
		var words []string
		for _, v := range row {
			if v == nil {
				words = append(words, "-")
			} else {
				words = append(words, *v)
			}
		}
		lines = append(lines, strings.Join(words, "|"))
	}
	return strings.Join(lines, "\n")
}

func TestStory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const bob = "bob@example.com"
	for _, tt := range []struct{ who, sql, want string }{
		{bob, "SHOW ACCESS", "can ask|READ_ONLY|orders-prod/orders|up to 8 hours|orders|REQUEST READ_ONLY ON orders-prod/orders FOR '2 hours' REASON '…';\n" +
			"can ask|READ_WRITE|orders-prod/orders|up to 8 hours|orders|REQUEST READ_WRITE ON orders-prod/orders FOR '2 hours' REASON '…';\n" +
			"can ask|roles support reader|orders-prod/orders|up to 8 hours|orders|REQUEST 'roles support reader' ON orders-prod/orders FOR '2 hours' REASON '…';"},
		{bob, "request read_write on orders-prod for '90 minutes' reason 'INC-1: it''s late'", "1|pending|bob@example.com|READ_WRITE|orders-prod/orders|1 hour 30 minutes|-|INC-1: it's late|orders|-|lapses at *"},
		{bob, "APPROVE 1", " nobody decides their own request"},
		{"dave", "SHOW REQUESTS", ""},
		{"dave", "SHOW REQUEST 1", " there is no such request"},
		{"carol", "SHOW REQUESTS", "1|pending|bob@example.com|READ_WRITE|orders-prod/orders|1 hour 30 minutes|-|INC-1: it's late|orders|-|APPROVE 1; or DENY 1 REASON '…';"},
		{"carol", "APPROVE 1 FOR '1 hour' AS read_only", "1|active|bob@example.com|READ_ONLY|orders-prod/orders|1 hour|*"},
		{"carol", "DENY 1", " request 1 is active"},
		{bob, "EXTEND 1 FOR '1h'", "1|active|*|extension of 1 hour waits for carol"},
		{"carol", "APPROVE 1", " request 1 is active, and bob@example.com asks for 1h0m0s more / To approve that, say for how long: APPROVE 1 FOR '1h0m0s';"},
		{"carol", "SHOW REQUESTS", "1|active|*|bob@example.com asks for 1 hour more: APPROVE 1 FOR '1 hour'; or DENY 1;"},
		{"carol", "APPROVE request-1 FOR '1h0m0s'", "1|active|*"},
		{bob, "END 1", "1|ended (ended by owner)|*"},
		{"dave", "BREAK GLASS READ_WRITE ON 'orders-prod' REASON 'all down'", "2|active, break-glass|dave|READ_WRITE|orders-prod/orders|1 hour|*"},
		{"sam", "SHOW REQUESTS", "2|active, break-glass|*|REVIEW 2 REASON '…';\n1|ended*"},
		{"sam", "REVIEW 2 REASON 'was right'", "2|active, break-glass|*"},
		{"sam", "LOCK USER bob@example.com FOR '1 hour' REASON 'laptop stolen'", "user bob@example.com is locked, on all gates"},
		{bob, "SHOW ACCESS", "28000 user bob@example.com is locked"},
		{bob, "HELP", "28000 user bob@example.com is locked"},
		{"sam", "SHOW LOCKS", "user|bob@example.com|laptop stolen|*|all gates"},
		{"carol", "SHOW LOCKS", "42501 only operators see locks"},
		{"carol", "UNLOCK USER bob@example.com", " only operators may do this / *"},
		{"sam", "UNLOCK USER bob@example.com", "user bob@example.com is not locked any more"},
		{"sam", "LOCK ALL REASON drill", "everything is locked, on all gates"},
		{"carol", "SHOW REQUESTS", "28000 everything is locked"},
		{"sam", "UNLOCK ALL", "everything is not locked any more"},
		{bob, "SHOW SESSIONS", "aaaa|bob@example.com|-|orders-prod/orders|-|-|psql?[2J|-|-|running"},
		{bob, "KILL 'bbbb'", "42704 there is no such session on this gate / SHOW SESSIONS; lists them."},
		{bob, "KILL aaaa", "session aaaa is ending"},
		{"sam", "KILL bbbb", "session bbbb is ending"},
		{"dave", "SHOW ACCESS", "granted|READ_ONLY|orders-prod/orders|2099-01-01 00:00:00+00|report|connect to orders-prod\ngranted|READ_WRITE|*"},
		{"dave", "select  current_user;", "dave"},
	} {
		got := w.say(tt.who, tt.sql)
		if !like(got, tt.want) {
			t.Errorf("%s: %s\n got %q\nwant %q", tt.who, tt.sql, got, tt.want)
		}
	}
	if got := strings.Join(w.sessions.killed, ", "); got != "aaaa false, bbbb true" {
		t.Errorf("killed %s", got)
	}
}

// like reports whether got is want, in which a star stands for anything.
func like(got, want string) bool {
	parts := strings.Split(want, "*")
	for i, part := range parts {
		at := strings.Index(got, part)
		if at < 0 || i == 0 && at > 0 {
			return false
		}
		got = got[at+len(part):]
	}
	return got == "" || strings.HasSuffix(want, "*")
}

func TestParameters(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	got := w.say("bob@example.com", "REQUEST $1 ON $2 FOR $3 REASON $4", "READ_ONLY", "orders-prod/orders", "1 hour", "it's'; APPROVE 1")
	if !like(got, "1|pending|bob@example.com|READ_ONLY|orders-prod/orders|1 hour|-|it's'; APPROVE 1|*") {
		t.Errorf("got %s", got)
	}
	if got := w.say("carol", "APPROVE $1", "1"); !like(got, "1|active|*") {
		t.Errorf("got %s", got)
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for sql, want := range map[string]string{
		"SELECT * FROM pg_class":                               "0A000 this database takes statements about access only, no SQL*",
		"SELECT oid FROM pg_class":                             "0A000 this database takes statements about access only, no SQL / HELP; shows the statements. Data is in the other databases of this gate.",
		"REQUEST":                                              "42601 the access, such as READ_ONLY, is missing*",
		"REQUEST READ_ONLY":                                    "42601 ON is missing*",
		"REQUEST READ_ONLY ON":                                 "42601 the integration is missing*",
		"REQUEST READ_ONLY ON orders-prod FOR":                 "42601 what follows FOR is missing*",
		"REQUEST READ_ONLY ON orders-prod FOR 'for ever'":      "22023 want a length of time such as '2 hours' or '90 minutes', got \"for ever\"",
		"REQUEST READ_ONLY ON orders-prod FOR '-1 hours'":      "22023 want a length of time*",
		"REQUEST READ_ONLY ON orders-prod FOR '-1h'":           "22023 a length of time must be more than nothing",
		"REQUEST READ_ONLY ON orders-prod FOR '1000 years'":    "22023 want a length of time*",
		"REQUEST READ_ONLY ON orders-prod FOR '1 h' FOR '1 h'": "42601 FOR comes twice*",
		"REQUEST READ_ONLY ON orders-prod REASON it is late":   "42601 syntax error at or near \"is\"*",
		"REQUEST READ_ONLY ON orders-prod REASON 'it":          "42601 a quote without its other half*",
		"REQUEST READ_ONLY ON a, b REASON x":                   "42601 one request is for one integration*",
		"REQUEST READ_ONLY ON a/ REASON x":                     "42601 a database is missing after the /",
		"APPROVE":                                              "42601 the number of the request is missing*",
		"APPROVE one":                                          "22023 want the number of a request, got \"one\"*",
		"APPROVE 99999999999999999999":                         "22023 want the number of a request*",
		"APPROVE 1 2":                                          "42601 syntax error at or near \"2\"*",
		"LOCK":                                                 "42601 USER, GRANT, INTEGRATION or ALL is missing*",
		"LOCK TABLE orders":                                    "42601 want USER, GRANT, INTEGRATION or ALL, got \"table\"*",
		"LOCK USER x UNTIL 'tomorrow' REASON y":                "22023 want a time such as '2026-11-25 18:00' (UTC)*",
		"EXTEND 1":                                             "42601 FOR is missing: how much more time*",
		"SHOW REQUEST \x00":                                    "42601 syntax error at*",
		"SHOW REQUEST \xff":                                    "42601 the statement is not UTF-8 text*",
		"'SHOW' ACCESS":                                        "0A000 *",
		"REQUEST $0 ON x":                                      "42601 want $1 to $50*",
		"REQUEST READ_ONLY ON orders-prod REASON '" + strings.Repeat("x", 1<<20) + "'": " the reason is too long: 1048576 bytes, and at most 1000 are taken",
		"SHOW " + strings.Repeat("x ", 1000):                                           "42601 the statement has more than 200 words*",
	} {
		if got := w.say("bob@example.com", sql); !like(got, want) {
			t.Errorf("%.60q:\n got %q\nwant %q", sql, got, want)
		}
	}
}

// TestAdminSocket: whoever holds it may end and lock, and is nobody who decides, whatever the policy's people are called.
func TestAdminSocket(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.say("bob@example.com", "REQUEST READ_ONLY ON orders-prod REASON x")
	socket := access.Actor{Name: "carol", Operator: true}
	for _, sql := range []string{"APPROVE 1", "DENY 1", "REQUEST READ_ONLY ON orders-prod REASON x", "EXTEND 1 FOR '1h'", "REVIEW 1 REASON x"} {
		var told *desk.Error
		if _, err := w.Run(t.Context(), socket, sql, nil, func(string) {}); !errors.As(err, &told) || told.Code != pgerrcode.InsufficientPrivilege {
			t.Errorf("%s: %v", sql, err)
		}
	}
	if _, err := w.Run(t.Context(), socket, "END 1 REASON 'tidy'", nil, func(string) {}); err != nil {
		t.Error(err)
	}
}

// TestWait: whoever waits is told when somebody has decided.
func TestWait(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.say("bob@example.com", "REQUEST READ_ONLY ON orders-prod REASON x")
	if got := w.say("bob@example.com", "WAIT 1 FOR '1s'"); !like(got, "1|pending|*") {
		t.Errorf("got %s", got)
	}
	said, answer := make(chan string, 1), make(chan string, 1)
	go func() {
		result, err := w.Run(t.Context(), access.Actor{Name: "bob@example.com"}, "WAIT 1 FOR '1 minute'", nil, func(text string) { said <- text })
		if err != nil {
			answer <- err.Error()
			return
		}
		answer <- *result.Rows[0][1]
	}()
	if text := <-said; !strings.Contains(text, "unless decided by carol") {
		t.Errorf("was told %q", text)
	}
	w.say("carol", "APPROVE 1")
	if got := <-answer; got != "active" {
		t.Errorf("got %s", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	w.say("bob@example.com", "REQUEST READ_ONLY ON orders-prod REASON x")
	if _, err := w.Run(ctx, access.Actor{Name: "bob@example.com"}, "WAIT 2", nil, func(string) {}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a client that left: %v", err)
	}
}

// FuzzDescribe: no statement makes anything panic, and what can be described fits itself.
func FuzzDescribe(f *testing.F) {
	for _, sql := range []string{
		"SHOW ACCESS", "REQUEST READ_WRITE ON orders-prod, x/y FOR '2 hours' REASON 'a''b' UNDER \"f\"", "APPROVE $1 FOR $2 -- c", "/* */ LOCK ALL REASON x",
		"select version()", "UNLOCK USER é", "KILL 'a", "EXTEND 17 FOR 1h30m", "LOCK USER a UNTIL '2026-11-25 18:00' REASON $3",
	} {
		f.Add(sql)
	}
	w := newWorld(f)
	f.Fuzz(func(t *testing.T, sql string) {
		params, columns, err := w.Describe(sql)
		var told *desk.Error
		switch {
		case err == nil && (len(columns) == 0 || params < 0 || params > 50):
			t.Errorf("%q: %d parameters, columns %v", sql, params, columns)
		case err != nil && (!errors.As(err, &told) || told.Code == "" || told.Message == ""):
			t.Errorf("%q: %v", sql, err)
		}
		args := make([]*string, max(params, 0))
		for i := range args {
			args[i] = &sql
		}
		_, err = w.Run(t.Context(), access.Actor{Name: "nobody"}, sql, args, func(string) {})
		if err != nil && !errors.As(err, &told) {
			t.Errorf("%q: %v", sql, err)
		}
	})
}

// TestShowGrants: operators see what is in force, what came of requests included; nobody else does.
func TestShowGrants(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if got := w.say("bob@example.com", "SHOW GRANTS"); !like(got, "42501 only operators see all grants*") {
		t.Errorf("got %q", got)
	}
	w.say("bob@example.com", "REQUEST READ_ONLY ON orders-prod FOR '1 hour' REASON 'INC-7'")
	w.say("carol", "APPROVE 1")
	result, err := w.Run(t.Context(), access.Actor{Name: "operator", Operator: true}, "SHOW GRANTS", nil, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, row := range result.Rows {
		var cells []string
		for _, cell := range row {
			if cell == nil {
				cell = new(string)
			}
			cells = append(cells, *cell)
		}
		lines = append(lines, strings.Join(slices.Delete(cells, 5, 6), "|"))
	}
	if !slices.Contains(lines, "request-1|live|bob@example.com|orders-prod/orders|READ_ONLY|INC-7") {
		t.Errorf("got %q", lines)
	}
}
