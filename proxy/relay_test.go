package proxy_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/pgtest"
)

// step is what a client sends, and what it then waits for: so many messages of a type. With none, it sends on at once.
type step struct {
	send  []byte
	until byte
	times int
}

// ask sends messages and waits for one ReadyForQuery.
func ask(messages ...pgproto3.FrontendMessage) step { return step{encode(messages...), 'Z', 1} }

func simple(sql string) step { return ask(&pgproto3.Query{String: sql}) }

// tell sends messages and waits for nothing.
func tell(messages ...pgproto3.FrontendMessage) step { return step{send: encode(messages...)} }

func (s step) then(until byte, times int) step { s.until, s.times = until, times; return s }

func parse(name, sql string) *pgproto3.Parse { return &pgproto3.Parse{Name: name, Query: sql} }

func bind(portal, statement string, values ...string) *pgproto3.Bind {
	b := &pgproto3.Bind{DestinationPortal: portal, PreparedStatement: statement}
	for _, v := range values {
		b.Parameters = append(b.Parameters, []byte(v))
	}
	return b
}

func describe(kind byte, name string) *pgproto3.Describe {
	return &pgproto3.Describe{ObjectType: kind, Name: name}
}

func execute(portal string, rows uint32) *pgproto3.Execute {
	return &pgproto3.Execute{Portal: portal, MaxRows: rows}
}

func closeOf(kind byte, name string) *pgproto3.Close {
	return &pgproto3.Close{ObjectType: kind, Name: name}
}

func copyData(text string) *pgproto3.CopyData { return &pgproto3.CopyData{Data: []byte(text)} }

// call is a FunctionCall with binary arguments.
func call(function uint32, arguments ...[]byte) *pgproto3.FunctionCall {
	return &pgproto3.FunctionCall{Function: function, ArgFormatCodes: []uint16{1}, Arguments: arguments, ResultFormatCode: 1}
}

func int4(n int32) []byte { return binary.BigEndian.AppendUint32(nil, uint32(n)) }

// OIDs in pg_proc of the functions with which libpq does large objects. They never change.
const (
	fnOpen, fnClose, fnRead, fnWrite, fnSeek, fnTell, fnUnlink = 952, 953, 954, 955, 956, 958, 964
)

var (
	syncMessage  = &pgproto3.Sync{}
	flushMessage = &pgproto3.Flush{}
	copyDone     = &pgproto3.CopyDone{}
)

