package pgtest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	startTimeout = time.Minute
	stopTimeout  = time.Minute
	pollInterval = 10 * time.Millisecond

	// silence is how long a server may take to its first line in the log, which is its version. One that hung before that was
	// seen once: it is started again.
	silence = 15 * time.Second
)

// errBusy says that a server could not start because something is still in use, and may start later.
var errBusy = errors.New("port or data directory in use")

// postmaster is PostgreSQL's word for the main process of a server.
type postmaster struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when the process is gone
}

// start starts the server. It waits for what the last backends of a killed postmaster still hold; a
// server that was never up takes another port if somebody was faster.
func (s *Server) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for deadline := time.Now().Add(startTimeout); ; time.Sleep(pollInterval) {
		if !s.started {
			s.Port = FreePort()
		}
		err := s.startOnce()
		if err == nil {
			s.started = true
			return nil
		}
		if !errors.Is(err, errBusy) || time.Now().After(deadline) {
			return err
		}
	}
}

func (s *Server) startOnce() error {
	program, err := serverProgram(s.Major, "postgres")
	if err != nil {
		return err
	}
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // the child has its own
	seen := len(s.Log())

	cmd := s.account.command(s.dir, program, "-D", s.dataDir(), "-p", strconv.Itoa(s.Port))
	cmd.Stdout, cmd.Stderr = log, log
	if err := start(cmd); err != nil {
		return err
	}
	s.postmaster = &postmaster{cmd: cmd, exited: make(chan struct{})}
	go background(s.postmaster.reap)

	if err := s.postmaster.awaitReady(s.dataDir(), func() bool { return len(s.Log()) > seen }); err != nil {
		return startError(err, s.Log()[seen:])
	}
	return nil
}

func startError(err error, log string) error {
	if strings.Contains(log, "Address already in use") || strings.Contains(log, "pre-existing shared memory block") {
		err = errBusy
	}
	return fmt.Errorf("%w; its log:\n%s", err, log)
}

func (p *postmaster) reap() {
	_ = p.cmd.Wait()
	close(p.exited)
}

func (p *postmaster) awaitReady(dataDir string, spoke func() bool) error {
	timeout, silent := time.After(startTimeout), time.After(silence)
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	for {
		select {
		case <-p.exited:
			return fmt.Errorf("the server ended: %s", p.cmd.ProcessState)
		case <-timeout:
			return errors.Join(errors.New("the server is not ready in time"), p.stop(syscall.SIGKILL))
		case <-silent:
			if !spoke() {
				return errors.Join(errBusy, p.stop(syscall.SIGKILL))
			}
		case <-poll.C:
			if p.ready(dataDir) {
				return nil
			}
		}
	}
}

// ready reads what pg_ctl reads: the first line of postmaster.pid is the process ID, the eighth its
// state. [PostgreSQL src/include/utils/pidfile.h]
func (p *postmaster) ready(dataDir string) bool {
	text, err := os.ReadFile(filepath.Join(dataDir, "postmaster.pid"))
	if err != nil {
		return false
	}
	lines := strings.Split(string(text), "\n")
	return len(lines) >= 8 &&
		lines[0] == strconv.Itoa(p.cmd.Process.Pid) &&
		strings.TrimSpace(lines[7]) == "ready"
}

// stop is without effect on a server that does not run.
func (s *Server) stop(mode StopMode) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.postmaster == nil {
		return nil
	}
	return s.postmaster.stop(syscall.Signal(mode))
}

func (p *postmaster) stop(signal syscall.Signal) error {
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.exited:
		return nil
	case <-time.After(stopTimeout):
		return fmt.Errorf("still running %v after %v", stopTimeout, signal)
	}
}

// FreePort returns a port that nobody listens on. It is below the range from which Linux takes the ports
// of outgoing connections (32768 and up), so that none of those takes it before the server listens, or while it restarts.
func FreePort() int {
	for {
		port := 20000 + rand.IntN(12000)                                                      //nolint:gosec // not a secret
		listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))) //nolint:noctx // immediate
		if err == nil {
			_ = listener.Close()
			return port
		}
	}
}
