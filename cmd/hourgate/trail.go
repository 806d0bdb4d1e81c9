package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/hourgate/hourgate/audit"
)

func trailCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "trail",
		Short: "Read a trail, and check that it is whole",
	}
	cmd.AddCommand(trailShowCommand(), trailSearchCommand(), trailFollowCommand(), trailExportCommand(), trailVerifyCommand())
	return cmd
}

func trailVerifyCommand() *cobra.Command {
	var known []string
	cmd := &cobra.Command{
		Use:   "verify FILE...",
		Short: "Check that no record was changed, taken out or put in",
		Long: "Reads the files of a trail, the oldest first, as one, and checks each record's checksum, its number, and its hash\n" +
			"of the record before. It exits with 0 if the chain is whole, with 1 otherwise, and says which line is the first\n" +
			"that does not fit. A trail that is being written can be verified too.\n\n" +
			"That the end was not cut off, a chain can't show by itself. Keep the hash of the last record, which this prints,\n" +
			"where nobody who can write to the trail can write, and give it as --contains the next time.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, files []string) error {
			return failed(verifyTrail(cmd.OutOrStdout(), files, known))
		},
	}
	cmd.Flags().StringArrayVar(&known, "contains", nil, "a `hash` that a record must have; may be given more than once")
	return cmd
}

func verifyTrail(out io.Writer, files, known []string) error {
	var all []io.Reader
	for _, name := range files {
		f, err := audit.OpenFile(name)
		if err != nil {
			return err
		}
		defer f.Close()
		all = append(all, f)
	}
	s, err := audit.Verify(io.MultiReader(all...), known...)
	if s.Records > 0 {
		fmt.Fprintf(out, "records    %d to %d, %s to %s\n", s.FirstSeq, s.LastSeq, s.FirstTime.Format(time.RFC3339), s.LastTime.Format(time.RFC3339))
		fmt.Fprintf(out, "last hash  %s\n", s.LastHash)
		if s.FirstSeq > 1 {
			fmt.Fprintf(out, "before     %s, the hash of record %d, which is in an older file\n", s.FirstPrev, s.FirstSeq-1)
		}
		if s.Recovered > 0 {
			fmt.Fprintf(out, "recovered  %d, after the death of a gate\n", s.Recovered)
		}
	}
	switch {
	case errors.Is(err, audit.ErrTorn):
		return fmt.Errorf("%w. A gate is writing it, or has died there: verify again, or start the gate, which sets it aside", err)
	case err != nil:
		return err
	case s.Records == 0:
		return errors.New("no record")
	}
	_, err = fmt.Fprintln(out, "the chain is whole")
	return err
}
