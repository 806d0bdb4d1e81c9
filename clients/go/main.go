// Command go is database/sql, the standard library's interface, with one of two drivers. It is a module of its own, so
// that what it needs is no dependency of Hourgate.
package main

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/lib/pq"
)

// greeting is a parameter that is not ASCII.
const greeting = `Grüße, "naïve" ☃`

func main() {
	if err := run(context.Background(), os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1) //nolint:forbidigo // the end of main
	}
}

// connectors open connections of each driver.
var connectors = map[string]func(user, password string) (driver.Connector, error){
	"github.com/jackc/pgx/v5": pgxConnector,
	"github.com/lib/pq":       pqConnector,
}

func run(ctx context.Context, module string) error {
	c := client{ctx: ctx, module: module}
	say("version %s %s", strings.TrimPrefix(strings.TrimSuffix(module, "/v5"), "github.com/"), moduleVersion(module))
	say("tls %s", map[bool]string{true: "verify-full", false: "verify-full, channel binding"}[c.isPq()])
	db, err := c.open(env("USER"), env("PASSWORD"))
	if err != nil {
		return err
	}
	defer db.Close() //nolint:errcheck // nothing to lose

	check("login", func() error {
		role, err := c.text(db, "SELECT session_user::text")
		if err == nil && !strings.HasPrefix(role, "hg_alice_work_") {
			err = fmt.Errorf("the session runs as %s", role)
		}
		return err
	})
	check("parameters", func() error {
		got, err := c.text(db, "SELECT ($1::int + 2) || $2::text", 40, greeting)
		return want(err, got, "42"+greeting)
	})
	check("rows", func() error { return c.rows(db) })
	c.copy(db)
	check("transaction", func() error {
		return errors.Join(c.transaction(db, (*sql.Tx).Rollback, "Order 1"), c.transaction(db, (*sql.Tx).Commit, "changed"))
	})
	check("error", func() error {
		_, err := db.ExecContext(ctx, "SELECT * FROM no_such_table")
		return errors.Join(wantCode(err, "42P01"), db.PingContext(ctx))
	})
	remark := ""
	if c.isPq() {
		remark = "The driver gives up the connection as well."
	}
	checkBut("cancel", remark, func() error { return c.cancel(db) })
	check("wrong-password", func() error {
		_, err := c.open(env("USER"), "wrong")
		return wantCode(err, "28P01")
	})
	check("expired-grant", func() error {
		_, err := c.open(env("EXPIRED_USER"), env("PASSWORD"))
		return wantDenied(err)
	})
	return c.end()
}

type client struct {
	ctx    context.Context
	module string
}

func (c client) isPq() bool { return c.module == "github.com/lib/pq" }

// open opens a pool of one connection, so that every statement is in the same session.
func (c client) open(user, password string) (*sql.DB, error) {
	connector, err := connectors[c.module](user, password)
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(1)
	return db, db.PingContext(c.ctx)
}

// pgxConnector's connections send a CancelRequest when a context ends; by default they are closed.
func pgxConnector(user, password string) (driver.Connector, error) {
	cfg, err := pgx.ParseConfig(settings() + " channel_binding=require")
	if err != nil {
		return nil, err
	}
	cfg.User, cfg.Password = user, password
	cfg.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: 10 * time.Second}
	}
	return stdlib.GetConnector(*cfg), nil
}

func pqConnector(user, password string) (driver.Connector, error) {
	quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace
	return pq.NewConnector(fmt.Sprintf("%s user='%s' password='%s'", settings(), quote(user), quote(password)))
}

func settings() string {
	return fmt.Sprintf("host=%s port=%s dbname=%s sslmode=verify-full sslrootcert='%s'",
		env("HOST"), env("PORT"), env("DATABASE"), env("CA"))
}

// text is the one value of a query.
func (c client) text(db *sql.DB, query string, args ...any) (string, error) {
	var value string
	err := db.QueryRowContext(c.ctx, query, args...).Scan(&value)
	return value, err
}

func (c client) rows(db *sql.DB) error {
	rows, err := db.QueryContext(c.ctx, "SELECT name FROM customers ORDER BY id")
	if err != nil {
		return err
	}
	defer rows.Close() //nolint:errcheck // rows.Err tells
	n, name := 0, ""
	for ; rows.Next(); n++ {
		if err := rows.Scan(&name); err != nil {
			return err
		}
	}
	return want(rows.Err(), fmt.Sprint(n, name), "100Customer 100")
}

