package audit_test

import (
	"compress/gzip"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hourgate/hourgate/audit"
)

// Whoever reads along gets each record once, in order, across rotations, from any number on.
func TestFollow(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "trail.jsonl")
	trail := openWith(t, file, audit.Blind(audit.Options{Spool: 1}))
	const total = 300
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	results := make(chan string)
	for _, from := range []uint64{0, 1, 150} {
		go func() {
			next := max(from, 1)
			var last audit.Record
			for r, err := range audit.Follow(ctx, file, from) {
				if err != nil || r.Seq != next {
					results <- fmt.Sprintf("from %d: got record %d, %v; want %d", from, r.Seq, err, next)
					return
				}
				next++
				if last = r; r.User == "the last" {
					break
				}
			}
			results <- map[bool]string{false: "got to no end"}[last.User == "the last"]
		}()
	}
	for i := range total {
		appendAll(t, trail, start(fmt.Sprint(i)))
		if i%50 == 49 {
			if err := os.Rename(file, fmt.Sprint(file, ".", i)); err != nil {
				t.Fatal(err)
			}
			if err := trail.Reopen(); err != nil {
				t.Fatal(err)
			}
		}
	}
	appendAll(t, trail, start("the last"))
	for range 3 {
		if problem := <-results; problem != "" {
			t.Error(problem)
		}
	}
}

// One who reads along learns that files were taken away before they were read.
func TestFollowMissesFiles(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "trail.jsonl")
	trail := openWith(t, file, audit.Blind(audit.Options{Spool: 1}))
	appendAll(t, trail, start("alice"))
	var err error
	for r, problem := range audit.Follow(t.Context(), file, 1) {
		if err = problem; err != nil {
			break
		}
		if r.Event == audit.SessionStart {
			for range 2 {
				if err := os.Remove(file); err != nil {
					t.Fatal(err)
				}
				if err := trail.Reopen(); err != nil {
					t.Fatal(err)
				}
				appendAll(t, trail, start("bob"))
			}
		}
	}
	if err == nil || !strings.Contains(err.Error(), "records 3 to 4 are in none of the files") {
		t.Errorf("got %v", err)
	}
}

func TestFiles(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "trail.jsonl")
	trail := openWith(t, file, audit.Blind(audit.Options{Spool: 1}))
	want := []string{file + "-20261124", file + ".2.gz", file + ".1", file}
	for _, name := range want[:3] {
		if err := os.Rename(file, name); err != nil {
			t.Fatal(err)
		}
		if err := trail.Reopen(); err != nil {
			t.Fatal(err)
		}
	}
	plain := contents(t, want[1])
	f, err := os.Create(want[1])
	if err != nil {
		t.Fatal(err)
	}
	w := gzip.NewWriter(f)
	w.Write(plain)
	w.Close()
	f.Close()
	for _, other := range []string{".torn-7", ".cli", ".txt"} {
		if err := os.WriteFile(file+other, []byte("something\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := audit.Files(file)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	if n, err := audit.LastSeq(file); err != nil || n != 4 {
		t.Errorf("LastSeq: got %d, %v", n, err)
	}
}

func TestJoin(t *testing.T) {
	t.Parallel()
	var j audit.Joiner
	begin := audit.Record{
		Event: audit.SessionStart, Subject: audit.Subject{Session: "s", User: "alice", Integration: "orders", Database: "shop", RemoteAddr: "::1"},
		Right: audit.Right{Grant: "inc-1", Access: "READ_ONLY", Reason: "INC-1", Until: noon},
	}
	asked := audit.Record{Event: audit.SessionStatement, Subject: audit.Subject{Session: "s"}, Asked: audit.Asked{
		Statement: "SELECT query_to_xml($1)", Parameters: []audit.Parameter{{Text: "SELECT * FROM Guarded"}},
	}}
	end := audit.Record{Event: audit.SessionEnd, Subject: audit.Subject{Session: "s"}, Outcome: audit.Outcome{Cause: "disconnect"}}
	after := audit.Record{Event: audit.SessionEnd, Subject: audit.Subject{Session: "s"}}
	for _, r := range []*audit.Record{&begin, &asked, &end, &after} {
		j.Join(r)
	}
	if asked.User != "alice" || asked.Integration != "orders" || asked.Grant != "inc-1" || !asked.Until.Equal(noon) || end.Reason != "INC-1" || after.User != "" {
		t.Errorf("got %+v, %+v, %+v", asked, end, after)
	}
	for _, f := range []audit.Filter{
		{},
		{User: "alice"},
		{Integration: "orders"},
		{Grant: "inc-1"},
		{Session: "s"},
		{Text: "from guarded"},
		{Text: "QUERY_TO"},
		{Event: audit.SessionStatement},
	} {
		if !f.Match(&asked) {
			t.Errorf("%+v does not match", f)
		}
	}
	for _, f := range []audit.Filter{
		{User: "bob"}, {Integration: "x"}, {Grant: "x"}, {Session: "x"}, {Role: "x"}, {Text: "x y"}, {Event: audit.SessionEnd}, {Before: noon.AddDate(-3000, 0, 0)}, {Since: noon},
	} {
		if f.Match(&asked) {
			t.Errorf("%+v matches", f)
		}
	}
}
