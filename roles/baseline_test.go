package roles_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/policy"
)

// outcome is what is left of a tenant once access was taken away. docs/baselines.md has the table.
type outcome struct {
	CanLogIn bool // with a password that the tenant chose
	Sessions bool // one of the tenant's still answers
	Role     bool
	Objects  bool
}

// tenants are from harmless to hostile; each first sets a password of its own.
var tenants = []struct {
	name       string
	statements []string
	leaves     bool // closes its session before access ends
}{
	{"leaves nothing", nil, true},
	{"keeps a session open", nil, false},
	{"leaves a function behind", []string{"CREATE FUNCTION back() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT current_user::text'"}, true},
	{"leaves default privileges", []string{"ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC"}, true},
	{"locks its own row", []string{"BEGIN", "ALTER ROLE CURRENT_USER PASSWORD 'mine'"}, false},
}

// revokeAndDrop is the default of Vault's PostgreSQL plugin, in our own SQL: revoke on all tables of the schemas where there
// are grants, on public, on the database; go on after errors; drop the role if there were none. It runs again as long as
// it fails, so one run shows what a lease's end leaves.
func revokeAndDrop(ctx context.Context, admin *pgx.Conn, role, database string) error {
	schemas, err := collect(ctx, admin, "SELECT DISTINCT quote_ident(table_schema) FROM information_schema.role_column_grants WHERE grantee = $1", role)
	if err != nil {
		return err
	}
	var statements []string
	for _, s := range append(schemas, "public") {
		statements = append(statements, "REVOKE ALL PRIVILEGES ON ALL TABLES IN SCHEMA "+s+" FROM "+role, "REVOKE USAGE ON SCHEMA "+s+" FROM "+role)
	}
	statements = append(statements, "REVOKE ALL PRIVILEGES ON ALL SEQUENCES IN SCHEMA public FROM "+role, "REVOKE CONNECT ON DATABASE "+database+" FROM "+role)
	var last error
	for _, s := range statements {
		if _, err := admin.Exec(ctx, s); err != nil {
			last = err
		}
	}
	if last != nil {
		return last
	}
	_, err = admin.Exec(ctx, "DROP ROLE IF EXISTS "+role)
	return err
}

// dropIfIdle is what Teleport's best_effort_drop does, in our own SQL: nothing while the user has sessions; otherwise drop
// the user, and where objects depend on it disable it and revoke its memberships.
func dropIfIdle(ctx context.Context, admin *pgx.Conn, role, _ string) error {
	sessions, err := collect(ctx, admin, "SELECT pid::text FROM pg_stat_activity WHERE usename = $1", role)
	if err != nil || len(sessions) > 0 {
		return err
	}
	_, err = admin.Exec(ctx, "DROP ROLE "+role)
	if err == nil || !strings.Contains(err.Error(), pgerrcode.DependentObjectsStillExist) {
		return err
	}
	if _, err := admin.Exec(ctx, "ALTER ROLE "+role+" NOLOGIN"); err != nil {
		return err
	}
	groups, err := collect(ctx, admin, "SELECT quote_ident(r.rolname) FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid WHERE m.member = $1::regrole", role)
	for _, g := range groups {
		_, _ = admin.Exec(ctx, "REVOKE "+g+" FROM "+role)
	}
	return err
}

