package audit_test

import (
	"bytes"
	"errors"
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
	appendAll(t, trail, start("alice"), start("bob\n"), audit.Record{Event: audit.SessionEnd, User: "bob", Duration: 1.5})
	return contents(t, file)
}

func TestVerifyNamesTheChangedByte(t *testing.T) {
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

func FuzzVerify(f *testing.F) {
	f.Add(sample(f))
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := audit.Verify(bytes.NewReader(text))
		if err == nil && s.Records != bytes.Count(text, []byte("\n")) {
			t.Errorf("%d records in %q", s.Records, text)
		}
		var seqs []uint64
		for r, err := range audit.All(bytes.NewReader(text)) {
			if err == nil {
				seqs = append(seqs, r.Seq)
			}
		}
		if len(seqs) != s.Records || !slices.IsSorted(seqs) {
			t.Errorf("got seqs %v, want %d", seqs, s.Records)
		}
	})
}
