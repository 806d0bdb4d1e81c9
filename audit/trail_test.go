package audit_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hourgate/hourgate/audit"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 123456789, time.UTC)

func open(t testing.TB, file string) *audit.Trail {
	t.Helper()
	return openWith(t, file, audit.Options{Spool: 1})
}

func openWith(t testing.TB, file string, opts audit.Options) *audit.Trail {
	t.Helper()
	trail, err := audit.Open(file, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { trail.Close() })
	return trail
}

func start(user string) audit.Record {
	return audit.Record{Event: audit.SessionStart, Subject: audit.Subject{User: user}}
}

func appendAll(t testing.TB, trail *audit.Trail, records ...audit.Record) {
	t.Helper()
	for _, r := range records {
		if err := trail.Append(r); err != nil {
			t.Fatalf("appending %s: %v", r.Event, err)
		}
	}
}

func contents(t testing.TB, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// records reads whole trails, oldest first, and requires an unbroken chain.
func records(t testing.TB, files ...string) []audit.Record {
	t.Helper()
	var all bytes.Buffer
	for _, file := range files {
		all.Write(contents(t, file))
	}
	var list []audit.Record
	for r, err := range audit.All(&all) {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, r)
	}
	return list
}

func eventsOf(list []audit.Record) string {
	var names []string
	for _, r := range list {
		names = append(names, string(r.Event))
	}
	return strings.Join(names, " ")
}

func TestRoundTrip(t *testing.T) {
	file := filepath.Join(t.TempDir(), "trail.jsonl")
	trail, err := audit.Open(file, audit.Options{Deployment: "prod", Proxy: "p1"})
	if err != nil {
		t.Fatal(err)
	}
	want := audit.Record{
		Time: noon, Event: audit.RoleSettled, Gate: audit.Gate{Deployment: "other"},
		Subject: audit.Subject{
			Session: "s1", User: "alice@example.com", RemoteAddr: "10.0.0.1:4711", Application: "psql",
			Integration: "orders-prod", Database: "orders", Requested: "orders-prod/orders",
		},
		Right:   audit.Right{Grant: "inc-4211", Access: "READ_ONLY", Until: noon.Add(time.Hour), Reason: "INC-4211"},
		Outcome: audit.Outcome{Cause: "grant_expired", Code: "57P01"},
		Means:   audit.Means{Role: "hg_x", RoleOID: 1<<32 - 1, TLSClient: "TLS 1.3", TLSUpstream: "TLS 1.3, verified"},
		Traffic: audit.Traffic{BytesFromClient: 1, BytesFromUpstream: 1 << 62, Duration: 0.25, SessionsTerminated: 2},
		Remains: audit.Remains{
			Dropped: []string{"table a", "table b"}, Quarantined: []string{"function f()"}, HeldBy: []string{"view v"},
		},
		Error:  "none",
		Detail: map[string]string{"dropped": "a, b"},
	}
	appendAll(t, trail, want)
	if err := trail.Close(); err != nil {
		t.Fatal(err)
	}
	got := records(t, file)
	if eventsOf(got) != "trail_opened role_settled trail_closed" {
		t.Fatalf("got events %q", eventsOf(got))
	}
	want.Proxy = "p1"
	if diff := cmp.Diff(want, got[1], cmpopts.IgnoreFields(audit.Record{}, "Link")); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
	if got[0].Seq != 1 || got[0].Prev != strings.Repeat("0", 64) || got[0].Deployment != "prod" {
		t.Errorf("got first record %+v", got[0])
	}
	if age := time.Since(got[0].Time); age < 0 || age > time.Minute || got[0].Time.Location() != time.UTC {
		t.Errorf("got time %v", got[0].Time)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("got mode %v, want 0600", info.Mode())
	}
}

