package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hourgate/hourgate/gate"
)

func checkCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check configuration and policy without starting",
		Long: "Reads the configuration and the policy files that it names and prints everything that is wrong in them, each\n" +
			"with file, line and column. It exits with 0 if nothing is, with 2 otherwise. No server is contacted.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, set, err := gate.Load(file)
			if err != nil {
				return err
			}
			for _, remark := range set.Remarks() {
				if _, err := fmt.Fprintln(cmd.OutOrStdout(), remark); err != nil {
					return failed(err)
				}
			}
			users, grants := set.Size()
			if set.HasFlows() && cfg.State == nil {
				fmt.Fprintln(cmd.OutOrStdout(), "access_flows mean nothing without state in the configuration: nobody can ask")
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is fine: %d integration(s), %d user(s), %d grant(s)\n",
				file, len(cfg.Integrations), users, grants)
			return failed(err)
		},
	}
	configFlag(cmd, &file)
	return cmd
}

func configFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVarP(file, "config", "c", "config.yaml", "the configuration file")
}
