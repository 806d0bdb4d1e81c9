package secrets_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hourgate/hourgate/secrets"
)

var errDown = errors.New("store is down")

// world is a secret store and a server, and a diary of what they were asked.
type world struct {
	mu     sync.Mutex
	stages map[secrets.Stage]string // passwords; "" is a stage that is malformed
	down   bool
	slow   time.Duration // for each fetch and each log-in
	server string        // the password that the server takes
	log    []string
}

func newWorld(server, current string) *world {
	return &world{server: server, stages: map[secrets.Stage]string{secrets.Current: current}}
}

func (w *world) String() string { return "the store" }

func (w *world) Fetch(ctx context.Context, stage secrets.Stage) (secrets.Credential, error) {
	if err := pause(ctx, w.slow); err != nil {
		return secrets.Credential{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = append(w.log, "fetch "+stage.String())
	password, ok := w.stages[stage]
	switch {
	case w.down:
		return secrets.Credential{}, errDown
	case !ok:
		return secrets.Credential{}, secrets.ErrNoStage
	case password == "":
		return secrets.Credential{}, secrets.ErrMalformed
	}
	return cred("admin", password), nil
}

func (w *world) login(ctx context.Context, c secrets.Credential) error {
	if err := pause(ctx, w.slow); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = append(w.log, "login "+c.Password.Reveal())
	if w.server == "" {
		return errors.New("server is down")
	}
	if c.Password.Reveal() != w.server {
		return fmt.Errorf("%w: SQLSTATE 28P01", secrets.ErrRejected)
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

func (w *world) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

// diary returns what happened since it was last asked.
func (w *world) diary() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := strings.Join(w.log, ", ")
	w.log = nil
	return all
}

func expect(t *testing.T, w *world, want string) {
	t.Helper()
	if diff := cmp.Diff(want, w.diary()); diff != "" {
		t.Errorf("what happened (-want +got):\n%s", diff)
	}
}

func TestUseOnRejection(t *testing.T) {
	stages := func(current, pending, previous string) map[secrets.Stage]string {
		return map[secrets.Stage]string{secrets.Current: current, secrets.Pending: pending, secrets.Previous: previous}
	}
	tests := []struct {
		name   string
		server string
		stages map[secrets.Stage]string
		down   bool
		want   string // what happens after "old", which was in use, was rejected
		ok     bool
		next   string // what the next Use does
	}{
		{
			"rotated", "new", stages("new", "newer", "old"), false,
			"fetch current, login new", true, "login new",
		},
		{
			"the server is ahead of the store", "new", stages("old", "new", "older"), false,
			"fetch current, fetch pending, login new", true, "login new",
		},
		{
			"rotation gone wrong", "older", stages("old", "old", "older"), false,
			"fetch current, fetch pending, fetch previous, login older", true, "login older",
		},
		{
			"nothing works", "?", stages("a", "b", "c"), false,
			"fetch current, login a, fetch pending, login b, fetch previous, login c", false, "",
		},
		{
			"nothing else there", "?",
			map[secrets.Stage]string{secrets.Current: "old"},
			false,
			"fetch current, fetch pending, fetch previous", false, "",
		},
		{
			"current malformed", "new", stages("", "new", ""), false,
			"fetch current, fetch pending, login new", true, "login new",
		},
		{
			"store down", "new", stages("new", "", ""), true,
			"fetch current", false, "",
		},
		{"server down", "", stages("new", "", ""), false, "", false, "login old"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld("old", "old")
				s := secrets.NewStore(w, secrets.StoreConfig{})
				if err := s.Use(t.Context(), w.login); err != nil {
					t.Fatal(err)
				}
				expect(t, w, "fetch current, login old")

				w.set(func() { w.server, w.stages, w.down = tt.server, tt.stages, tt.down })
				err := s.Use(t.Context(), w.login)
				if (err == nil) != tt.ok || errors.Is(err, secrets.ErrRejected) != (!tt.ok && tt.server != "") {
					t.Errorf("got error %v", err)
				}
				expect(t, w, strings.TrimSuffix("login old, "+tt.want, ", "))
				if tt.down && !errors.Is(err, errDown) {
					t.Errorf("got %v, want the store's error in it", err)
				}

				err = s.Use(t.Context(), w.login)
				if (err == nil) != tt.ok {
					t.Errorf("then: got error %v", err)
				}
				expect(t, w, tt.next)
				if s.Status().Rejected != (!tt.ok && tt.server != "") {
					t.Errorf("got status %+v", s.Status())
				}
			})
		})
	}
}

func TestUsePassesOnOtherErrors(t *testing.T) {
	w := newWorld("p", "p")
	s := secrets.NewStore(w, secrets.StoreConfig{})
	full := errors.New("53300: too many connections")
	for range 3 {
		if err := s.Use(t.Context(), func(context.Context, secrets.Credential) error { return full }); !errors.Is(err, full) {
			t.Errorf("got %v, want %v", err, full)
		}
	}
	expect(t, w, "fetch current")
}

func TestBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("?", "p")
		s := secrets.NewStore(w, secrets.StoreConfig{})
		begin := time.Now()
		searches := 0
		var last time.Time
		for time.Since(begin) < time.Hour {
			if err := s.Use(t.Context(), w.login); !errors.Is(err, secrets.ErrRejected) {
				t.Fatalf("got %v", err)
			}
			if what := w.diary(); what != "" {
				if searches > 0 && what != "login p, fetch current, fetch pending, fetch previous" {
					t.Fatalf("a search was: %s", what)
				}
				if gap, least := time.Since(last), min(time.Second<<max(searches-1, 0), 5*time.Minute)/2; searches > 0 && gap < least {
					t.Fatalf("search %d after %v, want at least %v", searches+1, gap, least)
				}
				searches++
				last = time.Now()
			}
			time.Sleep(100 * time.Millisecond)
		}
		if searches < 15 || searches > 35 {
			t.Errorf("got %d searches in an hour", searches)
		}

		w.set(func() { w.server = "p" }) // mended on the server's side
		time.Sleep(5 * time.Minute)
		if err := s.Use(t.Context(), w.login); err != nil {
			t.Error(err)
		}
		expect(t, w, "login p")
		w.set(func() { w.server = "?" })
		s.Use(t.Context(), w.login)
		if wait := time.Until(s.Status().RejectedUntil); wait > time.Second || wait < time.Second/2 {
			t.Errorf("after a success the back-off starts with %v", wait)
		}
	})
}

func TestChangedSecretEndsBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("new", "old")
		s := secrets.NewStore(w, secrets.StoreConfig{})
		for range 3 {
			if err := s.Use(t.Context(), w.login); err == nil {
				t.Fatal("got no error")
			}
		}
		if err := s.Refresh(t.Context()); err != nil { // the same secret: the back-off goes on
			t.Fatal(err)
		}
		w.diary()
		if err := s.Use(t.Context(), w.login); !errors.Is(err, secrets.ErrRejected) {
			t.Errorf("got %v", err)
		}
		expect(t, w, "")
		w.set(func() { w.stages[secrets.Current] = "new" })
		if err := s.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.Use(t.Context(), w.login); err != nil {
			t.Error(err)
		}
		expect(t, w, "fetch current, login new")
	})
}

// While the pending credential is the one that works, a refresh must not put the old one back.
func TestRefreshInTheMiddleOfARotation(t *testing.T) {
	w := newWorld("old", "old")
	s := secrets.NewStore(w, secrets.StoreConfig{})
	steps := []struct {
		change func()
		want   string
		stage  secrets.Stage
	}{
		{func() {}, "fetch current, login old", secrets.Current},
		{func() { w.server, w.stages[secrets.Pending] = "new", "new" }, "fetch current, login old, fetch current, fetch pending, login new", secrets.Pending},
		{func() {}, "fetch current, login new", secrets.Pending},
		{func() { w.stages = map[secrets.Stage]string{secrets.Current: "new", secrets.Previous: "old"} }, "fetch current, login new", secrets.Current},
	}
	for i, step := range steps {
		w.set(step.change)
		if err := s.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.Use(t.Context(), w.login); err != nil {
			t.Fatal(err)
		}
		expect(t, w, step.want)
		if got := s.Status().Stage; got != step.stage {
			t.Errorf("step %d: got stage %v, want %v", i, got, step.stage)
		}
	}
}

func useAtOnce(t *testing.T, n int, s *secrets.Store, w *world) (failed int64) {
	var failures atomic.Int64
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			if err := s.Use(t.Context(), w.login); err != nil {
				failures.Add(1)
			}
		})
	}
	wg.Wait()
	return failures.Load()
}

func TestFiftyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("old", "old")
		w.slow = 10 * time.Millisecond
		s := secrets.NewStore(w, secrets.StoreConfig{})

		if failed := useAtOnce(t, 50, s, w); failed != 0 {
			t.Errorf("cold: %d failed", failed)
		}
		expect(t, w, "fetch current"+strings.Repeat(", login old", 50))

		// All find the old one rejected, one looks for the new one, all use it.
		w.set(func() { w.server, w.stages[secrets.Current] = "new", "new" })
		if failed := useAtOnce(t, 50, s, w); failed != 0 {
			t.Errorf("rotated: %d failed", failed)
		}
		got := w.diary()
		if n := strings.Count(got, "fetch"); n != 1 {
			t.Errorf("rotated: got %d fetches", n)
		}
		if o, n := strings.Count(got, "login old"), strings.Count(got, "login new"); o != 50 || n != 50 {
			t.Errorf("rotated: got %d log-ins with the old and %d with the new one", o, n)
		}

		// Nothing works: one search for all, and those that come later don't even try.
		w.set(func() { w.server = "?"; w.stages[secrets.Pending] = "other" })
		if failed := useAtOnce(t, 50, s, w); failed != 50 {
			t.Errorf("broken: %d failed", failed)
		}
		got = w.diary()
		if n, o, f := strings.Count(got, "login new"), strings.Count(got, "login other"), strings.Count(got, "fetch"); n != 50 || o != 1 || f != 3 {
			t.Errorf("broken: got %d, %d log-ins and %d fetches", n, o, f)
		}
		useAtOnce(t, 50, s, w)
		expect(t, w, "")

		// The back-off is over: one of them tries for all.
		time.Sleep(2 * time.Second)
		useAtOnce(t, 50, s, w)
		expect(t, w, "login new, fetch current, fetch pending, login other, fetch previous")
	})
}

