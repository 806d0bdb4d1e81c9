package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/roles"
	"github.com/hourgate/hourgate/secrets"
)

// preflightTimeout is for all of one integration.
const preflightTimeout = time.Minute

// errPreflight is the end of a preflight with a fail; its lines have been printed.
var errPreflight = errors.New("some checks failed")

func preflightCommand() *cobra.Command {
	var file string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "preflight [integration]",
		Short: "Check what the servers let Hourgate do, and what they would let a tenant do",
		Long: "Logs in as the admin of each integration, or of the one that is named, and looks at the server and at the\n" +
			"databases that grants name. Nothing is changed. Each line is ok, warn or fail, with the SQL that mends it.\n" +
			"It exits with 1 if a check fails. docs/preflight.md explains each check.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, set, err := loadAll(file)
			if err != nil {
				return err
			}
			var integration string
			if len(args) > 0 {
				integration = args[0]
			}
			return runPreflight(cmd.Context(), cmd.OutOrStdout(), cfg, set, integration, asJSON)
		},
	}
	configFlag(cmd, &file)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, a line for each check")
	return cmd
}

func runPreflight(ctx context.Context, out io.Writer, cfg config, set *policy.Set, integration string, asJSON bool) error {
	chosen, err := cfg.choose(integration)
	if err != nil {
		return err
	}
	failed := false
	for _, i := range chosen {
		checks, err := preflightOf(ctx, cfg, i, set.Databases(i.Name))
		if err != nil {
			return &runtimeError{err}
		}
		for _, c := range checks {
			failed = failed || c.Status == roles.Fail
			if err := printCheck(out, i.Name, c, asJSON); err != nil {
				return &runtimeError{err}
			}
		}
	}
	if failed {
		return &runtimeError{errPreflight}
	}
	return nil
}

func preflightOf(ctx context.Context, cfg config, i integrationConfig, databases []string) ([]roles.Check, error) {
	ctx, cancel := context.WithTimeout(ctx, preflightTimeout)
	defer cancel()
	keeper, err := cfg.keeper(ctx, i, nil)
	if err != nil {
		return nil, err
	}
	defer keeper.Close(ctx) //nolint:errcheck // it has made no role
	return keeper.Preflight(ctx, databases), nil
}

func printCheck(out io.Writer, integration string, c roles.Check, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(struct {
			Integration string `json:"integration"`
			roles.Check
		}{integration, c})
	}
	place := integration
	if c.Database != "" {
		place += "/" + c.Database
	}
	_, err := fmt.Fprintf(out, "%-4s  %s  %s: %s\n", c.Status, place, c.Name, c.Detail)
	for _, line := range c.SQL {
		fmt.Fprintf(out, "        %s\n", line)
	}
	return err
}

// choose returns the integration of that name, or all if it is "".
func (c *config) choose(name string) ([]integrationConfig, error) {
	if name == "" {
		return c.Integrations, nil
	}
	for _, i := range c.Integrations {
		if i.Name == name {
			return []integrationConfig{i}, nil
		}
	}
	return nil, fmt.Errorf("the configuration has no integration %q", name)
}

// keeper is for the commands that work on one integration's roles without serving. A nil trail is for those that make and
// remove none.
func (c *config) keeper(ctx context.Context, i integrationConfig, trail roles.Trail) (*roles.Keeper, error) {
	server, err := upstream.New(i.server())
	if err != nil {
		return nil, fmt.Errorf("integration %s: %w", i.Name, err)
	}
	source, err := secrets.Open(ctx, i.Secret.For(server.Address()))
	if err != nil {
		return nil, fmt.Errorf("integration %s: %w", i.Name, err)
	}
	quiet := slog.New(slog.DiscardHandler)
	return roles.New(roles.Config{
		Integration: i.Name, Database: i.Database, Deployment: c.Deployment, Server: server,
		Secret: secrets.NewStore(source, secrets.StoreConfig{Log: quiet}), Trail: trail, Logger: quiet, Metrics: roles.NewMetrics(prometheus.NewRegistry()),
	}), nil
}

// preflight logs at the start what `hourgate preflight` prints, but for what is fine. It stops nobody: a server that is
// away or a database that is not ready yet must not keep the others from being served.
func (g *gate) preflight(ctx context.Context, integration string, keeper *roles.Keeper) {
	ctx, cancel := context.WithTimeout(ctx, preflightTimeout)
	defer cancel()
	for _, c := range keeper.Preflight(ctx, g.live.Set().Databases(integration)) {
		switch {
		case ctx.Err() != nil:
			return
		case c.Status == roles.Fail:
			g.log.Error("preflight check failed", "integration", integration, "database", c.Database, "check", c.Name, "detail", c.Detail, "sql", c.SQL)
		case c.Status == roles.Warn:
			g.log.Warn("preflight check has a warning", "integration", integration, "database", c.Database, "check", c.Name, "detail", c.Detail, "sql", c.SQL)
		}
	}
}
