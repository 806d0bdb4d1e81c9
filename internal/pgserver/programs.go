package pgserver

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
)

// Programs are the paths of PostgreSQL's programs.
type Programs struct{ Initdb, Postgres, Psql string }

// FindPrograms prefers PostgreSQL 15 as Debian installs it, then the newest other major, then what is on PATH.
func FindPrograms() (Programs, error) {
	return findProgramsIn("/usr/lib/postgresql")
}

func findProgramsIn(debian string) (Programs, error) {
	folders := []string{filepath.Join(debian, "15", "bin")}
	others, _ := filepath.Glob(filepath.Join(debian, "*", "bin")) // the pattern is good
	major := func(folder string) int { n, _ := strconv.Atoi(filepath.Base(filepath.Dir(folder))); return n }
	slices.SortFunc(others, func(a, b string) int { return major(b) - major(a) })
	folders = append(folders, others...)
	if initdb, err := exec.LookPath("initdb"); err == nil {
		folders = append(folders, filepath.Dir(initdb))
	}
	for _, folder := range folders {
		p := Programs{Initdb: filepath.Join(folder, "initdb"), Postgres: filepath.Join(folder, "postgres"), Psql: filepath.Join(folder, "psql")}
		if !executable(p.Psql) {
			p.Psql, _ = exec.LookPath("psql") // "" is not executable
		}
		if executable(p.Initdb) && executable(p.Postgres) && executable(p.Psql) {
			return p, nil
		}
	}
	return Programs{}, fmt.Errorf("no PostgreSQL server and psql on this machine, neither in %s nor on PATH; "+
		"run `make demo`, which installs them, or scripts/install postgresql-15", debian)
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}
