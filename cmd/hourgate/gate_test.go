package main

import (
	"strings"
	"testing"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/pgtest"
)

// The main job: psql gets in under a role of its own, reads what the grant says, is kept from writing, and nothing is
// left when it is over.
func TestPsqlThroughTheGate(t *testing.T) {
	t.Parallel()
	eachMajor(t, func(t *testing.T, db *pgtest.Database) {
		g := startGate(t, db, gateOptions{grants: grant("inc-4211"), config: map[string]string{"role_linger": "0s"}})
		out, err := g.client(t, pgtest.Client(t, "psql"), "-XAt", "-v", "ON_ERROR_STOP=0",
			"-c", "SELECT session_user", "-c", "SELECT count(*) FROM orders",
			"-c", "BEGIN READ WRITE", "-c", "UPDATE orders SET note = 'x'", "-c", "ROLLBACK")
		if err != nil {
			t.Fatalf("psql: %v\n%s", err, out)
		}
		for _, want := range []string{"hg_alice_inc_4211_", "\n300\n", "permission denied for table orders"} {
			if !strings.Contains(out, want) {
				t.Errorf("psql's output lacks %q:\n%s", want, out)
			}
		}
		eventually(t, "the role is gone", func() bool { return len(g.roles(t)) == 0 })
		for _, event := range []audit.Event{audit.SessionStart, audit.RoleMade, audit.RoleSettled, audit.SessionEnd} {
			if got := len(g.records(t, event)); got != 1 {
				t.Errorf("got %d records of %s, want 1", got, event)
			}
		}
	})
}
