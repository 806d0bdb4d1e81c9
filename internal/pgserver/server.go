package pgserver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/devca"
)

// Superuser is the server's superuser, and the database that is always there.
const Superuser = "postgres"

const (
	startTimeout = 30 * time.Second
	stopTimeout  = 10 * time.Second
)

// Config says which server to start. All fields but Settings and Prefix are required.
type Config struct {
	Programs  Programs
	Authority *devca.Authority // signs the server's certificate
	Folder    string           // made by Start. Its path must fit a Unix socket's, and the user postgres must get through
	Settings  []string         // such as "max_connections=200"; without spaces. They win over those that all servers have
	Prefix    []string         // a program, with arguments, that executes the server's command line
}

// Server is a PostgreSQL of our own. Everybody needs TLS and a password, but for the superuser, who has a socket in a
// folder that nobody else can enter. It listens on 127.0.0.1; its certificate also names localhost.
type Server struct {
	Port    int
	Version string // such as 15.14

	cfg     Config
	account *syscall.Credential // nil: ours
	process *os.Process
	exited  chan struct{} // closed when the process is gone
}

// Start makes and starts a server. The caller stops it.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	s := &Server{cfg: cfg}
	var err error
	if s.account, err = Account(); err != nil {
		return nil, err
	}
	if s.Port, err = FreePort(ctx); err != nil {
		return nil, err
	}
	if err := s.makeFolder(); err != nil {
		return nil, err
	}
	if err := s.initdb(ctx); err != nil {
		return nil, err
	}
	if err := s.start(ctx); err != nil {
		return nil, err
	}
	if err := s.awaitReady(ctx); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// Account is the user postgres for root, as whom PostgreSQL refuses to run, and nil, our own user, for everybody else.
func Account() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil //nolint:nilnil // nil is our own user
	}
	postgres, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL does not run as root, and there is no user postgres that it could run as: %w", err)
	}
	uid, uidErr := strconv.ParseUint(postgres.Uid, 10, 32)
	gid, gidErr := strconv.ParseUint(postgres.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, errors.Join(uidErr, gidErr)
}

// makeFolder makes the folder with the server's certificate. PostgreSQL refuses a key that is another user's.
func (s *Server) makeFolder() error {
	if err := os.Mkdir(s.cfg.Folder, 0o700); err != nil {
		return err
	}
	if err := s.cfg.Authority.Issue(s.cfg.Folder); err != nil {
		return err
	}
	if s.account == nil {
		return nil
	}
	var errs []error
	for _, path := range []string{s.cfg.Folder, s.file("server.crt"), s.file("server.key")} {
		errs = append(errs, os.Chown(path, int(s.account.Uid), int(s.account.Gid)))
	}
	return errors.Join(errs...)
}

func (s *Server) file(name string) string { return filepath.Join(s.cfg.Folder, name) }

// command is prepared to run one of the server's programs with nothing of our environment: PGDATA and the like would
// change what it does. The group of its own keeps the terminal's Ctrl-C from it.
func (s *Server) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = s.cfg.Folder
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: s.account}
	return cmd
}

func (s *Server) initdb(ctx context.Context) error {
	cmd := s.command(ctx, s.cfg.Programs.Initdb, "--pgdata", s.file("data"), "--username", Superuser,
		"--no-sync", "--auth", "trust", "--locale", "C", "--encoding", "UTF8")
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // its children too
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, output)
	}
	// The files are there already, so they keep their owner.
	hba := "local   all " + Superuser + " trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n"
	return os.WriteFile(s.file("data/pg_hba.conf"), []byte(hba), 0o600)
}

// start runs the server until Stop. Settings are arguments: none of them needs quotes.
func (s *Server) start(ctx context.Context) error {
	log, err := os.OpenFile(s.file("log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // the child has its own
	line := append(append([]string{}, s.cfg.Prefix...), s.cfg.Programs.Postgres, "-D", s.file("data"))
	for _, setting := range append([]string{
		"port=" + strconv.Itoa(s.Port), "listen_addresses=127.0.0.1", "unix_socket_directories=" + s.cfg.Folder,
		"ssl=on", "ssl_cert_file=" + s.file("server.crt"), "ssl_key_file=" + s.file("server.key"),
		"timezone=UTC", "log_timezone=UTC", "shared_buffers=16MB",
		"fsync=off", "full_page_writes=off", // it will never be started again
	}, s.cfg.Settings...) {
		line = append(line, "-c", setting)
	}
	cmd := s.command(context.WithoutCancel(ctx), line[0], line[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	s.process, s.exited = cmd.Process, make(chan struct{})
	go func() {
		_ = cmd.Wait() // however it ends, its log says why
		close(s.exited)
	}()
	return nil
}

// awaitReady returns when the server takes connections.
func (s *Server) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		conn, err := s.Connect(ctx, Superuser)
		if err == nil {
			s.Version, _, _ = strings.Cut(conn.PgConn().ParameterStatus("server_version"), " ")
			return conn.Close(ctx)
		}
		select {
		case <-s.exited:
			log, _ := os.ReadFile(s.file("log"))
			return fmt.Errorf("it ended at once; its log:\n%s", log)
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Exited is closed when the server has ended.
func (s *Server) Exited() <-chan struct{} { return s.exited }

// Stop ends the server at once, with all its backends: its data is not needed any more.
func (s *Server) Stop() error {
	if err := s.process.Signal(syscall.SIGQUIT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stopping PostgreSQL: %w", err)
	}
	select {
	case <-s.exited:
		return nil
	case <-time.After(stopTimeout):
		return errors.Join(fmt.Errorf("PostgreSQL did not stop within %v", stopTimeout), s.process.Kill())
	}
}

// Connect logs in as the superuser.
func (s *Server) Connect(ctx context.Context, database string) (*pgx.Conn, error) {
	address := url.URL{Scheme: "postgres", Path: "/" + database, RawQuery: url.Values{
		"host": {s.cfg.Folder}, "port": {strconv.Itoa(s.Port)}, "user": {Superuser}, "sslmode": {"disable"},
	}.Encode()}
	return pgx.Connect(ctx, address.String())
}

// Exec runs statements as the superuser.
func (s *Server) Exec(ctx context.Context, database string, statements ...string) error {
	conn, err := s.Connect(ctx, database)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for _, statement := range statements {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// FreePort returns a port that nobody listens on. It is below the range from which systems take the ports of outgoing
// connections, so that none of those takes it before we do.
func FreePort(ctx context.Context) (int, error) {
	for {
		port := 20000 + rand.IntN(12000) //nolint:gosec // not a secret
		var listen net.ListenConfig
		listener, err := listen.Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			return port, listener.Close()
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return 0, fmt.Errorf("looking for a free port: %w", err)
		}
	}
}
