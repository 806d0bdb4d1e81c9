package proxy

import (
	"fmt"
	"testing"
)

// Credit comes from being let in and is spent by trying; in all there are never more than so many at a time, and never
// more networks known than so many.
func TestAheadCredits(t *testing.T) {
	t.Parallel()
	var a aheadCredits
	spendAll := func(network string) (n int) {
		for a.spend(network) {
			n++
		}
		return n
	}
	if got := spendAll("stranger"); got != 0 {
		t.Errorf("a stranger spends %d", got)
	}
	for _, network := range []string{"one", "two", "three"} {
		a.restore(network)
		a.restore(network) // does not add up
	}
	for network, want := range map[string]int{"one": aheadCredit, "two": aheadCredit} {
		if got := spendAll(network); got != want {
			t.Errorf("network %s spends %d, want %d", network, got, want)
		}
	}
	if got := spendAll("three"); got != 0 {
		t.Errorf("%d more than %d at a time", got, aheadInAll)
	}
	for range aheadInAll {
		a.finished()
	}
	if got := spendAll("one"); got != 0 {
		t.Errorf("network one spends %d more without being let in", got)
	}
	if got := spendAll("three"); got != aheadCredit {
		t.Errorf("network three spends %d, want %d", got, aheadCredit)
	}
	for i := range 2 * aheadNetworks {
		a.restore(fmt.Sprint(i))
		if len(a.left) > aheadNetworks {
			t.Fatalf("%d networks are remembered", len(a.left))
		}
	}
}
