package proxy_test

import (
	"encoding/binary"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgproto3"
)

// TestTranscripts holds what goes over a client's connection, a line a message, to the files in testdata/wire. They show a
// reader what clients see. A change of them is a change for everybody's client; -update writes them anew.
func TestTranscripts(t *testing.T) {
	t.Parallel()
	db := database(t, 18)
	update := flag.Lookup("update").Value.String() == "true"
	for name, play := range map[string]func(*recorded){
		"log_in":                 func(r *recorded) { r.login(v32); r.simple("SELECT 1 AS one"); r.send(terminate) },
		"newer_protocol":         func(r *recorded) { r.login(v39999, "_pq_.unheard_of", "yes"); r.send(terminate) },
		"wrong_password":         func(r *recorded) { r.password = "guess"; r.encrypt(); r.startup(v30); r.toTheEnd() },
		"unknown_user":           func(r *recorded) { r.user, r.password = "mallory", "guess"; r.encrypt(); r.startup(v30); r.toTheEnd() },
		"no_grant":               func(r *recorded) { r.user, r.password = bob, bobPassword; r.encrypt(); r.startup(v30); r.toTheEnd() },
		"plaintext":              func(r *recorded) { r.startup(v30); r.toTheEnd() },
		"gss_then_tls":           func(r *recorded) { r.request("GSSENCRequest", gssRequest); r.login(v30); r.send(terminate) },
		"unsupported_setting":    func(r *recorded) { r.encrypt(); r.startup(v30, "post_auth_delay", "10"); r.toTheEnd() },
		"no_protocol":            func(r *recorded) { r.send([]byte("GET / HTTP/1.1\r\n\r\n")); r.toTheEnd() },
		"extended_query":         playExtended,
		"error_in_a_transaction": playTransaction,
		"copy":                   playCopy,
		"cancel":                 playCancel,
		"grant_withdrawn_idle":   func(r *recorded) { r.login(v32); r.gate.withdraw(); r.toTheEnd() },
		"grant_withdrawn_in_a_statement": func(r *recorded) {
			r.login(v32)
			r.send(query("SELECT pg_sleep(60)"))
			r.gate.awaitSleep()
			r.gate.withdraw()
			r.toTheEnd()
		},
		"gate_shuts_down": func(r *recorded) {
			r.login(v32)
			var stopping sync.WaitGroup
			stopping.Go(func() { _ = r.gate.server.Shutdown(r.t.Context()) })
			r.toTheEnd()
			stopping.Wait()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := startGate(t, db, gateOptions{})
			r := &recorded{peer: dial(t, g.target(), plain), gate: g, user: alice, password: alicePassword, name: "client"}
			r.log = &transcript{}
			r.conn = &wire{Conn: r.conn, r: r}
			play(r)
			got := strings.ReplaceAll(r.log.String(), db.Owner, "hg_alice_inc_1_xxxxxxxxxxxx")
			file := filepath.Join("testdata", "wire", name+".txt")
			if update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", file, diff)
			}
		})
	}
}

func playExtended(r *recorded) {
	r.login(v32)
	r.send(encode(parse("s", "SELECT $1::int + 1 AS next"), bind("", "s", "41"), describe('P', ""), execute("", 0), closeOf('S', "s"), &pgproto3.Sync{}))
	r.skipTo('Z')
	r.send(encode(parse("", "SELECT 1/0"), bind("", ""), execute("", 0), parse("", "SELECT 'skipped'"), &pgproto3.Sync{}))
	r.skipTo('Z')
	r.send(terminate)
}

func playTransaction(r *recorded) {
	r.login(v32)
	for _, sql := range []string{"BEGIN", "SELECT * FROM nothing_of_the_kind", "SELECT 1", "ROLLBACK"} {
		r.simple(sql)
	}
	r.send(terminate)
}

func playCopy(r *recorded) {
	r.login(v32)
	r.simple("CREATE TEMP TABLE t (a int, b text)")
	r.send(query("COPY t FROM STDIN"))
	r.skipTo('G')
	r.send(encode(copyData("1\tone\n"), copyData("2\ttwo\n"), &pgproto3.CopyDone{}))
	r.skipTo('Z')
	r.simple("COPY t TO STDOUT")
	r.send(terminate)
}

