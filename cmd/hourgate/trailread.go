package main

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
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
		return time.Now().Add(-ago), nil
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
	show, flush, err := r.printer(cmd.OutOrStdout())
	if err != nil {
		return err
	}
	files := r.files
	if !named {
		if files, err = audit.Files(files[0]); err != nil {
			return failed(err)
		}
	}
	var joiner audit.Joiner
	pairs := audit.Pairer{Emit: func(rec *audit.Record) error {
		if !r.filter.Match(rec) {
			return nil
		}
		return show(rec)
	}}
	for _, name := range files {
		if err := r.readFile(name, &joiner, &pairs); err != nil {
			return failed(errors.Join(pairs.Flush(), flush(), fmt.Errorf("%s: %w. Run 'hourgate trail verify'", name, err)))
		}
	}
	return failed(errors.Join(pairs.Flush(), flush()))
}

func (r *trailReader) readFile(name string, joiner *audit.Joiner, pairs *audit.Pairer) error {
	in, err := audit.OpenFile(name)
	if err != nil {
		return err
	}
	defer in.Close()
	for record, err := range audit.All(in) {
		if errors.Is(err, audit.ErrTorn) { // being written just now
			return nil
		}
		if err != nil {
			return err
		}
		joiner.Join(&record)
		if err := pairs.Add(&record); err != nil {
			return err
		}
	}
	return nil
}

