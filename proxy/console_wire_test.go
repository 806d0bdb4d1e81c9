package proxy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgproto3"
)

// said is what a server answers as far as two servers can agree: kinds of messages, command tags, SQLSTATEs, and the status of the
// transaction.
func (p *peer) said(until int) []string {
	p.t.Helper()
	var all []string
	for ready := 0; ready < until; {
		m, err := p.read()
		if err != nil {
			return append(all, "end")
		}
		switch m.kind {
		case 'N', 'S': // PostgreSQL has more to say
			continue
		case 'Z':
			ready++
			all = append(all, "Z "+string(m.body))
		case 'C':
			all = append(all, "C "+strings.TrimRight(string(m.body), "\x00"))
		case 'E':
			e := m.error(p.t)
			all = append(all, e.Severity+" "+e.Code)
		default:
			all = append(all, string(m.kind))
		}
	}
	return all
}

// What drivers send by themselves is answered in the console as PostgreSQL answers it: transactions, savepoints, what is prepared and
// forgotten, and calls of functions.
func TestConsoleAsTheServer(t *testing.T) {
	t.Parallel()
	prepare := func(name, sql string) []byte {
		return encode(&pgproto3.Parse{Name: name, Query: sql}, &pgproto3.Sync{})
	}
	run := func(name string) []byte {
		return encode(&pgproto3.Bind{PreparedStatement: name}, &pgproto3.Execute{}, &pgproto3.Sync{})
	}
	bind := func(portal string) []byte { return encode(&pgproto3.Bind{DestinationPortal: portal}) }
	call := encode(&pgproto3.FunctionCall{Function: 1 << 30})
	g, _ := startConsole(t)
	for name, script := range map[string][][]byte{
		"savepoints":         {query("BEGIN"), query("SAVEPOINT a"), query("nonsense"), query("SHOW server_encoding"), query("ROLLBACK TO a"), query("SHOW server_encoding"), query("RELEASE a"), query("COMMIT")},
		"savepoints spelled": {query("BEGIN"), query("SAVEPOINT a"), query("nonsense"), query("rollback work to savepoint a"), query("RELEASE SAVEPOINT a"), query("END")},
		"outside":            {query("SAVEPOINT a"), query("ROLLBACK TO a"), query("RELEASE a"), query("COMMIT"), query("ROLLBACK")},
		"failed, committed":  {query("BEGIN"), query("nonsense"), query("SAVEPOINT a"), query("COMMIT"), query("COMMIT")},
		"comments":           {query("/* app: x */ BEGIN"), query("-- now\nROLLBACK /* y */"), query("/*a*/ SHOW /*b*/ server_encoding --c"), query("END /* traceparent */")},
		"deallocate":         {prepare("a", "SHOW server_encoding"), query("DEALLOCATE a"), run("a"), prepare("a", "SHOW server_encoding"), run("a")},
		"deallocate names":   {prepare("A", "SHOW server_encoding"), query("DEALLOCATE A"), query(`DEALLOCATE PREPARE "A"`), query(`DEALLOCATE "A"`), query("DEALLOCATE ALL")},
		"discard":            {prepare("a", "SHOW server_encoding"), query("DISCARD ALL"), prepare("a", "SHOW server_encoding"), query("DISCARD TEMP"), run("a")},
		"twice":              {prepare("a", "SHOW server_encoding"), prepare("a", "SHOW server_encoding"), prepare("", "SHOW server_encoding"), prepare("", "SHOW server_encoding"), run("")},
		"portals":            {encode(&pgproto3.Parse{Query: "SHOW server_encoding"}), bind("x"), bind("x"), encode(&pgproto3.Sync{})},
		"portal anew":        {encode(&pgproto3.Parse{Query: "SHOW server_encoding"}), bind("x"), encode(&pgproto3.Close{ObjectType: 'P', Name: "x"}), bind("x"), bind(""), bind(""), encode(&pgproto3.Sync{})},
		"a call":             {call, query("SHOW server_encoding")},
		"a call, pipelined":  {prepare("", "nonsense"), call},
		"a call, behind":     {encode(&pgproto3.Parse{Query: "nonsense"}), call, encode(&pgproto3.Sync{})},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var heard [2][]string
			for i, to := range []target{g.direct(), g.target()} {
				if i == 1 {
					to.database = "hourgate"
				}
				p := connect(t, to)
				p.send(script...)
				p.send(query("SHOW integer_datetimes"), query("DISCARD PLANS")) // the session goes on
				for len(heard[i]) == 0 || heard[i][len(heard[i])-2] != "C DISCARD PLANS" {
					heard[i] = append(heard[i], p.said(1)...)
				}
			}
			if diff := cmp.Diff(heard[0], heard[1]); diff != "" {
				t.Errorf("-PostgreSQL +console:\n%s", diff)
			}
		})
	}
}

// A message that is too long, and too many statements and portals, are refused and not kept, and the session goes on.
func TestConsoleBounds(t *testing.T) {
	t.Parallel()
	g, _ := startConsole(t)
	to := g.target()
	to.database = "hourgate"
	p := connect(t, to)
	long := strings.Repeat("x", 1<<20)
	p.send(query("REQUEST " + long))
	if m := p.expect('E').error(t); m.Code != pgerrcode.ProgramLimitExceeded || m.Message != "the statement is too long: 1048589 bytes, and at most 65536 are taken" {
		t.Errorf("a long query: %s %s", m.Code, m.Message)
	}
	p.expect('Z')
	p.send(encode(&pgproto3.Parse{Query: long}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{}))
	if got := p.said(1); fmt.Sprint(got) != "[ERROR 54000 Z I]" {
		t.Errorf("a long Parse: %s", got)
	}

	// 60 kB each: what is kept stays below 1 MiB.
	fat := "whoami " + strings.Repeat("x", 60_000)
	for name, message := range map[string]func(i int) []byte{
		"statements": func(i int) []byte { return encode(&pgproto3.Parse{Name: fmt.Sprint("s", i), Query: fat}) },
		"portals": func(i int) []byte {
			return encode(&pgproto3.Parse{Query: fat}, &pgproto3.Bind{DestinationPortal: fmt.Sprint("p", i)})
		},
	} {
		var err string
		taken := 0
		for ; err == "" && taken < 100; taken++ {
			p.send(message(taken), encode(&pgproto3.Flush{}))
			for answered := false; !answered; {
				m, _ := p.read()
				answered = m.kind == '1' && name == "statements" || m.kind == '2' || m.kind == 'E'
				if m.kind == 'E' {
					err = m.error(t).Code
				}
			}
		}
		if err != pgerrcode.InsufficientResources || taken < 8 || taken > 20 {
			t.Errorf("%s: %d were taken, and then %s", name, taken, err)
		}
		p.send(encode(&pgproto3.Sync{}), query("DEALLOCATE ALL"))
		p.said(2)
	}
	p.send(encode(&pgproto3.Parse{Query: fat}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{}))
	if got := fmt.Sprint(p.said(1)); got != "[1 2 D C SELECT 1 Z I]" {
		t.Errorf("with room again: %s", got)
	}
}

// A driver sends a Sync behind what it asks for. Its leaving is noticed all the same.
func TestConsoleClientLeavesBehindASync(t *testing.T) {
	t.Parallel()
	g, closed := startConsole(t)
	to := g.target()
	to.database = "hourgate"
	p := connect(t, to)
	p.send(encode(&pgproto3.Parse{Query: "wait"}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{}))
	for m, _ := p.read(); m.kind != 'N'; m, _ = p.read() { // it waits now
	}
	_ = p.conn.Close()
	<-closed
}
