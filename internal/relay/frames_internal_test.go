package relay

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hourgate/hourgate/internal/burst"
)

// frame is a message as it was seen.
type frame struct {
	Kind byte
	Body []byte
}

// collect puts the parts of messages together again. Like Frames, it must be told of every part in order.
type collect struct {
	t      testing.TB
	frames []frame
	open   bool // the last part was not the last of its message
}

// watchAll returns Frames that show c everything.
func (c *collect) watchAll() *Frames {
	const all = ^uint64(0)
	return &Frames{watched: kinds{all, all, all, all}, see: c.see}
}

func (c *collect) see(m *Part) error {
	if c.open == m.First {
		c.t.Fatalf("first: %v, while a message is open: %v", m.First, c.open)
	}
	c.open = m.Rest > 0
	if m.First {
		c.frames = append(c.frames, frame{Kind: m.Kind})
	}
	if len(c.frames) == 0 || c.frames[len(c.frames)-1].Kind != m.Kind {
		c.t.Fatalf("a part of a message %q that has not begun", m.Kind)
	}
	body := &c.frames[len(c.frames)-1].Body
	*body = append(*body, m.Bytes...)
	return nil
}

// scan is Scan without the time, where nothing can go wrong.
func (f *Frames) scan(b []byte) (whole int) {
	whole, _ = f.Scan(b, time.Time{})
	return whole
}

func raw(kind byte, length uint32, body ...byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{kind}, length), body...)
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func TestFrames(t *testing.T) {
	t.Parallel()
	for _, rule := range []struct {
		name     string
		stream   []byte
		whole    int
		want     []frame
		boundary bool
	}{
		{"nothing", nil, 0, nil, true},
		{"a type", []byte{'Z'}, 0, nil, false},
		{"four bytes of a header", []byte{'Z', 0, 0, 0}, 0, nil, false},
		{"a header", raw('Z', 5), 0, []frame{{'Z', nil}}, false},
		{"a message without body", raw('S', 4), 5, []frame{{'S', nil}}, true},
		{"a message", raw('Z', 5, 'I'), 6, []frame{{'Z', []byte("I")}}, true},
		{"two", join(raw('1', 4), raw('2', 4)), 10, []frame{{'1', nil}, {'2', nil}}, true},
		{"one and a part", join(raw('1', 4), raw('D', 6, 'a')), 5, []frame{{'1', nil}, {'D', []byte("a")}}, false},
		{"one and a part of a header", join(raw('1', 4), []byte{'D', 0}), 5, []frame{{'1', nil}}, false},
		{"length 3", raw('Z', 3), 0, nil, false},
		{"length 0", raw('Z', 0), 0, nil, false},
		{"length 0 behind a message, and more", join(raw('1', 4), raw('Z', 0), raw('2', 4)), 5, []frame{{'1', nil}}, false},
		{"the greatest length that PostgreSQL takes", raw('D', 0x3ffffffe, 'a'), 0, []frame{{'D', []byte("a")}}, false},
		{"one byte more", raw('D', 0x3fffffff, 'a'), 0, nil, false},
		{"a length that is negative for PostgreSQL", raw('D', 0x80000000, 'a'), 0, nil, false},
		{"the greatest length", raw('D', 0xffffffff, 'a'), 0, nil, false},
	} {
		t.Run(rule.name, func(t *testing.T) {
			t.Parallel()
			c := collect{t: t}
			f := c.watchAll()
			if got := f.scan(rule.stream); got != rule.whole {
				t.Errorf("%d bytes are whole messages, want %d", got, rule.whole)
			}
			if diff := cmp.Diff(rule.want, c.frames); diff != "" {
				t.Errorf("messages (-want +got):\n%s", diff)
			}
			if f.boundary() != rule.boundary {
				t.Errorf("at a boundary: %v, want %v", f.boundary(), rule.boundary)
			}
		})
	}
}

// After a length that can't be, no boundary is ever claimed again, so that nothing is written into the stream.
func TestFramesStayBroken(t *testing.T) {
	t.Parallel()
	c := collect{t: t}
	f := c.watchAll()
	f.scan(raw('Z', 3))
	if got := f.scan(raw('1', 4)); got != 0 || f.boundary() || c.frames != nil {
		t.Errorf("went on after a bad length: %d bytes, boundary %v, %v", got, f.boundary(), c.frames)
	}
}

// checkFragmented holds what frames makes of a stream in pieces against what it makes of it as a whole, and its
// boundaries against a parser that sees everything.
func checkFragmented(t testing.TB, stream []byte, next func(rest int) int) {
	t.Helper()
	want := collect{t: t}
	whole := want.watchAll()
	boundary := whole.scan(stream)

	got := collect{t: t}
	pieces := got.watchAll()
	last := 0
	for at := 0; at < len(stream); {
		n := next(len(stream) - at)
		if w := pieces.scan(stream[at : at+n]); w > 0 {
			last = at + w
		}
		at += n
		if pieces.boundary() && last != at {
			t.Fatalf("a boundary at %d that scan did not tell of; it told of %d", at, last)
		}
	}
	if last != boundary {
		t.Fatalf("the last boundary is %d in pieces, %d as a whole", last, boundary)
	}
	same := func(a, b frame) bool { return a.Kind == b.Kind && bytes.Equal(a.Body, b.Body) }
	if !slices.EqualFunc(want.frames, got.frames, same) {
		t.Fatalf("messages in pieces: got %v, want %v", got.frames, want.frames)
	}
	if whole.boundary() != pieces.boundary() || whole.broken != pieces.broken {
		t.Fatalf("the state differs: boundary %v, broken %v as a whole, %v, %v in pieces",
			whole.boundary(), whole.broken, pieces.boundary(), pieces.broken)
	}
	if end := parseAll(stream); end != boundary {
		t.Fatalf("the last boundary is %d, want %d", boundary, end)
	}
}

