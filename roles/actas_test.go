package roles_test

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/policy"
)

// grantOwner lets the admin grant the owner's role, as a DBA does for act_as.
func (f *fixture) grantOwner(t *testing.T) {
	t.Helper()
	if f.db.Server.Major >= 16 {
		f.exec(t, "GRANT "+f.db.Owner+" TO "+f.db.Admin+" WITH ADMIN OPTION")
	}
}

func (f *fixture) actAsOwner() policy.Access {
	return policy.Access{Roles: []string{f.db.Owner}, ActAs: f.db.Owner, Dangerous: true}
}

// A session under act_as works as the owner from its first statement and whatever it resets; what it makes is the owner's
// and stays.
func TestActAs(t *testing.T) {
	t.Parallel()
	someMajors(t, func(t *testing.T, db *pgtest.Database) {
		f := newFixture(t, db)
		f.grantOwner(t)
		lease := f.acquire(t, f.named(f.actAsOwner()))
		conn := f.login(t, lease.Login())
		user := func(want string, after ...string) {
			t.Helper()
			for _, s := range after {
				if _, err := conn.Exec(t.Context(), s, pgx.QueryExecModeSimpleProtocol); err != nil {
					t.Fatalf("%s: %v", s, err)
				}
			}
			var got string
			if err := conn.QueryRow(t.Context(), "SELECT current_user", pgx.QueryExecModeSimpleProtocol).Scan(&got); err != nil || got != want {
				t.Errorf("after %q: current_user is %q, %v, want %q", after, got, err, want)
			}
		}
		user(db.Owner)
		user(lease.Login().User, "SET ROLE NONE")
		user(db.Owner, "RESET ROLE")
		user(db.Owner, "RESET ALL")
		user(db.Owner, "SET ROLE NONE", "DISCARD ALL")
		user(db.Owner, "SET ROLE NONE", "RESET SESSION AUTHORIZATION")
		user(
			db.Owner, "CREATE TABLE made (id serial PRIMARY KEY, t text)", "INSERT INTO made (t) VALUES ('kept')", "ALTER TABLE orders ADD COLUMN added int",
			"CREATE INDEX ON orders (added)", "ANALYZE orders", "CREATE SCHEMA app", "CREATE VIEW app.v AS SELECT * FROM made",
			"CREATE FUNCTION app.f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "CREATE TRIGGER t BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
		)
		lease.Release()
		f.waitGone(t, lease.Login().User)
		f.waitSettled(t, lease.Login().User)
		var kept, owner string
		if err := f.super.QueryRow(t.Context(), "SELECT (SELECT t FROM app.v), (SELECT tableowner FROM pg_tables WHERE tablename = 'made')").Scan(&kept, &owner); err != nil || kept != "kept" || owner != db.Owner {
			t.Errorf("after the end: got %q of %q, %v", kept, owner, err)
		}
		f.exec(t, "SET ROLE "+db.Owner+"; INSERT INTO made (t) VALUES ('more'); SELECT app.f(); UPDATE orders SET added = 1; RESET ROLE")
		made := f.trail.of(audit.RoleMade)
		if want := "roles " + db.Owner + "; acting as " + db.Owner; len(made) != 1 || made[0].Access != want {
			t.Errorf("the trail has %+v, want one role with access %q", made, want)
		}
	})
}
