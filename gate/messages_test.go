package gate_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/gatetest"
	"github.com/hourgate/hourgate/internal/pgtest"
)

// logged waits for the log's line about a refusal that has all of the texts, and fails if there is none.
func logged(t *testing.T, g *gatetest.Gate, what string, texts ...string) {
	t.Helper()
	eventually.True(t, "the log has "+what+": "+strings.Join(texts, ", "), func() bool {
		for line := range strings.Lines(g.Logs.String()) {
			found := strings.Contains(line, `msg="connection refused"`)
			for _, text := range texts {
				found = found && strings.Contains(line, text)
			}
			if found {
				return true
			}
		}
		return false
	})
}

// Whoever reads the log or the trail sees who was refused and what they wanted; why access was given is never mixed with
// why a session ended; and a statement leads to its person.
func TestLogAndTrailSayWho(t *testing.T) {
	t.Parallel()
	db := pgtest.Start(t, 17).Database(t)
	g := gatetest.Start(t, db, gatetest.Options{Grants: gatetest.Grant("inc-1", "reason", "INC-4711 slow orders")})

	refused := func(user, password, database string) {
		t.Helper()
		if _, err := g.TryConnect(t, user, password, database); err == nil {
			t.Fatalf("%s was let in to %s", user, database)
		}
	}
	refused(gatetest.Alice, gatetest.AlicePassword, "orders/payroll")
	refused(gatetest.Bob, "guess", "orders")
	logged(t, g, "who is known", "user="+gatetest.Alice, "requested_database=orders/payroll", "reason=no_grant")
	logged(t, g, "who is claimed", "claimed_user="+gatetest.Bob, "requested_database=orders", "reason=authentication")

	conn := g.Connect(t, "orders")
	if _, err := conn.Exec(t.Context(), "SELECT 4711"); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close(t.Context())
	eventually.True(t, "the session's end is recorded", func() bool { return len(g.Records(t, audit.SessionEnd)) == 1 })

	type about struct{ Event, User, Integration, Database, Requested, Grant, Reason, Cause, Statement string }
	var got []about
	var joiner audit.Joiner
	for _, r := range g.Records(t, "") {
		joiner.Join(&r)
		switch r.Event {
		case audit.SessionRefused, audit.SessionStart, audit.SessionStatement, audit.SessionEnd:
			got = append(got, about{string(r.Event), r.User, r.Integration, r.Database, r.Requested, r.Grant, r.Reason, r.Cause, r.Statement})
		}
	}
	const reason = "INC-4711 slow orders"
	want := []about{
		{Event: "session_refused", User: gatetest.Alice, Requested: "orders/payroll", Cause: "no_grant"},
		{Event: "session_refused", User: gatetest.Bob, Requested: "orders", Cause: "authentication"},
		{"session_start", gatetest.Alice, "orders", db.Name, "orders", "inc-1", reason, "", ""},
		{"statement", gatetest.Alice, "orders", db.Name, "orders", "inc-1", reason, "", "SELECT 4711"},
		{"session_end", gatetest.Alice, "orders", db.Name, "orders", "inc-1", reason, "disconnect", ""},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}
