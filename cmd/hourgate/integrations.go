package main

import (
	"encoding/json"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/hourgate/hourgate/gate"
)

func integrationsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "integrations",
		Short: "Look at the integrations, those of the configuration and those that discovery finds",
	}
	cmd.AddCommand(integrationsListCommand())
	return cmd
}

func integrationsListCommand() *cobra.Command {
	var file string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the integrations, whether each is ready, or why not",
		Long: "Asks discovery, logs in to each server as its admin and looks at it as `hourgate preflight` does. Nothing is changed,\n" +
			"and it works whether a gate runs or not. It exits with 1 if a source of discovery could not be asked.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, set, err := gate.Load(file)
			if err != nil {
				return err
			}
			states, unasked := cfg.States(cmd.Context(), set)
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			if !asJSON {
				fmt.Fprintln(table, "INTEGRATION\tFROM\tSERVER\tREADY")
			}
			for _, s := range states {
				if asJSON {
					if err := json.NewEncoder(cmd.OutOrStdout()).Encode(s); err != nil {
						return failed(err)
					}
					continue
				}
				ready := "yes"
				if s.NotReady != "" {
					ready = "no: " + s.NotReady
				}
				fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", visible(s.Name), visible(s.Place), visible(s.Server), visible(ready))
				for _, line := range s.SQL {
					fmt.Fprintf(table, "\t\t\t    %s\n", line)
				}
			}
			if err := table.Flush(); err != nil {
				return failed(err)
			}
			return failed(unasked)
		},
	}
	configFlag(cmd, &file)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, a line for each integration")
	return cmd
}
