package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/hourgate/hourgate/gate"
	"github.com/hourgate/hourgate/internal/discover"
	"github.com/hourgate/hourgate/policy"
)

func discoverCommand() *cobra.Command {
	var file string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "discover",
		Short: "Print which servers discovery would find, and why others are left out",
		Long: "Asks all sources of the configuration's discovery once. It connects to no PostgreSQL server, fetches no secret and\n" +
			"changes nothing. It exits with 1 if a source could not be asked. docs/discovery.md explains the settings.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := gate.LoadConfig(file)
			if err != nil {
				return err
			}
			if len(cfg.Discovery) == 0 {
				return failed(errors.New("the configuration has no discovery"))
			}
			report, err := cfg.Discover(cmd.Context())
			if err != nil {
				return failed(err)
			}
			if asJSON {
				err = printReportJSON(cmd.OutOrStdout(), report)
			} else {
				err = printReport(cmd.OutOrStdout(), report)
			}
			return failed(errors.Join(err, report.Failures()))
		},
	}
	configFlag(cmd, &file)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, a line for each server and each place that was asked")
	return cmd
}

// load reads configuration and policy, and adds the integrations that discovery finds now. What can't be asked at the moment
// is said and stops nobody from working on the rest.
func load(cmd *cobra.Command, file string) (gate.Config, *policy.Set, error) {
	cfg, set, err := gate.Load(file)
	if err != nil {
		return cfg, set, err
	}
	cfg, set, unasked := cfg.AddDiscovered(cmd.Context(), set)
	if unasked != nil {
		fmt.Fprintf(cmd.ErrOrStderr(), "hourgate: some servers could not be looked for:\n%v\n", unasked)
	}
	return cfg, set, nil
}

// printReport prints a table. What tags and files say stays within its line.
func printReport(out io.Writer, r discover.Report) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "INTEGRATION\tFOUND AS\tSERVER\tREADERS\tLABELS\tSECRET\tREADY")
	for _, i := range r.Integrations {
		ready := "yes"
		if i.NotReady != "" {
			ready = "no: " + i.NotReady
		}
		fmt.Fprintf(table, "%s\t%s, %s\t%s\t%d\t%s\t%s\t%s\n",
			visible(i.Name), visible(i.Identifier), visible(i.Place.String()), visible(server(i.Writer)), len(i.Readers), visible(labelText(i.Labels)), visible(secretOf(i)), visible(ready))
	}
	err := table.Flush()
	fmt.Fprintf(out, "\n%d integration(s), %d server(s) left out\n", len(r.Integrations), len(r.LeftOut))
	for _, l := range r.LeftOut {
		fmt.Fprintf(out, "  %s, %s: %s\n", visible(l.Identifier), visible(l.Place.String()), visible(l.Why))
	}
	for _, s := range r.Status {
		if s.Err != nil {
			fmt.Fprintf(out, "not asked: %s: %v\n", s.Place, s.Err)
		}
	}
	return err
}

func server(s discover.Server) string {
	switch {
	case s.Port == 0:
		return "-"
	case s.Name != "":
		return fmt.Sprintf("%s as %s", s, s.Name)
	}
	return s.String()
}

func labelText(labels map[string]discover.Label) string {
	var text []string
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		text = append(text, key+"="+labels[key].Value)
	}
	if text == nil {
		return "-"
	}
	return strings.Join(text, ",")
}

func secretOf(i discover.Integration) string {
	switch {
	case i.Secret.AWSSecretsManager != nil:
		return i.Secret.AWSSecretsManager.SecretID
	case len(i.Secret.Places()) > 0:
		return i.Secret.Places()[0]
	}
	return "-"
}

func printReportJSON(out io.Writer, r discover.Report) error {
	encoder := json.NewEncoder(out)
	var errs []error
	for _, i := range r.Integrations {
		labels := make(map[string]string, len(i.Labels))
		for key, label := range i.Labels {
			labels[key] = label.Value
		}
		readers := make([]string, 0, len(i.Readers))
		for _, reader := range i.Readers {
			readers = append(readers, reader.String())
		}
		errs = append(errs, encoder.Encode(map[string]any{
			"integration": i.Name, "identifier": i.Identifier, "id": i.ID, "place": i.Place.String(), "server": server(i.Writer), "readers": readers,
			"labels": labels, "secret": secretOf(i), "ready": i.NotReady == "", "why": i.NotReady,
		}))
	}
	for _, l := range r.LeftOut {
		errs = append(errs, encoder.Encode(map[string]any{"left_out": l.Identifier, "place": l.Place.String(), "why": l.Why}))
	}
	for _, s := range r.Status {
		line := map[string]any{"asked": s.Place.String(), "found": s.Found}
		if s.Err != nil {
			line["error"] = s.Err.Error()
		}
		errs = append(errs, encoder.Encode(line))
	}
	return errors.Join(errs...)
}