// copy is COPY as lib/pq does it: a prepared statement that is executed for each row.
func (c client) copy(db *sql.DB) {
	say("n/a copy-out: The interface has no COPY.")
	if !c.isPq() {
		say("n/a copy-in: The interface has no COPY.")
		return
	}
	check("copy-in", func() error {
		tx, err := db.BeginTx(c.ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback() //nolint:errcheck // after a commit there is nothing to roll back
		rows, err := tx.PrepareContext(c.ctx, "COPY orders (customer_id, note) FROM STDIN")
		if err != nil {
			return err
		}
		for n := range 3 {
			if _, err := rows.ExecContext(c.ctx, n+1, "copied"); err != nil {
				return err
			}
		}
		if err := rows.Close(); err != nil {
			return err
		}
		var copied string
		err = tx.QueryRowContext(c.ctx, "SELECT count(*) FROM orders WHERE note = 'copied'").Scan(&copied)
		return want(err, copied, "3")
	})
}

func (c client) transaction(db *sql.DB, end func(*sql.Tx) error, note string) error {
	tx, err := db.BeginTx(c.ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after a commit there is nothing to roll back
	if _, err := tx.ExecContext(c.ctx, "UPDATE orders SET note = 'changed' WHERE id = $1", 1); err != nil {
		return err
	}
	if err := end(tx); err != nil {
		return err
	}
	got, err := c.text(db, "SELECT note FROM orders WHERE id = 1")
	return want(err, got, note)
}

// cancel ends a statement by its context.
func (c client) cancel(db *sql.DB) error {
	impatient, cancel := context.WithTimeout(c.ctx, time.Second/2)
	defer cancel()
	_, err := db.ExecContext(impatient, "SELECT pg_sleep(30)")
	return errors.Join(wantCode(err, "57014"), db.PingContext(c.ctx))
}

// end has two sessions whose grant ends: one has a statement running, one waits for the next.
func (c client) end() error {
	running, err := c.open(env("ENDING_USER"), env("PASSWORD"))
	if err != nil {
		return err
	}
	defer running.Close() //nolint:errcheck // nothing to lose
	idle, err := c.open(env("ENDING_USER"), env("PASSWORD"))
	if err != nil {
		return err
	}
	defer idle.Close() //nolint:errcheck // nothing to lose
	say("end")
	const reconnects = "The connection counts as lost; the interface opens another, and shows how that is refused: with 28000."
	code, remark := "57P01", ""
	if c.isPq() {
		code, remark = "28000", reconnects
	}
	checkBut("end-running", remark, func() error {
		_, err := running.ExecContext(c.ctx, "SELECT pg_sleep(30)")
		return wantCode(err, code)
	})
	time.Sleep(time.Second) // until the other has ended, too
	checkBut("end-idle", reconnects, func() error {
		_, err := idle.ExecContext(c.ctx, "SELECT 1")
		return wantCode(err, "28000")
	})
	return nil
}

// check reports what a function does as one check.
func check(name string, f func() error) { checkBut(name, "", f) }

// checkBut is check with something to be said when it passes.
func checkBut(name, remark string, f func() error) {
	switch err := f(); {
	case err != nil:
		say("FAIL %s: %s", name, strings.Join(strings.Fields(err.Error()), " "))
	case remark != "":
		say("ok %s: %s", name, remark)
	default:
		say("ok %s", name)
	}
}

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

func want(err error, got, want string) error {
	if err == nil && got != want {
		err = fmt.Errorf("got %s, want %s", got, want)
	}
	return err
}

func wantCode(err error, code string) error {
	var e interface{ SQLState() string }
	if !errors.As(err, &e) || e.SQLState() != code {
		return fmt.Errorf("got %w, want SQLSTATE %s", err, code)
	}
	return nil
}

// wantDenied asks for the refusal of somebody whose grant has ended.
func wantDenied(err error) error {
	var message, detail, hint string
	var pgxErr *pgconn.PgError
	var pqErr *pq.Error
	switch {
	case errors.As(err, &pgxErr):
		message, detail, hint = pgxErr.Message, pgxErr.Detail, pgxErr.Hint
	case errors.As(err, &pqErr):
		message, detail, hint = pqErr.Message, pqErr.Detail, pqErr.Hint
	}
	if message != fmt.Sprintf("no live grant for %q", env("DATABASE")) ||
		!strings.Contains(detail, "last-week") || !strings.Contains(hint, "connect to: invoices") {
		return fmt.Errorf("got %w, DETAIL %q, HINT %q", err, detail, hint)
	}
	return wantCode(err, "28000")
}

func moduleVersion(module string) string {
	info, _ := debug.ReadBuildInfo()
	for _, dependency := range info.Deps {
		if dependency.Path == module {
			return strings.TrimPrefix(dependency.Version, "v")
		}
	}
	return "unknown"
}

func env(name string) string { return os.Getenv("HOURGATE_" + name) }
