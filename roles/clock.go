package roles

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/roles/ledger"
)

// A grant ends by the wall clock. Timers run by another one, which stands still while the machine is suspended and knows
// nothing of a clock that is set. And the roles of a proxy that was killed have nobody's timer.

const (
	clockCheck = time.Second            // how soon a step of the wall clock is noticed
	clockStep  = 250 * time.Millisecond // by how much the clocks must differ to be a step
)

// watchClock makes all leases look at the time again when the wall clock has been set or the machine was suspended.
func (k *Keeper) watchClock(ctx context.Context) {
	tick := time.NewTicker(clockCheck)
	defer tick.Stop()
	for last := time.Now(); ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now := time.Now()
		if step := stepped(last, now); step > clockStep || step < -clockStep {
			k.log.Warn("the wall clock does not agree with the time that has passed, looking at all grants again", "step", step)
			k.wakeAll()
		}
		last = now
	}
}

// stepped is by how much the wall clock went further than the time that passed.
func stepped(last, now time.Time) time.Duration {
	return now.Round(0).Sub(last.Round(0)) - now.Sub(last)
}

func (k *Keeper) wakeAll() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, l := range k.ours {
		l.wake()
	}
}

// watchLedger ends the roles that no running proxy answers for at the end of their grants.
func (s *sweeper) watchLedger(ctx context.Context) {
	k := s.k
	for {
		wait := clockCheck
		var due []orphan
		var next time.Time
		var err error
		if !k.unused() { // which has no roles of this deployment but those that its own sweep looks at, now and then
			due, next, err = s.due(ctx, ledgerAhead)
		}
		switch {
		case err != nil && ctx.Err() == nil:
			k.log.Warn("the ends of grants could not be read from the server, trying again", "error", err)
		case len(due) > 0:
			s.mu.Lock()
			s.settle(ctx, due)
			s.mu.Unlock()
		case !next.IsZero():
			wait = min(wait, max(time.Until(next), 10*time.Millisecond))
		}
		if admin.Pause(ctx, wait) != nil {
			return
		}
	}
}

// ledgerAhead is how far ahead the ends of grants are read from the server while an integration is used.
const ledgerAhead = 2 * time.Second

// idle returns how long an integration that nobody uses may be left alone after a sweep, at most: until the grant ends of a
// role that another process answers for, who may be dead by then, or until a proxy that seems dead may be taken for dead.
func (s *sweeper) idle(ctx context.Context, most time.Duration) time.Duration {
	if s.suspicious() {
		most = min(most, suspectGrace)
	}
	due, next, err := s.due(ctx, most)
	switch {
	case err != nil: // it is the server that is away
	case len(due) > 0:
		most = min(most, retryInterval)
	case !next.IsZero():
		most = min(most, max(time.Until(next), 10*time.Millisecond))
	}
	return most
}

// due returns the roles of others that can log in, or sleep, although their grant is over, and when the next one's is, if it is
// not further ahead than that. VALID UNTIL says which to look at: nobody but the admin can change it. Its fraction has fewer
// digits than the entry's.
func (s *sweeper) due(ctx context.Context, ahead time.Duration) (due []orphan, next time.Time, err error) {
	var near []orphan
	k := s.k
	err = k.pool.Use(ctx, func(c *admin.Conn) error {
		rows, err := c.Query(ctx, `
			SELECT r.oid, r.rolname::text, coalesce(d.description, ''), 1, r.rolcanlogin, true, clock_timestamp()
			  FROM pg_roles r LEFT JOIN pg_shdescription d ON d.classoid = 'pg_authid'::regclass AND d.objoid = r.oid
			 WHERE (r.rolcanlogin OR r.rolconnlimit <> 0) AND r.rolname ~ '^hg_' AND r.rolvaliduntil < clock_timestamp() + make_interval(secs => $1)`, ahead.Seconds())
		if err == nil {
			near, err = pgx.CollectRows(rows, pgx.RowToStructByPos[orphan])
		}
		return err
	})
	next = k.endBehind(near)
	live := k.live()
	for _, o := range near {
		e, ok := ledger.Parse(o.Comment)
		if !ok || e.Deployment != k.cfg.Deployment || live.names[o.Name] || live.oids[o.OID] {
			continue
		}
		at := e.Until.Add(aliveGrace)
		if wait := at.Sub(o.Now); wait > 0 {
			next = earlier(next, time.Now().Add(wait))
			continue
		}
		due = append(due, o)
	}
	return due, next, err
}

// earlier is the earlier of two moments, of which the first may be none.
func earlier(next, at time.Time) time.Time {
	if next.IsZero() || at.Before(next) {
		return at
	}
	return next
}

// endBehind ends roles of this process whose grant is over by the server's clock, although this machine's clock says that it is
// not: it was put back, or is wrong. The server turns away their log-ins already, and nobody may stay longer than that. next is
// when there is one more.
func (k *Keeper) endBehind(near []orphan) (next time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, o := range near {
		l := k.ours[o.Name]
		if l == nil || l.over || l.told == nil {
			continue
		}
		wait := l.grant.Until.Add(aliveGrace).Sub(o.Now)
		if wait > 0 {
			if time.Until(l.until) > wait { // or the lease ends by itself before that
				next = earlier(next, time.Now().Add(wait))
			}
			continue
		}
		k.log.Warn("a grant is over by the server's clock and not by this machine's: it ends, and the clocks should be set",
			"role", o.Name, "grant", l.grant.Name, "until", l.grant.Until, "server", o.Now)
		l.until = time.Time{}
		l.close()
	}
	return next
}
