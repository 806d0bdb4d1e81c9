//go:build faults

package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/gatetest"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/internal/testdisk"
)

const (
	drains    = time.Second      // drain_timeout
	stopLimit = 30 * time.Second // and ten seconds for the roles, three to say goodbye, six for what runs beside, ten for the trail
)

// stopping is a gate with a file of its own on a disk that is frozen.
type stopping struct {
	t       *testing.T
	gate    *gatetest.Gate
	disk    *testdisk.Disk
	config  string
	process *exec.Cmd
	pid     int
}

// A stop ends, and access with it, although a disk does not answer. The log says what is left, nothing is lost, and the status
// says that something was amiss. A thread that sleeps in a frozen file system can't be killed: the kernel keeps what is left of the
// process until the thaw, with its lock on the trail.
func TestStopWhileADiskIsFrozen(t *testing.T) {
	gatetest.Binary(t)
	for _, c := range []struct{ name, says string }{
		{"trail", "the gate stops while the trail's disk does not answer"},
		{"state", "the state could not be closed as it should"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newStopping(t, c.name)
			session := s.connect("orders")
			s.exec(session, "/* before */ SELECT 1")
			s.disk.Freeze()
			t.Cleanup(s.disk.Thaw)
			go s.lock() // has both disks written to
			eventually.True(t, "somebody waits for the disk", func() bool { return waits(s.pid) })
			s.exec(session, "/* meanwhile */ SELECT 1")
			began := time.Now()
			_ = s.process.Process.Signal(syscall.SIGTERM)
			eventually.Within(t, drains+stopLimit, "the log says what is left", func() bool { return strings.Contains(s.gate.Logs.String(), c.says) })
			eventually.True(t, "nothing of the process runs any more", func() bool { return strings.Trim(states(s.pid), "ZXD") == "" })
			t.Logf("stopped after %v; what is left are threads in the states %s", time.Since(began).Round(10*time.Millisecond), states(s.pid))
			if conn, err := net.Dial("tcp", s.gate.Addr); err == nil {
				_ = conn.Close()
				t.Error("somebody still listens")
			}
			s.wantNoPower()
			s.wantLocked(c.name)
			s.disk.Thaw()
			err := s.process.Wait()
			var status *exec.ExitError
			if !errors.As(err, &status) || status.ExitCode() != 1 {
				t.Errorf("the process ended with %v, want status 1", err)
			}
			s.wantWhole()
		})
	}
}

// A stop ends although a disk answers no fsync, no rename or no unlink.
func TestStopWhileADiskHangs(t *testing.T) {
	gatetest.Binary(t)
	for name, calls := range map[string]string{"fsync": "fsync,fdatasync", "rename": "rename,renameat,renameat2", "unlink": "unlink,unlinkat"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStopping(t, "nowhere")
			session := s.connect("orders")
			s.exec(session, "/* before */ SELECT 1")
			mend := hang(t, s.pid, calls, "")
			s.lock()
			s.exec(session, "/* meanwhile */ SELECT 1")
			began := time.Now()
			_ = s.process.Process.Signal(syscall.SIGTERM)
			// Threads that strace has stopped are t: it does not let go of them, though they have been killed.
			eventually.Within(t, drains+stopLimit, "nothing of the process runs any more", func() bool { return strings.Trim(states(s.pid), "ZXt") == "" })
			took := time.Since(began)
			mend()
			err := s.process.Wait()
			t.Logf("stopped after %v: %v", took.Round(10*time.Millisecond), err)
			if err == nil {
				t.Error("the status does not say that something was amiss")
			}
			s.wantNoPower()
			s.wantWhole()
		})
	}
}

func newStopping(t *testing.T, on string) *stopping {
	t.Helper()
	s := &stopping{t: t, gate: gatetest.New(t, pgtest.New(t, 17, pgtest.Options{}).Database(t)), disk: testdisk.New(t)}
	state := filepath.Join(s.gate.Folder, "state.db")
	trail := filepath.Join(s.gate.Folder, "trail.jsonl")
	switch on {
	case "state":
		state = filepath.Join(s.disk.Folder, "state.db")
	case "trail":
		if err := os.Symlink(filepath.Join(s.disk.Folder, "trail.jsonl"), trail); err != nil {
			t.Fatal(err)
		}
	}
	s.config = s.gate.Configure(t, gatetest.Options{
		Grants: gatetest.Grant("work") + "operators: {users: [" + gatetest.Bob + "]}\n",
		Config: map[string]string{"drain_timeout": drains.String(), "state": "{file: " + state + "}"},
	})
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the gate:\n%s", s.gate.Logs)
		}
	})
	s.start()
	return s
}

