package gate

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/hourgate/hourgate/access/postgres"
	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/roles/preflight"
	"github.com/hourgate/hourgate/secrets"
)

// state looks at where requests are kept. Grants of the policy do not depend on it.
func (d *doctor) state(ctx context.Context) {
	s := d.cfg.State
	switch {
	case s == nil:
		d.add("", "state", preflight.OK, "", "there is none: nobody can ask for access")
	case s.File != "":
		// SQLite writes further files beside it.
		err := errors.Join(writable(s.File), writable(filepath.Join(filepath.Dir(s.File), ".doctor")))
		if err != nil {
			d.add("", "state", preflight.Fail, "the gate's user must be able to write the file and its folder", "%v", err)
			return
		}
		status, detail := preflight.OK, "can be written"
		if _, err := os.Stat(s.File); errors.Is(err, os.ErrNotExist) {
			detail = "will be made by the gate"
		}
		d.add("", "state", status, "", "%s %s", s.File, detail)
	case s.Postgres != nil:
		d.stateServer(ctx, *s.Postgres)
	}
}

// stateServer logs in where the state is, and changes nothing.
func (d *doctor) stateServer(ctx context.Context, i Integration) {
	ctx, cancel := context.WithTimeout(ctx, preflightTimeout)
	defer cancel()
	i.Name = "state"
	if !d.reach(ctx, i) || !d.secret(ctx, i) {
		return
	}
	server, err := upstream.New(i.server())
	if err != nil {
		return // Load has said so
	}
	source, err := secrets.Open(ctx, i.Secret.For(server.Address()))
	if err != nil {
		return // secret has said so
	}
	store := postgres.Open(postgres.Config{Server: server, Database: i.Database, Secret: secrets.NewStore(source, secrets.StoreConfig{Log: slog.New(slog.DiscardHandler)})})
	defer store.Close() //nolint:errcheck // nothing was written
	began := time.Now()
	now, err := store.Now(ctx)
	if err != nil {
		d.add(i.Name, "state", preflight.Fail, "", "%v", err)
		return
	}
	d.add(i.Name, "state", preflight.OK, "", "the database %s answers", i.Database)
	within := time.Since(began) / 2
	d.difference(i.Name, now.Sub(began.Add(within)), within)
}
