package access_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/hourgate/hourgate/access"
	"github.com/hourgate/hourgate/policy"
)

// TestPromises does random things in random order on two gates of one state, with flows that come and go, and holds what is in force
// on both against what has been decided, as this test has written it down from the answers alone.
func TestPromises(t *testing.T) {
	t.Parallel()
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			h := &history{world: newWorld(t), random: rand.New(rand.NewPCG(seed, 1)), ends: map[int64]time.Time{}, owed: map[string]int64{}, allowed: true}
			h.second, h.secondLive = h.gate(h.store)
			h.unfold(100)
		})
	}
}

// history is what a test knows of what was said.
type history struct {
	*world
	random  *rand.Rand
	ends    map[int64]time.Time // of what was granted, by decisions only
	ids     []int64
	owed    map[string]int64 // uses of break-glass without a review, by person
	allowed bool             // the flow is in force, with all that it had

	second     *access.Service // another gate
	secondLive *policy.Live
	said       []string
}

var persons = []string{"bob", "dave", "carol", "erin", "sam"}

func (h *history) unfold(steps int) {
	for range steps {
		if h.random.IntN(2) == 0 { // on the other gate
			h.service, h.second, h.live, h.secondLive = h.second, h.service, h.secondLive, h.live
		}
		h.step()
		h.tick()
		if err := h.second.Refresh(h.t.Context()); err != nil {
			h.t.Fatal(err)
		}
		h.check(h.live.Set())
		h.check(h.secondLive.Set())
		if h.t.Failed() {
			h.t.Fatalf("after\n%s", strings.Join(h.said, "\n"))
		}
	}
}

func (h *history) note(format string, args ...any) {
	h.said = append(h.said, fmt.Sprintf(format, args...))
}

func (h *history) step() {
	ctx := h.t.Context()
	person := persons[h.random.IntN(len(persons))]
	id := int64(1)
	if len(h.ids) > 0 {
		id = h.ids[h.random.IntN(len(h.ids))]
	}
	d := time.Duration(1+h.random.IntN(9)) * time.Hour
	switch h.random.IntN(11) {
	case 0, 1:
		w := wish(person, []string{"READ_ONLY", "READ_WRITE", "ADMIN"}[h.random.IntN(3)])
		w.For = d
		r, _, err := h.service.Ask(ctx, w)
		h.note("%s asks for %s: %v", person, d, err)
		if err == nil {
			h.ids = append(h.ids, r.ID)
			if r.State != access.Pending {
				h.t.Errorf("request %d is %s without a decision", r.ID, r.State)
			}
		}
	case 2, 3:
		v := access.Verdict{Approve: h.random.IntN(4) > 0}
		if h.random.IntN(3) == 0 {
			v.For = d
		}
		before, _ := h.store.Request(ctx, id)
		r, err := h.service.Decide(ctx, person, id, v)
		h.note("%s decides %d (%+v): %v", person, id, v, err)
		if err != nil || !v.Approve {
			return
		}
		if person == r.User || person != "carol" && person != "erin" || !h.allowed {
			h.t.Errorf("%s decided about %s's request %d", person, r.User, id)
		}
		if before.State.Granted() && r.Until.After(before.Until) || before.State == access.Pending {
			h.ends[id] = r.Until
		}
	case 4:
		r, err := h.service.Extend(ctx, person, id, min(d, 4*time.Hour), "")
		h.note("%s extends %d: %v", person, id, err)
		if err == nil && (r.User != person || !r.Until.Equal(h.ends[id]) && r.Until.After(h.ends[id])) {
			h.t.Errorf("%s moved the end of %d to %v without a decision", person, id, r.Until)
		}
	case 5:
		r, err := h.service.Stop(ctx, access.Actor{Name: person}, id, "")
		h.note("%s ends %d: %v", person, id, err)
		if err == nil {
			delete(h.ends, r.ID)
			if person != r.User && person != "carol" && person != "erin" {
				h.t.Errorf("%s ended %s's request %d", person, r.User, id)
			}
		}
	case 6:
		h.allowed = h.random.IntN(4) > 0
		text := basePolicy
		if h.allowed {
			text += baseFlow
		}
		h.note("flow in force: %t", h.allowed)
		h.service.SetFiles(files(h.t, text))
		h.second.SetFiles(files(h.t, text))
		if !h.allowed {
			clear(h.ends)
		}
	case 7:
		h.note("%s pass", d)
		h.mu.Lock()
		h.now = h.now.Add(d / 4)
		h.mu.Unlock()
	case 8:
		h.note("the gate is started again")
		_ = h.store.Close()
		h.open()
		h.second, h.secondLive = h.gate(h.store)
		h.allowed = true
	case 9:
		h.breakGlass(person, min(d, time.Hour))
	case 10:
		r, err := h.service.Review(ctx, person, id, "seen")
		h.note("%s reviews %d: %v", person, id, err)
		if err == nil {
			if person != "sam" || r.User == person || h.owed[r.User] != id {
				h.t.Errorf("%s reviewed %s's request %d", person, r.User, id)
			}
			delete(h.owed, r.User)
		}
	}
}

// breakGlass lets dave in at once, and nobody again before a review.
func (h *history) breakGlass(person string, d time.Duration) {
	w := wish(person, "READ_WRITE")
	w.For, w.BreakGlass = d, true
	r, _, err := h.service.Ask(h.t.Context(), w)
	h.note("%s breaks the glass for %s: %v", person, d, err)
	if err != nil {
		return
	}
	if owed, owes := h.owed[person]; owes || person != "dave" || !h.allowed {
		h.t.Errorf("%s broke the glass, and owes a review of %d", person, owed)
	}
	h.ids = append(h.ids, r.ID)
	h.owed[person], h.ends[r.ID] = r.ID, h.clock().Add(d)
}

// check asks the policy in force, as the proxy does.
func (h *history) check(set *policy.Set) {
	now := h.clock()
	for _, person := range persons {
		for _, g := range set.Grants(person) {
			var id int64
			if _, err := fmt.Sscanf(g.Name, "request-%d", &id); err != nil {
				h.t.Errorf("%s has %s", person, g.Name)
				continue
			}
			end, decided := h.ends[id]
			switch {
			case !g.Live(now):
			case !decided:
				h.t.Errorf("%s has %s, which nobody decided or which has ended", person, g.Name)
			case g.Until.After(end):
				h.t.Errorf("%s has %s until %v, and it was decided until %v", person, g.Name, g.Until, end)
			case g.Access.Level == policy.Admin:
				h.t.Errorf("%s has ADMIN, which no flow gives", person)
			}
		}
	}
}
