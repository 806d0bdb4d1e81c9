package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/hourgate/hourgate/gate"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/roles/preflight"
)

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
			cfg, set, err := load(cmd, file)
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

func runPreflight(ctx context.Context, out io.Writer, cfg gate.Config, set *policy.Set, integration string, asJSON bool) error {
	chosen, err := cfg.Choose(integration)
	if err != nil {
		return err
	}
	failed := false
	for _, i := range chosen {
		checks, err := cfg.Preflight(ctx, i, set)
		if err != nil {
			return &runtimeError{err}
		}
		for _, c := range checks {
			failed = failed || c.Status == preflight.Fail
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

func printCheck(out io.Writer, integration string, c preflight.Check, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(struct {
			Integration string `json:"integration"`
			preflight.Check
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
