package gate_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/gatetest"
	"github.com/hourgate/hourgate/internal/pgtest"
)

// accessFlow lets Alice ask and Bob decide. It takes the place of the harness's grants.
const accessFlow = `  []
operators: {users: [` + gatetest.Bob + `]}
access_flows:
  - name: support
    requestors: {groups: [support]}
    targets: [{integrations: [orders], access: [READ_ONLY, READ_WRITE]}]
    max_duration: 8h
    duration: 1h
    justification: {required: true, min_length: 5}
    approval: {any_of: [{users: [` + gatetest.Bob + `]}]}
    extensions: {max: 2, duration: 2h}
`

func startAccess(t *testing.T) *gatetest.Gate {
	t.Helper()
	db := pgtest.Start(t, 17).Database(t)
	return gatetest.Start(t, db, gatetest.Options{Grants: accessFlow, Config: map[string]string{"state": "{file: state.db}", "role_linger": "0s"}})
}

// ask runs a statement of database "hourgate" and returns a column of its first row, or the error's text.
func ask(t *testing.T, g *gatetest.Gate, user, column, sql string, args ...any) string {
	t.Helper()
	password := gatetest.AlicePassword
	if user == gatetest.Bob {
		password = gatetest.BobPassword
	}
	conn, err := g.TryConnect(t, user, password, "hourgate")
	if err != nil {
		return err.Error()
	}
	defer conn.Close(context.Background())
	rows, err := conn.Query(t.Context(), sql, args...)
	if err == nil {
		var all []map[string]any
		if all, err = pgx.CollectRows(rows, pgx.RowToMap); err == nil && len(all) > 0 {
			return fmt.Sprint(all[0][column])
		}
	}
	return fmt.Sprint(err)
}

// The main story: refused with a hint, asked for, decided, let in, extended without a hiccup, and revoked at once.
func TestAskDecideBeLetIn(t *testing.T) {
	t.Parallel()
	g := startAccess(t)
	_, err := g.TryConnect(t, gatetest.Alice, gatetest.AlicePassword, "orders")
	var refusal *pgconn.PgError
	if !errors.As(err, &refusal) || refusal.Code != pgerrcode.InvalidAuthorizationSpecification || !strings.Contains(refusal.Hint, "REQUEST READ_ONLY ON orders FOR '1 hour' REASON") {
		t.Fatalf("refused with %+v", err)
	}
	if got := ask(t, g, gatetest.Alice, "state", "REQUEST READ_WRITE ON orders FOR '1 hour' REASON $1", "INC-1: it's late"); got != "pending" {
		t.Fatalf("the request: %s", got)
	}
	if got := ask(t, g, gatetest.Alice, "state", "APPROVE 1"); !strings.Contains(got, "nobody decides their own request") {
		t.Errorf("Alice approves: %s", got)
	}
	if got := ask(t, g, gatetest.Bob, "state", "APPROVE 1"); got != "active" {
		t.Fatalf("Bob approves: %s", got)
	}
	conn := g.Connect(t, "orders")
	if _, err := conn.Exec(t.Context(), "UPDATE orders SET note = 'x' WHERE id = 1"); err != nil {
		t.Fatal(err)
	}
	if got := ask(t, g, gatetest.Alice, "note", "EXTEND 1 FOR '2 hours'"); !strings.Contains(got, "waits for "+gatetest.Bob) {
		t.Errorf("Alice extends: %s", got)
	}
	if got := ask(t, g, gatetest.Bob, "state", "APPROVE 1 FOR '2 hours'"); got != "active" {
		t.Errorf("Bob approves the extension: %s", got)
	}
	if _, err := conn.Exec(t.Context(), "SELECT 1"); err != nil {
		t.Fatalf("the extension broke the session: %v", err)
	}
	for _, s := range g.Gate.Sessions() {
		if left := time.Until(s.Until); s.Grant == "request-1" && (left < 2*time.Hour || left > 3*time.Hour) {
			t.Errorf("the session ends in %v", left)
		}
	}

	cut := make(chan error, 1)
	go func() { _, err := conn.Exec(t.Context(), "SELECT pg_sleep(60)"); cut <- err }()
	eventually.True(t, "the statement runs", func() bool {
		var n int
		_ = g.DB.Superuser(t).QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND datname = $1", g.DB.Name).Scan(&n)
		return n == 1
	})
	if got := ask(t, g, gatetest.Bob, "state", "REVOKE 1 REASON 'enough'"); got != "ended (revoked)" {
		t.Errorf("Bob revokes: %s", got)
	}
	wantFatal(t, <-cut, pgerrcode.AdminShutdown, "terminating connection: your grant was withdrawn or changed")
	if _, err := g.TryConnect(t, gatetest.Alice, gatetest.AlicePassword, "orders"); err == nil {
		t.Error("Alice is let in after the end")
	}
	eventually.True(t, "the role is gone", func() bool { return len(g.Roles(t)) == 0 })
	for _, event := range []audit.Event{audit.RequestFiled, audit.RequestApproved, audit.RequestActive, audit.ExtensionFiled, audit.RequestExtended, audit.RequestEnded} {
		if n := len(g.Records(t, event)); n != 1 {
			t.Errorf("%d records of %s", n, event)
		}
	}
}

