package roles

import (
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hourgate/hourgate/policy"
)

// A wall clock that is set shows against the time that passed.
func TestStepOfTheClock(t *testing.T) {
	t.Parallel()
	last := time.Now()
	now := last.Add(time.Second)
	if step := stepped(last, now); step != 0 {
		t.Errorf("a second later the clock has stepped by %v", step)
	}
	// Round strips the reading of the clock that can't be set, so that Sub compares wall clocks only.
	woken := last.Round(0).Add(time.Hour)
	if got := woken.Sub(last.Round(0)) - now.Sub(last); got <= clockStep {
		t.Errorf("an hour of sleep is no step: %v", got)
	}
}

// The server's clock ends a grant that this machine's clock, which was put back, believes in. It ends nothing too early, and
// nothing that it knows only an old end of.
func TestServersClockEndsGrants(t *testing.T) {
	t.Parallel()
	server := time.Now().Add(time.Hour) // this machine is an hour behind
	k := New(Config{Integration: "orders", Logger: slog.New(slog.DiscardHandler), Metrics: NewMetrics(prometheus.NewRegistry())})
	add := func(name string, until time.Time) *lease {
		l := k.newLease(leaseKey{name, name}, &policy.Grant{Name: name, Until: until}, "hg_"+name)
		l.told = l.grant
		k.ours["hg_"+name] = l
		return l
	}
	gone, lives, unmade := add("ended", server.Add(-time.Second)), add("lasting", server.Add(time.Minute)), add("unmade", server.Add(-time.Second))
	unmade.told = nil
	var near []orphan
	for name := range k.ours {
		near = append(near, orphan{Name: name, Now: server})
	}
	k.endBehind(append(near, orphan{Name: "hg_of_another_process", Now: server}))
	if wait, phase := gone.next(); phase != ended {
		t.Errorf("a grant that is over by the server's clock lasts %v more", wait)
	}
	for _, l := range []*lease{lives, unmade} {
		if l.over {
			t.Errorf("%s was ended", l.key.grant)
		}
	}
}
