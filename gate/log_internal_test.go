package gate

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// A log for people has no control characters of others, and shows lists of problems as lists.
func TestLogForPeople(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	level := new(slog.LevelVar)
	log := slog.New(&peopleHandler{out: &lineWriter{w: &out}, level: level})
	log.With("session", "4f").Info("session started", "user", "alice\x1b[31m", "setup", 1500*time.Millisecond, "nothing", "")
	log.Debug("not shown")
	log.Error("policy not reloaded", "error", errors.New("p.yaml:1:1: a\np.yaml:2:1: b\x07"))
	level.Set(slog.LevelDebug)
	log.WithGroup("g").Debug("shown", "a", 1)
	lines := strings.Split(out.String(), "\n")
	want := []string{
		` INFO  session started  session=4f  user="alice\x1b[31m"  setup=1.5s  nothing=""`,
		` ERROR policy not reloaded  error:`, "    p.yaml:1:1: a", "    p.yaml:2:1: b?",
		` DEBUG shown  g.a=1`, "",
	}
	if len(lines) != len(want) {
		t.Fatalf("got %q", lines)
	}
	for i, line := range lines {
		if !strings.HasSuffix(line, want[i]) {
			t.Errorf("line %d: got %q, want the end %q", i+1, line, want[i])
		}
	}
}

func TestLogForPrograms(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	NewLogger(&out, slog.LevelInfo).Info("gate open", "timeout", time.Second)
	if got := out.String(); !strings.Contains(got, `"msg":"gate open","timeout":"1s"}`) {
		t.Errorf("got %s", got)
	}
}