// The warning before the end has the statement that extends, which does what it says.
func TestWarnedWithTheStatementThatExtends(t *testing.T) {
	t.Parallel()
	db := pgtest.Start(t, 17).Database(t)
	g := gatetest.Start(t, db, gatetest.Options{Grants: accessFlow, Config: map[string]string{
		"state": "{file: state.db}", "role_linger": "0s", "end_notices": "[59m57s]",
	}})
	ask(t, g, gatetest.Alice, "state", "REQUEST READ_ONLY ON orders FOR '1 hour' REASON 'INC-1'")
	ask(t, g, gatetest.Bob, "state", "APPROVE 1")
	_, port, _ := net.SplitHostPort(g.Addr)
	cfg, err := pgx.ParseConfig(fmt.Sprintf("host=localhost port=%s user=%s password='%s' dbname=orders sslmode=verify-full sslrootcert=%s",
		port, gatetest.Alice, gatetest.AlicePassword, g.CA))
	if err != nil {
		t.Fatal(err)
	}
	hints := make(chan string, 10)
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { hints <- n.Hint }
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for len(hints) == 0 {
		if _, err := conn.Exec(t.Context(), "SELECT pg_sleep(0.1)"); err != nil {
			t.Fatal(err)
		}
	}
	statement, found := strings.CutPrefix(<-hints, "To go on: ")
	statement, named := strings.CutSuffix(statement, "; in database hourgate")
	if got := ask(t, g, gatetest.Alice, "note", statement); !found || !named || !strings.Contains(got, "extension of 1 hour waits for "+gatetest.Bob) {
		t.Errorf("%q: %s", statement, got)
	}
}

// Whoever says why at the door waits there until somebody has decided.
func TestWaitAtTheDoor(t *testing.T) {
	t.Parallel()
	g := startAccess(t)
	_, port, _ := net.SplitHostPort(g.Addr)
	var notices []string
	database := "orders"
	knock := func(options string) (*pgx.Conn, error) {
		cfg, err := pgx.ParseConfig(fmt.Sprintf("host=localhost port=%s user=%s password='%s' dbname=%s sslmode=verify-full sslrootcert=%s options='%s'",
			port, gatetest.Alice, gatetest.AlicePassword, database, g.CA, options))
		if err != nil {
			t.Fatal(err)
		}
		cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { notices = append(notices, n.Message) }
		return pgx.ConnectConfig(t.Context(), cfg)
	}
	_, err := knock("-c hourgate.reason=INC-1 -c hourgate.wait=0s")
	if err == nil || !strings.Contains(err.Error(), "request 1 is not decided yet") {
		t.Errorf("without waiting: %v", err)
	}
	// Who tries again does not ask again, however they name the database.
	database = g.DB.Name + "@orders"
	if _, err = knock("-c hourgate.reason=INC-1 -c hourgate.wait=0s -c hourgate.access=read_only"); err == nil || !strings.Contains(err.Error(), "request 1 is not decided yet") {
		t.Errorf("again: %v", err)
	}
	var refusal *pgconn.PgError
	if _, err = g.TryConnect(t, gatetest.Alice, gatetest.AlicePassword, database); !errors.As(err, &refusal) || !strings.Contains(refusal.Hint, "type REQUEST READ_ONLY ON orders/"+g.DB.Name+" FOR") {
		t.Errorf("the refusal of %s does not say what to type: %+v", database, refusal)
	}
	database = "orders"
	decided := make(chan string, 1)
	go func() {
		eventually.True(t, "the request is filed", func() bool { return len(g.Records(t, audit.RequestFiled)) == 2 })
		decided <- ask(t, g, gatetest.Bob, "state", "APPROVE 2")
	}()
	notices = nil
	conn, err := knock("-c hourgate.reason=INC-12 -c hourgate.access=READ_WRITE -c hourgate.for=30m -c hourgate.wait=5m")
	if err != nil {
		t.Fatalf("was not let in: %v", err)
	}
	defer conn.Close(context.Background())
	if got := <-decided; got != "active" {
		t.Errorf("Bob: %s", got)
	}
	if said := strings.Join(notices, "\n"); !strings.Contains(said, "request 2 is filed: READ_WRITE for 30m0s; "+gatetest.Bob+" may decide") ||
		!strings.Contains(said, "request 2 is approved by "+gatetest.Bob) {
		t.Errorf("was told\n%s", said)
	}
	_, err = knock("-c hourgate.reason=x -c hourgate.access=ADMIN")
	if err != nil { // she has a grant, so she asks for nothing
		t.Errorf("with a grant: %v", err)
	}
}

