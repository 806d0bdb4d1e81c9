package upstream_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/internal/upstream"
)

// PostgreSQL asks for another group than the first at most once: from then on it is offered the one that it asked for.
func TestGroupIsAskedForOnce(t *testing.T) {
	t.Parallel()
	for _, major := range pgtest.Majors() {
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) {
			t.Parallel()
			db := pgtest.Start(t, major).Database(t)
			server := newServer(t, upstream.Config{
				Host: "localhost", Port: uint16(db.Server.Port), SSLMode: upstream.VerifyFull, RootCert: db.Server.CAFile,
			})
			login := upstream.Login{User: db.Owner, Password: db.OwnerPassword, Database: db.Name}
			for i, retried := range []bool{major < 18, false, false} {
				conn, err := upstream.Connect(t.Context(), server, login, pgconn.ConnectConfig)
				if err != nil {
					t.Fatal(err)
				}
				state := conn.Conn().(*tls.Conn).ConnectionState()
				_ = conn.Close(t.Context())
				if state.HelloRetryRequest != retried {
					t.Errorf("log-in %d: HelloRetryRequest %t, want %t (%s)", i+1, state.HelloRetryRequest, retried, state.CurveID)
				}
			}
		})
	}
}

// A server that knows other groups than it did is offered all of them again, at once.
func TestGroupsChange(t *testing.T) {
	t.Parallel()
	certificate := pair(t, pgtest.CA(t))
	var known atomic.Pointer[[]tls.CurveID]
	var connections atomic.Int32
	peer := script(t, func(c *scripted) {
		connections.Add(1)
		c.expectSSLRequest()
		c.say("S")
		secured := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{certificate}, CurvePreferences: *known.Load()})
		if secured.Handshake() != nil {
			return
		}
		_, _ = pgproto3.NewBackend(secured, secured).ReceiveStartupMessage()
		refusal, _ := (&pgproto3.ErrorResponse{Severity: "FATAL", Code: pgerrcode.TooManyConnections, Message: "full"}).Encode(nil)
		_, _ = secured.Write(refusal)
	})
	server := newServer(t, upstream.Config{Host: "127.0.0.1", Port: peer.port, SSLMode: upstream.Require})
	for _, step := range []struct {
		knows       []tls.CurveID
		connections int32 // that it takes
	}{
		{[]tls.CurveID{tls.CurveP384}, 1},
		{[]tls.CurveID{tls.CurveP384}, 1},
		{[]tls.CurveID{tls.CurveP256}, 2},
		{[]tls.CurveID{tls.CurveP256, tls.CurveP521}, 1},
		{[]tls.CurveID{tls.X25519}, 2},
		{[]tls.CurveID{tls.X25519MLKEM768}, 1},
	} {
		known.Store(&step.knows)
		connections.Store(0)
		_, err := upstream.Connect(t.Context(), server, upstream.Login{User: "u", Password: "p", Database: "d"}, pgconn.ConnectConfig)
		var refusal *pgconn.PgError
		if !errors.As(err, &refusal) {
			t.Errorf("a server that knows %v: got %v, want its own refusal", step.knows, err)
		}
		if got := connections.Load(); got != step.connections {
			t.Errorf("a server that knows %v: %d connections, want %d", step.knows, got, step.connections)
		}
	}
}
