package roles

import (
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
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
		name := newRoleName(test.user, test.grant)
		if !valid.MatchString(name) || len(name) > maxIdentifier || !strings.HasPrefix(name, test.want) {
			t.Errorf("%q, %q: got %q (%d bytes), want a name like %s…", test.user, test.grant, name, len(name), test.want)
		}
		if again := newRoleName(test.user, test.grant); again == name {
			t.Errorf("%q came twice", name)
		}
	}
}

func TestLedgerEntry(t *testing.T) {
	t.Parallel()
	want := entry{
		Version: ledgerVersion, Deployment: "d", Proxy: "p", Integration: "i",
		User: "it's \"alice\"\n", Grant: "g", Until: time.Date(2026, 11, 22, 17, 0, 0, 0, time.UTC),
	}
	if got, ok := parseComment(want.comment()); !ok || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %t, want %+v", got, ok, want)
	}
	for _, comment := range []string{"", "a comment", "{}", `{"hourgate":0}`, `{"hourgate":2}`, `{"hourgate":"1"}`, "null"} {
		if e, ok := parseComment(comment); ok {
			t.Errorf("%q was taken for a ledger entry: %+v", comment, e)
		}
	}
}
