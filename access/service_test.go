package access_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hourgate/hourgate/access"
	"github.com/hourgate/hourgate/access/sqlite"
	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/policy"
)

// world is one gate's requests, without a gate, at a time of the test's choosing.
type world struct {
	t       testing.TB
	folder  string
	store   access.Store
	service *access.Service
	live    *policy.Live
	trail   *trail

	mu  sync.Mutex
	now time.Time
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

// pass lets time go by, and what is due happen.
func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	w.now = w.now.Add(d)
	w.mu.Unlock()
	w.tick()
}

// tick runs the service until nothing is due.
func (w *world) tick() {
	w.t.Helper()
	if err := w.service.Refresh(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	w.service.Due(w.t.Context())
}

type trail struct {
	mu      sync.Mutex
	records []audit.Record
	full    bool
}

func (r *trail) Append(record audit.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.full {
		return errors.New("no space left")
	}
	r.records = append(r.records, record)
	return nil
}

func (r *trail) events() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var events []string
	for _, record := range r.records {
		events = append(events, string(record.Event)+":"+record.User)
	}
	return strings.Join(events, " ")
}

var start = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC) // a Wednesday

const basePolicy = `
users:
  - {name: bob, groups: [support]}
  - {name: dave, groups: [support, on-call]}
  - {name: carol, groups: [dba]}
  - {name: erin, groups: [dba]}
  - {name: sam, groups: [security]}
operators: {groups: [security]}
`

const baseFlow = `
access_flows:
  - name: orders
    requestors: {groups: [support]}
    targets: [{integrations: [orders-prod], databases: [orders, analytics], access: [READ_ONLY, READ_WRITE]}]
    max_duration: 8h
    duration: 2h
    justification: {required: true, min_length: 3}
    approval: {any_of: [{groups: [dba]}]}
    request_ttl: 1h
    extensions: {max: 2, duration: 4h}
    break_glass: {groups: [on-call], max_duration: 1h, review_by: [{groups: [security]}]}
`

func files(t testing.TB, text string) *policy.Set {
	t.Helper()
	set, err := policy.Parse([]policy.Source{{File: "p.yaml", Data: []byte(text)}}, map[string]string{"orders-prod": "orders"})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, folder: t.TempDir(), trail: &trail{}, now: start}
	w.open()
	t.Cleanup(func() { _ = w.store.Close() })
	return w
}

// open starts the service, again after a close.
func (w *world) open() {
	w.t.Helper()
	store, err := sqlite.OpenAt(w.t.Context(), filepath.Join(w.folder, "state.db"), w.clock)
	if err != nil {
		w.t.Fatal(err)
	}
	w.store = store
	w.service, w.live = w.gate(store)
	w.tick()
}

