package gate_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/gatetest"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/internal/testdisk"
)

const stateUnwritable = "the state of requests can't be"

// A state whose disk is full, and then one that can't be written any more, takes no request, and says so. What was granted
// goes on, also after a restart where there is room again; a lock ends it in either case.
func TestStateWithoutRoom(t *testing.T) {
	t.Parallel()
	disk := testdisk.NewSize(t, 16<<20)
	db := pgtest.Start(t, 17).Database(t)
	g := gatetest.New(t, db)
	config := g.Configure(t, gatetest.Options{Grants: accessFlow, Config: map[string]string{
		"state": "{file: " + filepath.Join(disk.Folder, "state.db") + "}", "role_linger": "0s",
	}})
	process := gatetest.StartProcess(t, g, config)
	stop := func() {
		_ = process.Process.Signal(os.Interrupt)
		_ = process.Wait()
	}
	t.Cleanup(stop)
	ask(t, g, gatetest.Alice, "state", "REQUEST READ_ONLY ON orders FOR '2 hours' REASON 'INC-1'")
	if got := ask(t, g, gatetest.Bob, "state", "APPROVE 1"); got != "active" {
		t.Fatal(got)
	}
	session := g.Connect(t, "orders")
	goesOn := func(when string) {
		t.Helper()
		if err := session.Ping(t.Context()); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		if conn, err := g.TryConnect(t, gatetest.Alice, gatetest.AlicePassword, "orders"); err != nil {
			t.Errorf("%s: %v", when, err)
		} else {
			_ = conn.Close(context.Background())
		}
	}

	free := disk.Fill()
	refused := ""
	for range 200 { // what is left of the log takes some
		if refused = ask(t, g, gatetest.Alice, "state", "REQUEST READ_WRITE ON orders REASON 'INC-2'"); refused != "pending" {
			break
		}
		ask(t, g, gatetest.Alice, "state", "END 2")
	}
	if !strings.Contains(refused, stateUnwritable) {
		t.Errorf("on a full disk: %s", refused)
	}
	goesOn("on a full disk")
	if got := ask(t, g, gatetest.Alice, "state", "SHOW REQUEST 1"); got != "active" {
		t.Errorf("read on a full disk: %s", got)
	}
	free()
	if got := ask(t, g, gatetest.Alice, "state", "REQUEST READ_WRITE ON orders REASON 'INC-3'"); got != "pending" {
		t.Errorf("with room again: %s", got)
	}
	_ = session.Close(context.Background())
	stop()
	process = gatetest.StartProcess(t, g, config)
	session = g.Connect(t, "orders")

	disk.Fail()
	if got := ask(t, g, gatetest.Alice, "state", "REQUEST READ_WRITE ON orders REASON 'INC-4'"); !strings.Contains(got, stateUnwritable) {
		t.Errorf("on a disk that failed: %s", got)
	}
	if err := session.Ping(t.Context()); err != nil {
		t.Errorf("on a disk that failed: %v", err)
	}
	if got := ask(t, g, gatetest.Bob, "result", "LOCK USER '"+gatetest.Alice+"' REASON 'enough'"); !strings.Contains(got, "is locked") {
		t.Errorf("locked: %s", got)
	}
	_, err := session.Exec(t.Context(), "SELECT pg_sleep(30)")
	var told *pgconn.PgError
	if !errors.As(err, &told) || told.Code != "57P01" || !strings.Contains(told.Detail, "enough") {
		t.Errorf("after the lock: %v", err)
	}
	eventually.True(t, "the role is gone", func() bool { return len(g.Roles(t)) == 0 })
}
