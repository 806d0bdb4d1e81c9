package ledger

import (
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hourgate/hourgate/internal/admin"
)

func TestRoleNames(t *testing.T) {
	t.Parallel()
	valid := regexp.MustCompile(`^hg_[a-z0-9_]+_[a-z2-7]{12}$`)
	for _, test := range []struct{ user, grant, want string }{
		{"alice@example.com", "inc-4211", "hg_alice_inc_4211_"},
		{"Ünïcode O'Brien\"; DROP ROLE x; --", "g", "hg__n_code_o_brien___drop"},
		{strings.Repeat("long", 40), strings.Repeat("grant", 40), "hg_longlong"},
		{"", "", "hg___"},
	} {
		name := NewRoleName(test.user, test.grant)
		if !valid.MatchString(name) || len(name) > MaxIdentifier || !strings.HasPrefix(name, test.want) {
			t.Errorf("%q, %q: got %q (%d bytes), want a name like %s…", test.user, test.grant, name, len(name), test.want)
		}
		if again := NewRoleName(test.user, test.grant); again == name {
			t.Errorf("%q came twice", name)
		}
	}
}

var roleName = regexp.MustCompile(`^hg_[a-z0-9_]*_[a-z0-9_]*_[a-z2-7]{12}$`)

// FuzzLedger: what people and policies are called can't break out of a role's name, of its ledger entry, or of the quotes
// around either; and a comment that is taken for an entry is one.
func FuzzLedger(f *testing.F) {
	f.Add("alice@example.com", "inc-4211", `{"hourgate":1,"user":"a","until":"2026-11-22T17:00:00Z"}`)
	f.Add("it's \"alice\"\n", "'; DROP ROLE x; --", `{"hourgate":1} {"hourgate":1}`)
	f.Add("\xff\x00\\", "\u202e\"\"", `{"hourgate":2}`)
	f.Fuzz(func(t *testing.T, user, grant, comment string) {
		if len(user)+len(grant)+len(comment) > 4096 {
			return
		}
		name := NewRoleName(user, grant)
		if !roleName.MatchString(name) || len(name) > MaxIdentifier || admin.QuoteIdentifier(name) != `"`+name+`"` {
			t.Fatalf("%q and %q became the role %q", user, grant, name)
		}
		e := Entry{Version: Version, User: valid(user), Grant: valid(grant), Roles: []string{valid(comment)}, Until: time.Unix(1e9, 0).UTC()}
		if got, ok := Parse(e.Comment()); !ok || !reflect.DeepEqual(got, e) {
			t.Fatalf("%+v was written as %q and read as %+v", e, e.Comment(), got)
		}
		if e, ok := Parse(comment); ok {
			if again, ok := Parse(e.Comment()); !ok || !again.Until.Equal(e.Until) || again.User != e.User || again.Grant != e.Grant {
				t.Fatalf("%q was read as %+v, and then as %+v", comment, e, again)
			}
		}
		for _, text := range []string{user, grant, comment, e.Comment()} {
			if got, rest := unquote(admin.QuoteLiteral(text)+"rest", '\''); got != text || rest != "rest" {
				t.Fatalf("%q reads as %q with %q behind it", admin.QuoteLiteral(text), got, rest)
			}
			if got, rest := unquote(admin.QuoteIdentifier(text)+"rest", '"'); got != strings.ReplaceAll(text, "\x00", "") || rest != "rest" {
				t.Fatalf("%q reads as %q with %q behind it", admin.QuoteIdentifier(text), got, rest)
			}
		}
	})
}

// valid is text as JSON keeps it: a byte that is not UTF-8 becomes U+FFFD.
func valid(text string) string { return string([]rune(text)) }

// unquote reads as PostgreSQL's scanner does (xqdouble and xddouble, scan.l): up to the first quote that is not doubled.
func unquote(sql string, quote byte) (text, rest string) {
	if sql == "" || sql[0] != quote {
		return "", sql
	}
	var b []byte
	for i := 1; i < len(sql); i++ {
		if sql[i] == quote {
			if i+1 == len(sql) || sql[i+1] != quote {
				return string(b), sql[i+1:]
			}
			i++
		}
		b = append(b, sql[i])
	}
	return "", sql
}

func TestLedgerEntry(t *testing.T) {
	t.Parallel()
	want := Entry{
		Version: Version, Deployment: "d", Proxy: "p", Integration: "i",
		User: "it's \"alice\"\n", Grant: "g", Until: time.Date(2026, 11, 22, 17, 0, 0, 0, time.UTC),
	}
	if got, ok := Parse(want.Comment()); !ok || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %t, want %+v", got, ok, want)
	}
	for _, comment := range []string{"", "a comment", "{}", `{"hourgate":0}`, `{"hourgate":2}`, `{"hourgate":"1"}`, "null"} {
		if e, ok := Parse(comment); ok {
			t.Errorf("%q was taken for a ledger entry: %+v", comment, e)
		}
	}
}