// gate is a service of the world's, as a replica would have it.
func (w *world) gate(store access.Store) (*access.Service, *policy.Live) {
	w.t.Helper()
	set := files(w.t, basePolicy+baseFlow)
	live := policy.NewLive(set)
	service, err := access.New(access.Config{
		Store: store, Live: live, Files: set, Trail: w.trail, Logger: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry(),
		MarkFile: filepath.Join(w.folder, "mark"), LockFile: filepath.Join(w.folder, "locks"), Clock: w.clock, Channels: []string{"hook"},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return service, live
}

func (w *world) ask(user, level string) *access.Request {
	w.t.Helper()
	r, _, err := w.service.Ask(w.t.Context(), wish(user, level))
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func wish(user, level string) policy.Wish {
	return policy.Wish{User: user, Integration: "orders-prod", Access: level, Reason: "INC-1"}
}

// granted is ask with carol's approval.
func (w *world) granted(user, level string) *access.Request {
	w.t.Helper()
	r, err := w.service.Decide(w.t.Context(), "carol", w.ask(user, level).ID, access.Verdict{Approve: true})
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// may is what the policy in force says to a log-in: the access and how long, or the reason of the denial.
func (w *world) may(user string) string {
	d := w.live.Set().Decide(policy.Request{User: user, Database: "orders-prod"}, w.clock())
	if d.Grant == nil {
		return string(d.Reason)
	}
	return fmt.Sprintf("%s for %s", d.Grant.Access, d.Grant.Until.Sub(w.clock()))
}

func (w *world) wantMay(user, want string) {
	w.t.Helper()
	if got := w.may(user); got != want {
		w.t.Errorf("%s: got %q, want %q", user, got, want)
	}
}

func (w *world) state(id int64) string {
	w.t.Helper()
	r, err := w.store.Request(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	if r.State == access.Ended {
		return "ended: " + string(r.End)
	}
	return string(r.State)
}

func (w *world) wantState(id int64, want string) {
	w.t.Helper()
	if got := w.state(id); got != want {
		w.t.Errorf("request %d is %q, want %q", id, got, want)
	}
}

// refusedWith checks that err tells a person what is expected.
func refusedWith(t testing.TB, err error, want string) {
	t.Helper()
	var why *access.Refused
	if !errors.As(err, &why) || !strings.Contains(why.Message, want) {
		t.Errorf("got %v, want %q", err, want)
	}
}

func (w *world) decide(person string, id int64, v access.Verdict) error {
	_, err := w.service.Decide(w.t.Context(), person, id, v)
	return err
}

var approve, deny = access.Verdict{Approve: true}, access.Verdict{}

func TestLife(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.ask("bob", "READ_WRITE")
	w.wantMay("bob", "no_grant")
	w.pass(30 * time.Minute) // the clock of access starts with the approval
	if err := w.decide("carol", r.ID, approve); err != nil {
		t.Fatal(err)
	}
	w.wantMay("bob", "READ_WRITE for 2h0m0s")
	w.wantState(r.ID, "active")
	w.wantMay("dave", "no_grant")

	w.pass(time.Hour)
	if _, err := w.service.Extend(t.Context(), "bob", r.ID, 3*time.Hour, "not done"); err != nil {
		t.Fatal(err)
	}
	w.wantMay("bob", "READ_WRITE for 1h0m0s") // asked for, not given
	if err := w.decide("erin", r.ID, access.Verdict{Approve: true, For: time.Hour}); err != nil {
		t.Fatal(err)
	}
	w.wantMay("bob", "READ_WRITE for 2h0m0s")
	if _, err := w.service.Stop(t.Context(), access.Actor{Name: "bob"}, r.ID, "done"); err != nil {
		t.Fatal(err)
	}
	w.wantMay("bob", "no_grant")
	w.wantState(r.ID, "ended: ended by owner")
	want := "request_filed:bob request_approved:carol request_active: extension_filed:bob request_extended:erin request_ended:bob"
	if got := w.trail.events(); got != want {
		t.Errorf("trail\n got %s\nwant %s", got, want)
	}
}

// TestStates: what may be done with a request in each state, and what becomes of it.
func TestStates(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	does := map[string]func(w *world, id int64) error{
		"bob ends it": func(w *world, id int64) error {
			_, err := w.service.Stop(ctx, access.Actor{Name: "bob"}, id, "")
			return err
		},
		"dave ends it": func(w *world, id int64) error {
			_, err := w.service.Stop(ctx, access.Actor{Name: "dave"}, id, "")
			return err
		},
		"carol ends it": func(w *world, id int64) error {
			_, err := w.service.Stop(ctx, access.Actor{Name: "carol"}, id, "")
			return err
		},
		"an operator ends": func(w *world, id int64) error {
			_, err := w.service.Stop(ctx, access.Actor{Name: "sam", Operator: true}, id, "")
			return err
		},
		"carol approves": func(w *world, id int64) error { return w.decide("carol", id, approve) },
		"carol approves an hour": func(w *world, id int64) error {
			return w.decide("carol", id, access.Verdict{Approve: true, For: time.Hour})
		},
		"carol approves two hours": func(w *world, id int64) error {
			return w.decide("carol", id, access.Verdict{Approve: true, For: 2 * time.Hour})
		},
		"carol denies":         func(w *world, id int64) error { return w.decide("carol", id, deny) },
		"bob approves":         func(w *world, id int64) error { return w.decide("bob", id, approve) },
		"an operator approves": func(w *world, id int64) error { return w.decide("sam", id, approve) },
		"dave approves":        func(w *world, id int64) error { return w.decide("dave", id, approve) },
		"bob extends":          func(w *world, id int64) error { _, err := w.service.Extend(ctx, "bob", id, time.Hour, ""); return err },
		"carol extends": func(w *world, id int64) error {
			_, err := w.service.Extend(ctx, "carol", id, time.Hour, "")
			return err
		},
		"an hour passes": func(w *world, _ int64) error { w.pass(time.Hour); return nil },
		"two hours pass": func(w *world, _ int64) error { w.pass(2 * time.Hour); return nil },
		"sam reviews":    func(w *world, id int64) error { _, err := w.service.Review(ctx, "sam", id, "fine"); return err },
	}
	for _, tt := range []struct {
		when    string // what happened before, by names of does
		does    string
		refused string // why, if it is
		then    string // the state after it
	}{
		{"", "carol approves", "", "active"},
		{"", "carol denies", "", "denied"},
		{"", "bob approves", "nobody decides their own request", "pending"},
		{"", "an operator approves", "you are not among those who decide", "pending"},
		{"", "dave approves", "there is no such request", "pending"},
		{"", "bob ends it", "", "withdrawn"},
		{"", "carol ends it", "", "denied"},
		{"", "an operator ends", "", "denied"},
		{"", "dave ends it", "there is no such request", "pending"},
		{"", "bob extends", "is pending, so there is nothing to extend", "pending"},
		{"", "an hour passes", "", "lapsed"},
		{"", "sam reviews", "was no use of break-glass", "pending"},

		{"carol approves", "carol approves", "request 1 is active", "active"},
		{"carol approves", "carol denies", "request 1 is active", "active"},
		{"carol approves", "bob ends it", "", "ended: ended by owner"},
		{"carol approves", "carol ends it", "", "ended: revoked"},
		{"carol approves", "an operator ends", "", "ended: revoked"},
		{"carol approves", "dave ends it", "there is no such request", "active"},
		{"carol approves", "bob extends", "", "active"},
		{"carol approves", "carol extends", "request 1 is bob's, not yours", "active"},
		{"carol approves", "an hour passes", "", "active"},
		{"carol approves", "two hours pass", "", "ended: expired"},
		{"carol approves, bob extends", "bob extends", "waits for a decision already", "active"},
		{"carol approves, bob extends", "bob approves", "nobody decides their own request", "active"},
		{"carol approves, bob extends", "carol approves", "request 1 is active, and bob asks for 1h0m0s more", "active"}, // she may not have seen it
		{"carol approves, bob extends", "carol approves an hour", "", "active"},
		{"carol approves, bob extends", "carol approves two hours", "never lengthen it: 1h0m0s was asked for", "active"},
		{"carol approves, bob extends, carol approves an hour", "two hours pass", "", "active"},
		{"carol approves, bob extends, carol denies", "two hours pass", "", "ended: expired"},
		{"carol approves, bob extends, an hour passes", "carol approves", "request 1 is active", "active"}, // the extension has lapsed

		{"carol denies", "carol approves", "request 1 is denied already", "denied"},
		{"bob ends it", "carol approves", "request 1 is withdrawn already", "withdrawn"},
		{"an hour passes", "carol approves", "request 1 is lapsed already", "lapsed"},
		{"an hour passes", "bob ends it", "request 1 is lapsed already", "lapsed"},
		{"carol approves, two hours pass", "bob extends", "is ended already (expired)", "ended: expired"},
		{"carol approves, two hours pass", "carol approves", "is ended already (expired)", "ended: expired"},
		{"carol approves, two hours pass", "bob ends it", "is ended already (expired)", "ended: expired"},
	} {
		t.Run(tt.when+", "+tt.does, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			id := w.ask("bob", "READ_WRITE").ID
			for before := range strings.SplitSeq(tt.when, ", ") {
				if before != "" {
					if err := does[before](w, id); err != nil {
						t.Fatalf("%s: %v", before, err)
					}
				}
			}
			switch err := does[tt.does](w, id); {
			case tt.refused != "":
				refusedWith(t, err, tt.refused)
			case err != nil:
				t.Error(err)
			}
			w.wantState(id, tt.then)
		})
	}
}

// TestLapseAtTheDecision: nothing needs to have noticed the time before.
func TestLapseAtTheDecision(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.ask("bob", "READ_WRITE")
	w.mu.Lock()
	w.now = w.now.Add(time.Hour)
	w.mu.Unlock()
	refusedWith(t, w.decide("carol", r.ID, approve), "request 1 has lapsed: nobody decided before 2026-11-25 13:00:00 UTC")
	w.wantState(r.ID, "lapsed")
	w.wantMay("bob", "no_grant")
}

// TestNarrow: an approver may give less, never more.
func TestNarrow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.ask("bob", "READ_WRITE")
	refusedWith(t, w.decide("carol", r.ID, access.Verdict{Approve: true, For: 3 * time.Hour}), "an approver may shorten the time")
	refusedWith(t, w.decide("carol", r.ID, access.Verdict{Approve: true, Access: "ADMIN"}), "flow orders does not give ADMIN there")
	if err := w.decide("carol", r.ID, access.Verdict{Approve: true, For: time.Hour, Access: "READ_ONLY"}); err != nil {
		t.Fatal(err)
	}
	w.wantMay("bob", "READ_ONLY for 1h0m0s")
	reader := w.ask("dave", "READ_ONLY")
	refusedWith(t, w.decide("carol", reader.ID, access.Verdict{Approve: true, Access: "READ_WRITE"}), "an approver may lower access, never widen it")
}

// TestCeiling: the flow in force is the ceiling at every moment, and what it took away does not come back.
func TestCeiling(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.granted("bob", "READ_WRITE")
	other := w.granted("dave", "READ_ONLY")
	shorter := strings.NewReplacer("max_duration: 8h", "max_duration: 1h", "duration: 2h", "duration: 1h")
	w.service.SetFiles(files(t, basePolicy+shorter.Replace(baseFlow)))
	w.wantMay("bob", "READ_WRITE for 1h0m0s")
	w.tick()
	w.service.SetFiles(files(t, basePolicy+baseFlow))
	w.wantMay("bob", "READ_WRITE for 1h0m0s")

	w.service.SetFiles(files(t, basePolicy+strings.Replace(baseFlow, ", READ_WRITE]", "]", 1)))
	w.wantMay("bob", "no_grant")
	w.wantMay("dave", "READ_ONLY for 1h0m0s")
	w.tick()
	w.wantState(r.ID, "ended: no longer allowed")
	w.service.SetFiles(files(t, basePolicy+baseFlow))
	w.wantMay("bob", "no_grant")

	w.service.SetFiles(files(t, strings.Replace(basePolicy, "dave, groups: [support, on-call]", "dave, groups: [on-call]", 1)+strings.Replace(baseFlow, "[support]", "[support, security]", 1)))
	w.wantMay("dave", "no_grant")
	w.tick()
	w.wantState(other.ID, "ended: no longer allowed")

	w.service.SetFiles(files(t, basePolicy+baseFlow))
	last := w.ask("bob", "READ_ONLY")
	w.service.SetFiles(files(t, basePolicy+strings.Replace(baseFlow, "name: orders", "name: renamed", 1)))
	refusedWith(t, w.decide("carol", last.ID, approve), "there is no such request") // she decides nothing any more
	w.wantState(last.ID, "pending")
}

func TestBreakGlass(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	emergency := wish("dave", "READ_WRITE")
	emergency.BreakGlass = true
	r, _, err := w.service.Ask(t.Context(), emergency)
	if err != nil {
		t.Fatal(err)
	}
	w.wantMay("dave", "READ_WRITE for 1h0m0s")
	_, err = w.service.Extend(t.Context(), "dave", r.ID, time.Minute, "")
	refusedWith(t, err, "access by break-glass is not extended")
	w.pass(2 * time.Hour)
	w.wantState(r.ID, "ended: expired")
	_, _, err = w.service.Ask(t.Context(), emergency)
	refusedWith(t, err, "your last use of break-glass has not been reviewed")
	_, err = w.service.Review(t.Context(), "dave", r.ID, "it was fine")
	refusedWith(t, err, "nobody reviews their own use of break-glass")
	_, err = w.service.Review(t.Context(), "sam", r.ID, "")
	refusedWith(t, err, "a review says something")
	if _, err = w.service.Review(t.Context(), "sam", r.ID, "it was fine"); err != nil {
		t.Fatal(err)
	}
	_, err = w.service.Review(t.Context(), "sam", r.ID, "again")
	refusedWith(t, err, "sam has reviewed request 1 already")
	if _, _, err = w.service.Ask(t.Context(), emergency); err != nil {
		t.Fatal(err)
	}
}

// TestRestored: a copy of the state brings nothing back to life, and gives no number twice.
func TestRestored(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.granted("bob", "READ_WRITE")
	pending := w.ask("dave", "READ_WRITE")
	if err := w.store.Close(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(w.folder, "state.db")
	saved, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	w.open()
	if _, err := w.service.Stop(t.Context(), access.Actor{Name: "carol"}, r.ID, "no"); err != nil {
		t.Fatal(err)
	}
	w.ask("bob", "READ_ONLY")
	if everywhere, err := w.service.Lock(t.Context(), access.Actor{Name: "sam", Operator: true}, policy.Lock{Kind: policy.LockUser, Name: "erin", Reason: "left"}); !everywhere || err != nil {
		t.Fatal(everywhere, err)
	}
	_ = w.store.Close()
	if err := os.WriteFile(file, saved, 0o600); err != nil {
		t.Fatal(err)
	}

	w.open()
	w.wantMay("bob", "no_grant")
	w.wantMay("erin", "locked")
	w.wantState(r.ID, "ended: state restored")
	w.wantState(pending.ID, "lapsed")
	if !strings.Contains(w.trail.events(), "state_restored") {
		t.Error("the trail does not know")
	}
	if next := w.ask("bob", "READ_ONLY"); next.ID != 4 {
		t.Errorf("the next request is %d", next.ID)
	}
	_ = w.store.Close()
	w.open() // and it is not done again
	w.wantState(4, "pending")
}

// TestRestoredAndGoneOn: a copy that others have gone on with, until it was as far as what this gate has seen and further, is no
// continuation of that. It is found out once: a gate that comes later, and has seen the same, leaves what came after alone.
func TestRestoredAndGoneOn(t *testing.T) {
	t.Parallel()
	for _, more := range []int{0, 1, 5} {
		t.Run(fmt.Sprint(more), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			r := w.granted("bob", "READ_WRITE")
			_ = w.store.Close()
			file, mark := filepath.Join(w.folder, "state.db"), filepath.Join(w.folder, "mark")
			saved := read(t, file)
			w.open()
			if _, err := w.service.Stop(t.Context(), access.Actor{Name: "carol"}, r.ID, "no"); err != nil {
				t.Fatal(err)
			}
			seen := read(t, mark)
			_ = w.store.Close()

			if err := errors.Join(os.WriteFile(file, saved, 0o600), os.Remove(mark)); err != nil {
				t.Fatal(err)
			}
			w.open() // a gate that has seen nothing
			w.wantMay("bob", "READ_WRITE for 2h0m0s")
			for range 1 + more {
				w.ask("dave", "READ_ONLY")
			}
			_ = w.store.Close()

			if err := os.WriteFile(mark, seen, 0o600); err != nil {
				t.Fatal(err)
			}
			w.open()
			w.wantMay("bob", "no_grant")
			w.wantState(r.ID, "ended: state restored")
			w.wantState(2, "lapsed")
			after := w.ask("dave", "READ_ONLY")
			_ = w.store.Close()
			if err := os.WriteFile(mark, seen, 0o600); err != nil {
				t.Fatal(err)
			}
			w.open()
			w.wantState(after.ID, "pending")
			if n := strings.Count(w.trail.events(), "state_restored"); n != 1 {
				t.Errorf("%d records of it", n)
			}
		})
	}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// TestStateGone: without the store, file grants go on, and what was granted takes no new sessions after a while and ends
// at its known end.
func TestStateGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.granted("bob", "READ_WRITE")
	_ = w.store.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	look := func() { w.service.Look(t.Context()) }
	look()
	w.wantMay("bob", "READ_WRITE for 2h0m0s")
	w.mu.Lock()
	w.now = w.now.Add(11 * time.Second)
	w.mu.Unlock()
	look()
	w.wantMay("bob", "unconfirmed")
	if g, ok := w.live.Set().Covers("bob", "request-1", "orders", w.clock()); !ok || !g.Until.Equal(start.Add(2*time.Hour)) {
		t.Errorf("the session that lives: %v %t", g, ok)
	}
	_, _, err := w.service.Ask(t.Context(), wish("bob", "READ_ONLY"))
	refusedWith(t, err, "the state of requests can't be reached now")
	refusedWith(t, w.decide("carol", 1, approve), "the state of requests can't be reached now")

	everywhere, err := w.service.Lock(t.Context(), access.Actor{Name: "operator", Operator: true}, policy.Lock{Kind: policy.LockUser, Name: "bob", Reason: "stolen laptop"})
	if everywhere || err != nil {
		t.Errorf("lock: %t, %v", everywhere, err)
	}
	w.wantMay("bob", "locked")
	if _, ok := w.live.Set().Covers("bob", "request-1", "orders", w.clock()); ok {
		t.Error("the session lives on under a lock")
	}
	w.open() // the store is back, in another process
	w.wantMay("bob", "locked")
	if err := w.service.Unlock(ctx, access.Actor{Name: "operator", Operator: true}, policy.LockUser, "bob"); err != nil {
		t.Fatal(err)
	}
	w.wantMay("bob", "READ_WRITE for 1h59m49s")
}

// forgetful is a store that can't be read.
type forgetful struct {
	access.Store
	lost bool
}

func (f *forgetful) Load(ctx context.Context) (*access.Snapshot, error) {
	if f.lost {
		return nil, errors.New("connection lost")
	}
	return f.Store.Load(ctx)
}

// TestLockHandedOver: a lock that the store has taken, and that can't be read from there yet, holds on this machine meanwhile.
func TestLockHandedOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.granted("bob", "READ_WRITE")
	store := &forgetful{Store: w.store}
	w.service, w.live = w.gate(store)
	w.tick()
	sam, lock := access.Actor{Name: "sam", Operator: true}, policy.Lock{Kind: policy.LockUser, Name: "bob", Reason: "stolen"}
	store.lost = true
	if everywhere, err := w.service.Lock(t.Context(), sam, lock); !everywhere || err != nil {
		t.Fatal(everywhere, err)
	}
	w.wantMay("bob", "locked")
	if _, live := w.gate(store); !isLocked(live, w) {
		t.Error("after a restart there is no lock")
	}
	store.lost = false
	w.tick()
	w.wantMay("bob", "locked")
	if locks := w.service.Locks(); len(locks) != 1 || locks[0].Local {
		t.Errorf("locks %+v, want that of the store", locks)
	}
	if err := w.service.Unlock(t.Context(), sam, policy.LockUser, "bob"); err != nil {
		t.Fatal(err)
	}
	w.wantMay("bob", "READ_WRITE for 2h0m0s")
}

// TestSpaces: what nobody can see is no reason.
func TestSpaces(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, blank := range []string{"   ", "\u00a0\u00a0\u00a0\u3000", " x "} {
		ask := wish("bob", "READ_ONLY")
		ask.Reason = blank
		_, _, err := w.service.Ask(t.Context(), ask)
		want := "this request needs a reason"
		if strings.Contains(blank, "x") {
			want = "the reason is too short: at least 3 characters are required"
		}
		refusedWith(t, err, want)
		_, err = w.service.Lock(t.Context(), access.Actor{Operator: true}, policy.Lock{Kind: policy.LockAll, Reason: strings.ReplaceAll(blank, "x", "")})
		refusedWith(t, err, "a lock needs a reason")
	}
	emergency := wish("dave", "READ_ONLY")
	emergency.BreakGlass = true
	r, _, err := w.service.Ask(t.Context(), emergency)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.service.Review(t.Context(), "sam", r.ID, " \u2003 ")
	refusedWith(t, err, "a review says something")
}

// TestReviewWithoutItsFlow: a use of break-glass whose flow is gone is reviewed by operators, so that its person can break the glass
// again; by nobody else, and never by themselves.
func TestReviewWithoutItsFlow(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"flow renamed": strings.Replace(baseFlow, "name: orders", "name: renamed", 1),
		"no glass":     baseFlow[:strings.Index(baseFlow, "    break_glass")],
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			emergency := wish("dave", "READ_ONLY")
			emergency.BreakGlass = true
			r, _, err := w.service.Ask(t.Context(), emergency)
			if err != nil {
				t.Fatal(err)
			}
			w.service.SetFiles(files(t, basePolicy+text))
			w.tick()
			for _, person := range []string{"dave", "carol"} {
				if _, err := w.service.Review(t.Context(), person, r.ID, "fine"); err == nil {
					t.Errorf("%s reviewed it", person)
				}
			}
			if _, err := w.service.Review(t.Context(), "sam", r.ID, "fine"); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestAskOnce: who knocks again with the same wish waits for the same decision; another wish is another request.
func TestAskOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	once := func(change func(*policy.Wish)) int64 {
		t.Helper()
		again := wish("bob", "READ_ONLY")
		change(&again)
		r, _, err := w.service.AskOnce(t.Context(), again)
		if err != nil {
			t.Fatal(err)
		}
		return r.ID
	}
	same := func(*policy.Wish) {}
	first := once(same)
	if again := once(same); again != first {
		t.Errorf("it became request %d", again)
	}
	for name, change := range map[string]func(*policy.Wish){
		"who": func(w *policy.Wish) { w.User = "dave" }, "what": func(w *policy.Wish) { w.Access = "READ_WRITE" },
		"how long": func(w *policy.Wish) { w.For = time.Hour }, "why": func(w *policy.Wish) { w.Reason = "INC-2" },
		"where": func(w *policy.Wish) { w.Databases = []string{"analytics"} },
	} {
		if once(change) == first {
			t.Errorf("%s does not matter", name)
		}
	}
	if err := w.decide("carol", first, deny); err != nil {
		t.Fatal(err)
	}
	second := once(same)
	if second == first {
		t.Error("what was denied is asked for once only")
	}
	w.mu.Lock()
	w.now = w.now.Add(time.Hour) // nobody has noticed that it has lapsed
	w.mu.Unlock()
	if once(same) == second {
		t.Error("it waits for a decision that can't come")
	}
}

// TestTrailFull: what can't be recorded does not happen, but for what ends access.
func TestTrailFull(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	live, pending := w.granted("bob", "READ_WRITE"), w.ask("dave", "READ_WRITE")
	w.trail.full = true
	const why = "this can't be recorded, so it can't be done"
	_, _, err := w.service.Ask(t.Context(), wish("bob", "READ_ONLY"))
	refusedWith(t, err, why)
	refusedWith(t, w.decide("carol", pending.ID, approve), why)
	_, err = w.service.Extend(t.Context(), "bob", live.ID, time.Hour, "")
	refusedWith(t, err, why)
	w.wantState(pending.ID, "pending")
	if _, err := w.service.Stop(t.Context(), access.Actor{Name: "carol"}, live.ID, ""); err != nil {
		t.Fatal(err)
	}
	w.wantMay("bob", "no_grant")
	if _, err := w.service.Lock(t.Context(), access.Actor{Operator: true}, policy.Lock{Kind: policy.LockAll, Reason: "disk full"}); err != nil {
		t.Fatal(err)
	}
	w.wantMay("dave", "locked")
}

// TestHostile: bad input gets clear words, and changes nothing.
func TestHostile(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, tt := range []struct {
		change func(*policy.Wish)
		want   string
	}{
		{func(w *policy.Wish) { w.Reason = strings.Repeat("x", 1<<20) }, "the reason is too long: 1048576 bytes, and at most 1000 are taken"},
		{func(w *policy.Wish) { w.Reason = "a\nb\x1b[31m" }, "the reason has a character that cannot be seen (U+000A)"},
		{func(w *policy.Wish) { w.Reason = "abc\u202e" }, "the reason has a character that cannot be seen (U+202E)"},
		{func(w *policy.Wish) { w.Reason = "abc\xff" }, "the reason is not UTF-8 text"},
		{func(w *policy.Wish) { w.For = -time.Hour }, "access for no time is no access"},
		{func(w *policy.Wish) { w.For = 250 * 8766 * time.Hour }, "flow orders gives access for 8 hours at most"},
		{func(w *policy.Wish) { w.Integration = "orders-prod'; DROP TABLE hourgate_requests; --" }, "no access flow lets you ask for"},
		{func(w *policy.Wish) { w.User = "nobody" }, "no access flow lets you ask for"},
		{func(w *policy.Wish) { w.Access = strings.Repeat("A", 1<<20) }, "the access is too long"},
	} {
		ask := wish("bob", "READ_WRITE")
		tt.change(&ask)
		_, _, err := w.service.Ask(t.Context(), ask)
		refusedWith(t, err, tt.want)
	}
	for range 20 {
		w.ask("bob", "READ_ONLY")
	}
	_, _, err := w.service.Ask(t.Context(), wish("bob", "READ_ONLY"))
	refusedWith(t, err, "you have 20 open requests already")
	for _, id := range []int64{0, -1, 1 << 62} {
		refusedWith(t, w.decide("carol", id, approve), "there is no such request")
	}
	_, err = w.service.Lock(t.Context(), access.Actor{Name: "sam", Operator: true}, policy.Lock{Kind: policy.LockUser, Name: "bobb", Reason: "r"})
	refusedWith(t, err, `there is no user "bobb"`)
	_, err = w.service.Lock(t.Context(), access.Actor{Name: "bob"}, policy.Lock{Kind: policy.LockAll, Reason: "r"})
	refusedWith(t, err, "only operators may do this")
	refusedWith(t, w.service.Unlock(t.Context(), access.Actor{Name: "bob"}, policy.LockAll, ""), "only operators may do this")
}

// TestHowOftenOneAsks: who files and withdraws again and again is told to wait, by whichever gate, also after a restart; others,
// and the glass, are not concerned.
func TestHowOftenOneAsks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for range 60 {
		r := w.ask("bob", "READ_ONLY")
		if _, err := w.service.Stop(t.Context(), access.Actor{Name: "bob"}, r.ID, ""); err != nil {
			t.Fatal(err)
		}
		w.now = w.now.Add(time.Second)
	}
	again := func(user string) error { _, _, err := w.service.Ask(t.Context(), wish(user, "READ_ONLY")); return err }
	refusedWith(t, again("bob"), "you have asked 60 times within an hour")
	_ = w.store.Close()
	w.open()
	refusedWith(t, again("bob"), "you have asked 60 times within an hour")
	if err := again("dave"); err != nil {
		t.Errorf("dave: %v", err)
	}
	w.now = w.now.Add(59 * time.Minute) // an hour after the first
	if err := again("bob"); err != nil {
		t.Errorf("later: %v", err)
	}
	refusedWith(t, again("bob"), "you have asked 60 times within an hour")
}

// TestOverlap: of two that overlap, neither's end moves the other's.
func TestOverlap(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	short, long := w.granted("bob", "READ_WRITE"), w.ask("bob", "READ_WRITE")
	w.pass(30 * time.Minute)
	if err := w.decide("carol", long.ID, approve); err != nil {
		t.Fatal(err)
	}
	w.wantMay("bob", "READ_WRITE for 2h0m0s")
	w.pass(90 * time.Minute)
	w.wantState(short.ID, "ended: expired")
	w.wantMay("bob", "READ_WRITE for 30m0s")
	again := w.granted("bob", "READ_WRITE")
	if _, err := w.service.Stop(t.Context(), access.Actor{Name: "bob"}, again.ID, "not needed"); err != nil {
		t.Fatal(err)
	}
	w.wantMay("bob", "READ_WRITE for 30m0s")
}

// TestDecidersAtOnce: of two replicas' deciders, one decides, and the other is told.
func TestDecidersAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	second, _ := w.gate(w.store)
	for range 10 {
		id := w.ask("bob", "READ_ONLY").ID
		errs := make(chan error, 2)
		go func() { errs <- w.decide("carol", id, approve) }()
		go func() { _, err := second.Decide(t.Context(), "erin", id, deny); errs <- err }()
		first, other := <-errs, <-errs
		if (first == nil) == (other == nil) {
			t.Fatalf("got %v and %v", first, other)
		}
		refusedWith(t, errors.Join(first, other), fmt.Sprintf("request %d is ", id))
		if _, err := w.service.Stop(t.Context(), access.Actor{Name: "bob"}, id, ""); err != nil && w.state(id) != "denied" {
			t.Error(err)
		}
	}
}

// TestSkew: an end is one of the store's clock, and no replica is later, whatever its own clock says.
func TestSkew(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.granted("bob", "READ_WRITE")
	for _, behind := range []time.Duration{-time.Hour, -time.Second, time.Second, 10 * time.Minute} {
		set := files(t, basePolicy+baseFlow)
		live := policy.NewLive(set)
		service, err := access.New(access.Config{
			Store: w.store, Live: live, Files: set, Trail: w.trail, Logger: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry(),
			Clock: func() time.Time { return w.clock().Add(-behind) },
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := service.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		g, ok := live.Set().Covers("bob", "request-1", "orders", w.clock())
		if !ok {
			t.Errorf("%v behind: no grant", behind)
			continue
		}
		// Its clock shows this at the true end.
		if shown := start.Add(2 * time.Hour).Add(-behind); g.Until.After(shown) && behind > 0 || g.Until.After(start.Add(2*time.Hour)) {
			t.Errorf("%v behind: ends at %v, its clock shows %v then", behind, g.Until, shown)
		}
	}
}

func isLocked(live *policy.Live, w *world) bool {
	_, locked := live.Set().Locked("bob", "", "", w.clock())
	return locked
}
