//go:build clients

package clients

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/pgtest"
)

var (
	smithQueries = flag.Int("sqlsmith-queries", 500, "how many queries sqlsmith makes for each server")
	smithSeed    = flag.Int("sqlsmith-seed", 1, "what they come from")
)

// What sqlsmith makes up gives the same SQLSTATE and as many rows through the gate as without it; the gate lives on, and the
// trail has every statement.
func TestSqlsmith(t *testing.T) {
	binary := build(t, ".", "../cmd/hourgate")
	for _, major := range majors {
		t.Run(fmt.Sprint("PostgreSQL ", major), func(t *testing.T) {
			t.Parallel()
			db := pgtest.Start(t, major).Database(t)
			g := startGate(t, binary, db)
			statements := smith(t, db)
			direct := db.Superuser(t)
			gated, err := pgx.Connect(t.Context(), g.url(alice))
			if err != nil {
				t.Fatal(err)
			}
			defer gated.Close(context.WithoutCancel(t.Context()))
			var role string
			if err := gated.QueryRow(t.Context(), "SELECT session_user").Scan(&role); err != nil {
				t.Fatal(err)
			}
			exec1(t, direct, "SET SESSION AUTHORIZATION "+role) // the same rights
			for _, conn := range []*pgx.Conn{direct, gated} {
				exec1(t, conn, "SET statement_timeout = '1s'")
			}
			failed, timeouts := 0, 0
			for i, sql := range statements {
				want, got := answer(t, direct, sql), answer(t, gated, sql)
				if want != "57014" && got != "57014" && want != got {
					t.Errorf("statement %d: direct %s, through the gate %s\n%s", i, want, got, sql)
				}
				if want == "57014" || got == "57014" {
					timeouts++
				} else if len(want) == 5 {
					failed++
				}
			}
			t.Logf("%d statements, of which %d fail and %d take too long", len(statements), failed, timeouts)
			if failed == len(statements) {
				t.Error("all fail")
			}
			_ = gated.Close(t.Context())
			recorded := g.statementsOfEnded(t, alice)
			for i, sql := range statements {
				if recorded[sql]--; recorded[sql] < 0 {
					t.Errorf("statement %d is not in the trail:\n%s", i, sql)
				}
			}
		})
	}
}

// statementsOfEnded counts what a person has asked for, once their session's end is in the trail.
func (g *gate) statementsOfEnded(t *testing.T, user string) map[string]int {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		recorded, ended := make(map[string]int), false
		for _, r := range g.records(t) {
			if r.User == user && r.Event == audit.SessionStatement {
				recorded[r.Statement]++
			}
			ended = ended || r.User == user && r.Event == audit.SessionEnd
		}
		if ended {
			return recorded
		}
	}
	t.Fatal("the session's end is not in the trail")
	return nil
}

// smith returns statements over the database's tables and PostgreSQL's own.
func smith(t *testing.T, db *pgtest.Database) (statements []string) {
	t.Helper()
	program := filepath.Join(cache(), "sqlsmith", "bin", "sqlsmith")
	target := fmt.Sprintf("host=localhost port=%d dbname=%s user=%s password=%s", db.Server.Port, db.Name, db.Owner, db.OwnerPassword)
	cmd := exec.CommandContext(t.Context(), program, "--target="+target, "--dry-run", fmt.Sprintf("--seed=%d", *smithSeed),
		fmt.Sprintf("--max-queries=%d", *smithQueries))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("sqlsmith (run scripts/install clients): %v\n%s", err, &stderr)
	}
	for statement := range strings.SplitSeq(sample.ReplaceAllString(string(out), ""), ";\n") {
		// Functions of the server's own process, and what is different each time, say nothing about the gate.
		if statement = strings.TrimSpace(statement); statement != "" && !unfit(statement) {
			statements = append(statements, statement)
		}
	}
	if len(statements) < *smithQueries/10 {
		t.Fatalf("sqlsmith made %d statements:\n%s", len(statements), &stderr)
	}
	return statements
}

// sample is what takes other rows each time.
var sample = regexp.MustCompile(`tablesample \w+ \([0-9.]+\)`)

func unfit(sql string) bool {
	for _, word := range []string{"pg_terminate_backend", "pg_cancel_backend", "pg_sleep", "random", "pg_stat", "pg_prepared", "pg_locks", "pg_advisory", "set_config", "_timestamp", "localtime", "now()", "inet_"} {
		if strings.Contains(sql, word) {
			return true
		}
	}
	return false
}

// answer is how many rows a statement gives, or the SQLSTATE of its error.
func answer(t *testing.T, conn *pgx.Conn, sql string) string {
	t.Helper()
	exec1(t, conn, "BEGIN")
	defer exec1(t, conn, "ROLLBACK") // some write
	results, err := conn.PgConn().Exec(t.Context(), sql).ReadAll()
	var told *pgconn.PgError
	if errors.As(err, &told) {
		return told.Code
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, sql)
	}
	rows := 0
	for _, r := range results {
		rows += len(r.Rows)
	}
	return fmt.Sprint(rows, " rows")
}
