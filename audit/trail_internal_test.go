package audit

import (
	"os"
	"path/filepath"
	"testing"
)

// When even the cut after a failed write fails (a dying disk), the next Append makes up for it.
func TestAppendCutsWhatAnEarlierFailureLeft(t *testing.T) {
	trail, err := Open(filepath.Join(t.TempDir(), "trail.jsonl"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer trail.Close()
	const rest = `{"seq":2,"prev":"`
	if _, err := trail.file.WriteString(rest); err != nil {
		t.Fatal(err)
	}
	trail.torn = int64(len(rest))
	if err := trail.Append(Record{Event: SessionStart}); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(trail.path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if s, err := Verify(f); err != nil || s.Records != 2 {
		t.Errorf("got %+v, %v", s, err)
	}
}
