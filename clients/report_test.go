//go:build clients

package clients

import (
	"fmt"
	"strings"
)

// checks are what every client reports, in the order of the table's columns.
var checks = []struct{ name, column, explained string }{
	{"login", "log in", "as a user of the gate, over TLS; the session runs as a role made for the grant"},
	{"parameters", "parameters", "a query with an integer and a text as parameters"},
	{"rows", "rows", "a result of 100 rows"},
	{"copy-out", "COPY out", "`COPY … TO STDOUT`"},
	{"copy-in", "COPY in", "`COPY … FROM STDIN`"},
	{"transaction", "transaction", "one that is rolled back and one that is committed"},
	{"error", "error", "a missing table is SQLSTATE 42P01, and the session goes on"},
	{"cancel", "cancel", "a running statement ends with 57014, and the session goes on"},
	{"wrong-password", "wrong password", "refused with 28P01"},
	{"expired-grant", "expired grant", "refused with 28000, a DETAIL that says when it ended, and a HINT at what there is instead"},
	{"end-running", "end, running", "a running statement is cut off with 57P01 when the grant ends"},
	{"end-idle", "end, idle", "an idle session is, too, and its client sees 57P01"},
}

// outcome is how a check went.
type outcome string

const (
	passed       outcome = "ok"
	failed       outcome = "FAIL"
	notAvailable outcome = "n/a"
)

type result struct {
	outcome outcome
	remark  string // why it failed or is not available; what is to be said about one that passed
}

// report is what one client reported about one server.
type report struct {
	client   client
	row      int // in the table
	major    int // of the server
	version  string
	tls      string // what the client was asked to insist on
	protocol string // the TLS version that the gate recorded
	results  map[string]result
}

// add takes a line that a client printed.
func (r *report) add(line string) error {
	keyword, rest, _ := strings.Cut(line, " ")
	switch keyword {
	case "version":
		r.version = rest
		return nil
	case "tls":
		r.tls = rest
		return nil
	case string(passed), string(failed), string(notAvailable):
		name, remark, _ := strings.Cut(rest, ": ")
		if _, twice := r.results[name]; twice {
			return fmt.Errorf("%s is reported twice", name)
		}
		r.results[name] = result{outcome: outcome(keyword), remark: remark}
		return nil
	}
	return fmt.Errorf("unexpected line: %q", line)
}