func (s *stopping) start() {
	s.t.Helper()
	s.process = gatetest.StartProcess(s.t, s.gate, s.config)
	s.pid = s.process.Process.Pid
}

func (s *stopping) connect(database string) *pgx.Conn {
	s.t.Helper()
	conn := s.gate.Connect(s.t, database)
	return conn
}

func (s *stopping) exec(conn *pgx.Conn, statement string) {
	s.t.Helper()
	if _, err := conn.Exec(s.t.Context(), statement); err != nil {
		s.t.Errorf("%s: %v", statement, err)
	}
}

// lock locks somebody out, which is written into the state and beside the trail.
func (s *stopping) lock() {
	conn, err := s.gate.TryConnect(s.t, gatetest.Bob, gatetest.BobPassword, "hourgate")
	if err == nil {
		_, _ = conn.Exec(context.Background(), "LOCK USER '"+gatetest.Bob+"' REASON 'enough'")
		_ = conn.Close(context.Background())
	}
}

// states has a letter for each thread of a process; see proc_pid_stat(5).
func states(pid int) string {
	var all strings.Builder
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, thread := range threads {
		stat, _ := os.ReadFile(thread)
		if _, state, found := bytes.Cut(stat, []byte(") ")); found {
			all.WriteByte(state[0])
		}
	}
	return all.String()
}

// waits reports whether a thread of a process waits until a file system is thawed.
func waits(pid int) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/wchan", pid))
	return slices.ContainsFunc(threads, func(thread string) bool {
		where, _ := os.ReadFile(thread)
		return bytes.Contains(where, []byte("percpu_rwsem"))
	})
}

// wantNoPower asks the server whether access has ended.
func (s *stopping) wantNoPower() {
	s.t.Helper()
	var power int
	err := s.gate.DB.Superuser(s.t).QueryRow(s.t.Context(), `SELECT (SELECT count(*) FROM pg_stat_activity WHERE usename ~ '^hg_' AND datname = current_database())
		+ (SELECT count(*) FROM pg_roles WHERE rolname ~ '^hg_' AND rolcanlogin)`).Scan(&power)
	if err != nil || power > 0 {
		s.t.Errorf("after the stop %d sessions and log-ins are left, %v", power, err)
	}
}

// wantLocked starts another gate, which must not write to what the kernel still keeps, and has to say why.
func (s *stopping) wantLocked(on string) {
	s.t.Helper()
	if on != "trail" {
		return
	}
	_ = s.process.Process.Kill() // as a service manager does; to no effect
	ctx, cancel := context.WithTimeout(s.t.Context(), stopLimit)
	defer cancel()
	out, err := exec.CommandContext(ctx, gatetest.Binary(s.t), "serve", "--config", s.config).CombinedOutput()
	if err == nil || ctx.Err() != nil || !strings.Contains(string(out), audit.ErrLocked.Error()) {
		s.t.Errorf("another start: %v\n%s", err, out)
	}
}

// wantWhole starts the gate again, stops it, and looks into the trail.
func (s *stopping) wantWhole() {
	s.t.Helper()
	s.start()
	super := s.gate.DB.Superuser(s.t)
	eventually.True(s.t, "no role is left", func() bool {
		n, err := count(super, `SELECT count(*) FROM pg_roles WHERE rolname ~ '^hg_'`)
		return err == nil && n == 0
	})
	_ = s.process.Process.Signal(syscall.SIGTERM)
	if err := s.process.Wait(); err != nil {
		s.t.Errorf("the next gate: %v\n%s", err, s.gate.Logs)
	}
	content, err := os.ReadFile(filepath.Join(s.gate.Folder, "trail.jsonl"))
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := audit.Verify(bytes.NewReader(content)); err != nil {
		s.t.Errorf("the trail: %v", err)
	}
	for _, want := range []string{"/* before */", "/* meanwhile */", `"event":"session_end"`, `"event":"proxy_stopped"`} {
		if !bytes.Contains(content, []byte(want)) {
			s.t.Errorf("the trail has no %s:\n%s", want, content)
		}
	}
}

func count(conn *pgx.Conn, query string) (n int, err error) {
	return n, conn.QueryRow(context.Background(), query).Scan(&n)
}
