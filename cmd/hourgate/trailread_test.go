package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/gatetest"
)

// writeTrail makes a trail of two files with the sessions of two people.
func writeTrail(t *testing.T) (file, old string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "trail.jsonl")
	old = file + ".1"
	trail, err := audit.Open(file, audit.Options{Deployment: "test"})
	if err != nil {
		t.Fatal(err)
	}
	begin := func(session, user, grant string) {
		err := trail.Append(audit.Record{
			Event: audit.SessionStart, Subject: audit.Subject{Session: session, User: user, Integration: "orders", Database: "shop"},
			Right: audit.Right{Grant: grant, Access: "READ_ONLY", Reason: "=HYPERLINK(1)"},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	ask := func(session, user, grant, text string, values ...string) {
		s := audit.Statement{Session: session, User: user, Grant: grant, At: time.Now(), Kind: audit.StatementQuery, Text: []byte(text)}
		if len(values) > 0 {
			s.Kind, s.Text, s.Parameters = audit.StatementBind, nil, &audit.Parameters{}
			for _, v := range values {
				s.Parameters.Begin(int64(len(v)), false, 0)
				s.Parameters.Add([]byte(v), 0)
			}
		}
		if err := trail.Statement(context.Background(), &s); err != nil {
			t.Fatal(err)
		}
	}
	begin("s-alice", "alice", "inc-1")
	ask("s-alice", "alice", "inc-1", "SELECT * FROM orders\n-- \x1b[2K")
	if err := trail.Append(audit.Record{Event: audit.RoleMade}); err != nil { // so that the statement is in this file
		t.Fatal(err)
	}
	if err := os.Rename(file, old); err != nil {
		t.Fatal(err)
	}
	if err := trail.Reopen(); err != nil {
		t.Fatal(err)
	}
	begin("s-bob", "bob", "inc-2")
	ask("s-alice", "alice", "inc-1", "", "SELECT secret FROM Guarded")
	ask("s-bob", "bob", "inc-2", "SELECT 2")
	if err := trail.Append(audit.Record{Event: audit.SessionEnd, Subject: audit.Subject{Session: "s-alice"}, Outcome: audit.Outcome{Cause: "disconnect"}}); err != nil {
		t.Fatal(err)
	}
	if err := trail.Close(); err != nil {
		t.Fatal(err)
	}
	return file, old
}

func trailOutput(t *testing.T, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	if code := run(t.Context(), append([]string{"trail"}, args...), nil, &out, &errs); code != exitOK {
		t.Fatalf("%q: exit code %d, %s", args, code, errs.String())
	}
	return out.String()
}

// People find out who did what, with each statement's person, also where its session began in another file.
func TestTrailForPeople(t *testing.T) {
	t.Parallel()
	file, old := writeTrail(t)
	for _, tt := range []struct {
		args []string
		want []string // one a line of the table, in order: a part of it
	}{
		{[]string{"show", "--user", "alice", old, file}, []string{"session_start", "query SELECT * FROM orders -- \\x1b[2K", "bind $1=SELECT secret", "cause=disconnect"}},
		{[]string{"show", "--session", "s-bob", old, file}, []string{"session_start", "SELECT 2"}},
		{[]string{"show", "--grant", "inc-1", "--event", "statement", old, file}, []string{"orders", "Guarded"}},
		{[]string{"show", "--integration", "orders", "--event", "statement", old, file}, []string{"FROM orders", "Guarded", "SELECT 2"}},
		{[]string{"search", "guarded", old, file}, []string{"alice                 orders          s-alice           statement         bind $1=SELECT secret FROM Guarded"}},
		{[]string{"search", "nothing of the kind", old, file}, nil},
		{[]string{"show", "--event", "statement", "--since", "1h", "--before", "2999-01-01", old, file}, []string{"orders", "Guarded", "SELECT 2"}},
		{[]string{"show", "--before", "1h", old, file}, nil},
	} {
		lines := strings.Split(strings.TrimSuffix(trailOutput(t, tt.args...), "\n"), "\n")[1:]
		if len(lines) != len(tt.want) {
			t.Errorf("%q: got %d lines, want %d:\n%s", tt.args, len(lines), len(tt.want), strings.Join(lines, "\n"))
			continue
		}
		for i, line := range lines {
			if !strings.Contains(line, tt.want[i]) {
				t.Errorf("%q: line %d is %q, want %q in it", tt.args, i, line, tt.want[i])
			}
		}
	}
}

func TestTrailExport(t *testing.T) {
	t.Parallel()
	file, old := writeTrail(t)
	rows, err := csv.NewReader(strings.NewReader(trailOutput(t, "export", old, file))).ReadAll()
	if err != nil || len(rows) != 11 {
		t.Fatalf("got %d rows, %v", len(rows), err)
	}
	found := false
	for _, row := range rows[1:] {
		for i, name := range rows[0] {
			if name == "reason" && row[i] != "" {
				found = row[i] == "'=HYPERLINK(1)"
			}
		}
	}
	if !found {
		t.Error("a formula stays one")
	}
	lines := strings.Split(strings.TrimSpace(trailOutput(t, "export", "--format", "json", "--event", "statement", old, file)), "\n")
	for _, line := range lines {
		var r audit.Record
		if err := json.Unmarshal([]byte(line), &r); err != nil || r.User == "" || r.Integration != "orders" || r.Grant == "" {
			t.Errorf("%v: %s", err, line)
		}
	}
	if len(lines) != 3 {
		t.Errorf("got %d lines", len(lines))
	}
}

func TestTrailFollow(t *testing.T) {
	t.Parallel()
	file, _ := writeTrail(t)
	ctx, cancel := context.WithCancel(t.Context())
	var out gatetest.Buffer
	ended := make(chan int)
	go func() { ended <- run(ctx, []string{"trail", "follow", "--from", "1", file}, nil, &out, &out) }()
	eventually.True(t, "the last record is shown", func() bool { return strings.Contains(out.String(), "trail_closed") })
	cancel()
	if code := <-ended; code != exitOK || strings.Count(out.String(), "\n") != 11 {
		t.Errorf("exit code %d, output\n%s", code, out.String())
	}
}

func TestTrailMistakes(t *testing.T) {
	t.Parallel()
	file, _ := writeTrail(t)
	for _, args := range [][]string{
		{"show", "--event", "lunch", file},
		{"show", "--since", "yesterday", file},
		{"show", "--format", "xml", file},
		{"show", filepath.Join(t.TempDir(), "none")},
		{"search"},
	} {
		var out, errs bytes.Buffer
		if code := run(t.Context(), append([]string{"trail"}, args...), nil, &out, &errs); code == exitOK || errs.Len() == 0 {
			t.Errorf("%q: exit code %d, %q", args, code, errs.String())
		}
	}
}

// What became of a statement stands behind it, also where results of several sessions are mixed; an orphan stands alone.
func TestTrailShowsResults(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "trail.jsonl")
	trail, err := audit.Open(file, audit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	for i, session := range []string{"s-1", "s-2"} {
		if err := trail.Append(audit.Record{Event: audit.SessionStart, Subject: audit.Subject{Session: session, User: "user" + session[2:]}}); err != nil {
			t.Fatal(err)
		}
		for call, text := range []string{"DELETE FROM a", "SELECT 1; SELEKT"} {
			s := audit.Statement{Session: session, At: now, Kind: audit.StatementQuery, Text: []byte(session + text), Call: uint32(call + 1)}
			if err := trail.Statement(t.Context(), &s); err != nil {
				t.Fatal(err)
			}
		}
		trail.Result(&audit.Result{Session: session, At: now, Call: 1, Command: fmt.Appendf(nil, "DELETE %d", i), Rows: int64(i), Took: 1500 * time.Microsecond})
	}
	for _, session := range []string{"s-2", "s-1"} {
		trail.Result(&audit.Result{Session: session, At: now.Add(time.Second), Call: 2, Command: []byte("SELECT 1"), Rows: 1})
		trail.Result(&audit.Result{Session: session, At: now.Add(2 * time.Second), Call: 2, Command: []byte("error"), SQLState: []byte("42601")})
	}
	trail.Result(&audit.Result{Session: "s-1", At: now, Command: []byte("error"), SQLState: []byte("57P01")})
	if err := trail.Close(); err != nil {
		t.Fatal(err)
	}
	got := trailOutput(t, "show", "--since", "2026-11-25T12:00:00Z", "--before", "2026-11-25T12:00:30Z", file)
	var rows []string
	for line := range strings.Lines(got) {
		if fields := strings.Fields(line); len(fields) > 3 {
			rows = append(rows, fields[1]+" "+strings.Join(fields[3:], " "))
		}
	}
	want := []string{
		"USER SESSION EVENT WHAT",
		"user1 statement query s-1DELETE FROM a → DELETE 0 (1.5 ms)",
		"user1 statement query s-1SELECT 1; SELEKT → SELECT 1; error 42601 (2000.0 ms)",
		"user2 statement query s-2DELETE FROM a → DELETE 1 (1.5 ms)",
		"user2 statement query s-2SELECT 1; SELEKT → SELECT 1; error 42601 (2000.0 ms)",
		"user1 statement_result of the server's own accord → error 57P01",
	}
	if diff := cmp.Diff(want, rows); diff != "" {
		t.Errorf("(-want +got):\n%s\n%s", diff, got)
	}
	csvOf := trailOutput(t, "export", "--event", "statement", "--user", "user2", file)
	if !strings.Contains(csvOf, "DELETE 1") || !strings.Contains(csvOf, "42601") || strings.Count(csvOf, "\n") != 3 {
		t.Errorf("got %s", csvOf)
	}
}
