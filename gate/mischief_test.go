package gate_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"

	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/gatetest"
	"github.com/hourgate/hourgate/internal/pgtest"
)

// Whatever comes in place of the policy's file, sessions go on, the gate says so, and the next good file takes access away at once.
func TestWhatIsNoPolicy(t *testing.T) {
	t.Parallel()
	db := pgtest.Start(t, 16).Database(t)
	things := map[string]func(file string) error{
		"nothing":           os.Remove,
		"a folder":          func(file string) error { return os.Mkdir(file, 0o700) },
		"a loop of links":   func(file string) error { return os.Symlink(file, file) },
		"a link to nothing": func(file string) error { return os.Symlink(file+".gone", file) },
		"a device":          func(file string) error { return os.Symlink("/dev/zero", file) },
		"a gigabyte": func(file string) error {
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				return err
			}
			return os.Truncate(file, 1<<30)
		},
		"half of it": nil, // see below
	}
	for name, put := range things {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := gatetest.Start(t, db, gatetest.Options{Grants: gatetest.Grant("inc-1"), Deployment: "mischief-" + strings.ReplaceAll(name, " ", "-")})
			conn := g.Connect(t, "orders")
			file := filepath.Join(g.Folder, "policy.yaml")
			if put == nil {
				text, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				g.Write(t, "policy.yaml", string(text[:2*len(text)/3]))
			} else {
				if err := os.Remove(file); err != nil {
					t.Fatal(err)
				}
				if name != "nothing" {
					if err := put(file); err != nil {
						t.Fatal(err)
					}
				}
			}
			g.AwaitMetric(t, "hourgate_policy_last_reload_successful 0")
			if _, err := conn.Exec(t.Context(), "SELECT 1"); err != nil {
				t.Fatalf("the session ended: %v", err)
			}
			if again := g.Connect(t, "orders"); again.Close(t.Context()) != nil {
				t.Error("nobody can log in any more")
			}
			if err := os.RemoveAll(file); err != nil {
				t.Fatal(err)
			}
			g.SetGrants(t, gatetest.Grant("inc-2", "users", "["+gatetest.Bob+"]"))
			began := time.Now()
			_, err := conn.Exec(t.Context(), "SELECT pg_sleep(20)")
			wantFatal(t, err, pgerrcode.AdminShutdown, "terminating connection: your grant was withdrawn or changed")
			t.Logf("withdrawn after %v", time.Since(began))
		})
	}
}

// An end that moves to and fro, with another limit in between, ends the session at the last of them and not before.
func TestGrantMovesItsEndOften(t *testing.T) {
	t.Parallel()
	g := gatetest.Start(t, pgtest.Start(t, 14).Database(t), gatetest.Options{Grants: gatetest.Grant("inc-1")})
	conn := g.Connect(t, "orders")
	for n, ends := range []time.Duration{3 * time.Second, time.Hour, 2 * time.Second, 4 * time.Second, time.Hour, 3 * time.Second, 5 * time.Second, 2 * time.Hour, 4 * time.Second, time.Hour} {
		g.SetGrants(t, gatetest.Grant("inc-1", "until", time.Now().Add(ends).UTC().Format(time.RFC3339Nano), "max_sessions", fmt.Sprint(3+n%2)))
		if _, err := conn.Exec(t.Context(), "SELECT pg_sleep(0.6)"); err != nil {
			t.Fatalf("end %d: %v", n, err)
		}
	}
	if _, err := conn.Exec(t.Context(), "SELECT pg_sleep(5.5)"); err != nil {
		t.Fatalf("the session ended at one of the ends that had been moved: %v", err)
	}
	until := time.Now().Add(1500 * time.Millisecond)
	g.SetGrants(t, gatetest.Grant("inc-1", "until", until.UTC().Format(time.RFC3339Nano), "max_sessions", "2"))
	_, err := conn.Exec(t.Context(), "SELECT pg_sleep(20)")
	wantFatal(t, err, pgerrcode.AdminShutdown, "terminating connection: your grant has ended")
	if early := time.Until(until); early > 0 {
		t.Errorf("the session ended %v before the grant", early)
	}
	eventually.True(t, "no role is left", func() bool { return len(g.Roles(t)) == 0 })
}

// A second SIGTERM ends the gate at once, whatever it waits for, and the next one removes what was left.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	db := pgtest.Start(t, 15).Database(t)
	g := gatetest.New(t, db)
	config := g.Configure(t, gatetest.Options{Grants: gatetest.Grant("inc-1"), Config: map[string]string{"drain_timeout": "1h"}})
	process := gatetest.StartProcess(t, g, config)
	conn := g.Connect(t, "orders")
	if _, err := conn.Exec(t.Context(), "BEGIN; SELECT 1"); err != nil {
		t.Fatal(err)
	}
	if err := process.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually.True(t, "it drains", func() bool { return strings.Contains(g.Logs.String(), "draining") })
	began := time.Now()
	if err := process.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = process.Wait()
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the second signal took %v", took)
	}
	if len(g.Roles(t)) != 1 {
		t.Errorf("the first gate left %v, want one role", g.Roles(t))
	}
	g.SetGrants(t, "")
	gatetest.StartProcess(t, g, config)
	eventually.True(t, "no role is left", func() bool { return len(g.Roles(t)) == 0 })
}
