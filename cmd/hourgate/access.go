package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"
)

// statement collects clauses whose values are parameters, so that nothing has to be quoted.
type statement struct {
	text strings.Builder
	args []string
}

func (s *statement) add(words string, value string) {
	if value == "" {
		return
	}
	s.args = append(s.args, value)
	fmt.Fprintf(&s.text, " %s $%d", words, len(s.args))
}

// deskCommand is a subcommand that says one statement.
func deskCommand(use, short, long string, args cobra.PositionalArgs, build func(cmd *cobra.Command, args []string) *statement) *cobra.Command {
	var flags deskFlags
	cmd := &cobra.Command{Use: use, Short: short, Long: long, Args: args}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s := build(cmd, args)
		return flags.say(cmd, strings.TrimSpace(s.text.String()), s.args...)
	}
	flags.add(cmd)
	return cmd
}

const deskLong = "It speaks to database hourgate of the gate with your own log-in, as psql does: PGHOST, PGPORT, PGUSER, PGPASSWORD,\n" +
	"~/.pgpass, a service file, or --dsn. The exit code is 3 when the gate says no."

func show(use, short, text string) *cobra.Command {
	return deskCommand(use, short, short+".\n\n"+deskLong, cobra.NoArgs, func(*cobra.Command, []string) *statement {
		s := &statement{}
		s.text.WriteString(text)
		return s
	})
}

// about is a subcommand about one request.
func about(use, short, verb string, clauses map[string]string) *cobra.Command {
	values := make(map[string]*string)
	cmd := deskCommand(use+" REQUEST", short, short+".\n\n"+deskLong, cobra.ExactArgs(1), func(_ *cobra.Command, args []string) *statement {
		s := &statement{}
		s.add(verb, args[0])
		for _, clause := range []string{"for", "as", "reason"} {
			if values[clause] != nil {
				s.add(strings.ToUpper(clause), *values[clause])
			}
		}
		return s
	})
	for clause, help := range clauses {
		values[clause] = cmd.Flags().String(clause, "", help)
	}
	return cmd
}

// accessCommands are those that speak to database hourgate.
func accessCommands() []*cobra.Command {
	const why, long = "why", "how long, such as 2h or '90 minutes'"
	return []*cobra.Command{
		requestCommand(), accessCommand(), lockCommand(),
		show("requests", "List your requests, and those that you decide", "SHOW REQUESTS"),
		show("sessions", "List your sessions; an operator sees all", "SHOW SESSIONS"),
		about("approve", "Approve a request or an extension", "APPROVE", map[string]string{"for": "shorten it, such as 1h; required for an extension", "as": "lower it, such as READ_ONLY", "reason": why}),
		about("deny", "Deny a request or an extension", "DENY", map[string]string{"reason": why}),
		about("extend", "Ask for more time; sessions go on", "EXTEND", map[string]string{"for": long, "reason": why}),
		about("end", "End your access, withdraw your request, or revoke one that you decide", "END", map[string]string{"reason": why}),
		about("review", "Review somebody's use of break-glass", "REVIEW", map[string]string{"reason": "what you found"}),
		deskCommand("kill SESSION", "End a session", "Ends a session of yours; an operator ends any.\n\n"+deskLong, cobra.ExactArgs(1), func(_ *cobra.Command, args []string) *statement {
			s := &statement{}
			s.add("KILL", args[0])
			return s
		}),
		deskCommand("unlock user|grant|integration|all [NAME]", "Lift a lock", "Lifts a lock (operators).\n\n"+deskLong, lockArgs, func(_ *cobra.Command, args []string) *statement {
			return lockStatement("UNLOCK", args)
		}),
	}
}

// lockKinds are what a lock can stop.
var lockKinds = []string{"user", "grant", "integration", "all"}

func lockArgs(_ *cobra.Command, args []string) error {
	switch {
	case len(args) == 0 || !slices.Contains(lockKinds, args[0]):
		return errors.New("want user, grant or integration and a name, or all")
	case (args[0] == "all") != (len(args) == 1) || len(args) > 2:
		return fmt.Errorf("want one name after %s, and none after all", args[0])
	}
	return nil
}

// lockStatement writes the kind as a word, since it is one of a few.
func lockStatement(verb string, args []string) *statement {
	s := &statement{}
	s.text.WriteString(verb + " " + strings.ToUpper(args[0]))
	for _, name := range args[1:] {
		s.add("", name)
	}
	return s
}

func lockCommand() *cobra.Command {
	var reason, length, until string
	cmd := deskCommand("lock user|grant|integration|all [NAME]", "Stop a user, a grant, an integration or everything",
		"Ends the sessions at once and refuses log-ins, which are told the reason, until the lock is lifted or its time is over.\n"+
			"It is for operators. On the gate's machine, --socket works without a log-in, also when the state can't be reached.\n\n"+deskLong,
		lockArgs, func(_ *cobra.Command, args []string) *statement {
			s := lockStatement("LOCK", args)
			s.add("FOR", length)
			s.add("UNTIL", until)
			s.add("REASON", reason)
			return s
		})
	cmd.Flags().StringVar(&reason, "reason", "", "why, which those are told who are locked out; required")
	cmd.Flags().StringVar(&length, "for", "", "how long, such as 2h; until it is lifted when left out")
	cmd.Flags().StringVar(&until, "until", "", "until when, such as '2026-11-25 18:00' (UTC)")
	return cmd
}

