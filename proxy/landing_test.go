package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/proxy"
)

// atHome is a gate in front of two integrations with a database of the same name, and a way to connect to it.
type atHome struct {
	t  *testing.T
	db *pgtest.Database
	g  *gate

	ahead *atomic.Int64 // by how much the gate's clock is
}

func startAtHome(t *testing.T) atHome {
	t.Helper()
	db := pgtest.Start(t, 17).Database(t)
	var text string
	ahead := new(atomic.Int64)
	g := startGate(t, db, gateOptions{change: func(cfg *proxy.Config) {
		until := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
		text = fmt.Sprintf("users:\n  - {name: %s, scram: %q}\n  - {name: %s, scram: %q}\ngrants:\n", alice, verifiers()[alice], bob, verifiers()[bob])
		for _, integration := range []string{"lab", "prod"} {
			text += fmt.Sprintf("  - {name: %s, users: [%s, %s], integration: %[1]s, databases: [%[4]s, app2], access: READ_ONLY, until: %[5]s}\n",
				integration, alice, bob, db.Name, until)
		}
		set, err := policy.Parse([]policy.Source{{File: "policy.yaml", Data: []byte(text)}}, map[string]string{"lab": db.Name, "prod": db.Name})
		if err != nil {
			t.Fatal(err)
		}
		cfg.Policy = policy.NewLive(set)
		cfg.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		one, _ := cfg.Integrations.Integration("orders")
		cfg.Integrations = integrations{"lab": one, "prod": one}
	}})
	return atHome{t, db, g, ahead}
}

func (h atHome) connect(user, password, database string) (*pgx.Conn, []string, error) {
	h.t.Helper()
	cfg, err := pgx.ParseConfig(h.g.url(""))
	if err != nil {
		h.t.Fatal(err)
	}
	var notices []string
	cfg.User, cfg.Password, cfg.Database = user, password, database
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { notices = append(notices, n.Message) }
	conn, err := pgx.ConnectConfig(h.t.Context(), cfg)
	return conn, notices, err
}

// where is the integration of the newest session.
func (h atHome) where() string {
	all := h.g.server.Sessions()
	return all[len(all)-1].Integration
}

func (h atHome) ambiguous(err error) bool {
	var told *pgconn.PgError
	return errors.As(err, &told) && told.Hint == fmt.Sprintf("Name the integration too, and connect to one of: %[1]s@lab, %[1]s@prod.", h.db.Name)
}

// A client that reconnects by the database's real name lands where its person is, if that is one place.
func TestReconnectByTheRealName(t *testing.T) {
	t.Parallel()
	h := startAtHome(t)
	if _, _, err := h.connect(alice, alicePassword, h.db.Name); !h.ambiguous(err) {
		t.Fatalf("connected nowhere: %v", err)
	}
	first, notices, err := h.connect(alice, alicePassword, "lab")
	if err != nil || len(notices) != 0 {
		t.Fatalf("%v, %v", notices, err)
	}
	again, notices, err := h.connect(alice, alicePassword, h.db.Name)
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("this is database %s of lab, where you were connected", h.db.Name); h.where() != "lab" || len(notices) != 1 || notices[0] != want {
		t.Errorf("landed on %s, told %q", h.where(), notices)
	}
	if _, _, err := h.connect(bob, bobPassword, h.db.Name); !h.ambiguous(err) {
		t.Errorf("somebody else: %v", err)
	}
	// A pool drops its connections before it makes others.
	_, _ = first.Close(context.Background()), again.Close(context.Background())
	eventually.True(t, "the sessions are over", func() bool { return len(h.g.server.Sessions()) == 0 })
	if again, _, err = h.connect(alice, alicePassword, h.db.Name); err != nil || h.where() != "lab" {
		t.Fatalf("after the sessions' end: %v", err)
	}
	other, _, err := h.connect(alice, alicePassword, "prod")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.connect(alice, alicePassword, h.db.Name); !h.ambiguous(err) {
		t.Errorf("with sessions on both: %v", err)
	}
	_, _ = other.Close(context.Background()), again.Close(context.Background())
}

// Where somebody was counts for a minute.
func TestReconnectLater(t *testing.T) {
	t.Parallel()
	h := startAtHome(t)
	conn, _, err := h.connect(alice, alicePassword, "lab")
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close(context.Background())
	eventually.True(t, "the session is over", func() bool { return len(h.g.server.Sessions()) == 0 })
	h.ahead.Store(int64(time.Minute))
	if _, _, err := h.connect(alice, alicePassword, h.db.Name); !h.ambiguous(err) {
		t.Errorf("a minute later: %v", err)
	}
}
