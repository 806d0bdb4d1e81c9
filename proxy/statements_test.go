package proxy_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/hourgate/hourgate/proxy"
)

// What a session asks for is in the trail, in the order of its messages.
func TestStatementsInTheTrail(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	p := connect(t, g.target())
	for _, step := range []step{
		simple("SELECT 'simple'"),
		ask(parse("s", "SELECT $1::text"), bind("p", "s", "a value"), execute("p", 0), syncMessage),
		simple("BEGIN"),
		ask(call(fnTell, int4(0))),
		simple("ROLLBACK"),
		tell(&pgproto3.Query{String: "COPY customers FROM STDIN"}).then('G', 1),
		ask(copyData("1001\tone\n"), &pgproto3.CopyFail{Message: "no"}),
	} {
		p.send(step.send)
		p.skipTo(step.until)
	}
	want := []string{
		`query "" "" 0 0: SELECT 'simple'`,
		`parse "" "s" 0 0: SELECT $1::text`,
		`bind "p" "s" 0 0: ["a value"]`,
		`query "" "" 0 0: BEGIN`,
		`function_call "" "" 958 0: [{"hex":"00000000"}]`,
		`query "" "" 0 0: ROLLBACK`,
		`query "" "" 0 0: COPY customers FROM STDIN`,
		`copy_data "" "" 0 9: `,
	}
	if diff := cmp.Diff(want, g.trail.asked()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A statement that can't be recorded does not reach the server, and neither does what was sent along with it.
func TestStatementThatCantBeRecorded(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	p := connect(t, g.target())
	watcher := connect(t, g.direct())
	watcher.send(query("LISTEN recorded"))
	watcher.skipTo('Z')

	g.trail.fill()
	p.send(query("NOTIFY recorded"), query("SELECT 2"))
	p.expectEndSoon(time.Now(), fatal(pgerrcode.SystemError, "terminating connection: what it asks for can't be recorded", "",
		"Tell the operators of this gate; nothing is wrong at your end."))
	g.expectEndRecord("trail", pgerrcode.SystemError)
	if got := g.metric("hourgate_trail_errors_total"); got != 1 {
		t.Errorf("hourgate_trail_errors_total is %v, want 1", got)
	}
	if got := g.trail.asked(); len(got) != 0 {
		t.Errorf("the trail has %q", got)
	}
	watcher.send(query("SELECT 1"))
	if kinds := watcher.skipTo('Z'); slices.Contains(kinds, 'A') {
		t.Error("the statement ran")
	}
}

// Who does not want statements in the trail gets none.
func TestStatementsDiscarded(t *testing.T) {
	t.Parallel()
	g := startGate(t, database(t, 18), gateOptions{change: func(c *proxy.Config) { c.DiscardStatements = true }})
	p := connect(t, g.target())
	p.send(query("SELECT 1"))
	p.skipTo('Z')
	if got := g.trail.asked(); len(got) != 0 {
		t.Errorf("the trail has %q", got)
	}
}

// skipTo reads to the next message of a kind, and returns the kinds of all on the way.
func (p *peer) skipTo(kind byte) (kinds []byte) {
	p.t.Helper()
	for {
		m, err := p.read()
		if err != nil {
			p.t.Fatalf("waiting for %q: %v", kind, err)
		}
		kinds = append(kinds, m.kind)
		if m.kind == kind {
			return kinds
		}
	}
}
