package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/verifier"
)

//go:embed demo_orders.sql
var demoOrdersSQL string

const (
	demoSuperuser    = "postgres"
	demoStartTimeout = 30 * time.Second
	demoStopTimeout  = 10 * time.Second
)

// demoPrograms are the paths of PostgreSQL's programs.
type demoPrograms struct{ initdb, postgres, psql string }

// findDemoPrograms prefers PostgreSQL 15 as Debian installs it, then the newest other major, then what is on PATH.
func findDemoPrograms() (demoPrograms, error) {
	return findProgramsIn("/usr/lib/postgresql")
}

func findProgramsIn(debian string) (demoPrograms, error) {
	folders := []string{filepath.Join(debian, "15", "bin")}
	others, _ := filepath.Glob(filepath.Join(debian, "*", "bin")) // the pattern is good
	major := func(folder string) int { n, _ := strconv.Atoi(filepath.Base(filepath.Dir(folder))); return n }
	slices.SortFunc(others, func(a, b string) int { return major(b) - major(a) })
	folders = append(folders, others...)
	if initdb, err := exec.LookPath("initdb"); err == nil {
		folders = append(folders, filepath.Dir(initdb))
	}
	for _, folder := range folders {
		p := demoPrograms{initdb: filepath.Join(folder, "initdb"), postgres: filepath.Join(folder, "postgres"), psql: filepath.Join(folder, "psql")}
		if !executable(p.psql) {
			p.psql, _ = exec.LookPath("psql") // "" is not executable
		}
		if executable(p.initdb) && executable(p.postgres) && executable(p.psql) {
			return p, nil
		}
	}
	return demoPrograms{}, fmt.Errorf("no PostgreSQL server and psql on this machine, neither in %s nor on PATH; "+
		"run `make demo`, which installs them, or scripts/install postgresql-15", debian)
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// demoServer is a PostgreSQL for the demo alone. Everybody needs TLS and a password, but for the superuser, who has a
// socket in a folder that nobody else can enter.
type demoServer struct {
	programs demoPrograms
	folder   string
	account  *syscall.Credential // nil: ours
	port     int
	version  string
	process  *os.Process
	exited   chan struct{} // closed when the process is gone
}

// startDemoServer makes and starts a server in a folder that it creates. The caller stops it.
func startDemoServer(ctx context.Context, programs demoPrograms, authority *demoAuthority, folder string) (*demoServer, error) {
	s := &demoServer{programs: programs, folder: folder}
	var err error
	if s.account, err = demoServerAccount(); err != nil {
		return nil, err
	}
	if s.port, err = freePort(ctx); err != nil {
		return nil, err
	}
	if err := s.makeFolder(authority); err != nil {
		return nil, err
	}
	if err := s.initdb(ctx); err != nil {
		return nil, err
	}
	if err := s.start(ctx); err != nil {
		return nil, err
	}
	if err := s.awaitReady(ctx); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

// demoServerAccount is the user postgres for root, as whom PostgreSQL refuses to run.
func demoServerAccount() (*syscall.Credential, error) {
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
func (s *demoServer) makeFolder(authority *demoAuthority) error {
	if err := os.Mkdir(s.folder, 0o700); err != nil {
		return err
	}
	if err := authority.issue(s.folder); err != nil {
		return err
	}
	if s.account == nil {
		return nil
	}
	var errs []error
	for _, path := range []string{s.folder, s.file("server.crt"), s.file("server.key")} {
		errs = append(errs, os.Chown(path, int(s.account.Uid), int(s.account.Gid)))
	}
	return errors.Join(errs...)
}

func (s *demoServer) file(name string) string { return filepath.Join(s.folder, name) }

// command is prepared to run one of the server's programs with nothing of our environment: PGDATA and the like would
// change what it does. The group of its own keeps the terminal's Ctrl-C from it.
func (s *demoServer) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = s.folder
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: s.account}
	return cmd
}

func (s *demoServer) initdb(ctx context.Context) error {
	cmd := s.command(ctx, s.programs.initdb, "--pgdata", s.file("data"), "--username", demoSuperuser,
		"--no-sync", "--auth", "trust", "--locale", "C", "--encoding", "UTF8")
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // its children too
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, output)
	}
	// The files are there already, so they keep their owner.
	hba := "local   all " + demoSuperuser + " trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n"
	return os.WriteFile(s.file("data/pg_hba.conf"), []byte(hba), 0o600)
}

