//go:build clients

package clients

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var suitesFile = flag.String("suites", "", "write the suites' results to this file, in Markdown; what others have written there stays")

// suiteRow is a line of docs/suites.md.
type suiteRow struct {
	suite         string
	direct, gated string // passed, such as "216 of 217"
	differ        int    // tests whose results differ
}

const (
	suitesHead = `# PostgreSQL's own test suites, and drivers', through the gate

%[1]smake regress%[1]s runs each suite twice with equal rights, straight at the server and through the gate, compares the result
of each test, and writes this page. PostgreSQL's regression and isolation suites come from Debian's source packages; a test
passes if its output is what PostgreSQL's authors expect, and is the same on both ways if the differences from that are the same
to the letter (but for the role's name). What fails on both ways fails for reasons of the place where it is run, such as a
missing extension or locale, or since the suite is of a newer minor version than the server: PostgreSQL 18.4 crashes in
18.6's tests sqljson and hash_part, direct too, which are left out. A test of the isolation suite that differs is run three
times more, and may agree in any of them: the order in which two sessions say something is not always the same.

The drivers' suites come with their modules. lib/pq's runs without TLS on both ways, since its tests have servers of their own that
know none. Tests that fail on both ways want users, certificates or servers that are not here.

| suite | passed direct | passed through the gate | tests that differ | run on |
|---|---|---|---|---|
`
	suitesTail = `
## What differs, and why

`
)

var suitesWriting sync.Mutex

// tabulate puts a row into the table, for the one that was there.
func tabulate(t *testing.T, row suiteRow) {
	t.Helper()
	t.Logf("%s: direct %s, through the gate %s, %d differ", row.suite, row.direct, row.gated, row.differ)
	if *suitesFile == "" {
		return
	}
	suitesWriting.Lock()
	defer suitesWriting.Unlock()
	content, err := os.ReadFile(*suitesFile)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	rows := map[string]string{
		row.suite: fmt.Sprintf("| %s | %s | %s | %d | %s |\n", row.suite, row.direct, row.gated, row.differ, time.Now().Format(time.DateOnly)),
	}
	for line := range strings.Lines(string(content)) {
		name, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " |")
		if _, newer := rows[name]; !newer && strings.HasPrefix(line, "| ") && name != "suite" {
			rows[name] = line
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, suitesHead, "`")
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		b.WriteString(rows[name])
	}
	b.WriteString(suitesTail)
	for _, test := range slices.Sorted(maps.Keys(expected)) {
		fmt.Fprintf(&b, "- `%s`: %s.\n", test, expected[test])
	}
	if err := os.WriteFile(*suitesFile, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}
