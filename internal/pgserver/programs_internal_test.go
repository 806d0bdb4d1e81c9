package pgserver

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWithoutPostgreSQL(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := findProgramsIn(t.TempDir())
	if err == nil || !strings.Contains(err.Error(), "make demo") {
		t.Errorf("got %v, want an error that says what to do", err)
	}
}

func TestFindPrograms(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	debian := t.TempDir()
	install := func(major string) {
		folder := filepath.Join(debian, major, "bin")
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, program := range []string{"initdb", "postgres", "psql"} {
			if err := os.WriteFile(filepath.Join(folder, program), nil, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, step := range []struct{ install, want string }{{"9.6", "9.6"}, {"14", "14"}, {"18", "18"}, {"15", "15"}} {
		install(step.install)
		got, err := findProgramsIn(debian)
		if want := filepath.Join(debian, step.want, "bin", "postgres"); err != nil || got.Postgres != want {
			t.Errorf("got %s, %v, want %s", got.Postgres, err, want)
		}
	}
}
