package proxy_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/internal/upstream"
)

// keylessGate is a gate in front of a server that gives no key. Its leases cancel as those of package roles do.
func keylessGate(t *testing.T, db *pgtest.Database) *gate {
	t.Helper()
	server, err := upstream.New(upstream.Config{
		Host: "127.0.0.1", Port: uint16(pgtest.Keyless(t, db.Server)), SSLMode: upstream.Disable,
	})
	if err != nil {
		t.Fatal(err)
	}
	g := startGate(t, db, gateOptions{upstream: server})
	url := db.Server.URL(db.Owner, db.OwnerPassword, db.Name).String()
	g.leases.cancel = func(ctx context.Context, pid uint32) error {
		conn, err := pgconn.Connect(ctx, url)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		return conn.ExecParams(ctx, "SELECT pg_cancel_backend($1)", [][]byte{fmt.Append(nil, pid)}, nil, nil, nil).Read().Err
	}
	return g
}

// A server that gives no key is cancelled through the admin. Clients have a key of the gate's all the same, and a wrong one
// does nothing.
func TestRule07CancelWithoutAKeyOfTheServer(t *testing.T) {
	t.Parallel()
	someMajors(t, func(t *testing.T, db *pgtest.Database) {
		g := keylessGate(t, db)
		p, key := sleeper(g, v30)
		if len(key) != 8 {
			t.Fatalf("the client's key is %d bytes, want 8", len(key))
		}
		if got, want := g.leases.pids(), g.backends("true"); !slices.Equal(got, want) {
			t.Errorf("the lease was told of the processes %v, want %v", got, want)
		}
		wrong := slices.Clone(key)
		wrong[7] ^= 1
		for _, sent := range [][]byte{wrong, key[:7], make([]byte, 8)} {
			c := dial(t, g.target(), plain)
			c.send(packet(vCancel, sent...))
			c.expectSilence()
		}
		if n := len(g.backends("wait_event = 'PgSleep'")); n != 1 {
			t.Fatalf("%d statements run after requests with a wrong key, want 1", n)
		}
		g.expectCancels(map[string]float64{"unknown": 2})
		c := dial(t, g.target(), negotiated)
		c.send(packet(vCancel, key...))
		c.expectSilence()
		p.expectCancelled()
		g.expectCancels(map[string]float64{"unknown": 2, "forwarded": 1})
	})
}

// An admin who can't cancel is no reason to say anything to whoever asks.
func TestCancelWithoutAKeyFails(t *testing.T) {
	t.Parallel()
	g := keylessGate(t, database(t, 18))
	g.leases.cancel = func(context.Context, uint32) error { return pgError(pgerrcode.InsufficientPrivilege) }
	_, key := sleeper(g, v30)
	c := dial(t, g.target(), plain)
	c.send(packet(vCancel, key...))
	c.expectSilence()
	g.expectCancels(map[string]float64{"failed": 1})
	if n := len(g.backends("wait_event = 'PgSleep'")); n != 1 {
		t.Errorf("%d statements run, want 1", n)
	}
}

// processIsTheServersWord is a part of TestNeighbours. The process is asked for under the client's settings. Whoever has a function of the same name in their search_path can't
// pass another's process off as theirs.
func processIsTheServersWord(t *testing.T) {
	t.Helper()
	db := database(t, 18)
	owner := db.Superuser(t)
	if _, err := owner.Exec(t.Context(), `CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO PUBLIC;
		CREATE FUNCTION evil.pg_backend_pid() RETURNS int LANGUAGE sql AS 'SELECT 1'`); err != nil {
		t.Fatal(err)
	}
	g := keylessGate(t, db)
	p := connect(t, g.target(), "search_path", "evil,pg_catalog")
	p.send(query("SELECT pg_backend_pid()"))
	p.expect('T')
	if got := string(p.expect('D').body[6:]); got != "1" {
		t.Fatalf("pg_backend_pid() is %s: the settings don't lead anybody astray", got)
	}
	if got, want := g.leases.pids(), g.backends("true"); !slices.Equal(got, want) {
		t.Errorf("the lease was told of the processes %v, want %v", got, want)
	}
}

// A server that gives a key is not asked for anything else.
func TestServersKeyIsUsed(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	sleeper(g, v30)
	if got, want := g.leases.pids(), g.backends("true"); !slices.Equal(got, want) {
		t.Errorf("the lease was told of the processes %v, want %v", got, want)
	}
}
