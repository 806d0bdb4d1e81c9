package console

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/hourgate/hourgate/internal/relay"
)

// parrot is a console whose statements are their own answer: "FAIL" is an error, and a dollar stands for a parameter.
type parrot struct{}

func (parrot) Describe(sql string) (Description, error) {
	if strings.Contains(sql, "FAIL") {
		return Description{}, &Error{Message: "no"}
	}
	return Description{Parameters: strings.Count(sql, "$"), Columns: []string{"said"}}, nil
}

func (parrot) Run(_ context.Context, sql string, args []*string, notice func(string)) (Result, error) {
	if len(args) != strings.Count(sql, "$") {
		panic("wrong number of arguments")
	}
	notice("hear")
	rows := [][]*string{{&sql}}
	for _, a := range args {
		rows = append(rows, []*string{a})
	}
	return Result{Rows: rows}, nil
}

func (parrot) Close() {}

// deaf is a client that has said all that it says, and hears everything.
type deaf struct {
	net.Conn // nil: what is not below is not called
	says     *bytes.Reader
	heard    bytes.Buffer // the loop's goroutine
}

func (d *deaf) Read(b []byte) (int, error)       { return d.says.Read(b) }
func (d *deaf) Write(b []byte) (int, error)      { return d.heard.Write(b) }
func (d *deaf) SetReadDeadline(time.Time) error  { return nil }
func (d *deaf) SetWriteDeadline(time.Time) error { return nil }

// converse sends a client's bytes to a console, and returns what came back and how it ended.
func converse(input []byte) (output []byte, err error) {
	client := &deaf{says: bytes.NewReader(input)}
	err = New(Config{
		Client: client, Handler: parrot{}, Log: slog.New(slog.DiscardHandler), MaxMessage: 1 << 20,
		Record: func(context.Context, string) error { return nil },
	}).Serve(context.Background())
	return client.heard.Bytes(), err
}

// FuzzConsole: no bytes make the console panic or hang, all that it says is of the protocol, and there is one ReadyForQuery
// at most for each Query, each Sync and each FunctionCall.
func FuzzConsole(f *testing.F) {
	var extended []byte
	for _, m := range []pgproto3.FrontendMessage{
		&pgproto3.Parse{Name: "s", Query: "SAY $1", ParameterOIDs: []uint32{23}}, &pgproto3.Describe{ObjectType: 'S', Name: "s"},
		&pgproto3.Bind{PreparedStatement: "s", Parameters: [][]byte{{0, 0, 0, 1}}, ParameterFormatCodes: []int16{1}},
		&pgproto3.Describe{ObjectType: 'P'}, &pgproto3.Execute{MaxRows: 1}, &pgproto3.Execute{}, &pgproto3.Close{ObjectType: 'S', Name: "s"}, &pgproto3.Sync{},
	} {
		extended, _ = m.Encode(extended)
	}
	f.Add(extended)
	for _, sql := range []string{
		"BEGIN; SAVEPOINT a; FAIL", "ROLLBACK TO a; RELEASE a; COMMIT", "DEALLOCATE \"s\"; DEALLOCATE ALL; DISCARD ALL", "SAY x; SHOW server_version;;-- c\n/* /* */ ; */ BEGIN; FAIL; ROLLBACK", "SAY 'a''b;' \"c;\" $tag$ ; $tag$ E'\\'';", "COMMIT; END; END 17; DISCARD ALL; SET a = 1", "", ";",
	} {
		query, _ := (&pgproto3.Query{String: sql}).Encode(nil)
		f.Add(query)
		f.Add(append(slices.Clone(query), extended...))
	}
	f.Add([]byte{'Q', 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{'F', 0, 0, 0, 4, 'd', 0, 0, 0, 4, 'H', 0, 0, 0, 4, 'S', 0, 0, 0, 4})
	f.Fuzz(func(t *testing.T, input []byte) {
		output, err := converse(input)
		var panicked *relay.PanicError
		if err == nil || errors.As(err, &panicked) {
			t.Fatalf("ended with %v", err)
		}
		asked := 0
		for rest := input; len(rest) >= 5; {
			length := int64(binary.BigEndian.Uint32(rest[1:5]))
			if length < 4 || int64(len(rest)) < length+1 {
				break
			}
			if rest[0] == 'Q' || rest[0] == 'S' || rest[0] == 'F' {
				asked++
			}
			rest = rest[length+1:]
		}
		ready := 0
		frontend := pgproto3.NewFrontend(bytes.NewReader(output), nil)
		for {
			m, err := frontend.Receive()
			if err != nil {
				if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
					t.Fatalf("said something else: %v\n%q", err, output)
				}
				break
			}
			if _, ok := m.(*pgproto3.ReadyForQuery); ok {
				ready++
			}
		}
		if ready > asked {
			t.Errorf("%d ReadyForQuery for %d questions", ready, asked)
		}
	})
}

// FuzzSplitStatements: what is cut is in the text, in its order, and is cut no further when it is split again.
func FuzzSplitStatements(f *testing.F) {
	for _, text := range []string{"a; b", "'a;''b'; $x$;$x$", "/* ; /* */ */ a;;", "-- a;\nb", "E'\\';' ; e'", "\"a;\"", "$1;$2", ";", "/*", "$a$"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		rest := text
		for _, statement := range splitStatements(text) {
			at := strings.Index(rest, statement)
			if at < 0 || statement == "" {
				t.Fatalf("%q is not in what is left of %q", statement, text)
			}
			rest = rest[at+len(statement):]
			if again := splitStatements(statement); len(again) != 1 || again[0] != statement {
				t.Fatalf("%q of %q is split into %q", statement, text, again)
			}
		}
	})
}
