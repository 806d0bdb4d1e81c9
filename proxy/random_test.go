package proxy_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgproto3"
)

// randomQueries are statements whose answers are the same in each session, alone and in any order.
var randomQueries = []string{
	"SELECT 1", "SELECT NULL, '', 'x'", "SELECT id, name FROM customers ORDER BY id LIMIT 3", "SELECT 1; SELECT 2", "SELECT 1; SELECT 1/0; SELECT 3",
	"", ";", "-- x", "SELEC", "SELECT * FROM nowhere", "SELECT repeat('x', 9000)", "SELECT * FROM generate_series(1, 40)", "SELECT FROM customers LIMIT 2",
	"BEGIN", "BEGIN READ ONLY", "COMMIT", "ROLLBACK", "SAVEPOINT s", "ROLLBACK TO s", "RELEASE s", "COMMIT AND CHAIN", "BEGIN; SELECT 1", "SELECT 1; COMMIT; SELECT 2",
	"SET application_name = 'r'", "SET DateStyle = 'German'", "SET client_encoding = 'LATIN1'", "SET client_encoding = 'UTF8'", "SET client_encoding = 'nonsense'", "RESET ALL",
	"SELECT 'gr\u00fc\u00dfe \U0001f600'", "SELECT '\xff\xfe'", "SELECT U&'\\00e4'", "SHOW DateStyle", "SET LOCAL work_mem = '1MB'", "SET TimeZone = 'Asia/Tokyo'",
	"DECLARE c CURSOR FOR SELECT generate_series(1, 9)", "FETCH 2 FROM c", "MOVE 1 IN c", "CLOSE c", "CLOSE ALL", "PREPARE a AS SELECT $1::int", "EXECUTE a(1)", "DEALLOCATE ALL", "DISCARD ALL",
	"DO $$ BEGIN RAISE NOTICE 'n'; RAISE WARNING 'w' USING HINT = 'h'; END $$", "DO $$ BEGIN FOR i IN 1..300 LOOP RAISE NOTICE 'flood %', i; END LOOP; END $$",
	"LISTEN r", "NOTIFY r, 'x'", "UNLISTEN *", "COPY customers TO STDOUT", "COPY (SELECT 1/(3-i) FROM generate_series(1, 9) i) TO STDOUT", "COPY (SELECT 1) TO STDOUT (FORMAT binary)",
	"COPY customers FROM STDIN", "COPY customers FROM STDIN (FORMAT csv)", "COPY customers FROM STDIN (FORMAT binary)", "COPY customers FROM STDIN; SELECT 5", "SELECT $1", "SELECT $1::int + 1",
	"UPDATE customers SET name = name WHERE id = 1 RETURNING id", "DELETE FROM customers WHERE false", "VALUES (1), (2)", "EXPLAIN (COSTS OFF) SELECT 1", "SELECT 1 AS \"\", 2 AS \"a\"\"b\"",
}

