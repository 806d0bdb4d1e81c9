//go:build clients

package clients

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/pgtest"
)

// consoleChecks are what each client of database "hourgate" reports.
var consoleChecks = []string{"access", "approve", "catalog", "end", "let-in", "own", "refused", "request", "transaction"}

// The story of one request, told by each client: refused, asks, may not decide, is let in by somebody else, and gives it back.
// What it asks of the catalog by itself is answered or refused, and the session goes on.
func TestConsole(t *testing.T) {
	binary := build(t, ".", "../cmd/hourgate")
	node := []string{"NODE_PATH=" + filepath.Join(cache(), "clients", "node", "node_modules")}
	clients := map[string]func(context.Context, login, *bytes.Buffer) error{"pgx": consoleOfPgx}
	run := func(name string, environment []string, program string, args ...string) {
		clients[name] = func(ctx context.Context, l login, out *bytes.Buffer) error {
			return script(append(environment[:len(environment):len(environment)], "HOURGATE_APPROVER="+carol), program, args...)(ctx, l, out, out)
		}
	}
	for _, module := range []string{"psycopg2", "psycopg", "asyncpg"} {
		run(module, nil, "/usr/bin/python3", "console/console.py", module)
	}
	run("pgcli", nil, "/usr/bin/python3", "console/pgcli.py")
	run("JDBC", nil, "java", "-cp", "/usr/share/java/postgresql.jar", "console/Console.java")
	for _, module := range []string{"pg", "postgres"} {
		run("node "+module, node, "node", "console/console.js", module)
	}
	for _, major := range []int{13, 15, 17, 18} {
		run(fmt.Sprintf("psql %d", major), nil, "bash", "console/console.sh", filepath.Join(pgtest.Psql(t, major), "psql"))
	}
	for _, major := range []int{14, 16} { // no Debian has these
		run(fmt.Sprintf("psql 15, libpq %d", major), []string{"LD_LIBRARY_PATH=" + pgtest.Libpq(t, major)}, "bash", "console/console.sh", pgtest.Client(t, "psql"))
	}
	for _, name := range slices.Sorted(maps.Keys(clients)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := startGateUnder(t, binary, pgtest.Start(t, 17).Database(t), func(g *gate) {
				g.extra = "state: {file: state.db}\nrole_linger: 0s"
				g.mayAsk(t)
			})
			ctx, cancel := context.WithTimeout(t.Context(), clientTimeout)
			defer cancel()
			var out bytes.Buffer
			if err := clients[name](ctx, g.login, &out); err != nil {
				t.Errorf("%v\n%s", err, &out)
			}
			for _, check := range consoleChecks {
				if !strings.Contains(out.String(), "ok "+check+"\n") {
					t.Errorf("%s: not reported", check)
				}
			}
			if strings.Contains(out.String(), "FAIL") || t.Failed() {
				t.Errorf("reported\n%s", &out)
			}
		})
	}
}

// mayAsk is the policy under which alice asks and carol decides.
func (g *gate) mayAsk(t *testing.T) {
	t.Helper()
	scram, err := encodedVerifier()
	if err != nil {
		t.Fatal(err)
	}
	g.write(t, "policy.yaml", fmt.Sprintf(`
users: [{name: %s, scram: %q}, {name: %s, scram: %[2]q}]
access_flows:
  - name: support
    requestors: {users: [%[1]s]}
    targets: [{integrations: [orders], access: [READ_ONLY, READ_WRITE]}]
    max_duration: 8h
    approval: {any_of: [{users: [%[3]s]}]}
`, alice, scram, carol))
}

// consoleOfPgx is the story with pgx, whose parameters are binary where it knows their types.
func consoleOfPgx(ctx context.Context, l login, out *bytes.Buffer) error {
	connect := func(user, database string) (*pgx.Conn, error) {
		return pgx.Connect(ctx, fmt.Sprintf("host=%s port=%s user=%s password='%s' dbname=%s sslmode=verify-full sslrootcert=%s",
			l.host, l.port, user, strings.ReplaceAll(password, "'", `\'`), database, l.ca))
	}
	check := func(name string, got any, err error, wanted ...string) {
		text := fmt.Sprint(got, err)
		for _, w := range wanted {
			if !strings.Contains(text, w) {
				fmt.Fprintf(out, "FAIL %s: no %s in %s\n", name, w, text)
				return
			}
		}
		fmt.Fprintf(out, "ok %s\n", name)
	}
	_, err := connect(alice, "orders")
	check("refused", nil, err, "28000", "no live grant")
	conn, err := connect(alice, "hourgate")
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows := func(conn *pgx.Conn, sql string, args ...any) ([]map[string]any, error) {
		r, _ := conn.Query(ctx, sql, args...)
		return pgx.CollectRows(r, pgx.RowToMap)
	}
	got, err := rows(conn, "SHOW ACCESS")
	check("access", got, err, "can ask", "READ_WRITE")
	got, err = rows(conn, "REQUEST $1 ON $2 FOR $3 REASON $4", "READ_WRITE", "orders", time.Hour.String(), "it's late")
	check("request", got, err, "pending", "it's late")
	got, err = rows(conn, "APPROVE $1", "1")
	check("own", got, err, "P0001", "nobody decides their own request")
	other, err := connect(carol, "hourgate")
	if err != nil {
		return err
	}
	defer other.Close(context.WithoutCancel(ctx))
	got, err = rows(other, "APPROVE $1", "1")
	check("approve", got, err, "active")
	data, err := connect(alice, "orders")
	check("let-in", nil, err, "<nil>")
	if err == nil {
		_ = data.Close(ctx)
	}
	got, err = rows(conn, "SELECT oid, relname FROM pg_catalog.pg_class")
	check("catalog", got, err, "0A000", "statements about access only")
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	got, err = rows(conn, "SHOW REQUESTS")
	check("transaction", got, err, "active")
	if err := tx.Commit(ctx); err != nil {
		return err
	}
	got, err = rows(conn, "END $1", "1")
	check("end", got, err, "ended by owner")
	return nil
}
