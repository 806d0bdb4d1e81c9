package access_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hourgate/hourgate/access"
	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/testdisk"
	"github.com/hourgate/hourgate/policy"
)

var sam = access.Actor{Name: "sam", Operator: true}

func lockOf(user string) policy.Lock {
	return policy.Lock{Kind: policy.LockUser, Name: user, Reason: "stolen laptop"}
}

// bounded fails the test when f takes much longer than a disk is waited for.
func bounded(t *testing.T, what string, f func()) {
	t.Helper()
	began := time.Now()
	f()
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("%s took %v", what, took)
	}
}

// The disk of the locks and of the mark does not answer. Locks, a policy that takes away, and what another gate has revoked are in
// force all the same, and the locks are kept as soon as the disk answers.
func TestEndsWhileTheDiskIsFrozen(t *testing.T) {
	t.Parallel()
	disk := testdisk.New(t)
	w := newWorld(t)
	other := w.service // whose files are on another disk
	granted := w.granted("dave", "READ_WRITE")
	w.granted("bob", "READ_WRITE")
	w.folder = disk.Folder
	w.service, w.live = w.gate(w.store)
	w.tick()
	alone, live := aloneGate(t, w)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); alone.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-ended
		_ = errors.Join(w.service.Close(), alone.Close()) // nobody writes to the disk any more
	})

	disk.Freeze()
	t.Cleanup(disk.Thaw)
	bounded(t, "what another gate revokes", func() {
		if _, err := other.Stop(t.Context(), access.Actor{Name: "carol"}, granted.ID, "no"); err != nil {
			t.Fatal(err)
		}
		w.service.Look(t.Context())
	})
	w.wantMay("dave", "no_grant")
	bounded(t, "a lock of all gates", func() {
		if everywhere, err := w.service.Lock(t.Context(), sam, lockOf("bob")); err != nil || !everywhere {
			t.Errorf("%t, %v", everywhere, err)
		}
	})
	w.wantMay("bob", "locked")
	for _, user := range []string{"bob", "carol", "dave"} {
		bounded(t, "a lock of this machine", func() {
			if _, err := alone.Lock(t.Context(), sam, lockOf(user)); err != nil {
				t.Error(err)
			}
		})
		if _, locked := live.Set().Locked(user, "", "orders-prod", w.clock()); !locked {
			t.Errorf("%s is not locked", user)
		}
	}
	bounded(t, "a policy that takes away", func() { w.service.SetFiles(files(t, "users: [{name: erin}]\n")) })
	if flows := w.live.Set().FlowNames(); len(flows) > 0 {
		t.Errorf("the flows %v are in force", flows)
	}

	disk.Thaw()
	eventually.True(t, "the locks are in their file", func() bool {
		next, live := aloneGate(t, w)
		defer next.Close()
		for _, user := range []string{"bob", "carol", "dave"} {
			if _, locked := live.Set().Locked(user, "", "orders-prod", w.clock()); !locked {
				return false
			}
		}
		return true
	})
}

// In the moment in which the mark's disk stops answering, what another gate revokes next is not a moment late.
func TestRevocationsFollowEachOther(t *testing.T) {
	t.Parallel()
	disk := testdisk.New(t)
	w := newWorld(t)
	other := w.service
	first, second := w.granted("dave", "READ_WRITE"), w.granted("bob", "READ_WRITE")
	w.folder = disk.Folder
	w.service, w.live = w.gate(w.store)
	w.tick()
	if err := w.service.Close(); err != nil {
		t.Fatal(err)
	}
	disk.Freeze()
	t.Cleanup(func() { disk.Thaw(); _ = w.service.Close() })
	began := time.Now()
	for _, r := range []*access.Request{first, second} {
		if _, err := other.Stop(t.Context(), access.Actor{Name: "carol"}, r.ID, "no"); err != nil {
			t.Fatal(err)
		}
		w.service.Look(t.Context())
		w.wantMay(r.User, "no_grant")
	}
	if took := time.Since(began); took > 1500*time.Millisecond { // a disk is waited for two seconds
		t.Errorf("it took %v", took)
	}
}

// aloneGate is a gate without a store, whose locks are beside the trail.
func aloneGate(t *testing.T, w *world) (*access.Service, *policy.Live) {
	t.Helper()
	set := files(t, basePolicy)
	live := policy.NewLive(set)
	service, err := access.New(access.Config{
		Live: live, Files: set, Trail: w.trail, Logger: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry(),
		LockFile: filepath.Join(w.folder, "alone"), Clock: w.clock,
	})
	if err != nil {
		t.Fatal(err)
	}
	return service, live
}

// The disk of the state does not answer. Nobody waits for it for long, locks work, and what can't be confirmed takes no new
// sessions after a while. When it answers again, so does the state.
func TestStateWhoseDiskIsFrozen(t *testing.T) {
	t.Parallel()
	disk := testdisk.New(t)
	w := newWorld(t)
	_ = w.store.Close()
	w.folder = disk.Folder
	w.open()
	r := w.granted("bob", "READ_WRITE")
	disk.Freeze()
	t.Cleanup(disk.Thaw)
	const away = "the state of requests can't be reached now"
	bounded(t, "asking", func() {
		_, _, err := w.service.Ask(t.Context(), wish("dave", "READ_ONLY"))
		refusedWith(t, err, away)
	})
	bounded(t, "ending", func() {
		_, err := w.service.Stop(t.Context(), access.Actor{Name: "carol"}, r.ID, "no")
		refusedWith(t, err, away)
	})
	w.wantMay("bob", "READ_WRITE for 2h0m0s")
	bounded(t, "locking", func() {
		if everywhere, err := w.service.Lock(t.Context(), sam, lockOf("bob")); err != nil || everywhere {
			t.Errorf("%t, %v", everywhere, err)
		}
	})
	w.wantMay("bob", "locked")
	w.mu.Lock()
	w.now = w.now.Add(11 * time.Second)
	w.mu.Unlock()
	w.service.Look(t.Context())
	if _, ok := w.live.Set().Covers("bob", "request-1", "orders", w.clock()); ok {
		t.Error("the session lives on under a lock")
	}
	disk.Thaw()
	eventually.True(t, "the state takes requests again", func() bool {
		_, _, err := w.service.Ask(t.Context(), wish("dave", "READ_ONLY"))
		return err == nil
	})
}
