package policy_test

import (
	"slices"
	"sync"
	"testing"

	"github.com/hourgate/hourgate/policy"
)

func TestLiveTellsWatchersInOrder(t *testing.T) {
	t.Parallel()
	first := set(t)
	live := policy.NewLive(first)
	var one, two []*policy.Set
	stop := live.Watch(func(s *policy.Set) { one = append(one, s) })
	live.Watch(func(s *policy.Set) { two = append(two, s) })
	a, b, c := set(t), set(t), set(t)
	live.Put(a)
	live.Put(b)
	stop()
	stop()
	live.Put(c)
	if !slices.Equal(one, []*policy.Set{a, b}) || !slices.Equal(two, []*policy.Set{a, b, c}) {
		t.Errorf("told %d and %d policies, want 2 and 3, in order", len(one), len(two))
	}
	if live.Set() != c {
		t.Error("the last policy is not in force")
	}
}

// Who decides under a lock of their own, and notes it, is seen by the watcher that takes the same lock, or has seen the
// new policy.
func TestLiveMissesNoDecision(t *testing.T) {
	t.Parallel()
	type session struct{ decided *policy.Set }
	live := policy.NewLive(set(t))
	var mu sync.Mutex
	var sessions []*session
	defer live.Watch(func(s *policy.Set) {
		mu.Lock()
		defer mu.Unlock()
		for _, one := range sessions {
			one.decided = s
		}
	})()
	var running sync.WaitGroup
	for range 4 {
		running.Go(func() {
			for range 1000 {
				mu.Lock()
				sessions = append(sessions, &session{live.Set()})
				mu.Unlock()
			}
		})
	}
	for range 20 {
		live.Put(set(t))
	}
	last := set(t)
	live.Put(last)
	mu.Lock()
	seen := len(sessions)
	stale := slices.ContainsFunc(sessions, func(s *session) bool { return s.decided != last })
	mu.Unlock()
	if stale {
		t.Errorf("of %d sessions at least one was decided by a policy that is not in force any more", seen)
	}
	running.Wait()
}

func TestCombine(t *testing.T) {
	t.Parallel()
	files := set(t, user("alice", "support"), user("bob"),
		grant("file", "alice", "READ_ONLY", "orders-prod: orders", "", "18:00"))
	requested := func(name, user string, level policy.Level, until string) *policy.Grant {
		return &policy.Grant{
			Name: name, Users: []string{user}, Integration: "orders-prod", Databases: []string{"orders"},
			Access: policy.Access{Level: level}, Until: clockAt(until),
		}
	}
	combined := policy.Combine(files, []*policy.Grant{
		requested("more", "alice", policy.ReadWrite, "12:00"),
		requested("more-again", "alice", policy.ReadWrite, "14:00"), // overlaps, and ends later
		requested("bobs", "bob", policy.ReadOnly, "12:00"),
		requested("nobodys", "eve", policy.ReadOnly, "12:00"),
		requested("file", "bob", policy.Admin, "23:00"), // the name is taken
	})
	decide := func(s *policy.Set, user, hour string) string {
		if g := s.Decide(policy.Request{User: user, Database: "orders-prod"}, clockAt(hour)).Grant; g != nil {
			return g.Name
		}
		return ""
	}
	for _, want := range []struct{ user, hour, grant string }{
		{"alice", "11:00", "more-again"},
		{"alice", "13:00", "more-again"},
		{"alice", "15:00", "file"},
		{"alice", "19:00", ""},
		{"bob", "11:00", "bobs"},
		{"bob", "13:00", ""},
		{"eve", "11:00", ""},
	} {
		if got := decide(combined, want.user, want.hour); got != want.grant {
			t.Errorf("%s at %s: got grant %q, want %q", want.user, want.hour, got, want.grant)
		}
	}
	// A session under one of several grants that overlap is not touched by the others.
	if g, ok := combined.Covers("alice", "more", "orders", clockAt("11:30")); !ok || !g.Until.Equal(clockAt("12:00")) {
		t.Errorf("the shorter grant is not what it was: %v %v", g, ok)
	}
	if got := decide(files, "alice", "11:00"); got != "file" {
		t.Errorf("the files' set was changed: alice has %q", got)
	}
	without := policy.Combine(set(t, user("bob")), []*policy.Grant{requested("more", "alice", policy.ReadWrite, "12:00")})
	if got := decide(without, "alice", "11:00"); got != "" {
		t.Errorf("a user who is gone from the files has %q", got)
	}
}