// randomMessages is a session that nobody would write, and some driver will: anything in any order, without waiting for answers.
func randomMessages(r *rand.Rand) []byte {
	pick := func(from ...string) string { return from[r.IntN(len(from))] }
	query := func() string { return randomQueries[r.IntN(len(randomQueries))] }
	var all []byte
	add := func(messages ...pgproto3.FrontendMessage) { all = append(all, encode(messages...)...) }
	copying := func() {
		for range r.IntN(4) {
			add(copyData(pick("9001\tone\n", "9001,one\n", "90", "\\.\n", "", "x\ty\n", "\\N\t\\N\n", "PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff", strings.Repeat("9002\ttwo\n", 3000))))
		}
		switch r.IntN(4) {
		case 0:
			add(&pgproto3.CopyFail{Message: pick("", "no", "\u00fc")})
		case 1:
			add(syncMessage, flushMessage, copyDone)
		default:
			add(copyDone)
		}
	}
	// All is in a transaction that is rolled back, unless the session ends it: most do.
	add(&pgproto3.Query{String: "BEGIN"})
	for range 4 + r.IntN(24) {
		switch r.IntN(14) {
		case 0, 1, 2, 3:
			sql := query()
			add(&pgproto3.Query{String: sql})
			if strings.Contains(sql, "FROM STDIN") {
				copying()
			}
		case 4, 5:
			p := parse(pick("", "", "a", "b"), query())
			for range r.IntN(3) {
				p.ParameterOIDs = append(p.ParameterOIDs, []uint32{0, 23, 25, 17, 999999}[r.IntN(5)])
			}
			add(p)
		case 6, 7:
			b := bind(pick("", "", "p", "q"), pick("", "", "a", "b"))
			for range r.IntN(3) {
				b.Parameters = append(b.Parameters, [][]byte{nil, {}, []byte("1"), int4(7), []byte("\xff"), []byte("a\x00b")}[r.IntN(6)])
				b.ParameterFormatCodes = append(b.ParameterFormatCodes, []int16{0, 0, 1, 2}[r.IntN(4)])
			}
			for range r.IntN(2) {
				b.ResultFormatCodes = append(b.ResultFormatCodes, []int16{0, 1, 7}[r.IntN(3)])
			}
			add(b)
		case 8:
			add(describe([]byte{'S', 'P', 'S', 'P', 'X'}[r.IntN(5)], pick("", "a", "p")))
		case 9, 10:
			add(execute(pick("", "", "p", "q"), uint32(r.IntN(3))))
		case 11:
			add(closeOf([]byte{'S', 'P'}[r.IntN(2)], pick("", "a", "p")))
		case 12:
			add([]pgproto3.FrontendMessage{flushMessage, syncMessage, syncMessage}[r.IntN(3)])
		case 13:
			switch r.IntN(3) {
			case 0:
				add(call([]uint32{fnOpen, 1 << 30, 1299}[r.IntN(3)], int4(1)))
			case 1:
				copying() // where none is going on
			default:
				add(syncMessage)
			}
		}
	}
	add(syncMessage, syncMessage, &pgproto3.Query{String: "ROLLBACK"}, &pgproto3.Query{String: "SELECT 'here still'"}, &pgproto3.Terminate{})
	return all
}

// heard is what comes back from a session until the server closes it; reset says that the end may be missing, since the server
// had not read everything.
func (p *peer) heard(t *testing.T, session []byte) (transcript []string, reset bool) {
	t.Helper()
	sent := make(chan struct{})
	go func() { defer close(sent); _, _ = p.conn.Write(session) }()
	defer func() { <-sent }()
	p.in = nil
	for {
		m, err := p.read()
		if err != nil {
			if !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") && !strings.Contains(err.Error(), "broken pipe") {
				t.Errorf("%s: at the end: %v", p.target, err)
			}
			return transcript, !errors.Is(err, io.EOF)
		}
		transcript = append(transcript, m.transcript())
		if m.kind == 'E' && strings.Contains(string(m.body), "VFATAL") {
			return transcript, false
		}
	}
}

// Sessions of anything in any order get the same bytes straight from the server and through the gate. HOURGATE_SESSIONS=5000 for more
// of them, HOURGATE_SEED for others.
func TestRandomSessions(t *testing.T) {
	t.Parallel()
	number := func(name string, otherwise int) int {
		if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
			return n
		}
		return otherwise
	}
	sessions, first := number("HOURGATE_SESSIONS", 60), number("HOURGATE_SEED", 1)
	// The builds of 17 and 18 that packages have crash on some of them, direct too.
	for _, major := range []int{13, 15} {
		t.Run(fmt.Sprint("PostgreSQL ", major), func(t *testing.T) {
			t.Parallel()
			db := database(t, major)
			g := startGate(t, db, gateOptions{})
			super := db.Superuser(t)
			for seed := first; seed < first+sessions; seed++ {
				session := randomMessages(rand.New(rand.NewPCG(uint64(seed), 7)))
				anew := func() { // some sessions commit
					if _, err := super.Exec(t.Context(), "DELETE FROM customers WHERE id > 9000"); err != nil {
						t.Fatal(err)
					}
				}
				anew()
				want, cut := connect(t, g.direct()).heard(t, session)
				anew()
				p := connect(t, g.target())
				if seed%3 == 0 {
					p.conn = &piecesConn{p.conn, rand.New(rand.NewPCG(1, 2))}
				}
				got, cutToo := p.heard(t, session)
				if cut || cutToo { // as far as both know
					n := min(len(want), len(got))
					want, got = want[:n], got[:n]
				}
				if !slices.Equal(want, got) {
					t.Errorf("seed %d (-server +gate):\n%s\nof %q", seed, cmp.Diff(want, got), session)
				}
				if t.Failed() {
					t.FailNow()
				}
			}
		})
	}
}
