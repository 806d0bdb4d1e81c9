//go:build faults

package faults

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/gatetest"
)

// hangs is a fault in which system calls hang; see hang. While it lasts the gate is told to reload, to lock somebody out, and of
// another server, to which it gives a name.
func hangs(calls string, files ...string) func(r *rig) func() {
	return func(r *rig) (mend func()) {
		mend = hang(r.t, r.process.Process.Pid, calls, r.gate.Folder, files...)
		_ = r.process.Process.Signal(syscall.SIGHUP)
		r.find("first", "second")
		go r.lockOut()
		return mend
	}
}

// hang makes system calls of a process hang, as a network disk does that answers some of them and not others. The process knows
// nothing of it: strace(1) stops each thread that makes such a call, until the fault is mended. Files, if any are named, are those it
// is about, in a folder. It is an error if nothing has hung.
func hang(t *testing.T, pid int, calls, folder string, files ...string) (mend func()) {
	t.Helper()
	seen := filepath.Join(t.TempDir(), "strace")
	args := []string{
		"-f", "-p", fmt.Sprint(pid), "-o", seen,
		"-e", "trace=" + calls, "-e", fmt.Sprintf("inject=%s:delay_enter=%d", calls, time.Hour.Microseconds()),
	}
	for _, file := range files {
		args = append(args, "-P", filepath.Join(folder, file))
	}
	cmd := exec.Command(strace(), args...)
	said, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Errorf("strace: %v", err)
		return nil
	}
	lines := bufio.NewScanner(said)
	for lines.Scan() && !strings.Contains(lines.Text(), "attached") {
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for lines.Scan() {
		}
	}()
	return func() {
		_ = cmd.Process.Signal(syscall.SIGINT) // it lets all threads go on
		select {
		case <-gone:
		case <-time.After(5 * time.Second): // it does not, of a process that ends meanwhile
			_ = cmd.Process.Kill()
		}
		_ = cmd.Wait()
		if made, err := os.ReadFile(seen); err != nil || !strings.Contains(string(made), "(") {
			t.Errorf("nothing hung: %v\n%s", err, made)
		}
	}
}

// strace is the machine's, or that of `scripts/install faults`.
func strace() string {
	if program, err := exec.LookPath("strace"); err == nil {
		return program
	}
	return filepath.Join(cmp.Or(os.Getenv("HOURGATE_CACHE"), "/var/tmp/hourgate"), "faults", "bin", "strace")
}

// find writes the list of servers that are found. The gate writes down which names it has given them.
func (r *rig) find(names ...string) {
	var list strings.Builder
	for _, name := range names {
		fmt.Fprintf(&list, "- {name: %s, hostname: localhost, port: %d, database: %s, ssl_mode: verify-full, ssl_root_cert: %q, secret: {file: %q}}\n",
			name, r.upstream.port(), r.db.Name, r.db.Server.CAFile, filepath.Join(r.gate.Folder, "secret.json"))
	}
	next := r.gate.Write(r.t, "servers.yaml.new", list.String())
	if err := os.Rename(next, filepath.Join(r.gate.Folder, "servers.yaml")); err != nil {
		r.t.Error(err)
	}
}

// lockOut has the state and the file of locks written.
func (r *rig) lockOut() {
	ctx, cancel := context.WithTimeout(context.Background(), hangLimit)
	defer cancel()
	conn, err := pgx.Connect(ctx, fmt.Sprintf("host=localhost port=%s user=%s password='%s' dbname=hourgate sslmode=verify-full sslrootcert=%s",
		r.gate.Addr[strings.LastIndex(r.gate.Addr, ":")+1:], gatetest.Bob, gatetest.BobPassword, r.gate.CA))
	if err != nil {
		return // its record may hang
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "LOCK USER '"+gatetest.Bob+"' REASON 'a disk hangs'"); ctx.Err() != nil {
		r.t.Errorf("LOCK was not answered: %v", err)
	}
}
