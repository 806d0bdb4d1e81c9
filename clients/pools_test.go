//go:build clients

package clients

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/pgtest"
)

// HikariCP tells those who use it of the grant's end and of its reason, and goes on by itself when there is a new grant.
// The driver finds the gate among several hosts, whatever kind of server it is told to look for.
func TestHikariCP(t *testing.T) {
	binary := build(t, ".", "../cmd/hourgate")
	g := startGate(t, binary, pgtest.Start(t, 17).Database(t))
	jars := "/usr/share/java/postgresql.jar:/usr/share/java/HikariCP.jar:/usr/share/java/slf4j-api.jar:/usr/share/java/slf4j-nop.jar"
	ctx, cancel := context.WithTimeout(t.Context(), clientTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "java", "-cp", jars, "java/Pool.java")
	cmd.Env = append(os.Environ(), g.login.environment()...)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said []string
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		switch line := lines.Text(); line {
		case "end":
			g.setPolicy(t, time.Now().Add(soon))
		case "again":
			g.setPolicy(t, time.Now().Add(time.Hour))
			g.awaitLogin(t, carol)
			fmt.Fprintln(stdin)
		default:
			said = append(said, line)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	want := "ok host any\nok host primary\nok host master\nok host preferSecondary\nok host preferPrimary\nok running\nok refused\nok again"
	if got := strings.Join(said, "\n"); got != want {
		t.Errorf("reported\n%s\nwant\n%s", got, want)
	}
}

// awaitLogin waits until the gate lets somebody in.
func (g *gate) awaitLogin(t *testing.T, user string) {
	t.Helper()
	eventually.True(t, user+" is let in", func() bool {
		conn, err := pgx.Connect(t.Context(), g.url(user))
		if err != nil {
			return false
		}
		_ = conn.Close(t.Context())
		return true
	})
}

// url is for pgx, and for libpq.
func (g *gate) url(user string) string {
	return fmt.Sprintf("host=%s port=%s user=%s password='%s' dbname=orders sslmode=verify-full sslrootcert=%s",
		g.login.host, g.login.port, user, strings.ReplaceAll(password, "'", `\'`), g.login.ca)
}

// PgBouncer in front of the gate, which logs in as carol with one connection for all its clients.
const bouncerConfig = `[databases]
orders = host=%[1]s port=%[2]s dbname=orders user=%[3]s password='%[4]s'
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %[5]d
unix_socket_dir =
auth_type = any
pool_mode = transaction
server_tls_sslmode = verify-full
server_tls_ca_file = %[6]s
%[7]s
`

// bouncerSettings are what docs/clients.md tells people to set.
const bouncerSettings = "server_login_retry = 1\nquery_wait_timeout = 2"

// After the grant's end, clients of a PgBouncer in front of the gate are told within the time that its settings say, and go on
// when there is a new grant.
func TestPgBouncer(t *testing.T) {
	binary := build(t, ".", "../cmd/hourgate")
	g := startGate(t, binary, pgtest.Start(t, 17).Database(t))
	port := startBouncer(t, g, bouncerSettings)
	connect := func() (*pgx.Conn, error) {
		return pgx.Connect(t.Context(), fmt.Sprintf("host=127.0.0.1 port=%d user=app dbname=orders sslmode=disable default_query_exec_mode=simple_protocol", port))
	}
	conn, err := connect()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	var role string
	if err := conn.QueryRow(t.Context(), "SELECT session_user").Scan(&role); err != nil || !strings.HasPrefix(role, "hg_carol_shift_") {
		t.Fatalf("%q, %v", role, err)
	}
	g.setPolicy(t, time.Now().Add(soon))
	var told *pgconn.PgError
	if _, err := conn.Exec(t.Context(), "SELECT pg_sleep(60)"); !errors.As(err, &told) || told.Code != "57P01" && told.Code != "08P01" {
		t.Errorf("at the end: %v", err)
	}
	for _, name := range []string{"the first that finds no server", "the next"} {
		began := time.Now()
		again, err := connect()
		if err == nil {
			_, err = again.Exec(t.Context(), "SELECT 1")
		}
		t.Logf("%s is told after %v: %v", name, time.Since(began), err)
		if took := time.Since(began); err == nil || took > 20*time.Second {
			t.Errorf("%s: %v after %v", name, err, took)
		}
	}
	g.setPolicy(t, time.Now().Add(time.Hour))
	eventually.Within(t, time.Minute, "clients are let in under the new grant", func() bool {
		conn, err := connect()
		if err != nil {
			return false
		}
		_, err = conn.Exec(t.Context(), "SELECT 1")
		_ = conn.Close(t.Context())
		return err == nil
	})
}

func startBouncer(t *testing.T, g *gate, settings string) (port int) {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port = free.Addr().(*net.TCPAddr).Port
	_ = free.Close()
	folder := t.TempDir()
	for dir := folder; len(dir) > len(os.TempDir()); dir = filepath.Dir(dir) { // PgBouncer is not root
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	ca := filepath.Join(folder, "ca.pem")
	authority, err := os.ReadFile(g.login.ca)
	if err == nil {
		err = os.WriteFile(ca, authority, 0o644)
	}
	config := filepath.Join(folder, "pgbouncer.ini")
	if err == nil {
		text := fmt.Sprintf(bouncerConfig, g.login.host, g.login.port, carol, strings.ReplaceAll(password, "'", "''"), port, ca, settings)
		err = os.WriteFile(config, []byte(text), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(cache(), "bench", "bin", "pgbouncer"), config)
	if os.Geteuid() == 0 {
		cmd.Args = append(cmd.Args[:1:1], "--user=postgres", config)
	}
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("run scripts/install clients: %v", err)
	}
	up := make(chan struct{})
	done := make(chan string, 1)
	go func() {
		var all strings.Builder
		for lines := bufio.NewScanner(log); lines.Scan(); {
			all.WriteString(lines.Text() + "\n")
			if strings.Contains(lines.Text(), "process up") {
				close(up)
			}
		}
		done <- all.String()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		text := <-done
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("log of PgBouncer:\n%s", text)
		}
	})
	select {
	case <-up:
	case text := <-done:
		t.Fatalf("PgBouncer did not start:\n%s", text)
	}
	return port
}