// scripts are sessions of everything that the protocol has. Each leaves the database as it was, since it is run more
// than once and must get the same answers.
var scripts = map[string][]step{
	"simple queries": {
		simple("SELECT id, name FROM customers ORDER BY id"),
		simple("SELECT 1; SELECT 'two'; SELECT NULL, true"),
		simple(""), simple(" ; ;"), simple("-- nothing"),
		simple("SET client_encoding = 'LATIN1'"), simple("SELECT U&'\\00e4'"), simple("RESET client_encoding"),
	},
	"errors": {
		simple("SELEC 1"),
		simple("SELECT 1; SELECT 1/0; SELECT 2"),
		simple("SELECT * FROM nothing_like_this"),
		simple("BEGIN"), simple("SELECT 1/0"), simple("SELECT 1"), simple("COMMIT"),
	},
	"transactions": {
		simple("BEGIN"), simple("DELETE FROM orders"), simple("SAVEPOINT s"), simple("SELECT 1/0"), simple("ROLLBACK TO s"),
		simple("SELECT count(*) FROM orders"), simple("ROLLBACK"), simple("SELECT count(*) FROM orders"),
	},
	"notices and reported settings": {
		simple("DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two' USING DETAIL = 'd', HINT = 'h'; END $$"),
		simple("SET DateStyle = 'German'"), simple("SET TimeZone = 'Asia/Tokyo'"), simple("RESET ALL"),
		simple("ROLLBACK"),
	},
	"extended": {
		ask(parse("", "SELECT $1::int + 1"), bind("", "", "41"), describe('P', ""), execute("", 0), syncMessage),
		ask(parse("s", "SELECT id FROM customers WHERE id < $1 ORDER BY id"), describe('S', "s"), syncMessage),
		ask(bind("p", "s", "5"), execute("p", 0), closeOf('P', "p"), syncMessage),
		ask(bind("p", "s", "5"), bind("p", "s", "5"), syncMessage),                       // the portal exists
		ask(closeOf('S', "s"), closeOf('S', "nothing"), bind("", "s", "5"), syncMessage), // the statement is gone
		ask(parse("", ""), bind("", ""), describe('P', ""), execute("", 0), syncMessage),
		ask(parse("", "SELECT 1; SELECT 2"), syncMessage),
		ask(syncMessage),
	},
	"extended, with Flush": {
		tell(parse("f", "SELECT $1::text"), flushMessage).then('1', 1),
		tell(describe('S', "f"), flushMessage).then('T', 1),
		tell(bind("", "f", "x"), execute("", 0), flushMessage).then('C', 1),
		ask(syncMessage),
	},
	"portals with row limits": {
		simple("BEGIN"),
		tell(parse("", "SELECT generate_series(1, 25)"), bind("c", ""), execute("c", 10), flushMessage).then('s', 1),
		tell(execute("c", 10), flushMessage).then('s', 1),
		tell(execute("c", 10), flushMessage).then('C', 1),
		ask(execute("c", 10), syncMessage),
		simple("COMMIT"),
	},
	"pipelines": {
		tell(parse("", "SELECT 1"), bind("", ""), execute("", 0), syncMessage,
			parse("", "SELECT 1/0"), bind("", ""), execute("", 0), parse("", "SELECT 'skipped'"), bind("", ""), execute("", 0), syncMessage,
			parse("", "SELECT 2"), bind("", ""), execute("", 0), syncMessage,
			&pgproto3.Query{String: "SELECT 3"}, &pgproto3.Query{String: "SELECT 4"}).then('Z', 5),
		tell(parse("", "SELECT 1/0"), bind("", ""), execute("", 0), &pgproto3.Query{String: "SELECT 'skipped too'"}, syncMessage).then('Z', 1),
	},
	"COPY out": {
		simple("COPY customers TO STDOUT"),
		simple("COPY (SELECT id FROM customers) TO STDOUT (FORMAT binary)"),
		simple("COPY (SELECT 1/(50-i) FROM generate_series(1, 100) i) TO STDOUT"), // an error in the middle, whatever the plan
		ask(parse("", "COPY customers TO STDOUT"), bind("", ""), execute("", 0), syncMessage),
		simple("COPY customers TO STDOUT; SELECT 1"),
	},
	"COPY in": {
		simple("BEGIN"),
		tell(&pgproto3.Query{String: "COPY customers FROM STDIN"}).then('G', 1),
		ask(copyData("1001\tone\n10"), copyData("02\ttwo\n"), copyData(""), copyDone),
		simple("SELECT count(*), max(name) FROM customers WHERE id > 1000"),
		simple("ROLLBACK"),
		tell(&pgproto3.Query{String: "COPY customers FROM STDIN"}).then('G', 1),
		ask(copyData("1001\tone\n"), &pgproto3.CopyFail{Message: "changed my mind"}),
		tell(&pgproto3.Query{String: "COPY customers FROM STDIN"}).then('G', 1),
		ask(copyData("not a number\tone\n"), copyDone),
		tell(&pgproto3.Query{String: "COPY customers FROM STDIN"}).then('G', 1),
		ask(copyData("1\tthere already\n"), copyDone, syncMessage).then('Z', 2),
		// Sync and Flush are ignored inside.
		tell(parse("", "COPY customers FROM STDIN"), bind("", ""), execute("", 0), syncMessage).then('G', 1),
		tell(&pgproto3.CopyFail{Message: "no"}, syncMessage).then('Z', 1),
		simple("SELECT count(*) FROM customers"),
	},
	"large objects": {
		simple("BEGIN"), simple("SELECT lo_create(770001)"),
		ask(call(fnOpen, int4(770001), int4(0x60000))),
		ask(call(fnWrite, int4(0), bytes.Repeat([]byte("large object "), 20_000))),
		ask(call(fnTell, int4(0))), ask(call(fnSeek, int4(0), int4(13), int4(0))), ask(call(fnRead, int4(0), int4(100_000))),
		ask(call(fnClose, int4(0))), ask(call(fnUnlink, int4(770001))), ask(call(fnUnlink, int4(770001))),
		simple("ROLLBACK"),
		ask(call(1 << 30)), // no such function
		simple("SELECT 1"),
	},
	"notifications": {
		simple("LISTEN ch"), simple("NOTIFY ch, 'hello'"), simple("BEGIN"), simple("NOTIFY ch"), simple("COMMIT"),
		simple("UNLISTEN *"), simple("NOTIFY ch"),
	},
	"values of all sizes": {
		simple("SELECT repeat('x', n) FROM (VALUES (0), (1), (32767), (32768), (32769), (65536), (1000000)) v(n)"),
		ask(parse("", "SELECT length($1)"), bind("", "", strings.Repeat("y", 3_000_000)), execute("", 0), syncMessage),
	},
	"an end by the server": {
		simple("SELECT 1"),
		step{send: query("SELECT pg_terminate_backend(pg_backend_pid())")}.then('E', 1),
	},
	"a message that the server does not know": {
		step{send: typed('!', 4)}.then('E', 1),
	},
	"a password message after log-in": {
		step{send: sasl("again")}.then('E', 1),
	},
	"Terminate": {
		simple("SELECT 1"), step{send: terminate},
	},
}

