//go:build clients

package clients

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/pgtest"
)

var listenFor = flag.Duration("listen-for", 5*time.Second, "how long sessions are idle before a notification is sent")

// Sessions that only listen are left alone for as long as their grant lasts, and what is sent then arrives: in pgx at once, in
// psql with the next statement, as it does without a gate.
func TestListenIdle(t *testing.T) {
	binary := build(t, ".", "../cmd/hourgate")
	for _, major := range majors {
		t.Run(fmt.Sprint("PostgreSQL ", major), func(t *testing.T) {
			t.Parallel()
			db := pgtest.Start(t, major).Database(t)
			g := startGateUnder(t, binary, db, func(g *gate) { g.mayWork(t, time.Now().Add(*listenFor+10*time.Minute)) })
			driver, err := pgx.Connect(t.Context(), g.url(alice))
			if err != nil {
				t.Fatal(err)
			}
			defer driver.Close(context.WithoutCancel(t.Context()))
			exec1(t, driver, "LISTEN news")
			terminal := g.psql(t, major)
			fmt.Fprintln(terminal, "LISTEN news; SELECT 'listening';")
			terminal.expect(t, "listening")

			timer := time.NewTimer(*listenFor)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-t.Context().Done():
			}
			exec1(t, db.Superuser(t), "NOTIFY news, 'it is time'")
			arrived, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			n, err := driver.WaitForNotification(arrived)
			if err != nil || n.Payload != "it is time" {
				t.Errorf("pgx got %v, %v, want the notification", n, err)
			}
			fmt.Fprintln(terminal, "SELECT 'awake';")
			terminal.expect(t, `"it is time"`)
		})
	}
}

// mayWork is the policy under which alice reads and writes until a time.
func (g *gate) mayWork(t *testing.T, until time.Time) {
	t.Helper()
	scram, err := encodedVerifier()
	if err != nil {
		t.Fatal(err)
	}
	g.write(t, "policy.yaml", fmt.Sprintf("users: [{name: %s, scram: %q}]\ngrants: [{name: work, users: [%[1]s], integration: orders, access: READ_WRITE, until: %[3]s}]\n",
		alice, scram, until.UTC().Format(time.RFC3339Nano)))
}

// terminal is a psql that somebody types into.
type terminal struct {
	io.Writer
	output chan string // as it comes
}

func (g *gate) psql(t *testing.T, major int) *terminal {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), pgtest.Psql(t, major)+"/psql", "-X", "-At")
	cmd.Env = append(os.Environ(), g.migratorEnvironment()...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &terminal{Writer: in, output: make(chan string, 100)}
	go func() {
		defer close(p.output)
		for buffer := make([]byte, 4096); ; {
			n, err := out.Read(buffer)
			if err != nil {
				return
			}
			p.output <- string(buffer[:n])
		}
	}()
	t.Cleanup(func() {
		_ = in.Close()
		for range p.output { // until it has ended
		}
		_ = cmd.Wait()
	})
	return p
}

// expect waits until psql has written a text.
func (p *terminal) expect(t *testing.T, text string) {
	t.Helper()
	var written strings.Builder
	for timeout := time.After(30 * time.Second); !strings.Contains(written.String(), text); {
		select {
		case more, ok := <-p.output:
			if !ok {
				t.Fatalf("psql ended with %q, want %q", written.String(), text)
			}
			written.WriteString(more)
		case <-timeout:
			t.Fatalf("psql wrote %q, want %q", written.String(), text)
		}
	}
}
