package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/hourgate/hourgate/gate"
	"github.com/hourgate/hourgate/policy"
)

func grantsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "grants", Short: "Look at the grants of the policy files"}
	cmd.AddCommand(grantsListCommand())
	return cmd
}

func grantsListCommand() *cobra.Command {
	var file string
	var at moment
	var all bool
	var desk deskFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the grants that are live",
		Long: "Lists the grants of the policy files that are live. With --socket or --dsn it asks a running gate instead, as an operator,\n" +
			"and lists what is in force there: what came of requests, too.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if desk.socket != "" || desk.connection != "" {
				return desk.say(cmd, "SHOW GRANTS")
			}
			_, set, err := gate.Load(file)
			if err != nil {
				return err
			}
			filesOnly(cmd, set)
			return failed(listGrants(cmd.OutOrStdout(), set, at.orNow(), all, desk.json))
		},
	}
	configFlag(cmd, &file)
	cmd.Flags().Var(&at, "at", "the moment to decide for")
	cmd.Flags().BoolVar(&all, "all", false, "list those too that have ended or have not begun")
	desk.add(cmd)
	return cmd
}

// filesOnly says what policy files don't show, where people may ask for more.
func filesOnly(cmd *cobra.Command, set *policy.Set) {
	if set.FlowCount() > 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "This is what the policy files say. What came of requests, a running gate knows: hourgate grants list --socket SOCKET (admin_socket)")
	}
}

func listGrants(out io.Writer, set *policy.Set, now time.Time, all, asJSON bool) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if !asJSON {
		fmt.Fprintln(table, "GRANT\tSTATE\tWHO\tWHERE\tACCESS\tUNTIL\tREASON")
	}
	for _, g := range set.AllGrants() {
		state := "live"
		switch {
		case now.Before(g.From):
			state = "to come"
		case !g.Live(now):
			state = "ended"
		}
		if state != "live" && !all {
			continue
		}
		if asJSON {
			if err := json.NewEncoder(out).Encode(map[string]any{
				"grant": g.Name, "state": state, "users": g.Users, "groups": g.Groups, "integration": g.Integration, "databases": g.Databases,
				"access": g.Access.String(), "from": g.From.UTC(), "until": g.Until.UTC(), "reason": g.Reason,
			}); err != nil {
				return err
			}
			continue
		}
		who := policy.People{Users: g.Users, Groups: g.Groups}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s/%s\t%s\t%s\t%s\n", g.Name, state, who, g.Integration, strings.Join(g.Databases, ","),
			g.Access, g.Until.UTC().Format(time.DateTime), g.Reason)
	}
	return table.Flush()
}
