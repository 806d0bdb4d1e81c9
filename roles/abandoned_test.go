package roles_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/policy"
)

// What a process that was killed has left is ended by one that can't record anything: nobody can log in or is logged in, and what
// people own under grants that go on stays theirs. The next process does the rest.
func TestEndAbandoned(t *testing.T) {
	t.Parallel()
	someMajors(t, func(t *testing.T, db *pgtest.Database) {
		killed := newFixture(t, db)
		grant := killed.grant(policy.ReadOnly, time.Hour)
		grant.Name = "plain"
		plain := killed.acquire(t, grant)
		owner := killed.acquire(t, killed.grant(policy.Admin, time.Hour))
		owning := killed.login(t, owner.Login())
		if _, err := owning.Exec(t.Context(), "CREATE TABLE hers (i int)"); err != nil {
			t.Fatal(err)
		}
		_ = owning.Close(t.Context())
		short := killed.grant(policy.ReadOnly, 5*time.Second)
		short.Name = "short"
		over := killed.acquire(t, short)
		running := make(chan error, 1)
		busy := killed.login(t, over.Login())
		go func() {
			_, err := busy.Exec(context.Background(), "SELECT pg_sleep(60)")
			running <- err
		}()
		killed.Crash()

		f := newFixture(t, db)
		if err := f.EndAbandoned(t.Context(), false); err != nil {
			t.Error(err)
		}
		if err := <-running; err == nil {
			t.Error("the statement ran to its end")
		}
		rows, err := f.super.Query(t.Context(), `SELECT rolname FROM pg_roles r WHERE rolname = ANY ($1)
			AND (rolcanlogin OR EXISTS (SELECT FROM pg_stat_activity WHERE usesysid = r.oid))`,
			[]string{plain.Login().User, owner.Login().User, over.Login().User})
		if err != nil {
			t.Fatal(err)
		}
		if can, err := pgx.CollectRows(rows, pgx.RowTo[string]); len(can) > 0 || err != nil {
			t.Errorf("can log in, or are logged in: %v, %v", can, err)
		}
		var members int
		err = f.super.QueryRow(t.Context(), "SELECT count(*) FROM pg_auth_members WHERE member = ANY (SELECT oid FROM pg_roles WHERE rolname = ANY ($1))",
			[]string{plain.Login().User, over.Login().User}).Scan(&members)
		if err != nil || members > 0 {
			t.Errorf("memberships of roles without power: %d, %v", members, err)
		}
		if made := f.trail.of(audit.RoleSettled); len(made) > 0 {
			t.Errorf("recorded: %v", made)
		}

		lease := f.acquire(t, killed.grant(policy.Admin, time.Hour))
		if lease.Login().User != owner.Login().User {
			t.Error("what she owns is not hers any more")
		}
		if err := f.Sweep(t.Context()); err != nil {
			t.Error(err)
		}
		if f.exists(t, plain.Login().User) || f.exists(t, over.Login().User) {
			t.Error("the next sweep left a role")
		}
	})
}
