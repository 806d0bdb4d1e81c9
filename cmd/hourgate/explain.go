package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/hourgate/hourgate/gate"
	"github.com/hourgate/hourgate/policy"
)

// errNobody is the end of a question whose answer is no; the answer has been printed.
var errNobody = errors.New("no")

// moment is a flag for a time. The zero value is now.
type moment struct{ time.Time }

// Set reads RFC 3339, which is the form that policy files have.
func (m *moment) Set(text string) (err error) {
	if m.Time, err = time.Parse(time.RFC3339, text); err != nil {
		return errors.New("want a time with an offset, such as 2026-11-22T17:00:00Z")
	}
	return nil
}

func (m *moment) Type() string { return "time" }

func (m *moment) String() string {
	if m.IsZero() {
		return "now"
	}
	return m.Format(time.RFC3339)
}

func (m *moment) orNow() time.Time {
	if m.IsZero() {
		return time.Now()
	}
	return m.Time
}

// explanation is what `hourgate explain --json` prints.
type explanation struct {
	User        string    `json:"user"`
	Asked       string    `json:"asked"`
	At          time.Time `json:"at"`
	Allowed     bool      `json:"allowed"`
	Grant       string    `json:"grant,omitempty"`
	Integration string    `json:"integration,omitempty"`
	Database    string    `json:"database,omitempty"`
	Access      string    `json:"access,omitempty"`
	Until       time.Time `json:"until,omitzero"`
	Reason      string    `json:"reason,omitempty"` // why not, from a closed set
	Because     string    `json:"because,omitempty"`
	Detail      string    `json:"detail,omitempty"`
	Hint        string    `json:"hint,omitempty"`
	Groups      []string  `json:"groups,omitempty"`
}

func explainCommand() *cobra.Command {
	var file string
	var at moment
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "explain USER DATABASE",
		Short: "Say why somebody gets in, or why not",
		Long: "Decides as the gate does, on the policy files that the configuration names, whether USER may connect with DATABASE\n" +
			"as the database's name, and says by what grant, or why not. It exits with 0 if so, with 1 if not. Grants from\n" +
			"requests are not in the files: 'hourgate grants list --socket' asks a running gate for them.",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, set, err := gate.Load(file)
			if err != nil {
				return err
			}
			filesOnly(cmd, set)
			e := explain(set, args[0], args[1], at.orNow())
			if asJSON {
				err = json.NewEncoder(cmd.OutOrStdout()).Encode(e)
			} else {
				e.print(cmd.OutOrStdout())
			}
			if err == nil && !e.Allowed {
				err = errNobody
			}
			return failed(err)
		},
	}
	configFlag(cmd, &file)
	cmd.Flags().Var(&at, "at", "the moment to decide for")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func explain(set *policy.Set, user, database string, now time.Time) explanation {
	e := explanation{User: user, Asked: database, At: now.UTC(), Groups: set.Groups(user)}
	switch {
	case set.Disabled(user):
		e.Reason, e.Because = "disabled", fmt.Sprintf("the policy has %s as disabled: the log-in fails as with a wrong password", user)
		return e
	case !set.Known(user):
		e.Reason, e.Because = "unknown_user", fmt.Sprintf("the policy has no user %q: the log-in fails as with a wrong password", user)
		return e
	}
	d := set.Decide(policy.Request{User: user, Database: database}, now)
	if d.Grant == nil {
		e.Reason, e.Because, e.Detail, e.Hint = string(d.Reason), d.Message, d.Detail, d.Hint
		return e
	}
	e.Allowed, e.Grant, e.Integration, e.Database = true, d.Grant.Name, d.Integration, d.Database
	e.Access, e.Until = d.Grant.Access.String(), d.Grant.Until.UTC()
	return e
}

func (e *explanation) print(out io.Writer) {
	if e.Allowed {
		fmt.Fprintf(out, "yes: grant %s lets %s connect to database %s of %s with %s until %s\n",
			e.Grant, e.User, e.Database, e.Integration, e.Access, e.Until.Format(time.DateTime+" MST"))
		return
	}
	fmt.Fprintf(out, "no: %s\n", e.Because)
	for _, more := range []string{e.Detail, e.Hint} {
		if more != "" {
			fmt.Fprintf(out, "    %s\n", more)
		}
	}
	if len(e.Groups) > 0 {
		fmt.Fprintf(out, "    groups: %s\n", strings.Join(e.Groups, ", "))
	}
}

func whoCanCommand() *cobra.Command {
	var file string
	var at moment
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "who-can INTEGRATION[/DATABASE]",
		Short: "List who may connect to a database, and by what",
		Long: "Lists everybody whom the policy files let connect to a database, with the grant that counts, and the group if they\n" +
			"have it by one. It exits with 0 if there is anybody, with 1 if not. Grants from requests are not in the files:\n" +
			"'hourgate grants list --socket' asks a running gate for them.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, set, err := gate.Load(file)
			if err != nil {
				return err
			}
			filesOnly(cmd, set)
			integration, database, named := strings.Cut(args[0], "/")
			standard, known := set.Default(integration)
			if !known {
				return fmt.Errorf("the configuration has no integration %q", integration)
			}
			switch {
			case !named:
				database = standard
			case database == "":
				return fmt.Errorf("%q names no database: want %s, or %s/DATABASE", args[0], integration, integration)
			}
			holders := set.Holders(integration, database, at.orNow())
			if err := printHolders(cmd.OutOrStdout(), holders, integration, database, asJSON); err != nil {
				return failed(err)
			}
			if len(holders) == 0 {
				return failed(fmt.Errorf("nobody may connect to %s/%s then", integration, database))
			}
			return nil
		},
	}
	configFlag(cmd, &file)
	cmd.Flags().Var(&at, "at", "the moment to decide for")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, a line for each person")
	return cmd
}

func printHolders(out io.Writer, holders []policy.Holder, integration, database string, asJSON bool) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if !asJSON && len(holders) > 0 {
		fmt.Fprintln(table, "USER\tACCESS\tUNTIL\tGRANT\tTHROUGH")
	}
	for _, h := range holders {
		if asJSON {
			if err := json.NewEncoder(out).Encode(map[string]any{
				"user": h.User, "integration": integration, "database": database, "grant": h.Grant.Name, "access": h.Grant.Access.String(),
				"until": h.Grant.Until.UTC(), "through": h.Through,
			}); err != nil {
				return err
			}
			continue
		}
		through := "by name"
		if h.Through != "" {
			through = "group " + h.Through
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", h.User, h.Grant.Access, h.Grant.Until.UTC().Format(time.DateTime), h.Grant.Name, through)
	}
	return table.Flush()
}