func collect(ctx context.Context, conn *pgx.Conn, query string, args ...any) ([]string, error) {
	rows, err := conn.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// TestBaselines runs the same tenants against three ways to take access away.
func TestBaselines(t *testing.T) {
	t.Parallel()
	all := outcome{CanLogIn: true, Sessions: true, Role: true}
	want := map[string]map[string]outcome{
		"revoke and drop": {
			"keeps a session open":      {Sessions: true}, // dropped under its session, which keeps what PUBLIC has
			"leaves a function behind":  {CanLogIn: true, Role: true, Objects: true},
			"leaves default privileges": {CanLogIn: true, Role: true, Objects: true},
			"locks its own row":         all,
		},
		"drop if idle": {
			"keeps a session open":      all,
			"leaves a function behind":  {Role: true, Objects: true},
			"leaves default privileges": {Role: true, Objects: true},
			"locks its own row":         all,
		},
		"Hourgate": {},
	}
	someMajors(t, func(t *testing.T, db *pgtest.Database) {
		f := newFixture(t, db)
		f.warm(t, policy.Admin)
		admin, err := pgx.Connect(t.Context(), db.Server.URL(db.Admin, db.AdminPassword, db.Name).String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = admin.Close(context.Background()) }()
		if _, err := admin.Exec(t.Context(), "SET lock_timeout = '300ms'"); err != nil {
			t.Fatal(err)
		}
		for i, tenant := range tenants {
			for way, end := range map[string]func(context.Context, *pgx.Conn, string, string) error{"revoke and drop": revokeAndDrop, "drop if idle": dropIfIdle} {
				role := fmt.Sprintf("tenant_%d_%s", i, db.Name)
				for _, s := range []string{
					"CREATE ROLE " + role + " LOGIN PASSWORD 'given'",
					"GRANT SELECT ON ALL TABLES IN SCHEMA public TO " + role,
					"GRANT CREATE ON SCHEMA public TO " + role, // as the application's migrations, or an ADMIN, would have
				} {
					// On 16 and later GRANT goes through the owner, of which the admin is a member.
					if _, err := admin.Exec(t.Context(), s); err != nil {
						t.Fatalf("%s: %v", s, err)
					}
				}
				if way == "drop if idle" { // its users get what they may do from groups
					if _, err := admin.Exec(t.Context(), "REVOKE SELECT ON ALL TABLES IN SCHEMA public FROM "+role); err != nil {
						t.Fatal(err)
					}
				}
				conn, err := pgx.Connect(t.Context(), db.Server.URL(role, "given", db.Name).String())
				if err != nil {
					t.Fatal(err)
				}
				for _, s := range append([]string{"ALTER ROLE CURRENT_USER PASSWORD 'mine'"}, tenant.statements...) {
					_, _ = conn.Exec(t.Context(), s)
				}
				if tenant.leaves {
					_ = conn.Close(t.Context())
					waitFor(t, "the backend is gone", func() bool {
						left, err := collect(t.Context(), f.super, "SELECT pid::text FROM pg_stat_activity WHERE usename = $1", role)
						return err == nil && len(left) == 0
					})
				}
				if way == "drop if idle" && !strings.HasPrefix(tenant.name, "leaves nothing") {
					_, _ = admin.Exec(t.Context(), "SELECT 1")
				} else {
					_, _ = admin.Exec(t.Context(), "REVOKE CREATE ON SCHEMA public FROM "+role) // as its revocation statements would
				}
				endErr := end(t.Context(), admin, role, db.Name)
				got := f.outcome(t, role, conn)
				if diff := cmp.Diff(want[way][tenant.name], got); diff != "" {
					t.Errorf("%s, %s (-want +got), %v:\n%s", way, tenant.name, endErr, diff)
				}
				_ = conn.Close(t.Context())
				f.exec(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '"+role+"'")
				if got.Role {
					f.exec(t, "DROP OWNED BY "+role+"; DROP ROLE "+role)
				}
			}
			lease := f.acquire(t, f.grant(policy.Admin, time.Hour))
			conn := f.login(t, lease.Login())
			for _, s := range append([]string{"ALTER ROLE CURRENT_USER PASSWORD 'mine'"}, tenant.statements...) {
				_, _ = conn.Exec(t.Context(), s)
			}
			if tenant.leaves {
				_ = conn.Close(t.Context())
			}
			lease.Release()
			f.waitGone(t, lease.Login().User)
			if diff := cmp.Diff(outcome{}, f.outcome(t, lease.Login().User, conn)); diff != "" {
				t.Errorf("Hourgate, %s (-want +got):\n%s", tenant.name, diff)
			}
		}
	})
}

func (f *fixture) outcome(t *testing.T, role string, conn *pgx.Conn) (o outcome) {
	t.Helper()
	if c, err := pgx.Connect(t.Context(), f.db.Server.URL(role, "mine", f.db.Name).String()); err == nil {
		o.CanLogIn = true
		_ = c.Close(t.Context())
	} else if c, err := pgx.Connect(t.Context(), f.db.Server.URL(role, "given", f.db.Name).String()); err == nil {
		o.CanLogIn = true // the change of password is not committed
		_ = c.Close(t.Context())
	}
	o.Sessions = !conn.IsClosed() && conn.Ping(t.Context()) == nil
	o.Role = f.exists(t, role)
	if err := f.super.QueryRow(t.Context(), `
		SELECT EXISTS (SELECT FROM pg_proc WHERE proname = 'back') OR EXISTS (SELECT FROM pg_default_acl WHERE pg_get_userbyid(defaclrole) = $1)`,
		role).Scan(&o.Objects); err != nil {
		t.Fatal(err)
	}
	return o
}
