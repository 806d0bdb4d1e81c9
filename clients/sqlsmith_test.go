//go:build clients

package clients

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/pgtest"
)

var (
	smithTime = flag.Duration("sqlsmith-time", 0, "how long new batches of statements are begun; one batch if zero")
	smithSeed = flag.Int("sqlsmith-seed", 1, "what the first batch comes from; those after it count on")
)

// smithBatch is how many statements sqlsmith makes up at a time. Each batch has sessions of its own.
const smithBatch = 1000

// What sqlsmith makes up gives the same SQLSTATE and as many rows through the gate as without it; the gate lives on, and the
// trail has every statement and is whole.
func TestSqlsmith(t *testing.T) {
	binary := build(t, ".", "../cmd/hourgate")
	for _, major := range majors {
		t.Run(fmt.Sprint("PostgreSQL ", major), func(t *testing.T) {
			t.Parallel()
			db := pgtest.Start(t, major).Database(t)
			g := startGateUnder(t, binary, db, func(g *gate) { g.mayWork(t, time.Now().Add(*smithTime+time.Hour)) })
			trail, err := os.Open(filepath.Join(g.folder, "trail.jsonl"))
			if err != nil {
				t.Fatal(err)
			}
			defer trail.Close()
			s := &smith{db: db, gate: g, trail: trail, outcomes: make(map[string]int)}
			begun := time.Now()
			for seed := *smithSeed; seed == *smithSeed || time.Since(begun) < *smithTime; seed++ {
				s.batch(t, seed)
				t.Logf("%v, seed %d: %v", time.Since(begun).Round(time.Second), seed, s)
			}
			if out, err := exec.Command(binary, "trail", "verify", trail.Name()).CombinedOutput(); err != nil {
				t.Errorf("verifying the trail: %v\n%s", err, out)
			}
		})
	}
}

// smith compares a server with the gate in front of it.
type smith struct {
	db       *pgtest.Database
	gate     *gate
	trail    *os.File
	outcomes map[string]int // direct: SQLSTATE, or "rows"
	again    int            // statements that agreed only when they were repeated
	unsteady int            // those whose answers differ each time, direct too, and are of one kind
}

func (s *smith) String() string {
	all := 0
	var codes []string
	for _, code := range slices.Sorted(maps.Keys(s.outcomes)) {
		all += s.outcomes[code]
		codes = append(codes, fmt.Sprintf("%s %d", code, s.outcomes[code]))
	}
	return fmt.Sprintf("%d statements (%s), %d agreed only again, %d give something else each time", all, strings.Join(codes, ", "), s.again, s.unsteady)
}

// batch has some statements answered by both, and looks for them in the trail.
func (s *smith) batch(t *testing.T, seed int) {
	t.Helper()
	statements := s.statements(t, seed)
	gated, err := pgx.Connect(t.Context(), s.gate.url(alice))
	if err != nil {
		t.Fatal(err)
	}
	defer gated.Close(context.WithoutCancel(t.Context()))
	direct := s.db.Superuser(t)
	defer direct.Close(context.WithoutCancel(t.Context()))
	var role string
	if err := gated.QueryRow(t.Context(), "SELECT session_user::text", pgx.QueryExecModeSimpleProtocol).Scan(&role); err != nil {
		t.Fatal(err)
	}
	exec1(t, direct, "SET SESSION AUTHORIZATION "+role) // the same rights
	for _, conn := range []*pgx.Conn{direct, gated} {
		exec1(t, conn, "SET statement_timeout = '1s'")
	}
	asked := make(map[string]int)
	for _, sql := range statements {
		outcome := s.compare(t, direct, gated, sql, asked)
		if kind(outcome) == "rows" {
			outcome = "rows"
		}
		s.outcomes[outcome]++
	}
	_ = gated.Close(t.Context())
	recorded := s.recorded(t)
	for sql, n := range asked {
		if recorded[sql] < n {
			t.Errorf("the trail has %d times what was asked for %d times:\n%s", recorded[sql], n, sql)
		}
	}
}

