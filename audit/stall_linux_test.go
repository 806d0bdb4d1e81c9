package audit_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/testdisk"
)

// soon fails the test when f takes long: it was held up by the disk.
func soon(t *testing.T, what string, f func()) {
	t.Helper()
	began := time.Now()
	f()
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("%s took %v", what, took)
	}
}

// While the trail's disk is frozen, the program lives, sessions go on for as long as the spool has room, ends cost
// nobody any time, and what must not begin without a record does not begin. After the thaw everything is in the trail.
func TestFrozenDisk(t *testing.T) {
	t.Parallel()
	disk := testdisk.New(t)
	file := filepath.Join(disk.Folder, "trail.jsonl")
	trail, err := audit.Open(file, audit.Options{Spool: 1})
	if err != nil {
		t.Fatal(err)
	}
	appendAll(t, trail, start("alice"))
	disk.Freeze()
	told := 0
	soon(t, "what sessions ask for, and the runtime", func() {
		for ; told < 1000; told++ {
			if err := say(trail, session, fmt.Sprint(told)); err != nil {
				t.Fatal(err)
			}
		}
		runtime.GC() // stops the world
	})
	soon(t, "the ends of 500 sessions", func() {
		for i := range 500 {
			appendAll(t, trail, ended(fmt.Sprint("ended-", i)))
		}
	})
	if err := trail.Append(start("bob")); !errors.Is(err, audit.ErrStalled) {
		t.Errorf("a session begins: %v, want ErrStalled", err)
	}
	soon(t, "refusing what may not begin, once the disk is known to stall", func() {
		if err := trail.Append(start("bob")); !errors.Is(err, audit.ErrStalled) {
			t.Errorf("a session begins: %v, want ErrStalled", err)
		}
		if err := trail.Reopen(); !errors.Is(err, audit.ErrStalled) {
			t.Errorf("Reopen: %v, want ErrStalled", err)
		}
	})
	if s := trail.Status(); s.Stalled == 0 || s.Queued == 0 || s.Spooled < 1000*256 {
		t.Errorf("got %+v", s)
	}
	full, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(100*time.Millisecond, func() { cancel(errors.New("the grant has ended")) })
	soon(t, "ending a session that waits for room in the spool", func() {
		for ; err == nil && told < 100_000; told++ {
			err = trail.Statement(full, &audit.Statement{Session: session, At: noon, Kind: audit.StatementQuery, Text: []byte(fmt.Sprint(told))})
		}
		told--
	})
	if err == nil || err.Error() != "writing to trail "+file+": the grant has ended" {
		t.Errorf("got %v after %d statements", err, told)
	}
	appendAll(t, trail, ended(session))
	disk.Thaw()
	if err := trail.Close(); err != nil {
		t.Fatal(err)
	}
	if got := statements(t, file)[session]; len(got) != told || got[0] != "0" || got[told-1] != fmt.Sprint(told-1) {
		t.Errorf("told of %d statements, the trail has %d", told, len(got))
	}
	list := records(t, file)
	last := map[string]audit.Event{}
	for _, r := range list {
		if r.User == "bob" {
			t.Errorf("what did not begin is in the trail: %+v", r)
		}
		last[r.Session] = r.Event
	}
	if last[session] != audit.SessionEnd || last["ended-0"] != audit.SessionEnd || last["ended-499"] != audit.SessionEnd {
		t.Errorf("the trail lacks ends: %v", last[session])
	}
}

// A process that is killed while its disk is frozen loses nothing that it was told is recorded.
func TestKilledWhileTheDiskIsFrozen(t *testing.T) {
	t.Parallel()
	disk := testdisk.New(t)
	file := filepath.Join(disk.Folder, "trail.jsonl")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command(exe)
	child.Env = append(os.Environ(), childFile+"="+file+"|s")
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	told := map[string]int{}
	lines := bufio.NewScanner(out)
	for n := 0; lines.Scan(); n++ {
		name, text, _ := strings.Cut(lines.Text(), " ")
		if text != fmt.Sprint(told[name]) {
			t.Errorf("child: %s", lines.Text())
		}
		told[name]++
		switch n {
		case 200:
			disk.Freeze()
		case 400:
			child.Process.Signal(syscall.SIGKILL)
			time.AfterFunc(time.Second, disk.Thaw) // its writer dies only then
		}
	}
	child.Wait()
	open(t, file).Close()
	got := statements(t, file)
	for name, n := range told {
		if len(got[name]) < n {
			t.Errorf("%s was told of %d statements, the trail has %d", name, n, len(got[name]))
		}
	}
}

// What a process has recorded of the ends of sessions while its disk was frozen outlives it as well, once and in order.
func TestEndsOutliveAFrozenDisk(t *testing.T) {
	t.Parallel()
	disk := testdisk.New(t)
	file := filepath.Join(disk.Folder, "trail.jsonl")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command(exe)
	child.Env = append(os.Environ(), childFile+"="+file+"|"+ending)
	in, inErr := child.StdinPipe()
	out, outErr := child.StdoutPipe()
	if err := errors.Join(inErr, outErr, child.Start()); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "open" {
		t.Fatalf("child: %s", lines.Text())
	}
	disk.Freeze()
	fmt.Fprintln(in)
	for i := range ends {
		if !lines.Scan() || lines.Text() != fmt.Sprint(i, " <nil>") {
			t.Fatalf("child: %s", lines.Text())
		}
	}
	child.Process.Signal(syscall.SIGKILL)
	disk.Thaw() // its writer dies only then
	child.Wait()
	open(t, file).Close()
	var want, got []string
	for i := range ends {
		want = append(want, fmt.Sprint("ended-", i))
	}
	for _, r := range records(t, file) {
		if r.Event == audit.SessionEnd {
			got = append(got, r.Session)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}