func requestCommand() *cobra.Command {
	var flags deskFlags
	var level, length, reason, flow string
	var breakGlass bool
	var wait time.Duration
	cmd := &cobra.Command{
		Use: "request TARGET", Short: "Ask for access, such as: hourgate request orders-prod --access READ_WRITE --for 2h --reason 'INC-4211 refund'",
		Long: "Asks for access to an integration, or to integration/database. hourgate access lists what you can ask for.\n\n" + deskLong, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s := &statement{}
			verb := "REQUEST"
			if breakGlass {
				verb = "BREAK GLASS"
			}
			s.add(verb, level)
			s.add("ON", args[0])
			s.add("FOR", length)
			s.add("REASON", reason)
			s.add("UNDER", flow)
			return flags.request(cmd, strings.TrimSpace(s.text.String()), s.args, wait)
		},
	}
	flags.add(cmd)
	cmd.Flags().StringVar(&level, "access", "READ_ONLY", "READ_ONLY, READ_WRITE, ADMIN, or as hourgate access shows it")
	cmd.Flags().StringVar(&length, "for", "", "how long, such as 2h or '90 minutes'; the flow's default when left out")
	cmd.Flags().StringVar(&reason, "reason", "", "why")
	cmd.Flags().StringVar(&flow, "flow", "", "under which access flow; the first that fits when left out")
	cmd.Flags().BoolVar(&breakGlass, "break-glass", false, "in an emergency: at once, short, and to be reviewed")
	cmd.Flags().DurationVar(&wait, "wait", 0, "wait this long for the decision; the exit code is 3 when it is no, or not yet")
	return cmd
}

// request files a request and, if asked to, waits for its decision.
func (f *deskFlags) request(cmd *cobra.Command, text string, args []string, wait time.Duration) error {
	conn, err := f.connect(cmd.Context(), cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(cmd.Context()))
	shown := cmd.OutOrStdout()
	if wait > 0 {
		shown = nil
	}
	rows, err := f.sayOn(cmd.Context(), conn, shown, text, args...)
	if err != nil || wait <= 0 {
		return err
	}
	rows, err = f.sayOn(cmd.Context(), conn, cmd.OutOrStdout(), "WAIT $1 FOR $2", fmt.Sprint(rows[0]["id"]), wait.String())
	if err != nil {
		return err
	}
	if state := fmt.Sprint(rows[0]["state"]); !strings.HasPrefix(state, "active") && !strings.HasPrefix(state, "approved") {
		return &refusedError{&pgconn.PgError{Message: fmt.Sprintf("request %v is %s", rows[0]["id"], state)}}
	}
	return nil
}

// watchEvery is how often access --watch looks.
const watchEvery = 2 * time.Second

// shownAccess is what a person was shown last, and the connection that it came by.
type shownAccess struct {
	conn *pgconn.PgConn
	text string
}

// show prints what a person has, if that is something else than what they were shown last. After an error it connects anew.
func (s *shownAccess) show(cmd *cobra.Command, f *deskFlags) (err error) {
	ctx, cancel := context.WithTimeout(cmd.Context(), 30*time.Second)
	defer cancel()
	if s.conn == nil {
		if s.conn, err = f.connect(ctx, cmd.ErrOrStderr()); err != nil {
			return err
		}
	}
	var now strings.Builder
	if _, err := f.sayOn(ctx, s.conn, &now, "SHOW ACCESS"); err != nil {
		s.close(ctx)
		return err
	}
	if now.String() != s.text {
		fmt.Fprint(cmd.OutOrStdout(), now.String())
	}
	s.text = now.String()
	return nil
}

func (s *shownAccess) close(ctx context.Context) {
	if s.conn != nil {
		_ = s.conn.Close(context.WithoutCancel(ctx)) // it has said what it had to
	}
	s.conn = nil
}

// loggedOut reports whether a log-in was refused for who it is of: the user is gone, locked, or has another password.
func loggedOut(err error) bool {
	var refused *refusedError
	return errors.As(err, &refused) && pgerrcode.IsInvalidAuthorizationSpecification(refused.Code)
}

func accessCommand() *cobra.Command {
	var flags deskFlags
	var watch bool
	cmd := &cobra.Command{
		Use: "access", Short: "List what you have, until when, and what you can ask for", Long: "Lists what you have, until when, and what you can ask for.\n\n" + deskLong, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var shown shownAccess
			defer func() { shown.close(cmd.Context()) }()
			if err := shown.show(cmd, &flags); err != nil || !watch {
				return err
			}
			for {
				select {
				case <-cmd.Context().Done():
					return nil
				case <-time.After(watchEvery):
				}
				if err := shown.show(cmd, &flags); err != nil && loggedOut(err) {
					return err
				}
				// Anything else passes: a gate that is started again, a network that is away.
			}
		},
	}
	flags.add(cmd)
	cmd.Flags().BoolVar(&watch, "watch", false, "go on, and print it again when it has changed")
	return cmd
}
