package policy_test

import "testing"

func TestCount(t *testing.T) {
	s := set(
		t, user("alice"),
		grant("a", "alice", "READ_ONLY", "billing", "", "17:00"),
		grant("b", "alice", "READ_ONLY", "billing", "09:00", "17:00"),
		grant("c", "alice", "READ_ONLY", "billing", "16:00", "17:00"),
		grant("d", "alice", "READ_ONLY", "billing", "", "09:00"),
	)
	for at, want := range map[string][3]int{"08:59": {2, 2, 0}, "09:00": {2, 1, 1}, "16:00": {3, 0, 1}, "17:00": {0, 0, 4}} {
		live, future, ended := s.Count(clockAt(at))
		if got := [3]int{live, future, ended}; got != want {
			t.Errorf("at %s: got %v live, future and ended, want %v", at, got, want)
		}
	}
}
