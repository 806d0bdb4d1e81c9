package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"
)

// exitRefused is for what the gate refused to do.
const exitRefused = 3

// refusedError is what the gate said, in its own words.
type refusedError struct{ *pgconn.PgError }

func (e *refusedError) Error() string {
	text := e.Message
	if e.Detail != "" {
		text += "\nDetail: " + e.Detail
	}
	if e.Hint != "" {
		text += "\nHint: " + e.Hint
	}
	return text
}

// deskFlags say how to reach database "hourgate".
type deskFlags struct {
	connection, socket string
	json               bool
}

func (f *deskFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&f.connection, "dsn", "d", "", "connection string or URL, for what the PG* environment, ~/.pgpass and the service file don't say")
	cmd.Flags().StringVar(&f.socket, "socket", "", "the gate's admin socket, on its own machine, instead of a log-in")
	cmd.Flags().BoolVar(&f.json, "json", false, "print JSON")
}

// connect logs in to database "hourgate" as psql would: with the PG* environment, ~/.pgpass and the service file.
func (f *deskFlags) connect(ctx context.Context, stderr io.Writer) (*pgconn.PgConn, error) {
	connection := f.connection
	if f.socket != "" {
		connection = "host=/admin user=operator sslmode=disable" // dialled below
	}
	cfg, err := pgconn.ParseConfig(connection)
	if err != nil {
		return nil, err
	}
	cfg.Database = "hourgate"
	cfg.RuntimeParams["application_name"] = "hourgate"
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { fmt.Fprintln(stderr, n.Message) }
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = 15 * time.Second
	}
	if f.socket != "" {
		cfg.Fallbacks = nil
		cfg.LookupFunc = func(context.Context, string) ([]string, error) { return []string{"admin"}, nil }
		cfg.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, "unix", f.socket)
		}
	}
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	var dial *net.OpError
	if errors.As(err, &dial) && f.socket != "" {
		return nil, failed(fmt.Errorf("%s: %w: --socket is the admin_socket of a gate that runs", f.socket, dial.Err))
	}
	if err != nil {
		return nil, told(err)
	}
	return conn, nil
}

// told marks what the gate itself has said.
func told(err error) error {
	var said *pgconn.PgError
	if errors.As(err, &said) {
		return &refusedError{said}
	}
	return failed(err)
}

// say sends one statement with parameters and prints what it gives.
func (f *deskFlags) say(cmd *cobra.Command, statement string, args ...string) error {
	conn, err := f.connect(cmd.Context(), cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(cmd.Context()))
	_, err = f.sayOn(cmd.Context(), conn, cmd.OutOrStdout(), statement, args...)
	return err
}

// sayOn is say on a connection. It returns the rows, too.
func (f *deskFlags) sayOn(ctx context.Context, conn *pgconn.PgConn, stdout io.Writer, statement string, args ...string) ([]map[string]any, error) {
	var values [][]byte
	for _, arg := range args {
		values = append(values, []byte(arg))
	}
	result := conn.ExecParams(ctx, statement, values, nil, nil, nil).Read()
	if result.Err != nil {
		return nil, told(result.Err)
	}
	var columns []string
	for _, d := range result.FieldDescriptions {
		columns = append(columns, d.Name)
	}
	rows := make([]map[string]any, 0, len(result.Rows))
	for _, row := range result.Rows {
		object := make(map[string]any, len(columns))
		for i, value := range row {
			switch {
			case value == nil:
				object[columns[i]] = nil
			case columns[i] == "id" && isNumber(value):
				object[columns[i]] = json.Number(value)
			default:
				object[columns[i]] = string(value)
			}
		}
		rows = append(rows, object)
	}
	if stdout == nil {
		return rows, nil
	}
	if f.json {
		encoder := json.NewEncoder(stdout)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		return rows, failed(encoder.Encode(rows))
	}
	return rows, failed(printTable(stdout, columns, result.Rows))
}

func isNumber(value []byte) bool {
	return len(value) > 0 && len(value) < 19 && strings.Trim(string(value), "0123456789") == ""
}

// printTable prints rows below their columns; one row alone is printed as a list of its columns.
func printTable(w io.Writer, columns []string, rows [][][]byte) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	switch {
	case len(rows) == 0:
		fmt.Fprintln(w, "nothing")
		return nil
	case len(rows) == 1 && len(columns) == 1:
		fmt.Fprintf(w, "%s\n", rows[0][0])
		return nil
	case len(rows) == 1:
		for i, column := range columns {
			if rows[0][i] != nil {
				fmt.Fprintf(table, "%s\t%s\n", column, rows[0][i])
			}
		}
		return table.Flush()
	}
	fmt.Fprintln(table, strings.Join(columns, "\t"))
	for _, row := range rows {
		words := make([]string, len(row))
		for i, value := range row {
			words[i] = string(value)
		}
		fmt.Fprintln(table, strings.Join(words, "\t"))
	}
	return table.Flush()
}
