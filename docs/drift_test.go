package docs_test

import (
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/hourgate/hourgate/internal/gatetest"
)

// sources are the program's Go files, without tests.
func sources(t *testing.T) map[string]string {
	t.Helper()
	found := make(map[string]string)
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (strings.HasPrefix(entry.Name(), ".") && entry.Name() != ".." || entry.Name() == "tools") {
			return fs.SkipDir
		}
		if filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		content, err := os.ReadFile(path)
		found[path] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

var metricName = regexp.MustCompile(`"(hourgate_[a-z_]+)"`)

// noMetrics are other names of ours in the code.
var noMetrics = []string{"hourgate_access", "hourgate_admin", "hourgate_objects", "hourgate_owner"}

// Every metric of the code is in operations.md, and every one of operations.md is in the code.
func TestMetricsAreDocumented(t *testing.T) {
	var metrics []string
	for _, content := range sources(t) {
		for _, m := range metricName.FindAllStringSubmatch(content, -1) {
			if !slices.Contains(noMetrics, m[1]) {
				metrics = append(metrics, m[1])
			}
		}
	}
	if len(metrics) < 30 {
		t.Fatalf("found %d metrics in the code only", len(metrics))
	}
	text := read(t, "operations.md")
	for _, m := range metrics {
		if !strings.Contains(text, "`"+m+"`") {
			t.Errorf("operations.md does not have %s", m)
		}
	}
	for _, m := range regexp.MustCompile("`(hourgate_[a-z_]+)`(?:, `| \\|)").FindAllStringSubmatch(text, -1) {
		if !slices.Contains(metrics, m[1]) {
			t.Errorf("operations.md has %s, which the code does not have", m[1])
		}
	}
}

// Every command is in commands.md.
func TestSubcommandsAreDocumented(t *testing.T) {
	out, err := exec.Command(gatetest.Binary(t), "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	help := string(out)
	text := read(t, "commands.md")
	listed := regexp.MustCompile(`(?m)^  ([a-z-]+) {2,}`).FindAllStringSubmatch(help, -1)
	if len(listed) < 10 {
		t.Fatalf("found %d commands only in\n%s", len(listed), help)
	}
	for _, c := range listed {
		if !regexp.MustCompile("`(hourgate )?"+c[1]+"\\b").MatchString(text) && c[1] != "help" {
			t.Errorf("commands.md does not have hourgate %s", c[1])
		}
	}
}

// ARCHITECTURE.md names files and functions that are there.
func TestArchitectureNamesWhatIsThere(t *testing.T) {
	all := sources(t)
	words := make(map[string]bool)
	for _, content := range all {
		for word := range strings.FieldsFuncSeq(content, func(r rune) bool { return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) }) {
			words[word] = true
		}
	}
	for _, name := range regexp.MustCompile("`([^`\n]+)`").FindAllStringSubmatch(read(t, "ARCHITECTURE.md"), -1) {
		switch word := name[1]; {
		case strings.HasSuffix(word, ".go"):
			if !slices.ContainsFunc(slices.Collect(maps.Keys(all)), func(f string) bool { return strings.HasSuffix(f, "/"+word) }) {
				t.Errorf("there is no file %s", word)
			}
		case regexp.MustCompile(`^[A-Za-z]+\.[A-Za-z]+$`).MatchString(word):
			_, member, _ := strings.Cut(word, ".")
			if !words[member] {
				t.Errorf("there is no %s", word)
			}
		}
	}
}