// playCancel has a second connection, which cancels the statement of the first.
func playCancel(r *recorded) {
	r.login(v32)
	r.send(query("SELECT pg_sleep(60)"))
	r.gate.awaitSleep()
	second := &recorded{peer: dial(r.t, r.gate.target(), plain), gate: r.gate, log: r.log, name: "second"}
	second.conn = &wire{Conn: second.conn, r: second}
	second.encrypt()
	second.send(packet(vCancel, r.key...))
	second.toTheEnd()
	r.skipTo('Z')
	r.send(terminate)
}

// recorded is a client whose messages are written down.
type recorded struct {
	*peer
	gate           *gate
	log            *transcript
	user, password string
	name           string // of the connection, in the transcript
	key            []byte // the body of BackendKeyData
}

// request sends what is answered by one byte.
func (r *recorded) request(name string, packet []byte) {
	r.log.add("%s > %s", r.name, name)
	var answer byte
	r.conn.(*wire).silent(func() { r.send(packet); answer = r.byte() })
	r.log.add("%s < %q", r.name, answer)
}

func (r *recorded) encrypt() {
	r.request("SSLRequest", sslRequest)
	r.conn = r.conn.(*wire).Conn
	if err := r.handshake(); err != nil {
		r.t.Fatal(err)
	}
	r.log.add("%s = TLS", r.name)
	r.conn = &wire{Conn: r.conn, r: r}
}

func (r *recorded) startup(version uint32, pairs ...string) {
	r.send(startup(version, append([]string{"user", r.user, "database", "orders"}, pairs...)...))
}

// login encrypts, and goes on until the server is ready.
func (r *recorded) login(version uint32, pairs ...string) {
	r.encrypt()
	r.startup(version, pairs...)
	r.target.password = r.password
	messages, err := r.authenticate()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, m := range messages {
		if m.kind == 'K' {
			r.key = m.body
		}
	}
}

func (r *recorded) simple(sql string) { r.send(query(sql)); r.skipTo('Z') }

// toTheEnd answers what is asked until the gate closes.
func (r *recorded) toTheEnd() {
	r.target.password = r.password
	if _, err := r.authenticate(); err == nil || isTimeout(err) {
		r.t.Errorf("the connection goes on (%v)", err)
	}
	r.log.add("%s < end", r.name)
}

// transcript is the lines of one or more connections.
type transcript struct {
	mu    sync.Mutex
	lines []string
}

func (t *transcript) add(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	line := fmt.Sprintf(format, args...)
	if n := len(t.lines); n > 0 && t.lines[n-1] == line && strings.HasSuffix(line, "…") {
		return // how many there are differs by the server's build
	}
	t.lines = append(t.lines, line)
}

func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.lines, "\n") + "\n"
}

// wire cuts what passes into messages, and writes them down.
type wire struct {
	net.Conn
	r       *recorded
	quiet   bool
	opened  bool // the first packet, which has no type byte, has been sent
	in, out []byte
}

func (w *wire) silent(f func()) {
	w.quiet = true
	f()
	w.quiet = false
}

func (w *wire) Write(b []byte) (int, error) {
	n, err := w.Conn.Write(b)
	if w.quiet {
		return n, err
	}
	w.out = append(w.out, b[:n]...)
	if !w.opened {
		if len(w.out) < 8 || int(binary.BigEndian.Uint32(w.out)) > len(w.out) {
			w.r.log.add("%s > %q", w.r.name, w.out)
			return n, err
		}
		w.opened = true
		length := binary.BigEndian.Uint32(w.out)
		w.r.log.add("%s > %s", w.r.name, firstPacket(w.out[4:length]))
		w.out = w.out[length:]
	}
	w.out = messages(w.out, func(m message) { w.r.log.add("%s > %s", w.r.name, sent(m)) })
	return n, err
}

