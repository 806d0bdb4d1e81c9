package audit_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hourgate/hourgate/audit"
)

// sample is a trail of four lines.
func sample(t testing.TB) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "trail.jsonl")
	trail := open(t, file)
	appendAll(t, trail, start("alice"), start("bob\n"), audit.Record{Event: audit.RoleSettled, Subject: audit.Subject{User: "bob"}, Traffic: audit.Traffic{Duration: 1.5}})
	return contents(t, file)
}

func TestVerifyNamesTheChangedByte(t *testing.T) {
	t.Parallel()
	whole := sample(t)
	line := 1
	for i, c := range whole {
		for _, changed := range []byte{c ^ 1, c ^ 0x20, c ^ 0x80, '0', '\n', ' '} {
			if changed == c {
				continue
			}
			bad := bytes.Clone(whole)
			bad[i] = changed
			s, err := audit.Verify(bytes.NewReader(bad))
			var at *audit.LineError
			if !errors.As(err, &at) {
				t.Fatalf("byte %d %q changed to %q: got error %v", i, c, changed, err)
			}
			if at.Line != line || s.Records != line-1 {
				t.Fatalf("byte %d %q of line %d changed to %q: got %v after %d records", i, c, line, changed, err, s.Records)
			}
		}
		if c == '\n' {
			line++
		}
	}
}

func TestVerifyNamesTheLine(t *testing.T) {
	whole := sample(t)
	lines := strings.SplitAfter(string(whole), "\n")[:4]
	join := func(order ...int) string {
		var b strings.Builder
		for _, i := range order {
			b.WriteString(lines[i-1])
		}
		return b.String()
	}
	other := strings.SplitAfter(string(sample(t)), "\n")
	tests := []struct {
		name string
		text string
		line int // of the error; 0 for none
		good int // records
	}{
		{"whole", join(1, 2, 3, 4), 0, 4},
		{"nothing", "", 0, 0},
		{"start rotated away", join(3, 4), 0, 2},
		{"end cut off", join(1, 2), 0, 2}, // can't be seen: hence Summary.LastHash
		{"line removed", join(1, 3, 4), 2, 1},
		{"lines swapped", join(1, 3, 2, 4), 2, 1},
		{"line doubled", join(1, 2, 2, 3, 4), 3, 2},
		{"line from another trail", lines[0] + other[1], 2, 1},
		{"empty line", join(1, 2) + "\n" + join(3), 3, 2},
		{"torn", join(1, 2) + lines[2][:20], 3, 2},
		{"without last newline", strings.TrimSuffix(string(whole), "\n"), 4, 3},
		{"endless line", join(1) + strings.Repeat("x", audit.MaxRecord+100), 2, 1},
		{"zeros", join(1) + "\x00\x00\x00\n", 2, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := audit.Verify(strings.NewReader(tt.text))
			var at *audit.LineError
			errors.As(err, &at)
			if (tt.line == 0) != (err == nil) || (at != nil && at.Line != tt.line) || s.Records != tt.good {
				t.Errorf("got %v after %d records, want line %d after %d", err, s.Records, tt.line, tt.good)
			}
			if torn := tt.name == "torn" || tt.name == "without last newline"; errors.Is(err, audit.ErrTorn) != torn {
				t.Errorf("got %v, want ErrTorn: %v", err, torn)
			}
			var list []audit.Record
			var last error
			for r, err := range audit.All(strings.NewReader(tt.text)) {
				if last = err; err == nil {
					list = append(list, r)
				}
			}
			if len(list) != tt.good || (last != nil) != (tt.line != 0) {
				t.Errorf("All: got %d records and %v", len(list), last)
			}
		})
	}
}

func TestSummaryTellsTwoPartsOfOneChain(t *testing.T) {
	whole := sample(t)
	cut := bytes.IndexByte(whole, '\n') + 1
	first, err := audit.Verify(bytes.NewReader(whole[:cut]))
	if err != nil {
		t.Fatal(err)
	}
	second, err := audit.Verify(bytes.NewReader(whole[cut:]))
	if err != nil {
		t.Fatal(err)
	}
	if second.FirstPrev != first.LastHash || second.FirstSeq != first.LastSeq+1 {
		t.Errorf("got %+v then %+v", first, second)
	}
}

func TestVerifyPassesOnReadErrors(t *testing.T) {
	_, err := audit.Verify(io.MultiReader(bytes.NewReader(sample(t)), failing{}))
	if !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("got %v", err)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, io.ErrNoProgress }

func TestAllCanStop(t *testing.T) {
	n := 0
	for range audit.All(bytes.NewReader(sample(t))) {
		if n++; n == 2 {
			break
		}
	}
	if n != 2 {
		t.Errorf("got %d records", n)
	}
}

