package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/gate"
	"github.com/hourgate/hourgate/roles"
)

func rolesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "roles",
		Short: "Look at the ephemeral roles on the servers, and end them",
		Long: "The servers themselves say which roles there are, so these commands work whether a gate runs or not. A gate that\n" +
			"runs writes the trail; these commands then write to a file of their own next to it, with .cli at the end.",
	}
	cmd.AddCommand(rolesListCommand(), rolesSettleCommand(), rolesSweepCommand())
	return cmd
}

func rolesListCommand() *cobra.Command {
	var file string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list [integration]",
		Short: "List the ephemeral roles",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, _, err := load(cmd, file)
			if err != nil {
				return err
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			if !asJSON {
				fmt.Fprintln(table, "INTEGRATION\tROLE\tUSER\tGRANT\tUNTIL\tSESSIONS\tSTATE")
			}
			err = eachKeeper(cmd.Context(), cfg, args, nil, func(name string, k *roles.Keeper) error {
				return listRoles(cmd.Context(), table, cmd.OutOrStdout(), name, k, asJSON)
			})
			return errors.Join(err, failed(table.Flush()))
		},
	}
	configFlag(cmd, &file)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, a line for each role")
	return cmd
}

func listRoles(ctx context.Context, table, out io.Writer, integration string, k *roles.Keeper, asJSON bool) error {
	listed, err := k.List(ctx)
	if err != nil {
		return err
	}
	for _, r := range listed {
		if asJSON {
			if err := json.NewEncoder(out).Encode(struct {
				Integration string `json:"integration"`
				roles.Listed
			}{integration, r}); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%d\t%s\n", integration, r.Name, r.User, r.Grant, r.Until.UTC().Format(time.DateTime), r.Sessions, r.State)
	}
	return nil
}

func rolesSettleCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "settle NAME",
		Short: "End a role and everything of it, now",
		Long:  "Ends the sessions of one role of this deployment and removes it, even while a gate uses it. The grant stays: whoever\nhas it gets a new role with the next session. To end a grant, change the policy.",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return changeRoles(cmd, file, func(name string, k *roles.Keeper) error {
				err := k.Settle(cmd.Context(), args[0])
				if errors.Is(err, roles.ErrNoRole) {
					return err
				}
				if err == nil {
					fmt.Fprintf(cmd.OutOrStdout(), "%s is gone from %s\n", args[0], name)
					return errDone
				}
				return err
			})
		},
	}
	configFlag(cmd, &file)
	return cmd
}

func rolesSweepCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "sweep",
		Short: "End all roles that no running gate answers for",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return changeRoles(cmd, file, func(name string, k *roles.Keeper) error {
				err := k.Sweep(cmd.Context())
				if err == nil {
					fmt.Fprintf(cmd.OutOrStdout(), "%s is swept\n", name)
				}
				return err
			})
		},
	}
	configFlag(cmd, &file)
	return cmd
}

// errDone ends a walk over the integrations.
var errDone = errors.New("done")

// changeRoles runs fn for each integration, with a trail.
func changeRoles(cmd *cobra.Command, file string, fn func(name string, k *roles.Keeper) error) error {
	cfg, _, err := load(cmd, file)
	if err != nil {
		return err
	}
	trail, err := openTrail(cfg)
	if err != nil {
		return failed(err)
	}
	err = eachKeeper(cmd.Context(), cfg, nil, trail, fn)
	if errors.Is(err, errDone) {
		err = nil
	}
	return failed(errors.Join(err, trail.Close()))
}

// openTrail opens the trail, or one next to it if a gate that runs writes the trail itself.
func openTrail(cfg gate.Config) (*audit.Trail, error) {
	options := audit.Options{Sync: cfg.Audit.Sync, Deployment: cfg.Deployment, SpoolFolder: cfg.Audit.SpoolFolder}
	trail, err := audit.Open(cfg.Audit.File, options)
	if errors.Is(err, audit.ErrLocked) {
		trail, err = audit.Open(cfg.Audit.File+".cli", options)
	}
	return trail, err
}

// eachKeeper runs fn for the integrations that args name, or for all. What fails for one does not keep it from the others;
// a role that one does not know may be another's.
func eachKeeper(ctx context.Context, cfg gate.Config, args []string, trail roles.Trail, fn func(name string, k *roles.Keeper) error) error {
	var only string
	if len(args) > 0 {
		only = args[0]
	}
	chosen, err := cfg.Choose(only)
	if err != nil {
		return err
	}
	var errs []error
	for _, i := range chosen {
		keeper, err := cfg.Keeper(ctx, i, trail)
		if err == nil {
			err = errors.Join(fn(i.Name, keeper), keeper.Close(ctx))
		}
		if errors.Is(err, errDone) {
			return errDone
		}
		if err != nil {
			errs = append(errs, &runtimeError{fmt.Errorf("%s: %w", i.Name, err)})
		}
	}
	return errors.Join(errs...)
}
