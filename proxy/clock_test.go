package proxy_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgerrcode"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/proxy"
)

// wallClock can be put forward, which the machine's timers do not see.
type wallClock struct{ ahead atomic.Int64 }

func (c *wallClock) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

func (c *wallClock) step(d time.Duration) { c.ahead.Add(int64(d)) }

// A clock that is put forward, or a machine that was suspended, ends sessions as soon as somebody looks, which is once a second.
func TestStepOfTheClock(t *testing.T) {
	t.Parallel()
	var clock wallClock
	g := startGate(t, database(t, 18), gateOptions{change: func(c *proxy.Config) { c.Now = clock.now }})
	p := connect(t, g.target())
	clock.step(59 * time.Minute)
	p.send(query("SELECT pg_sleep(2.5)")) // the clock is looked at meanwhile
	p.skipTo('Z')
	p.send(query("SELECT pg_sleep(60)"))
	clock.step(2 * time.Minute)
	since := time.Now()
	got := p.expectEnd()
	if took := time.Since(since); took > 2*promptly {
		t.Errorf("the end took %v", took)
	}
	if diff := cmp.Diff(grantEnded, got); diff != "" {
		t.Errorf("last message (-want +got):\n%s", diff)
	}
	g.expectEndRecord("grant_expired", pgerrcode.AdminShutdown)
}

// People are told before the end, between two messages, once each time; and what becomes of what they made, if they can
// make anything.
func TestWarningsBeforeTheEnd(t *testing.T) {
	t.Parallel()
	for _, access := range []string{"READ_ONLY", "ADMIN"} {
		t.Run(access, func(t *testing.T) {
			t.Parallel()
			var clock wallClock
			until := time.Now().Add(time.Hour)
			g := startGate(t, database(t, 18), gateOptions{
				grants: []string{grantAt("inc-1", alice, access, until)},
				change: func(c *proxy.Config) {
					c.Now, c.NoticeBeforeEnd = clock.now, []time.Duration{15 * time.Minute, 5 * time.Minute, time.Minute}
				},
			})
			p := connect(t, g.target())
			p.send(query("SELECT 1"))
			p.skipTo('Z')
			p.send(query("SELECT pg_sleep(2.1)")) // the first look finds nothing to warn of
			p.skipTo('Z')
			at := fmt.Sprintf(", at %s", until.UTC().Format("15:04:05 UTC"))
			for _, want := range []struct {
				step time.Duration
				text string
			}{
				{46 * time.Minute, "grant inc-1 ends in 14 minutes" + at},
				{10 * time.Minute, "grant inc-1 ends in 4 minutes" + at},
				{3*time.Minute + 15*time.Second, "grant inc-1 ends in "},
			} {
				clock.step(want.step)
				m := p.expect('N') // the session is idle
				if text := string(m.body); !strings.Contains(text, "M"+want.text) || !strings.Contains(text, "SWARNING\x00") ||
					strings.Contains(text, "dropped") != (access == "ADMIN") {
					t.Errorf("got %q, want a warning: %s", text, want.text)
				}
			}
			p.send(query("SELECT pg_sleep(2.1)")) // nothing is told twice
			if kinds := p.skipTo('Z'); strings.Contains(string(kinds), "N") {
				t.Error("warned again")
			}
		})
	}
}

// Sessions can be seen from outside, and told something.
func TestSessionsFromOutside(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	if got := g.server.Sessions(); len(got) != 0 {
		t.Errorf("sessions: %+v, want none", got)
	}
	stranger := dial(t, g.target(), negotiated)
	p := connect(t, g.target(), "application_name", "my app")
	p.send(query("SELECT 1"))
	p.skipTo('Z')
	eventually.True(t, "the session is idle", func() bool {
		all := g.server.Sessions()
		return len(all) == 1 && all[0].Idle && all[0].BytesFromUpstream > 0
	})
	info := g.server.Sessions()[0]
	if info.State != proxy.Running || info.User != alice || info.Grant != "inc-1" || info.Integration != "orders" || info.Database != g.db.Name ||
		info.Role != g.db.Owner || info.Access != "READ_WRITE" || info.Application != "my app" || int(info.BackendPID) != g.backends("true")[0] ||
		info.ClientAddress.String() != p.conn.LocalAddr().String() || time.Since(info.LastStatement) > patience || info.Until.Before(time.Now()) ||
		info.BytesFromClient == 0 || info.BytesFromUpstream == 0 || info.ID != g.trail.of(audit.SessionStart)[0].Session {
		t.Errorf("got %+v", info)
	}
	if !g.server.Notify(info.ID, "lunch") {
		t.Error("no such session")
	}
	if text := string(p.expect('N').body); !strings.Contains(text, "Mlunch\x00") {
		t.Errorf("got %q", text)
	}
	p.send(query("SELECT pg_sleep(60)"))
	eventually.True(t, "the session is busy", func() bool { return !g.server.Sessions()[0].Idle })
	since := time.Now()
	if !g.server.End(info.ID, proxy.EndedByOperator, "") {
		t.Error("no such session")
	}
	p.expectEndSoon(since, fatal(pgerrcode.AdminShutdown, "terminating connection: an operator of the gate has ended your session", "", "Ask the operators of this gate; your grant may still be live."))
	g.expectEndRecord("ended_by_operator", pgerrcode.AdminShutdown)
	eventually.True(t, "the session is gone", func() bool { return len(g.server.Sessions()) == 0 })
	if g.server.End(info.ID, proxy.EndedByUser, "") || g.server.Notify(info.ID, "late") {
		t.Error("a session that is over could be ended or told")
	}
	stranger.send(startup(v30, "user", alice)) // is not put out by any of this
	stranger.expect('R')
}

