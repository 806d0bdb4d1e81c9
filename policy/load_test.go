package policy_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hourgate/hourgate/internal/strictyaml"
	"github.com/hourgate/hourgate/internal/verifier"
	"github.com/hourgate/hourgate/policy"
)

const scram = "SCRAM-SHA-256$4096:6eDUWcyTuwyuTs49UElVUg==" +
	"$6toJAcGl1gwDXtQA4D3UTlaN3RKsbaC8hoMvSdT9SGY=:S2nJCVTPPQUWlm4B+HKSv+aLnq+wChqUa8YUUFyexi8="

func TestParse(t *testing.T) {
	s, err := policy.Parse([]policy.Source{
		{File: "grants.yaml", Data: []byte(`
grants:
  - name: inc-4211
    users: [alice]
    groups: [support]
    integration: orders-prod
    access: READ_WRITE
    from: 2026-11-22T10:00:00+01:00
    until: 2026-11-22T17:00:00Z
    reason: INC-4211
`)},
		{File: "users.yaml", Data: []byte(`
users:
  - {name: alice, groups: [support], scram: "` + scram + `"}
  - {name: with-certificate}
`)},
		{File: "lists.yaml", Data: []byte("users: []\ngrants: []\n")},
	}, integrations)
	if err != nil {
		t.Fatal(err)
	}
	got, _ := s.Covers("alice", "inc-4211", "orders", clockAt("13:00"))
	want := &policy.Grant{
		Name:        "inc-4211",
		Users:       []string{"alice"},
		Groups:      []string{"support"},
		Integration: "orders-prod",
		Databases:   []string{"orders"},
		Access:      policy.Access{Level: policy.ReadWrite},
		From:        time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC),
		Until:       time.Date(2026, 11, 22, 17, 0, 0, 0, time.UTC),
		Reason:      "INC-4211",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("grant (-want +got):\n%s", diff)
	}
	if v, ok := s.Verifier("alice"); !ok || v.Encode() != scram {
		t.Errorf("verifier of alice: got %v %q, want the one in the file", ok, v.Encode())
	}
	for _, user := range []string{"with-certificate", "nobody", ""} {
		if _, ok := s.Verifier(user); ok {
			t.Errorf("%q has a verifier", user)
		}
	}
	if users, grants := s.Size(); users != 2 || grants != 1 {
		t.Errorf("got %d users and %d grants, want 2 and 1", users, grants)
	}
}