// parseAll is the end of the last whole message, found the simple way.
func parseAll(stream []byte) (end int) {
	for len(stream)-end >= 5 {
		length := int64(binary.BigEndian.Uint32(stream[end+1:]))
		if length < 4 || length > maxMessage || length+1 > int64(len(stream)-end) {
			break
		}
		end += int(length) + 1
	}
	return end
}

func TestFramesInAnyPieces(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var stream []byte
		for range r.IntN(8) {
			body := make([]byte, r.IntN(20)*r.IntN(20))
			length := uint32(4 + len(body))
			if r.IntN(40) == 0 {
				length = r.Uint32() >> r.IntN(32)
			}
			stream = append(stream, raw("ZDCTSE12"[r.IntN(8)], length, body...)...)
		}
		stream = stream[:r.IntN(len(stream)+1)]
		checkFragmented(t, stream, func(rest int) int { return 1 + r.IntN(min(rest, 1+r.IntN(64))) })
	}
}

// maxFuzzed bounds the inputs of the fuzz target: longer ones only take time.
const maxFuzzed = 12_000

func FuzzFrames(f *testing.F) {
	f.Add(join(raw('Z', 5, 'I'), raw('D', 8, 1, 2, 3, 4)), uint64(1))
	f.Add(raw('D', 0xffffffff, 1), uint64(2))
	f.Add(raw('D', 3, 1), uint64(3))
	f.Fuzz(func(t *testing.T, stream []byte, seed uint64) {
		if len(stream) > maxFuzzed {
			return // the pieces are small: a long stream takes long and shows nothing that a short one does not
		}
		r := rand.New(rand.NewPCG(seed, 0))
		checkFragmented(t, stream, func(rest int) int { return 1 + r.IntN(min(rest, 9)) })
	})
}

// Following a stream allocates nothing, however it is cut.
func TestFramesDoNotAllocate(t *testing.T) {
	stream := bytes.Repeat(join(raw('D', 104, make([]byte, 100)...), raw('C', 6, 1, 2)), 100)
	r := New(nil, nil, nil)
	allocations := testing.AllocsPerRun(100, func() {
		for at := 0; at < len(stream); at += 7 {
			piece := stream[at:min(at+7, len(stream))]
			r.fromClient.scan(piece)
			r.fromUpstream.scan(piece)
		}
	})
	if allocations != 0 {
		t.Errorf("%v allocations, want 0", allocations)
	}
}

// BenchmarkFrames follows the messages of a burst as the relay does.
func BenchmarkFrames(b *testing.B) {
	rows := func(width int) []byte {
		row := raw('D', uint32(4+width), make([]byte, width)...)
		return bytes.Repeat(row, burst.Size/len(row))
	}
	relay := New(nil, nil, nil)
	for _, stream := range []struct {
		name  string
		scan  func([]byte) int
		bytes []byte
	}{
		{"request", relay.fromClient.scan, raw('Q', 60, []byte("SELECT abalance FROM pgbench_accounts WHERE aid = 4211;\x00")...)},
		{"reply", relay.fromUpstream.scan, join(raw('T', 33, make([]byte, 29)...), raw('D', 15, make([]byte, 11)...), raw('C', 13, make([]byte, 9)...), raw('Z', 5, 'I'))},
		{"burst of rows of 100 bytes", relay.fromUpstream.scan, rows(100)},
		{"burst of rows of 8,000 bytes", relay.fromUpstream.scan, rows(8000)},
	} {
		b.Run(stream.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(stream.bytes)))
			for b.Loop() {
				stream.scan(stream.bytes)
			}
		})
	}
}

// A message of 1 GiB, the longest, streamed in small pieces, is held in no memory.
func TestHugeMessageInConstantMemory(t *testing.T) {
	const size = maxMessage - 4
	piece := make([]byte, 1<<20)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	seen := 0
	f := NewFrames("D", func(m *Part) error { seen += len(m.Bytes); return nil })
	if got := f.scan(raw('D', 4+size)); got != 0 {
		t.Errorf("a header alone is %d bytes of whole messages", got)
	}
	for left := size; left > 0; {
		n := min(left, len(piece))
		want := 0
		if left -= n; left == 0 {
			want = n
		}
		if got := f.scan(piece[:n]); got != want {
			t.Fatalf("%d bytes before the end: %d bytes are whole, want %d", left, got, want)
		}
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 1<<20 {
		t.Errorf("%d bytes allocated", grown)
	}
	if seen != size || !f.boundary() {
		t.Errorf("saw %d bytes, at a boundary: %v", seen, f.boundary())
	}
}
