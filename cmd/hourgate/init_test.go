package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/gatetest"
	"github.com/hourgate/hourgate/internal/pgtest"
)

const dbaPassword = "the password of the DBA"

// newServer is a database as somebody has it before Hourgate comes, with a DBA.
type newServer struct {
	*pgtest.Database
	dba    string
	folder string
}

// newServerOf makes a DBA with the attributes, such as SUPERUSER, and runs the statements in the database as the superuser.
// In them <dba>, <owner> and <database> stand for the names.
func newServerOf(t *testing.T, major int, attributes string, statements ...string) *newServer {
	t.Helper()
	db := pgtest.Start(t, major).Database(t)
	s := &newServer{Database: db, dba: "dba_" + strings.ToLower(rand.Text()[:8]), folder: filepath.Join(t.TempDir(), "gate")}
	super := db.Superuser(t)
	names := strings.NewReplacer("<dba>", s.dba, "<owner>", db.Owner, "<database>", db.Name)
	for _, statement := range append([]string{"CREATE ROLE <dba> LOGIN PASSWORD '" + dbaPassword + "' " + attributes}, statements...) {
		if _, err := super.Exec(t.Context(), names.Replace(statement)); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	return s
}

// init runs `hourgate init` with what a person would say, and more flags.
func (s *newServer) init(t *testing.T, more ...string) (code int, output string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	args := append([]string{
		"init", "--yes", "--folder", s.folder, "--name", "orders", "--host", "localhost", "--port", fmt.Sprint(s.Server.Port), "--database", s.Name,
		"--ssl-root-cert", s.Server.CAFile, "--admin-user", s.admin(), "--user", "alice@example.com",
		"--listen", freeAddress(t), "--ops-listen", freeAddress(t), "--access", "READ_WRITE",
	}, more...)
	code = run(t.Context(), args, nil, &stdout, &stderr)
	return code, stdout.String() + stderr.String()
}

func (s *newServer) admin() string { return "admin_" + s.dba }

// use serves what init has written and returns how many rows the person finds in a table, with the psql line that was printed.
func (s *newServer) use(t *testing.T, output, table string) int {
	t.Helper()
	password := regexp.MustCompile(`with the password (\w+) \(`).FindStringSubmatch(output)
	line := regexp.MustCompile(`(?m)^ +psql "(host=localhost port=.*sslmode=verify-full.*)"$`).FindStringSubmatch(output)
	if password == nil || line == nil {
		t.Fatalf("no password and psql line in:\n%s", output)
	}
	ctx, stop := context.WithCancel(t.Context())
	var log gatetest.Buffer
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, []string{"serve", "--config", filepath.Join(s.folder, "config.yaml")}, nil, &log, &log)
	}()
	defer func() {
		stop()
		if code := <-done; code != exitOK || t.Failed() {
			t.Errorf("serve ended with %d:\n%s", code, log.String())
		}
	}()
	eventually.True(t, "the gate opens", func() bool { return strings.Contains(log.String(), "gate open") || len(done) > 0 })
	psql := exec.CommandContext(t.Context(), "bash", "-c", line[0]+` -AtX -v ON_ERROR_STOP=1 -c "$SQL"`)
	psql.Env = append(os.Environ(), "PATH="+filepath.Dir(pgtest.Psql(t, s.Server.Major))+":"+os.Getenv("PATH"), "PGPASSWORD="+password[1], "SQL=SELECT count(*) FROM "+table)
	var words bytes.Buffer
	psql.Stderr = &words
	out, err := psql.Output()
	rows, notNumber := strconv.Atoi(strings.TrimSpace(string(out)))
	if err = errors.Join(err, notNumber); err != nil {
		t.Errorf("%s: %v: %s%s", line[0], err, out, &words)
	}
	return rows
}

// TestInit goes from a server that nothing was done on to a session of the first person, in front of each kind of server
// that there is.
func TestInit(t *testing.T) {
	t.Setenv("PGPASSWORD", dbaPassword)
	for _, major := range pgtest.Majors() {
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) {
			t.Parallel()
			// One after the other: they share the server, and so the role hourgate_owner, which the first of them makes.
			t.Run("tables of the master user", func(t *testing.T) { testInitMaster(t, major) })
			t.Run("tables of an application", func(t *testing.T) { testInitApplication(t, major) })
			t.Run("tables of a superuser", func(t *testing.T) { testInitSuperuser(t, major) })
			t.Run("SQL for a DBA to run", func(t *testing.T) { testInitByHand(t, major) })
		})
	}
}

