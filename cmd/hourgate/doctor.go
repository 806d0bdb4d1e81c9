package main

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hourgate/hourgate/gate"
	"github.com/hourgate/hourgate/roles/preflight"
)

// errDoctor is the end of a doctor's visit with a fail; its lines have been printed.
var errDoctor = errors.New("something fails")

func doctorCommand() *cobra.Command {
	var file string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look at everything that the gate depends on, and say what mends it",
		Long: "Looks at the configuration and the policy, the certificate, the ports, the trail, and at each server: the way to it,\n" +
			"the secret, the clock, and what `hourgate preflight` looks at. Each line is ok, warn or fail, with what mends it.\n" +
			"Nothing is changed, and it may be run beside a gate that is running; run it as the gate's user.\n" +
			"It exits with 0 if nothing fails, with 1 if something does, and with 2 if the configuration or the policy is wrong.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			findings, err := gate.Doctor(cmd.Context(), file)
			failing := false
			for _, f := range findings {
				failing = failing || f.Status == preflight.Fail
				if err := printFinding(cmd, f, asJSON); err != nil {
					return failed(err)
				}
			}
			switch {
			case err != nil:
				return errors.New("the configuration or the policy is wrong")
			case failing:
				return failed(errDoctor)
			}
			return nil
		},
	}
	configFlag(cmd, &file)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, a line for each check")
	return cmd
}

func printFinding(cmd *cobra.Command, f gate.Finding, asJSON bool) error {
	out := cmd.OutOrStdout()
	if asJSON {
		return json.NewEncoder(out).Encode(f)
	}
	if f.Integration != "" {
		if err := printCheck(out, f.Integration, f.Check, false); err != nil {
			return err
		}
	} else if _, err := fmt.Fprintf(out, "%-4s  %s: %s\n", f.Status, f.Name, f.Detail); err != nil {
		return err
	}
	if f.Mend != "" {
		fmt.Fprintf(out, "        %s\n", f.Mend)
	}
	return nil
}
