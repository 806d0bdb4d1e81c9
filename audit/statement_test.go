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
	err := trail.Statement(t.Context(), &audit.Statement{
		Session: session, User: "alice@example.com", Grant: "inc-1", At: noon, Kind: audit.StatementQuery, Text: []byte("SELECT 1"),
	})
	if err != nil {
		t.Fatal(err)
	}
	trail.Close()
	list := records(t, file)
	if got, want := eventsOf(list), "trail_opened statement trail_closed"; got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
	if r := list[1]; r.Statement != "SELECT 1" || r.Session != session || r.User != "alice@example.com" || r.Grant != "inc-1" || !r.Time.Equal(noon) {
		t.Errorf("got %+v", r)
	}
}
