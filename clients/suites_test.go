//go:build clients

package clients

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/pgtest"
)

// suiteTimeout is for one of PostgreSQL's suites on a busy machine.
const suiteTimeout = 30 * time.Minute

// A suite is one of PostgreSQL's own, as `make check` runs it.
type suite struct{ folder, driver, schedule string }

var suites = []suite{
	{"regress", "pg_regress", "parallel_schedule"},
	{"isolation", "pg_isolation_regress", "isolation_schedule"},
}

// crashing are the names of tests that end the server of this major, whichever way they come: the suites are newer than the servers that
// packages have.
var crashing = map[int]string{18: "sqljson|hash_part"}

// scheduleOf is the suite's schedule without those, in a folder.
func (s suite) scheduleOf(t *testing.T, source, folder string, major int) string {
	t.Helper()
	file := filepath.Join(source, s.schedule)
	names, crashes := crashing[major]
	if !crashes {
		return file
	}
	content, err := os.ReadFile(file)
	if err == nil {
		file = filepath.Join(folder, s.schedule)
		err = os.WriteFile(file, regexp.MustCompile(` (?:`+names+`)( |\n)`).ReplaceAll(content, []byte("$1")), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// PostgreSQL's own suites give the same differences from what their authors expect through the gate as without it. The
// role is a superuser on both ways, since most of the tests need that. Only its name differs, and is made the same.
func TestSuites(t *testing.T) {
	binary := build(t, ".", "../cmd/hourgate")
	for _, major := range majors {
		for _, s := range suites {
			t.Run(fmt.Sprintf("%s/PostgreSQL %d", s.folder, major), func(t *testing.T) {
				t.Parallel()
				straight, through := directly(t, suiteDatabase(t, major)), throughGate(t, binary, suiteDatabase(t, major))
				direct, gated := s.run(t, major, straight), s.run(t, major, through)
				t.Logf("direct: %s\nthrough the gate: %s", direct.summary, gated.summary)
				if strings.Contains(direct.summary+gated.summary, "no summary") {
					t.Fatal("the suite did not run")
				}
				differ := 0
				for _, test := range slices.Compact(slices.Sorted(slices.Values(append(direct.names(), gated.names()...)))) {
					if direct.diffs[test] != gated.diffs[test] && !s.agreesAgain(t, major, straight, through, test) {
						differ++
						t.Errorf("%s differs.\ndirect:\n%s\nthrough the gate:\n%s", test, excerpt(direct.diffs[test]), excerpt(gated.diffs[test]))
					}
				}
				tabulate(t, suiteRow{
					suite: fmt.Sprintf("PostgreSQL %d, %s", major, s.folder), direct: direct.passed(), gated: gated.passed(), differ: differ,
				})
			})
		}
	}
}

// agreesAgain runs one test of the isolation suite some more times on both ways: in which order two sessions say something
// depends on what else the machine does. Tests of the regression suite need those before them.
func (s suite) agreesAgain(t *testing.T, major int, straight, through way, test string) bool {
	for range 3 {
		if s.driver == "pg_isolation_regress" && s.run(t, major, straight, test).diffs[test] == s.run(t, major, through, test).diffs[test] {
			return true
		}
	}
	return false
}

// excerpt is as much of a difference as somebody reads.
func excerpt(diff string) string { return diff[:min(len(diff), 4000)] }

// way is how a suite reaches the server.
type way struct {
	environment []string
	role        string // who it is on the server
}

// suiteDatabase is the database that a suite expects, on a server of its own.
func suiteDatabase(t *testing.T, major int) *pgtest.Database {
	t.Helper()
	server := pgtest.New(t, major, pgtest.Options{Settings: map[string]string{
		"max_connections": "100", "max_prepared_transactions": "2", "fsync": "off",
	}})
	db := &pgtest.Database{Server: server, Name: "regression", Admin: "suite_admin", AdminPassword: "suite"}
	conn := server.Superuser(t, "postgres")
	for _, statement := range []string{
		"CREATE ROLE suite_admin LOGIN CREATEROLE CREATEDB PASSWORD 'suite'",
		"CREATE DATABASE regression TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'",
		"ALTER DATABASE regression SET lc_messages TO 'C'",
		"ALTER DATABASE regression SET bytea_output TO 'hex'",
		"ALTER DATABASE regression SET timezone_abbreviations TO 'Default'",
	} {
		if _, err := conn.Exec(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	return db
}

// directly logs in at the server, with a role whose name is as long as one of the gate's.
func directly(t *testing.T, db *pgtest.Database) way {
	t.Helper()
	role := "hg_" + strings.Repeat("x", 24)
	_, err := db.Superuser(t).Exec(t.Context(), "CREATE ROLE "+role+" LOGIN SUPERUSER PASSWORD 'suite'")
	if err != nil {
		t.Fatal(err)
	}
	return way{role: role, environment: []string{
		"PGHOST=localhost", fmt.Sprintf("PGPORT=%d", db.Server.Port), "PGUSER=" + role, "PGPASSWORD=suite",
		"PGSSLMODE=verify-full", "PGSSLROOTCERT=" + db.Server.CAFile,
	}}
}

// throughGate logs in at a gate. A session that stays keeps the role, which the server's superuser makes one, too.
func throughGate(t *testing.T, binary string, db *pgtest.Database) way {
	t.Helper()
	g := startGateUnder(t, binary, db, func(g *gate) {
		g.plaintext = true // as with the server, which some tests ask for
		g.write(t, "policy.yaml", suitePolicy(t))
	})
	url := fmt.Sprintf("host=%s port=%s user=%s password='%s' dbname=regression sslmode=verify-full sslrootcert=%s",
		g.login.host, g.login.port, "suite", "suite", g.login.ca)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	var role string
	if err := conn.QueryRow(t.Context(), "SELECT session_user").Scan(&role); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Superuser(t).Exec(t.Context(), "ALTER ROLE "+role+" SUPERUSER"); err != nil {
		t.Fatal(err)
	}
	return way{role: role, environment: []string{
		"PGHOST=" + g.login.host, "PGPORT=" + g.login.port, "PGUSER=suite", "PGPASSWORD=suite",
		"PGSSLMODE=verify-full", "PGSSLROOTCERT=" + g.login.ca,
	}}
}

func suitePolicy(t *testing.T) string {
	t.Helper()
	scram, err := encoded("suite")
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("users:\n  - {name: suite, scram: %q}\ngrants:\n"+
		"  - {name: suite, users: [suite], integration: orders, access: READ_WRITE, max_sessions: 90, until: %s}\n",
		scram, time.Now().Add(3*time.Hour).UTC().Format(time.RFC3339))
}

// suiteResult is what pg_regress found: the differences by test.
type suiteResult struct {
	summary string
	diffs   map[string]string
}

var summaryNumbers = regexp.MustCompile(`(\d+) of (\d+) tests|All (\d+) tests`)

// passed is how many tests passed, of how many: "216 of 217".
func (r suiteResult) passed() string {
	n := summaryNumbers.FindStringSubmatch(r.summary)
	if n == nil {
		return "?"
	}
	if n[3] != "" {
		return n[3] + " of " + n[3]
	}
	count, _ := strconv.Atoi(n[1])
	all, _ := strconv.Atoi(n[2])
	if strings.Contains(r.summary, "failed") {
		count = all - count
	}
	return fmt.Sprintf("%d of %d", count, all)
}

func (r suiteResult) names() []string {
	var names []string
	for name := range r.diffs {
		names = append(names, name)
	}
	return names
}

// run runs the suite one way, or only some of its tests. That tests fail is its result and no error.
func (s suite) run(t *testing.T, major int, w way, tests ...string) suiteResult {
	t.Helper()
	root := pgtest.Suites(t, major)
	source, out := filepath.Join(root, "src/test", s.folder), t.TempDir()
	results := filepath.Join(out, "results")
	if err := os.Mkdir(results, 0o777); err != nil {
		t.Fatal(err)
	}
	// The server writes there, as another user.
	for folder := results; len(folder) > len(os.TempDir()); folder = filepath.Dir(folder) {
		if err := os.Chmod(folder, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), suiteTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(source, s.driver), "--use-existing", "--dbname=regression",
		"--inputdir="+source, "--outputdir="+out, "--dlpath="+filepath.Join(root, "src/test/regress"),
		"--bindir="+pgtest.Psql(t, major), "--max-concurrent-tests=20")
	if tests == nil {
		tests = []string{"--schedule=" + s.scheduleOf(t, source, out, major)}
	}
	cmd.Args = append(cmd.Args, tests...)
	cmd.Env = append(append(os.Environ(), w.environment...), "PGDATABASE=regression")
	cmd.Dir = out
	output, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || ctx.Err() != nil) {
		t.Fatalf("%s: %v\n%s", s.driver, err, output)
	}
	diffs, err := os.ReadFile(filepath.Join(out, "regression.diffs"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return suiteResult{summary: summaryLine(output), diffs: byTest(diffs, w.role, out)}
}

func summaryLine(output []byte) string {
	for line := range bytes.Lines(output) {
		if bytes.Contains(line, []byte("tests passed")) || bytes.Contains(line, []byte("tests failed")) {
			return strings.Trim(string(line), " \n#.=")
		}
	}
	return "no summary:\n" + string(output)
}

var diffHeader = regexp.MustCompile(`(?m)^diff .*/results/([a-z0-9_.-]+)\.out\n(--- .*\n)?(\+\+\+ .*\n)?`)

// objectNumber is what no two runs agree on.
var objectNumber = regexp.MustCompile(`\bOID [0-9]{5,}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)

// byTest cuts pg_regress's differences at their headers, which hold paths and times.
func byTest(diffs []byte, role, out string) map[string]string {
	text := strings.NewReplacer(role, "hg_role", out, "OUT").Replace(string(diffs))
	text = objectNumber.ReplaceAllString(text, "NUMBER")
	cut := make(map[string]string)
	headers := diffHeader.FindAllStringSubmatchIndex(text, -1)
	for i, h := range headers {
		end := len(text)
		if i+1 < len(headers) {
			end = headers[i+1][0]
		}
		cut[text[h[2]:h[3]]] = text[h[1]:end]
	}
	return cut
}
