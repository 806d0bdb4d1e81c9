//go:build clients

package clients

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hourgate/hourgate/internal/pgtest"
)

var driverTests = flag.String("driver-tests", ".", "the tests of drivers to run, as a pattern")

// expected are the drivers' tests that must have another result through the gate, and why.
var expected = map[string]string{
	"github.com/jackc/pgx/v5 TestConnect":                         "it expects to be, on the server, whom it has logged in as; at the gate it is the role of its grant",
	"github.com/jackc/pgx/v5/pgconn TestConnectProtocolVersion32": "it expects what PostgreSQL 15 answers, protocol 3.0; the gate speaks 3.2 whatever the server speaks",
}

// A driverModule is a driver whose tests come with its module.
type driverModule struct {
	path string
	// plaintext says that its tests talk to servers of their own too, with what the environment says of TLS: those know none,
	// and a test that asks them for it waits for ever.
	plaintext bool
}

var driverModules = []driverModule{{path: "github.com/jackc/pgx/v5"}, {path: "github.com/lib/pq", plaintext: true}}

// environment is how the driver's tests reach the server.
func (m driverModule) environment(w way) []string {
	env := append(os.Environ(), w.environment...)
	if m.plaintext {
		env = slices.DeleteFunc(env, func(v string) bool { return strings.HasPrefix(v, "PGSSL") })
		env = append(env, "PGSSLMODE=disable")
	}
	return append(env, "PGDATABASE=regression",
		"PGX_TEST_DATABASE=dbname=regression", "PGX_TEST_TCP_CONN_STRING=dbname=regression", "PGX_TEST_SCRAM_PLUS_CONN_STRING=dbname=regression channel_binding=require")
}

// The drivers' own tests have the same results through the gate as without it.
func TestDriverSuites(t *testing.T) {
	const major = 15 // with the extensions that the tests need
	binary := build(t, ".", "../cmd/hourgate")
	for _, module := range driverModules {
		t.Run(module.path, func(t *testing.T) {
			t.Parallel()
			source := moduleSource(t, module.path)
			direct := driverResults(t, source, module.environment(directly(t, driverDatabase(t, major))))
			gated := driverResults(t, source, module.environment(throughGate(t, binary, driverDatabase(t, major))))
			t.Logf("%s: direct %s; through the gate %s", module.path, countActions(direct), countActions(gated))
			differ := 0
			for _, test := range slices.Sorted(maps.Keys(direct)) {
				if direct[test].action == gated[test].action {
					continue
				}
				differ++
				if why, known := expected[test]; known {
					t.Logf("%s: direct %s, through the gate %s, as expected: %s", test, direct[test].action, gated[test].action, why)
					continue
				}
				t.Errorf("%s: direct %s, through the gate %s\n%s", test, direct[test].action, gated[test].action, gated[test].output)
			}
			tabulate(t, suiteRow{suite: module.path, direct: passedOf(direct), gated: passedOf(gated), differ: differ})
		})
	}
}

func driverDatabase(t *testing.T, major int) *pgtest.Database {
	t.Helper()
	db := suiteDatabase(t, major)
	conn := db.Superuser(t)
	for _, statement := range []string{
		"CREATE EXTENSION hstore", "CREATE EXTENSION ltree", "CREATE DOMAIN uint64 AS numeric(20,0)",
		`CREATE ROLE " tricky, ' } "" \ test user " SUPERUSER`,
	} {
		if _, err := conn.Exec(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	return db
}

// moduleSource is a copy of the module, since tests write beside their sources.
func moduleSource(t *testing.T, module string) string {
	t.Helper()
	cmd := exec.Command("go", "mod", "download", "-json", module)
	cmd.Dir = "go"
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go mod download %s: %v", module, err)
	}
	var found struct{ Dir string }
	if err := json.Unmarshal(out, &found); err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "source")
	if err := os.CopyFS(copied, os.DirFS(found.Dir)); err != nil {
		t.Fatal(err)
	}
	return copied
}

var folderName = regexp.MustCompile(`/tmp/[A-Za-z0-9_]+/001/`)

type driverResult struct{ action, output string }

// driverResults runs a module's tests, which find the server in their environment.
func driverResults(t *testing.T, source string, environment []string) map[string]driverResult {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), suiteTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "test", "-json", "-count=1", "-p=1", "-run="+*driverTests, "./...")
	cmd.Dir = source
	cmd.Env = environment
	out, _ := cmd.Output() // tests that fail are a result
	results, outputs := make(map[string]driverResult), make(map[string]string)
	panicked, last := false, ""
	for line := range bytes.Lines(out) {
		var event struct{ Action, Package, Test, Output string }
		if json.Unmarshal(line, &event) != nil {
			continue
		}
		if panicked = panicked || strings.HasPrefix(event.Output, "panic: "); panicked && len(last) < 8000 {
			last += event.Output
		}
		if event.Test == "" {
			continue
		}
		// Some tests of tests are named after their files in a folder of their own.
		test := event.Package + " " + folderName.ReplaceAllString(event.Test, "TMP/")
		switch event.Action {
		case "output":
			outputs[test] += event.Output
		case "pass", "fail", "skip":
			results[test] = driverResult{event.Action, excerpt(outputs[test])}
		}
	}
	if panicked {
		t.Logf("tests panicked, or took too long:\n%s", last)
	}
	if len(results) == 0 {
		t.Fatalf("no test ran in %s:\n%s", source, out)
	}
	return results
}

// passedOf is how many tests passed, of how many that were not skipped.
func passedOf(results map[string]driverResult) string {
	passed, all := 0, 0
	for _, r := range results {
		if r.action != "skip" {
			all++
		}
		if r.action == "pass" {
			passed++
		}
	}
	return fmt.Sprintf("%d of %d", passed, all)
}

func countActions(results map[string]driverResult) string {
	counts := make(map[string]int)
	for _, r := range results {
		counts[r.action]++
	}
	return strings.TrimPrefix(fmt.Sprint(counts), "map")
}