func (r *trailReader) follow(cmd *cobra.Command, from uint64) error {
	if err := r.prepare(); err != nil {
		return err
	}
	file := r.files[0]
	show, flush, err := r.printer(cmd.OutOrStdout())
	if err != nil {
		return err
	}
	if from == 0 {
		last, err := audit.LastSeq(file)
		if err != nil {
			return failed(err)
		}
		from = last + 1
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

// printer returns a function that prints a record, and one that ends the output.
func (r *trailReader) printer(out io.Writer) (show func(*audit.Record) error, flush func() error, err error) {
	none := func() error { return nil }
	switch r.format {
	case "table":
		if _, err := fmt.Fprintf(out, tableLine, "TIME", "USER", "INTEGRATION", "SESSION", "EVENT", "WHAT"); err != nil {
			return nil, nil, failed(err)
		}
		return func(rec *audit.Record) error { return printRow(out, rec, r.whole) }, none, nil
	case "json":
		enc := json.NewEncoder(out)
		enc.SetEscapeHTML(false)
		return func(rec *audit.Record) error { return enc.Encode(rec) }, none, nil
	case "csv":
		w := csv.NewWriter(out)
		columns := columnsOf(reflect.TypeFor[audit.Record]())
		var names []string
		for _, c := range columns {
			names = append(names, c.name)
		}
		err := w.Write(names)
		return func(rec *audit.Record) error { return w.Write(cells(rec, columns)) }, func() error { w.Flush(); return w.Error() }, err
	}
	return nil, nil, fmt.Errorf("--format: %q is none of table, json, csv", r.format)
}

const tableLine = "%-20s  %-20s  %-14s  %-16s  %-16s  %s\n"

// printRow prints a record in a line. Nothing that a client sent reaches the terminal as it is.
func printRow(out io.Writer, r *audit.Record, whole bool) error {
	what := describe(r, whole)
	_, err := fmt.Fprintf(out, tableLine, r.Time.UTC().Format("2006-01-02T15:04:05Z"), visible(r.User), visible(r.Integration), visible(r.Session), r.Event, visible(what))
	return err
}

// visible is text without control characters and such that only look like others.
func visible(text string) string {
	if strings.IndexFunc(text, func(c rune) bool { return !strconv.IsPrint(c) }) < 0 {
		return text
	}
	var b strings.Builder
	for _, c := range text {
		switch {
		case c == '\n' || c == '\t' || c == '\r':
			b.WriteByte(' ')
		case strconv.IsPrint(c):
			b.WriteRune(c)
		default:
			b.WriteString(strings.Trim(strconv.QuoteRune(c), "'"))
		}
	}
	return b.String()
}

// describe says in words what a record is about.
func describe(r *audit.Record, whole bool) string {
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	with := func(name, value string) {
		if value != "" {
			add("%s=%s", name, value)
		}
	}
	if r.Event == audit.SessionStatement {
		add("%s", r.Kind)
		with("prepared", r.Prepared)
		with("portal", r.Portal)
		if r.FunctionOID != 0 {
			add("function=%d", r.FunctionOID)
		}
		if text := r.Statement + string(r.StatementBase64); text != "" {
			add("%s", text)
		}
		for i, p := range r.Parameters {
			if r.Kind == audit.StatementMoreValues { // it does not say which
				add("…=%s", p)
			} else {
				add("$%d=%s", i+1, p)
			}
		}
		if r.StatementBytes != 0 {
			add("(%d bytes)", r.StatementBytes)
		}
		return clip(strings.Join(parts, " "), whole) + became(r)
	}
	if r.Event == audit.StatementResult {
		if r.Call == 0 {
			return "of the server's own accord" + became(r)
		}
		return fmt.Sprintf("of call %d", r.Call) + became(r)
	}
	with("grant", r.Grant)
	with("access", r.Access)
	with("database", r.Database)
	if r.Database == "" {
		with("requested", r.Requested)
	}
	with("role", r.Role)
	with("from", r.RemoteAddr)
	with("application", r.Application)
	with("reason", r.Reason)
	with("cause", r.Cause)
	with("code", r.Code)
	if r.Count > 0 {
		add("count=%d", r.Count)
	}
	if r.Duration > 0 {
		add("after %.1fs", r.Duration)
	}
	if r.BytesFromClient+r.BytesFromUpstream > 0 {
		add("%d bytes up, %d down", r.BytesFromClient, r.BytesFromUpstream)
	}
	with("dropped", strings.Join(r.Dropped, ", "))
	with("quarantined", strings.Join(r.Quarantined, ", "))
	with("held by", strings.Join(r.HeldBy, ", "))
	with("error", r.Error)
	return clip(strings.Join(parts, " "), whole)
}

// clip cuts what is too long for a line of a table.
func clip(text string, whole bool) string {
	if runes := []rune(text); !whole && len(runes) > 300 {
		return string(runes[:300]) + "…"
	}
	return text
}

// became says what became of a statement, as far as that is recorded.
func became(r *audit.Record) string {
	if r.Command == "" {
		return ""
	}
	text := " → " + r.Command
	if r.Code != "" {
		text += " " + r.Code
	}
	if strings.Contains(r.Command, audit.ResultSuspended) {
		text += fmt.Sprintf(", %d rows", r.Rows)
	}
	if r.Duration > 0 {
		text += fmt.Sprintf(" (%.1f ms)", r.Duration*1000)
	}
	if r.ResultsLost > 0 {
		text += fmt.Sprintf(", %d results before it were lost", r.ResultsLost)
	}
	return text
}

// column is a field of a record, as its JSON names it.
type column struct {
	name  string
	index []int
}

func columnsOf(t reflect.Type) (columns []column) {
	for _, f := range reflect.VisibleFields(t) {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && name != "-" {
			columns = append(columns, column{name, f.Index})
		}
	}
	return columns
}

// cells are a record's values for a spreadsheet. A text that a spreadsheet would take for a formula gets a quote in front.
func cells(r *audit.Record, columns []column) (row []string) {
	v := reflect.ValueOf(r).Elem()
	for _, c := range columns {
		field := v.FieldByIndex(c.index)
		text := ""
		switch x := field.Interface().(type) {
		case string:
			text = x
		case time.Time:
			if !x.IsZero() {
				text = x.UTC().Format(time.RFC3339Nano)
			}
		default:
			if !field.IsZero() {
				b, err := json.Marshal(x)
				if err != nil {
					b = []byte(err.Error())
				}
				text = strings.Trim(string(b), `"`)
			}
		}
		if text != "" && strings.ContainsRune("=+-@\t\r", rune(text[0])) {
			text = "'" + text
		}
		row = append(row, text)
	}
	return row
}
