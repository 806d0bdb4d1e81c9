package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/proxy"
)

// The rules that the front door follows are tests of these names, here and in the packages that they are about:
//
//	 1  one state machine, byte by byte; each request for encryption at most once      TestRule01…
//	 2  startup parameters from a list, and the packet upstream built from them        TestRule02…
//	 3  deadlines and limits for strangers                                             TestRule03…
//	 4  no length is believed                                                          TestRule04…
//	 5  SCRAM alone, the same for everybody up to the end                              TestRule05…
//	 6  upstream too, and the server has to prove itself      internal/upstream        TestRule06…
//	 7  cancel keys of our own                                                         TestRule07…
//	 8  what the server says at log-in stays inside                                    TestRule08…
//	 9  privileges are the boundary, not the text of statements               roles    TestRule09…
//	10  names are quoted, and admin sessions have settings of their own       roles    TestRule10…
//	11  what no session may do                                                roles    TestRule11…

// In each state, each packet without a type byte: only those of the protocol lead anywhere.
func TestRule01OneStateMachine(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	const (
		refusedCode = "FATAL 0A000"
		violation   = "FATAL 08P01"
	)
	states := map[string]func() *peer{
		"start":      func() *peer { return dial(t, g.target(), plain) },
		"after N":    func() *peer { p := dial(t, g.target(), plain); p.send(gssRequest); p.byte(); return p },
		"TLS":        func() *peer { return dial(t, g.target(), negotiated) },
		"direct TLS": func() *peer { return dial(t, g.target(), directTLS) },
		"asked for a password": func() *peer {
			p := challenge(t, g.target())
			return p
		},
		"challenged": func() *peer {
			p := challenge(t, g.target())
			p.send(saslInitial("SCRAM-SHA-256", ok))
			p.expect('R')
			return p
		},
		"in session": func() *peer { return connect(t, g.target()) },
	}
	packets := map[string][]byte{"GSSENC": gssRequest, "SSL": sslRequest, "Startup": like(v30).bytes(g.target()), "Cancel": packet(vCancel, make([]byte, 8)...)}
	for state, want := range map[string]map[string]string{
		"start":                {"GSSENC": "N", "SSL": "S", "Startup": "FATAL 28000", "Cancel": "closed"},
		"after N":              {"GSSENC": "FATAL 28000", "SSL": "S", "Startup": "FATAL 28000", "Cancel": "closed"},
		"TLS":                  {"GSSENC": refusedCode, "SSL": refusedCode, "Startup": "message 'R'", "Cancel": "closed"},
		"direct TLS":           {"GSSENC": refusedCode, "SSL": refusedCode, "Startup": "message 'R'", "Cancel": "closed"},
		"asked for a password": {"GSSENC": violation, "SSL": violation, "Startup": violation, "Cancel": violation},
		"challenged":           {"GSSENC": violation, "SSL": violation, "Startup": violation, "Cancel": violation},
		"in session":           {"GSSENC": violation, "SSL": violation, "Startup": violation, "Cancel": violation}, // PostgreSQL's word
	} {
		for name, sent := range packets {
			t.Run(state+", "+name, func(t *testing.T) {
				t.Parallel()
				p := states[state]()
				p.send(sent)
				if got := p.oneAnswer(); got != want[name] {
					t.Errorf("got %s, want %s", got, want[name])
				}
			})
		}
	}
}

// oneAnswer is a byte, or a message up to its SQLSTATE.
func (p *peer) oneAnswer() string {
	if p.in == nil {
		p.in = bufio.NewReader(p.conn)
		if b, err := p.in.Peek(1); err == nil && bytes.Contains([]byte("NS"), b) {
			return string(b)
		}
	}
	m, err := p.read()
	if err != nil {
		return "closed"
	}
	got, _, _ := strings.Cut(m.String(), ":")
	return got
}

// What goes upstream is built anew: the role's name, the database's, and what is on the list; nothing
// else that the client sent, however it sent it.
func TestRule02ThePacketUpstreamIsBuiltAnew(t *testing.T) {
	t.Parallel()
	packets := make(chan []string, 1)
	server := captures(t, packets)
	g := startGate(t, database(t, 18), gateOptions{upstream: server, acquire: func(context.Context) (proxy.Lease, error) {
		return new(leases).take(upstream.Login{User: "the_role", Password: "x", Database: "the_database"}), nil
	}})
	p := dial(t, g.target(), negotiated)
	p.send(startup(v39999, "user", alice, "database", "orders", "_pq_.secret", "1", "application_name", "a\nb", "replication", "off",
		"DateStyle", "SQL", "Search_Path", "x", "options", "-c geqo=off --work-mem=4MB -c datestyle=ISO"))
	_, _ = p.authenticate()
	got := <-packets
	want := []string{
		"user=the_role", "database=the_database", "datestyle=SQL", "search_path=x", "geqo=off", "work_mem=4MB",
		`options=-c \d\a\t\e\s\t\y\l\e\=\I\S\O`, "application_name=a\nb",
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the packet upstream (-want +got):\n%s", diff)
	}
}

// captures is a server that sends what a StartupMessage says, and hangs up.
func captures(t *testing.T, packets chan<- []string) *upstream.Server {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		var word [4]byte
		_, _ = io.ReadFull(conn, word[:])
		body := make([]byte, binary.BigEndian.Uint32(word[:])-4)
		_, _ = io.ReadFull(conn, body)
		fields := strings.Split(strings.TrimSuffix(string(body[4:]), "\x00\x00"), "\x00")
		var pairs []string
		for i := 0; i+1 < len(fields); i += 2 {
			pairs = append(pairs, fields[i]+"="+fields[i+1])
		}
		packets <- pairs
	}()
	t.Cleanup(func() { _ = listener.Close(); <-done })
	server, err := upstream.New(upstream.Config{Host: "127.0.0.1", Port: uint16(listener.Addr().(*net.TCPAddr).Port), SSLMode: upstream.Disable})
	if err != nil {
		t.Fatal(err)
	}
	return server
}
