package roles_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"

	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/policy"
)

// operation is a row of the table in docs/access.md: in each cell yes, no, or the version from which on.
type operation struct {
	what  string
	sql   string
	cells [4]string // READ_ONLY, READ_WRITE, ADMIN, act_as
}

var operations = []operation{
	{"`SELECT`, `COPY … TO STDOUT`, `EXPLAIN`", "EXPLAIN SELECT * FROM public.orders", [4]string{"yes", "yes", "yes", "yes"}},
	{"`INSERT`, `UPDATE`, `DELETE`, `COPY … FROM STDIN`", "UPDATE public.orders SET note = note WHERE id = 1", [4]string{"no", "yes", "yes", "yes"}},
	{"`nextval` of a sequence", "SELECT nextval('public.orders_id_seq')", [4]string{"no", "yes", "yes", "yes"}},
	{"`SELECT … FOR UPDATE`", "SELECT * FROM public.orders WHERE id = 1 FOR UPDATE", [4]string{"no", "yes", "yes", "yes"}},
	{"`TRUNCATE`", "TRUNCATE public.orders", [4]string{"no", "no", "yes", "yes"}},
	{"`REINDEX TABLE`", "REINDEX TABLE public.orders", [4]string{"no", "no", "from 17", "yes"}},
	{"`REFRESH MATERIALIZED VIEW`", "REFRESH MATERIALIZED VIEW public.mv", [4]string{"no", "no", "from 17", "yes"}},
	{"`CREATE INDEX`", "CREATE INDEX ON public.orders (note)", [4]string{"no", "no", "no", "yes"}},
	{"`ALTER TABLE … ADD COLUMN`", "ALTER TABLE public.orders ADD COLUMN more int", [4]string{"no", "no", "no", "yes"}},
	{"`CREATE TRIGGER`", "CREATE TRIGGER t BEFORE UPDATE ON public.orders FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()", [4]string{"no", "no", "no", "yes"}},
	{"`DROP TABLE`", "DROP TABLE public.orders", [4]string{"no", "no", "no", "yes"}},
	{"a foreign key to it", "CREATE TABLE refers (i int REFERENCES public.customers)", [4]string{"no", "no", "from 18", "yes"}},
	{"`CREATE TEMPORARY TABLE`", "CREATE TEMPORARY TABLE tmp (i int)", [4]string{"no", "yes", "yes", "yes"}},
	{"`CREATE TABLE … AS`, views, functions, in a schema of one's own", "CREATE TABLE mine AS SELECT * FROM public.orders", [4]string{"no", "no", "yes", "in the owner's"}},
	{"the same in a schema of `create_in`", "CREATE VIEW app.v AS SELECT * FROM public.orders", [4]string{"no", "no", "yes", "in the owner's"}},
	{"`CREATE SCHEMA`", "CREATE SCHEMA another", [4]string{"no", "no", "no", "yes"}},
	{"`CREATE ROLE`", "CREATE ROLE another", [4]string{"no", "no", "no", "no"}},
}

func (o operation) row() string {
	return fmt.Sprintf("| %s | %s |", o.what, strings.Join(o.cells[:], " | "))
}

// What each level can do with what is there is as the table says, on every version; each is tried and taken back.
func TestOperations(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/access.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range operations {
		if !strings.Contains(string(page), o.row()+"\n") {
			t.Errorf("docs/access.md has no row %s", o.row())
		}
	}
	someMajors(t, func(t *testing.T, db *pgtest.Database) {
		f := newFixture(t, db)
		f.grantOwner(t)
		f.exec(t, "ALTER DATABASE "+db.Name+" RESET search_path; REVOKE CREATE ON SCHEMA public FROM PUBLIC; REVOKE TEMPORARY ON DATABASE "+db.Name+" FROM PUBLIC; GRANT CREATE ON SCHEMA public TO "+db.Owner+
			"; SET ROLE "+db.Owner+"; CREATE SCHEMA app; CREATE MATERIALIZED VIEW mv AS SELECT 1 AS i; RESET ROLE")
		for i, access := range []policy.Access{{Level: policy.ReadOnly}, {Level: policy.ReadWrite}, {Level: policy.Admin, CreateIn: []string{"app"}}, f.actAsOwner()} {
			g := f.named(access)
			g.Name = fmt.Sprintf("inc-%d", i)
			lease := f.acquire(t, g)
			conn := f.login(t, lease.Login())
			for _, o := range operations {
				var from int
				want := o.cells[i] != "no"
				if n, _ := fmt.Sscanf(o.cells[i], "from %d", &from); n == 1 {
					want = db.Server.Major >= from
				}
				got := code(t, conn, "BEGIN; "+o.sql)
				_ = code(t, conn, "ROLLBACK")
				if (got == "") != want || got != "" && got != pgerrcode.InsufficientPrivilege && got != pgerrcode.InvalidSchemaName {
					t.Errorf("%s, %s: got %q, want it to work: %t", access, o.what, got, want)
				}
			}
			lease.Release()
			f.waitGone(t, lease.Login().User)
		}
	})
}

// The dump that the page tells how to make restores on a server that knows nothing of Hourgate, while an ADMIN's tables are
// in the way of whole dumps.
func TestDumpThatRestoresAnywhere(t *testing.T) {
	t.Parallel()
	db := pgtest.Start(t, 15).Database(t)
	f := newFixture(t, db)
	f.exec(t, "ALTER DATABASE "+db.Name+" RESET search_path")
	admin := f.acquire(t, f.grant(policy.Admin, time.Hour))
	f.create(t, admin, "mine")
	reader, err := f.Acquire(t.Context(), "bob@example.com", f.grant(policy.ReadOnly, time.Hour), db.Name)
	if err != nil {
		t.Fatal(err)
	}
	url := db.Server.URL(reader.Login().User, reader.Login().Password, db.Name).String()
	dump := exec.CommandContext(t.Context(), pgtest.Dump(t, 15), "--no-owner", "--no-privileges", "--exclude-schema=hg_*", "--dbname", url)
	out, err := dump.Output()
	if err != nil {
		t.Fatalf("pg_dump: %v", err)
	}
	if strings.Contains(string(out), "hourgate_") || strings.Contains(string(out), "hg_") {
		t.Error("the dump names roles of Hourgate")
	}
	other := pgtest.Start(t, 15).Database(t)
	restore := exec.CommandContext(t.Context(), pgtest.Client(t, "psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", other.Server.URL(other.Owner, other.OwnerPassword, other.Name).String())
	restore.Stdin = strings.NewReader("DROP TABLE orders, customers;\n" + string(out) + "\nSELECT count(*) FROM public.orders;\n")
	got, err := restore.CombinedOutput()
	if err != nil || !strings.HasSuffix(strings.TrimSpace(string(got)), "300") {
		t.Errorf("restoring: %v\n%s", err, got)
	}
	reader.Release()
	admin.Release()
	f.waitGone(t, admin.Login().User)
}
