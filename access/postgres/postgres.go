// Package postgres keeps the state of several gates in a PostgreSQL database.
package postgres

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/hourgate/hourgate/access/sqlstore"
	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/secrets"
)

const (
	// channel is where each change is announced.
	channel = "hourgate_access"
	// retry is how long Watch waits before it connects again.
	retry = 200 * time.Millisecond
	// maxConns bounds what a gate takes of the server's slots.
	maxConns = 8
)

// parameters are what connections are opened with. The limits keep a gate that is cut off from holding up the others.
var parameters = map[string]string{
	"application_name": "hourgate state", "client_encoding": "UTF8", "standard_conforming_strings": "on", "DateStyle": "ISO", "TimeZone": "UTC",
	"statement_timeout": "5s", "lock_timeout": "5s", "idle_in_transaction_session_timeout": "5s", "default_transaction_read_only": "off",
}

// Config says where the database is. All fields are required.
type Config struct {
	Server   *upstream.Server
	Database string
	Secret   Secret
}

// Secret hands out the credential; *secrets.Store is one. It is used for each connection, so it may be rotated.
type Secret interface {
	Use(ctx context.Context, try func(context.Context, secrets.Credential) error) error
}

// dial logs in with the newest secret that works. open may be called several times.
func (c Config) dial(ctx context.Context, open func(context.Context, *pgx.ConnConfig) error) error {
	return c.Secret.Use(ctx, func(ctx context.Context, cred secrets.Credential) error {
		login := upstream.Login{User: cred.Username, Password: cred.Password.Reveal(), Token: cred.Token, Database: c.Database, Params: parameters}
		_, err := upstream.Connect(ctx, c.Server, login, func(ctx context.Context, base *pgconn.Config) (struct{}, error) {
			cfg, err := pgx.ParseConfig("host=invalid user=invalid sslmode=disable") // pgx insists on having parsed one
			if err != nil {
				return struct{}{}, err
			}
			cfg.Config = *base
			return struct{}{}, open(ctx, cfg)
		})
		var refused *pgconn.PgError
		if errors.As(err, &refused) && (refused.Code == pgerrcode.InvalidPassword || cred.Token && refused.Code == pgerrcode.InvalidAuthorizationSpecification) {
			return fmt.Errorf("%w: %w", secrets.ErrRejected, err)
		}
		return err
	})
}

// Store is an access.Store in a database.
type Store struct {
	*sqlstore.Store
	cfg Config
}

// Open returns the store. It does not connect yet: a gate opens its doors also while the state can't be reached.
func Open(cfg Config) *Store {
	db := sql.OpenDB(connector{cfg})
	db.SetMaxOpenConns(maxConns)
	db.SetMaxIdleConns(2)
	db.SetConnMaxIdleTime(time.Minute)
	return &Store{sqlstore.New(db, sqlstore.Dialect{
		Lock:   `SELECT pg_advisory_xact_lock(hashtext('hourgate state'))`,
		Now:    `SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint`,
		Notify: `SELECT pg_notify('` + channel + `', $1)`,
	}), cfg}
}

// connector makes connections for database/sql.
type connector struct{ cfg Config }

func (c connector) Connect(ctx context.Context) (conn driver.Conn, err error) {
	err = c.cfg.dial(ctx, func(ctx context.Context, cfg *pgx.ConnConfig) error {
		conn, err = stdlib.GetConnector(*cfg).Connect(ctx)
		return err
	})
	return conn, err
}

func (c connector) Driver() driver.Driver { return stdlib.GetDefaultDriver() }

// Watch listens, and connects again when the connection is lost. It calls changed after each connection too, for what
// happened meanwhile.
func (s *Store) Watch(ctx context.Context, changed func()) {
	for ctx.Err() == nil {
		s.listen(ctx, changed)
		select {
		case <-ctx.Done():
		case <-time.After(retry):
		}
	}
}

// listen returns when the connection is lost. Its caller polls too, so that nothing depends on why.
func (s *Store) listen(ctx context.Context, changed func()) {
	var conn *pgx.Conn
	err := s.cfg.dial(ctx, func(ctx context.Context, cfg *pgx.ConnConfig) (err error) {
		conn, err = pgx.ConnectConfig(ctx, cfg)
		return err
	})
	if err != nil {
		return
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // it is lost, or not needed any more
	if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
		return
	}
	for {
		changed()
		if _, err := conn.WaitForNotification(ctx); err != nil {
			return
		}
	}
}
