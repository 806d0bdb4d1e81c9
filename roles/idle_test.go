package roles_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/roles"
)

// One of many integrations, which nobody uses in this process, is left alone but for its sweeps: it settles what was left
// behind, and at its grant's end what another process answers for, who has died meanwhile.
func TestIdleIntegrationIsSwept(t *testing.T) {
	t.Parallel()
	db := pgtest.Start(t, 17).Database(t)
	died, idle := newFixture(t, db), newFixture(t, db, func(c *roles.Config) { c.Turns = make(chan struct{}, 1) })
	orphan := died.acquire(t, died.grant(policy.ReadOnly, time.Hour)).Login().User
	died.Crash()
	other := newFixture(t, db)
	until := time.Now().Add(6 * time.Second)
	theirs := other.acquire(t, other.grant(policy.ReadWrite, 6*time.Second))
	busy := other.login(t, theirs.Login())

	idle.Forget()
	running, stop := context.WithCancel(t.Context())
	var run sync.WaitGroup
	run.Go(func() { idle.Run(running) })
	defer run.Wait()
	defer stop()
	idle.waitGone(t, orphan)
	eventually.True(t, "no connection is left", func() (none bool) {
		err := idle.super.QueryRow(t.Context(), "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = $1)", idle.Application()).Scan(&none)
		return err == nil && none
	})
	if !idle.exists(t, theirs.Login().User) {
		t.Fatal("the role of a process that lives was settled before its grant's end")
	}
	other.Crash()
	if _, err := busy.Exec(t.Context(), "SELECT pg_sleep(60)"); err == nil {
		t.Error("a statement outlived the grant")
	}
	if late := time.Since(until); late < 0 || late > 10*time.Second { // aliveGrace, and the machine's noise; the next sweep is minutes away
		t.Errorf("the session ended %v after the grant", late)
	}
	idle.waitGone(t, theirs.Login().User)
}
