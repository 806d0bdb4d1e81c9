package gate_test

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hourgate/hourgate/internal/gatetest"
	"github.com/hourgate/hourgate/internal/pgtest"
)

// Two gates share one state in PostgreSQL. Either is killed at every step, and the other goes on with what was said.
func TestReplicas(t *testing.T) {
	t.Parallel()
	db := pgtest.Start(t, 17).Database(t)
	state := pgtest.Start(t, 17).Database(t)
	type replica struct {
		*gatetest.Gate
		config  string
		process *exec.Cmd
	}
	open := func() *replica {
		g := gatetest.New(t, db)
		g.Write(t, "state.json", fmt.Sprintf(`{"username": %q, "password": %q}`, state.Owner, state.OwnerPassword))
		config := g.Configure(t, gatetest.Options{Grants: accessFlow, Config: map[string]string{
			"role_linger": "0s",
			"state": fmt.Sprintf("{postgres: {hostname: localhost, port: %d, database: %s, ssl_root_cert: %s, secret: {file: state.json}}}",
				state.Server.Port, state.Name, state.Server.CAFile),
		}})
		return &replica{g, config, gatetest.StartProcess(t, g, config)}
	}
	crash := func(r *replica) { _ = r.process.Process.Kill(); _ = r.process.Wait() }
	again := func(r *replica) { r.process = gatetest.StartProcess(t, r.Gate, r.config) }
	a, b := open(), open()

	if got := ask(t, a.Gate, gatetest.Alice, "state", "REQUEST READ_ONLY ON orders REASON 'INC-1'"); got != "pending" {
		t.Fatalf("asked on a: %s", got)
	}
	crash(a)
	if got := ask(t, b.Gate, gatetest.Bob, "state", "APPROVE 1"); got != "active" {
		t.Fatalf("approved on b: %s", got)
	}
	conn := b.Connect(t, "orders")
	again(a)
	a.Connect(t, "orders") // granted by the other, and in force here

	if got := ask(t, b.Gate, gatetest.Alice, "state", "EXTEND 1 FOR '1 hour'"); got != "active" {
		t.Fatalf("extended on b: %s", got)
	}
	if got := ask(t, a.Gate, gatetest.Bob, "state", "APPROVE 1 FOR '1 hour'"); got != "active" {
		t.Fatalf("approved on a: %s", got)
	}
	crash(a)
	if got := ask(t, b.Gate, gatetest.Alice, "for", "SHOW REQUEST 1"); got != "1 hour" {
		t.Errorf("seen on b: %s", got)
	}
	if err := conn.Ping(t.Context()); err != nil {
		t.Fatalf("b's session: %v", err)
	}
	again(a)

	// A revocation on one cuts the session on the other.
	cut := make(chan time.Time, 1)
	var told *pgconn.PgError
	go func() {
		_, err := conn.Exec(t.Context(), "SELECT pg_sleep(60)")
		errors.As(err, &told)
		cut <- time.Now()
	}()
	if got := ask(t, a.Gate, gatetest.Bob, "state", "REVOKE 1"); got != "ended (revoked)" {
		t.Fatalf("revoked on a: %s", got)
	}
	revoked := time.Now()
	if late := (<-cut).Sub(revoked); late > 2*time.Second || told == nil || told.Code != pgerrcode.AdminShutdown {
		t.Errorf("b's session ended %v after the revocation on a, with %+v", late, told)
	} else {
		t.Logf("b's session ended %v after the revocation on a", late)
	}
	for name, r := range map[string]*replica{"a": a, "b": b} {
		if _, err := r.TryConnect(t, gatetest.Alice, gatetest.AlicePassword, "orders"); err == nil {
			t.Errorf("%s lets Alice in after the end", name)
		}
	}

	// A lock on one holds on the other, also after that one was killed.
	if got := ask(t, a.Gate, gatetest.Bob, "result", "LOCK ALL REASON 'drill'"); got != "everything is locked, on all gates" {
		t.Fatalf("locked on a: %s", got)
	}
	crash(b)
	again(b)
	if _, err := b.TryConnect(t, gatetest.Alice, gatetest.AlicePassword, "hourgate"); err == nil || !strings.Contains(err.Error(), "everything is locked") {
		t.Errorf("on b: %v", err)
	}
	crash(a)
	if got := ask(t, b.Gate, gatetest.Bob, "result", "UNLOCK ALL"); got != "everything is not locked any more" {
		t.Errorf("unlocked on b: %s", got)
	}
}
