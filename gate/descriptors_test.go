package gate_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/gatetest"
	"github.com/hourgate/hourgate/internal/pgtest"
)

// A gate that may open 100 files. People fill it up and are told so; strangers can't fill it; and when at last nothing can be
// opened any more, access ends all the same, its record is written, the trail is rotated, and operators are answered.
func TestOutOfDescriptors(t *testing.T) {
	t.Parallel()
	db := pgtest.Start(t, 18).Database(t)
	g := gatetest.New(t, db)
	long, short := gatetest.Grant("long", "max_sessions", "100"), gatetest.Grant("short", "users", "["+gatetest.Bob+"]", "access", "READ_WRITE")
	config := g.Configure(t, gatetest.Options{Grants: long + short})
	program := g.Write(t, "limited", fmt.Sprintf("#!/bin/sh\nulimit -n 100\nexec %q \"$@\"\n", gatetest.Binary(t)))
	if err := os.Chmod(program, 0o700); err != nil {
		t.Fatal(err)
	}
	process := g.StartProgram(t, program, config)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the gate:\n%s", g.Logs)
		}
	})
	if !strings.Contains(g.Logs.String(), "the limit on open files here is") {
		t.Error("the log does not warn of the low limit")
	}

	// Strangers from two addresses take no more than half of the room, and people find the rest.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	session, err := g.TryConnect(t, gatetest.Bob, gatetest.BobPassword, "orders")
	if err != nil {
		t.Fatal(err)
	}
	stop := strangers(t, g.Addr, "127.0.0.2", "127.0.0.3")
	withdrawn := time.Now()
	g.SetGrants(t, long)
	_, err = session.WaitForNotification(ctx)
	wantFatal(t, err, "57P01", "terminating connection: your grant was withdrawn or changed")
	if late := time.Since(withdrawn); late > 5*time.Second {
		t.Errorf("a withdrawal took %v while strangers crowd in", late)
	}
	stop()
	g.SetGrants(t, long+short)

	// People are told that there is no room.
	session = eventuallyIn(t, g, gatetest.Bob, gatetest.BobPassword)
	sessions := fillUp(t, g)

	// Nothing can be opened at all but what is in reserve.
	pid := process.Process.Pid
	lowerLimit(t, pid)
	_, err = g.TryConnect(t, gatetest.Alice, gatetest.AlicePassword, "orders")
	wantFatal(t, err, "53300", "this gate has no room for another connection")
	trail := filepath.Join(g.Folder, "trail.jsonl")
	if err := os.Rename(trail, trail+".1"); err != nil {
		t.Fatal(err)
	}
	if err := process.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually.True(t, "the trail goes on in a new file", func() bool { _, err := os.Stat(trail); return err == nil })
	if _, err := db.Superuser(t).Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1`, db.Admin); err != nil {
		t.Fatal(err)
	}
	withdrawn = time.Now()
	g.SetGrants(t, long)
	_, err = session.WaitForNotification(ctx)
	wantFatal(t, err, "57P01", "terminating connection: your grant was withdrawn or changed")
	if late := time.Since(withdrawn); late > 5*time.Second {
		t.Errorf("a withdrawal took %v without descriptors", late)
	}
	eventually.True(t, "the role of the grant that was withdrawn is gone", func() bool { return len(g.Roles(t)) == 1 })
	eventually.True(t, "the end is in the new file of the trail", func() bool { return len(g.Records(t, audit.SessionEnd)) > 0 })
	if code, _ := g.Get(t, "/livez"); code != http.StatusOK {
		t.Errorf("/livez answers %d", code)
	}
	if _, err := sessions[0].Exec(t.Context(), "SELECT 1"); err != nil {
		t.Errorf("a session that was there: %v", err)
	}

	if err := process.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := process.Wait(); err != nil {
		t.Errorf("after SIGTERM the process ended with %v", err)
	}
	if left := g.Roles(t); len(left) > 0 {
		t.Errorf("left at the end: %v", left)
	}
	for line := range strings.Lines(g.Logs.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("a line of the log is no JSON: %s", line)
		}
	}
}

// A policy that changes while nothing at all can be opened, the reserve included, is read once that is over, although it does
// not change again.
func TestRevocationWhileNothingCanBeOpened(t *testing.T) {
	t.Parallel()
	db := pgtest.Start(t, 18).Database(t)
	g := gatetest.New(t, db)
	long, short := gatetest.Grant("long"), gatetest.Grant("short", "users", "["+gatetest.Bob+"]")
	process := gatetest.StartProcess(t, g, g.Configure(t, gatetest.Options{Grants: long + short}))
	session, err := g.TryConnect(t, gatetest.Bob, gatetest.BobPassword, "orders")
	if err != nil {
		t.Fatal(err)
	}
	limit := func(files int) {
		t.Helper()
		out, err := exec.Command("prlimit", fmt.Sprintf("--pid=%d", process.Process.Pid), fmt.Sprintf("--nofile=%d:", files)).CombinedOutput()
		if err != nil {
			t.Fatalf("prlimit: %v\n%s", err, out)
		}
	}
	limit(1)
	g.SetGrants(t, long)
	eventually.True(t, "the policy can't be read", func() bool { return strings.Contains(g.Logs.String(), "policy not reloaded") })
	limit(1000)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err = session.WaitForNotification(ctx)
	wantFatal(t, err, "57P01", "terminating connection: your grant was withdrawn or changed")
	if err := process.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := process.Wait(); err != nil {
		t.Errorf("after SIGTERM the process ended with %v", err)
	}
}

// fillUp opens sessions of Alice's until there is no room, as the gate says, and returns those that there are.
func fillUp(t *testing.T, g *gatetest.Gate) []*pgx.Conn {
	t.Helper()
	for sessions := []*pgx.Conn{}; ; {
		conn, err := g.TryConnect(t, gatetest.Alice, gatetest.AlicePassword, "orders")
		if err != nil {
			wantFatal(t, err, "53300", "this gate has no room for another connection")
			if len(sessions) < 5 {
				t.Errorf("room for %d sessions", len(sessions))
			}
			return sessions
		}
		if sessions = append(sessions, conn); len(sessions) > 50 {
			t.Fatal("100 files have room for 50 sessions")
		}
	}
}

// strangers connects from addresses of this machine again and again, and says nothing.
func strangers(t *testing.T, to string, from ...string) (stop func()) {
	t.Helper()
	done, ended := make(chan struct{}), make(chan struct{}, len(from))
	for _, address := range from {
		go func() {
			defer func() { ended <- struct{}{} }()
			dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}, Timeout: time.Second}
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				conn, err := dialer.Dial("tcp", to)
				if err != nil {
					continue
				}
				defer conn.Close()
				if n > 200 {
					_ = conn.Close()
				}
			}
		}()
	}
	return func() {
		close(done)
		for range from {
			<-ended
		}
	}
}

// eventuallyIn logs somebody in once there is room.
func eventuallyIn(t *testing.T, g *gatetest.Gate, user, password string) (conn *pgx.Conn) {
	t.Helper()
	eventually.True(t, user+" gets in", func() bool {
		var err error
		conn, err = g.TryConnect(t, user, password, "orders")
		return err == nil
	})
	return conn
}

// lowerLimit lets a process open nothing more: every number below the limit is taken.
func lowerLimit(t *testing.T, pid int) {
	t.Helper()
	limit := 0
	for {
		if _, err := os.Lstat(fmt.Sprintf("/proc/%d/fd/%d", pid, limit)); err != nil {
			break
		}
		limit++
	}
	if out, err := exec.Command("prlimit", fmt.Sprintf("--pid=%d", pid), fmt.Sprintf("--nofile=%d:", limit)).CombinedOutput(); err != nil {
		t.Fatalf("prlimit: %v\n%s", err, out)
	}
	t.Logf("the limit is %d now", limit)
}
