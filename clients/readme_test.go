package clients

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the README's table of clients from docs/clients.md")

// The README's table of clients is what docs/clients.md says, in short. `make clients` writes both.
func TestReadme(t *testing.T) {
	const readmeFile, from, to = "../README.md", "<!-- clients: written by make clients -->\n", "<!-- end of clients -->\n"
	details, err := os.ReadFile("../docs/clients.md")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile(readmeFile)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(readme), from)
	got, after, ok2 := strings.Cut(rest, to)
	if !ok || !ok2 {
		t.Fatalf("%s lacks the lines %q and %q", readmeFile, from, to)
	}
	want, err := summary(string(details))
	if err != nil {
		t.Fatalf("docs/clients.md: %v", err)
	}
	if *update {
		if err := os.WriteFile(readmeFile, []byte(before+from+want+to+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got != want {
		t.Errorf("the README's table of clients is not that of docs/clients.md; run\n"+
			"go test ./clients -run TestReadme -args -update\ngot:\n%s\nwant:\n%s", got, want)
	}
}

// tally is how many of a client's checks passed, of those that apply.
type tally struct{ passed, apply int }

// summary has a row for each client and each version of libpq in the tables of docs/clients.md.
func summary(details string) (string, error) {
	var clients []string // name and version, in their order
	tallies := make(map[string]tally)
	for line := range strings.Lines(details) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if len(cells) < 5 || cells[0] == "client" || cells[0] == "libpq" || strings.HasPrefix(cells[0], "---") {
			continue
		}
		client, checks := cells[0]+" | "+cells[1], cells[3:]
		if len(cells) == 5 { // libpq's version, how it connects, and a cell for each channel_binding
			client, checks = "libpq | "+cells[0], cells[2:]
		}
		sum, seen := tallies[client]
		if !seen {
			clients = append(clients, client)
		}
		for _, cell := range checks {
			t, err := count(cell)
			if err != nil {
				return "", err
			}
			sum.passed += t.passed
			sum.apply += t.apply
		}
		tallies[client] = sum
	}
	if len(clients) == 0 {
		return "", errors.New("no table")
	}
	var b strings.Builder
	b.WriteString("| client | version | checks passed |\n|---|---|---|\n")
	for _, client := range clients {
		verdict := fmt.Sprintf("all %d", tallies[client].apply)
		if t := tallies[client]; t.passed < t.apply {
			verdict = fmt.Sprintf("**%d of %d**", t.passed, t.apply)
		}
		fmt.Fprintf(&b, "| %s | %s |\n", client, verdict)
	}
	return b.String(), nil
}

// count reads a cell: yes, no or a dash, with remarks, or how many of a library's checks passed.
func count(cell string) (tally, error) {
	var t tally
	if n, _ := fmt.Sscanf(cell, "all %d", &t.passed); n == 1 {
		return tally{t.passed, t.passed}, nil
	}
	if n, _ := fmt.Sscanf(cell, "**%d of %d**", &t.passed, &t.apply); n == 2 {
		return t, nil
	}
	switch verdict, _, _ := strings.Cut(cell, "<sup>"); verdict {
	case "yes":
		return tally{1, 1}, nil
	case "**no**":
		return tally{0, 1}, nil
	case "–":
		return tally{}, nil
	}
	return t, fmt.Errorf("what is %q?", cell)
}

func TestSummary(t *testing.T) {
	t.Parallel()
	details := `| client | version | TLS | log in | COPY |
|---|---|---|---|---|---|
| a | 1 | TLS 1.3 | yes<sup>2</sup> | –<sup>1</sup> | yes |
| b | 2 | TLS 1.3 | yes | **no**<sup>1</sup> | yes |

| libpq | connects | disable | prefer | require |
|---|---|---|---|---|
| 18 | negotiated TLS | all 22 | all 22 | all 22 |
| 18 | direct TLS | all 22 | **20 of 22** | all 21 |
`
	want := `| client | version | checks passed |
|---|---|---|
| a | 1 | all 2 |
| b | 2 | **2 of 3** |
| libpq | 18 | **129 of 131** |
`
	if got, err := summary(details); err != nil || got != want {
		t.Errorf("got %v\n%s\nwant\n%s", err, got, want)
	}
	for _, bad := range []string{"", "no table", "| a | 1 | TLS | perhaps | yes | yes |\n"} {
		if got, err := summary(bad); err == nil {
			t.Errorf("%q is summed up as\n%s", bad, got)
		}
	}
}
