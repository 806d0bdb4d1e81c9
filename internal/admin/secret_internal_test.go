package admin

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"

	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/secrets"
)

type source struct {
	atomic.Pointer[secrets.Credential]
}

func (s *source) Fetch(_ context.Context, stage secrets.Stage) (secrets.Credential, error) {
	if stage != secrets.Current {
		return secrets.Credential{}, secrets.ErrNoStage
	}
	return *s.Load(), nil
}

func (s *source) String() string { return "the test" }

func (s *source) set(user, password string) {
	s.Store(&secrets.Credential{Username: user, Password: secrets.NewPassword(password)})
}

// A secret that comes to name a user who can log in and make no roles does not replace the one that works; one whose user never
// could is used, so that somebody can say what it lacks.
func TestSecretOfTheWrongUser(t *testing.T) {
	t.Parallel()
	db := pgtest.Start(t, 18).Database(t)
	server, err := upstream.New(upstream.Config{Host: db.Server.Host, Port: uint16(db.Server.Port), SSLMode: upstream.VerifyFull, RootCert: db.Server.CAFile})
	if err != nil {
		t.Fatal(err)
	}
	s := new(source)
	store := secrets.NewStore(s, secrets.StoreConfig{})
	login := func(p *Pool) (user string) {
		t.Helper()
		conn, err := p.connect(t.Context(), db.Name)
		if err != nil {
			t.Fatal(err)
		}
		defer shut(conn)
		return conn.Login
	}
	pool := func() *Pool {
		return NewPool(Config{Integration: "orders", Database: db.Name, Application: "test", Server: server, Secret: store, Log: slog.New(slog.DiscardHandler)})
	}
	s.set(db.Admin, db.AdminPassword)
	p := pool()
	if got := login(p); got != db.Admin {
		t.Fatalf("logged in as %s", got)
	}
	s.set(db.Owner, db.OwnerPassword)
	if err := store.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := login(p); got != db.Admin {
		t.Errorf("logged in as %s, want %s", got, db.Admin)
	}
	store = secrets.NewStore(s, secrets.StoreConfig{})
	if got := login(pool()); got != db.Owner {
		t.Errorf("a new pool logged in as %s, want %s", got, db.Owner)
	}
}
