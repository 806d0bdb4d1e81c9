package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/hourgate/hourgate/audit"

	"github.com/hourgate/hourgate/internal/gatetest"
)

// An auditor sees that a trail is whole, and each way in which it is not.
func TestTrailVerify(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "trail.jsonl")
	trail, err := audit.Open(file, audit.Options{Deployment: "test"})
	if err != nil {
		t.Fatal(err)
	}
	for _, user := range []string{gatetest.Alice, gatetest.Bob, gatetest.Alice} {
		if err := trail.Append(audit.Record{Event: audit.SessionRefused, Subject: audit.Subject{User: user}, Outcome: audit.Outcome{Cause: "no_grant"}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := trail.Close(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(strings.TrimSuffix(string(content), "\n"), "\n")
	first, rest := strings.Join(lines[:2], ""), strings.Join(lines[2:], "")+"\n"

	verify := func(parts []string, args ...string) (code int, stdout, stderr string) {
		command := append([]string{"trail", "verify"}, args...)
		for _, part := range parts {
			name := filepath.Join(t.TempDir(), "part.jsonl")
			if err := os.WriteFile(name, []byte(part), 0o600); err != nil {
				t.Fatal(err)
			}
			command = append(command, name)
		}
		var out, errs bytes.Buffer
		code = run(t.Context(), command, nil, &out, &errs)
		return code, out.String(), errs.String()
	}
	code, stdout, stderr := verify([]string{string(content)})
	if code != exitOK || !strings.HasSuffix(stdout, "the chain is whole\n") || stderr != "" {
		t.Fatalf("a good trail: exit code %d, output\n%s%s", code, stdout, stderr)
	}
	last := regexp.MustCompile(`(?m)^last hash  ([0-9a-f]{64})$`).FindStringSubmatch(stdout)
	if last == nil {
		t.Fatalf("no hash in\n%s", stdout)
	}
	contains := []string{"--contains", last[1]}
	for name, c := range map[string]struct {
		parts []string
		args  []string
		code  int
		want  string // in the output, or in the errors where the code is not 0
	}{
		"whole, with the hash that was kept": {[]string{string(content)}, contains, exitOK, "records    1 to"},
		"rotated":                            {[]string{first, rest}, contains, exitOK, "records    1 to"},
		"the newer file alone":               {[]string{rest}, contains, exitOK, "in an older file"},
		"files in the wrong order":           {[]string{rest, first}, nil, exitRuntime, "line "},
		"a user changed":                     {[]string{strings.Replace(string(content), gatetest.Bob, "eve@example.com", 1)}, nil, exitRuntime, "line "},
		"a record taken out":                 {[]string{lines[0] + strings.Join(lines[2:], "") + "\n"}, nil, exitRuntime, "line 2: "},
		"the end cut off":                    {[]string{first}, contains, exitRuntime, "no record has the hash " + last[1]},
		"the end cut off in a line":          {[]string{first + lines[2][:20]}, nil, exitRuntime, "line 3: torn"},
		"empty":                              {[]string{""}, nil, exitRuntime, "no record"},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := verify(c.parts, c.args...)
			said := stdout
			if c.code != exitOK {
				said = stderr
			}
			if code != c.code || !strings.Contains(said, c.want) {
				t.Errorf("got exit code %d, want %d with %q; output\n%s%s", code, c.code, c.want, stdout, stderr)
			}
			if whole := strings.Contains(stdout, "the chain is whole"); whole != (c.code == exitOK) {
				t.Errorf("says that the chain is whole: %v", whole)
			}
		})
	}
}