// PostgreSQL is the oracle: the same session straight to the server and through the gate gets the same bytes, however
// the client sends and reads.
func TestRelayIsTransparent(t *testing.T) {
	t.Parallel()
	someMajors(t, func(t *testing.T, db *pgtest.Database) {
		g := startGate(t, db, gateOptions{})
		for name, script := range scripts {
			t.Run(name, func(t *testing.T) {
				// Not parallel: the script changes what another run of it would see.
				want := g.play(t, g.direct(), script, anyhow)
				for how, client := range clients {
					got := g.play(t, g.target(), script, client)
					if diff := cmp.Diff(want, got); diff != "" {
						t.Errorf("%s (-server +gate):\n%s", how, diff)
					}
				}
			})
		}
	})
}

// habits are how a client reads and writes.
type habits struct {
	pieces bool // writes in pieces of any size
	slow   bool // reads little at a time
}

var (
	anyhow  = habits{}
	clients = map[string]habits{"whole": anyhow, "in pieces": {pieces: true}, "slow": {slow: true}}
)

// play runs a script and returns what the server sent after the log-in, a line a message, and how it ended.
func (g *gate) play(t *testing.T, to target, script []step, h habits) []string {
	t.Helper()
	p := connect(t, to)
	if h.slow {
		p.conn = &slowConn{p.conn}
	}
	if h.pieces {
		p.conn = &piecesConn{p.conn, rand.New(rand.NewPCG(1, 2))}
	}
	p.in = nil
	var transcript []string
	for _, step := range script {
		p.send(step.send)
		for seen := 0; seen < step.times; {
			m, err := p.read()
			if err != nil {
				t.Fatalf("%s: after %q: %v", to, step.send[:min(100, len(step.send))], err)
			}
			if m.kind == step.until {
				seen++
			}
			transcript = append(transcript, m.transcript())
		}
	}
	if !bytes.Equal(script[len(script)-1].send, terminate) && script[len(script)-1].until == 'Z' {
		p.send(terminate)
	}
	for {
		m, err := p.read()
		if err != nil {
			// A server that gives up resets the connection if there was more to read.
			if !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
				t.Errorf("%s: at the end: %v", to, err)
			}
			return transcript
		}
		transcript = append(transcript, m.transcript())
	}
}