// FuzzVerify holds Verify and All against a reader that splits a text into lines and sees them all. seal gives each line
// a right CRC, and the line's predecessor's hash in place of PREV, so that the fuzzer gets past them. A good trail of
// which one bit is flipped, or a line left out, is good no more.
func FuzzVerify(f *testing.F) {
	whole := sample(f)
	f.Add(whole, false, uint16(0))
	f.Add([]byte("{}\n"), false, uint16(1))
	link := `{"seq":%d,"prev":"PREV","time":"2026-11-22T17:00:00Z","event":"session_start","user":"alice"` + "\n"
	f.Add(fmt.Appendf(nil, link, 1), true, uint16(2))
	f.Add(fmt.Appendf(nil, link+link+link, 1, 2, 3), true, uint16(1000))
	f.Add(fmt.Appendf(nil, link+link, 1, 3), true, uint16(4))
	f.Add(fmt.Appendf(nil, `{"seq":7,"prev":"`+strings.Repeat("a", 64)+`","event":"trail_recovered"`+"\n"+link, 8), true, uint16(5))
	f.Add(append(fmt.Appendf(nil, link, 1), `{"seq":2`...), true, uint16(5))
	other := strings.Replace(link, "PREV", strings.Repeat("b", 64), 1)
	f.Add(fmt.Appendf(nil, link+other, 1, 2), true, uint16(6))
	f.Add(fmt.Appendf(nil, link+strings.Replace(link, `","time"`, `x","time"`, 1), 1, 2), true, uint16(7))
	f.Fuzz(func(t *testing.T, text []byte, seal bool, flip uint16) {
		if len(text) > 16<<10 {
			return
		}
		if seal {
			text = sealed(text)
		}
		s, err := audit.Verify(bytes.NewReader(text))
		want, line := wantedSummary(text)
		var at *audit.LineError
		if errors.As(err, &at); s != want || (line == 0) != (err == nil) || at != nil && at.Line != line {
			t.Fatalf("%q: got %+v and %v, want %+v and line %d", text, s, err, want, line)
		}
		records, last := 0, error(nil)
		for r, err := range audit.All(bytes.NewReader(text)) {
			if last = err; err == nil {
				records++
			}
			if err == nil && r.Seq != s.FirstSeq+uint64(records)-1 {
				t.Fatalf("%q: record %d has seq %d", text, records, r.Seq)
			}
		}
		if records != s.Records || fmt.Sprint(last) != fmt.Sprint(err) {
			t.Fatalf("%q: All has %d records and %v, Verify %d and %v", text, records, last, s.Records, err)
		}
		if err != nil || s.Records == 0 {
			return
		}
		changed := bytes.Clone(text)
		changed[int(flip>>3)%len(text)] ^= 1 << (flip & 7)
		if c, err := audit.Verify(bytes.NewReader(changed)); err == nil {
			t.Fatalf("%q, changed to %q, is %+v", text, changed, c)
		}
		lines := bytes.SplitAfter(text, []byte("\n"))
		if i := 1 + int(flip)%len(lines); i < s.Records-1 { // neither the first nor the last: see Summary
			if c, err := audit.Verify(bytes.NewReader(bytes.Join(slices.Delete(lines, i, i+1), nil))); err == nil {
				t.Fatalf("%q without line %d is %+v", text, i+1, c)
			}
		}
	})
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sealed gives each whole line what the trail would give it.
func sealed(text []byte) []byte {
	prev := strings.Repeat("0", 64)
	var out []byte
	for line := range bytes.Lines(text) {
		body, whole := bytes.CutSuffix(line, []byte("\n"))
		body = bytes.ReplaceAll(body, []byte("PREV"), []byte(prev))
		if whole {
			body = fmt.Appendf(bytes.Clone(body), `,"crc":"%08x"}`, crc32.Checksum(body, castagnoli))
			prev = fmt.Sprintf("%x", sha256.Sum256(body))
			body = append(body, '\n')
		}
		out = append(out, body...)
	}
	return out
}

// wantedSummary is what a text amounts to, and its first bad line or 0.
func wantedSummary(text []byte) (s audit.Summary, bad int) {
	for line := range bytes.Lines(text) {
		bad++
		line, whole := bytes.CutSuffix(line, []byte("\n"))
		at := bytes.LastIndex(line, []byte(`,"crc":"`))
		if !whole || at < 0 || string(line[at:]) != fmt.Sprintf(`,"crc":"%08x"}`, crc32.Checksum(line[:at], castagnoli)) {
			return s, bad
		}
		var r audit.Record
		if err := json.Unmarshal(line, &r); err != nil || r.Seq == 0 || len(r.Prev) != 64 || (r.Seq == 1) != (strings.Trim(r.Prev, "0") == "") {
			return s, bad
		}
		if s.Records > 0 && (r.Seq != s.LastSeq+1 || r.Prev != s.LastHash) {
			return s, bad
		}
		if s.Records == 0 {
			s.FirstSeq, s.FirstPrev, s.FirstTime = r.Seq, r.Prev, r.Time
		}
		s.Records++
		s.LastSeq, s.LastHash, s.LastTime = r.Seq, fmt.Sprintf("%x", sha256.Sum256(line)), r.Time
		if r.Event == audit.TrailRecovered {
			s.Recovered++
		}
	}
	return s, 0
}
