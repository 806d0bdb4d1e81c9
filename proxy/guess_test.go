package proxy_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hourgate/hourgate/proxy"
)

// Many connections together can guess a password no oftener than one: each guess waits for its turn.
func TestGuessesInParallel(t *testing.T) {
	t.Parallel()
	g := startGate(t, database(t, 18), gateOptions{change: func(c *proxy.Config) { c.LoginTimeout = 10 * time.Second }})
	to := g.target()
	to.password = "guess"
	peers, answers := make([]*peer, 20), make([][]byte, 20)
	for i := range peers {
		peers[i], answers[i] = challenged(t, to)
	}
	began := time.Now()
	var guessing sync.WaitGroup
	for i, p := range peers {
		guessing.Go(func() {
			if _, err := p.conn.Write(answers[i]); err != nil {
				return
			}
			if got := p.outcome(); !strings.HasPrefix(got, "FATAL 28P01") {
				t.Errorf("got %s", got)
			}
		})
	}
	guessing.Wait()
	// Four are free, and the turns behind them are 0.25, 0.75, 1.75, 3.75, 7.75 and 15.75 s away. Who would have to wait longer
	// than a log-in may take is refused at once.
	since := time.Since(began)
	want := 4
	for next, delay := 250*time.Millisecond, 250*time.Millisecond; next < since; next += delay {
		delay = min(2*delay, 10*time.Second)
		want++
	}
	if got := strings.Count(g.logs.String(), "challenge proof invalid"); got < 4 || got > want {
		t.Errorf("%d guesses were looked at in %v, want 4 to %d", got, since, want)
	}
}

// With sslmode=prefer, libpq shows what the attempt without encryption was told, which must not hide what was wrong.
func TestPreferredEncryptionAndAWrongPassword(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	plaintext := func(user string) string {
		p := dial(t, g.target(), plain)
		p.send(startup(v30, "user", user, "database", "orders"))
		return p.outcome()
	}
	const encrypted = "FATAL 28000: this gate takes encrypted connections only"
	if got := plaintext(alice); got != encrypted {
		t.Errorf("before any failure: got %s", got)
	}
	to := g.target()
	to.password = "wrong"
	p := dial(t, to, negotiated)
	p.send(like(v30).bytes(to))
	if got := p.outcome(); !strings.HasPrefix(got, "FATAL 28P01") {
		t.Fatalf("got %s", got)
	}
	if got, want := plaintext(alice), `FATAL 28P01: password authentication failed for user "alice@example.com"`; got != want {
		t.Errorf("after a failure: got %s, want %s", got, want)
	}
	if got := plaintext(bob); got != encrypted {
		t.Errorf("somebody else: got %s", got)
	}
}
