package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/proxy"
	"github.com/hourgate/hourgate/proxy/console"
)

// testConsole knows a few statements.
type testConsole struct{ closed chan struct{} }

func (c testConsole) Open(_ context.Context, who proxy.Info) (console.Handler, error) {
	if who.User == bob {
		return nil, &console.Error{Code: pgerrcode.InvalidAuthorizationSpecification, Message: "no console for bob"}
	}
	return testConsoleSession{c, who}, nil
}

type testConsoleSession struct {
	testConsole
	who proxy.Info
}

func (c testConsoleSession) Close() { c.closed <- struct{}{} }

func (testConsoleSession) Describe(sql string) (console.Description, error) {
	switch word, _, _ := strings.Cut(sql, " "); word {
	case "whoami", "wait":
		return console.Description{Columns: []string{"who"}}, nil
	case "echo":
		return console.Description{Parameters: 2, Columns: []string{"a", "b"}}, nil
	case "do", "panic", "break":
		return console.Description{}, nil
	}
	return console.Description{}, &console.Error{Code: pgerrcode.SyntaxError, Message: "syntax error", Hint: "Say whoami."}
}

func (c testConsoleSession) Run(ctx context.Context, sql string, args []*string, notice func(string)) (console.Result, error) {
	switch word, rest, _ := strings.Cut(sql, " "); word {
	case "whoami":
		return console.Result{Rows: [][]*string{{&c.who.User}}}, nil
	case "echo":
		return console.Result{Rows: [][]*string{args, {nil, nil}, args}}, nil
	case "do":
		notice("done: " + rest)
		return console.Result{Tag: "DO"}, nil
	case "wait":
		notice("waiting")
		<-ctx.Done()
		return console.Result{}, ctx.Err()
	case "panic":
		panic("console")
	}
	return console.Result{}, errors.New(secretText)
}

func startConsole(t *testing.T) (*gate, chan struct{}) {
	t.Helper()
	closed := make(chan struct{}, 100)
	return startGate(t, database(t, 18), gateOptions{change: func(c *proxy.Config) { c.Console = testConsole{closed} }}), closed
}

// consoleConn connects with pgx to the database hourgate.
func (g *gate) consoleConn(params string) *pgx.Conn {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), patience)
	defer cancel()
	cfg, err := pgx.ParseConfig(strings.Replace(g.url(params), "dbname=orders", "dbname=hourgate", 1))
	if err != nil {
		g.t.Fatal(err)
	}
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { g.notices.add(n.Message) }
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		g.t.Fatalf("connecting to the console: %v", err)
	}
	g.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// A driver can use the console, with extended and with simple queries.
func TestConsole(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"", "default_query_exec_mode=exec", "default_query_exec_mode=simple_protocol", "default_query_exec_mode=cache_describe"} {
		g, closed := startConsole(t)
		conn := g.consoleConn(mode)
		ctx := t.Context()
		var who string
		if err := conn.QueryRow(ctx, "whoami").Scan(&who); err != nil || who != alice {
			t.Errorf("%s: whoami: got %q, %v; want %s", mode, who, err, alice)
		}
		if _, err := conn.Exec(ctx, "do something"); err != nil {
			t.Errorf("%s: do: %v", mode, err)
		}
		if got := g.notices.all(); !slices.Contains(got, "done: something") {
			t.Errorf("%s: notices %q, want that it is done", mode, got)
		}
		var refused *pgconn.PgError
		if _, err := conn.Exec(ctx, "nonsense"); !errors.As(err, &refused) || refused.Code != pgerrcode.SyntaxError || refused.Hint != "Say whoami." {
			t.Errorf("%s: nonsense: got %v", mode, err)
		}
		if _, err := conn.Exec(ctx, "break"); !errors.As(err, &refused) || refused.Code != pgerrcode.InternalError || strings.Contains(fmt.Sprintf("%+v", refused), secretText) {
			t.Errorf("%s: break: got %v", mode, err)
		}
		tx, err := conn.Begin(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(ctx, "nonsense"); err == nil {
			t.Error("nonsense in a transaction: no error")
		}
		if _, err := tx.Exec(ctx, "do more"); !errors.As(err, &refused) || refused.Code != pgerrcode.InFailedSQLTransaction {
			t.Errorf("%s: in a failed transaction: got %v", mode, err)
		}
		if err := tx.Rollback(ctx); err != nil {
			t.Error(err)
		}
		if err := conn.QueryRow(ctx, "whoami").Scan(&who); err != nil {
			t.Errorf("%s: after the transaction: %v", mode, err)
		}
		if err := conn.Close(ctx); err != nil {
			t.Error(err)
		}
		<-closed
		eventually.True(t, "the console's end is recorded", func() bool { return len(g.trail.of(audit.SessionEnd)) == 1 })
		start, end := g.trail.of(audit.SessionStart)[0], g.trail.of(audit.SessionEnd)[0]
		if start.Database != "hourgate" || start.User != alice || end.Cause != "disconnect" {
			t.Errorf("recorded %+v and %+v", start, end)
		}
		if got := g.trail.asked(); len(got) < 4 || !strings.Contains(got[0], "whoami") {
			t.Errorf("%s: the trail has %q", mode, got)
		}
	}
}