func (w *wire) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	if !w.quiet {
		w.in = messages(append(w.in, b[:n]...), func(m message) { w.r.log.add("%s < %s", w.r.name, received(m)) })
	}
	return n, err
}

// messages hands each whole message over, and returns the rest.
func messages(b []byte, each func(message)) []byte {
	for len(b) >= 5 {
		length := int(binary.BigEndian.Uint32(b[1:]))
		if len(b) < 1+length {
			break
		}
		each(message{b[0], b[5 : 1+length]})
		b = b[1+length:]
	}
	return b
}

func firstPacket(b []byte) string {
	if binary.BigEndian.Uint32(b) == vCancel {
		return "CancelRequest"
	}
	version := binary.BigEndian.Uint32(b)
	return fmt.Sprintf("StartupMessage %d.%d %q", version>>16, version&0xffff, strings.Split(strings.TrimRight(string(b[4:]), "\x00"), "\x00"))
}

// sent is a line for a client's message. What is random is left out.
func sent(m message) string {
	name := map[byte]string{
		'B': "Bind", 'C': "Close", 'D': "Describe", 'E': "Execute", 'F': "FunctionCall", 'H': "Flush", 'P': "Parse", 'Q': "Query",
		'S': "Sync", 'X': "Terminate", 'c': "CopyDone", 'd': "CopyData", 'f': "CopyFail",
	}[m.kind]
	if m.kind == 'p' {
		if mechanism, _, ok := strings.Cut(string(m.body), "\x00"); ok {
			return "SASLInitialResponse " + mechanism
		}
		return "SASLResponse"
	}
	return line(name, m)
}

// received is a line for a server's message. What is random, or differs by the server's build, is left out.
func received(m message) string {
	name := map[byte]string{
		'1': "ParseComplete", '2': "BindComplete", '3': "CloseComplete", 'C': "CommandComplete", 'D': "DataRow", 'G': "CopyInResponse",
		'H': "CopyOutResponse", 'I': "EmptyQueryResponse", 'Z': "ReadyForQuery", 'c': "CopyDone", 'd': "CopyData", 'n': "NoData",
		's': "PortalSuspended", 't': "ParameterDescription",
	}[m.kind]
	switch m.kind {
	case 'E', 'N':
		var e pgproto3.ErrorResponse
		_ = e.Decode(m.body)
		return noticeLine(map[byte]string{'E': "ErrorResponse", 'N': "NoticeResponse"}[m.kind], e)
	case 'K':
		return fmt.Sprintf("BackendKeyData with a key of %d bytes", len(m.body)-4)
	case 'R':
		return authenticationLine(m)
	case 'S':
		return "ParameterStatus …"
	case 'T':
		var d pgproto3.RowDescription
		_ = d.Decode(m.body)
		var columns []string
		for _, f := range d.Fields {
			columns = append(columns, fmt.Sprintf("%s (type %d)", f.Name, f.DataTypeOID))
		}
		return "RowDescription " + strings.Join(columns, ", ")
	case 'v':
		return "NegotiateProtocolVersion " + m.String()
	}
	return line(name, m)
}

func authenticationLine(m message) string {
	switch binary.BigEndian.Uint32(m.body) {
	case 0:
		return "AuthenticationOk"
	case 10:
		return "AuthenticationSASL " + strings.Join(strings.Split(strings.TrimRight(string(m.body[4:]), "\x00"), "\x00"), " ")
	case 11:
		return "AuthenticationSASLContinue"
	case 12:
		return "AuthenticationSASLFinal"
	}
	return fmt.Sprintf("Authentication %q", m.body)
}

func noticeLine(name string, e pgproto3.ErrorResponse) string {
	text := fmt.Sprintf("%s %s %s: %s", name, e.Severity, e.Code, e.Message)
	if e.Detail != "" {
		text += " DETAIL: " + e.Detail
	}
	if e.Hint != "" {
		text += " HINT: " + e.Hint
	}
	return text
}

func line(name string, m message) string {
	switch {
	case name == "":
		return m.String()
	case len(m.body) == 0:
		return name
	}
	return fmt.Sprintf("%s %q", name, m.body)
}