// compare asks both, again if they differ: some statements read the clock, random numbers or what the server does meanwhile.
// If the server's own answers differ, only their kinds are compared. What takes too long on one way may be just quick enough
// on the other.
func (s *smith) compare(t *testing.T, direct, gated *pgx.Conn, sql string, asked map[string]int) (want string) {
	t.Helper()
	var wants, gots []string
	for range 4 {
		want = answer(t, direct, sql)
		got := answer(t, gated, sql)
		asked[sql]++
		if want == got || want == pgerrcode.QueryCanceled || got == pgerrcode.QueryCanceled {
			s.again += min(len(wants), 1)
			return want
		}
		wants, gots = append(wants, want), append(gots, got)
	}
	unsteady := len(slices.Compact(slices.Clone(wants))) > 1
	for _, got := range gots {
		if unsteady && slices.ContainsFunc(wants, func(want string) bool { return kind(want) == kind(got) }) {
			s.unsteady++
			return want
		}
	}
	t.Errorf("direct %v, through the gate %v:\n%s", wants, gots, sql)
	return want
}

// kind is the class of an answer's SQLSTATE, or "rows".
func kind(answer string) string {
	if strings.HasSuffix(answer, "rows") {
		return "rows"
	}
	return answer[:2]
}

// recorded counts what the session that has just ended has asked for, as the trail has it.
func (s *smith) recorded(t *testing.T) map[string]int {
	t.Helper()
	recorded := make(map[string]int)
	offset, err := s.trail.Seek(0, io.SeekCurrent)
	if err != nil {
		t.Fatal(err)
	}
	eventually.True(t, "the session's end is in the trail", func() bool {
		if _, err := s.trail.Seek(offset, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		for lines := bufio.NewReader(s.trail); ; {
			line, err := lines.ReadBytes('\n')
			if err != nil {
				return false // the rest is being written
			}
			offset += int64(len(line))
			var r audit.Record
			if err := json.Unmarshal(line, &r); err != nil {
				t.Fatalf("line of the trail: %v\n%s", err, line)
			}
			switch r.Event {
			case audit.SessionStatement:
				recorded[r.Statement]++
			case audit.SessionEnd:
				_, err := s.trail.Seek(offset, io.SeekStart)
				return err == nil
			}
		}
	})
	return recorded
}

// statements are some over the database's tables and PostgreSQL's own.
func (s *smith) statements(t *testing.T, seed int) (statements []string) {
	t.Helper()
	program := filepath.Join(cache(), "sqlsmith", "bin", "sqlsmith")
	target := fmt.Sprintf("host=localhost port=%d dbname=%s user=%s password=%s", s.db.Server.Port, s.db.Name, s.db.Owner, s.db.OwnerPassword)
	cmd := exec.CommandContext(t.Context(), program, "--target="+target, "--dry-run", fmt.Sprint("--seed=", seed), fmt.Sprint("--max-queries=", smithBatch))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("sqlsmith (run scripts/install clients): %v\n%s", err, &stderr)
	}
	for statement := range strings.SplitSeq(sample.ReplaceAllString(string(out), ""), ";\n") {
		if statement = strings.TrimSpace(statement); statement != "" && !unfit.MatchString(statement) {
			statements = append(statements, statement)
		}
	}
	if len(statements) < smithBatch/2 {
		t.Fatalf("sqlsmith made %d statements:\n%s", len(statements), &stderr)
	}
	return statements
}

// sample is what takes other rows each time.
var sample = regexp.MustCompile(`tablesample \w+ \([0-9.]+\)`)

// unfit are functions that end sessions, outlive the transaction, or wait, and what differs between any two connections: one that
// has logged in as somebody else before sees less of itself in pg_stat_activity.
var unfit = regexp.MustCompile(`\b((pg_terminate_backend|pg_cancel_backend|pg_sleep\w*|pg_(try_)?advisory\w*|set_config|setseed|` +
	`inet_(client|server)_\w+|pg_backend_pid|system_user|pg_stat_get_(activity|backend\w*))\(|pg_stat_(activity|ssl|gssapi)\b)`)

// answer is how many rows a statement gives, or the SQLSTATE of its error.
func answer(t *testing.T, conn *pgx.Conn, sql string) string {
	t.Helper()
	inTime(t, conn, "BEGIN")
	defer inTime(t, conn, "ROLLBACK") // some write
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

// inTime repeats what statement_timeout has cut off. PostgreSQL tells the next statement if it runs out just as one ends, and
// even a BEGIN or ROLLBACK may take a second of a busy machine. A ROLLBACK that is cut off has done nothing.
func inTime(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	for try := range 10 {
		_, err := conn.Exec(t.Context(), sql)
		var told *pgconn.PgError
		if err == nil {
			return
		}
		if try == 9 || !errors.As(err, &told) || told.Code != pgerrcode.QueryCanceled {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}
