package audit_test

import (
	"path/filepath"
	"testing"

	"github.com/hourgate/hourgate/audit"
)

const session = "00c0ffee00c0ffee"

func TestStatement(t *testing.T) {
	file := filepath.Join(t.TempDir(), "trail.jsonl")
	trail := open(t, file)
	if err := trail.Statement(session, noon, &audit.Statement{Kind: audit.StatementQuery, Text: []byte("SELECT 1")}); err != nil {
		t.Fatal(err)
	}
	trail.Close()
	list := records(t, file)
	if got, want := eventsOf(list), "trail_opened statement"; got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
	if r := list[1]; r.Statement != "SELECT 1" || r.Session != session || !r.Time.Equal(noon) {
		t.Errorf("got %+v", r)
	}
}
