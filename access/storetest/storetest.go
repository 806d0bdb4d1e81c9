// Package storetest is what every access.Store has to do.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hourgate/hourgate/access"
	"github.com/hourgate/hourgate/policy"
)

// Run runs the suite. open opens the same empty store each time within one test; a store that one process holds alone
// returns the one it has.
func Run(t *testing.T, open func(t *testing.T) func() access.Store) {
	for name, test := range map[string]func(*testing.T, func() access.Store){
		"keeps requests": keeps, "compares and swaps": swaps, "bounds open requests": bounds, "breaks the glass once": glass,
		"announces before": announces, "locks": locks, "outbox": outbox, "outbox in order": ordered, "restore": restore, "history": history, "hostile text": hostile, "deciders at once": deciders,
		"orders": orders,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

// Silent announces nothing.
func Silent[T any](T) ([]access.Message, error) { return nil, nil }

// Sample is a request with something in every field.
func Sample(user string) *access.Request {
	at := time.Date(2026, 11, 25, 12, 0, 0, 123456000, time.UTC)
	return &access.Request{
		State: access.Pending, User: user, Flow: "support", Integration: "orders", Databases: []string{"a", "b"}, Access: "READ_WRITE",
		For: 2 * time.Hour, Reason: "INC-1", Asked: at, Lapses: at.Add(time.Hour),
		Decisions: []access.Decision{{By: "carol", At: at, Approve: true, Reason: "fine"}},
		Approved:  at, Until: at.Add(2 * time.Hour),
		Extensions: []access.Extension{{For: time.Hour, State: access.Pending, Asked: at, Lapses: at.Add(time.Hour)}},
	}
}

func create(t testing.TB, s access.Store, r *access.Request) *access.Request {
	t.Helper()
	if err := s.Create(t.Context(), r, 100, Silent); err != nil {
		t.Fatal(err)
	}
	return r
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func keeps(t *testing.T, open func() access.Store) {
	s := open()
	want := create(t, s, Sample("bob"))
	create(t, s, Sample("dave"))
	if want.ID != 1 || want.Version != 1 {
		t.Errorf("the first request has ID %d and version %d", want.ID, want.Version)
	}
	got := must(open().Request(t.Context(), 1))(t)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if _, err := s.Request(t.Context(), 99); !errors.Is(err, access.ErrNotFound) {
		t.Errorf("got %v for a request that is not there", err)
	}
	for _, tt := range []struct {
		filter access.Filter
		want   []int64
	}{
		{access.Filter{}, []int64{2, 1}},
		{access.Filter{User: "bob"}, []int64{1}},
		{access.Filter{User: "nobody"}, nil},
		{access.Filter{Open: true, Limit: 1}, []int64{2}},
		{access.Filter{OwesReview: true}, nil},
	} {
		var ids []int64
		for _, r := range must(s.Requests(t.Context(), tt.filter))(t) {
			ids = append(ids, r.ID)
		}
		if !slices.Equal(ids, tt.want) {
			t.Errorf("%+v: got %v, want %v", tt.filter, ids, tt.want)
		}
	}
	want.State = access.Denied
	if err := s.Update(t.Context(), want, Silent); err != nil {
		t.Fatal(err)
	}
	snapshot := must(s.Load(t.Context()))(t)
	if len(snapshot.Open) != 1 || snapshot.Open[0].ID != 2 || snapshot.LastID != 2 || time.Since(snapshot.Now).Abs() > time.Minute {
		t.Errorf("got snapshot %+v", snapshot)
	}
}

func swaps(t *testing.T, open func() access.Store) {
	s := open()
	r := create(t, s, Sample("bob"))
	first, second := must(s.Request(t.Context(), r.ID))(t), must(open().Request(t.Context(), r.ID))(t)
	before := must(s.Revision(t.Context()))(t)
	first.State = access.Denied
	if err := s.Update(t.Context(), first, Silent); err != nil || first.Version != 2 {
		t.Fatalf("got version %d, %v", first.Version, err)
	}
	second.State = access.Approved
	announced := false
	err := open().Update(t.Context(), second, func(*access.Request) ([]access.Message, error) { announced = true; return nil, nil })
	if !errors.Is(err, access.ErrConflict) || announced || second.Version != 1 {
		t.Errorf("the second change: got %v, announced %t, version %d", err, announced, second.Version)
	}
	if got := must(s.Request(t.Context(), r.ID))(t); got.State != access.Denied {
		t.Errorf("it is %s", got.State)
	}
	if after := must(s.Revision(t.Context()))(t); after != before+1 {
		t.Errorf("revision went from %d to %d by one change and one conflict", before, after)
	}
}

func bounds(t *testing.T, open func() access.Store) {
	var filed, refused sync.Map
	var all sync.WaitGroup
	for i := range 20 {
		s := open()
		all.Go(func() {
			var why *access.Refused
			switch err := s.Create(t.Context(), Sample("bob"), 5, Silent); {
			case err == nil:
				filed.Store(i, true)
			case errors.As(err, &why) && why.Message == "you have 5 open requests already":
				refused.Store(i, true)
			default:
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n, m := size(&filed), size(&refused); n != 5 || m != 15 {
		t.Errorf("%d were filed and %d refused", n, m)
	}
	if err := open().Create(t.Context(), Sample("dave"), 5, Silent); err != nil {
		t.Errorf("somebody else: %v", err)
	}
}

func size(m *sync.Map) (n int) {
	m.Range(func(any, any) bool { n++; return true })
	return n
}

func glass(t *testing.T, open func() access.Store) {
	s := open()
	broken := Sample("bob")
	broken.BreakGlass, broken.State = true, access.Approved
	create(t, s, broken)
	again := Sample("bob")
	again.BreakGlass, again.State = true, access.Approved
	var why *access.Refused
	if err := s.Create(t.Context(), again, 100, Silent); !errors.As(err, &why) || why.Message != "your last use of break-glass has not been reviewed" {
		t.Fatalf("got %v", err)
	}
	create(t, s, Sample("bob"))
	broken.State, broken.End = access.Ended, access.Expired
	if err := s.Update(t.Context(), broken, Silent); err != nil {
		t.Fatal(err)
	}
	if err := s.Create(t.Context(), again, 100, Silent); err == nil {
		t.Error("a review is owed after the end, too")
	}
	if owed := must(s.Requests(t.Context(), access.Filter{OwesReview: true}))(t); len(owed) != 1 || owed[0].ID != broken.ID {
		t.Errorf("reviews owed: %v", owed)
	}
	broken.Review = &access.Review{By: "sam", At: broken.Asked, Reason: "was right"}
	if err := s.Update(t.Context(), broken, Silent); err != nil {
		t.Fatal(err)
	}
	create(t, s, again)
}

func locks(t *testing.T, open func() access.Store) {
	s := open()
	lock := func(kind policy.LockKind, name, reason string) {
		t.Helper()
		l := access.Lock{Lock: policy.Lock{Kind: kind, Name: name, Reason: reason, Until: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)}, By: "sam", At: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
		if err := s.Lock(t.Context(), l, Silent); err != nil {
			t.Fatal(err)
		}
	}
	lock(policy.LockUser, "bob", "one")
	lock(policy.LockUser, "bob", "two")
	lock(policy.LockAll, "", "three")
	got := must(open().Load(t.Context()))(t).Locks
	if len(got) != 2 || got[0].Reason != "three" || got[1].Reason != "two" || got[1].By != "sam" || got[1].Until.Year() != 2027 {
		t.Errorf("got %+v", got)
	}
	lifted := ""
	if err := s.Unlock(t.Context(), policy.LockUser, "bob", func(l access.Lock) ([]access.Message, error) { lifted = l.Reason; return nil, nil }); err != nil || lifted != "two" {
		t.Errorf("lifted %q, %v", lifted, err)
	}
	if err := s.Unlock(t.Context(), policy.LockUser, "bob", Silent); !errors.Is(err, access.ErrNotFound) {
		t.Errorf("again: %v", err)
	}
}

func restore(t *testing.T, open func() access.Store) {
	s := open()
	for range 3 {
		create(t, s, Sample("bob"))
	}
	revision := must(s.Revision(t.Context()))(t)
	end := func(r *access.Request) { r.State, r.End = access.Ended, access.Restored }
	if err := s.Restore(t.Context(), revision-1, 50, nil, end); !errors.Is(err, access.ErrConflict) {
		t.Errorf("of a store that is not behind: %v", err)
	}
	locked := []access.Lock{{Lock: policy.Lock{Kind: policy.LockUser, Name: "bob", Reason: "left"}}}
	if err := s.Restore(t.Context(), revision+10, 50, locked, end); err != nil {
		t.Fatal(err)
	}
	snapshot := must(s.Load(t.Context()))(t)
	if len(snapshot.Open) != 0 || snapshot.Revision != revision+11 || snapshot.LastID != 50 || len(snapshot.Locks) != 1 {
		t.Errorf("got %+v", snapshot)
	}
	if r := create(t, s, Sample("bob")); r.ID != 51 {
		t.Errorf("the next ID is %d", r.ID)
	}
}

// history: each change has a token of its own, which stays, and a restored state says that it is one.
func history(t *testing.T, open func() access.Store) {
	s := open()
	if snapshot := must(s.Load(t.Context()))(t); snapshot.Token != "" {
		t.Errorf("token %q without a change", snapshot.Token)
	}
	tokens := make(map[int64]string)
	for range 3 {
		create(t, s, Sample("bob"))
		snapshot := must(open().Load(t.Context()))(t)
		tokens[snapshot.Revision] = snapshot.Token
	}
	seen := make(map[string]bool)
	for revision, token := range tokens {
		h := must(s.History(t.Context(), revision))(t)
		if token == "" || seen[token] || h.Token != token || h.Oldest != 2 || h.Restored != 0 {
			t.Errorf("revision %d had token %q, and now %+v", revision, token, h)
		}
		seen[token] = true
	}
	for _, ahead := range []int64{0, 10} {
		revision := must(s.Revision(t.Context()))(t) + 1
		if err := s.Restore(t.Context(), revision+ahead, 50, nil, func(*access.Request) {}); err != nil {
			t.Fatal(err)
		}
		snapshot := must(s.Load(t.Context()))(t)
		if h := must(s.History(t.Context(), snapshot.Revision))(t); snapshot.Revision != revision+ahead+1 || h.Restored != snapshot.Revision || h.Token != snapshot.Token || h.Token == "" {
			t.Errorf("restored: revision %d, token %q, %+v", snapshot.Revision, snapshot.Token, h)
		}
		if h := must(s.History(t.Context(), revision))(t); h.Token != "" {
			t.Errorf("a revision that was leapt over has token %q", h.Token)
		}
	}
}

// hostile: no text is anything but text.
func hostile(t *testing.T, open func() access.Store) {
	s := open()
	for _, text := range []string{
		`'; DROP TABLE hourgate_requests; --`, `$1`, `?1`, "%s", `\`, `"`, "é\u202e", strings.Repeat("x", 100_000), `' OR '1'='1`, "E'\\x00'",
	} {
		r := Sample(text)
		r.Reason, r.Flow, r.Integration, r.Databases, r.Access = text, text, text, []string{text}, text
		create(t, s, r)
		if got := must(s.Requests(t.Context(), access.Filter{User: text}))(t); len(got) != 1 || cmp.Diff(r, got[0]) != "" {
			t.Errorf("%.20q became %d requests: %s", text, len(got), cmp.Diff(r, got))
		}
		if err := s.Lock(t.Context(), access.Lock{Lock: policy.Lock{Kind: policy.LockUser, Name: text, Reason: text}}, Silent); err != nil {
			t.Error(err)
		}
		if err := s.Unlock(t.Context(), policy.LockUser, text, Silent); err != nil {
			t.Error(err)
		}
	}
}

// deciders: of many who decide at once, one does.
func deciders(t *testing.T, open func() access.Store) {
	s := open()
	for range 5 {
		id := create(t, s, Sample("bob")).ID
		var won sync.Map
		var all sync.WaitGroup
		for i := range 8 {
			s := open()
			all.Go(func() {
				r, err := s.Request(t.Context(), id)
				if err != nil {
					t.Error(err)
					return
				}
				if r.State != access.Pending {
					return
				}
				r.State = access.Approved
				r.Reason = fmt.Sprint(i)
				switch err := s.Update(t.Context(), r, Silent); {
				case err == nil:
					won.Store(i, true)
				case !errors.Is(err, access.ErrConflict):
					t.Error(err)
				}
			})
		}
		all.Wait()
		if n := size(&won); n != 1 {
			t.Errorf("%d deciders won", n)
		}
	}
}

// orders: whoever sees a revision sees all that was changed up to it.
func orders(t *testing.T, open func() access.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for i := range 3 {
		s := open()
		all.Go(func() {
			for range 10 {
				create(t, s, Sample(fmt.Sprint(i)))
			}
		})
	}
	reader := open()
	var read sync.WaitGroup
	read.Go(func() {
		for ctx.Err() == nil {
			snapshot, err := reader.Load(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			if int64(len(snapshot.Open)) != snapshot.LastID || snapshot.Revision != snapshot.LastID+1 {
				t.Errorf("revision %d, last ID %d, but %d requests", snapshot.Revision, snapshot.LastID, len(snapshot.Open))
				return
			}
		}
	})
	all.Wait()
	cancel()
	read.Wait()
}
