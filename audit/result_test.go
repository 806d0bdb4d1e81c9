package audit_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hourgate/hourgate/audit"
)

// A result comes back as it was, behind its statement.
func TestResult(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string]audit.Options{"spool": {}, "sync": {Sync: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "trail.jsonl")
			trail, err := audit.Open(file, opts)
			if err != nil {
				t.Fatal(err)
			}
			asked := audit.Statement{Session: session, At: noon, Kind: audit.StatementQuery, Text: []byte("SELECT 1"), Call: 7}
			if err := trail.Statement(t.Context(), &asked); err != nil {
				t.Fatal(err)
			}
			if !trail.Result(&audit.Result{Session: session, At: noon, Call: 7, Command: []byte("SELECT 1"), Rows: 1, Took: 1500 * time.Microsecond, Lost: 3}) {
				t.Error("a result was not recorded")
			}
			if !trail.Result(&audit.Result{Session: session, At: noon, Call: 8, Command: []byte(audit.ResultError), SQLState: []byte("42P01")}) {
				t.Error("an error was not recorded")
			}
			trail.Close()
			list := records(t, file)
			if got, want := eventsOf(list), "trail_opened statement statement_result statement_result trail_closed"; got != want {
				t.Fatalf("got %q, want %q", got, want)
			}
			if r := list[2]; r.Session != session || r.Call != 7 || r.Command != "SELECT 1" || r.Rows != 1 || r.Duration != 0.0015 || r.ResultsLost != 3 || r.Code != "" {
				t.Errorf("got %+v", r)
			}
			if r := list[3]; r.Call != 8 || r.Command != "error" || r.Code != "42P01" || list[1].Call != 7 {
				t.Errorf("got %+v", r)
			}
		})
	}
}

// A result that finds no room is lost, and nobody waits for it; what does not fit into a record is refused.
func TestResultDoesNotWait(t *testing.T) {
	t.Parallel()
	trail := open(t, filepath.Join(t.TempDir(), "trail.jsonl"))
	if trail.Result(&audit.Result{Command: []byte(strings.Repeat("x", audit.MaxResultText+1))}) {
		t.Error("a tag that is too long was recorded")
	}
	trail.Close()
	if trail.Result(&audit.Result{Session: session, At: noon}) {
		t.Error("a closed trail has recorded a result")
	}
}