// transcript is the message as text, long ones by their hash, without what differs from session to session.
func (m message) transcript() string {
	if m.kind == 'A' { // the process ID of who notified
		m.body = append([]byte{0, 0, 0, 0}, m.body[4:]...)
	}
	if len(m.body) > 1000 {
		return fmt.Sprintf("%c %d bytes %x", m.kind, len(m.body), sha256.Sum256(m.body))
	}
	return fmt.Sprintf("%c %q", m.kind, m.body)
}

// slowConn reads a few bytes at a time.
type slowConn struct{ net.Conn }

func (c *slowConn) Read(b []byte) (int, error) { return c.Conn.Read(b[:min(len(b), 1009)]) }

// piecesConn writes in pieces: mostly a few bytes, sometimes many.
type piecesConn struct {
	net.Conn
	rand *rand.Rand
}

func (c *piecesConn) Write(b []byte) (int, error) {
	written := 0
	for written < len(b) {
		n := 1 + c.rand.IntN(7)
		if len(b) > 1000 {
			n = 1 + c.rand.IntN(50_000)
		}
		n, err := c.Conn.Write(b[written:min(written+n, len(b))])
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// 100 MB pass unchanged.
func TestHugeResult(t *testing.T) {
	t.Parallel()
	g := startGate(t, database(t, 18), gateOptions{})
	sum := func(to target) (n int64, hash string) {
		p := connect(t, to)
		p.send(query("SELECT repeat(md5(n::text), 31250) FROM generate_series(1, 100) n"), terminate)
		h := sha256.New()
		n, err := io.Copy(h, p.in) // with what is buffered
		if err != nil {
			t.Fatal(err)
		}
		return n, fmt.Sprintf("%x", h.Sum(nil))
	}
	wantSize, wantHash := sum(g.direct())
	size, hash := sum(g.target())
	if size != wantSize || hash != wantHash || size < 100_000_000 {
		t.Errorf("got %d bytes, want %d with the same hash", size, wantSize)
	}
	if got := g.metric("hourgate_relayed_bytes_total", "from", "upstream"); got != float64(size) {
		t.Errorf("%v bytes counted, want %d", got, size)
	}
}

// A client that sends for long without reading stalls both directions. Once it reads, everything comes.
func TestBothDirectionsStall(t *testing.T) {
	t.Parallel()
	someMajors(t, func(t *testing.T, db *pgtest.Database) {
		g := startGate(t, db, gateOptions{})
		p := connect(t, g.target())
		statement := query("SELECT repeat('x', 60000) /* " + strings.Repeat("y", 60_000) + " */")
		const statements = 500 // 30 MB both ways, more than all sockets take in
		var sent atomic.Int64
		go func() {
			for range statements {
				p.send(statement)
				sent.Add(1)
			}
		}()
		last, since := int64(-1), time.Now()
		eventually.True(t, "the client's writes stall", func() bool {
			if now := sent.Load(); now != last {
				last, since = now, time.Now()
			}
			return time.Since(since) > 200*time.Millisecond
		})
		if sent.Load() == statements {
			t.Error("nothing stalled: the test sends too little")
		}
		_ = p.conn.SetDeadline(time.Now().Add(2 * patience))
		for range statements {
			p.expect('T')
			p.expect('D')
			p.expect('C')
			p.expect('Z')
		}
	})
}

// psql's COPY and its queries through the gate, as people use it.
func TestPsql(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	out, err := g.psql(t, "COPY customers TO STDOUT").CombinedOutput()
	if err != nil || bytes.Count(out, []byte("\n")) != 100 {
		t.Errorf("got %v, %s", err, out)
	}
}
