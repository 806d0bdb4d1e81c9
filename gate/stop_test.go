package gate_test

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/gatetest"
	"github.com/hourgate/hourgate/internal/pgtest"
)

// SIGTERM while the server hangs: the program ends in bounded time, says which roles it leaves, and the next start settles
// them.
func TestStopWhileTheServerHangs(t *testing.T) {
	t.Parallel()
	server := pgtest.New(t, 18, pgtest.Options{})
	g := gatetest.New(t, server.Database(t))
	config := g.Configure(t, gatetest.Options{Grants: gatetest.Grant("inc-1"), Config: map[string]string{"drain_timeout": "1s"}})
	process := gatetest.StartProcess(t, g, config)
	idle, busy := g.Connect(t, "orders"), g.Connect(t, "orders")
	role := g.Roles(t)[0]
	if _, err := busy.Exec(t.Context(), "BEGIN"); err != nil {
		t.Fatal(err)
	}
	wake := server.Hang(t)
	stopped := time.Now()
	if err := process.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_, err := idle.WaitForNotification(t.Context())
	wantFatal(t, err, "57P01", "terminating connection: the gate is shutting down")
	_, err = busy.WaitForNotification(t.Context())
	wantFatal(t, err, "57P01", "terminating connection: the gate is shutting down")
	if err := process.Wait(); err != nil {
		t.Errorf("the process ended with %v", err)
	}
	// A second for the drain, ten for the roles, two to say goodbye to a server that does not answer.
	if took := time.Since(stopped); took > 17*time.Second {
		t.Errorf("the program ended after %v", took)
	}
	if log := g.Logs.String(); !strings.Contains(log, `"msg":"role is left to the next start"`) || !strings.Contains(log, role) {
		t.Errorf("the log does not name %s:\n%s", role, log)
	}
	named := 0
	for _, r := range g.Records(t, audit.RoleSettleFailed) {
		if r.Role == role && strings.Contains(r.Error, "the next one goes on") {
			named++
		}
	}
	if named != 1 {
		t.Errorf("%d records name the role that is left, want 1", named)
	}

	wake()
	process = gatetest.StartProcess(t, g, config)
	// If the server has not noticed yet that the sessions are gone, the gate of before is believed to be alive for 15 seconds.
	eventually.Within(t, time.Minute, "the next start settles it", func() bool { return len(g.Roles(t)) == 0 })
	if err := process.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := process.Wait(); err != nil {
		t.Errorf("the process ended with %v", err)
	}
}

// SIGHUP reloads until the process is gone. One that dies of it has not ended as it should, and systemd takes it for ended.
func TestStopInAStormOfHangups(t *testing.T) {
	t.Parallel()
	g := gatetest.New(t, pgtest.Start(t, 18).Database(t))
	process := gatetest.StartProcess(t, g, g.Configure(t, gatetest.Options{Grants: gatetest.Grant("inc-1"), Config: map[string]string{"drain_timeout": "1s"}}))
	g.Connect(t, "orders")
	gone, stormed := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stormed)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				_ = process.Process.Signal(syscall.SIGHUP)
			case <-gone:
				return
			}
		}
	}()
	if err := process.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if err := process.Wait(); err != nil {
		t.Errorf("the process ended with %v", err)
	}
	close(gone)
	<-stormed
}
