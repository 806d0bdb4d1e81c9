package audit

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// quiet opens a trail whose writer comes only when it must: for Append, Reopen, Close, or a full spool.
func quiet(t testing.TB, file string, opts Options) *Trail {
	t.Helper()
	opts.Spool = 1
	trail, err := Open(file, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { trail.Close() })
	trail.wake.Store(wakeNow) // call thinks that it is on its way
	return trail
}

func ask(t testing.TB, trail *Trail, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if err := trail.Statement(t.Context(), &Statement{Session: "s", At: time.Unix(1, 0), Kind: StatementQuery, Text: []byte(text)}); err != nil {
			t.Fatal(err)
		}
	}
}

func readFile(t testing.TB, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// outlive is what the next process finds when this one dies now: the files as they are.
func outlive(t testing.TB, trail, spool []byte) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "trail.jsonl")
	for name, b := range map[string][]byte{file: trail, file + ".spool": spool} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return file
}

// replay opens a trail as the next process does, and returns its statements and the details of its last recovery.
func replay(t testing.TB, file string) (texts []string, detail map[string]string) {
	t.Helper()
	trail, err := Open(file, Options{Spool: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := trail.Close(); err != nil {
		t.Fatal(err)
	}
	for r, err := range All(bytes.NewReader(readFile(t, file))) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Event == SessionStatement {
			texts = append(texts, r.Statement)
		}
		if r.Detail["spool"] != "" {
			detail = r.Detail
		}
	}
	return texts, detail
}

// All the states in which a process can die while it moves statements into the trail: in the middle of the write, and
// between any two of the stores that follow.
func TestDeathWhileDraining(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "trail.jsonl")
	trail := quiet(t, file, Options{})
	ask(t, trail, "first")
	if err := trail.Append(Record{Event: SessionStart}); err != nil {
		t.Fatal(err)
	}
	want := []string{"first"}
	for i := range 8 {
		want = append(want, fmt.Sprint(i)+strings.Repeat("x", 100*i)) // up to four slots
	}
	ask(t, trail, want[1:]...)
	spoolBefore, before := readFile(t, file+".spool"), readFile(t, file)
	drained := trail.spool.Load().word(wordDrained).Load()
	check := func(state string, trailNow, spoolNow []byte, tries int) {
		t.Helper()
		file := outlive(t, trailNow, spoolNow)
		for range tries { // what is recovered once is not recovered again
			if got, _ := replay(t, file); strings.Join(got, " ") != strings.Join(want, " ") {
				t.Fatalf("%s: got %.200q\nwant %.200q", state, got, want)
			}
		}
	}
	if err := trail.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	after := readFile(t, file)
	for size := len(before); size <= len(after); size++ {
		if edge := bytes.IndexByte(after[size-1:min(size+2, len(after))], '\n') >= 0; edge || size%97 == 0 {
			check(fmt.Sprintf("%d bytes written", size-len(before)), after[:size], spoolBefore, 1)
		}
	}
	end := trail.spool.Load().word(wordDrained).Load()
	half := bytes.Clone(spoolBefore)
	binary.NativeEndian.PutUint64(half[wordDrained:], end)
	check("drained", after, half, 2)
	for slot := drained; slot < end; slot++ {
		binary.NativeEndian.PutUint64(half[trail.spool.Load().place(slot):], 0)
		check(fmt.Sprintf("slots up to %d freed", slot), after, half, 1)
	}
	check("freed", after, readFile(t, file+".spool"), 2)
}

// A process that dies while it recovers leaves a longer trail and the same spool, or one that knows more.
func TestDeathWhileRecovering(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "trail.jsonl")
	trail := quiet(t, file, Options{})
	want := "a b c"
	ask(t, trail, strings.Fields(want)...)
	before, spool := readFile(t, file), readFile(t, file+".spool")
	recovered := outlive(t, before, spool)
	if _, detail := replay(t, recovered); detail["statements_recovered"] != "3" || detail["statements_dropped"] != "0" {
		t.Fatalf("got %v", detail)
	}
	after := readFile(t, recovered)
	for size := len(before); size <= len(after); size += 31 {
		file := outlive(t, after[:size], spool)
		for range 2 {
			if got, _ := replay(t, file); strings.Join(got, " ") != want {
				t.Fatalf("%d bytes: got %q", size-len(before), got)
			}
		}
	}
}

