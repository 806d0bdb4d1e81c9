package pgtest_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func forEachMajor(t *testing.T, test func(t *testing.T, major int)) {
	t.Parallel()
	for _, major := range pgtest.Majors() {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			test(t, major)
		})
	}
}

func TestServersHaveTheirVersion(t *testing.T) {
	forEachMajor(t, func(t *testing.T, major int) {
		conn := pgtest.Start(t, major).Superuser(t, "postgres")
		if got := query[int](t, conn, "SELECT current_setting('server_version_num')::int / 10000"); got != major {
			t.Errorf("got version %d, want %d", got, major)
		}
	})
}

func TestAdminLogsInWithSCRAMOverTLS(t *testing.T) {
	forEachMajor(t, func(t *testing.T, major int) {
		server := pgtest.Start(t, major)
		db := server.Database(t)

		conn := connect(t, server.URL(db.Admin, db.AdminPassword, db.Name).String())
		if !query[bool](t, conn, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") {
			t.Error("the connection is not encrypted")
		}
		verifier := query[string](t, db.Superuser(t), "SELECT rolpassword FROM pg_authid WHERE rolname = $1", db.Admin)
		if !strings.HasPrefix(verifier, "SCRAM-SHA-256$") {
			t.Errorf("got verifier %q, want SCRAM-SHA-256", verifier)
		}

		wrong, err := pgx.Connect(t.Context(), server.URL(db.Admin, "wrong", db.Name).String())
		if err == nil {
			_ = wrong.Close(t.Context())
			t.Error("logged in with a wrong password")
		}
	})
}

func TestPlaintextIsServedToo(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, 18)
	db := server.Database(t)
	url := server.URL(db.Owner, db.OwnerPassword, db.Name)
	url.RawQuery = "sslmode=disable"
	if query[bool](t, connect(t, url.String()), "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") {
		t.Error("the connection is encrypted")
	}
}

func TestDatabaseHasTablesOfItsOwner(t *testing.T) {
	forEachMajor(t, func(t *testing.T, major int) {
		server := pgtest.Start(t, major)
		db := server.Database(t)
		conn := connect(t, server.URL(db.Admin, db.AdminPassword, db.Name).String())
		if got := query[int](t, conn, "SELECT count(*) FROM customers JOIN orders ON customer_id = customers.id"); got != 300 {
			t.Errorf("got %d orders with a customer, want 300", got)
		}
		const owners = "SELECT string_agg(DISTINCT tableowner, ',') FROM pg_tables WHERE schemaname = 'public'"
		if got := query[string](t, conn, owners); got != db.Owner {
			t.Errorf("got owners %q, want %q", got, db.Owner)
		}
		const adminOption = "SELECT admin_option FROM pg_auth_members WHERE member = $1::regrole AND roleid = $2::regrole"
		if query[bool](t, conn, adminOption, db.Admin, db.Owner) {
			t.Error("the admin has ADMIN OPTION on the owner")
		}
	})
}

func TestDatabaseIsDroppedAfterTheTest(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, 16)
	var db *pgtest.Database
	t.Run("uses it", func(t *testing.T) {
		db = server.Database(t)
		conn := db.Superuser(t)
		execute(t, conn, fmt.Sprintf("GRANT CREATE ON DATABASE postgres TO %s", db.Admin))
	})
	conn := server.Superuser(t, "postgres")
	const left = `SELECT (SELECT count(*) FROM pg_database WHERE datname = $1)
		+ (SELECT count(*) FROM pg_roles WHERE rolname IN ($2, $3))`
	if got := query[int](t, conn, left, db.Name, db.Owner, db.Admin); got != 0 {
		t.Errorf("got %d databases and roles left, want none", got)
	}
}

func TestDumpAcceptsTheServer(t *testing.T) {
	forEachMajor(t, func(t *testing.T, major int) {
		server := pgtest.Start(t, major)
		db := server.Database(t)
		cmd := exec.CommandContext(t.Context(), pgtest.Dump(t, major), server.URL(db.Owner, db.OwnerPassword, db.Name).String())
		output, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("pg_dump: %v\n%s", err, output)
		}
		if want := "CREATE TABLE public.orders"; !strings.Contains(string(output), want) {
			t.Errorf("the dump has no %q", want)
		}
	})
}

