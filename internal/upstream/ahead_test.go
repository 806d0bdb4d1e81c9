package upstream_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/goleak"

	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/internal/upstream"
)

// A log-in over a connection that was opened ahead, in each mode; a second one over the same gets one of its own.
func TestAhead(t *testing.T) {
	t.Parallel()
	db := pgtest.Start(t, 18).Database(t)
	for mode, want := range map[upstream.SSLMode]string{
		upstream.Disable: unencrypted, upstream.Prefer: encrypted, upstream.VerifyFull: encrypted,
	} {
		s := newServer(t, config(db.Server, mode, db.Server.CAFile))
		l := owner(db)
		l.Ahead = s.Ahead(t.Context())
		for range 2 {
			if got := connect(t, s, l); got != want {
				t.Errorf("%s: got %s, want %s", mode, got, want)
			}
		}
		l.Ahead.Close()
	}
}

// In mode allow the connection ahead is in plaintext; when the server will not have that, TLS follows.
func TestAheadIsTheFirstAttempt(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, 18, pgtest.Options{HBA: "hostssl all all 127.0.0.1/32 scram-sha-256"}).Database(t)
	s := newServer(t, config(db.Server, upstream.Allow, db.Server.CAFile))
	l := owner(db)
	l.Ahead = s.Ahead(t.Context())
	defer l.Ahead.Close()
	if got := connect(t, s, l); got != encrypted {
		t.Errorf("got %s, want %s", got, encrypted)
	}
}

// Where the server can't be reached, the log-in says so.
func TestAheadWithoutServer(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t, plainConfig(listener.Addr()))
	_ = listener.Close()
	l := upstream.Login{User: "u", Password: "p", Database: "d", Ahead: s.Ahead(t.Context())}
	defer l.Ahead.Close()
	if got := connect(t, s, l); got != notReached {
		t.Errorf("got %s, want %s", got, notReached)
	}
}

// Close ends the attempt wherever it stands, and nothing of it runs on.
func TestAheadClosed(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	for _, mode := range []upstream.SSLMode{upstream.Disable, upstream.Require} { // opened; waiting for an answer
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		cfg := plainConfig(listener.Addr())
		cfg.SSLMode = mode
		a := newServer(t, cfg).Ahead(t.Context())
		conn, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		a.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		var timeout net.Error
		for err = nil; err == nil; { // past the SSLRequest
			_, err = conn.Read(make([]byte, 8))
		}
		if errors.As(err, &timeout) && timeout.Timeout() {
			t.Errorf("%s: the connection stays open", mode)
		}
		_ = conn.Close()
		_ = listener.Close()
	}
}

// Who waits for a server that does not answer can be called off.
func TestAheadCalledOff(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	cfg := plainConfig(listener.Addr())
	cfg.SSLMode = upstream.Require
	s := newServer(t, cfg)
	ctx, cancel := context.WithCancel(t.Context())
	l := upstream.Login{User: "u", Password: "p", Database: "d", Ahead: s.Ahead(t.Context())}
	defer l.Ahead.Close()
	time.AfterFunc(10*time.Millisecond, cancel)
	if conn, err := upstream.Connect(ctx, s, l, pgconn.ConnectConfig); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, %v; want the context's error", conn, err)
	}
}

func plainConfig(addr net.Addr) upstream.Config {
	return upstream.Config{Host: "127.0.0.1", Port: uint16(addr.(*net.TCPAddr).Port), SSLMode: upstream.Disable}
}
