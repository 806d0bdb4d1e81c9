package audit_test

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hourgate/hourgate/audit"
)

const childFile = "HOURGATE_AUDIT_CHILD" // the trail of a test's child process, and what its sessions are called

func TestMain(m *testing.M) {
	if file, name, ok := strings.Cut(os.Getenv(childFile), "|"); ok {
		crashing(file, name)
		return
	}
	m.Run()
}

// crashing records statements until it is killed, and prints each of which it was told that it counts.
func crashing(file, name string) {
	trail, err := audit.Open(file, audit.Options{Spool: 1})
	if err != nil {
		fmt.Println("error", err)
		return
	}
	if name == ending {
		endings(trail)
	}
	for s := range 4 {
		go func() {
			session := name + "-" + strconv.Itoa(s)
			for i := 0; ; i++ {
				text := strconv.Itoa(i)
				err := say(trail, session, text+strings.Repeat(".", rand.IntN(1500)))
				if err == nil && i%100 == 99 {
					err = trail.Append(audit.Record{Event: audit.SessionEnd, Subject: audit.Subject{Session: session}})
				}
				if err != nil {
					fmt.Println("error", err)
					return
				}
				os.Stdout.WriteString(session + " " + text + "\n")
			}
		}()
	}
	select {}
}

const (
	ending = "ending" // name of the child that records ends of sessions
	ends   = 300
)

// endings waits for a line, and then records ends of sessions, each of which it prints.
func endings(trail *audit.Trail) {
	fmt.Println("open")
	fmt.Scanln()
	for i := range ends {
		fmt.Println(i, trail.Append(ended(fmt.Sprint("ended-", i))))
	}
	select {}
}

// ended is the record of a session's end.
func ended(session string) audit.Record {
	return audit.Record{Event: audit.SessionEnd, Subject: audit.Subject{Session: session}}
}

// TestKilled kills a process that records statements, wherever it is, again and again, also while it recovers what the
// one before has left. What it was told is in the trail, in order, and nothing is there twice.
func TestKilled(t *testing.T) {
	t.Parallel()
	rounds := 12
	if n, err := strconv.Atoi(os.Getenv("HOURGATE_CRASH")); err == nil {
		rounds = n
	}
	file := filepath.Join(t.TempDir(), "trail.jsonl")
	told := map[string]int{}
	for round := range rounds {
		for session, n := range killed(t, file, fmt.Sprint("r", round)) {
			told[session] = n
		}
	}
	open(t, file).Close()
	got := statements(t, file)
	for session, n := range told {
		if len(got[session]) < n {
			t.Errorf("%s was told of %d statements, the trail has %d", session, n, len(got[session]))
		}
	}
	for session, texts := range got {
		if n := told[session]; len(texts) > n+1 { // the one whose news the death overtook
			t.Errorf("%s was told of %d statements, the trail has %d", session, n, len(texts))
		}
		for i, text := range texts {
			if text != fmt.Sprint(i) {
				t.Fatalf("%s: statement %d is %q", session, i, text)
			}
		}
	}
}

// killed runs a child for a moment and returns how many statements each of its sessions was told of.
func killed(t *testing.T, file, name string) map[string]int {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command(exe)
	child.Env = append(os.Environ(), childFile+"="+file+"|"+name)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	told := map[string]int{}
	early := rand.IntN(4) == 0 // perhaps while it recovers
	if early {
		time.AfterFunc(time.Duration(rand.IntN(60))*time.Millisecond, func() { child.Process.Signal(syscall.SIGKILL) })
	}
	for first := true; lines.Scan(); first = false {
		if first && !early {
			time.AfterFunc(time.Duration(rand.IntN(60_000))*time.Microsecond, func() { child.Process.Signal(syscall.SIGKILL) })
		}
		session, text, _ := strings.Cut(lines.Text(), " ")
		if text != fmt.Sprint(told[session]) {
			t.Errorf("child: %s", lines.Text())
		}
		told[session]++
	}
	child.Wait()
	return told
}
