package survey_test

import (
	"strings"
	"testing"

	"github.com/hourgate/hourgate/internal/verifier"
	"github.com/hourgate/hourgate/roles/survey"
)

// Names of other people's making stay within their quotes and comments.
func TestSQLQuotesNames(t *testing.T) {
	t.Parallel()
	v, err := verifier.New("secret", verifier.DefaultIterations)
	if err != nil {
		t.Fatal(err)
	}
	const evil = "x\nDROP TABLE a; -- ' \" $$"
	s := survey.Survey{
		Version: 170000, DBA: evil, Database: evil, Super: true,
		Owners: []survey.Owner{
			{Name: evil, Grantable: true, Example: evil},
			{Name: "stuck" + evil, Example: evil},
			{Name: "super" + evil, Super: true, Example: evil},
		},
	}
	sql := s.SQL(survey.Admin{Name: evil, Verifier: v, NewOwner: evil})
	if strings.Contains(sql, "secret") {
		t.Error("the password is in the SQL")
	}
	for line := range strings.Lines(sql) {
		// The line feed in a name may only be within quotes, and then what follows goes on with them.
		if strings.HasPrefix(line, "DROP TABLE") && !strings.HasPrefix(line, `DROP TABLE a; -- '' "`) && !strings.HasPrefix(line, `DROP TABLE a; -- ' ""`) {
			t.Errorf("a name got out of its quotes or comment: %s", line)
		}
	}
	for _, want := range []string{
		`GRANT "x` + "\n" + `DROP TABLE a; -- ' "" $$" TO hourgate_owner WITH INHERIT TRUE, SET FALSE;`,
		"-- stuckx?DROP TABLE",
	} {
		if !strings.Contains(sql, want) {
			t.Errorf("%q is not in\n%s", want, sql)
		}
	}
}

// Before 16 memberships have no options.
func TestSQLOfOldServers(t *testing.T) {
	t.Parallel()
	v, err := verifier.New("secret", verifier.DefaultIterations)
	if err != nil {
		t.Fatal(err)
	}
	s := survey.Survey{Version: 130000, DBA: "dba", Database: "orders", CanSignal: true, Owners: []survey.Owner{{Name: "app", Grantable: true}}}
	sql := s.SQL(survey.Admin{Name: "hourgate", Verifier: v})
	if strings.Contains(sql, "INHERIT") || !strings.Contains(sql, "\nGRANT \"app\" TO hourgate_owner;\n") || !strings.Contains(sql, "REVOKE CREATE ON SCHEMA public") {
		t.Errorf("got\n%s", sql)
	}
}
