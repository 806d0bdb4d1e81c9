package roles_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/roles"
)

// keeping is an ADMIN's grant that keeps objects as the owner, in a database whose schema app is everybody's to look into.
func (f *fixture) keeping(t *testing.T) *policy.Grant {
	t.Helper()
	f.exec(t, "ALTER DATABASE "+f.db.Name+" RESET search_path; SET ROLE "+f.db.Owner+"; CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO PUBLIC; RESET ROLE")
	g := f.named(policy.Access{Level: policy.Admin, CreateIn: []string{"app"}})
	g.KeepObjectsAs = f.db.Owner
	return g
}

// all runs statements, each of which must work.
func (f *fixture) all(t *testing.T, l *roles.Lease, statements ...string) *pgx.Conn {
	t.Helper()
	conn := f.login(t, l.Login())
	for _, s := range statements {
		if _, err := conn.Exec(t.Context(), s, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	return conn
}

// end ends the role's grant and waits until nothing of it is left to do.
func (f *fixture) end(t *testing.T, l *roles.Lease) audit.Record {
	t.Helper()
	l.Release()
	f.Withdraw(l.Login().User)
	waitForLong(t, time.Minute, "the role is settled", func() bool { return !f.exists(t, l.Login().User) && !f.Live(l.Login().User) })
	settled := f.trail.of(audit.RoleSettled)
	return settled[len(settled)-1]
}

// owners are what there is in the schemas that tenants create in, and whose it is.
func (f *fixture) owners(t *testing.T) []string {
	t.Helper()
	rows, err := f.super.Query(t.Context(), `
		SELECT relname || '=' || pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname = 'app' OR nspname ~ '^hg_') AND relkind IN ('r', 'p', 'v', 'm', 'S')
		UNION ALL SELECT typname || '=' || pg_get_userbyid(typowner) FROM pg_type WHERE typnamespace = 'app'::regnamespace AND typtype IN ('e', 'd')
		UNION ALL SELECT proname || '=' || pg_get_userbyid(proowner) FROM pg_proc WHERE pronamespace = 'app'::regnamespace
		ORDER BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	owners, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	for i := range owners {
		owners[i] = strings.ReplaceAll(owners[i], "="+f.db.Owner, " kept")
	}
	return owners
}

// What ordinary people make ordinarily is kept, with its rows, and belongs to the role that the grant names.
func TestKeepObjects(t *testing.T) {
	t.Parallel()
	someMajors(t, func(t *testing.T, db *pgtest.Database) {
		f := newFixture(t, db)
		lease := f.acquire(t, f.keeping(t))
		f.all(
			t, lease,
			"CREATE TYPE app.mood AS ENUM ('good', 'bad')", "CREATE DOMAIN app.positive AS int CHECK (VALUE > 0)", "CREATE SEQUENCE app.numbers",
			`CREATE TABLE app.report (id serial PRIMARY KEY, name text NOT NULL DEFAULT upper('x'), at timestamptz DEFAULT now(), key uuid DEFAULT gen_random_uuid(), m app.mood DEFAULT 'good',
			   p app.positive, amount numeric CHECK (amount BETWEEN 0 AND 100 OR amount IS NULL), tags text[] DEFAULT '{}', twice numeric GENERATED ALWAYS AS (amount * 2) STORED, UNIQUE (id, name))`,
			"CREATE INDEX ON app.report (lower(name)) WHERE amount > 1", "CREATE TABLE app.line (id bigint GENERATED ALWAYS AS IDENTITY, report int REFERENCES app.report ON DELETE CASCADE, n int DEFAULT nextval('app.numbers'))",
			"INSERT INTO app.report (amount) SELECT i FROM generate_series(1, 5) i", "INSERT INTO app.line (report) SELECT id FROM app.report",
			"CREATE VIEW app.totals AS SELECT r.name, count(*) AS lines, sum(r.amount) FILTER (WHERE l.id > 0) AS total FROM app.report r JOIN app.line l ON l.report = r.id JOIN public.orders o ON o.id = r.id GROUP BY r.name",
			"CREATE TABLE own AS SELECT * FROM public.customers", "COMMENT ON TABLE own IS 'mine'",
			"GRANT ALL ON app.report TO PUBLIC", "GRANT SELECT (name) ON app.report TO PUBLIC", "GRANT USAGE ON SCHEMA "+lease.Login().User+" TO PUBLIC",
			"CREATE FUNCTION app.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
		)
		record := f.end(t, lease)
		want := []string{"line kept", "line_id_seq kept", "mood kept", "numbers kept", "own kept", "positive kept", "report kept", "report_id_seq kept", "totals kept"}
		if diff := cmp.Diff(want, f.owners(t)); diff != "" {
			t.Errorf("kept (-want +got):\n%s", diff)
		}
		if record.HandedTo != db.Owner || len(record.Handed) != 7 || len(record.Dropped) == 0 {
			t.Errorf("the record has handed %q to %q, dropped %q", record.Handed, record.HandedTo, record.Dropped)
		}
		f.exec(t, "SET ROLE "+db.Owner+"; INSERT INTO app.report (amount) VALUES (7); DELETE FROM app.report WHERE amount = 1; SELECT * FROM app.totals; ALTER TABLE app.report ADD COLUMN later int; RESET ROLE")
		var rights string
		if err := f.super.QueryRow(t.Context(), `
			SELECT coalesce(string_agg(DISTINCT coalesce(nullif(pg_get_userbyid(x.grantee), 'unknown (OID=0)'), 'PUBLIC'), ','), '')
			  FROM (SELECT relacl FROM pg_class WHERE relnamespace = 'app'::regnamespace UNION ALL SELECT attacl FROM pg_attribute WHERE attrelid = 'app.report'::regclass) a(acl), aclexplode(acl) x
			 WHERE x.grantee <> $1::regrole`, db.Owner).Scan(&rights); err != nil || rights != "" {
			t.Errorf("others have rights on what was kept: %s, %v", rights, err)
		}
	})
}

// hostile are objects that would run a tenant's code as whoever uses them later; each is made in schema app, by name.
var hostile = map[string][]string{
	"default":        {"CREATE TABLE app.default (i int DEFAULT app.f())"},
	"xml":            {"CREATE TABLE app.xml (x xml DEFAULT query_to_xml('SELECT app.f()', true, true, ''))"},
	"checked":        {"CREATE TABLE app.checked (i int CHECK (app.f() > i))"},
	"generated":      {"CREATE TABLE app.generated (i int, j int GENERATED ALWAYS AS (app.f() + i) STORED)"},
	"indexed":        {"CREATE TABLE app.indexed (i int)", "CREATE INDEX ON app.indexed ((app.f() + i))"},
	"partial":        {"CREATE TABLE app.partial (i int)", "CREATE INDEX ON app.partial (i) WHERE app.f() = i"},
	"triggered":      {"CREATE TABLE app.triggered (i int)", "CREATE TRIGGER t BEFORE INSERT ON app.triggered FOR EACH ROW EXECUTE FUNCTION app.tf()"},
	"ruled":          {"CREATE TABLE app.ruled (i int)", "CREATE RULE r AS ON INSERT TO app.ruled DO ALSO SELECT app.f()"},
	"guarded":        {"CREATE TABLE app.guarded (i int)", "CREATE POLICY p ON app.guarded USING (app.f() = 1)", "ALTER TABLE app.guarded ENABLE ROW LEVEL SECURITY"},
	"dormant":        {"CREATE TABLE app.dormant (i int)", "CREATE POLICY p ON app.dormant USING (app.f() = 1)"},
	"of_domain":      {"CREATE DOMAIN app.evil AS int CHECK (app.f() = 1)", "CREATE TABLE app.of_domain (i app.evil)"},
	"of_default":     {"CREATE DOMAIN app.lazy AS int DEFAULT app.f()", "CREATE TABLE app.of_default (i app.lazy)"},
	"view":           {"CREATE VIEW app.view AS SELECT app.f()"},
	"view_files":     {"CREATE VIEW app.view_files AS SELECT * FROM pg_ls_dir('.')"},
	"view_settings":  {"CREATE VIEW app.view_settings AS SELECT set_config('role', 'none', false)"},
	"view_tab":       {"CREATE VIEW app.view_tab AS SELECT * FROM public.crosstab('SELECT app.f()::text, 1, 2') AS c(t text, i int)"},
	"view_of_bad":    {"CREATE TABLE app.bad (i int DEFAULT app.f())", "CREATE VIEW app.view_of_bad AS SELECT * FROM app.bad"},
	"view_triggered": {"CREATE VIEW app.view_triggered AS SELECT 1 AS i", "CREATE TRIGGER t INSTEAD OF INSERT ON app.view_triggered FOR EACH ROW EXECUTE FUNCTION app.tf()"},
	"materialized":   {"CREATE MATERIALIZED VIEW app.materialized AS SELECT app.f()"},
	"parted":         {"CREATE TABLE app.parted (i int) PARTITION BY RANGE (i)", "CREATE TABLE app.part PARTITION OF app.parted DEFAULT", "CREATE TRIGGER t BEFORE INSERT ON app.part FOR EACH ROW EXECUTE FUNCTION app.tf()"},
	"parent":         {"CREATE TABLE app.parent (i int)", "CREATE TABLE app.child (CHECK (app.f() = 1)) INHERITS (app.parent)"},
	"referred":       {"CREATE TABLE app.referred (i int PRIMARY KEY)", "CREATE TABLE app.refers (i int REFERENCES app.referred ON DELETE CASCADE)", "CREATE TRIGGER t AFTER DELETE ON app.refers FOR EACH ROW EXECUTE FUNCTION app.tf()"},
	"cast_row":       {"CREATE TABLE app.cast_row (i int)", "CREATE FUNCTION app.cf(app.cast_row) RETURNS text LANGUAGE sql AS 'SELECT app.f()::text'", "CREATE CAST (app.cast_row AS text) WITH FUNCTION app.cf(app.cast_row) AS IMPLICIT"},
	"mooded":         {"CREATE TYPE app.castmood AS ENUM ('a')", "CREATE FUNCTION app.mf(app.castmood) RETURNS int LANGUAGE sql AS 'SELECT app.f()'", "CREATE CAST (app.castmood AS int) WITH FUNCTION app.mf(app.castmood) AS IMPLICIT", "CREATE TABLE app.mooded (m app.castmood)"},
	"operated":       {"CREATE TYPE app.opmood AS ENUM ('a')", "CREATE FUNCTION app.of(app.opmood, app.opmood) RETURNS bool LANGUAGE sql AS 'SELECT app.f() = 1'", "CREATE OPERATOR app.= (LEFTARG = app.opmood, RIGHTARG = app.opmood, FUNCTION = app.of)", "CREATE TABLE app.operated (m app.opmood)"},
	"statistics":     {"CREATE TABLE app.statistics (i int, j int)", "CREATE STATISTICS app.s ON i, j FROM app.statistics"},
	"excluded":       {"CREATE TABLE app.excluded (i int, EXCLUDE USING btree ((app.f() + i) WITH =))"},
	"ranged":         {"CREATE FUNCTION app.rf(int, int) RETURNS float8 IMMUTABLE LANGUAGE sql AS 'SELECT app.f()::float8'", "CREATE TYPE app.range AS RANGE (SUBTYPE = int, SUBTYPE_DIFF = app.rf)", "CREATE TABLE app.ranged (r app.range)"},
}

// Nothing that would run a tenant's code with the new owner's rights is kept, whatever it hangs on, and nothing of it stays.
func TestKeepNothingHostile(t *testing.T) {
	t.Parallel()
	eachMajor(t, keepNothingHostile)
}

// A server that compiles all queries (jit_above_cost) takes half a minute for one of ours, unless it is told not to.
func TestEndWhereTheServerCompiles(t *testing.T) {
	t.Parallel()
	db := pgtest.Start(t, 15).Database(t) // Debian's has LLVM
	super := db.Superuser(t)
	for _, setting := range []string{"jit_above_cost", "jit_inline_above_cost", "jit_optimize_above_cost"} {
		if _, err := super.Exec(t.Context(), fmt.Sprintf("ALTER ROLE %s SET %s = 0", db.Admin, setting)); err != nil {
			t.Fatal(err)
		}
	}
	keepNothingHostile(t, db)
}

func keepNothingHostile(t *testing.T, db *pgtest.Database) {
	f := newFixture(t, db)
	f.exec(t, "CREATE EXTENSION tablefunc SCHEMA public") // its functions run their argument as SQL, and are STABLE
	lease := f.acquire(t, f.keeping(t))
	statements := []string{
		"CREATE FUNCTION app.f() RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'ran as %', current_user; EXCEPTION WHEN raise_exception THEN RETURN 1; END $$",
		"CREATE FUNCTION app.tf() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM app.f(); RETURN NEW; END'",
		"CREATE TABLE app.harmless (i int)",
	}
	for _, s := range hostile {
		statements = append(statements, s...)
	}
	f.all(t, lease, statements...)
	f.end(t, lease)
	got := slices.DeleteFunc(f.owners(t), func(o string) bool { return o == "harmless kept" })
	if len(got) != 0 {
		t.Errorf("left: %q", got)
	}
}

// An accomplice whom the tenant lets make triggers on a table puts one there, or holds a lock on it: the table is dropped
// in the one case, and kept as soon as it can be in the other. Nobody keeps a right on it.
func TestKeepWithAnAccomplice(t *testing.T) {
	t.Parallel()
	someMajors(t, func(t *testing.T, db *pgtest.Database) {
		f := newFixture(t, db)
		grant := f.keeping(t)
		lease := f.acquire(t, grant)
		accomplice, err := f.Acquire(t.Context(), "mallory@example.com", grant, db.Name)
		if err != nil {
			t.Fatal(err)
		}
		bob := `"` + accomplice.Login().User + `"`
		f.all(
			t, lease, "CREATE TABLE app.trapped (i int)", "GRANT ALL ON app.trapped TO "+bob, "CREATE TABLE app.locked (i int PRIMARY KEY)", "GRANT ALL ON app.locked TO "+bob+" WITH GRANT OPTION",
			"CREATE TABLE app.referred (i int PRIMARY KEY)", "GRANT ALL ON app.referred TO "+bob, "INSERT INTO app.locked VALUES (1)",
		)
		theirs := f.all(
			t, accomplice, "CREATE FUNCTION app.tf() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
			"CREATE TABLE app.refers (i int REFERENCES app.referred ON DELETE CASCADE)", "CREATE TRIGGER t AFTER DELETE ON app.refers FOR EACH ROW EXECUTE FUNCTION app.tf()",
			"GRANT SELECT ON app.locked TO PUBLIC", "BEGIN", "CREATE TRIGGER t BEFORE INSERT ON app.trapped FOR EACH ROW EXECUTE FUNCTION app.tf()", "LOCK TABLE app.locked IN ROW SHARE MODE",
		)
		lease.Release()
		f.Withdraw(lease.Login().User)
		waitFor(t, "the role can't log in", func() bool { return f.noLogin(t, lease) })
		if _, err := theirs.Exec(t.Context(), "COMMIT"); err != nil {
			t.Fatal(err)
		}
		waitForLong(t, time.Minute, "the role is gone", func() bool {
			_ = f.Sweep(t.Context())
			return !f.exists(t, lease.Login().User) || len(f.trail.of(audit.RoleTombstoned)) > 0
		})
		var owner, acl string
		if err := f.super.QueryRow(t.Context(), "SELECT pg_get_userbyid(relowner), coalesce(relacl::text, '') FROM pg_class WHERE oid = 'app.locked'::regclass").Scan(&owner, &acl); err != nil || owner != db.Owner || strings.Contains(acl, accomplice.Login().User) || strings.Contains(acl, "{=") {
			t.Errorf("the table that was locked is %s's, with %s, %v", owner, acl, err)
		}
		for _, table := range []string{"trapped", "referred"} {
			var kept bool
			if err := f.super.QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM pg_class WHERE relname = $1 AND pg_get_userbyid(relowner) = $2)", table, db.Owner).Scan(&kept); err != nil || kept {
				t.Errorf("%s was kept: the accomplice's trigger runs as its owner (%v)", table, err)
			}
		}
		f.end(t, accomplice)
	})
}

// A role that can't be given anything, or that the admin can't act for, keeps the grant from being used.
func TestKeepAsSomebodyImpossible(t *testing.T) {
	t.Parallel()
	for _, major := range []int{15, 18} {
		f := newFixture(t, pgtest.Start(t, major).Database(t))
		for _, name := range []string{"postgres", "nobody_" + f.db.Name, f.stranger(t)} {
			g := f.grant(policy.Admin, time.Hour)
			g.KeepObjectsAs = name
			if _, err := f.Acquire(t.Context(), "alice@example.com", g, f.db.Name); err == nil {
				t.Errorf("PostgreSQL %d: what people make can be kept as %s?", major, name)
			}
		}
	}
}

// stranger makes a role that the admin is no member of.
func (f *fixture) stranger(t *testing.T) string {
	t.Helper()
	name := "stranger_" + f.db.Name
	f.exec(t, "CREATE ROLE "+name)
	t.Cleanup(func() { _, _ = f.super.Exec(context.Background(), "DROP ROLE "+name) })
	return name
}
