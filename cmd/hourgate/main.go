// Hourgate stands in front of PostgreSQL and lets people in by the hour: see README.md.
//
// This file is the command line; each subcommand has a file of its own, and gate.go wires the packages together.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/hourgate/hourgate/internal/strictyaml"
)

// version is set by the linker; see the Makefile.
var version = "unknown"

// Exit codes.
const (
	exitOK      = 0
	exitRuntime = 1
	exitUsage   = 2 // the command line, the configuration or the policy is wrong

	// exitConfig is that of serve with a wrong configuration or policy: EX_CONFIG of sysexits.h. It is not 2, with which a Go program
	// ends that panics: a service manager must start that again, and this one not.
	exitConfig = 78
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is the program without its process: tests call it.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := &cobra.Command{
		Use:           "hourgate",
		Version:       version,
		Short:         "An access gate for PostgreSQL that opens by the hour",
		Long:          "Hourgate stands in front of PostgreSQL, on RDS or anywhere else. People connect with the client that they use already and\nget exactly the access that they were granted, for exactly as long, under a database role that exists only for them.",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetVersionTemplate("hourgate {{.Version}}\n")
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(&cleanWriter{w: stdout})
	root.SetErr(stderr)
	root.AddCommand(
		initCommand(), doctorCommand(), serveCommand(), checkCommand(), passwdCommand(), demoCommand(), preflightCommand(), setupSQLCommand(),
		rolesCommand(), integrationsCommand(), discoverCommand(), trailCommand(), explainCommand(), whoCanCommand(), grantsCommand(), versionCommand(),
	)

	root.AddCommand(accessCommands()...)

	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	shown := &cleanWriter{w: stderr}
	var problems strictyaml.Problems
	var failure *runtimeError
	var refused *refusedError
	var unfit *unfitError
	switch {
	case errors.As(err, &unfit):
		fmt.Fprintln(shown, err)
		return exitConfig
	case errors.As(err, &refused):
		fmt.Fprintf(shown, "hourgate: %v\n", err)
		return exitRefused
	case errors.Is(err, errChecked):
		return exitUsage
	case errors.Is(err, errNobody):
		return exitRuntime
	case errors.As(err, &problems): // each names its file and place
		fmt.Fprintln(shown, err)
		return exitUsage
	case errors.As(err, &failure):
		fmt.Fprintf(shown, "hourgate: %v\n", err)
		return exitRuntime
	default:
		fmt.Fprintf(shown, "hourgate: %v\nRun 'hourgate --help' for the commands and their flags.\n", err)
		return exitUsage
	}
}

// runtimeError is a failure that is not the command line's or the configuration's fault.
type runtimeError struct{ error }

func (e *runtimeError) Unwrap() error { return e.error }

// failed marks an error as a runtime error, unless it is nil.
func failed(err error) error {
	if err == nil {
		return nil
	}
	return &runtimeError{err}
}
