package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/hourgate/hourgate/cmd/hourgate/first"
	"github.com/hourgate/hourgate/gate"
)

func initCommand() *cobra.Command {
	var o first.Options
	var yes, keep bool
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Write all that a first gate needs, in front of a server of your own",
		Long: "Writes a configuration, a policy with a first person and a grant that is live, a certificate with an authority of\n" +
			"its own, and the SQL that makes Hourgate's admin user on the server. It asks for what no flag says. With a DBA's\n" +
			"log-in (--dba-user, and PGPASSWORD or a prompt) it looks at the server, so that the SQL is for its version and for\n" +
			"the owners in the database, and with --apply it runs the SQL; without, a DBA does, and --server-version and --owner\n" +
			"say what the SQL is for. Then it checks what is there, and says what comes next. It overwrites nothing.\n\n" +
			"The person's password is taken from HOURGATE_USER_PASSWORD, or made up and shown once.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if config := filepath.Join(o.Folder, "config.yaml"); keep {
				if _, err := os.Stat(config); err == nil {
					_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s is there and stays as it is\n", config)
					return failed(err)
				}
			}
			o.DBAPassword, o.UserPassword = os.Getenv("PGPASSWORD"), os.Getenv("HOURGATE_USER_PASSWORD")
			result, err := first.Run(cmd.Context(), o, first.NewAsker(cmd.InOrStdin(), cmd.ErrOrStderr(), yes), cmd.OutOrStdout())
			if usage := (*first.OptionsError)(nil); errors.As(err, &usage) {
				return err
			} else if err != nil {
				return failed(err)
			}
			return afterInit(cmd, result)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.Folder, "folder", "hourgate", "where the files go")
	flags.BoolVar(&keep, "keep", false, "if the folder has a configuration already, do nothing")
	flags.BoolVarP(&yes, "yes", "y", false, "ask nothing; what no flag says gets its default")
	flags.StringVar(&o.Host, "host", "", "the PostgreSQL server's host name")
	flags.Uint16Var(&o.Port, "port", 5432, "its port")
	flags.StringVar(&o.Database, "database", "", "the database that people want to get into")
	flags.StringVar(&o.Name, "name", "", "what people and policies call it (default: the database's name)")
	flags.StringVar((*string)(&o.SSLMode), "ssl-mode", "", "TLS to the server, as libpq's sslmode (default verify-full)")
	flags.StringVar(&o.SSLRootCert, "ssl-root-cert", "", "the authorities of its certificate: a file, rds or system (default: rds for Amazon RDS)")
	flags.StringVar(&o.AdminUser, "admin-user", "", "the user that Hourgate is to have on the server (default hourgate)")
	flags.StringVar(&o.DBAUser, "dba-user", "", "who looks at the server; the password comes from PGPASSWORD or a prompt")
	flags.BoolVar(&o.Apply, "apply", false, "run the admin's SQL as the DBA")
	flags.StringVar(&o.NewOwner, "new-owner", "", "the role that gets the objects whose owner can't be granted")
	flags.IntVar(&o.Major, "server-version", 0, "without a DBA's log-in: the server's major version")
	flags.StringSliceVar(&o.Owners, "owner", nil, "without a DBA's log-in: a role that owns the objects; may be given several times")
	flags.StringVar(&o.Listen, "listen", "", "where clients connect (default 127.0.0.1:6432)")
	flags.StringVar(&o.OpsListen, "ops-listen", "", "where /metrics and the health checks are (default 127.0.0.1:9187)")
	flags.StringVar(&o.GateHost, "gate-host", "", "the name that people connect to, for the certificate (default localhost)")
	flags.StringVar(&o.Trail, "trail", "", "the trail's file (default trail.jsonl in the folder; /var/lib/hourgate/trail.jsonl for /etc/hourgate)")
	flags.StringVar(&o.User, "user", "", "the first person, such as an e-mail address")
	flags.StringVar(&o.Access, "access", "", "what they may do: READ_ONLY, READ_WRITE or ADMIN (default READ_ONLY)")
	flags.DurationVar(&o.For, "for", 0, "how long (default 8h)")
	return cmd
}

// afterInit reads what was written as `check` and `preflight` do, and says what comes next.
func afterInit(cmd *cobra.Command, result first.Result) error {
	out := cmd.OutOrStdout()
	cfg, set, err := gate.Load(result.ConfigFile)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "checked    %s is fine\n", result.ConfigFile)
	var preflight error
	if result.Applied {
		fmt.Fprintln(out)
		preflight = runPreflight(cmd.Context(), out, cfg, set, "", false)
	}
	if preflight != nil && !errors.Is(preflight, errPreflight) {
		return preflight
	}
	result.NextSteps(out)
	return preflight
}
