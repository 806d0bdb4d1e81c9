package audit_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/eventually"
)

func say(trail *audit.Trail, session, text string) error {
	return trail.Statement(context.Background(), &audit.Statement{Session: session, At: noon, Kind: audit.StatementQuery, Text: []byte(text)})
}

// statements reads whole trails and returns what was asked, by session, in order.
func statements(t testing.TB, files ...string) map[string][]string {
	t.Helper()
	got := map[string][]string{}
	for _, r := range records(t, files...) {
		if r.Event == audit.SessionStatement {
			got[r.Session] = append(got[r.Session], strings.TrimRight(r.Statement, "."))
		}
	}
	return got
}

// Many sessions go round a small spool many times, through rotations, with records of other kinds between.
func TestConcurrentStatements(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "trail.jsonl")
	trail := open(t, file)
	const sessions, each = 8, 400
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait) // before the trail is closed, whatever fails
	for s := range sessions {
		wg.Go(func() {
			name := fmt.Sprint("s", s)
			for i := range each {
				if err := say(trail, name, fmt.Sprint(i)+strings.Repeat(".", rand.IntN(2000))); err != nil {
					t.Error(err)
				}
			}
			if err := trail.Append(audit.Record{Event: audit.SessionEnd, Subject: audit.Subject{Session: name}}); err != nil {
				t.Error(err)
			}
		})
	}
	files := []string{}
	for i := range 3 {
		files = append(files, fmt.Sprint(file, ".", i))
		if err := os.Rename(file, files[i]); err != nil {
			t.Fatal(err)
		}
		eventually.True(t, "the trail has a new file", func() bool { return trail.Reopen() == nil }) // the machine's disk may be busy
	}
	wg.Wait()
	files = append(files, file)
	got := map[string]int{}
	for _, r := range records(t, files...) {
		switch r.Event {
		case audit.SessionStatement:
			if want := fmt.Sprint(got[r.Session]); strings.TrimRight(r.Statement, ".") != want {
				t.Fatalf("%s: got %q, want %s", r.Session, r.Statement, want)
			}
			got[r.Session]++
		case audit.SessionEnd:
			if got[r.Session] != each {
				t.Errorf("%s ends after %d statements, want %d", r.Session, got[r.Session], each)
			}
		}
	}
}

// The longest statements, all kinds, and what does not fit.
func TestStatementLimits(t *testing.T) {
	t.Parallel()
	for _, sync := range []bool{false, true} {
		file := filepath.Join(t.TempDir(), "trail.jsonl")
		trail, err := audit.Open(file, audit.Options{Sync: sync, Spool: 1})
		if err != nil {
			t.Fatal(err)
		}
		long, name := []byte(strings.Repeat("\n", audit.MaxStatementText)), []byte(strings.Repeat("n", audit.MaxStatementName))
		good := []audit.Statement{
			{Kind: audit.StatementParse, Text: long, Name: name, Portal: name, Length: 1 << 40},
			{Kind: audit.StatementBind, Name: []byte("s"), Portal: []byte("p")},
			{Kind: audit.StatementFunctionCall, Function: 1598},
			{Kind: audit.StatementCopyData, Length: 12},
		}
		for i := range 3 * len(good) {
			s := good[i%len(good)]
			s.Session, s.User, s.Grant, s.At = strings.Repeat("s", 255), strings.Repeat("u", 255), strings.Repeat("g", 255), noon
			if err := trail.Statement(t.Context(), &s); err != nil {
				t.Fatal(err)
			}
		}
		for i, s := range []audit.Statement{
			{},
			{Kind: "lunch"},
			{Kind: audit.StatementQuery, Text: append(long, 'x')},
			{Kind: audit.StatementParse, Name: append(name, 'x')},
			{Kind: audit.StatementBind, Portal: append(name, 'x')},
			{Kind: audit.StatementQuery, Length: -1},
			{Kind: audit.StatementQuery, Session: strings.Repeat("s", 256)},
			{Kind: audit.StatementQuery, User: strings.Repeat("u", 256)},
			{Kind: audit.StatementQuery, Grant: strings.Repeat("g", 256)},
		} {
			if err := trail.Statement(t.Context(), &s); err == nil {
				t.Errorf("bad statement %d: got no error", i)
			}
		}
		if err := trail.Append(audit.Record{Event: audit.SessionStatement}); err == nil {
			t.Error("a statement through Append: got no error")
		}
		trail.Close()
		if err := trail.Statement(t.Context(), &good[1]); !errors.Is(err, audit.ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
		list := records(t, file)[1:]
		if list = list[:len(list)-1]; len(list) != 12 || list[0].Statement != string(long) || list[0].StatementBytes != 1<<40 || list[0].Portal != string(name) ||
			list[5].Prepared != "s" || list[6].FunctionOID != 1598 || list[7].StatementBytes != 12 {
			t.Errorf("got %d records", len(list))
		}
		if _, err := os.Stat(file + ".spool"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("Close left a spool: %v", err)
		}
	}
}

func TestStatementsGetIntoTheTrailByThemselves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "trail.jsonl")
		trail, err := audit.Open(file, audit.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer trail.Close()
		for _, text := range []string{"a", "b"} {
			if err := say(trail, session, text); err != nil {
				t.Fatal(err)
			}
			time.Sleep(200 * time.Millisecond)
			synctest.Wait()
			if got := statements(t, file)[session]; got[len(got)-1] != text {
				t.Errorf("got %q, want %s at the end", got, text)
			}
		}
		info, err := os.Stat(file + ".spool")
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("got %v, %v", info, err)
		}
	})
}

