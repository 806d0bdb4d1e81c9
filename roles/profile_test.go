package roles_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/policy"
)

// On 13 and 14 every login may make anybody a member of itself. Who makes a profile one keeps nobody out, and gives nobody his rights.
func TestProfileThatSomebodyMadeHisMember(t *testing.T) {
	t.Parallel()
	for _, major := range []int{13, 14} {
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) {
			t.Parallel()
			st := newStage(t, pgtest.Start(t, major).Database(t))
			st.begin(t, plot{access: policy.Access{Level: policy.ReadOnly}})
			st.as(t, "BOB", []string{"GRANT BOB TO PROFILE"})
			after := newFixture(t, st.db) // a gate that has not looked at the profile yet
			lease := after.acquire(t, after.grant(policy.ReadOnly, time.Hour))
			lease.Release()
			st.none(t, "memberships of the profile", "SELECT count(*) FROM pg_auth_members m JOIN pg_roles p ON p.oid = m.member WHERE p.rolname = $1", st.names["PROFILE"])
			st.lease.Release()
		})
	}
}
