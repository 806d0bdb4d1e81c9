package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hourgate/hourgate/internal/descriptors"
	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/secrets"
)

// CreatorRole makes all roles where a DBA has set it up (see Keeper.SetupSQL in package roles). From 16 on only a role's creator may alter and
// drop it, so that roles would be orphaned whenever the admin's user is replaced, as by alternating-users rotation.
const CreatorRole = "hourgate_owner"

// Config is what a Pool needs to know. All fields are required.
type Config struct {
	Integration string // name, for errors
	Database    string // the integration's default database, where the pool's connections live
	Application string // application_name: tells other proxies of the deployment that this one lives
	Server      *upstream.Server
	Secret      Secret
	Log         *slog.Logger

	// Shared are the server's connections, for pools that reach one server in the same way and with the same secret. Optional:
	// the pool has its own.
	Shared *Shared

	// Reader says that the server replays what is done elsewhere, so that it need not be one that can be written to. Optional.
	Reader bool
}

// Secret hands out the admin's credential; *secrets.Store is one.
type Secret interface {
	Use(ctx context.Context, try func(context.Context, secrets.Credential) error) error
}

// connectOnce logs in as the admin with the newest secret that works.
func (p *Pool) connectOnce(ctx context.Context, database string) (*Conn, error) {
	defer descriptors.Borrow()() // whoever is out of them needs this all the same, to end access
	var conn *Conn
	err := p.cfg.Secret.Use(ctx, func(ctx context.Context, cred secrets.Credential) error {
		var err error
		conn, err = p.login(ctx, database, cred)
		if rejected(err, cred) || errors.Is(err, errPowerless) {
			return fmt.Errorf("%w: %w", secrets.ErrRejected, err)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("logging in as the admin of %s: %w", p.cfg.Integration, err)
	}
	p.reached.Store(true)
	return conn, nil
}

func (p *Pool) login(ctx context.Context, database string, cred secrets.Credential) (*Conn, error) {
	conn := &Conn{log: p.cfg.Log, Login: cred.Username, Acting: cred.Username}
	login := upstream.Login{
		User: cred.Username, Password: cred.Password.Reveal(), Token: cred.Token, Database: database,
		Params: settings(p.cfg.Application),
	}
	var err error
	conn.Conn, err = upstream.Connect(ctx, p.cfg.Server, login, func(ctx context.Context, c *pgconn.Config) (*pgx.Conn, error) {
		c.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { conn.notices = append(conn.notices, n) }
		cfg, err := pgx.ParseConfig("host=invalid user=invalid sslmode=disable")
		if err != nil {
			return nil, err
		}
		cfg.Config = *c
		return pgx.ConnectConfig(ctx, cfg)
	})
	if err != nil {
		return nil, err
	}
	if err = p.check(ctx, conn); err == nil {
		err = conn.prepare(ctx)
	}
	if err == nil {
		err = p.able(conn)
	}
	if err != nil {
		_ = conn.Close(ctx)
		return nil, err
	}
	conn.before = p.Before
	return conn, nil
}

// settings are those of the admin's connections. They come before what somebody has set for the server, the database or the
// admin's user: whatever that is, access has to end in time.
func settings(application string) map[string]string {
	return map[string]string{
		"application_name":                    application,
		"role":                                "none",
		"client_encoding":                     "UTF8",
		"client_min_messages":                 "notice", // warnings are looked at
		"standard_conforming_strings":         "on",
		"quote_all_identifiers":               "off",
		"search_path":                         "pg_catalog",
		"DateStyle":                           "ISO",
		"TimeZone":                            "UTC",
		"statement_timeout":                   "30s",
		"lock_timeout":                        "0", // see Transaction
		"idle_in_transaction_session_timeout": "30s",
		"default_transaction_read_only":       "off",
		"default_transaction_isolation":       "read committed",
		"synchronous_commit":                  "local", // a standby that is away must not hold up an end; the sweep after a failover does it again
		"jit":                                 "off",   // compiling a query of ours takes longer than running it
	}
}

// errPowerless is a user that can't make roles, in a secret whose user could before: somebody has put the wrong one into it.
var errPowerless = errors.New("the user may not create roles, as the one before it could")

func (p *Pool) able(c *Conn) error {
	if c.creates {
		p.created.Store(true)
	} else if p.created.Load() {
		return fmt.Errorf("logging in as %s: %w", c.Login, errPowerless)
	}
	return nil
}

// prepare learns the version, sets what older servers don't know, and takes on CreatorRole if the admin may.
func (c *Conn) prepare(ctx context.Context) error {
	var creator bool
	var idle, transaction *string
	err := c.QueryOne(ctx, `
		SELECT v, coalesce((SELECT rolcreaterole AND NOT rolsuper
		                           AND pg_has_role(oid, CASE WHEN v >= 160000 THEN 'SET' ELSE 'MEMBER' END)
		                      FROM pg_roles WHERE rolname = $1), false),
		       coalesce((SELECT rolcreaterole OR rolsuper FROM pg_roles WHERE rolname = session_user), false),
		       CASE WHEN v >= 140000 THEN set_config('idle_session_timeout', '0', false) END,
		       CASE WHEN v >= 170000 THEN set_config('transaction_timeout', '0', false) END
		  FROM (SELECT current_setting('server_version_num')::int) s(v)`, []any{CreatorRole}, &c.Version, &creator, &c.creates, &idle, &transaction)
	c.creates = c.creates || creator
	if err != nil || !creator {
		return err
	}
	c.Creator = CreatorRole
	return c.Act(ctx, CreatorRole)
}
