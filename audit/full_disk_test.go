package audit_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hourgate/hourgate/audit"
)

// limitFiles makes the kernel refuse to let any file of this process grow past size: a write that crosses it is cut
// short, the next one fails with EFBIG. It is a full disk that needs no disk. Tests that use it must not run in parallel.
func limitFiles(t *testing.T, size int) (lift func()) {
	t.Helper()
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	set := func(limit syscall.Rlimit) {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { set(before) })
	set(syscall.Rlimit{Cur: uint64(size), Max: before.Max})
	return func() { set(before) }
}

func TestFullDisk(t *testing.T) {
	for _, room := range []int{0, 1, 100} { // bytes of the record that still fit
		file := filepath.Join(t.TempDir(), "trail.jsonl")
		trail := open(t, file)
		appendAll(t, trail, start("alice"))
		before := contents(t, file)

		lift := limitFiles(t, len(before)+room)
		for range 3 {
			if err := trail.Append(start("bob")); !errors.Is(err, syscall.EFBIG) {
				t.Fatalf("room %d: got %v, want EFBIG", room, err)
			}
			if got := contents(t, file); !bytes.Equal(got, before) {
				t.Fatalf("room %d: a failed write left %q", room, got[len(before):])
			}
		}
		lift()

		appendAll(t, trail, start("carol"))
		list := records(t, file)
		if got := list[len(list)-1]; got.User != "carol" || got.Seq != 3 {
			t.Errorf("room %d: got last record %+v", room, got)
		}
	}
}

func TestFullDiskAtOpen(t *testing.T) {
	file := filepath.Join(t.TempDir(), "trail.jsonl")
	lift := limitFiles(t, 10)
	if _, err := audit.Open(file, audit.Options{}); !errors.Is(err, syscall.EFBIG) {
		t.Fatalf("got %v, want EFBIG", err)
	}
	lift()
	open(t, file)
	if got, want := eventsOf(records(t, file)), "trail_opened"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestFullDiskAtRotation(t *testing.T) {
	dir := t.TempDir()
	file, old := filepath.Join(dir, "trail.jsonl"), filepath.Join(dir, "trail.jsonl.1")
	trail := openWith(t, file, audit.Blind(audit.Options{Spool: 1}))
	if err := os.Rename(file, old); err != nil {
		t.Fatal(err)
	}
	lift := limitFiles(t, 10)
	if err := trail.Reopen(); !errors.Is(err, syscall.EFBIG) {
		t.Fatalf("got %v, want EFBIG", err)
	}
	lift()
	appendAll(t, trail, start("alice"))
	if err := trail.Reopen(); err != nil {
		t.Fatal(err)
	}
	if got, want := eventsOf(records(t, old, file)), "trail_opened session_start trail_opened"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A tool that empties the file in place, with the disk full at the same time, must not make zeros of the rollback.
func TestFullDiskAndCopyTruncate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "trail.jsonl")
	trail := open(t, file)
	appendAll(t, trail, start(strings.Repeat("a", 1000)))
	if err := os.Truncate(file, 0); err != nil {
		t.Fatal(err)
	}
	lift := limitFiles(t, 20)
	if err := trail.Append(start("bob")); !errors.Is(err, syscall.EFBIG) {
		t.Fatalf("got %v, want EFBIG", err)
	}
	lift()
	appendAll(t, trail, start("carol"))
	if list := records(t, file); len(list) != 1 || list[0].User != "carol" || list[0].Seq != 3 {
		t.Errorf("got %+v", list)
	}
}
