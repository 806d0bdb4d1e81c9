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

// TestPromises does random things in random order, with flows that come and go, and holds what is in force against what
// has been decided, as this test has written it down from the answers alone.
func TestPromises(t *testing.T) {
	t.Parallel()
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			(&history{world: newWorld(t), random: rand.New(rand.NewPCG(seed, 1)), ends: map[int64]time.Time{}, allowed: true}).unfold(150)
		})
	}
}

// history is what a test knows of what was said.
type history struct {
	*world
	random  *rand.Rand
	ends    map[int64]time.Time // of what was granted, by decisions only
	ids     []int64
	allowed bool // the flow is in force, with all that it had
	said    []string
}

var persons = []string{"bob", "dave", "carol", "erin", "sam"}

func (h *history) unfold(steps int) {
	for range steps {
		h.step()
		h.tick()
		h.check()
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
	switch h.random.IntN(9) {
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
		h.allowed = true
	}
}

// check asks the policy in force, as the proxy does.
func (h *history) check() {
	set, now := h.inForce(), h.clock()
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

func (h *history) inForce() *policy.Set { return h.live.Set() }
