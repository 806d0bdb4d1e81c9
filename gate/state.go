package gate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hourgate/hourgate/access"
	"github.com/hourgate/hourgate/access/postgres"
	"github.com/hourgate/hourgate/access/sqlite"
	"github.com/hourgate/hourgate/internal/strictyaml"
	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/secrets"
)

// StateConfig is where requests and decisions are kept: one of the two.
type StateConfig struct {
	File     string       `yaml:"file"`
	Postgres *Integration `yaml:"postgres"`
}

// openAccess opens the state, if there is any, and puts in force what it says. A state in PostgreSQL that can't be reached
// now is no reason to stay shut: the grants of the files are in force, and those of requests will be.
func (g *Gate) openAccess(ctx context.Context, set *policy.Set) error {
	cfg := access.Config{
		Live: g.live, Files: set, Trail: g.trail, Logger: g.log, Registry: g.registry,
		MarkFile: g.cfg.Audit.File + ".state", LockFile: g.cfg.Audit.File + ".locks",
	}
	for _, n := range g.cfg.Notifications {
		cfg.Channels = append(cfg.Channels, n.Name)
	}
	store, err := g.openStore(ctx)
	if err != nil {
		return fmt.Errorf("state: %w", err)
	}
	if store != nil {
		cfg.Store = store
		g.closers = append(g.closers, store.Close)
	}
	if g.access, err = access.New(cfg); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	g.closers = append(g.closers, g.access.Close)
	if err := g.openNotifications(store); err != nil {
		return err
	}
	if err := g.access.Refresh(ctx); err != nil {
		g.log.Error("the state of requests can't be reached: grants from requests are not in force", "error", err)
	}
	return nil
}

// openStore returns nil where the configuration has no state.
func (g *Gate) openStore(ctx context.Context) (access.Store, error) {
	switch s := g.cfg.State; {
	case s == nil:
		return nil, nil //nolint:nilnil // no state is no error
	case s.Postgres == nil:
		store, err := sqlite.Open(ctx, s.File)
		if err != nil {
			return nil, err
		}
		return store, nil
	default:
		return g.openPostgres(ctx, *s.Postgres)
	}
}

// openPostgres logs in as it does with integrations: the same TLS, the same secrets, rotated in the same way.
func (g *Gate) openPostgres(ctx context.Context, i Integration) (access.Store, error) {
	server, err := upstream.New(i.server())
	if err != nil {
		return nil, err
	}
	source, err := secrets.Open(ctx, i.Secret.For(server.Address()))
	if err != nil {
		return nil, err
	}
	secret := secrets.NewStore(source, secrets.StoreConfig{Log: g.log})
	g.background = append(g.background, secret.Run)
	return postgres.Open(postgres.Config{Server: server, Database: i.Database, Secret: secret}), nil
}

// stateConfig checks what state says.
func (v *validation) stateConfig(s *StateConfig) {
	switch {
	case s.File == "" && s.Postgres == nil:
		v.report("state", "want file or postgres")
	case s.File != "" && s.Postgres != nil:
		v.report("state", "has file and postgres: want one of them")
	case s.Postgres != nil:
		if s.Postgres.Name != "" {
			v.report("state.postgres.name", "has no meaning here")
		}
		v.server("state.postgres", s.Postgres)
	}
}

// state opens the files that state names, as far as that changes nothing.
func (v *validation) state(s *StateConfig) {
	switch {
	case s == nil:
	case s.File != "":
		folder := filepath.Dir(s.File)
		if info, err := os.Stat(folder); err != nil || !info.IsDir() {
			v.report("state.file", "the folder %s does not exist", folder)
		} else if info, err := os.Stat(s.File); err == nil && info.Mode().Perm()&0o077 != 0 {
			v.report("state.file", "others may read or write it (mode %04o): chmod 600 it", info.Mode().Perm())
		}
	case s.Postgres != nil:
		settings := s.Postgres.server()
		var found strictyaml.Problems
		if _, err := upstream.New(settings); len(settings.Problems()) == 0 && errors.As(err, &found) {
			v.adopt("state.postgres", found)
		}
	}
}
