package proxy

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

func TestThrottle(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
	th := &throttle{free: 3, first: 250 * time.Millisecond, longest: 2 * time.Second, now: func() time.Time { return now }}
	for i, want := range []time.Duration{0, 0, 0, 0, 250, 500, 1000, 2000, 2000, 2000} {
		if got := th.wait("k"); got != want*time.Millisecond {
			t.Errorf("after %d failures: wait %v, want %v", i, got, want*time.Millisecond)
		}
		if th.wait("other") != 0 {
			t.Error("another key has to wait")
		}
		th.failed("k")
	}
	now = now.Add(1500 * time.Millisecond)
	if got := th.wait("k"); got != 500*time.Millisecond {
		t.Errorf("1.5 s later: wait %v, want 500ms", got)
	}
	now = now.Add(forgiveAfter)
	if got := th.wait("k"); got != 0 {
		t.Errorf("much later: wait %v, want none", got)
	}
	for range 200 { // no overflow of the doubling
		th.failed("k")
	}
	if got := th.wait("k"); got != 2*time.Second {
		t.Errorf("after many failures: wait %v, want 2s", got)
	}
	th.succeeded("k")
	if got := th.wait("k"); got != 0 {
		t.Errorf("after a success: wait %v, want none", got)
	}
}

// The table is bounded, and who fails again and again is not what it forgets.
func TestThrottleIsBounded(t *testing.T) {
	t.Parallel()
	th := &throttle{free: 1, first: time.Minute, longest: time.Minute, capacity: 100}
	for i := range 10_000 {
		th.failed("persistent")
		th.failed(fmt.Sprint("stranger ", i))
		if n := len(th.young) + len(th.old); n > 200 {
			t.Fatalf("the table has %d entries, want at most 200", n)
		}
	}
	if th.wait("persistent") == 0 {
		t.Error("who fails all the time was forgotten")
	}
}

func TestNetwork(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1",
		"2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64", "fe80::1%eth0": "fe80::/64", "::1": "::/64",
	} {
		if got := network(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: got %s, want %s", addr, got, want)
		}
	}
	if got := network(netip.Addr{}); got != "" {
		t.Errorf("no address: got %q", got)
	}
}

func TestAdmission(t *testing.T) {
	t.Parallel()
	a := admission{inAll: 3, each: 2}
	for i, step := range []struct {
		network string
		leave   bool
		want    bool
	}{
		{network: "a", want: true},
		{network: "a", want: true},
		{network: "a", want: false},
		{network: "b", want: true},
		{network: "c", want: false},
		{network: "a", leave: true},
		{network: "c", want: true},
		{network: "a", want: false},
	} {
		if step.leave {
			a.leave(step.network)
		} else if got := a.enter(step.network); got != step.want {
			t.Errorf("step %d: %s enters: got %t, want %t", i, step.network, got, step.want)
		}
	}
	if a.leave("a"); len(a.networks) != 2 || a.total != 2 {
		t.Errorf("networks that have left are kept: %v, %d", a.networks, a.total)
	}
}
