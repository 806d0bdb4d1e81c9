//go:build linux

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/xdg-go/scram"

	"github.com/hourgate/hourgate/internal/pgserver"
	"github.com/hourgate/hourgate/internal/verifier"
)

// stubConfig is what the stub's process is told, as JSON in a file.
type stubConfig struct {
	Port     int
	Folder   string // of the real server: its socket and its certificate
	Server   int    // the real server's port
	CertFile string // of the authority
	Copy     bool   // be the copy loop
}

// stub stands for PostgreSQL where more sessions are wanted than the machine has memory for backends. It has the real
// server's certificate and verifiers, answers every query with one row, and passes Hourgate's admin on to the real
// server.
type stub struct {
	cfg   stubConfig
	tls   *tls.Config
	roots *x509.CertPool

	mu        sync.Mutex // guards what follows
	super     *pgx.Conn
	verifiers map[string]verifier.Verifier // by user
}

// startStub runs it in a process of its own.
func (r *rig) startStub(ctx context.Context) (*proxy, error) {
	return r.startSelf(ctx, "stub", stubConfig{Folder: r.file("postgresql"), Server: r.server.Port, CertFile: r.authority.CertFile})
}

// startSelf runs this program once more.
func (r *rig) startSelf(ctx context.Context, name string, cfg stubConfig) (*proxy, error) {
	var err error
	if cfg.Port, err = pgserver.FreePort(ctx); err != nil {
		return nil, err
	}
	config, err := json.Marshal(cfg)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(r.file(name+".json"), config, 0o600); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	process, err := r.startProcess(name, nil, nil, self, "-stub", r.file(name+".json"))
	if err != nil {
		return nil, err
	}
	return &proxy{name: name, port: cfg.Port, process: process}, process.awaitPort(ctx, cfg.Port)
}

// runStub is the stub's process, until a signal.
func runStub(ctx context.Context, file string) error {
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	s := &stub{verifiers: make(map[string]verifier.Verifier), roots: x509.NewCertPool()}
	if err := json.Unmarshal(content, &s.cfg); err != nil {
		return err
	}
	if s.cfg.Copy {
		return runCopy(s.cfg.Port, s.cfg.Server)
	}
	cert, err := tls.LoadX509KeyPair(filepath.Join(s.cfg.Folder, "server.crt"), filepath.Join(s.cfg.Folder, "server.key"))
	if err != nil {
		return err
	}
	s.tls = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	ca, err := os.ReadFile(s.cfg.CertFile)
	if err != nil {
		return err
	}
	s.roots.AppendCertsFromPEM(ca)
	s.super, err = pgx.Connect(ctx, fmt.Sprintf("host=%s port=%d user=%s dbname=%s sslmode=disable",
		s.cfg.Folder, s.cfg.Server, pgserver.Superuser, pgserver.Superuser))
	if err != nil {
		return err
	}
	var listen net.ListenConfig
	listener, err := listen.Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(s.cfg.Port)))
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = listener.Close() })()
	for {
		conn, err := listener.Accept()
		if err != nil {
			return nil //nolint:nilerr // we were told to end
		}
		go func() {
			defer conn.Close()
			_ = s.serve(ctx, conn) // whoever was not served says so
		}()
	}
}

var errUnexpected = errors.New("unexpected message")

// serve is one session's life.
func (s *stub) serve(ctx context.Context, conn net.Conn) error {
	// client → SSLRequest
	var request [8]byte
	if _, err := io.ReadFull(conn, request[:]); err != nil {
		return err
	}
	if _, err := conn.Write([]byte{'S'}); err != nil {
		return err
	}
	secured := tls.Server(conn, s.tls)
	// client → StartupMessage
	backend := pgproto3.NewBackend(secured, secured)
	message, err := backend.ReceiveStartupMessage()
	if err != nil {
		return err
	}
	startup, ok := message.(*pgproto3.StartupMessage)
	if !ok {
		return errUnexpected
	}
	user := startup.Parameters["user"]
	if user == gateAdmin {
		return s.passOn(ctx, secured, startup)
	}
	if err := s.authenticate(ctx, backend, user); err != nil {
		return err
	}
	return s.answer(backend)
}

