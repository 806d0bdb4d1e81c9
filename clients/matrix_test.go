//go:build clients

package clients

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// cache is where scripts/install and scripts/install-clients put what Debian does not have.
func cache() string {
	if dir := os.Getenv("HOURGATE_CACHE"); dir != "" {
		return dir
	}
	return "/var/tmp/hourgate"
}

// drivers are the clients of the first table.
func drivers(t *testing.T) []client {
	t.Helper()
	node := "NODE_PATH=" + filepath.Join(cache(), "clients", "node", "node_modules")
	databaseSQL := build(t, "go", ".")
	return []client{
		{name: "psql", run: script(nil, "bash", "psql/psql.sh")},
		{name: "pgcli", run: script(nil, "/usr/bin/python3", "python/use_pgcli.py")},
		{name: "psycopg 2", run: script(nil, "/usr/bin/python3", "python/use_psycopg2.py")},
		{name: "psycopg 3", run: script(nil, "/usr/bin/python3", "python/use_psycopg3.py")},
		{name: "asyncpg", run: script(nil, "/usr/bin/python3", "python/use_asyncpg.py")},
		{name: "JDBC", run: script(nil, "java", "-cp", "/usr/share/java/postgresql.jar", "java/Check.java")},
		{name: "node-postgres", run: script([]string{node}, "node", "node/pg.js")},
		{name: "postgres.js", run: script([]string{node}, "node", "node/postgres.js")},
		{name: "pgx", run: usePgx},
		{name: "database/sql, pgx", run: script(nil, databaseSQL, "github.com/jackc/pgx/v5")},
		{name: "database/sql, lib/pq", run: script(nil, databaseSQL, "github.com/lib/pq")},
		{name: "DBD::Pg", run: script(nil, "/usr/bin/perl", "perl/dbd_pg.pl")},
		{name: "ruby-pg", run: script(nil, "/usr/bin/ruby", "ruby/pg.rb")},
		{name: "PHP pgsql", run: script(nil, "/usr/bin/php", "php/pgsql.php")},
		{name: "psqlODBC", run: script(nil, "/usr/bin/python3", "python/use_odbc.py")},
	}
}

// script is a client in another language. It sees nothing of our environment: PGHOST, a password file and the like would
// change what it does.
func script(environment []string, program string, args ...string) func(context.Context, login, io.Writer, io.Writer) error {
	return func(ctx context.Context, l login, stdout, stderr io.Writer) error {
		home, err := os.MkdirTemp("", "hourgate-home-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(home)
		cmd := exec.CommandContext(ctx, program, args...)
		cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "LC_ALL=C.UTF-8", "PYTHONDONTWRITEBYTECODE=1"}, l.environment()...)
		cmd.Env = append(cmd.Env, environment...)
		cmd.Stdout, cmd.Stderr = stdout, stderr
		cmd.WaitDelay = 5 * time.Second
		return cmd.Run()
	}
}

// libpq is a version of the library, and how it is told to connect.
type libpq struct {
	version     string // such as 17.10
	negotiation string // sslnegotiation, "" for a version that does not have it
	binding     string // channel_binding
	protocol    string // max_protocol_version, "" for the default, 3.0
}

var channelBindings = []string{"disable", "prefer", "require"}

// connects is how the table names the way to connect.
func (l *libpq) connects() string {
	switch {
	case l.negotiation == "direct" && l.protocol != "":
		return "direct TLS, protocol 3.2"
	case l.negotiation == "direct":
		return "direct TLS"
	case l.protocol != "":
		return "negotiated TLS, protocol 3.2"
	}
	return "negotiated TLS"
}

// libpqMatrix is psql 15 with each version of the library in each way to connect.
func libpqMatrix(t *testing.T) []client {
	t.Helper()
	var clients []client
	for _, major := range []int{14, 15, 16, 17, 18} {
		var environment []string
		version := debianLibpq(t)
		if major != 15 {
			folder := filepath.Join(cache(), "postgresql", fmt.Sprint(major))
			target, err := os.Readlink(folder)
			if err != nil {
				t.Fatalf("run scripts/install: %v", err)
			}
			version, _, _ = strings.Cut(target, "-")
			environment = []string{"LD_LIBRARY_PATH=" + filepath.Join(folder, "lib")}
		}
		negotiations, protocols := []string{""}, []string{""}
		if major >= 17 {
			negotiations = []string{"postgres", "direct"}
		}
		if major >= 18 {
			protocols = append(protocols, "latest")
		}
		for _, protocol := range protocols {
			for _, negotiation := range negotiations {
				for _, binding := range channelBindings {
					clients = append(clients, (&libpq{version, negotiation, binding, protocol}).client(environment))
				}
			}
		}
	}
	return clients
}

func (l *libpq) client(environment []string) client {
	name := "libpq " + l.version
	for _, setting := range [][2]string{
		{"PGSSLNEGOTIATION", l.negotiation}, {"PGCHANNELBINDING", l.binding}, {"PGMAXPROTOCOLVERSION", l.protocol},
	} {
		if setting[1] != "" {
			environment = append(environment[:len(environment):len(environment)], setting[0]+"="+setting[1])
			name += " " + setting[1]
		}
	}
	return client{name: name, libpq: l, run: script(environment, "bash", "psql/psql.sh")}
}

// debianLibpq is the version of Debian's library.
func debianLibpq(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("dpkg-query", "--show", "--showformat", "${Version}", "libpq5").Output()
	if err != nil {
		t.Fatalf("run scripts/install: %v", err)
	}
	version, _, _ := strings.Cut(string(out), "-")
	return version
}
