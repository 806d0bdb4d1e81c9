package pgtest

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"
)

// Script is what a scripted server does: the log-in half of the protocol, honest or not. Its zero value knows no TLS and
// closes every connection after the startup packet.
type Script struct {
	SSL         SSLAnswer
	Direct      bool             // take TLS that comes first, whatever SSL says
	Certificate *tls.Certificate // shown after SSLYes
	ClientCAs   *x509.CertPool   // ask for a certificate of these
	NoALPN      bool             // as before PostgreSQL 17
	Plain, TLS  Login            // what follows the startup packet
	Password    string           // of everybody
}

// SSLAnswer is what a scripted server does when it gets SSLRequest.
type SSLAnswer int

// The answers. Honest servers give the first two only.
const (
	SSLNo SSLAnswer = iota
	SSLYes
	SSLError          // an ErrorResponse, as from a server before 7.0
	SSLClose          // no answer
	SSLGarbage        // neither S nor N
	SSLStuffed        // S, and plaintext behind it (CVE-2021-23222)
	SSLHandshakeAlert // S, then a fatal alert
	SSLHandshakeClose // S, then no answer to the ClientHello
)

// Login is what a scripted server does when it gets a startup packet. A five-letter value is a SQLSTATE: that is what it
// answers, at once.
type Login string

// The log-ins that are no SQLSTATE.
const (
	LoginClose         Login = ""
	LoginSCRAM         Login = "scram"          // asks for the password as PostgreSQL does
	LoginWrongPassword Login = "scram-28P01"    //nolint:gosec // no password; it asks for one, and says no
	LoginNoDatabase    Login = "scram-ok-3D000" // lets in, and says no then
	LoginCleartext     Login = "cleartext"      // asks for the password as it is, and lets in whoever has any
	LoginMD5           Login = "md5"            // likewise with MD5
	LoginTrust         Login = "trust"          // lets everybody in
	LoginTrustSASL     Login = "trust-sasl"     // asks for SCRAM, and lets everybody in before it is done
	LoginIterations    Login = "iterations"     // asks for two billion iterations of SCRAM
	LoginForged        Login = "forged"         // does not know the password, and lets everybody in
	LoginOversize      Login = "oversize"       // sends an AuthenticationRequest of 16 MiB
	LoginOversizeError Login = "oversize-error" // sends an ErrorResponse of 16 MiB
	LoginChatter       Login = "chatter"        // sends ParameterStatus before it asks for anything
)

// Scripted is a running scripted server.
type Scripted struct {
	Host   string // always 127.0.0.1
	Port   uint16
	script Script

	mu          sync.Mutex
	connections []*scriptedConn
	running     sync.WaitGroup
}

// StartScripted runs a scripted server until the test ends.
func StartScripted(t testing.TB, script Script) *Scripted {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // at once or not at all
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().(*net.TCPAddr)
	s := &Scripted{Host: "127.0.0.1", Port: uint16(address.Port), script: script} //nolint:gosec // a port has 16 bits
	s.running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			c := &scriptedConn{script: &s.script, conn: conn}
			s.mu.Lock()
			s.connections = append(s.connections, c)
			s.mu.Unlock()
			s.running.Go(c.serve)
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		s.running.Wait()
	})
	return s
}

// Trace is what clients did, connection by connection, in the words "ssl" (SSLRequest), "direct" (TLS first), "plain" and
// "tls" (a startup packet so), "proof", "cleartext" and "md5" (kinds of passwords) and "in" (logged in). It waits until
// the connections that there are have ended.
func (s *Scripted) Trace() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for _, c := range s.connections {
		for deadline := time.Now().Add(5 * time.Second); !c.ended() && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
		c.mu.Lock()
		all = append(all, strings.Join(c.events, ","))
		c.mu.Unlock()
	}
	return strings.Join(all, " | ")
}

