package pgtest

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// Servers do not live in os.TempDir: that can be too long for the path of a Unix socket (107 bytes), or be closed to the
// user that they run as. They live in memory where there is plenty: a database is 300 files, which a busy disk takes a
// second to make, and memory a fifth of that.
const (
	diskDir   = "/tmp"
	memoryDir = "/dev/shm"
	plenty    = 8 << 30 // bytes. A whole run of all tests takes 2 GiB at its peak
)

// runsDir is the folder for new runs.
func runsDir() string {
	var fs syscall.Statfs_t
	if syscall.Statfs(memoryDir, &fs) == nil && uint64(fs.Bavail)*uint64(fs.Bsize) >= plenty && availableMemory() >= plenty { //nolint:gosec,unconvert // types differ by system
		return memoryDir
	}
	return diskDir
}

// availableMemory is what Linux says that processes can have, in bytes. Elsewhere it is 0.
func availableMemory() (bytes uint64) {
	text, _ := os.ReadFile("/proc/meminfo")
	for line := range strings.Lines(string(text)) {
		if _, err := fmt.Sscanf(line, "MemAvailable: %d kB", &bytes); err == nil {
			return bytes << 10
		}
	}
	return 0
}

// current is set by Main before any test runs, and never changed after.
var current *testRun

// testRun is what one test binary owns.
type testRun struct {
	dir       string
	lock      *os.File // holds the flock on dir that says that its owner is alive
	authority *Authority
	shared    map[int]func() (*Server, error) // by major; each starts its server at the first call

	mu      sync.Mutex
	servers map[*Server]struct{} // all that may be running
}

// Main runs the tests of a package, stops every server that they started, and exits. It is all that a
// TestMain does; whatever the package has to do before the tests comes before the call.
func Main(m *testing.M) {
	os.Exit(Run(m))
}

// Run is Main for those who exit themselves, with the code that it returns.
func Run(m *testing.M) int {
	run, err := newRun()
	if err != nil {
		fmt.Fprintln(os.Stderr, "pgtest:", err)
		return 1
	}
	defer run.close()
	current = run
	go background(run.closeOnSignal)
	return m.Run()
}

// Folder is this run's own, for what tests share. It goes when they end.
func Folder() string { return current.dir }

// IgnoreGoroutines returns the option with which a goroutine-leak check overlooks the goroutines that
// watch over running servers.
func IgnoreGoroutines() goleak.Option {
	return goleak.IgnoreAnyFunction("github.com/hourgate/hourgate/internal/pgtest.background")
}

// background is where every goroutine of this package starts, so that IgnoreGoroutines knows them.
func background(f func()) { f() }

func newRun() (*testRun, error) {
	removeStaleRuns()
	dir, err := os.MkdirTemp(runsDir(), "hourgate-pg-")
	if err != nil {
		return nil, err
	}
	// The user postgres has to get through to the directories of its servers.
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // holds no secrets itself
		return nil, err
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	authority, err := newAuthority(dir)
	if err != nil {
		return nil, err
	}
	run := &testRun{dir: dir, lock: lock, authority: authority, servers: make(map[*Server]struct{})}
	run.shared = make(map[int]func() (*Server, error))
	for _, major := range Majors() {
		run.shared[major] = sync.OnceValues(func() (*Server, error) { return run.newServer(major, Options{}) })
	}
	return run, nil
}

func (r *testRun) closeOnSignal() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	<-signals
	r.close()
	os.Exit(130)
}

// close stops all servers at once and removes their directories. Errors have nobody to go to: what
// stays behind, the next run removes.
func (r *testRun) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	var stopping sync.WaitGroup
	for server := range r.servers {
		stopping.Go(func() { _ = server.stop(Immediate) })
	}
	stopping.Wait()
	_ = os.RemoveAll(r.dir)
	_ = r.lock.Close()
}

func (r *testRun) add(s *Server) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.servers[s] = struct{}{}
}

func (r *testRun) remove(s *Server) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.servers, s)
}

// removeStaleRuns removes the directories of test binaries that died before they could.
func removeStaleRuns() {
	onDisk, _ := filepath.Glob(filepath.Join(diskDir, "hourgate-pg-*"))
	inMemory, _ := filepath.Glob(filepath.Join(memoryDir, "hourgate-pg-*"))
	for _, dir := range append(onDisk, inMemory...) {
		info, err := os.Stat(dir)
		// A directory this young may belong to a run that is about to lock it.
		if err != nil || time.Since(info.ModTime()) < time.Minute {
			continue
		}
		if lock, err := lockDir(dir); err == nil {
			_ = os.RemoveAll(dir)
			_ = lock.Close()
		}
	}
}

// lockDir fails if another process holds the lock. A process that dies lets go of it; child processes
// don't inherit it, since Go closes its files on exec.
func lockDir(dir string) (*os.File, error) {
	file, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", dir, err), file.Close())
	}
	return file, nil
}
