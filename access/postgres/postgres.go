// Package postgres keeps the state of several gates in a PostgreSQL database.
package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/hourgate/hourgate/access/sqlstore"
)

const (
	// channel is where each change is announced.
	channel = "hourgate_access"
	// retry is how long Watch waits before it connects again.
	retry = 200 * time.Millisecond
	// maxConns bounds what a gate takes of the server's slots.
	maxConns = 8
)

// Store is an access.Store in a database.
type Store struct {
	*sqlstore.Store
	connect Connect
}

// Connect opens a connection for the store. It is called again after each loss, so it may fetch a secret that has been
// rotated.
type Connect func(ctx context.Context) (*pgx.ConnConfig, error)

// Open connects and brings the tables up to date.
func Open(ctx context.Context, connect Connect) (*Store, error) {
	first, err := connect(ctx)
	if err != nil {
		return nil, err
	}
	db := stdlib.OpenDB(*first, stdlib.OptionBeforeConnect(func(ctx context.Context, cfg *pgx.ConnConfig) error {
		fresh, err := connect(ctx)
		if err == nil {
			*cfg = *fresh
		}
		return err
	}))
	db.SetMaxOpenConns(maxConns)
	db.SetMaxIdleConns(2)
	db.SetConnMaxIdleTime(time.Minute)
	store, err := sqlstore.New(ctx, db, sqlstore.Dialect{
		Lock:   `SELECT pg_advisory_xact_lock(hashtext('hourgate state'))`,
		Now:    `SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint`,
		Notify: `SELECT pg_notify('` + channel + `', $1)`,
	})
	if err != nil {
		return nil, fmt.Errorf("state in PostgreSQL: %w", err)
	}
	return &Store{store, connect}, nil
}

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
	cfg, err := s.connect(ctx)
	if err != nil {
		return
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
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
