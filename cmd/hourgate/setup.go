package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func setupSQLCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "setup-sql INTEGRATION",
		Short: "Print the SQL that sets a server up, once",
		Long: "Prints what a DBA runs once on an integration's server: a stable role that makes all roles of Hourgate, so that\n" +
			"they can be removed after the admin's user was replaced too, and its memberships. It looks at the server and\n" +
			"changes nothing. Hourgate uses the role as soon as it connects anew.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, set, err := load(cmd, file)
			if err != nil {
				return err
			}
			chosen, err := cfg.Choose(args[0])
			if err != nil {
				return err
			}
			keeper, err := cfg.Keeper(cmd.Context(), chosen[0], nil)
			if err != nil {
				return failed(err)
			}
			defer keeper.Close(cmd.Context()) //nolint:errcheck // it has made no role
			var others []string
			for _, database := range set.Databases(chosen[0].Name) {
				if database != chosen[0].Database {
					others = append(others, database)
				}
			}
			sql, err := keeper.Preflight().SetupSQL(cmd.Context(), others)
			if err == nil {
				_, err = fmt.Fprint(cmd.OutOrStdout(), sql)
			}
			return failed(err)
		},
	}
	configFlag(cmd, &file)
	return cmd
}