// start runs the server until stop. Settings are arguments: none of them needs quotes.
func (s *demoServer) start(ctx context.Context) error {
	log, err := os.OpenFile(s.file("log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // the child has its own
	args := []string{"-D", s.file("data")}
	for _, setting := range []string{
		"port=" + strconv.Itoa(s.port), "listen_addresses=127.0.0.1", "unix_socket_directories=" + s.folder,
		"ssl=on", "ssl_cert_file=" + s.file("server.crt"), "ssl_key_file=" + s.file("server.key"),
		"timezone=UTC", "log_timezone=UTC", "shared_buffers=16MB",
		"fsync=off", "full_page_writes=off", // it will never be started again
	} {
		args = append(args, "-c", setting)
	}
	cmd := s.command(context.WithoutCancel(ctx), s.programs.postgres, args...)
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
func (s *demoServer) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, demoStartTimeout)
	defer cancel()
	for {
		conn, err := s.connect(ctx, demoSuperuser)
		if err == nil {
			s.version, _, _ = strings.Cut(conn.PgConn().ParameterStatus("server_version"), " ")
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

// stop ends the server at once, with all its backends: its data is not needed any more.
func (s *demoServer) stop() error {
	if err := s.process.Signal(syscall.SIGQUIT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stopping PostgreSQL: %w", err)
	}
	select {
	case <-s.exited:
		return nil
	case <-time.After(demoStopTimeout):
		return errors.Join(fmt.Errorf("PostgreSQL did not stop within %v", demoStopTimeout), s.process.Kill())
	}
}

// connect logs in as the superuser.
func (s *demoServer) connect(ctx context.Context, database string) (*pgx.Conn, error) {
	address := url.URL{Scheme: "postgres", Path: "/" + database, RawQuery: url.Values{
		"host": {s.folder}, "port": {strconv.Itoa(s.port)}, "user": {demoSuperuser}, "sslmode": {"disable"},
	}.Encode()}
	return pgx.Connect(ctx, address.String())
}

// fill makes the users and the database as a DBA would before Hourgate is put in front of it.
func (s *demoServer) fill(ctx context.Context, passwords map[string]string) error {
	owner, admin := pgx.Identifier{demoOwner}.Sanitize(), pgx.Identifier{demoAdmin}.Sanitize()
	ownerVerifier, ownerErr := verifier.New(passwords[demoOwner], verifier.DefaultIterations)
	adminVerifier, adminErr := verifier.New(passwords[demoAdmin], verifier.DefaultIterations)
	if err := errors.Join(ownerErr, adminErr); err != nil {
		return err
	}
	err := s.exec(ctx, demoSuperuser,
		fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s'", owner, ownerVerifier.Encode()),
		fmt.Sprintf("CREATE ROLE %s LOGIN CREATEROLE NOSUPERUSER PASSWORD '%s'", admin, adminVerifier.Encode()),
		fmt.Sprintf("GRANT %s TO %s", owner, admin),
		fmt.Sprintf("CREATE DATABASE %s OWNER %s", pgx.Identifier{demoDatabase}.Sanitize(), owner))
	if err != nil {
		return err
	}
	return s.exec(ctx, demoDatabase, "SET ROLE "+owner, demoOrdersSQL)
}

// exec runs statements as the superuser.
func (s *demoServer) exec(ctx context.Context, database string, statements ...string) error {
	conn, err := s.connect(ctx, database)
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

// freePort returns a port that nobody listens on. It is below the range from which systems take the ports of outgoing
// connections, so that none of those takes it before we do.
func freePort(ctx context.Context) (int, error) {
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