// What was taken but not sealed had not happened; what others sealed behind it had.
func TestDeathBetweenTakingAndSealing(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "trail.jsonl")
	trail := quiet(t, file, Options{})
	s := trail.spool.Load()
	text := bytes.Repeat([]byte{1}, 3000) // looks like seals everywhere
	unsealed := entry{kind: 1, text: text}
	ask(t, trail, "a")
	for range 2 {
		first, err := s.take(unsealed.size())
		if err != nil {
			t.Fatal(err)
		}
		s.put(first, unsealed.size(), &unsealed)
		s.word(s.place(first)).Store(0)
	}
	ask(t, trail, "b")
	damaged, _ := s.take(1)
	s.put(damaged, 1, &entry{kind: 1, text: []byte("damaged")})
	s.mem[s.place(damaged)+50] ^= 1
	ask(t, trail, "c")
	got, detail := replay(t, outlive(t, readFile(t, file), readFile(t, file+".spool")))
	if strings.Join(got, " ") != "a b c" || detail["statements_recovered"] != "3" || detail["statements_dropped"] != "2" {
		t.Errorf("got %q, %v", got, detail)
	}
	s.head.Store(s.drained) // so that Close does not wait for the unsealed
}

func TestSpoolsThatAreNone(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "trail.jsonl")
	trail := quiet(t, file, Options{})
	ask(t, trail, "a")
	whole, spool := readFile(t, file), readFile(t, file+".spool")
	change := func(at int, to uint64) []byte {
		b := bytes.Clone(spool)
		binary.NativeEndian.PutUint64(b[at:], to)
		return b
	}
	for name, tt := range map[string]struct {
		spool []byte
		bad   bool
	}{
		"whole": {spool, false}, "empty": {nil, false}, "short": {spool[:100], false}, "unfinished": {change(wordMagic, 0), false},
		"foreign": {change(wordMagic, 1), true}, "cut": {spool[:len(spool)-slotBytes], true}, "text": {bytes.Repeat([]byte("a\n"), 1<<12), true},
		"no slots": {change(wordSlots, 0), true}, "many slots": {change(wordSlots, 1<<56), true}, "odd slots": {change(wordSlots, 3), true},
		"drained too far": {change(wordDrained, 1<<62), true}, "free is past drained": {change(wordFree, 1<<61), true},
		"drained is past the end": {change(wordFree, 0), true},
	} {
		file := outlive(t, whole, tt.spool)
		next, err := Open(file, Options{Spool: 1})
		if (err != nil) != tt.bad {
			t.Errorf("%s: got error %v", name, err)
		}
		if err == nil {
			next.Close()
		} else if !bytes.Equal(readFile(t, file+".spool"), tt.spool) || !bytes.Equal(readFile(t, file), whole) {
			t.Errorf("%s: the files were changed", name)
		}
	}
}

// FuzzSpool: whatever a spool holds, recovery ends, and yields only what a seal covers.
func FuzzSpool(f *testing.F) {
	const slots = 8
	e := entry{kind: 2, at: 1, session: []byte("s"), name: []byte("n"), text: []byte(strings.Repeat("x", 300))}
	s := spool{mem: make([]byte, spoolHeader+slots*slotBytes), slots: slots}
	s.put(5, e.size(), &e)
	s.put(7, 1, &entry{kind: 1, text: []byte("SELECT 1")})
	f.Add(uint64(5), uint64(5), bytes.Clone(s.mem[spoolHeader:]))
	f.Add(uint64(1<<61), uint64(1<<61-3), []byte{0, 0, 0xff})
	f.Fuzz(func(t *testing.T, drained, free uint64, contents []byte) {
		s := spool{mem: make([]byte, spoolHeader+slots*slotBytes)}
		copy(s.mem[spoolHeader:], contents)
		s.word(wordMagic).Store(spoolMagic)
		s.word(wordSlots).Store(slots)
		s.word(wordDrained).Store(drained)
		s.word(wordFree).Store(free)
		if s.checkHeader() != nil {
			return
		}
		for slot, more := drained, true; more; {
			before := slot
			var e entry
			if e, slot, _, more = s.nextRecord(slot); !more {
				break
			}
			if slot <= before || slot > s.end() || e.number < before || e.number+e.size() != slot {
				t.Fatalf("slot %d: got record %d of %d slots, then slot %d", before, e.number, e.size(), slot)
			}
			again := spool{mem: make([]byte, len(s.mem)), slots: slots}
			again.put(e.number, e.size(), &e)
			got := again.word(again.place(e.number)).Load() >> 32
			if want := s.word(s.place(e.number)).Load() >> 32; got != want {
				t.Fatalf("got checksum %x, want %x", got, want)
			}
		}
		_, _ = readEntry(contents, crc32.Checksum(contents, castagnoli))
	})
}
