package strangers

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestThrottle(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
	th := &Throttle{Free: 3, First: 250 * time.Millisecond, Longest: 2 * time.Second, now: func() time.Time { return now }}
	for i, want := range []time.Duration{0, 0, 0, 0, 250, 500, 1000, 2000, 2000, 2000} {
		if got := th.Wait("k"); got != want*time.Millisecond {
			t.Errorf("after %d failures: wait %v, want %v", i, got, want*time.Millisecond)
		}
		if th.Wait("other") != 0 {
			t.Error("another key has to wait")
		}
		th.Failed("k")
	}
	now = now.Add(1500 * time.Millisecond)
	if got := th.Wait("k"); got != 500*time.Millisecond {
		t.Errorf("1.5 s later: wait %v, want 500ms", got)
	}
	now = now.Add(forgiveAfter)
	if got := th.Wait("k"); got != 0 {
		t.Errorf("much later: wait %v, want none", got)
	}
	for range 200 { // no overflow of the doubling
		th.Failed("k")
	}
	if got := th.Wait("k"); got != 2*time.Second {
		t.Errorf("after many failures: wait %v, want 2s", got)
	}
	th.Succeeded("k")
	if got := th.Wait("k"); got != 0 {
		t.Errorf("after a success: wait %v, want none", got)
	}
}

// The table is bounded, and who fails again and again is not what it forgets.
func TestThrottleIsBounded(t *testing.T) {
	t.Parallel()
	th := &Throttle{Free: 1, First: time.Minute, Longest: time.Minute, capacity: 100}
	for i := range 10_000 {
		th.Failed("persistent")
		th.Failed(fmt.Sprint("stranger ", i))
		if n := len(th.young) + len(th.old); n > 200 {
			t.Fatalf("the table has %d entries, want at most 200", n)
		}
	}
	if th.Wait("persistent") == 0 {
		t.Error("who fails all the time was forgotten")
	}
}

func TestNetwork(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1",
		"2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64", "fe80::1%eth0": "fe80::/64", "::1": "::/64",
	} {
		if got := Network(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: got %s, want %s", addr, got, want)
		}
	}
	if got := Network(netip.Addr{}); got != "" {
		t.Errorf("no address: got %q", got)
	}
}

func TestAdmission(t *testing.T) {
	t.Parallel()
	a := Admission{inAll: 3, each: 2}
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
			a.Leave(step.network)
		} else if got := a.Enter(step.network); got != step.want {
			t.Errorf("step %d: %s enters: got %t, want %t", i, step.network, got, step.want)
		}
	}
	if a.Leave("a"); len(a.networks) != 2 || a.total != 2 {
		t.Errorf("networks that have left are kept: %v, %d", a.networks, a.total)
	}
}

// Guesses that come together take their turns one after the other, and those who would have to wait for too long none.
func TestReserveTurns(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	th := &Throttle{Free: 3, First: time.Second, Longest: 8 * time.Second, now: func() time.Time { return now }}
	var waits []time.Duration
	refused := 0
	for range 150 {
		if wait, ok := th.Reserve("alice", 30*time.Second); ok {
			waits = append(waits, wait)
		} else {
			refused++
		}
	}
	want := []time.Duration{0, 0, 0, 0, 1, 3, 7, 15, 23} // 1, 2, 4, 8, 8 s after one another
	for i := range want {
		want[i] *= time.Second
	}
	if diff := cmp.Diff(want, waits); diff != "" || refused != 150-len(want) {
		t.Errorf("%d refused; waits (-want +got):\n%s", refused, diff)
	}
	if _, ok := th.Reserve("bob", 0); !ok {
		t.Error("alice's turns hold up bob")
	}
	now = now.Add(time.Minute)
	if wait, ok := th.Reserve("alice", 0); !ok || wait != 0 {
		t.Errorf("after a minute: wait %v, %v", wait, ok)
	}
	th.Succeeded("alice")
	if wait, _ := th.Reserve("alice", 0); wait != 0 {
		t.Errorf("after a success: wait %v", wait)
	}
	for range 10 {
		th.Reserve("carol", 0)
		th.Returned("carol")
	}
	if wait, ok := th.Reserve("carol", 0); wait != 0 || !ok {
		t.Errorf("turns that were given back count: wait %v, %v", wait, ok)
	}
}
