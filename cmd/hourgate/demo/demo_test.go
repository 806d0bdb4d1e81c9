package demo

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/hourgate/hourgate/gate"
	"github.com/hourgate/hourgate/internal/gatetest"
	"github.com/hourgate/hourgate/policy"
)

// `hourgate demo` shows the whole story and leaves nothing behind.
func TestDemo(t *testing.T) {
	t.Parallel()
	var shown demoBuffer
	if err := newDemo(&shown, false).run(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, &shown)
	}
	out := shown.String()
	for _, want := range []string{
		"session_user     | hg_alice_inc_4211_", "member_of        | hourgate_ro_orders_", "(3 rows)",
		"ERROR:  permission denied for table orders",
		"DETAIL:  Grant inc-4187 on orders-prod (database orders) ended at",
		"FATAL:  terminating connection: your grant has ended", "HINT:  Ask for a new grant",
		"session_start ", "role_made ", "grant_expired", "role_settled ", "session_refused ",
		"HINT:  Flow support-orders lets you ask", "ERROR:  nobody decides their own request", "| ended (ended by owner)",
		"request_filed ", "request_approved ", "request_extended ", "request_ended ",
		"Every step was checked",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the output lacks %q", want)
		}
	}
	for line := range strings.Lines(out) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > demoWidth {
			t.Errorf("line of %d columns: %s", n, line)
		}
	}
	if strings.Contains(out, "\x1b") {
		t.Error("colours, although the output is no terminal")
	}
	assertDemoGone(t, out)
	if t.Failed() {
		t.Logf("output:\n%s", out)
	}
}

// A demo that can't fail proves nothing: with a grant to write, the UPDATE is not refused.
func TestDemoFails(t *testing.T) {
	t.Parallel()
	var out demoBuffer
	d := newDemo(&out, false)
	d.access = policy.ReadWrite
	err := d.run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "Alice's UPDATE was not refused") {
		t.Errorf("got error %v", err)
	}
	if !strings.Contains(out.String(), "The end of the gate's log") {
		t.Error("the gate's log is not shown")
	}
	assertDemoGone(t, out.String())
}

// The lines that --keep prints work in a shell as they are, and the end is an orderly one.
func TestDemoKeep(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out demoBuffer
	done := make(chan error, 1)
	go func() { done <- newDemo(&out, true).run(ctx) }()
	select {
	case <-out.contains("/metrics"):
	case err := <-done:
		t.Fatalf("ended with %v\n%s", err, &out)
	}

	for _, test := range []struct{ user, want string }{
		{demoAlice, "hg_alice_inc_4211_"}, {demoBob, "FATAL:  no live grant"}, {demoOwner, "app_owner"},
	} {
		got := pasteDemoLine(t, out.String(), test.user)
		if !strings.Contains(got, test.want) {
			t.Errorf("psql as %s: got %q, want %q in it", test.user, got, test.want)
		}
	}
	if _, _, err := gate.Load(demoFolder(t, out.String()) + "/config.yaml"); err != nil {
		t.Errorf("the demo's files: %v", err)
	}

	cancel()
	if err := <-done; err != nil {
		t.Errorf("got error %v, want none: a person ended it", err)
	}
	assertDemoGone(t, out.String())
}

// Whoever loses patience leaves nothing behind either.
func TestDemoInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out demoBuffer
	done := make(chan error, 1)
	go func() { done <- newDemo(&out, false).run(ctx) }()
	<-out.contains("|open") // psql is at work
	cancel()
	if err := <-done; err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("got error %v, want interrupted", err)
	}
	assertDemoGone(t, out.String())
}

var demoFolderPattern = regexp.MustCompile(`/tmp/hourgate-demo-\d+`)

func demoFolder(t *testing.T, out string) string {
	t.Helper()
	folder := demoFolderPattern.FindString(out)
	if folder == "" {
		t.Fatalf("the output names no folder:\n%s", out)
	}
	return folder
}

// assertDemoGone looks for the folder, and for processes that were started with it.
func assertDemoGone(t *testing.T, out string) {
	t.Helper()
	folder := demoFolder(t, out)
	if _, err := os.Stat(folder); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", folder, err)
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range processes {
		// A process that ends meanwhile has no command line.
		if line, _ := os.ReadFile(file); bytes.Contains(line, []byte(folder)) {
			t.Errorf("a process is left: %q", line)
		}
	}
}

// pasteDemoLine does what a person does with the line that --keep prints for a user.
func pasteDemoLine(t *testing.T, out, user string) string {
	t.Helper()
	line := regexp.MustCompile(`(?s)PGPASSWORD=\w+ [^ ]*psql "user=` + regexp.QuoteMeta(user) + `[^"]*"`).FindString(out)
	if line == "" {
		t.Fatalf("no line to paste for %s:\n%s", user, out)
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-c", line+` -XAtc "SELECT session_user"`)
	got, _ := cmd.CombinedOutput() // psql's exit code is 2 for who is refused
	return string(got)
}

// demoBuffer is output that can be waited for.
type demoBuffer struct{ gatetest.Buffer }

// contains is closed once the output has the text, or after a minute.
func (b *demoBuffer) contains(text string) <-chan struct{} {
	found := make(chan struct{})
	go func() {
		defer close(found)
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline) && !strings.Contains(b.String(), text); {
			time.Sleep(10 * time.Millisecond)
		}
	}()
	return found
}