var mine = []string{"CREATE TABLE mine (id serial, n int)", "INSERT INTO mine (n) VALUES (1), (2), (3)"}

// The DBA is a superuser, as on a server of one's own, and the tables are an application's.
func testInitApplication(t *testing.T, major int) {
	s := newServerOf(t, major, "SUPERUSER", append([]string{"CREATE ROLE app_of_<dba> LOGIN PASSWORD '" + dbaPassword + "'", "SET ROLE <owner>"}, mine...)...)
	if _, err := s.Superuser(t).Exec(t.Context(), fmt.Sprintf("GRANT SELECT ON mine TO app_of_%s", s.dba)); err != nil {
		t.Fatal(err)
	}
	code, output := s.init(t, "--dba-user", s.dba, "--apply")
	if code != exitOK || strings.Contains(output, "\nfail") {
		t.Fatalf("init: exit code %d\n%s", code, output)
	}
	s.applicationsWork(t)
	if rows := s.use(t, output, "mine"); rows != 3 {
		t.Errorf("got %d rows, want 3", rows)
	}
	before := s.contents(t)
	if code, again := s.init(t, "--dba-user", s.dba, "--apply"); code != exitRuntime || !strings.Contains(again, "config.yaml exists; nothing was changed") {
		t.Errorf("init over what is there: exit code %d\n%s", code, again)
	}
	if code, again := s.init(t, "--keep"); code != exitOK || !strings.Contains(again, "stays as it is") {
		t.Errorf("init --keep: exit code %d\n%s", code, again)
	}
	if s.contents(t) != before {
		t.Error("a file was changed by the second init")
	}
	s.folder += "-other"
	if code, again := s.init(t, "--dba-user", s.dba, "--apply"); code != exitRuntime || !strings.Contains(again, "already") || s.contents(t) != "" {
		t.Errorf("init in front of a server that has the admin: exit code %d\n%s", code, again)
	}
}

// The DBA is no superuser, and it owns the database and the tables, as the master user of RDS often does.
func testInitMaster(t *testing.T, major int) {
	s := newServerOf(t, major, "CREATEROLE CREATEDB",
		"GRANT pg_signal_backend TO <dba>"+map[bool]string{true: " WITH ADMIN OPTION"}[major >= 16], "ALTER DATABASE <database> OWNER TO <dba>",
		"DROP OWNED BY <owner> CASCADE", "REVOKE CONNECT, TEMPORARY ON DATABASE <database> FROM PUBLIC", "GRANT CREATE ON SCHEMA public TO <dba>", "SET ROLE <dba>",
		"CREATE SCHEMA sales", "CREATE TABLE sales.orders (id bigint GENERATED ALWAYS AS IDENTITY)", "CREATE VIEW sales.all_orders AS SELECT * FROM sales.orders",
		mine[0], mine[1])
	if major >= 16 {
		code, output := s.init(t, "--dba-user", s.dba, "--apply")
		if code != exitRuntime || !strings.Contains(output, "--new-owner") || s.contents(t) != "" {
			t.Fatalf("init without --new-owner: exit code %d\n%s", code, output)
		}
	}
	code, output := s.init(t, "--dba-user", s.dba, "--apply", "--new-owner", s.dba+"_owner")
	if code != exitOK || strings.Contains(output, "\nfail") {
		t.Fatalf("init: exit code %d\n%s\n%s", code, output, s.contents(t))
	}
	if rows := s.use(t, output, "mine, sales.all_orders a FULL JOIN sales.orders o USING (id)"); rows != 0 {
		t.Errorf("got %d rows, want the product with none", rows)
	}
	if major >= 16 {
		other := newServerOf(t, major, "CREATEROLE", "GRANT <owner> TO <dba> WITH ADMIN OPTION")
		if code, output := other.init(t, "--dba-user", other.dba, "--apply"); code != exitRuntime || !strings.Contains(output, "hourgate_owner already") {
			t.Errorf("init by somebody who may not grant hourgate_owner: exit code %d\n%s", code, output)
		}
	}
	// The master user goes on as before, and an identity column's sequence has moved along.
	conn := s.connect(t, s.dba, dbaPassword)
	for _, statement := range []string{"INSERT INTO mine (n) VALUES (4)", "INSERT INTO sales.orders DEFAULT VALUES", "ALTER TABLE mine ADD COLUMN more text", "DROP VIEW sales.all_orders"} {
		if _, err := conn.Exec(t.Context(), statement); err != nil {
			t.Errorf("the master user: %s: %v", statement, err)
		}
	}
}

