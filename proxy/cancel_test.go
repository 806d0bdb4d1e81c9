package proxy_test

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"

	"github.com/hourgate/hourgate/internal/eventually"
)

// sleeper is a client in the middle of a statement, and the key to cancel it with.
func sleeper(g *gate, version uint32) (p *peer, key []byte) {
	g.t.Helper()
	p = dial(g.t, g.target(), negotiated)
	for _, m := range p.login(like(version).bytes(g.target())) {
		if m.kind == 'K' {
			key = m.body
		}
	}
	p.send(query("SELECT pg_sleep(60)"))
	g.awaitSleep()
	return p, key
}

func (g *gate) awaitSleep() {
	g.t.Helper()
	eventually.True(g.t, "the statement runs", func() bool { return len(g.backends("wait_event = 'PgSleep'")) == 1 })
}

// expectCancelled checks that the statement, and nothing more, has ended.
func (p *peer) expectCancelled() {
	p.t.Helper()
	m, err := p.read()
	if m.kind == 'T' { // from 14 on, the description of the rows is not sent before the first row
		m, err = p.read()
	}
	if err != nil {
		p.t.Fatal(err)
	}
	if e := m.error(p.t); e.Code != pgerrcode.QueryCanceled || e.Severity != "ERROR" {
		p.t.Errorf("got %+v, want ERROR 57014", e)
	}
	p.expect('Z')
	p.send(query("SELECT 1"))
	p.expect('T')
}

// A CancelRequest cancels the statement of the session whose key it has, in plaintext, as libpq before 17 sends it, and
// encrypted. It is answered by nothing but the end of the connection.
func TestRule07Cancel(t *testing.T) {
	t.Parallel()
	db := database(t, 18)
	for _, rule := range []struct {
		name      string
		version   uint32
		keyLength int
		via       encryption
	}{
		{"in plaintext", v30, 8, plain},
		{"over TLS", v30, 8, negotiated},
		{"over direct TLS", v30, 8, directTLS},
		{"with a long key", v32, 36, negotiated},
		{"with a long key in plaintext", v32, 36, plain},
	} {
		t.Run(rule.name, func(t *testing.T) {
			t.Parallel()
			g := startGate(t, db, gateOptions{})
			p, key := sleeper(g, rule.version)
			if len(key) != rule.keyLength {
				t.Fatalf("the key is %d bytes, want %d", len(key), rule.keyLength)
			}
			c := dial(t, g.target(), rule.via)
			c.send(packet(vCancel, key...))
			c.expectSilence()
			p.expectCancelled()
			g.expectCancels(map[string]float64{"forwarded": 1})
			if got := len(g.trail.all()); got != 1 {
				t.Errorf("%d records in the trail, want the session's start only", got)
			}
		})
	}
}

func (g *gate) expectCancels(want map[string]float64) {
	g.t.Helper()
	for _, result := range []string{"forwarded", "failed", "unknown"} {
		if got := g.metric("hourgate_cancel_requests_total", "result", result); got != want[result] {
			g.t.Errorf("%v cancel requests counted as %s, want %v", got, result, want[result])
		}
	}
}

// A key that is wrong in any way cancels nothing, and the answer is the same silence, as PostgreSQL's.
func TestRule07CancelWithAWrongKey(t *testing.T) {
	t.Parallel()
	servers := oracles(t) // which may take longer to start than a client waits
	g := newGate(t)
	p, key := sleeper(g, v30)
	changed := func(at int) []byte {
		k := append([]byte(nil), key...)
		k[at] ^= 1
		return k
	}
	wrong := [][]byte{
		changed(3), changed(4), changed(7), make([]byte, 8), // unknown
		nil, key[:4], key[:7], append(changed(0), 0), append(append([]byte(nil), key...), make([]byte, 28)...), // lengths
		append(append([]byte(nil), key...), make([]byte, 300)...),
	}
	for _, key := range wrong {
		for _, via := range []encryption{plain, negotiated} {
			c := dial(t, g.target(), via)
			c.send(packet(vCancel, key...))
			c.expectSilence()
		}
	}
	for _, server := range servers {
		for _, key := range wrong {
			c := dial(t, server, plain)
			c.send(packet(vCancel, key...))
			c.expectSilence()
		}
	}
	if got := g.metric("hourgate_cancel_requests_total", "result", "forwarded"); got != 0 {
		t.Errorf("%v requests with a wrong key were forwarded", got)
	}
	c := dial(t, g.target(), plain)
	c.send(packet(vCancel, key...))
	p.expectCancelled() // by this one: the others would have done it before
}

// The key dies with the session.
func TestRule07TheKeyDiesWithTheSession(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	p, key := sleeper(g, v30)
	g.withdraw()
	p.expectEnd()
	eventually.True(t, "the session is gone", func() bool { return g.metric("hourgate_sessions") == 0 })
	c := dial(t, g.target(), plain)
	c.send(packet(vCancel, key...))
	c.expectSilence()
	g.expectCancels(map[string]float64{"unknown": 1})
}

// The secret of a session's key is not the server's: shown to the server itself, it cancels nothing.
func TestRule07TheSecretIsNotTheServers(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	_, key := sleeper(g, v30)
	c := dial(t, g.direct(), plain)
	c.send(packet(vCancel, key...))
	c.expectSilence() // the server signals before it hangs up
	if got := len(g.backends("wait_event = 'PgSleep'")); got != 1 {
		t.Errorf("%d statements run, want 1", got)
	}
}

// Ctrl-C in psql, and a context in pgx.
func TestClientsCancel(t *testing.T) {
	t.Parallel()
	db := database(t, 18)
	t.Run("psql", func(t *testing.T) {
		t.Parallel()
		g := startGate(t, db, gateOptions{})
		cmd := g.psql(t, "SELECT pg_sleep(60)")
		var out syncBuffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		g.awaitSleep()
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		if got, want := out.String(), "Cancel request sent\nERROR:  canceling statement due to user request\n"; got != want {
			t.Errorf("psql says %q, want %q", got, want)
		}
	})
	t.Run("pgx", func(t *testing.T) {
		t.Parallel()
		g := startGate(t, db, gateOptions{})
		conn := g.pgx()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		ended := make(chan error, 1)
		go func() {
			_, err := conn.Exec(ctx, "SELECT pg_sleep(60)")
			ended <- err
		}()
		g.awaitSleep()
		since := time.Now()
		if err := conn.PgConn().CancelRequest(ctx); err != nil {
			t.Error(err)
		}
		if err := <-ended; err == nil || time.Since(since) > patience/2 {
			t.Errorf("the statement ended with %v after %v", err, time.Since(since))
		}
	})
}
