package roles

import (
	"testing"
	"time"
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
