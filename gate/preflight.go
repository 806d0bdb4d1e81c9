package gate

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/roles"
	"github.com/hourgate/hourgate/roles/preflight"
	"github.com/hourgate/hourgate/secrets"
)

// preflightTimeout is for all of one integration.
const preflightTimeout = time.Minute

// Choose returns the integration of that name, or all if it is "".
func (c *Config) Choose(name string) ([]Integration, error) {
	if name == "" {
		return c.Integrations, nil
	}
	for _, i := range c.Integrations {
		if i.Name == name {
			return []Integration{i}, nil
		}
	}
	return nil, fmt.Errorf("the configuration has no integration %q", name)
}

// Keeper is for the commands that work on one integration's roles without serving; close it. A nil trail is for those that
// make and remove none.
func (c *Config) Keeper(ctx context.Context, i Integration, trail roles.Trail) (*roles.Keeper, error) {
	quiet := slog.New(slog.DiscardHandler)
	w := wiring{log: quiet, secrets: new(secrets.Opener), admins: new(admins), roles: roles.Config{
		Deployment: c.Deployment, Trail: trail, Logger: quiet, Metrics: roles.NewMetrics(prometheus.NewRegistry()),
	}}
	m, err := w.open(ctx, i, false)
	if err != nil {
		return nil, err
	}
	m.stop() // nothing of it runs in the background
	return m.keeper, nil
}

// Preflight looks at one integration's server, and at the databases on it that the policy names.
func (c *Config) Preflight(ctx context.Context, i Integration, set *policy.Set) ([]preflight.Check, error) {
	ctx, cancel := context.WithTimeout(ctx, preflightTimeout)
	defer cancel()
	keeper, err := c.Keeper(ctx, i, nil)
	if err != nil {
		return nil, err
	}
	defer keeper.Close(ctx) //nolint:errcheck // it has made no role
	return keeper.Preflight().Checks(ctx, set.Databases(i.Name)), nil
}

func (m *member) look(ctx context.Context, set *policy.Set) []preflight.Check {
	server := m.keeper.Preflight()
	release, err := server.Pool.Patient(ctx)
	if err != nil {
		return nil
	}
	defer release()
	ctx, cancel := context.WithTimeout(ctx, preflightTimeout)
	defer cancel()
	return server.Checks(ctx, set.Databases(m.name))
}

// preflight logs what `hourgate preflight` prints, except what is fine. It stops nobody: a server that is away or a
// database that is not ready yet must not keep the others from being served.
func (m *member) preflight(ctx context.Context, log *slog.Logger, set *policy.Set) {
	name := m.name
	for _, c := range m.look(ctx, set) {
		switch {
		case ctx.Err() != nil:
			return
		case c.Status == preflight.Fail:
			log.Error("preflight check failed", "integration", name, "database", c.Database, "check", c.Name, "detail", c.Detail, "sql", c.SQL)
		case c.Status == preflight.Warn:
			log.Warn("preflight check has a warning", "integration", name, "database", c.Database, "check", c.Name, "detail", c.Detail, "sql", c.SQL)
		}
	}
}
