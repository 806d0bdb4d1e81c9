//go:build clients

package clients

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/pgtest"
)

// migrator is a tool that makes and alters tables, in its own words.
type migrator struct {
	name     string
	up, down []string
	table    string // that it makes and fills
	rows     int
}

func migrators(t *testing.T) []migrator {
	t.Helper()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(here, "migrations")
	alembic := []string{"/usr/bin/python3", "-m", "alembic", "-c", filepath.Join(folder, "alembic", "alembic.ini")}
	django := []string{"/usr/bin/python3", filepath.Join(folder, "django", "manage.py"), "migrate", "shop"}
	node := []string{"node", filepath.Join(cache(), "clients", "node", "node_modules", "node-pg-migrate", "bin", "node-pg-migrate.js"), "-m", filepath.Join(folder, "node")}
	liquibase := []string{
		"java", "-cp", liquibaseJars(), "liquibase.integration.commandline.LiquibaseCommandLine", "--search-path=" + filepath.Join(folder, "liquibase"),
		"--log-level=off", "--show-banner=false",
	}
	return []migrator{
		{"Alembic", append(alembic[:5:5], "upgrade", "head"), append(alembic[:5:5], "downgrade", "base"), "invoices", 3},
		{"Django", django, append(django[:4:4], "zero"), "shop_shipment", 1},
		{"Liquibase", append(liquibase[:7:7], "update", "--changelog-file=changelog.yaml"), append(liquibase[:7:7], "rollback-count", "--changelog-file=changelog.yaml", "--count=2"), "returns", 4},
		{"node-pg-migrate", append(node[:4:4], "up"), append(node[:4:4], "down"), "refunds", 2},
	}
}

// liquibaseJars are Liquibase's own and those that it needs, of npm's package, and Debian's driver.
func liquibaseJars() string {
	jars := []string{"/usr/share/java/postgresql.jar"}
	for _, jar := range []string{"liquibase-core", "commons-collections4", "commons-io", "commons-lang3", "commons-text", "opencsv", "picocli", "snakeyaml", "jaxb-api", "jaxb-core", "jaxb-runtime"} {
		jars = append(jars, filepath.Join(cache(), "clients", "node", "node_modules", "liquibase", "dist", "liquibase", "internal", "lib", jar+".jar"))
	}
	return strings.Join(jars, ":")
}

// Migrations go up, down and up again through a grant that acts as the owner. What they make is the owner's, and stays when
// the grant is over.
func TestMigrations(t *testing.T) {
	binary := build(t, "..", "./cmd/hourgate")
	for _, major := range []int{15, 18} {
		for _, m := range migrators(t) {
			t.Run(fmt.Sprintf("%s, PostgreSQL %d", m.name, major), func(t *testing.T) {
				t.Parallel()
				db := pgtest.Start(t, major).Database(t)
				super := db.Superuser(t)
				if major >= 16 {
					exec1(t, super, "GRANT "+db.Owner+" TO "+db.Admin+" WITH ADMIN OPTION")
				}
				exec1(t, super, "GRANT CREATE ON SCHEMA public TO "+db.Owner)
				g := startGateUnder(t, binary, db, func(g *gate) { g.mayMigrate(t, db, time.Now().Add(time.Hour)) })
				for i, args := range [][]string{m.up, m.down, m.up} {
					cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
					cmd.Env = append(os.Environ(), g.migratorEnvironment()...)
					if out, err := cmd.CombinedOutput(); err != nil {
						t.Fatalf("%v: %v\n%s", args, err, out)
					}
					if there := value(t, super, "SELECT (to_regclass('public."+m.table+"') IS NOT NULL)::text"); there != fmt.Sprint(i != 1) {
						t.Fatalf("after %v, that %s exists is %s", args, m.table, there)
					}
				}
				g.mayMigrate(t, db, time.Now())
				g.awaitNoRole(t, super)
				if strangers := value(t, super, "SELECT coalesce(string_agg(relname || ' of ' || pg_get_userbyid(relowner), ', '), '') FROM pg_class WHERE relnamespace = 'public'::regnamespace AND pg_get_userbyid(relowner) <> '"+db.Owner+"'"); strangers != "" {
					t.Errorf("not the owner's: %s", strangers)
				}
				exec1(t, super, "SET ROLE "+db.Owner)
				if rows := value(t, super, "SELECT count(*)::text FROM "+m.table); rows != fmt.Sprint(m.rows) {
					t.Errorf("%s has %s rows after the grant, want %d", m.table, rows, m.rows)
				}
			})
		}
	}
}

func exec1(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func value(t *testing.T, conn *pgx.Conn, sql string) (v string) {
	t.Helper()
	if err := conn.QueryRow(t.Context(), sql).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// mayMigrate is the policy under which alice acts as the owner, until a time.
func (g *gate) mayMigrate(t *testing.T, db *pgtest.Database, until time.Time) {
	t.Helper()
	scram, err := encodedVerifier()
	if err != nil {
		t.Fatal(err)
	}
	g.write(t, "policy.yaml", fmt.Sprintf(`
users: [{name: %s, scram: %q}]
grants:
  - name: migrate
    users: [%[1]s]
    integration: orders
    access: {roles: [%[3]s], act_as: %[3]s, dangerous: true}
    until: %[4]s
`, alice, scram, db.Owner, until.UTC().Format(time.RFC3339Nano)))
}

// migratorEnvironment is libpq's, and a URL for tools that are not libpq's.
func (g *gate) migratorEnvironment() []string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(alice, password), Host: g.login.host + ":" + g.login.port, Path: "/orders",
		RawQuery: url.Values{"sslmode": {"verify-full"}, "sslrootcert": {g.login.ca}}.Encode(),
	}
	jdbc := "jdbc:postgresql://" + u.Host + u.Path + "?" + u.RawQuery
	return []string{
		"PGHOST=" + g.login.host, "PGPORT=" + g.login.port, "PGUSER=" + alice, "PGPASSWORD=" + password, "PGDATABASE=orders",
		"PGSSLMODE=verify-full", "PGSSLROOTCERT=" + g.login.ca, "DATABASE_URL=" + u.String(),
		"LIQUIBASE_COMMAND_URL=" + jdbc, "LIQUIBASE_COMMAND_USERNAME=" + alice, "LIQUIBASE_COMMAND_PASSWORD=" + password,
		"PYTHONDONTWRITEBYTECODE=1",
	}
}

// awaitNoRole waits until nothing of alice's grant is on the server.
func (g *gate) awaitNoRole(t *testing.T, super *pgx.Conn) {
	t.Helper()
	eventually.Within(t, time.Minute, "no role is left", func() bool {
		return value(t, super, "SELECT count(*)::text FROM pg_roles WHERE shobj_description(oid, 'pg_authid') LIKE '%clients-' || current_database() || '%'") == "0"
	})
}
