package pgtest

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

const superuser = "postgres"

// Server is a running PostgreSQL server.
type Server struct {
	Major     int
	Host      string // always 127.0.0.1; the certificate also names localhost
	Port      int
	CAFile    string // PEM of the authority that signed the server's certificate
	SocketDir string // only the superuser may connect here

	dir     string // holds data, log, certificate and socket
	account *account
	started bool // has taken connections before, so that the port is settled

	mu         sync.Mutex
	postmaster *postmaster // nil before the first start

	template struct {
		sync.Mutex
		made bool
	}
}

// Options is how a server of [New] differs from the shared ones.
type Options struct {
	// Settings are lines of postgresql.conf. They win over the defaults of this package.
	Settings map[string]string
	// HBA replaces the lines of pg_hba.conf that are for others than the superuser on the Unix socket.
	// Empty means SCRAM-SHA-256 for all, with and without TLS.
	HBA string
}

// StopMode is how a server is asked to stop.
type StopMode syscall.Signal

// The modes of pg_ctl stop. A smart stop waits for clients to leave, a fast one disconnects them, an
// immediate one is a crash that leaves recovery to the next start.
const (
	Smart     = StopMode(syscall.SIGTERM)
	Fast      = StopMode(syscall.SIGINT)
	Immediate = StopMode(syscall.SIGQUIT)
)

// Start returns the server of the major that all tests of the binary share. The first call starts it.
// A test that needs other settings, or a restart, takes a server of its own with [New].
func Start(t testing.TB, major int) *Server {
	t.Helper()
	shared, ok := runOf(t).shared[major]
	if !ok {
		t.Fatalf("no PostgreSQL %d: %v", major, Majors())
	}
	server, err := shared()
	if err != nil {
		t.Fatalf("starting PostgreSQL %d: %v", major, err)
	}
	return server
}

// New starts a server for this test alone. It is stopped and removed when the test ends.
func New(t testing.TB, major int, opts Options) *Server {
	t.Helper()
	run := runOf(t)
	server, err := run.newServer(major, opts)
	if err != nil {
		t.Fatalf("starting PostgreSQL %d: %v", major, err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of PostgreSQL %d:\n%s", major, server.Log())
		}
		run.discard(server)
	})
	return server
}

func runOf(t testing.TB) *testRun {
	t.Helper()
	if current == nil {
		t.Fatal("pgtest: TestMain does not call pgtest.Main")
	}
	return current
}

// Start starts a stopped or killed server again, on the same port with the same data, and waits until
// it takes connections.
func (s *Server) Start(t testing.TB) {
	t.Helper()
	if err := s.start(); err != nil {
		t.Fatalf("starting PostgreSQL %d: %v", s.Major, err)
	}
}

// Stop stops the server and waits until its main process is gone.
func (s *Server) Stop(t testing.TB, mode StopMode) {
	t.Helper()
	if err := s.stop(mode); err != nil {
		t.Fatalf("stopping PostgreSQL %d: %v", s.Major, err)
	}
}

// Restart disconnects all clients and starts the server again.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	s.Stop(t, Fast)
	s.Start(t)
}

// Kill kills the main process with SIGKILL, as the out-of-memory killer would. The backends end
// themselves shortly after.
func (s *Server) Kill(t testing.TB) {
	t.Helper()
	s.Stop(t, StopMode(syscall.SIGKILL))
}

// Log returns what the server has logged since it was made.
func (s *Server) Log() string {
	text, err := os.ReadFile(s.logFile())
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Address returns host and port as net.Dial takes them.
func (s *Server) Address() string { return net.JoinHostPort(s.Host, strconv.Itoa(s.Port)) }

// URL returns a connection string for TCP with TLS, where the client verifies the server in full. The
// caller may change or add parameters.
func (s *Server) URL(user, password, database string) *url.URL {
	return &url.URL{
		Scheme: "postgres",
		User:   url.UserPassword(user, password),
		Host:   s.Address(),
		Path:   "/" + database,
		RawQuery: url.Values{
			"sslmode":     {"verify-full"},
			"sslrootcert": {s.CAFile},
		}.Encode(),
	}
}

// Superuser connects to a database as the superuser. The connection is closed when the test ends.
func (s *Server) Superuser(t testing.TB, database string) *pgx.Conn {
	t.Helper()
	conn, err := s.connect(t.Context(), database)
	if err != nil {
		t.Fatalf("connecting to PostgreSQL %d as superuser: %v", s.Major, err)
	}
	t.Cleanup(func() {
		ctx, cancel := cleanupContext(t)
		defer cancel()
		_ = conn.Close(ctx)
	})
	return conn
}

func (s *Server) connect(ctx context.Context, database string) (*pgx.Conn, error) {
	address := url.URL{
		Scheme: "postgres",
		Path:   "/" + database,
		RawQuery: url.Values{
			"host":    {s.SocketDir},
			"port":    {strconv.Itoa(s.Port)},
			"user":    {superuser},
			"sslmode": {"disable"},
		}.Encode(),
	}
	return pgx.Connect(ctx, address.String())
}

// cleanupContext is for what happens after the test, when its own context is done.
func cleanupContext(t testing.TB) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
}

// DataDir is the server's data directory. A test may put a disk of its own over it while the server is stopped.
func (s *Server) DataDir() string { return s.dataDir() }

func (s *Server) dataDir() string { return filepath.Join(s.dir, "data") }
func (s *Server) logFile() string { return filepath.Join(s.dir, "log") }

func (r *testRun) newServer(major int, opts Options) (*Server, error) {
	account, err := serverAccount()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(r.dir, strconv.Itoa(major)+"-")
	if err != nil {
		return nil, err
	}
	server := &Server{
		Major:     major,
		Host:      "127.0.0.1",
		CAFile:    r.authority.CertFile,
		SocketDir: dir,
		dir:       dir,
		account:   account,
	}
	r.add(server)
	if err := server.create(r.authority, opts); err != nil {
		r.discard(server)
		return nil, err
	}
	return server, nil
}

// create makes the data directory and starts the server.
func (s *Server) create(authority *Authority, opts Options) error {
	if err := s.account.own(s.dir); err != nil {
		return err
	}
	if err := s.initdb(); err != nil {
		return err
	}
	if err := s.configure(authority, opts); err != nil {
		return fmt.Errorf("configuring: %w", err)
	}
	return s.start()
}

func (r *testRun) discard(s *Server) {
	_ = s.stop(Immediate)
	_ = os.RemoveAll(s.dir)
	r.remove(s)
}

// Hang stops all processes of the server where they are, as a machine that swaps or a hypervisor that pauses it does. It
// takes connections and answers nobody. wake lets it go on; it is called at the end of the test at the latest.
func (s *Server) Hang(t testing.TB) (wake func()) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	postmaster := strconv.Itoa(s.postmaster.cmd.Process.Pid)
	signal := func(name string) {
		// pkill ends with 1 if the postmaster has no children, and kill if it has gone meanwhile.
		ctx := context.Background() // the test's own is over in a cleanup
		_ = exec.CommandContext(ctx, "kill", name, postmaster).Run()
		_ = exec.CommandContext(ctx, "pkill", name, "-P", postmaster).Run()
	}
	signal("-STOP")
	wake = sync.OnceFunc(func() { signal("-CONT") })
	t.Cleanup(wake)
	return wake
}