func TestClientIsThere(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"psql", "pgbench", "pg_dump"} {
		output, err := exec.CommandContext(t.Context(), pgtest.Client(t, name), "--version").Output()
		if err != nil || !strings.Contains(string(output), "(PostgreSQL) 15.") {
			t.Errorf("%s --version: got %q, %v", name, output, err)
		}
	}
}

func TestPrivateServer(t *testing.T) {
	forEachMajor(t, func(t *testing.T, major int) {
		server := pgtest.New(t, major, pgtest.Options{
			Settings: map[string]string{"max_prepared_transactions": "7", "application_name": "it's"},
			HBA:      "hostnossl all all 127.0.0.1/32 trust",
		})
		conn := server.Superuser(t, "postgres")
		if got := query[int](t, conn, "SELECT current_setting('max_prepared_transactions')::int"); got != 7 {
			t.Errorf("got max_prepared_transactions %d, want 7", got)
		}
		if _, err := pgx.Connect(t.Context(), server.URL("postgres", "", "postgres").String()); err == nil {
			t.Error("logged in with TLS against pg_hba.conf")
		}
		execute(t, conn, "CREATE TABLE kept (n int)")

		server.Kill(t)
		eventually.True(t, "the connection breaks", func() bool { return conn.Ping(t.Context()) != nil })
		server.Start(t)
		server.Restart(t)
		execute(t, server.Superuser(t, "postgres"), "TABLE kept")

		server.Stop(t, pgtest.Immediate)
		if _, err := net.Dial("tcp", server.Address()); err == nil {
			t.Error("a stopped server accepts connections")
		}
		if want := "database system was not properly shut down"; !strings.Contains(server.Log(), want) {
			t.Errorf("the log has no %q", want)
		}
	})
}

func TestServersPassLeakChecks(t *testing.T) {
	others := goleak.IgnoreCurrent()
	_ = pgtest.New(t, 17, pgtest.Options{})
	goleak.VerifyNone(t, others, pgtest.IgnoreGoroutines())
}

func TestAuthority(t *testing.T) {
	t.Parallel()
	authority := pgtest.CA(t)
	pair, err := tls.LoadX509KeyPair(authority.Issue(t, "proxy.example", "127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(authority.CertFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	for _, host := range []string{"proxy.example", "127.0.0.1"} {
		for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
			opts := x509.VerifyOptions{Roots: roots, DNSName: host, KeyUsages: []x509.ExtKeyUsage{use}}
			if _, err := pair.Leaf.Verify(opts); err != nil {
				t.Errorf("%s, usage %d: %v", host, use, err)
			}
		}
	}
}

// A test binary that is killed with SIGKILL cannot clean up after itself: its servers end without it,
// and the directory is left to the next binary.
func TestServersEndWithTheTestBinary(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestVictim$", "-test.v")
	cmd.Env = append(os.Environ(), "PGTEST_VICTIM=1")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var address, dir string
	for lines := bufio.NewScanner(stdout); address == "" && lines.Scan(); {
		_, _ = fmt.Sscanf(lines.Text(), "victim %s %s", &address, &dir)
	}
	if address == "" {
		t.Fatal("the victim started no server")
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()

	eventually.True(t, "the server ends", func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	})

	// Only a directory that is not young counts as left behind.
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(dir, old, old); err != nil {
		t.Fatal(err)
	}
	if output, err := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", dir, err)
	}
}

// TestVictim is the test binary that TestServersEndWithTheTestBinary kills.
func TestVictim(t *testing.T) {
	if os.Getenv("PGTEST_VICTIM") == "" {
		return
	}
	server := pgtest.Start(t, 18)
	_ = server.Superuser(t, "postgres")
	fmt.Printf("victim %s %s\n", server.Address(), filepath.Dir(server.SocketDir))
	select {}
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

func query[T any](t *testing.T, conn *pgx.Conn, sql string, args ...any) T {
	t.Helper()
	var value T
	if err := conn.QueryRow(t.Context(), sql, args...).Scan(&value); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return value
}

func execute(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}