// Passwords is what clients sent as cleartext passwords, and ServerNames what they sent as SNI; "" is none.
func (s *Scripted) Passwords() []string {
	return s.collect(func(c *scriptedConn) []string { return c.passwords })
}

// ServerNames is what clients sent as SNI; "" is none.
func (s *Scripted) ServerNames() []string {
	return s.collect(func(c *scriptedConn) []string { return c.serverNames })
}

func (s *Scripted) collect(of func(*scriptedConn) []string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for _, c := range s.connections {
		c.mu.Lock()
		all = append(all, of(c)...)
		c.mu.Unlock()
	}
	return all
}

type scriptedConn struct {
	script *Script
	conn   net.Conn

	mu          sync.Mutex
	events      []string
	passwords   []string
	serverNames []string
	done        bool
}

func (c *scriptedConn) note(event string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, event)
}

func (c *scriptedConn) ended() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.done
}

func (c *scriptedConn) serve() {
	_ = c.conn.SetDeadline(time.Now().Add(20 * time.Second))
	c.start()
	_ = c.conn.Close()
	c.mu.Lock()
	c.done = true
	c.mu.Unlock()
}

// start reads the first packet, by exact lengths, since TLS may follow it.
func (c *scriptedConn) start() {
	var first [8]byte
	if _, err := io.ReadFull(c.conn, first[:1]); err != nil {
		return
	}
	if first[0] == 0x16 {
		if !c.script.Direct {
			return
		}
		c.note("direct")
		c.conn = &prefixed{Conn: c.conn, prefix: first[:1]}
		c.encrypt()
		return
	}
	if _, err := io.ReadFull(c.conn, first[1:]); err != nil {
		return
	}
	if binary.BigEndian.Uint32(first[4:]) != 80877103 {
		c.startup(first, "plain", c.script.Plain)
		return
	}
	c.note("ssl")
	switch c.script.SSL {
	case SSLYes:
		_, _ = c.conn.Write([]byte("S"))
		c.encrypt()
	case SSLNo:
		_, _ = c.conn.Write([]byte("N"))
		if _, err := io.ReadFull(c.conn, first[:]); err == nil {
			c.startup(first, "plain", c.script.Plain)
		}
	case SSLError:
		c.fail(pgerrcode.FeatureNotSupported)
	case SSLClose:
	case SSLGarbage:
		_, _ = c.conn.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
	case SSLStuffed:
		_, _ = c.conn.Write([]byte("SZ\x00\x00\x00\x05I"))
		c.encrypt()
	case SSLHandshakeAlert:
		_, _ = c.conn.Write([]byte("S"))
		_, _ = c.conn.Read(make([]byte, 4096))
		_, _ = c.conn.Write([]byte{21, 3, 3, 0, 2, 2, 40}) // fatal, handshake_failure
	case SSLHandshakeClose:
		_, _ = c.conn.Write([]byte("S"))
		_, _ = c.conn.Read(make([]byte, 4096))
	}
}

func (c *scriptedConn) encrypt() {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, SessionTicketsDisabled: true}
	if c.script.Certificate != nil {
		cfg.Certificates = []tls.Certificate{*c.script.Certificate}
	}
	if !c.script.NoALPN {
		cfg.NextProtos = []string{"postgresql"}
	}
	if c.script.ClientCAs != nil {
		cfg.ClientCAs, cfg.ClientAuth = c.script.ClientCAs, tls.RequireAndVerifyClientCert
	}
	secured := tls.Server(c.conn, cfg)
	if secured.Handshake() != nil { //nolint:noctx // under the connection's deadline
		return
	}
	c.mu.Lock()
	c.serverNames = append(c.serverNames, secured.ConnectionState().ServerName)
	c.mu.Unlock()
	c.conn = secured
	var first [8]byte
	if _, err := io.ReadFull(c.conn, first[:]); err == nil {
		c.startup(first, "tls", c.script.TLS)
	}
}