// A caller that gives up must not take those with it who wait for the fetch that it started, or for its search.
func TestCallerThatLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("p", "p")
		w.slow = time.Second
		s := secrets.NewStore(w, secrets.StoreConfig{})
		left := errors.New("client left")
		ctx, cancel := context.WithCancelCause(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := s.Use(ctx, w.login); !errors.Is(err, left) {
				t.Errorf("got %v, want %v", err, left)
			}
		})
		synctest.Wait()
		wg.Go(func() {
			if err := s.Use(t.Context(), w.login); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		cancel(left)
		wg.Wait()
		expect(t, w, "fetch current, login p")

		w.set(func() { w.server, w.stages[secrets.Current] = "new", "new" })
		ctx, cancel = context.WithCancelCause(t.Context())
		wg.Go(func() {
			if err := s.Use(ctx, w.login); !errors.Is(err, left) {
				t.Errorf("got %v, want %v", err, left)
			}
		})
		time.Sleep(1500 * time.Millisecond) // its log-in failed, it is fetching
		wg.Go(func() {
			if err := s.Use(t.Context(), w.login); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		cancel(left)
		wg.Wait()
		if err := s.Use(t.Context(), w.login); err != nil {
			t.Error(err)
		}
		if s.Status().Rejected || !s.Status().RejectedUntil.IsZero() {
			t.Errorf("got status %+v", s.Status())
		}
	})
}

func TestColdStartWhileStoreIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("p", "p")
		w.down = true
		s := secrets.NewStore(w, secrets.StoreConfig{})
		for range 5 {
			if err := s.Use(t.Context(), w.login); !errors.Is(err, errDown) || errors.Is(err, secrets.ErrRejected) {
				t.Errorf("got %v, want the store's error", err)
			}
		}
		expect(t, w, "fetch current")
		w.set(func() { w.down = false })
		time.Sleep(time.Second)
		if err := s.Use(t.Context(), w.login); err != nil {
			t.Error(err)
		}
		expect(t, w, "fetch current, login p")
	})
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		w := newWorld("p", canary)
		s := secrets.NewStore(w, secrets.StoreConfig{Refresh: time.Minute, Log: slog.New(slog.NewTextHandler(&log, nil))})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { s.Run(ctx); close(done) }()
		synctest.Wait()
		expect(t, w, "fetch current")

		time.Sleep(time.Hour)
		synctest.Wait()
		if n := strings.Count(w.diary(), "fetch"); n < 60*10/11 || n > 60*10/9 {
			t.Errorf("got %d refreshes in an hour", n)
		}

		w.set(func() { w.down = true })
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := strings.Count(w.diary(), "fetch"); n < 50 || n > 130 {
			t.Errorf("got %d tries in an hour of outage", n)
		}
		if st := s.Status(); !st.Loaded || st.FetchError == nil || time.Since(st.Fetched) < 50*time.Minute {
			t.Errorf("in the outage: got %+v", st)
		}

		w.set(func() { w.down, w.stages[secrets.Current] = false, "changed" })
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if st := s.Status(); st.FetchError != nil || time.Since(st.Fetched) > 2*time.Minute {
			t.Errorf("after the outage: got %+v", st)
		}
		cancel()
		<-done
		if leaks(log.String()) || !strings.Contains(log.String(), `msg="secret changed"`) || !strings.Contains(log.String(), "error=\"store is down\"") {
			t.Errorf("got log %s", log.String())
		}
	})
}

// Somebody writes a wrong password into the secret, and the server keeps the old one, which was the last that worked.
func TestSecretThatIsWrong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("old", "old")
		s := secrets.NewStore(w, secrets.StoreConfig{})
		if err := s.Use(t.Context(), w.login); err != nil {
			t.Fatal(err)
		}
		w.set(func() { w.stages = map[secrets.Stage]string{secrets.Current: "wrong"} })
		if err := s.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := s.Use(t.Context(), w.login); err != nil {
				t.Error(err)
			}
			if err := s.Refresh(t.Context()); err != nil { // does not put the wrong one back
				t.Fatal(err)
			}
		}
		expect(t, w, "fetch current, login old, fetch current, login wrong, fetch current, fetch pending, fetch previous, login old, fetch current, login old, fetch current")
	})
}
