package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/gate"
)

// trailReader is what the commands that read a trail have in common.
type trailReader struct {
	config string
	files  []string
	filter audit.Filter
	event  string
	since  string
	before string
	format string
	whole  bool
}

func trailShowCommand() *cobra.Command {
	r := &trailReader{}
	cmd := &cobra.Command{
		Use:   "show [FILE...]",
		Short: "Show who did what",
		Long:  "Shows the records of a trail, the oldest first, each with the person whose session it was. " + readerHelp,
		RunE: func(cmd *cobra.Command, args []string) error {
			r.files = args
			return r.run(cmd)
		},
	}
	r.flags(cmd, "table")
	return cmd
}

func trailSearchCommand() *cobra.Command {
	r := &trailReader{}
	cmd := &cobra.Command{
		Use:   "search TEXT [FILE...]",
		Short: "Show who asked for something",
		Long:  "Shows the records whose statement, values or names have TEXT anywhere, in any case. " + readerHelp,
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.filter.Text, r.files = args[0], args[1:]
			return r.run(cmd)
		},
	}
	r.flags(cmd, "table")
	return cmd
}

func trailExportCommand() *cobra.Command {
	r := &trailReader{}
	cmd := &cobra.Command{
		Use:   "export [FILE...]",
		Short: "Write the records for a spreadsheet or another program",
		Long:  "Writes the records of a trail as CSV, or JSON with --format json, whole and each with the person whose session it was. " + readerHelp,
		RunE: func(cmd *cobra.Command, args []string) error {
			r.files = args
			return r.run(cmd)
		},
	}
	r.flags(cmd, "csv")
	return cmd
}

func trailFollowCommand() *cobra.Command {
	r := &trailReader{}
	var from uint64
	cmd := &cobra.Command{
		Use:   "follow [FILE]",
		Short: "Show records as they are written",
		Long: "Shows what is recorded from now on, or from a record with --from, until it is interrupted, also across rotation.\n" +
			"FILE is the trail; without it, the one of the configuration.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.files = args
			return r.follow(cmd, from)
		},
	}
	r.flags(cmd, "table")
	cmd.Flags().Uint64Var(&from, "from", 0, "begin with the record of this `number`; the first is 1")
	return cmd
}

const readerHelp = "Without FILE it reads the\n" +
	"trail of the configuration with what rotation has left next to it, also compressed files. It does not check the chain\n" +
	"from file to file: that is what 'hourgate trail verify' is for."

func (r *trailReader) flags(cmd *cobra.Command, format string) {
	configFlag(cmd, &r.config)
	f := cmd.Flags()
	f.StringVar(&r.filter.User, "user", "", "only of this `user`")
	f.StringVar(&r.filter.Integration, "integration", "", "only of this `integration`")
	f.StringVar(&r.filter.Grant, "grant", "", "only of this `grant`")
	f.StringVar(&r.filter.Session, "session", "", "only of this `session`")
	f.StringVar(&r.filter.Role, "role", "", "only of this database `role`")
	f.StringVar(&r.event, "event", "", "only of this `event`, such as statement")
	f.StringVar(&r.since, "since", "", "only from this `time` on: 2026-11-25, 2026-11-25T14:00:00Z, or how long ago, such as 90m")
	f.StringVar(&r.before, "before", "", "only before this `time`")
	f.StringVar(&r.format, "format", format, "table, json (a line for each record) or csv")
	f.BoolVar(&r.whole, "whole", false, "don't cut long texts in a table")
}

// prepare checks the flags and finds the files.
func (r *trailReader) prepare() (err error) {
	if r.filter.Since, err = when(r.since, "--since"); err != nil {
		return err
	}
	if r.filter.Before, err = when(r.before, "--before"); err != nil {
		return err
	}
	if !r.filter.Since.IsZero() && !r.filter.Before.IsZero() && !r.filter.Since.Before(r.filter.Before) {
		return fmt.Errorf("--since is %s, which is not before --before, %s: no record can be between them",
			r.filter.Since.UTC().Format(time.RFC3339), r.filter.Before.UTC().Format(time.RFC3339))
	}
	r.filter.Event = audit.Event(r.event)
	if r.event != "" && !r.filter.Event.Known() {
		return fmt.Errorf("--event: there is no event %q: docs/trail.md lists them", r.event)
	}
	if len(r.files) > 0 {
		return nil
	}
	cfg, _, err := gate.Load(r.config)
	if err != nil {
		return err
	}
	r.files = []string{cfg.Audit.File}
	return nil
}

