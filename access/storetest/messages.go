package storetest

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hourgate/hourgate/access"
	"github.com/hourgate/hourgate/policy"
)

// announces: what is not announced is not kept, with nothing of it left.
func announces(t *testing.T, open func() access.Store) {
	s := open()
	full := errors.New("trail full")
	message := access.Message{ID: "m1", Channel: "hook", Created: time.Now(), Body: []byte(`{}`)}
	fails := func(*access.Request) ([]access.Message, error) { return []access.Message{message}, full }
	if err := s.Create(t.Context(), Sample("bob"), 5, fails); !errors.Is(err, full) {
		t.Fatalf("got %v", err)
	}
	if all := must(s.Requests(t.Context(), access.Filter{}))(t); len(all) != 0 {
		t.Errorf("kept %v", all)
	}
	r := create(t, s, Sample("bob"))
	changed := *r
	changed.State = access.Denied
	if err := s.Update(t.Context(), &changed, fails); !errors.Is(err, full) {
		t.Fatalf("got %v", err)
	}
	if got := must(s.Request(t.Context(), r.ID))(t); got.State != access.Pending {
		t.Errorf("it is %s", got.State)
	}
	if err := s.Lock(t.Context(), access.Lock{Lock: policy.Lock{Kind: policy.LockAll, Reason: "r"}}, func(access.Lock) ([]access.Message, error) { return nil, full }); !errors.Is(err, full) {
		t.Fatalf("got %v", err)
	}
	if snapshot := must(s.Load(t.Context()))(t); len(snapshot.Locks) != 0 {
		t.Errorf("locks %v", snapshot.Locks)
	}
	if messages := must(s.Claim(t.Context(), "hook", 10, time.Minute))(t); len(messages) != 0 {
		t.Errorf("messages %v", messages)
	}
	seen := int64(0)
	if err := s.Create(t.Context(), Sample("bob"), 5, func(r *access.Request) ([]access.Message, error) { seen = r.ID; return nil, nil }); err != nil || seen == 0 {
		t.Errorf("announced ID %d, %v", seen, err)
	}
}

func outbox(t *testing.T, open func() access.Store) {
	s := open()
	announce := func(n int) access.Announce[*access.Request] {
		return func(r *access.Request) (out []access.Message, err error) {
			for i := range n {
				out = append(out, access.Message{ID: fmt.Sprintf("m-%d-%d", r.ID, i), Channel: "hook", Subject: fmt.Sprint(r.ID, i), Created: time.Now(), Body: []byte(`{"x":"é"}`)})
			}
			return out, nil
		}
	}
	for range 5 {
		if err := s.Create(t.Context(), Sample("bob"), 100, announce(4)); err != nil {
			t.Fatal(err)
		}
	}
	var mu sync.Mutex
	seen := map[string]int{}
	var all sync.WaitGroup
	for range 4 {
		s := open()
		all.Go(func() {
			for {
				claimed, err := s.Claim(t.Context(), "hook", 3, time.Hour)
				if err != nil {
					t.Error(err)
					return
				}
				if len(claimed) == 0 {
					return
				}
				mu.Lock()
				for _, m := range claimed {
					seen[m.ID]++
					if m.Attempts != 1 || string(m.Body) != `{"x":"é"}` || m.Channel != "hook" {
						t.Errorf("got %+v", m)
					}
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if len(seen) != 20 {
		t.Errorf("%d messages were claimed", len(seen))
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("%s was claimed %d times", id, n)
		}
	}
	if err := s.Delay(t.Context(), "m-1-0", -time.Second); err != nil {
		t.Fatal(err)
	}
	if again := must(s.Claim(t.Context(), "hook", 10, time.Hour))(t); len(again) != 1 || again[0].Attempts != 2 {
		t.Errorf("after a delay: %+v", again)
	}
	if err := s.Done(t.Context(), "m-1-0"); err != nil {
		t.Fatal(err)
	}
	_ = s.Delay(t.Context(), "m-1-0", -time.Second)
	if again := must(s.Claim(t.Context(), "hook", 10, time.Hour))(t); len(again) != 0 {
		t.Errorf("after it was done: %+v", again)
	}
}

// ordered: of the messages of a channel about one thing each waits for those before it, however often these fail; others do not.
func ordered(t *testing.T, open func() access.Store) {
	s := open()
	created := time.Now().Add(3 * time.Hour) // by a gate whose clock is ahead at first, and behind then
	for i, subject := range []string{"request 1", "request 2", "request 1", "request 1"} {
		created = created.Add(-2 * time.Hour)
		err := s.Create(t.Context(), Sample("bob"), 100, func(*access.Request) ([]access.Message, error) {
			return []access.Message{
				{ID: fmt.Sprint("hook-", i), Channel: "hook", Subject: subject, Created: created, Body: []byte("{}")},
				{ID: fmt.Sprint("mail-", i), Channel: "mail", Subject: subject, Created: created, Body: []byte("{}")},
			}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	claim := func(channel, want string) {
		t.Helper()
		var ids []string
		for _, m := range must(open().Claim(t.Context(), channel, 10, time.Hour))(t) {
			ids = append(ids, m.ID)
		}
		if got := strings.Join(ids, " "); got != want {
			t.Errorf("claimed %q, want %q", got, want)
		}
	}
	claim("hook", "hook-1") // the first is not due for an hour, and those behind it wait
	for _, id := range []string{"hook-0", "mail-0"} {
		if err := s.Delay(t.Context(), id, -time.Second); err != nil {
			t.Fatal(err)
		}
	}
	claim("hook", "hook-0")
	claim("hook", "") // it is being sent
	claim("mail", "mail-0 mail-1")
	if err := s.Done(t.Context(), "hook-0"); err != nil {
		t.Fatal(err)
	}
	claim("hook", "hook-2")
	if err := s.Delay(t.Context(), "hook-2", time.Hour); err != nil { // it could not be sent
		t.Fatal(err)
	}
	claim("hook", "")
	claim("none", "")

	old := must(s.Prune(t.Context(), created.Add(time.Minute)))(t)
	if len(old) != 2 || old[0].Subject != "request 1" || len(must(s.Prune(t.Context(), created.Add(time.Minute)))(t)) != 0 {
		t.Errorf("pruned %+v", old)
	}
}