// The format is a promise to whoever has written a reader for it.
func TestFormat(t *testing.T) {
	file := filepath.Join(t.TempDir(), "trail.jsonl")
	trail := open(t, file)
	r := start("alice <a&b>")
	r.Time = noon.In(time.FixedZone("", 3600))
	appendAll(t, trail, r)
	line := strings.SplitAfter(string(contents(t, file)), "\n")[1]
	got := line[:len(`{"seq":2,"prev":"`)] + line[len(`{"seq":2,"prev":"`)+64:]
	got = got[:strings.Index(got, `"crc":"`)]
	want := `{"seq":2,"prev":"","time":"2026-11-22T12:00:00.123456789Z","event":"session_start","user":"alice <a&b>",`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestRefusedRecords(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "trail.jsonl")
	trail := open(t, file)
	before := contents(t, file)
	for name, r := range map[string]audit.Record{
		"no event":      {},
		"unknown event": {Event: "lunch"},
		"too long":      {Event: audit.SessionStart, Subject: audit.Subject{User: strings.Repeat("x", audit.MaxRecord)}},
		"year 10000":    {Event: audit.SessionStart, Right: audit.Right{Until: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}},
	} {
		if err := trail.Append(r); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
	if !bytes.Equal(before, contents(t, file)) {
		t.Error("a refused record left something in the file")
	}
	appendAll(t, trail, start("alice"))
	trail.Close()
	if err := trail.Append(start("bob")); !errors.Is(err, audit.ErrClosed) {
		t.Errorf("after Close: got %v, want ErrClosed", err)
	}
	if err := trail.Reopen(); !errors.Is(err, audit.ErrClosed) {
		t.Errorf("after Close: got %v, want ErrClosed", err)
	}
	if got, want := eventsOf(records(t, file)), "trail_opened session_start trail_closed"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestHostileStringsStayInTheirLine(t *testing.T) {
	tests := []struct{ sent, want string }{ // want "" for the same
		{sent: "eve\n{\"seq\":3,\"event\":\"session_end\"}\n"},
		{sent: `eve","event":"role_settled","user":"alice`},
		{sent: "\r\x00\x1b[2K\u2028\u2029\x7f"},
		{sent: "\xff\xfe\xc3(", want: "\ufffd\ufffd\ufffd("},
		{sent: `\u000a\`},
		{sent: `x","crc":"00000000"}`},
	}
	file := filepath.Join(t.TempDir(), "trail.jsonl")
	trail := open(t, file)
	for _, tt := range tests {
		appendAll(t, trail, audit.Record{
			Event: audit.SessionStart, Subject: audit.Subject{User: tt.sent, Application: tt.sent}, Detail: map[string]string{tt.sent: tt.sent},
		})
	}
	if got, want := bytes.Count(contents(t, file), []byte("\n")), 1+len(tests); got != want {
		t.Errorf("got %d lines, want %d", got, want)
	}
	for i, r := range records(t, file)[1:] {
		want := tests[i].want
		if want == "" {
			want = tests[i].sent
		}
		if r.User != want || r.Application != want || r.Detail[want] != want {
			t.Errorf("%q: got %+v", tests[i].sent, r)
		}
	}
}

func TestGoesOnAfterReopening(t *testing.T) {
	file := filepath.Join(t.TempDir(), "trail.jsonl")
	for range 3 {
		trail := open(t, file)
		appendAll(t, trail, start(strings.Repeat("long ", 50_000))) // the last line is longer than one read
		trail.Close()
	}
	s, err := audit.Verify(bytes.NewReader(contents(t, file)))
	if err != nil {
		t.Fatal(err)
	}
	if s.Records != 9 || s.FirstSeq != 1 || s.LastSeq != 9 || s.Recovered != 0 {
		t.Errorf("got %+v", s)
	}
}

func TestSecondWriterIsRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "trail.jsonl")
	first := open(t, file)
	if _, err := audit.Open(file, audit.Options{}); !errors.Is(err, audit.ErrLocked) {
		t.Errorf("got %v, want ErrLocked", err)
	}
	first.Close()
	open(t, file)
}

func TestForeignFilesAreRefusedAndUntouched(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"text": "hello\n", "json": "{}\n", "empty line": "\n", "old and new": "hello\ntorn"} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := audit.Open(file, audit.Options{}); err == nil {
			t.Errorf("%s: got no error", name)
		}
		if got := string(contents(t, file)); got != text {
			t.Errorf("%s: file was changed to %q", name, got)
		}
	}
	if _, err := audit.Open(dir, audit.Options{}); err == nil {
		t.Error("a folder: got no error")
	}
	if _, err := audit.Open(os.DevNull, audit.Options{}); err == nil {
		t.Error("a device: got no error")
	}
}