// when reads a time, or how long ago.
func when(text, flag string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil {
		return time.Now().Add(-ago.Abs()), nil // -90m is meant like 90m
	}
	for _, layout := range []string{time.RFC3339Nano, time.DateOnly, "2006-01-02T15:04", time.DateTime} {
		if at, err := time.Parse(layout, text); err == nil {
			return at, nil
		}
	}
	return time.Time{}, fmt.Errorf("%s: %q is no time: write 2026-11-25, 2026-11-25T14:00:00Z, or how long ago, such as 90m", flag, text)
}

func (r *trailReader) run(cmd *cobra.Command) error {
	named := len(r.files) > 0
	if err := r.prepare(); err != nil {
		return err
	}
	files := r.files
	if !named {
		var err error
		if files, err = audit.Files(files[0]); err != nil {
			return failed(err)
		}
		if _, err := os.Stat(r.files[0]); len(files) == 0 && errors.Is(err, fs.ErrNotExist) {
			return failed(fmt.Errorf("%s: there is no trail yet: a gate makes it at its first start", r.files[0]))
		} else if len(files) == 0 && err != nil {
			return failed(err)
		}
	}
	show, flush, err := r.printer(cmd.OutOrStdout())
	if err != nil {
		return err
	}
	shown := 0
	pairs := audit.Pairer{Emit: func(rec *audit.Record) error {
		if !r.filter.Match(rec) {
			return nil
		}
		shown++
		return show(rec)
	}}
	read, err := r.readFiles(cmd, files, &pairs)
	if err = errors.Join(pairs.Flush(), flush(), err); err == nil && shown == 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "hourgate: nothing to show: %d record(s) were read, and none is as the flags say\n", read)
	}
	return failed(err)
}

// readFiles gives all records to pairs, and returns how many there were.
func (r *trailReader) readFiles(cmd *cobra.Command, files []string, pairs *audit.Pairer) (read int, err error) {
	var joiner audit.Joiner
	var unreadable *fs.PathError
	for _, name := range files {
		n, err := readTrail(name, &joiner, pairs)
		read += n
		switch {
		case errors.Is(err, audit.ErrTorn): // no more of this file
			fmt.Fprintf(cmd.ErrOrStderr(), "hourgate: %s: %v, which is not shown. A gate is writing it just now, or has died there\n", name, err)
		case errors.As(err, &unreadable):
			return read, fmt.Errorf("%s: %w", name, unreadable.Err)
		case err != nil:
			return read, fmt.Errorf("%s: %w. Run 'hourgate trail verify'", name, err)
		}
	}
	return read, nil
}

func readTrail(name string, joiner *audit.Joiner, pairs *audit.Pairer) (read int, err error) {
	in, err := audit.OpenFile(name)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	for record, err := range audit.All(in) {
		if err != nil {
			return read, err
		}
		read++
		joiner.Join(&record)
		if err := pairs.Add(&record); err != nil {
			return read, err
		}
	}
	return read, nil
}

func (r *trailReader) follow(cmd *cobra.Command, from uint64) error {
	if err := r.prepare(); err != nil {
		return err
	}
	file := r.files[0]
	if from == 0 {
		last, err := audit.LastSeq(file)
		if err != nil {
			return failed(err)
		}
		from = last + 1
	}
	show, flush, err := r.printer(cmd.OutOrStdout())
	if err != nil {
		return err
	}
	var joiner audit.Joiner
	for record, err := range audit.Follow(cmd.Context(), file, from) {
		if err != nil {
			return failed(err)
		}
		joiner.Join(&record)
		if !r.filter.Match(&record) {
			continue
		}
		if err := errors.Join(show(&record), flush()); err != nil {
			return failed(err)
		}
	}
	if errors.Is(cmd.Context().Err(), context.Canceled) {
		return nil
	}
	return failed(cmd.Context().Err())
}
