//go:build clients

package clients

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// document is docs/clients.md. The reports are in the order of their rows, a client's one after the other.
func document(reports []*report, now time.Time) string {
	var drivers, libraries [][]*report
	for _, r := range reports {
		group := &drivers
		if r.client.libpq != nil {
			group = &libraries
		}
		if n := len(*group); n > 0 && (*group)[n-1][0].row == r.row {
			(*group)[n-1] = append((*group)[n-1], r)
		} else {
			*group = append(*group, []*report{r})
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, `# Clients

What real programs and drivers do through the gate. %s runs them, in front of PostgreSQL %s, and writes
this page; the last time on %s.

`, "`make clients`", numbers(majors), now.Format(time.DateOnly))
	driverTable(&b, drivers)
	b.WriteString("\nWhat the columns mean:\n\n")
	for _, check := range checks {
		fmt.Fprintf(&b, "- **%s**: %s\n", check.column, check.explained)
	}
	b.WriteString(pools + `
## Database "hourgate"

The story of one request (refused, asks with parameters, may not decide it, is let in by somebody else, and gives it back) is told
by psql 13, 15, 17 and 18, and 15 with libpq 14 and 16; by pgcli, psycopg 2 and 3, asyncpg, JDBC, node-postgres, postgres.js and
pgx. What they ask of the catalog by themselves, such as ` + "`\\d`" + `, pgcli's completion and what DBeaver
sends when it connects, is refused with 0A000, and the session goes on.
Transactions, savepoints (psql's ON_ERROR_ROLLBACK, nested transactions of drivers), DEALLOCATE and DISCARD ALL are answered as
PostgreSQL answers them, and mean nothing else here.

## libpq

The library under psql, psycopg, DBD::Pg, ruby-pg, PHP and psqlODBC, in each version with each way to connect: psql 15 is
run with it and does all of the above. TLS is always verify-full. The columns are ` + "`channel_binding`" + `; a cell says how many
checks passed of those that apply.

`)
	libpqTable(&b, libraries)
	return b.String()
}

// pools is what TestHikariCP and TestPgBouncer show.
const pools = `
## Pools in front of the gate

HikariCP: a statement that runs at the grant's end fails with 57P01; the next getConnection() fails after connectionTimeout with
the refusal as its cause, and a new grant is used without a restart. JDBC's targetServerType and libpq's target_session_attrs find
the gate whatever kind of server they ask for.

PgBouncer (1.18) tells a client whose server connection has ended at once. It keeps refused log-ins to itself, as with any server:
the first client that finds no server waits for query_wait_timeout, which is two minutes by default, and those after it are told
at once. With these settings it is about two seconds:

    server_login_retry = 1
    query_wait_timeout = 2

All its clients are one person to the gate, with one grant: whoever wants to know who did what lets people connect to the gate.

## Sessions that only listen

pgx and psql that LISTEN, and say nothing for 62 minutes, get a NOTIFY at once (psql with its next statement, as without a gate), on
PostgreSQL 15 and 18 (2026-11-26). The test of every day has them idle for five seconds.
`

func numbers(n []int) string {
	texts := make([]string, len(n))
	for i := range n {
		texts[i] = fmt.Sprint(n[i])
	}
	return strings.Join(texts, " and ")
}

// driverTable has a row for each client, and remarks below it.
func driverTable(b *strings.Builder, rows [][]*report) {
	b.WriteString("| client | version | TLS |")
	for _, check := range checks {
		fmt.Fprintf(b, " %s |", check.column)
	}
	fmt.Fprintf(b, "\n|%s\n", strings.Repeat("---|", 3+len(checks)))
	var remarks []string
	for _, row := range rows {
		first := row[0]
		fmt.Fprintf(b, "| %s | %s | %s |", first.client.name, first.version, strings.TrimPrefix(first.protocol+", "+first.tls, ", "))
		for _, check := range checks {
			fmt.Fprintf(b, " %s |", cell(row, check.name, &remarks))
		}
		b.WriteString("\n")
	}
	if len(remarks) > 0 {
		b.WriteString("\n")
	}
	for i, remark := range remarks {
		fmt.Fprintf(b, "%d. %s\n", i+1, remark)
	}
}

// cell is the outcome of a check with all servers, and the numbers of what is to be said about it.
func cell(row []*report, check string, remarks *[]string) string {
	worst := passed
	var notes []string
	for _, r := range row {
		result := r.results[check]
		if result.outcome == "" {
			result = result.missing()
		}
		if result.outcome == failed || worst == passed {
			worst = result.outcome
		}
		if result.remark == "" {
			continue
		}
		n := slices.Index(*remarks, result.remark)
		if n < 0 {
			n = len(*remarks)
			*remarks = append(*remarks, result.remark)
		}
		if note := fmt.Sprintf("<sup>%d</sup>", n+1); !slices.Contains(notes, note) {
			notes = append(notes, note)
		}
	}
	text := map[outcome]string{passed: "yes", failed: "**no**", notAvailable: "–"}[worst]
	return text + strings.Join(notes, "")
}

func (result) missing() result { return result{outcome: failed, remark: "Not reported."} }

// libpqTable has a row for each library and way to negotiate, and a column for each channel binding.
func libpqTable(b *strings.Builder, cells [][]*report) {
	b.WriteString("| libpq | connects |")
	for _, binding := range channelBindings {
		fmt.Fprintf(b, " %s |", binding)
	}
	fmt.Fprintf(b, "\n|%s\n", strings.Repeat("---|", 2+len(channelBindings)))
	row := ""
	for _, c := range cells {
		lib := c[0].client.libpq
		if next := fmt.Sprintf("| %s | %s |", lib.version, lib.connects()); next != row {
			if row != "" {
				b.WriteString("\n")
			}
			row = next
			b.WriteString(row)
		}
		fmt.Fprintf(b, " %s |", total(c))
	}
	b.WriteString("\n")
}

// total sums a client's reports up.
func total(reports []*report) string {
	ok, apply := 0, 0
	for _, r := range reports {
		for _, check := range checks {
			switch r.results[check.name].outcome {
			case passed:
				ok++
				apply++
			case notAvailable:
			default:
				apply++
			}
		}
	}
	if ok == apply {
		return fmt.Sprintf("all %d", ok)
	}
	return fmt.Sprintf("**%d of %d**", ok, apply)
}
