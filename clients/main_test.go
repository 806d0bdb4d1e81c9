//go:build clients

package clients

import (
	"bufio"
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hourgate/hourgate/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var tableFile = flag.String("table", "", "write what the clients reported to this file, in Markdown")

// clientTimeout is for one client against one server, on a busy machine.
const clientTimeout = 3 * time.Minute

// soon is when a grant ends that is to end next: later than a gate on a busy machine sees that it does.
const soon = 5 * time.Second

// majors are the servers behind the gate: the one that most drivers were made for, and the newest.
var majors = []int{15, 18}

// A client is a program or driver that goes through the gate.
type client struct {
	name  string
	libpq *libpq // set for those that are about the library and how it connects

	// run does all checks and reports them on stdout.
	run func(ctx context.Context, l login, stdout, stderr io.Writer) error
}

// Real clients log in, work, are refused, and are cut off at the end of the grant.
func TestClients(t *testing.T) {
	var (
		mu      sync.Mutex
		reports []*report
	)
	binary := build(t, ".", "../cmd/hourgate")
	clients := append(drivers(t), libpqMatrix(t)...)
	t.Run("all", func(t *testing.T) {
		for i, c := range clients {
			for _, major := range majors {
				t.Run(fmt.Sprintf("%s/PostgreSQL %d", c.name, major), func(t *testing.T) {
					t.Parallel()
					r := runClient(t, c, startGate(t, binary, pgtest.Start(t, major).Database(t)))
					r.row, r.major = i, major
					mu.Lock()
					defer mu.Unlock()
					reports = append(reports, r)
				})
			}
		}
	})
	slices.SortFunc(reports, func(a, b *report) int {
		return cmp.Or(cmp.Compare(a.row, b.row), cmp.Compare(a.major, b.major))
	})
	if *tableFile != "" {
		if err := os.WriteFile(*tableFile, []byte(document(reports, time.Now())), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// runClient runs a client through the gate and holds it to what it must report.
func runClient(t *testing.T, c client, g *gate) *report {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), clientTimeout)
	defer cancel()
	stdout, toStdout := io.Pipe()
	var stderr strings.Builder
	done := make(chan error, 1)
	go func() {
		err := c.run(ctx, g.login, toStdout, &stderr)
		_ = toStdout.Close()
		done <- err
	}()

	r := &report{client: c, results: make(map[string]result)}
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		if lines.Text() == "end" {
			g.setPolicy(t, time.Now().Add(soon))
			continue
		}
		if err := r.add(lines.Text()); err != nil {
			t.Error(err)
		}
	}
	_, _ = io.Copy(io.Discard, stdout) // what a line too long for the scanner has left
	if err := <-done; err != nil {
		t.Error(err)
	}
	r.protocol = g.protocol(t)
	g.checkEnds(t)
	bound := strings.Contains(r.tls, "channel binding")
	if c.libpq != nil {
		bound = c.libpq.binding != "disable" // prefer has it where the gate offers it
	}
	g.checkProof(t, bound)
	for _, check := range checks {
		switch result := r.results[check.name]; result.outcome {
		case passed, notAvailable:
		case failed:
			t.Errorf("%s: %s", check.name, result.remark)
		default:
			t.Errorf("%s: not reported", check.name)
		}
	}
	if t.Failed() && stderr.Len() > 0 {
		t.Logf("standard error:\n%s", &stderr)
	}
	return r
}