// Arguments of any type reach the console as text, and NULL as NULL.
func TestConsoleArguments(t *testing.T) {
	t.Parallel()
	g, _ := startConsole(t)
	conn := g.consoleConn("")
	rows, err := conn.Query(t.Context(), "echo $1 $2", "it's", nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
		var a, b *string
		err := row.Scan(&a, &b)
		return fmt.Sprint(a != nil && *a == "it's", b == nil), err
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"true true", "false true", "true true"}, got); diff != "" {
		t.Error(diff)
	}
}

// A statement that waits ends when the client cancels it, leaves, or is put out, and its session can be seen meanwhile.
func TestConsoleStatementThatWaits(t *testing.T) {
	t.Parallel()
	wait := func(t *testing.T, ctx context.Context) (*gate, *pgx.Conn, <-chan error, chan struct{}) {
		g, closed := startConsole(t)
		conn := g.consoleConn("")
		done := make(chan error, 1)
		go func() { _, err := conn.Exec(ctx, "wait", pgx.QueryExecModeSimpleProtocol); done <- err }()
		eventually.True(t, "the notice arrives", func() bool { return slices.Contains(g.notices.all(), "waiting") })
		return g, conn, done, closed
	}
	t.Run("canceled", func(t *testing.T) {
		t.Parallel()
		_, conn, done, _ := wait(t, t.Context())
		if err := conn.PgConn().CancelRequest(t.Context()); err != nil {
			t.Fatal(err)
		}
		var e *pgconn.PgError
		if err := <-done; !errors.As(err, &e) || e.Code != pgerrcode.QueryCanceled || e.Severity != "ERROR" {
			t.Errorf("got %v, want 57014", err)
		}
		var who string
		if err := conn.QueryRow(t.Context(), "whoami").Scan(&who); err != nil {
			t.Errorf("after the cancel: %v", err)
		}
	})
	t.Run("left", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		_, _, done, closed := wait(t, ctx)
		cancel() // pgx closes the connection
		<-done
		<-closed
	})
	t.Run("put out", func(t *testing.T) {
		t.Parallel()
		g, _, done, closed := wait(t, t.Context())
		infos := g.server.Sessions()
		if len(infos) != 1 || infos[0].State != proxy.Running || infos[0].Database != "hourgate" || infos[0].User != alice {
			t.Fatalf("sessions: %+v", infos)
		}
		if !g.server.End(infos[0].ID, proxy.EndedByLock, "lock 7: investigation") {
			t.Error("no such session")
		}
		var e *pgconn.PgError
		if err := <-done; !errors.As(err, &e) || e.Code != pgerrcode.AdminShutdown || e.Detail != "lock 7: investigation" {
			t.Errorf("got %v, want 57P01 with its detail", err)
		}
		<-closed
	})
	t.Run("no longer a user", func(t *testing.T) {
		t.Parallel()
		g, _, done, closed := wait(t, t.Context())
		g.live.Put(parsePolicy(t, g, fmt.Sprintf("users: [{name: %s, scram: %q}]", bob, verifiers()[bob])))
		var e *pgconn.PgError
		if err := <-done; !errors.As(err, &e) || e.Code != pgerrcode.AdminShutdown {
			t.Errorf("got %v, want 57P01", err)
		}
		<-closed
	})
}

