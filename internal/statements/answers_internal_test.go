package statements

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/relay"
)

// resultTrail keeps results as text, while it has room.
type resultTrail struct {
	Trail
	list []string
	full bool
}

func (r *resultTrail) Statement(context.Context, *audit.Statement) error { return nil }

func (r *resultTrail) Result(res *audit.Result) bool {
	if r.full {
		return false
	}
	r.list = append(r.list, fmt.Sprintf("%d: %s %s %d rows, %d lost, %v", res.Call, res.Command, res.SQLState, res.Rows, res.Lost, res.Took))
	return true
}

// watchedBoth is a watcher with both streams.
type watchedBoth struct {
	*Watcher
	up, down *relay.Frames
	clock    time.Time
}

func watchBoth(trail Trail) *watchedBoth {
	began := time.Now()
	s := &Watcher{trail: trail, ctx: context.Background(), who: audit.Statement{Session: "s"}, answers: newAnswers(trail, "s", began)}
	requests, replies := s.Kinds()
	return &watchedBoth{s, relay.NewFrames(requests, s.Request), relay.NewFrames(replies, s.Reply), began}
}

// scan takes bytes of a stream in pieces of up to most bytes. A millisecond passes before.
func (w *watchedBoth) scan(stream *relay.Frames, b []byte, most int, random *rand.Rand) {
	w.clock = w.clock.Add(time.Millisecond)
	for len(b) > 0 {
		n := min(len(b), 1+random.IntN(most))
		_, _ = stream.Scan(b[:n], w.clock)
		b = b[n:]
	}
}

var (
	extended = join(request('P', "n\x00SELECT $1\x00\x00\x00"), request('B', "p\x00n\x00\x00\x00\x00\x00\x00\x00"), request('D', "Pp\x00"), request('E', "p\x00\x00\x00\x00\x05"), request('S', ""))
	answer   = join(request('1', ""), request('2', ""), request('T', "\x00\x00"), request('D', "\x00\x00"), request('C', "SELECT 4\x00"), request('Z', "I"))
	invalid  = join(request('N', "SNOTICE\x00C01000\x00\x00"), request('E', "SFEHLER\x00VERROR\x00C42P01\x00Mno C\x00\x00"), request('Z', "I"))
)

// Results are the same however the messages of both directions are cut.
func TestAnswersInPieces(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	for _, most := range []int{1 << 20, 7, 1} {
		trail := &resultTrail{}
		w := watchBoth(trail)
		for range 3 {
			w.scan(w.up, extended, most, random)
			w.scan(w.down, answer, most, random)
			w.scan(w.up, join(extended, request('Q', "SELECT 1; SELECT 2\x00")), most, random)
			w.scan(w.down, join(request('1', ""), invalid), most, random)
			w.scan(w.down, join(request('T', "\x00\x00"), request('C', "INSERT 0 17\x00")), most, random)
			w.scan(w.down, join(request('C', "DO\x00"), request('I', ""), request('Z', "I")), most, random)
		}
		var want []string
		for i := range 3 {
			want = append(
				want,
				fmt.Sprintf("%d: SELECT 4  4 rows, 0 lost, 1ms", 5*i+2),
				fmt.Sprintf("%d: error 42P01 0 rows, 0 lost, 1ms", 5*i+4),
				fmt.Sprintf("%d: INSERT 0 17  17 rows, 0 lost, 1ms", 5*i+5),
				fmt.Sprintf("%d: DO  0 rows, 0 lost, 1ms", 5*i+5),
				fmt.Sprintf("%d: empty query  0 rows, 0 lost, 1ms", 5*i+5),
			)
		}
		if diff := cmp.Diff(want, trail.list); diff != "" {
			t.Errorf("in pieces of up to %d bytes (-want +got):\n%s", most, diff)
		}
	}
}

// What finds no room is counted, and the next result says so.
func TestLostResultsAreCounted(t *testing.T) {
	t.Parallel()
	trail := &resultTrail{full: true}
	w := watchBoth(trail)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 3 {
		trail.full = i < 2
		w.scan(w.up, extended, 1<<20, random)
		w.scan(w.down, answer, 1<<20, random)
	}
	if diff := cmp.Diff([]string{"6: SELECT 4  4 rows, 2 lost, 1ms"}, trail.list); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Somebody who asks without end and takes no answer makes the gate remember no more than it wants to. Once all is answered,
// results belong to their calls again.
func TestAnswersForgetWhatIsTooMuch(t *testing.T) {
	t.Parallel()
	trail := &resultTrail{}
	w := watchBoth(trail)
	random := rand.New(rand.NewPCG(1, 2))
	const pipelines = maxAsked/5 + 1000
	for range pipelines {
		w.scan(w.up, extended, 1<<20, random)
	}
	if n := w.answers.asked.added; n != maxAsked {
		t.Errorf("%d requests are remembered, want %d", n, maxAsked)
	}
	for range pipelines {
		w.scan(w.down, answer, 1<<20, random)
	}
	w.scan(w.up, extended, 1<<20, random)
	w.scan(w.down, answer, 1<<20, random)
	if n := len(trail.list); n != pipelines+1 {
		t.Fatalf("%d results, want %d", n, pipelines+1)
	}
	for i, call := range map[int]int{0: 2, maxAsked/5 - 1: maxAsked / 5 * 2, pipelines - 1: 0, pipelines: 2*pipelines + 2} {
		if got, want := trail.list[i], fmt.Sprintf("%d: SELECT 4", call); got[:len(want)] != want {
			t.Errorf("result %d is %q, want one of call %d", i, got, call)
		}
	}
}

// Recording results allocates nothing, also in pipelines that are as deep as one before.
func TestAnswersDoNotAllocate(t *testing.T) {
	w := watchBoth(nowhere{})
	now := time.Now()
	if n := testing.AllocsPerRun(100, func() {
		for range 3 {
			_, _ = w.up.Scan(extended, now)
		}
		for range 3 {
			_, _ = w.down.Scan(answer, now)
		}
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

// FuzzAnswers: whatever a client asks and a server answers, results are the same however the replies are cut, and nothing
// panics.
func FuzzAnswers(f *testing.F) {
	f.Add(extended, answer, uint64(1))
	f.Add(join(extended, request('Q', "SELECT 1\x00")), join(request('1', ""), invalid, request('C', "DO\x00"), request('Z', "I")), uint64(2))
	f.Add(join(request('E', "\x00\x00\x00\x00\x00"), request('S', ""), request('c', ""), request('S', "")), join(request('G', ""), request('C', "COPY 1\x00"), request('Z', "I")), uint64(3))
	f.Fuzz(func(t *testing.T, up, down []byte, seed uint64) {
		var lists [2][]string
		for i, most := range []int{1 << 20, 3} {
			trail := &resultTrail{}
			w := watchBoth(trail)
			random := rand.New(rand.NewPCG(seed, 0))
			w.scan(w.up, up, most, random)
			w.scan(w.down, down, most, random)
			lists[i] = trail.list
		}
		if diff := cmp.Diff(lists[0], lists[1]); diff != "" {
			t.Fatalf("whole and in pieces (-whole +pieces):\n%s", diff)
		}
	})
}
