package proxy_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/proxy"
)

// Results are in the trail, each with the call that it belongs to.
func TestResultsInTheTrail(t *testing.T) {
	t.Parallel()
	for _, major := range pgtest.Majors() {
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) {
			t.Parallel()
			g := startGate(t, database(t, major), gateOptions{})
			p := connect(t, g.target())
			for _, step := range []step{
				simple("SELECT 1; CREATE TEMP TABLE t (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED); SELECT 1/0; SELECT 2"), // 1; undone
				simple("CREATE TEMP TABLE t (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED)"),                                 // 2
				simple(" ; "), // 3
				tell(&pgproto3.Query{String: "COPY t FROM STDIN"}).then('G', 1), // 4
				ask(copyData("1\n2\n"), copyDone),
				tell(&pgproto3.Query{String: "COPY t FROM STDIN; SELECT 3; COPY t FROM STDIN"}).then('G', 1), // 5
				tell(copyData("3\n"), copyDone).then('G', 1),
				ask(&pgproto3.CopyFail{Message: "no"}),
				tell(&pgproto3.Query{String: "COPY t FROM STDIN"}).then('G', 1), // 6: fails in the middle, and is sent on
				ask(copyData("x\n"), copyData("4\n"), copyDone),
				simple("COPY t TO STDOUT"),                                                                   // 7
				tell(parse("", "COPY t FROM STDIN"), bind("", ""), execute("", 0), syncMessage).then('G', 1), // 8, 9: Sync is ignored
				ask(copyData("5\n"), copyDone, syncMessage),
				tell(parse("", "COPY t FROM STDIN"), bind("", ""), execute("", 0), syncMessage).then('G', 1), // 10, 11
				ask(&pgproto3.CopyFail{Message: "no"}, syncMessage),
				ask(parse("", "SELECT generate_series(1, 25)"), bind("c", ""), describe('P', "c"), execute("c", 10), execute("c", 10), execute("c", 10), syncMessage), // 12, 13
				ask(parse("a", "SELECT $1::int"), describe('S', "a"), bind("x", "a", "7"), bind("y", "a", "8"), execute("y", 0), execute("x", 0), syncMessage),        // 14 to 16
				ask(parse("", "INSERT INTO t VALUES (1)"), bind("", ""), execute("", 0), syncMessage),                                                                 // 17, 18: fails in Sync
				ask(parse("", "SELEKT"), bind("", ""), execute("", 0), syncMessage),                                                                                   // 19, 20
				ask(bind("", "a", "no number"), execute("", 0), &pgproto3.Query{String: "SELECT 'skipped'"}, syncMessage),                                             // 21, 22
				simple("BEGIN; DECLARE d CURSOR FOR SELECT 1"),                                                                                                        // 23
				ask(execute("d", 0), closeOf('P', "d"), syncMessage),                                                                                                  // of no call
				simple("ROLLBACK"),             // 24
				ask(call(1 << 30)),             // 25
				simple("UPDATE t SET id = id"), // 26
			} {
				p.send(step.send)
				for range step.times {
					p.skipTo(step.until)
				}
			}
			want := []string{
				"1: SELECT 1  1 rows", "1: CREATE TABLE  0 rows", "1: error 22012 0 rows",
				"2: CREATE TABLE  0 rows",
				"3: empty query  0 rows",
				"4: COPY 2  2 rows",
				"5: COPY 1  1 rows", "5: SELECT 1  1 rows", "5: error 57014 0 rows",
				"6: error 22P02 0 rows",
				"7: COPY 2  2 rows",
				"9: COPY 1  1 rows",
				"11: error 57014 0 rows",
				"13: portal suspended  10 rows", "13: portal suspended  10 rows", "13: SELECT 5  5 rows",
				"16: SELECT 1  1 rows", "15: SELECT 1  1 rows",
				"18: INSERT 0 1  1 rows", "18: error 23505 0 rows",
				"19: error 42601 0 rows",
				"21: error 22P02 0 rows",
				"23: BEGIN  0 rows", "23: DECLARE CURSOR  0 rows", "0: SELECT 1  1 rows",
				"24: ROLLBACK  0 rows",
				"25: error 42883 0 rows",
				"26: UPDATE 3  3 rows",
			}
			if diff := cmp.Diff(want, g.trail.answered()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Whatever a client pipelines, and however its bytes are cut, each result belongs to the call that PostgreSQL answered.
func TestResultsOfPipelines(t *testing.T) {
	t.Parallel()
	for _, major := range pgtest.Majors() {
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) {
			t.Parallel()
			g := startGate(t, database(t, major), gateOptions{})
			for seed := range uint64(20) {
				p := connect(t, g.target())
				m := &model{random: rand.New(rand.NewPCG(seed, uint64(major)))}
				for range 60 {
					m.more()
				}
				m.sync()
				before := len(g.trail.answered())
				for rest := m.sent; len(rest) > 0; {
					n := min(len(rest), 1+m.random.IntN(2000))
					p.send(rest[:n])
					rest = rest[n:]
				}
				for range m.ready {
					p.skipTo('Z')
				}
				_ = p.conn.Close()
				if diff := cmp.Diff(m.want, g.trail.answered()[before:]); diff != "" {
					t.Fatalf("seed %d (-want +got):\n%s", seed, diff)
				}
			}
		})
	}
}

// model makes a random pipeline, and says what PostgreSQL makes of it.
type model struct {
	random *rand.Rand
	sent   []byte
	want   []string
	ready  int
	calls  int
	rows   int
	failed bool // until Sync
}

func (m *model) send(messages ...pgproto3.FrontendMessage) {
	m.sent = append(m.sent, encode(messages...)...)
}

func (m *model) expect(call int, format string, args ...any) {
	if !m.failed {
		m.want = append(m.want, fmt.Sprintf("%d: ", call)+fmt.Sprintf(format, args...))
	}
}

func (m *model) fails(call int, code string) {
	m.expect(call, "error %s 0 rows", code)
	m.failed = true
}

func (m *model) sync() {
	m.send(syncMessage)
	m.failed = false
	m.ready++
}

// more adds something to the pipeline. Numbers of rows are different, so that no result can be taken for another.
func (m *model) more() {
	m.rows++
	series := fmt.Sprintf("SELECT generate_series(1, %d)", m.rows)
	padding := "/*" + strings.Repeat("x", m.random.IntN(300)) + "*/"
	switch m.random.IntN(10) {
	case 0:
		m.sync()
	case 1: // a simple query, which is answered unless something has failed
		m.calls++
		m.send(&pgproto3.Query{String: series + "; SELECT" + padding + "; " + series})
		m.expect(m.calls, "SELECT %d  %d rows", m.rows, m.rows)
		m.expect(m.calls, "SELECT 1  1 rows")
		m.expect(m.calls, "SELECT %d  %d rows", m.rows, m.rows)
		if !m.failed {
			m.ready++
		}
	case 2:
		m.calls++
		m.send(&pgproto3.Query{String: series + "; SELECT 1/0; " + series})
		m.expect(m.calls, "SELECT %d  %d rows", m.rows, m.rows)
		m.expect(m.calls, "error 22012 0 rows")
		if !m.failed {
			m.ready++
		}
	case 3: // a Parse that fails
		m.calls++
		m.send(parse("", "SELEKT"+padding))
		m.fails(m.calls, "42601")
	case 4: // an Execute that fails
		m.calls += 2
		m.send(parse("", padding+"SELECT 1/0"), bind("", ""), describe('P', ""), execute("", 0))
		m.fails(m.calls, "22012")
	case 5: // a portal that is suspended
		m.calls += 2
		m.rows += 2
		m.send(parse("", fmt.Sprintf("SELECT generate_series(1, %d)", m.rows)), bind("", ""), execute("", uint32(m.rows-1)), flushMessage, execute("", 0))
		m.expect(m.calls, "portal suspended  %d rows", m.rows-1)
		m.expect(m.calls, "SELECT 1  1 rows")
	case 6: // a Bind that fails
		m.calls += 2
		m.send(parse("", "SELECT $1::int"), bind("", "", "x"+padding), execute("", 0))
		m.fails(m.calls, "22P02")
	case 7: // one that nobody runs
		m.calls += 2
		m.send(parse("", series), bind("", ""), closeOf('P', ""))
	default:
		m.calls += 2
		m.send(parse("", series+padding), bind("", ""), describe('P', ""), execute("", 0))
		m.expect(m.calls, "SELECT %d  %d rows", m.rows, m.rows)
	}
}

// A server that ends the session says so without having been asked.
func TestResultOfAnEndByTheServer(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	p := connect(t, g.target())
	p.send(query("SELECT pg_terminate_backend(pg_backend_pid())"))
	eventually.True(t, "the end is in the trail", func() bool {
		return cmp.Equal(g.trail.answered(), []string{"1: error 57P01 0 rows"})
	})
}

// Who does not want results in the trail gets none.
func TestResultsDiscarded(t *testing.T) {
	t.Parallel()
	g := startGate(t, database(t, 18), gateOptions{change: func(c *proxy.Config) { c.DiscardResults = true }})
	p := connect(t, g.target())
	p.send(query("SELECT 1"))
	p.skipTo('Z')
	if got := g.trail.answered(); len(got) != 0 || len(g.trail.asked()) != 1 {
		t.Errorf("the trail has %q", got)
	}
}
