//go:build faults

package faults

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

const tableBegin, tableEnd = "<!-- table -->\n", "<!-- end of table -->"

// writeTable writes results, by fault and moment, into the table between the file's marks. Cells that were not run stay, so that
// the matrix can be run in pieces.
func writeTable(t *testing.T, file string, results map[string]string) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(content), tableBegin)
	old, after, foundEnd := strings.Cut(rest, tableEnd)
	if !found || !foundEnd {
		t.Fatalf("%s has no place for the table", file)
	}
	cells := readTable(old)
	for name, took := range results {
		cells[name] = took
	}
	var b strings.Builder
	b.WriteString("| fault |")
	for _, m := range allMoments {
		b.WriteString(" " + m.name + " |")
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(allMoments)) + "\n")
	for _, f := range allFaults {
		fmt.Fprintf(&b, "| %s |", f.name)
		for _, m := range allMoments {
			fmt.Fprintf(&b, " %s |", cells[f.name+"/"+m.name])
		}
		b.WriteString("\n")
	}
	if err := os.WriteFile(file, []byte(before+tableBegin+b.String()+tableEnd+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// readTable returns the cells of a table as writeTable writes it.
func readTable(text string) map[string]string {
	cells := make(map[string]string)
	var moments []string
	for line := range strings.Lines(text) {
		fields := strings.Split(strings.TrimSpace(line), "|")
		if len(fields) < 3 {
			continue
		}
		fields = fields[1 : len(fields)-1]
		for i := range fields {
			fields[i] = strings.TrimSpace(fields[i])
		}
		if moments == nil {
			moments = fields[1:]
			continue
		}
		for i, cell := range fields[1:] {
			if i < len(moments) {
				cells[fields[0]+"/"+moments[i]] = cell
			}
		}
	}
	return cells
}

// What is run later is merged with what was run before.
func TestTable(t *testing.T) {
	file := t.TempDir() + "/page.md"
	if err := os.WriteFile(file, []byte("above\n"+tableBegin+tableEnd+"\nbelow\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	writeTable(t, file, map[string]string{"none/idle": "0.1 s", "server hung/COPY": "0.2 s"})
	writeTable(t, file, map[string]string{"none/idle": "0.3 s"})
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	cells := readTable(string(content))
	if cells["none/idle"] != "0.3 s" || cells["server hung/COPY"] != "0.2 s" || cells["none/COPY"] != "" {
		t.Errorf("got %v", cells)
	}
	if text := string(content); !strings.HasPrefix(text, "above\n") || !strings.HasSuffix(text, "\nbelow\n") {
		t.Errorf("what is around the table has changed:\n%s", text)
	}
}
