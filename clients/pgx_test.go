//go:build clients

package clients

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
)

// pgxConfig is for both clients in Go.
func pgxConfig(l login, user, secret string) (*pgx.ConnConfig, error) {
	cfg, err := pgx.ParseConfig(fmt.Sprintf("host=%s port=%s dbname=orders sslmode=verify-full sslrootcert=%s channel_binding=require",
		l.host, l.port, l.ca))
	if err != nil {
		return nil, err
	}
	cfg.User, cfg.Password = user, secret
	return cfg, nil
}

const goTLS = "verify-full, channel binding"

// usePgx is pgx's own interface.
func usePgx(ctx context.Context, l login, out, _ io.Writer) error {
	c := goClient{out}
	c.print("version %s", moduleVersion("github.com/jackc/pgx/v5"))
	c.print("tls %s", goTLS)
	connect := func(user, secret string) (*pgx.Conn, error) {
		cfg, err := pgxConfig(l, user, secret)
		if err != nil {
			return nil, err
		}
		return pgx.ConnectConfig(ctx, cfg)
	}
	conn, err := connect(alice, password)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)

	c.check("login", func() error {
		return wantRole(func(to *string) error { return conn.QueryRow(ctx, "SELECT session_user").Scan(to) })
	})
	c.check("parameters", func() error {
		var sum int
		var text string
		err := conn.QueryRow(ctx, "SELECT $1::int + 2, $2::text", 40, greeting).Scan(&sum, &text)
		return want(err, fmt.Sprint(sum, text), fmt.Sprint(42, greeting))
	})
	c.check("rows", func() error {
		rows, _ := conn.Query(ctx, "SELECT name FROM customers ORDER BY id")
		names, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		return want(nil, fmt.Sprint(len(names), names[len(names)-1]), "100Customer 100")
	})
	c.check("copy-out", func() error {
		var b strings.Builder
		tag, err := conn.PgConn().CopyTo(ctx, &b, "COPY customers TO STDOUT")
		return want(err, fmt.Sprint(tag, strings.Count(b.String(), "\n")), "COPY 100 100")
	})
	c.check("copy-in", func() error {
		tx, err := conn.Begin(ctx)
		if err != nil {
			return err
		}
		defer tx.Rollback(ctx)
		n, err := tx.CopyFrom(ctx, pgx.Identifier{"orders"}, []string{"customer_id", "note"},
			pgx.CopyFromRows([][]any{{1, "copied"}, {2, "copied"}, {3, "copied"}}))
		return want(err, fmt.Sprint(n), "3")
	})
	note := func(to *string) error { return conn.QueryRow(ctx, "SELECT note FROM orders WHERE id = 1").Scan(to) }
	c.check("transaction", func() error {
		for _, end := range []struct {
			tx   func(pgx.Tx) error
			note string
		}{
			{func(tx pgx.Tx) error { return tx.Rollback(ctx) }, "Order 1"},
			{func(tx pgx.Tx) error { return tx.Commit(ctx) }, "changed"},
		} {
			tx, err := conn.Begin(ctx)
			if err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, "UPDATE orders SET note = 'changed' WHERE id = 1"); err != nil {
				return err
			}
			if err := end.tx(tx); err != nil {
				return err
			}
			var got string
			err = note(&got)
			if err := want(err, got, end.note); err != nil {
				return err
			}
		}
		return nil
	})
	c.check("error", func() error {
		_, err := conn.Exec(ctx, "SELECT * FROM no_such_table")
		return errors.Join(wantCode(err, pgerrcode.UndefinedTable), conn.Ping(ctx))
	})
	c.check("cancel", func() error {
		time.AfterFunc(time.Second/2, func() { _ = conn.PgConn().CancelRequest(ctx) })
		_, err := conn.Exec(ctx, "SELECT pg_sleep(30)")
		return errors.Join(wantCode(err, pgerrcode.QueryCanceled), conn.Ping(ctx))
	})
	c.check("wrong-password", func() error {
		_, err := connect(alice, "wrong")
		return wantCode(err, pgerrcode.InvalidPassword)
	})
	c.check("expired-grant", func() error {
		_, err := connect(bob, password)
		return wantDenied(err)
	})

	running, err := connect(carol, password)
	if err != nil {
		return err
	}
	defer running.Close(ctx)
	idle, err := connect(carol, password)
	if err != nil {
		return err
	}
	defer idle.Close(ctx)
	c.print("end")
	c.check("end-running", func() error {
		_, err := running.Exec(ctx, "SELECT pg_sleep(30)")
		return wantCode(err, pgerrcode.AdminShutdown)
	})
	c.check("end-idle", func() error {
		ended, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		_, err := idle.WaitForNotification(ended) // which reads what comes without being asked for
		return wantCode(err, pgerrcode.AdminShutdown)
	})
	return nil
}
