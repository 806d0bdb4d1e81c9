package pgtest

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

const (
	oldest = 13
	newest = 18

	// debian is the major that Debian 12 packages, and the only one with all client programs.
	debian     = 15
	debianPath = "/usr/lib/postgresql/15/bin"
)

// Majors returns the PostgreSQL versions that Hourgate supports, oldest first.
func Majors() []int {
	var majors []int
	for major := oldest; major <= newest; major++ {
		majors = append(majors, major)
	}
	return majors
}

// Client returns the path of a client program of PostgreSQL 15: psql, pgbench, pg_dump and so on.
func Client(t testing.TB, name string) string {
	t.Helper()
	path, err := installed(debianPath, name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Dump returns the path of a pg_dump that accepts a server of the major. (pg_dump refuses servers that
// are newer than itself.)
func Dump(t testing.TB, major int) string {
	t.Helper()
	if major <= debian {
		return Client(t, "pg_dump")
	}
	// The first that is there: scripts/install takes the newest that it can get.
	var firstErr error
	for client := major; client <= newest; client++ {
		path, err := installed(cache(), "client", strconv.Itoa(client), "bin", "pg_dump")
		if err == nil {
			return path
		}
		if firstErr == nil {
			firstErr = err
		}
	}
	t.Fatal(firstErr)
	return ""
}

// serverProgram returns the path of initdb or postgres of the major.
func serverProgram(major int, name string) (string, error) {
	if major == debian {
		return installed(debianPath, name)
	}
	return installed(cache(), "postgresql", strconv.Itoa(major), "bin", name)
}

// cache returns the directory that scripts/install unpacks to.
func cache() string {
	if dir := os.Getenv("HOURGATE_CACHE"); dir != "" {
		return dir
	}
	return "/var/tmp/hourgate"
}

func installed(elements ...string) (string, error) {
	path := filepath.Join(elements...)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("run scripts/install: %w", err)
	}
	return path, nil
}

// Libpq returns the folder of the libpq of a major, 14 or 16 to 18, for LD_LIBRARY_PATH; it makes [Client]'s psql, which
// is of 15, use that one.
func Libpq(t testing.TB, major int) string {
	t.Helper()
	path, err := installed(cache(), "postgresql", strconv.Itoa(major), "lib")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Suites returns the folder of the sources in which scripts/install has built PostgreSQL's own test suites.
func Suites(t testing.TB, major int) string {
	t.Helper()
	path, err := installed(cache(), "suites", strconv.Itoa(major))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Psql returns the folder of a psql that is as new as the major, for programs that look for psql there.
func Psql(t testing.TB, major int) string {
	t.Helper()
	if own, err := installed(cache(), "client", strconv.Itoa(major), "bin", "psql"); err == nil { // scripts/install clients
		return filepath.Dir(own)
	}
	if major <= debian {
		return debianPath
	}
	path, err := installed(cache(), "client", strconv.Itoa(newest), "bin", "psql")
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(path)
}