// TestParseEmpty: nothing in the policy means that everybody is denied, and must be meant.
func TestParseEmpty(t *testing.T) {
	for data, meant := range map[string]bool{"": false, "# soon\n": false, "---\n": false, "{}": false, "users: []": true, "grants: []": true} {
		s, err := policy.Parse([]policy.Source{{File: "p.yaml", Data: []byte(data)}}, integrations)
		if !meant {
			if err == nil || err.Error() != "p.yaml:1:1: the file is empty: write users: [] if it is to give nobody anything" {
				t.Errorf("%q: got %v", data, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", data, err)
			continue
		}
		if got := verdict(s.Decide(policy.Request{User: "alice", Database: "orders-prod"}, clockAt("13:00"))); got != "no_grant" {
			t.Errorf("%q: got %s, want no_grant", data, got)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	// Each policy is the grant of goodGrant, with a change, after the users alice and bob of group support.
	const goodUsers = "users:\n  - {name: alice, groups: [support]}\n  - {name: bob}\n"
	goodGrant := map[string]string{
		"name": "inc", "users": "[alice]", "integration": "orders-prod", "access": "READ_ONLY", "until": "2026-11-22T17:00:00Z",
	}
	withGrant := func(changes ...string) string {
		lines := goodUsers + "grants:\n  -"
		for _, key := range []string{"name", "users", "groups", "integration", "databases", "access", "from", "until", "reason", "max_sessions", "statement_timeout", "lock_timeout"} {
			value := goodGrant[key]
			for _, change := range changes {
				if changed, ok := strings.CutPrefix(change, key+":"); ok {
					value = strings.TrimSpace(changed)
				}
			}
			if value != "" {
				lines += "    " + key + ": " + value + "\n"
			}
		}
		return strings.Replace(lines, "-    ", "- ", 1)
	}
	long := strings.Repeat("x", 64)
	for _, tt := range []struct {
		name, data string
		want       []string
	}{
		{"user without a name", "users:\n  - {groups: [a]}", []string{"p.yaml:2:5: users[0].name: required"}},
		{"user with an empty name", "users:\n  - name: ''", []string{"p.yaml:2:11: users[0].name: required"}},
		{"user's name too long", "users:\n  - name: " + long, []string{"p.yaml:2:11: users[0].name: longer than 63 bytes"}},
		{"line end in a name", "users:\n  - name: \"a\\nb\"", []string{`p.yaml:2:11: users[0].name: "a\nb" has a character that cannot be seen`}},
		{"NUL in a name", "users:\n  - name: \"a\\0b\"", []string{`p.yaml:2:11: users[0].name: "a\x00b" has a character that cannot be seen`}},
		{"zero width space in a name", "users:\n  - name: \"a\\u200bb\"", []string{`p.yaml:2:11: users[0].name: "a\u200bb" has a character that cannot be seen`}},
		{"space after a name", "users:\n  - name: 'a '", []string{`p.yaml:2:11: users[0].name: "a " starts or ends with a space`}},
		{"user twice", "users:\n  - name: a\n  - name: b\n  - name: a", []string{`p.yaml:4:11: users[2].name: user "a" is already at p.yaml:2:11`}},
		{"group twice", "users:\n  - {name: a, groups: [b, b]}", []string{`p.yaml:2:27: users[0].groups[1]: "b" is in the list twice`}},
		{"empty group", "users:\n  - {name: a, groups: ['']}", []string{"p.yaml:2:24: users[0].groups[0]: required"}},
		{"a password", "users:\n  - {name: a, password: hunter2}", []string{
			"p.yaml:2:25: users[0].password: passwords are not kept here: put what `hourgate passwd` prints into scram",
		}},
		{"a password for a verifier", "users:\n  - {name: a, scram: hunter2}", []string{
			"p.yaml:2:22: users[0].scram: not a verifier: put what `hourgate passwd` prints here (SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>)",
		}},

		{"grant without a name", withGrant("name:"), []string{"p.yaml:5:5: grants[0].name: required"}},
		{"grant's name of a bad form", withGrant("name: -x"), []string{
			`p.yaml:5:11: grants[0].name: want at most 63 letters, digits, dots, dashes and underscores, and a letter or digit first, got "-x"`,
		}},
		{"grant twice", withGrant() + "  - {name: inc, users: [bob], integration: billing, access: ADMIN, until: 2026-11-22T17:00:00Z}", []string{
			`p.yaml:10:12: grants[1].name: grant "inc" is already at p.yaml:5:11`,
		}},
		{"nobody's grant", withGrant("users:"), []string{"p.yaml:5:5: grants[0]: users or groups required: the grant is nobody's"}},
		{"user twice in a grant", withGrant("users: [alice, alice]"), []string{`p.yaml:6:20: grants[0].users[1]: "alice" is in the list twice`}},
		{"no integration", withGrant("integration:"), []string{"p.yaml:5:5: grants[0].integration: required"}},
		{"empty list of databases", withGrant("databases: []"), []string{
			"p.yaml:8:16: grants[0].databases: empty: leave the key out for the integration's database",
		}},
		{"database twice", withGrant("databases: [a, a]"), []string{`p.yaml:8:20: grants[0].databases[1]: "a" is in the list twice`}},
		{"database with a slash", withGrant("databases: [a/b]"), []string{
			"p.yaml:8:17: grants[0].databases[0]: a database with a / in its name cannot be asked for, because / stands between integration and database",
		}},
		{"database's name too long", withGrant("databases: [" + long + "]"), []string{"p.yaml:8:17: grants[0].databases[0]: longer than 63 bytes"}},
		{"no access", withGrant("access:"), []string{"p.yaml:5:5: grants[0].access: required: READ_ONLY, READ_WRITE, ADMIN, or a mapping with level, roles, tables, sequences or functions"}},
		{"unknown access", withGrant("access: readonly"), []string{
			`p.yaml:8:13: grants[0].access: want READ_ONLY, READ_WRITE or ADMIN, got "readonly"`,
		}},
		{"access without content", withGrant("access: {dangerous: true}"), []string{
			"p.yaml:8:13: grants[0].access: required: READ_ONLY, READ_WRITE, ADMIN, or a mapping with level, roles, tables, sequences or functions",
		}},
		{"roles that reach beyond", withGrant("access: {roles: [pg_execute_server_program, pg_new_in_19, hg_x_y, fine, fine]}"), []string{
			"p.yaml:8:22: grants[0].access.roles[0]: pg_execute_server_program runs programs on the server: it needs dangerous: true",
			"p.yaml:8:49: grants[0].access.roles[1]: pg_new_in_19 may reach beyond the grant's databases: it needs dangerous: true",
			"p.yaml:8:63: grants[0].access.roles[2]: hg_x_y is Hourgate's own",
			`p.yaml:8:77: grants[0].access.roles[4]: "fine" is in the list twice`,
		}},
		{"creating without ADMIN", withGrant("access: {level: READ_WRITE, create_in: [app, pg_catalog]}"), []string{
			"p.yaml:8:44: grants[0].access.create_in: only an ADMIN creates objects: want level: ADMIN beside it",
			"p.yaml:8:50: grants[0].access.create_in[1]: pg_catalog is PostgreSQL's own",
		}},
		{"a level and roles", withGrant("access: {level: ADMIN, roles: [r]}"), []string{
			"p.yaml:8:13: grants[0].access: a level stands alone: take it out, or roles, tables, sequences and functions",
		}},
		{"acting as somebody else", withGrant("access: {roles: [app], act_as: owner, dangerous: true}"), []string{
			`p.yaml:8:36: grants[0].access.act_as: want one of the roles beside it, got "owner"`,
		}},
		{"acting without a word", withGrant("access: {roles: [app], act_as: app}"), []string{
			"p.yaml:8:36: grants[0].access.act_as: what is done as app stays after the grant: it needs dangerous: true",
		}},
		{"keeping what nobody makes", withGrant("access: READ_ONLY\n    keep_objects_as: app"), []string{
			"p.yaml:9:22: grants[0].keep_objects_as: is about what an ADMIN or a named role makes, and this access makes nothing",
		}},
		{"keeping as a role of PostgreSQL's", withGrant("access: ADMIN\n    keep_objects_as: pg_monitor"), []string{
			"p.yaml:9:22: grants[0].keep_objects_as: pg_monitor is no owner for tables: want an ordinary role",
		}},
		{"dangerous without roles", withGrant("access: {tables: {public.x: [SELECT]}, dangerous: true}"), []string{
			"p.yaml:8:55: grants[0].access.dangerous: is about roles, and there are none",
		}},
		{"privileges that are never granted", withGrant("access: {tables: {public.x: [ALL, TRIGGER, select, EXECUTE]}}"), []string{
			`p.yaml:8:34: grants[0].access.tables["public.x"][0]: ALL means more with each version of PostgreSQL: want some of SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES`,
			`p.yaml:8:39: grants[0].access.tables["public.x"][1]: TRIGGER is never granted: a trigger on somebody else's table outlives the grant`,
			`p.yaml:8:48: grants[0].access.tables["public.x"][2]: want some of SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, got "select"`,
			`p.yaml:8:56: grants[0].access.tables["public.x"][3]: want some of SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, got "EXECUTE"`,
		}},
		{"objects", withGrant(`access: {tables: {orders: [SELECT], "*.*": [SELECT], pg_catalog.pg_authid: [SELECT], public.y: []}, sequences: {public.s: [DELETE]}, functions: {'public.f(int': [EXECUTE]}}`), []string{
			"p.yaml:8:31: grants[0].access.tables.orders: want schema.name or schema.*, got \"orders\"",
			`p.yaml:8:48: grants[0].access.tables["*.*"]: a star stands for all names of one schema only, as in sales.*; for more, use a level`,
			`p.yaml:8:80: grants[0].access.tables["pg_catalog.pg_authid"]: pg_catalog is PostgreSQL's own`,
			`p.yaml:8:100: grants[0].access.tables["public.y"]: no privileges: want some of SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES`,
			`p.yaml:8:128: grants[0].access.sequences["public.s"][0]: want some of SELECT, USAGE, UPDATE, got "DELETE"`,
			`p.yaml:8:166: grants[0].access.functions["public.f(int"]: want schema.name or schema.*, got "public.f(int"`,
		}},
		{"limits", withGrant("max_sessions: -1", "statement_timeout: 1us", "lock_timeout: 10000h"), []string{
			"p.yaml:10:19: grants[0].max_sessions: want 1 to 1000",
			"p.yaml:11:24: grants[0].statement_timeout: want 1ms to 576h0m0s, such as 30s",
			"p.yaml:12:19: grants[0].lock_timeout: want 1ms to 576h0m0s, such as 30s",
		}},
		{"no end", withGrant("until:"), []string{"p.yaml:5:5: grants[0].until: required: there is no indefinite access"}},
		{"end in words", withGrant("until: tomorrow"), []string{
			`p.yaml:9:12: grants[0].until: "tomorrow" is not a time with an offset (want such as 2026-11-22T17:00:00Z or 2026-11-22T18:00:00+01:00)`,
		}},
		{"end at the start", withGrant("from: 2026-11-22T17:00:00Z"), []string{"p.yaml:10:12: grants[0].until: must be after from"}},
		{"end before the start by its offset", withGrant("from: 2026-11-22T16:30:00Z", "until: 2026-11-22T17:00:00+02:00"), []string{
			"p.yaml:10:12: grants[0].until: must be after from",
		}},

		{"unreadable users make nobody unknown", "users: alice\n" + strings.TrimPrefix(withGrant("users: [x]"), goodUsers), []string{
			"p.yaml:1:8: users: want a list ([a, b], or a line for each that starts with -), got a single value",
		}},
		{"a user of a bad form makes nobody unknown", strings.Replace(withGrant("groups: [x]"), "- {name: bob}", "- bob", 1), []string{
			"p.yaml:3:5: users[1]: want a mapping (key: value), got a single value",
		}},
		{"grants of a bad form", "grants:\n  - x\n  -", []string{
			"p.yaml:2:5: grants[0]: want a mapping (key: value), got a single value",
			"p.yaml:3:4: grants[1]: no value given: leave the key out, or write [] for an empty list",
		}},
		{"everything at once", withGrant("name: 'a b'", "users: [zoe]", "integration: nowhere", "access: ALL", "until:", "reason: [x]"), []string{
			`p.yaml:5:5: grants[0].until: required: there is no indefinite access`,
			`p.yaml:5:11: grants[0].name: want at most 63 letters, digits, dots, dashes and underscores, and a letter or digit first, got "a b"`,
			`p.yaml:6:13: grants[0].users[0]: unknown user "zoe"`,
			`p.yaml:7:18: grants[0].integration: unknown integration "nowhere"`,
			`p.yaml:8:13: grants[0].access: want READ_ONLY, READ_WRITE or ADMIN, got "ALL"`,
			`p.yaml:9:13: grants[0].reason: want a single value, got a list`,
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := policy.Parse([]policy.Source{{File: "p.yaml", Data: []byte(tt.data)}}, integrations)
			if s != nil {
				t.Error("got a set")
			}
			if diff := cmp.Diff(tt.want, lines(err)); diff != "" {
				t.Errorf("%s\n-want +got:\n%s", tt.data, diff)
			}
		})
	}
}

// TestParseNoDefault: an integration need not have a database of its own, if its grants name one.
func TestParseNoDefault(t *testing.T) {
	data := "users: [{name: a}]\ngrants:\n  - {name: g, users: [a], integration: bare, access: ADMIN, until: 2026-11-22T17:00:00Z}\n"
	_, err := policy.Parse([]policy.Source{{File: "p.yaml", Data: []byte(data)}}, map[string]string{"bare": ""})
	want := []string{"p.yaml:3:5: grants[0].databases: required: the integration has no database of its own"}
	if diff := cmp.Diff(want, lines(err)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestUnknownUsersInBulk: a file of users that was left out is reported in bounded time and space.
func TestUnknownUsersInBulk(t *testing.T) {
	var b strings.Builder
	b.WriteString("nothing: x\nusers:\n") // unknown names alone would be no reason to refuse it
	for i := range 2_000 {
		fmt.Fprintf(&b, "  - name: somebody-%d\n", i)
	}
	b.WriteString("grants:\n")
	for i := range 2_000 {
		fmt.Fprintf(&b, "  - {name: g%d, users: [person-%d], integration: billing, access: ADMIN, until: 2026-11-22T17:00:00Z}\n", i, i)
	}
	_, err := policy.Parse([]policy.Source{{File: "p.yaml", Data: []byte(b.String())}}, integrations)
	if got := lines(err); got[len(got)-1] != "and 1901 more problems" {
		t.Errorf("got %q, want the number of the problems left out", got[len(got)-1])
	}
	if suggested := strings.Count(err.Error(), "did you mean"); suggested > 20 {
		t.Errorf("looked for similar names %d times", suggested)
	}
}

// TestWrongThroughout: what is left of lists that were given up is no reason for a panic.
func TestWrongThroughout(t *testing.T) {
	data := "users: [" + strings.Repeat("a,", 3000) + "]\ngrants: [" + strings.Repeat("{},", 3000) + "]"
	_, err := policy.Parse([]policy.Source{{File: "p.yaml", Data: []byte(data)}}, integrations)
	if got, want := lines(err)[0], "p.yaml:1:9: users[0]: want a mapping (key: value), got a single value"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestLoad(t *testing.T) {
	dir := files(t, map[string]string{
		"first.yaml":            "users: [{name: alice}]",
		"more/b.yaml":           "users: [{name: bob}]",
		"more/a.yml":            "grants: [{name: g, users: [alice, bob], integration: billing, access: ADMIN, until: 2026-11-22T17:00:00Z}]",
		"more/.hidden.yaml":     "not read",
		"more/notes.txt":        "not read",
		"more/b.yaml~":          "not read",
		"more/deeper/c.yaml":    "not read",
		"more/folder.yaml/d.md": "not read",
	})
	first := filepath.Join(dir, "first.yaml")
	s, err := policy.Load([]string{first, filepath.Join(dir, "more"), first, dir + "/./first.yaml"}, integrations)
	if err != nil {
		t.Fatal(err)
	}
	for _, user := range []string{"alice", "bob"} {
		if _, ok := s.Covers(user, "g", "billing", clockAt("13:00")); !ok {
			t.Errorf("%s does not have the grant", user)
		}
	}
}

// TestLoadNothing: a folder without a policy is one that was swapped or is not the one that was meant.
func TestLoadNothing(t *testing.T) {
	folder := t.TempDir()
	s, err := policy.Load([]string{folder}, nil)
	if want := folder + ": the folder holds no policy file (*.yaml or *.yml)"; s != nil || err == nil || err.Error() != want {
		t.Errorf("got set %v and error %v, want %s", s, err, want)
	}
}

func TestLoadRefuses(t *testing.T) {
	dir := files(t, map[string]string{
		"a.yaml":     "users: [{name: alice}]\ngrants: [",
		"b.yaml":     "users: [{name: bob}, {nmae: carol}]",
		"c.yaml":     "users: [{name: bob}]\ngrants: [{name: g, users: [zoe], integration: billing, access: ADMIN}]",
		"large.yaml": strings.Repeat("#", strictyaml.MaxSize+1),
	})
	if err := os.Symlink("gone.yaml", filepath.Join(dir, "dangling.yaml")); err != nil {
		t.Fatal(err)
	}
	_, err := policy.Load([]string{dir, filepath.Join(dir, "missing.yaml"), os.DevNull}, integrations)
	var got []string
	for _, line := range lines(err) {
		got = append(got, strings.ReplaceAll(line, dir+"/", ""))
	}
	want := []string{
		"/dev/null: cannot be read: not a regular file",
		"a.yaml:2:1: did not find expected node content",
		"b.yaml:1:22: users[1].name: required",
		`b.yaml:1:23: users[1]: unknown field "nmae" (did you mean "name"? known: name, groups, scram, certificate, disabled)`,
		`c.yaml:1:16: users[0].name: user "bob" is already at b.yaml:1:16`,
		"c.yaml:2:10: grants[0].until: required: there is no indefinite access",
		"dangling.yaml: no such file or folder",
		"large.yaml: cannot be read: larger than 8 MiB",
		"missing.yaml: no such file or folder",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestExample loads the example strictly and looks for a word on every key.
func TestExample(t *testing.T) {
	const file = "../policy.example.yaml"
	s, err := policy.Load([]string{file}, map[string]string{"orders-prod": "orders"})
	if err != nil {
		t.Fatal(err)
	}
	d := s.Decide(policy.Request{User: "alice@example.com", Database: "orders-prod"}, clockAt("12:00"))
	if d.Grant == nil || d.Grant.Access.Level != policy.ReadOnly {
		t.Errorf("got %s, want a grant to read", verdict(d))
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, schema := range []reflect.Type{reflect.TypeFor[policy.User](), reflect.TypeFor[policy.Grant](), reflect.TypeFor[policy.Access](), reflect.TypeFor[policy.Flow]()} {
		for i := range schema.NumField() {
			if key := schema.Field(i).Tag.Get("yaml"); key != "" && !strings.HasSuffix(key, ",mistaken") && !explained(string(data), key) {
				t.Errorf("the example does not explain %q", key)
			}
		}
	}
}

// explained reports whether key stands below a comment.
func explained(data, key string) bool {
	previous := ""
	for line := range strings.Lines(data) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(strings.TrimPrefix(line, "- "), key+":") && strings.HasPrefix(previous, "#") {
			return true
		}
		previous = line
	}
	return false
}

func BenchmarkLoad(b *testing.B) {
	var file strings.Builder
	file.WriteString("users:\n")
	for i := range 10_000 {
		v := verifier.Mock([]byte("benchmark"), fmt.Sprint(i))
		fmt.Fprintf(&file, "  - {name: user-%d@example.com, groups: [support], scram: %q}\n", i, v.Encode())
	}
	file.WriteString("grants:\n")
	for i := range 10_000 {
		fmt.Fprintf(&file, "  - {name: inc-%d, users: [user-%d@example.com], integration: orders-prod, access: READ_ONLY, until: 2026-11-22T17:00:00Z}\n", i, i)
	}
	b.ReportAllocs()
	b.SetBytes(int64(file.Len()))
	for b.Loop() {
		if _, err := policy.Parse([]policy.Source{{File: "p.yaml", Data: []byte(file.String())}}, integrations); err != nil {
			b.Fatal(err)
		}
	}
}

// files writes files into a new folder, which it returns.
func files(t *testing.T, content map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range content {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func lines(err error) []string {
	if err == nil {
		return nil
	}
	return strings.Split(err.Error(), "\n")
}
