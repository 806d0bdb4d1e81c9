package main

import (
	"github.com/spf13/cobra"

	"github.com/hourgate/hourgate/cmd/hourgate/demo"
)

func demoCommand() *cobra.Command {
	var keep bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show a gate in front of a PostgreSQL of its own",
		Long: "Starts a throw-away PostgreSQL and a gate in front of it, shows with psql what a person under a short grant can and\n" +
			"can't do and what is left when the grant has ended, and removes everything. Every step is checked: the exit code\n" +
			"is 1 if one did not do what it should. It needs PostgreSQL's programs on this machine, and nothing else.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return failed(demo.Run(cmd.Context(), unfiltered(cmd.OutOrStdout()), keep))
		},
	}
	cmd.Flags().BoolVar(&keep, "keep", false, "leave everything running until Ctrl-C, with a grant of an hour, to try it by hand")
	return cmd
}
