package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hourgate/hourgate/access"
	"github.com/hourgate/hourgate/access/sqlite"
	"github.com/hourgate/hourgate/access/storetest"
)

func TestMain(m *testing.M) {
	if file := os.Getenv("HOURGATE_STATE_CRASH"); file != "" {
		storetest.WriteForever(sqlite.Open(context.Background(), file))
	}
	os.Exit(m.Run())
}

func open(t testing.TB, file string) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestStore(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) func() access.Store {
		s := open(t, filepath.Join(t.TempDir(), "state.db"))
		return func() access.Store { return s }
	})
}

func TestFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "a b?c=d#e%41.db")
	s := open(t, file)
	if err := s.Create(t.Context(), storetest.Sample("bob"), 5, storetest.Silent); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, file + "-wal"} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	if _, err := sqlite.Open(t.Context(), file); err == nil || !strings.Contains(err.Error(), "another process may hold it") {
		t.Errorf("a second one: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, file)
	if r, err := s.Request(t.Context(), 1); err != nil || r.User != "bob" {
		t.Errorf("after a restart: %+v, %v", r, err)
	}
}

// TestBadFiles: each is refused with words that help, and left as it is.
func TestBadFiles(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	write := func(name, content string, mode os.FileMode) string {
		file := filepath.Join(folder, name)
		if err := os.WriteFile(file, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return file
	}
	for name, file := range map[string]string{
		"no such file or directory":         filepath.Join(folder, "none", "state.db"),
		"others may read or write it":       write("open.db", "", 0o644),
		"move it away":                      write("text.db", strings.Repeat("this is no database\n", 100), 0o600),
		"is a directory":                    folder,
		"of a later version of Hourgate (9": later(t, folder),
	} {
		before, _ := os.ReadFile(file)
		s, err := sqlite.Open(t.Context(), file)
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v", name, err)
		}
		if err == nil {
			_ = s.Close()
		}
		if after, _ := os.ReadFile(file); string(before) != string(after) {
			t.Errorf("%s: the file was changed", name)
		}
	}
}

// TestDamaged: a file of which some pages were overwritten is refused with words that help, and a gate never goes on with half of it.
func TestDamaged(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "state.db")
	s := open(t, file)
	for range 200 {
		if err := s.Create(t.Context(), storetest.Sample("bob"), 1000, storetest.Silent); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	const page = 4096
	for at := 1; at < len(whole)/page; at += 5 {
		damaged := append([]byte(nil), whole...)
		copy(damaged[at*page:(at+1)*page], strings.Repeat("garbage!", page/8))
		if err := os.WriteFile(file, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := sqlite.Open(t.Context(), file)
		if err == nil || !strings.Contains(err.Error(), "it is damaged: restore a copy") {
			t.Errorf("page %d: %v", at, err)
		}
		if err == nil {
			_ = s.Close()
		}
	}
	if err := os.WriteFile(file, whole[:len(whole)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := sqlite.Open(t.Context(), file); err == nil {
		_ = s.Close()
		t.Error("half a file was taken")
	}
}

// later makes a file as a later version would.
func later(t *testing.T, folder string) string {
	t.Helper()
	file := filepath.Join(folder, "later.db")
	s, err := sqlite.Open(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", file)
	if err == nil {
		_, err = db.ExecContext(t.Context(), `UPDATE hourgate_state SET value = 999 WHERE name = 'schema'`)
	}
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestKilled kills a process that writes, again and again.
func TestKilled(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "state.db")
	storetest.Killed(t, "HOURGATE_STATE_CRASH="+file, func(t *testing.T) access.Store {
		s, err := sqlite.Open(t.Context(), file)
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}