// A panic in the console ends its session, loudly, and nobody else's.
func TestConsolePanics(t *testing.T) {
	t.Parallel()
	g, closed := startConsole(t)
	other := connect(t, g.target())
	conn := g.consoleConn("")
	var e *pgconn.PgError
	if _, err := conn.Exec(t.Context(), "panic"); !errors.As(err, &e) || e.Code != pgerrcode.InternalError || e.Severity != "FATAL" {
		t.Errorf("got %v, want FATAL XX000", err)
	}
	<-closed
	eventually.True(t, "the panic is recorded", func() bool { return len(g.trail.of(audit.SessionEnd)) == 1 })
	if end := g.trail.of(audit.SessionEnd)[0]; end.Cause != "panic" {
		t.Errorf("recorded %+v, want the cause panic", end)
	}
	if got := g.metric("hourgate_session_panics_total"); got != 1 {
		t.Errorf("%v panics counted, want 1", got)
	}
	if log := g.logs.String(); !strings.Contains(log, "testConsoleSession") || !strings.Contains(log, "panic: console") {
		t.Error("the log has no stack")
	}
	other.send(query("SELECT 1"))
	other.skipTo('Z')
}

// Without a console the name is like any other, and a console may refuse somebody.
func TestConsoleRefusals(t *testing.T) {
	t.Parallel()
	g, _ := startConsole(t)
	to := g.target()
	to.user, to.password, to.database = bob, bobPassword, "hourgate"
	p := dial(t, to, negotiated)
	p.send(like(v30).bytes(to))
	if got, want := p.outcome(), "FATAL 28000: no console for bob"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	without := newGate(t)
	to = without.target()
	to.database = "hourgate"
	p = dial(t, to, negotiated)
	p.send(like(v30).bytes(to))
	if got := p.outcome(); !strings.HasPrefix(got, "FATAL 28000: no live grant") {
		t.Errorf("without a console: got %s", got)
	}
}

// testDesk answers applicants.
type testDesk func(ctx context.Context, a proxy.Applicant, notice func(string)) error

func (d testDesk) Ask(ctx context.Context, a proxy.Applicant, notice func(string)) error {
	return d(ctx, a, notice)
}