// hungTrail takes records until its disk hangs.
type hungTrail struct {
	memoryTrail
	hangs chan struct{} // closed when it goes on
	hung  atomic.Bool

	waiting atomic.Int64
}

func (h *hungTrail) wait() {
	if h.hung.Load() {
		h.waiting.Add(1)
		<-h.hangs
	}
}

func (h *hungTrail) Append(r audit.Record) error { h.wait(); return h.memoryTrail.Append(r) }

// Statement hangs whatever its context says.
func (h *hungTrail) Statement(ctx context.Context, s *audit.Statement) error {
	h.wait()
	return h.memoryTrail.Statement(ctx, s)
}

// A trail whose disk hangs delays records and nothing else: at the end the client is told and cut off and the server's side is
// closed, also for a session that waits for the trail.
func TestTrailThatHangsDelaysNoEnd(t *testing.T) {
	t.Parallel()
	trail := &hungTrail{hangs: make(chan struct{})}
	g := startGate(t, database(t, 18), gateOptions{trail: trail})
	idle, waiting := connect(t, g.target()), connect(t, g.target())
	trail.hung.Store(true)
	waiting.send(query("SELECT 1"))
	eventually.True(t, "the statement waits for the trail", func() bool { return trail.waiting.Load() > 0 })
	since := time.Now()
	g.withdraw()
	idle.expectEndSoon(since, withdrawn)
	waiting.expectEndSoon(since, withdrawn)
	eventually.True(t, "the backends are gone", func() bool { return len(g.backends("true")) == 0 })
	g.leases.check(t)
	if got := len(trail.of(audit.SessionEnd)); got != 0 {
		t.Errorf("%d ends are recorded by a trail that hangs", got)
	}
	close(trail.hangs)
	eventually.True(t, "the ends are recorded", func() bool { return len(trail.of(audit.SessionEnd)) == 2 })
}

// When many grants end in the same second, every client is told, on however busy a machine.
func TestAllClientsAreTold(t *testing.T) {
	t.Parallel()
	const sessions = 60
	g := newGate(t)
	peers := make([]*peer, sessions)
	for i := range peers {
		peers[i] = connect(t, g.target())
		if i%3 == 0 { // the others are idle
			peers[i].send(query("SELECT pg_sleep(600)"))
		}
	}
	var told atomic.Int64
	var reading sync.WaitGroup
	g.withdraw()
	for _, p := range peers {
		_ = p.conn.SetDeadline(time.Now().Add(patience))
		reading.Go(func() {
			last := byte(0)
			for {
				m, err := p.read()
				if err != nil {
					break
				}
				last = m.kind
			}
			if last == 'E' {
				told.Add(1)
			}
		})
	}
	reading.Wait()
	if told.Load() != sessions {
		t.Errorf("%d of %d clients were told", told.Load(), sessions)
	}
}

// Whoever has another grant that goes on is told so, before the end and at it: it has a role of its own, so it takes a log-in.
func TestAnotherGrantGoesOn(t *testing.T) {
	t.Parallel()
	var clock wallClock
	until := time.Now().Add(time.Hour)
	g := startGate(t, database(t, 18), gateOptions{
		grants: []string{grantAt("short", alice, "ADMIN", until), grantAt("long", alice, "READ_ONLY", until.Add(time.Hour))},
		change: func(c *proxy.Config) { c.Now, c.NoticeBeforeEnd = clock.now, []time.Duration{15 * time.Minute} },
	})
	p := connect(t, g.target())
	p.send(query("SELECT pg_sleep(2.1)")) // the first look finds nothing to warn of
	p.skipTo('Z')
	clock.step(50 * time.Minute)
	at := until.Add(time.Hour).UTC()
	if text := string(p.expect('N').body); !strings.Contains(text, "HTo go on, connect again after that: grant long lets you in until "+at.Format("15:04:05 UTC")) {
		t.Errorf("got %q", text)
	}
	// The policy goes by the real time, at which the shorter one has to end.
	g.live.Put(g.policy(grantAt("short", alice, "ADMIN", time.Now().Add(time.Second)), grantAt("long", alice, "READ_ONLY", at)))
	want := *grantEnded
	want.Hint = "Connect again: grant long lets you in until " + at.Format("2006-01-02 15:04:05 UTC") + "."
	if diff := cmp.Diff(&want, p.expectEnd()); diff != "" {
		t.Errorf("last message (-want +got):\n%s", diff)
	}
	connect(t, g.target())
}