// passOn lets the real server serve a session. It has our certificate, so that SCRAM's channel binding fits.
func (s *stub) passOn(ctx context.Context, client net.Conn, startup *pgproto3.StartupMessage) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(s.cfg.Server)))
	if err != nil {
		return err
	}
	defer conn.Close()
	request, err := (&pgproto3.SSLRequest{}).Encode(nil)
	if err != nil {
		return err
	}
	if _, err := conn.Write(request); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		return err
	}
	server := tls.Client(conn, &tls.Config{ServerName: "localhost", RootCAs: s.roots, MinVersion: tls.VersionTLS12})
	packet, err := startup.Encode(nil)
	if err != nil {
		return err
	}
	if _, err := server.Write(packet); err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(server, client)
		_ = conn.Close()
	}()
	_, err = io.Copy(client, server)
	return err
}

// authenticate is SCRAM-SHA-256.
func (s *stub) authenticate(ctx context.Context, backend *pgproto3.Backend, user string) error {
	v, err := s.verifier(ctx, user)
	if err != nil {
		return err
	}
	server, err := scram.SHA256.NewServer(func(string) (scram.StoredCredentials, error) {
		return scram.StoredCredentials{
			KeyFactors: scram.KeyFactors{Salt: string(v.Salt), Iters: v.Iterations},
			StoredKey:  v.StoredKey, ServerKey: v.ServerKey,
		}, nil
	})
	if err != nil {
		return err
	}
	conversation := server.NewConversation()
	backend.Send(&pgproto3.AuthenticationSASL{AuthMechanisms: []string{"SCRAM-SHA-256"}})
	if err := errors.Join(backend.Flush(), backend.SetAuthType(pgproto3.AuthTypeSASL)); err != nil {
		return err
	}
	message, err := backend.Receive()
	if err != nil {
		return err
	}
	first, ok := message.(*pgproto3.SASLInitialResponse)
	if !ok {
		return errUnexpected
	}
	challenge, err := conversation.Step(string(first.Data))
	if err != nil {
		return err
	}
	backend.Send(&pgproto3.AuthenticationSASLContinue{Data: []byte(challenge)})
	if err := errors.Join(backend.Flush(), backend.SetAuthType(pgproto3.AuthTypeSASLContinue)); err != nil {
		return err
	}
	if message, err = backend.Receive(); err != nil {
		return err
	}
	response, ok := message.(*pgproto3.SASLResponse)
	if !ok {
		return errUnexpected
	}
	final, err := conversation.Step(string(response.Data))
	if err != nil {
		return err
	}
	backend.Send(&pgproto3.AuthenticationSASLFinal{Data: []byte(final)})
	return nil
}

// verifier is what the real server has for a user, such as an ephemeral role that Hourgate has just made there.
func (s *stub) verifier(ctx context.Context, user string) (verifier.Verifier, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v, ok := s.verifiers[user]; ok {
		return v, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var text string
	if err := s.super.QueryRow(ctx, "SELECT rolpassword FROM pg_authid WHERE rolname = $1", user).Scan(&text); err != nil {
		return verifier.Verifier{}, err
	}
	v, err := verifier.Parse(text)
	if err == nil {
		s.verifiers[user] = v
	}
	return v, err
}

// answer says to every query what PostgreSQL would say to pgbench's.
func (s *stub) answer(backend *pgproto3.Backend) error {
	backend.Send(&pgproto3.AuthenticationOk{})
	for _, parameter := range [][2]string{
		{"server_version", "15.0"},
		{"server_encoding", "UTF8"},
		{"client_encoding", "UTF8"},
		{"DateStyle", "ISO, MDY"},
		{"IntervalStyle", "postgres"},
		{"TimeZone", "UTC"},
		{"integer_datetimes", "on"},
		{"standard_conforming_strings", "on"},
	} {
		backend.Send(&pgproto3.ParameterStatus{Name: parameter[0], Value: parameter[1]})
	}
	backend.Send(&pgproto3.BackendKeyData{ProcessID: 1, SecretKey: []byte{0, 0, 0, 1}})
	backend.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	for {
		if err := backend.Flush(); err != nil {
			return err
		}
		message, err := backend.Receive()
		if err != nil {
			return err
		}
		switch message.(type) {
		case *pgproto3.Query:
			backend.Send(&pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{{Name: []byte("abalance"), DataTypeOID: 23, DataTypeSize: 4, TypeModifier: -1}}})
			backend.Send(&pgproto3.DataRow{Values: [][]byte{[]byte("0")}})
			backend.Send(&pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")})
			backend.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		case *pgproto3.Sync:
			backend.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		default:
			return errUnexpected // Terminate among them
		}
	}
}