// startup reads the rest of the startup packet and plays the log-in.
func (c *scriptedConn) startup(first [8]byte, how string, login Login) {
	length := binary.BigEndian.Uint32(first[:])
	if length < 8 || length > 10000 {
		return
	}
	if _, err := io.CopyN(io.Discard, c.conn, int64(length)-8); err != nil {
		return
	}
	c.note(how)
	switch login {
	case LoginClose:
	case LoginSCRAM, LoginWrongPassword, LoginNoDatabase, LoginIterations, LoginForged, LoginTrustSASL:
		c.scram(login)
	case LoginCleartext:
		c.send('R', 0, 0, 0, 3)
		c.password("cleartext")
	case LoginMD5:
		c.send('R', 0, 0, 0, 5, 1, 2, 3, 4)
		c.password("md5")
	case LoginTrust:
		c.letIn()
	case LoginOversize:
		c.oversize('R')
	case LoginOversizeError:
		c.oversize('E')
	case LoginChatter:
		c.send('S', []byte("server_version\x0018.0\x00")...)
		c.scram(LoginSCRAM)
	default:
		c.fail(string(login))
	}
}

// oversize sends as much as the client takes.
func (c *scriptedConn) oversize(kind byte) {
	header := binary.BigEndian.AppendUint32([]byte{kind}, 16<<20)
	_, _ = c.conn.Write(append(header, 0, 0, 0, 3))
	for range 256 {
		if _, err := c.conn.Write(make([]byte, 1<<16)); err != nil {
			return
		}
	}
}

// letIn ends the log-in and answers every statement with nothing.
func (c *scriptedConn) letIn() {
	c.send('R', 0, 0, 0, 0)
	for _, parameter := range []string{"server_version\x0018.0\x00", "client_encoding\x00UTF8\x00", "standard_conforming_strings\x00on\x00"} {
		c.send('S', []byte(parameter)...)
	}
	c.send('K', 0, 0, 0, 1, 0, 0, 0, 2)
	c.send('Z', 'I')
	for noted := false; ; {
		kind, _, err := c.receive()
		if !noted && (err == nil || errors.Is(err, io.EOF)) { // a client that refuses what it got says nothing, or breaks off
			if kind == 'X' || kind == 'Q' {
				c.note("in")
			}
			noted = true
		}
		if err != nil || kind == 'X' {
			return
		}
		c.send('C', []byte("SELECT 0\x00")...)
		c.send('Z', 'I')
	}
}

func (c *scriptedConn) fail(code string) {
	c.send('E', []byte("SFATAL\x00VFATAL\x00C"+code+"\x00Mscripted\x00\x00")...)
}

func (c *scriptedConn) send(kind byte, body ...byte) {
	message := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body)+4)) //nolint:gosec // short
	_, _ = c.conn.Write(append(message, body...))
}

// answer receives what a client answers to an AuthenticationRequest; one that breaks off says Terminate instead.
func (c *scriptedConn) answer() ([]byte, error) {
	kind, body, err := c.receive()
	if err == nil && kind != 'p' {
		err = io.ErrUnexpectedEOF
	}
	return body, err
}

func (c *scriptedConn) receive() (kind byte, body []byte, err error) {
	var header [5]byte
	if _, err := io.ReadFull(c.conn, header[:]); err != nil {
		return 0, nil, err
	}
	length := binary.BigEndian.Uint32(header[1:])
	if length < 4 || length > 1<<16 {
		return 0, nil, io.ErrUnexpectedEOF
	}
	body = make([]byte, length-4)
	_, err = io.ReadFull(c.conn, body)
	return header[0], body, err
}

// prefixed gives back what was read already.
type prefixed struct {
	net.Conn
	prefix []byte
}

func (p *prefixed) Read(b []byte) (int, error) {
	if len(p.prefix) > 0 {
		n := copy(b, p.prefix)
		p.prefix = p.prefix[n:]
		return n, nil
	}
	return p.Conn.Read(b)
}
