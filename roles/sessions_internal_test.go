package roles

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/policy"
)

// Many log-ins share a check for foreign sessions, and the last of them is followed by one.
func TestChecksAfterLogins(t *testing.T) {
	t.Parallel()
	db := pgtest.Start(t, 18).Database(t)
	keeper := mortal(t, db, &killer{remaining: -1})
	var checks atomic.Int32
	var last atomic.Int64 // when the last check began
	keeper.pool.Before = func(_ *admin.Conn, statement string) error {
		if strings.Contains(statement, "FROM pg_stat_activity WHERE usesysid") {
			checks.Add(1)
			last.Store(time.Now().UnixNano())
		}
		return nil
	}
	grant := &policy.Grant{
		Name: "g", Integration: "orders", Databases: []string{db.Name}, Access: policy.Access{Level: policy.ReadOnly}, Until: time.Now().Add(time.Hour),
	}
	lease, err := keeper.Acquire(t.Context(), "alice@example.com", grant, db.Name)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	watching.Go(func() { keeper.watchSessions(ctx) })

	began := time.Now()
	var login time.Time
	for time.Since(began) < 5*checkPause {
		login = time.Now()
		lease.Opened(1)
		time.Sleep(time.Millisecond)
	}
	for deadline := time.Now().Add(20 * time.Second); last.Load() < login.UnixNano(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no check after the last log-in")
		}
	}
	if got, most := checks.Load(), 2+int32(time.Since(began)/checkPause); got > most {
		t.Errorf("%d checks, want at most %d", got, most)
	}
	cancel()
	watching.Wait()
	lease.Release()
	if err := keeper.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// A log-in that began after the question and shows in the answer is nobody's intrusion: the question may have waited for a
// connection.
func TestBackendOfALogInThatBeganWhileTheServerWasAsked(t *testing.T) {
	t.Parallel()
	asked := time.Now()
	began, answered := asked.Add(time.Millisecond), asked.Add(2*time.Millisecond)
	for _, rule := range []struct {
		name  string
		began time.Time
		known bool
	}{
		{"before the question", asked.Add(-time.Second), true},
		{"between question and answer", began, true},
		{"after the answer", answered.Add(time.Millisecond), false},
	} {
		b := newBackends()
		b.dialing[&Lease{}] = dial{began: rule.began}
		if got := b.knows(seen{PID: 1, Start: began}, answered); got != rule.known {
			t.Errorf("a log-in that began %s: known %v, want %v", rule.name, got, rule.known)
		}
	}
}