// A log-in without a grant may ask for one and wait for it: here somebody decides while psql waits.
func TestApplyAtTheDoor(t *testing.T) {
	t.Parallel()
	db := database(t, 18)
	asked := make(chan proxy.Applicant, 1)
	gates := make(chan *gate, 1) // the desk's
	open := func(desk testDesk) *gate {
		return startGate(t, db, gateOptions{grants: none, change: func(c *proxy.Config) { c.Desk = desk }})
	}
	const options = `-c hourgate.reason=fix\ order\ 17 -c hourgate.for=2h -c hourgate.wait=1m -c hourgate.access=READ_WRITE -c geqo=off`

	g := open(func(_ context.Context, a proxy.Applicant, notice func(string)) error {
		asked <- a
		notice("waiting for carol")
		g := <-gates
		g.live.Put(g.policy(grant("req-1", time.Hour)))
		return nil
	})
	gates <- g
	p := dial(t, g.target(), negotiated)
	notice := ""
	for _, m := range p.login(like(v30, "options", options).bytes(g.target())) {
		if m.kind == 'N' {
			notice = string(m.body)
		}
	}
	if !strings.Contains(notice, "Mwaiting for carol\x00") {
		t.Errorf("notice %q, want whom it waits for", notice)
	}
	p.send(query("SHOW geqo"))
	p.skipTo('Z')
	a := <-asked
	if a.User != alice || a.Wanted != "orders" || a.Reason != "fix order 17" || a.For != 2*time.Hour || a.Wait != time.Minute || a.Access != "READ_WRITE" ||
		a.Decision.Reason != "no_grant" || a.ID == "" || !a.ClientAddress.IsValid() {
		t.Errorf("asked %+v", a)
	}

	for _, rule := range []struct {
		name string
		desk testDesk
		want string
	}{
		{
			"denied", func(context.Context, proxy.Applicant, func(string)) error {
				return &proxy.DeskRefusal{Reason: proxy.RequestDenied, Message: "denied by carol", Hint: "Ask her."}
			}, "FATAL 28000: denied by carol",
		},
		{"approved, and taken back at once", func(context.Context, proxy.Applicant, func(string)) error { return nil }, `FATAL 28000: no live grant for "orders"`},
		{"broken", func(context.Context, proxy.Applicant, func(string)) error { return errors.New(secretText) }, "FATAL XX000: internal error, session "},
		{"panics", func(context.Context, proxy.Applicant, func(string)) error { panic("desk") }, "FATAL XX000: internal error, session "},
	} {
		g := open(rule.desk)
		p := dial(t, g.target(), negotiated)
		p.send(like(v30, "options", options).bytes(g.target()))
		if got := p.outcome(); !strings.HasPrefix(got, rule.want) {
			t.Errorf("%s: got %s, want %s", rule.name, got, rule.want)
		}
	}
}

// An applicant who leaves, or is put out, does not stay at the door, and neither does one who talks.
func TestLeavingTheDoor(t *testing.T) {
	t.Parallel()
	db := database(t, 18)
	for name, leave := range map[string]func(*gate, *peer){
		"closes":     func(_ *gate, p *peer) { _ = p.conn.Close() },
		"terminates": func(_ *gate, p *peer) { p.send(terminate) },
		"talks":      func(_ *gate, p *peer) { p.send(query("SELECT 1")) },
		"is put out": func(g *gate, _ *peer) { g.server.End(g.server.Sessions()[0].ID, proxy.EndedByOperator, "") },
		"gate ends":  func(g *gate, _ *peer) { _ = g.server.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			waiting, left := make(chan struct{}), make(chan struct{})
			g := startGate(t, db, gateOptions{grants: none, change: func(c *proxy.Config) {
				c.LoginTimeout = 3 * time.Second
				c.Desk = testDesk(func(ctx context.Context, _ proxy.Applicant, _ func(string)) error {
					close(waiting)
					<-ctx.Done()
					close(left)
					return ctx.Err()
				})
			}})
			p := dial(t, g.target(), negotiated)
			go func() { _ = p.outcome() }()
			p.send(like(v30, "options", "-c hourgate.reason=x").bytes(g.target()))
			<-waiting
			go leave(g, p)
			<-left
			eventually.True(t, "the session ends", func() bool { return len(g.server.Sessions()) == 0 })
		})
	}
}

// What can't be a petition is refused, and says what can.
func TestPetitions(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	for option, want := range map[string]string{
		"hourgate.for=soon":                            "FATAL 22023",
		"hourgate.for=-1h":                             "FATAL 22023",
		"hourgate.wait=31m":                            "FATAL 22023",
		"hourgate.reason=a\\\nb":                       "FATAL 22023",
		"hourgate.reason=" + strings.Repeat("x", 1001): "FATAL 22023",
		"hourgate.raeson=x":                            "FATAL 22023",
		"hourgate.reason=" + strings.Repeat("é", 500):  "ready",
		"hourgate.reason=x -c hourgate.wait=0s":        "ready", // there is a grant: nobody is asked
		"hourgate.wait=30m -c HOURGATE.FOR=90m":        "ready",
	} {
		p := dial(t, g.target(), negotiated)
		p.send(like(v30, "options", "-c "+option).bytes(g.target()))
		if got := p.outcome(); !strings.HasPrefix(got, want) {
			t.Errorf("%q: got %s, want %s", option, got, want)
		}
	}
}
