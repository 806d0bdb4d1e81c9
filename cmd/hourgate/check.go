package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/hourgate/hourgate/gate"
	"github.com/hourgate/hourgate/internal/strictyaml"
	"github.com/hourgate/hourgate/policy"
)

func checkCommand() *cobra.Command {
	var file string
	var asJSON, strict bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check configuration and policy without starting",
		Long: "Reads the configuration and the policy files that it names and prints everything that is wrong in them, each\n" +
			"with file, line and column. It exits with 0 if nothing is, with 2 otherwise. Warnings are about what is valid and\n" +
			"yet dangerous or probably not meant, such as a secret that everybody can read. No server is contacted.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := check(file)
			if asJSON {
				err = errors.Join(failed(json.NewEncoder(cmd.OutOrStdout()).Encode(r)), err)
				if len(r.Problems) > 0 {
					return errChecked
				}
			}
			if err != nil {
				return err
			}
			if !asJSON {
				r.print(cmd.OutOrStdout(), file)
			}
			if strict && len(r.Warnings) > 0 {
				return errChecked
			}
			return nil
		},
	}
	configFlag(cmd, &file)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON: problems, warnings, remarks and counts")
	cmd.Flags().BoolVar(&strict, "strict", false, "exit with 2 if there are warnings")
	return cmd
}

// errChecked is the end of a check whose findings have been printed.
var errChecked = errors.New("see above")

// checkResult is what `hourgate check --json` prints.
type checkResult struct {
	Problems     strictyaml.Problems `json:"problems"`
	Warnings     strictyaml.Problems `json:"warnings"`
	Remarks      []string            `json:"remarks"` // on what grants leave behind, and what means nothing now
	Integrations int                 `json:"integrations"`
	Users        int                 `json:"users"`
	Live         int                 `json:"grants_live"`
	Future       int                 `json:"grants_to_come"`
	Ended        int                 `json:"grants_ended"`
	Flows        int                 `json:"access_flows"`
}

func check(file string) (checkResult, error) {
	cfg, set, err := gate.Load(file)
	r := checkResult{Problems: strictyaml.Problems{}, Warnings: strictyaml.Problems{}, Remarks: []string{}}
	errors.As(err, &r.Problems)
	r.Warnings = append(r.Warnings, cfg.Warnings()...)
	r.Integrations = len(cfg.Integrations)
	if set == nil {
		return r, err
	}
	r.Warnings = append(r.Warnings, set.Warnings()...)
	r.Remarks = append(r.Remarks, set.Remarks()...)
	if set.FlowCount() > 0 && cfg.State == nil {
		r.Remarks = append(r.Remarks, "access_flows mean nothing without state in the configuration: nobody can ask")
	}
	r.count(set, time.Now())
	return r, err
}

// count counts grants, and says of those that have ended or not begun that they have, where no other lets anybody in.
func (r *checkResult) count(set *policy.Set, now time.Time) {
	r.Users, _ = set.Size()
	r.Live, r.Future, r.Ended = set.Counts(now)
	r.Flows = set.FlowCount()
	if r.Live > 0 || r.Future+r.Ended == 0 {
		return
	}
	grants := set.AllGrants()
	last := slices.MaxFunc(grants, func(a, b *policy.Grant) int { return a.Until.Compare(b.Until) })
	if r.Future == 0 {
		r.Remarks = append(r.Remarks, fmt.Sprintf("no grant is live: all have ended, the last one, %s, at %s: nobody gets in", last.Name, last.Until.UTC().Format(time.DateTime+" MST")))
	} else {
		r.Remarks = append(r.Remarks, "no grant is live yet: nobody gets in now")
	}
}

func (r *checkResult) print(out io.Writer, file string) {
	for _, w := range r.Warnings {
		fmt.Fprintf(out, "warning: %s\n", w)
	}
	for _, remark := range r.Remarks {
		fmt.Fprintln(out, remark)
	}
	fmt.Fprintf(out, "%s is fine: %d integration(s), %d user(s), %d grant(s): %d live, %d to come, %d ended; %d access flow(s)\n",
		file, r.Integrations, r.Users, r.Live+r.Future+r.Ended, r.Live, r.Future, r.Ended, r.Flows)
}

func configFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVarP(file, "config", "c", "config.yaml", "the configuration file")
}
