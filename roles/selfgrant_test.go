package roles_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/policy"
)

// An admin with createrole_self_grant gets every role that it makes granted once more, by itself. Neither that, nor a tenant who
// sets the same for the roles that it would make, leaves anything.
func TestCreateroleSelfGrant(t *testing.T) {
	t.Parallel()
	onMajors(t, []int{16, 18}, func(t *testing.T, db *pgtest.Database) {
		f := newFixture(t, db)
		f.exec(t, "ALTER ROLE "+db.Admin+" SET createrole_self_grant = 'set, inherit'; ALTER DATABASE "+db.Name+" SET createrole_self_grant = 'set, inherit'")
		for _, level := range []policy.Level{policy.ReadOnly, policy.Admin} {
			f.warm(t, level)
		}
		before := f.snapshot(t)
		for _, level := range []policy.Level{policy.ReadOnly, policy.Admin} {
			lease := f.acquire(t, f.grant(level, time.Hour))
			conn := f.login(t, lease.Login())
			for _, s := range []string{
				"SET createrole_self_grant = 'set, inherit'", "ALTER ROLE CURRENT_USER SET createrole_self_grant = 'set, inherit'", "CREATE ROLE backdoor LOGIN", "GRANT " + lease.Login().User + " TO " + db.Owner,
				"CREATE FUNCTION back() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT name FROM public.customers LIMIT 1'",
			} {
				_, _ = conn.Exec(t.Context(), s)
			}
			lease.Release()
			f.waitGone(t, lease.Login().User)
			f.waitSettled(t, lease.Login().User)
		}
		if diff := cmp.Diff(before, f.snapshot(t)); diff != "" {
			t.Errorf("the catalogs changed (-before +after):\n%s", diff)
		}
	})
}
