package gate_test

import (
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

	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/gatetest"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/internal/testdisk"
)

// stubborn runs for a minute, whoever cancels it.
const stubborn = "DO $$ BEGIN FOR i IN 1..1200 LOOP BEGIN PERFORM pg_sleep(0.05); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$"

// leftover is a gate that was killed while Alice's statement ran.
type leftover struct {
	*gatetest.Gate
	config  string
	process *exec.Cmd
	until   time.Time
	super   *pgx.Conn
}

// leaveStatement runs a gate as a process, and kills it while a statement runs. Before that, before is called.
func leaveStatement(t *testing.T, g *gatetest.Gate, lasts time.Duration, options gatetest.Options, before func()) leftover {
	t.Helper()
	l := leftover{Gate: g, super: g.DB.Superuser(t), config: g.Configure(t, options)}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the gate:\n%s", g.Logs)
		}
	})
	l.process = gatetest.StartProcess(t, g, l.config)
	l.until = time.Now().Add(lasts) // the clock of the grant runs once the gate does
	g.SetGrants(t, gatetest.Grant("work", "access", "READ_WRITE", "until", l.until.UTC().Format(time.RFC3339Nano)))
	var conn *pgx.Conn
	eventually.True(t, "Alice is let in", func() (in bool) {
		var err error
		conn, err = g.TryConnect(t, gatetest.Alice, gatetest.AlicePassword, "orders")
		return err == nil
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _, _ = conn.Exec(ctx, stubborn) }()
	t.Cleanup(func() { cancel(); <-ended })
	awaitHeld(t, l, 1)
	before()
	_ = l.process.Process.Kill()
	return l
}

// held counts Alice's sessions, and her roles that can log in.
func (l leftover) held(t *testing.T) (n int) {
	t.Helper()
	err := l.super.QueryRow(t.Context(), `SELECT count(*) FROM pg_roles r WHERE rolname ~ '^hg_' AND shobj_description(oid, 'pg_authid') LIKE '%' || $1 || '%'
		AND (EXISTS (SELECT FROM pg_stat_activity WHERE usesysid = r.oid AND query ~ '^DO') OR rolcanlogin AND rolvaliduntil > clock_timestamp())`, l.Deployment()).Scan(&n)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func awaitHeld(t *testing.T, l leftover, want int) {
	t.Helper()
	eventually.Within(t, 15*time.Second, fmt.Sprintf("%d roles are in use or could be", want), func() bool { return l.held(t) == want })
}

// serve runs a gate that is expected to end by itself.
func (l leftover) serve(t *testing.T) (said string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, gatetest.Binary(t), "serve", "--config", l.config)
	out, err := cmd.CombinedOutput()
	t.Logf("serve: %v\n%s", err, out)
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return string(out), err
}

// A gate that can't open, because something of its own is broken, ends what the one before it has left.
func TestAccessEndsThoughTheGateCannotOpen(t *testing.T) {
	t.Parallel()
	db := pgtest.Start(t, 18)
	write := func(file, content string) error {
		f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString(content)
		return errors.Join(err, f.Close())
	}
	advice := map[string]string{
		"trail": "move it away", "spool": "move it away", "state": "restore a copy", "locks": "mend it", "policy": "policy.yaml:", "configuration": "noise", "port": "address already in use",
	}
	for name, shatter := range map[string]func(t *testing.T, l leftover) error{
		"trail": func(_ *testing.T, l leftover) error { return write(filepath.Join(l.Folder, "trail.jsonl"), "noise\n") },
		"spool": func(_ *testing.T, l leftover) error {
			return os.WriteFile(filepath.Join(l.Folder, "trail.jsonl.spool"), []byte(strings.Repeat("noise ", 10_000)), 0o600)
		},
		"state": func(_ *testing.T, l leftover) error {
			state := filepath.Join(l.Folder, "state.db")
			return errors.Join(os.Remove(state+"-wal"), os.WriteFile(state, []byte(strings.Repeat("noise ", 1000)), 0o600))
		},
		"locks": func(_ *testing.T, l leftover) error {
			return os.WriteFile(filepath.Join(l.Folder, "trail.jsonl.locks"), nil, 0o600)
		},
		"policy": func(_ *testing.T, l leftover) error {
			return write(filepath.Join(l.Folder, "policy.yaml"), "noise: [\n")
		},
		"configuration": func(_ *testing.T, l leftover) error { return write(l.config, "noise: 1\n") },
		"port": func(t *testing.T, l leftover) error {
			taken, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			t.Cleanup(func() { _ = taken.Close() })
			l.Reconfigure(t, l.config, "listen: 127.0.0.1:0", "listen: "+taken.Addr().String())
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := gatetest.New(t, db.Database(t))
			l := leaveStatement(t, g, 5*time.Second, gatetest.Options{Config: map[string]string{"state": "{file: state.db}"}}, func() {})
			_ = l.process.Wait() // until it has let go of its files
			if err := shatter(t, l); err != nil {
				t.Fatal(err)
			}
			if said, err := l.serve(t); err == nil || errors.Is(err, context.DeadlineExceeded) || !strings.Contains(said, advice[name]) {
				t.Errorf("a gate that can't open ended with: %v, and does not say %q", err, advice[name])
			}
			if n := l.held(t); n > 0 {
				t.Errorf("%d roles are in use, or could be", n)
			}
		})
	}
}

// A gate that was killed while its trail's disk is frozen is followed by one that can't open before the thaw, and ends access all the
// same; whether or not a thread of the first sleeps in the disk, and so keeps its files and connections.
func TestAccessEndsThoughTheTrailIsFrozen(t *testing.T) {
	t.Parallel()
	for name, asleep := range map[string]bool{"killed": false, "killed with a thread that sleeps": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := testdisk.New(t)
			g := gatetest.New(t, pgtest.Start(t, 15).Database(t))
			if err := os.Symlink(filepath.Join(disk.Folder, "trail.jsonl"), filepath.Join(g.Folder, "trail.jsonl")); err != nil {
				t.Fatal(err)
			}
			l := leaveStatement(t, g, 5*time.Second, gatetest.Options{}, func() {
				disk.Freeze()
				if asleep {
					_, _ = g.TryConnect(t, gatetest.Bob, "wrong", "orders") // is recorded
				}
			})
			done := make(chan struct{})
			ctx, cancel := context.WithCancel(t.Context())
			go func() { // as a service manager does
				defer close(done)
				for ctx.Err() == nil {
					_ = exec.CommandContext(ctx, gatetest.Binary(t), "serve", "--config", l.config).Run()
				}
			}()
			eventually.True(t, "the grant is over", func() bool { return !time.Now().Before(l.until) })
			awaitHeld(t, l, 0)
			if late := time.Since(l.until); late > 12*time.Second {
				t.Errorf("access ended %v late", late)
			}
			disk.Thaw()
			cancel()
			<-done
		})
	}
}
