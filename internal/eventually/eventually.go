// Package eventually waits in tests for what happens in the background.
package eventually

import (
	"testing"
	"time"
)

const (
	// patience is far more than anything here takes on a busy machine. Only a test that fails waits for so long.
	patience = 20 * time.Second

	pollInterval = 2 * time.Millisecond
)

// True waits until ok says so, and ends the test if it doesn't within 20 seconds. what completes "never happened: …".
func True(t testing.TB, what string, ok func() bool) {
	t.Helper()
	Within(t, patience, what, ok)
}

// Within is True with a limit of the test's own.
func Within(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(pollInterval) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s (waited %v)", what, limit)
		}
	}
}