func TestConcurrentAppends(t *testing.T) {
	file := filepath.Join(t.TempDir(), "trail.jsonl")
	trail := open(t, file)
	const writers, each = 16, 50
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if err := trail.Append(audit.Record{Event: audit.SessionStart, Subject: audit.Subject{User: fmt.Sprint(w)}, Means: audit.Means{RoleOID: uint32(i + 1)}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	list := records(t, file)
	if len(list) != 1+writers*each {
		t.Fatalf("got %d records, want %d", len(list), 1+writers*each)
	}
	last := map[string]uint32{}
	for _, r := range list[1:] {
		if r.RoleOID != last[r.User]+1 {
			t.Fatalf("writer %s: record %d after %d", r.User, r.RoleOID, last[r.User])
		}
		last[r.User] = r.RoleOID
	}
}

// A crash may leave any number of bytes of the last record.
func TestCrashAtEveryByte(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	whole := filepath.Join(dir, "whole")
	trail := open(t, whole)
	appendAll(t, trail, start("alice"), audit.Record{Event: audit.RoleSettled, Subject: audit.Subject{User: "alice"}, Outcome: audit.Outcome{Cause: "disconnect"}})
	all := contents(t, whole)
	last := bytes.LastIndexByte(all[:len(all)-1], '\n') + 1

	for size := last; size <= len(all); size++ {
		file := filepath.Join(dir, fmt.Sprintf("cut-%d", size))
		if err := os.WriteFile(file, all[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		trail := open(t, file)
		appendAll(t, trail, start("bob"))
		trail.Close()
		list := records(t, file)

		// The second trail_recovered is about the spool, which is missing.
		want := "trail_opened session_start trail_recovered trail_opened trail_recovered session_start trail_closed"
		switch size {
		case last:
			want = "trail_opened session_start trail_opened trail_recovered session_start trail_closed"
		case len(all):
			want = "trail_opened session_start role_settled trail_opened trail_recovered session_start trail_closed"
		}
		if got := eventsOf(list); got != want {
			t.Fatalf("cut at byte %d: got %q, want %q", size-last, got, want)
		}
		if list[2].Event != audit.TrailRecovered {
			continue
		}
		side := filepath.Join(dir, list[2].Detail["torn_file"])
		if got, want := string(contents(t, side)), string(all[last:size])+"\n"; got != want {
			t.Fatalf("cut at byte %d: got %q set aside, want %q", size-last, got, want)
		}
	}
}

func TestCrashInTheVeryFirstLine(t *testing.T) {
	file := filepath.Join(t.TempDir(), "trail.jsonl")
	if err := os.WriteFile(file, []byte(`{"seq":1,"pr`), 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, file)
	if got, want := eventsOf(records(t, file)), "trail_recovered trail_opened"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A crash while recovering: the torn line is already set aside, and the recovery's own record is torn too.
func TestCrashWhileRecovering(t *testing.T) {
	file := filepath.Join(t.TempDir(), "trail.jsonl")
	open(t, file).Close()
	whole := contents(t, file)
	for _, step := range []string{"torn one", "", "torn two"} {
		if err := os.WriteFile(file, append(bytes.Clone(whole), step...), 0o600); err != nil {
			t.Fatal(err)
		}
		open(t, file).Close()
		list := records(t, file)
		if got, want := eventsOf(list), "trail_opened trail_closed trail_recovered trail_opened trail_closed"; got != want {
			t.Fatalf("after %q: got %q, want %q", step, got, want)
		}
	}
	if got, want := string(contents(t, file+".torn-3")), "torn one\ntorn two\n"; got != want {
		t.Errorf("got %q set aside, want %q", got, want)
	}
}

func TestRotation(t *testing.T) {
	dir := t.TempDir()
	file, old := filepath.Join(dir, "trail.jsonl"), filepath.Join(dir, "trail.jsonl.1")
	trail := openWith(t, file, audit.Blind(audit.Options{Spool: 1}))
	appendAll(t, trail, start("alice"))
	if err := trail.Reopen(); err != nil { // nothing was rotated: nothing happens
		t.Fatal(err)
	}
	if err := os.Rename(file, old); err != nil {
		t.Fatal(err)
	}
	appendAll(t, trail, start("bob")) // until it is told, it writes to the old file
	if err := trail.Reopen(); err != nil {
		t.Fatal(err)
	}
	appendAll(t, trail, start("carol"))

	if got, want := eventsOf(records(t, old)), "trail_opened session_start session_start"; got != want {
		t.Errorf("old file: got %q, want %q", got, want)
	}
	if got, want := eventsOf(records(t, file)), "trail_opened session_start"; got != want {
		t.Errorf("new file: got %q, want %q", got, want)
	}
	list := records(t, old, file) // one chain over both
	if list[4].Seq != 5 || list[4].User != "carol" {
		t.Errorf("got last record %+v", list[4])
	}

	other := open(t, old) // the old file's lock is free
	other.Close()
	trail.Close()
	open(t, file) // a new process goes on in a file that does not start at 1
}

func TestRotationThatFails(t *testing.T) {
	dir := t.TempDir()
	file, old := filepath.Join(dir, "trail.jsonl"), filepath.Join(dir, "trail.jsonl.1")
	trail := openWith(t, file, audit.Blind(audit.Options{Spool: 1}))
	if err := os.Rename(file, old); err != nil {
		t.Fatal(err)
	}
	if _, err := audit.Open(file, audit.Options{}); !errors.Is(err, audit.ErrLocked) { // the spool is still ours
		t.Errorf("another proxy took the path: got %v, want ErrLocked", err)
	}
	foreign, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(foreign.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if err := trail.Reopen(); !errors.Is(err, audit.ErrLocked) {
		t.Errorf("got %v, want ErrLocked", err)
	}
	foreign.Close()
	if err := os.WriteFile(file, []byte("something"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := trail.Reopen(); err == nil {
		t.Error("another file at the path: got no error")
	}
	appendAll(t, trail, start("alice"))
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := trail.Reopen(); err != nil {
		t.Fatal(err)
	}
	if got, want := eventsOf(records(t, old, file)), "trail_opened session_start trail_opened"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestSync(t *testing.T) {
	file := filepath.Join(t.TempDir(), "trail.jsonl")
	trail, err := audit.Open(file, audit.Options{Sync: true})
	if err != nil {
		t.Fatal(err)
	}
	appendAll(t, trail, start("alice"))
	trail.Close()
	if got, want := eventsOf(records(t, file)), "trail_opened session_start trail_closed"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func BenchmarkAppend(b *testing.B) {
	record := audit.Record{
		Event: audit.SessionStart,
		Subject: audit.Subject{
			Session: "01JD8Z6W3V7Q", User: "alice@example.com", RemoteAddr: "10.0.0.1:47110", Application: "psql",
			Integration: "orders-prod", Database: "orders",
		},
		Right: audit.Right{Grant: "inc-4211", Access: "READ_ONLY", Until: noon},
		Means: audit.Means{Role: "hg_prod_inc4211_3f9c2a77", RoleOID: 16421, TLSClient: "TLS 1.3", TLSUpstream: "TLS 1.3, verified"},
	}
	for _, sync := range []bool{false, true} {
		b.Run(fmt.Sprintf("sync=%v", sync), func(b *testing.B) {
			trail, err := audit.Open(filepath.Join(b.TempDir(), "trail.jsonl"), audit.Options{Sync: sync})
			if err != nil {
				b.Fatal(err)
			}
			defer trail.Close()
			b.ReportAllocs()
			for b.Loop() {
				if err := trail.Append(record); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkVerify(b *testing.B) {
	file := filepath.Join(b.TempDir(), "trail.jsonl")
	trail := open(b, file)
	for range 1000 {
		appendAll(b, trail, start("alice@example.com"))
	}
	all := contents(b, file)
	b.SetBytes(int64(len(all)))
	for b.Loop() {
		if _, err := audit.Verify(bytes.NewReader(all)); err != nil {
			b.Fatal(err)
		}
	}
}
