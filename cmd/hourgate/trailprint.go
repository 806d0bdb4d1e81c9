package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/hourgate/hourgate/audit"
)

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