// The tables belong to a superuser, as in a container's PostgreSQL on the first day.
func testInitSuperuser(t *testing.T, major int) {
	s := newServerOf(t, major, "SUPERUSER", append([]string{"SET ROLE <dba>"}, mine...)...)
	code, output := s.init(t, "--dba-user", s.dba, "--apply", "--new-owner", `O'Neil "$$" $hourgate$ of `+s.Name)
	if code != exitOK || strings.Contains(output, "\nfail") {
		t.Fatalf("init: exit code %d\n%s\n%s", code, output, s.contents(t))
	}
	if rows := s.use(t, output, "mine"); rows != 3 {
		t.Errorf("got %d rows, want 3", rows)
	}
}

// Nobody looks at the server; a DBA runs the SQL.
func testInitByHand(t *testing.T, major int) {
	s := newServerOf(t, major, "SUPERUSER", append([]string{"SET ROLE <owner>"}, mine...)...)
	code, output := s.init(t, "--server-version", fmt.Sprint(major), "--owner", s.Owner)
	if code != exitOK || !strings.Contains(output, "-f "+filepath.Join(s.folder, "setup.sql")) {
		t.Fatalf("init: exit code %d\n%s", code, output)
	}
	sql, err := os.ReadFile(filepath.Join(s.folder, "setup.sql"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.connect(t, s.dba, dbaPassword).Exec(t.Context(), string(sql)); err != nil {
		t.Fatalf("%v in\n%s", err, sql)
	}
	if rows := s.use(t, output, "mine"); rows != 3 {
		t.Errorf("got %d rows, want 3", rows)
	}
}

// What is missing is said by the flag's name, all at once, and nothing is written.
func TestInitNamesMissingFlags(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "gate")
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"init", "--folder", folder, "--access", "ROOT", "--ssl-mode", "secure"}, strings.NewReader(""), &stdout, &stderr)
	for _, want := range []string{"--host is required", "--database is required", "--user is required", "--dba-user or --server-version is required", "--access: want READ_ONLY, READ_WRITE, ADMIN", "--ssl-mode: "} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("%q is not in:\n%s", want, &stderr)
		}
	}
	if _, err := os.Stat(folder); code != exitUsage || err == nil {
		t.Errorf("exit code %d, and %s is there: %v", code, folder, err == nil)
	}
}

// applicationsWork tries an application that may connect because PUBLIC may, before and after a DBA follows what setup.sql advises.
func (s *newServer) applicationsWork(t *testing.T) {
	t.Helper()
	application := "app_of_" + s.dba
	works := func(when string) {
		var n int
		if err := s.connect(t, application, dbaPassword).QueryRow(t.Context(), "SELECT count(*) FROM mine").Scan(&n); err != nil || n != 3 {
			t.Errorf("%s an application finds %d rows (%v)", when, n, err)
		}
	}
	works("after init")
	sql, err := os.ReadFile(filepath.Join(s.folder, "setup.sql"))
	if err != nil {
		t.Fatal(err)
	}
	advice := regexp.MustCompile(`(?m)^--   ((?:GRANT|REVOKE) .*)$`).FindAllStringSubmatch(string(sql), -1)
	if len(advice) < 2 {
		t.Fatalf("setup.sql advises nothing:\n%s", sql)
	}
	for _, statement := range advice {
		if _, err := s.Superuser(t).Exec(t.Context(), strings.ReplaceAll(statement[1], "TO application", "TO "+application)); err != nil {
			t.Errorf("%s: %v", statement[1], err)
		}
		works("after " + statement[1])
	}
}

func (s *newServer) connect(t *testing.T, user, password string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), fmt.Sprintf("host=localhost port=%d user=%s password='%s' dbname=%s sslmode=verify-full sslrootcert=%s",
		s.Server.Port, user, password, s.Name, s.Server.CAFile))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// contents are all files of the folder with their modes, none of which others may read; the trail is not init's.
func (s *newServer) contents(t *testing.T) string {
	t.Helper()
	entries, err := os.ReadDir(s.folder)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %s", entry.Name(), info.Mode())
		}
		if strings.HasPrefix(entry.Name(), "trail") {
			continue
		}
		content, err := os.ReadFile(filepath.Join(s.folder, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "--- %s\n%s", entry.Name(), content)
	}
	return b.String()
}

// freeAddress is one that nobody listens on, as far as can be told.
func freeAddress(t *testing.T) string {
	t.Helper()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(pgtest.FreePort()))
}
