package audit_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/eventually"
)

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// find returns the records of an event with a key in their details.
func find(list []audit.Record, event audit.Event, key string) []audit.Record {
	return slices.DeleteFunc(slices.Clone(list), func(r audit.Record) bool { return r.Event != event || r.Detail[key] == "" })
}

// A trail that is removed under the gate is noticed within a second: it goes on in a new file, and what was in the old
// one is copied next to it.
func TestTrailThatIsRemoved(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "trail.jsonl")
	trail := open(t, file)
	appendAll(t, trail, start("alice"))
	if err := say(trail, session, "0"); err != nil {
		t.Fatal(err)
	}
	removed := time.Now()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	eventually.True(t, "the trail has a file again", func() bool { return exists(file) })
	if took := time.Since(removed); took > 5*time.Second {
		t.Errorf("noticed after %v", took)
	}
	if err := say(trail, session, "1"); err != nil {
		t.Fatal(err)
	}
	appendAll(t, trail, start("bob"))
	if err := trail.Close(); err != nil {
		t.Fatal(err)
	}
	copies, _ := filepath.Glob(file + ".removed-*")
	if len(copies) != 1 {
		t.Fatalf("got copies %q", copies)
	}
	list := records(t, copies[0], file) // one chain
	if got := find(list, audit.TrailOpened, "file_before"); len(got) != 1 || got[0].Detail["file_before"] != "removed" {
		t.Errorf("got %+v", got)
	}
	if got := statements(t, copies[0], file)[session]; strings.Join(got, " ") != "0 1" {
		t.Errorf("got statements %q", got)
	}
}

// One that is renamed goes on at its path, also without a signal.
func TestTrailThatIsRenamed(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "trail.jsonl")
	trail := open(t, file)
	if err := os.Rename(file, file+".1"); err != nil {
		t.Fatal(err)
	}
	eventually.True(t, "the trail has a file again", func() bool { return exists(file) })
	appendAll(t, trail, start("bob"))
	trail.Close()
	if got, want := eventsOf(records(t, file+".1", file)), "trail_opened trail_opened session_start trail_closed"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Where something else lies at its path, nothing can be recorded until somebody has cleared the place.
func TestTrailThatIsReplaced(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "trail.jsonl")
	trail := open(t, file)
	if err := os.WriteFile(filepath.Join(dir, "other"), []byte("something else\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "other"), file); err != nil {
		t.Fatal(err)
	}
	eventually.True(t, "nothing can be recorded", func() bool { return trail.Append(start("alice")) != nil })
	if err := say(trail, session, "refused"); err == nil {
		t.Error("a statement was taken")
	}
	if err := os.Rename(file, filepath.Join(dir, "other")); err != nil {
		t.Fatal(err)
	}
	eventually.True(t, "the trail works again", func() bool { return trail.Append(start("bob")) == nil })
	trail.Close()
	if !slices.ContainsFunc(records(t, file), func(r audit.Record) bool { return r.User == "bob" }) {
		t.Error("the trail lacks what came after")
	}
}

// A spool that is removed, moved or cut short under the gate is an error and no signal; sessions go on with another.
func TestSpoolThatIsTakenAway(t *testing.T) {
	t.Parallel()
	take := map[string]func(link, spool string) error{
		"removed":     func(_, spool string) error { return os.Remove(spool) },
		"both":        func(link, spool string) error { return os.Remove(link) },
		"cut short":   func(link, _ string) error { return os.Truncate(link, 0) },
		"cut a bit":   func(link, _ string) error { return os.Truncate(link, 64<<10) },
		"overwritten": func(link, _ string) error { return os.WriteFile(link, []byte("something else\n"), 0o600) },
	}
	for name, f := range take {
		for _, inFolder := range []bool{false, true} {
			t.Run(fmt.Sprint(name, inFolder), func(t *testing.T) {
				t.Parallel()
				folder := t.TempDir()
				opts := audit.Options{Spool: 1}
				if inFolder {
					opts.SpoolFolder = folder
				}
				file := filepath.Join(folder, "trail.jsonl")
				trail, err := audit.Open(file, opts)
				if err != nil {
					t.Fatal(err)
				}
				defer trail.Close()
				link := file + ".spool"
				spool, err := filepath.EvalSymlinks(link)
				if err != nil {
					t.Fatal(err)
				}
				appendAll(t, trail, start("alice"))
				told := 0
				for ; told < 20; told++ {
					if err := say(trail, session, fmt.Sprint(told)); err != nil {
						t.Fatal(err)
					}
				}
				appendAll(t, trail, start("bob")) // so that the statements before it are in the trail
				if err := f(link, spool); err != nil {
					t.Fatal(err)
				}
				eventually.True(t, "there is another spool", func() bool {
					if err := say(trail, session, fmt.Sprint(told)); err != nil {
						t.Fatal(err)
					}
					told++
					now, err := filepath.EvalSymlinks(link)
					return err == nil && (now != spool || inFolder || name == "both") && size(now) > 64<<10
				})
				if err := trail.Close(); err != nil {
					t.Fatal(err)
				}
				list := records(t, file)
				if got := find(list, audit.TrailRecovered, "spool"); len(got) != 1 && (name != "both" || inFolder) {
					t.Errorf("got %+v", got)
				}
				got := statements(t, file)[session]
				if len(got) < 20 || got[19] != "19" || got[len(got)-1] != fmt.Sprint(told-1) {
					t.Errorf("told of %d statements, the trail has %d, the last is %q", told, len(got), got[len(got)-1])
				}
				if (name == "removed" || name == "both") && len(got) != told {
					t.Errorf("told of %d statements, the trail has %d", told, len(got))
				}
				if exists(link) || exists(spool) {
					t.Error("Close left a spool")
				}
			})
		}
	}
}

func size(file string) int64 {
	info, err := os.Stat(file)
	if err != nil {
		return -1
	}
	return info.Size()
}

// A spool that is gone when the next process starts is noticed, whatever of it is gone.
func TestSpoolThatIsMissing(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"spool", "link", "nothing"} {
		folder := t.TempDir()
		file := filepath.Join(folder, "trail.jsonl")
		trail := open(t, file)
		appendAll(t, trail, start("alice"))
		after := filepath.Join(folder, "after.jsonl")
		if err := os.WriteFile(after, contents(t, file), 0o600); err != nil { // a process died here
			t.Fatal(err)
		}
		switch what {
		case "spool":
			if err := os.Symlink("/dev/shm/hourgate-none.spool", after+".spool"); err != nil {
				t.Fatal(err)
			}
		case "nothing":
			trail.Close()
			if err := os.WriteFile(after, contents(t, file), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		open(t, after).Close()
		got := find(records(t, after), audit.TrailRecovered, "spool")
		if missed := len(got) == 1 && got[0].Detail["spool"] == "missing" && got[0].Error != ""; missed != (what != "nothing") {
			t.Errorf("%s is gone: got %+v", what, got)
		}
	}
}
