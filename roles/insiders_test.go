package roles_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/policy"
)

// A session inside the tenant's code that the admin may not end keeps the role from being settled until it is over, at every try: the
// first one takes the memberships, and later ones can't read from them any more whose rights the session goes on with.
func TestInsiderWhoMayNotBeEnded(t *testing.T) {
	t.Parallel()
	for _, major := range []int{13, 18} {
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) {
			t.Parallel()
			st := newStage(t, pgtest.Start(t, major).Database(t))
			st.exec(t, "REVOKE pg_signal_backend FROM "+st.db.Admin)
			st.begin(t, plot{tenant: []string{steal}})
			st.as(t, "BOB", []string{"BEGIN", "SELECT HOME.steal()"})
			ended := time.Now()
			st.end(t, policy.Access{})
			waitFor(t, "the session is recorded", func() bool { return len(st.trail.of(audit.SessionInside)) > 0 })
			waitFor(t, "there was another try", func() bool { return time.Since(ended) > 3*time.Second })
			if slices.ContainsFunc(st.trail.of(audit.RoleSettled), func(r audit.Record) bool { return r.Role == st.names["ME"] }) {
				t.Error("the role is settled while somebody is inside its code")
			}
			st.as(t, "BOB", []string{"ROLLBACK"})
			waitForLong(t, 20*time.Second, "the role is gone", func() bool { return !st.exists(t, st.names["ME"]) })
			st.lease.Release()
		})
	}
}