// Sessions that go on while the trail is closed are told; what they were told is true.
func TestCloseWhileStatementsCome(t *testing.T) {
	t.Parallel()
	for range 20 {
		file := filepath.Join(t.TempDir(), "trail.jsonl")
		trail := open(t, file)
		var wg sync.WaitGroup
		var told [4]int
		for s := range told {
			wg.Go(func() {
				for say(trail, fmt.Sprint(s), "x") == nil {
					told[s]++
				}
			})
		}
		if err := trail.Append(start("alice")); err != nil {
			t.Fatal(err)
		}
		if err := trail.Close(); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		got := statements(t, file)
		for s, n := range told {
			if len(got[fmt.Sprint(s)]) != n {
				t.Errorf("session %d was told of %d statements, the trail has %d", s, n, len(got[fmt.Sprint(s)]))
			}
		}
	}
}

// With a full disk, what is in the spool is kept, nothing new is taken once the writer knows, and all goes on after.
func TestFullDiskAndStatements(t *testing.T) {
	for _, closed := range []bool{false, true} {
		file := filepath.Join(t.TempDir(), "trail.jsonl")
		trail := open(t, file)
		lift := limitFiles(t, len(contents(t, file))+10)
		told := 0
		for ; told < 100_000; told++ {
			if err := say(trail, session, fmt.Sprint(told)); err != nil {
				if !errors.Is(err, syscall.EFBIG) {
					t.Fatalf("got %v, want EFBIG", err)
				}
				break
			}
		}
		if told == 100_000 {
			t.Fatal("a full spool takes more")
		}
		for range 3 {
			if err := say(trail, session, "refused"); !errors.Is(err, syscall.EFBIG) {
				t.Fatalf("got %v, want EFBIG", err)
			}
		}
		if err := trail.Append(start("bob")); !errors.Is(err, syscall.EFBIG) {
			t.Fatalf("got %v, want EFBIG", err)
		}
		if closed {
			if err := trail.Close(); !errors.Is(err, syscall.EFBIG) {
				t.Fatalf("Close: got %v, want EFBIG", err)
			}
			lift()
			trail = open(t, file)
		} else {
			lift()
		}
		if err := say(trail, session, fmt.Sprint(told)); err != nil {
			t.Fatal(err)
		}
		trail.Close()
		got := statements(t, file)[session]
		if len(got) != told+1 || got[told] != fmt.Sprint(told) || got[0] != "0" {
			t.Errorf("closed %v: told of %d, got %d", closed, told+1, len(got))
		}
	}
}