// Locks end sessions, are told, survive a restart, and work from the machine itself.
func TestLocks(t *testing.T) {
	t.Parallel()
	db := pgtest.Start(t, 17).Database(t)
	g := gatetest.New(t, db)
	socket := filepath.Join(t.TempDir(), ".s.PGSQL.6432")
	config := g.Configure(t, gatetest.Options{
		Grants: gatetest.Grant("inc-1") + strings.TrimPrefix(accessFlow, "  []\n"), Config: map[string]string{"admin_socket": socket, "role_linger": "0s"},
	})
	process := gatetest.StartProcess(t, g, config)
	conn := g.Connect(t, "orders")
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the admin socket: %v, %v", info, err)
	}
	operate := func(sql string) string {
		t.Helper()
		admin, err := pgx.Connect(t.Context(), fmt.Sprintf("host=%s port=6432 user=whoever dbname=hourgate sslmode=disable", filepath.Dir(socket)))
		if err != nil {
			t.Fatal(err)
		}
		defer admin.Close(context.Background())
		rows, _ := admin.Query(t.Context(), sql, pgx.QueryExecModeSimpleProtocol)
		got, err := pgx.CollectRows(rows, pgx.RowToMap)
		return fmt.Sprint(got, err)
	}
	if got := operate("SHOW SESSIONS"); !strings.Contains(got, "inc-1") {
		t.Errorf("sessions: %s", got)
	}
	if got := operate("LOCK USER '" + gatetest.Alice + "' REASON 'laptop stolen'"); !strings.Contains(got, "is locked, on this gate") {
		t.Fatalf("lock: %s", got)
	}
	_, err := conn.Exec(t.Context(), "SELECT pg_sleep(60)")
	var told *pgconn.PgError
	if !errors.As(err, &told) || told.Code != pgerrcode.AdminShutdown || !strings.Contains(told.Detail, "laptop stolen") {
		t.Errorf("the session ended with %+v", told)
	}
	refused := func() {
		t.Helper()
		for _, database := range []string{"orders", "hourgate"} {
			_, err := g.TryConnect(t, gatetest.Alice, gatetest.AlicePassword, database)
			if !errors.As(err, &told) || told.Code != pgerrcode.InvalidAuthorizationSpecification || !strings.Contains(told.Detail, "laptop stolen") {
				t.Errorf("%s: %v", database, err)
			}
		}
	}
	refused()
	_ = process.Process.Kill() // nothing is written at the end
	_ = process.Wait()
	gatetest.StartProcess(t, g, config)
	refused()
	if got := operate("UNLOCK USER '" + gatetest.Alice + "'"); !strings.Contains(got, "not locked any more") {
		t.Fatalf("unlock: %s", got)
	}
	if err := g.Connect(t, "orders").Ping(t.Context()); err != nil {
		t.Error(err)
	}
	// The file alone is enough, and is noticed.
	file := filepath.Join(g.Folder, "trail.jsonl.locks")
	if err := os.WriteFile(file, []byte(`{"locks": [{"kind": "all", "reason": "laptop stolen"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually.True(t, "the lock file is noticed", func() bool {
		_, err := g.TryConnect(t, gatetest.Alice, gatetest.AlicePassword, "orders")
		return err != nil
	})
	refused()
	// Removing it lifts nothing, emptying it does.
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	eventually.True(t, "the lock file is there again", func() bool { _, err := os.Stat(file); return err == nil })
	refused()
	if err := os.WriteFile(file, []byte(`{"locks": []}`), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually.True(t, "the lock is lifted", func() bool {
		_, err := g.TryConnect(t, gatetest.Alice, gatetest.AlicePassword, "orders")
		return err == nil
	})
}

// What psql sends, and what a person may type, is answered or refused, and the session goes on.
func TestPsqlOnTheDesk(t *testing.T) {
	t.Parallel()
	g := startAccess(t)
	out, err := g.Client(t, pgtest.Client(t, "psql"), "-X", "-v", "ON_ERROR_STOP=0", "-d", "hourgate",
		"-c", "HELP", "-c", "SHOW ACCESS", "-c", `\d`, "-c", "SELECT * FROM pg_class; -- an IDE", "-c", "BEGIN", "-c", "ROLLBACK",
		"-c", "REQUEST READ_ONLY ON orders REASON 'INC-4211 refund'", "-c", "END 1", "-c", "SHOW SESSIONS; SHOW REQUESTS")
	for _, want := range []string{
		"REQUEST READ_WRITE ON orders-prod FOR '2 hours'", "can ask", "this database takes statements about access only, no SQL",
		"ROLLBACK", "pending", "withdrawn", "(1 row)",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("psql's output lacks %q", want)
		}
	}
	if t.Failed() {
		t.Logf("%v\n%s", err, out)
	}
}
