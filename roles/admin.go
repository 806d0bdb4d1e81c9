package roles

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/secrets"
)

// creatorRole makes all roles where a DBA has set it up (see SetupSQL). From 16 on only a role's creator may alter and
// drop it, so that roles would be orphaned whenever the admin's user is replaced, as by alternating-users rotation.
const creatorRole = profilePrefix + "owner"

// connectOnce logs in as the admin with the newest secret that works.
func (k *Keeper) connectOnce(ctx context.Context, database string) (*adminConn, error) {
	var conn *adminConn
	err := k.cfg.Secret.Use(ctx, func(ctx context.Context, cred secrets.Credential) error {
		var err error
		conn, err = k.login(ctx, database, cred)
		if rejected(err, cred) {
			return fmt.Errorf("%w: %w", secrets.ErrRejected, err)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("logging in as the admin of %s: %w", k.cfg.Integration, err)
	}
	return conn, nil
}

func (k *Keeper) login(ctx context.Context, database string, cred secrets.Credential) (*adminConn, error) {
	conn := &adminConn{log: k.log, login: cred.Username, acting: cred.Username}
	login := upstream.Login{
		User: cred.Username, Password: cred.Password.Reveal(), Token: cred.Token, Database: database,
		Params: map[string]string{
			"application_name":                    adminApplication(k.cfg.Deployment, k.proxy),
			"client_encoding":                     "UTF8",
			"standard_conforming_strings":         "on",
			"search_path":                         "pg_catalog",
			"DateStyle":                           "ISO",
			"TimeZone":                            "UTC",
			"statement_timeout":                   "30s",
			"idle_in_transaction_session_timeout": "30s",
			"default_transaction_read_only":       "off",
		},
	}
	var err error
	conn.Conn, err = upstream.Connect(ctx, k.cfg.Server, login, func(ctx context.Context, c *pgconn.Config) (*pgx.Conn, error) {
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
	if err = conn.writable(ctx); err == nil {
		err = conn.prepare(ctx)
	}
	if err != nil {
		_ = conn.Close(ctx)
		return nil, err
	}
	conn.before = k.before
	return conn, nil
}

// prepare learns the version and takes on creatorRole if the admin may.
func (c *adminConn) prepare(ctx context.Context) error {
	var creator bool
	err := c.queryOne(ctx, `
		SELECT v, coalesce((SELECT rolcreaterole AND NOT rolsuper
		                           AND pg_has_role(oid, CASE WHEN v >= 160000 THEN 'SET' ELSE 'MEMBER' END)
		                      FROM pg_roles WHERE rolname = $1), false)
		  FROM (SELECT current_setting('server_version_num')::int) s(v)`, []any{creatorRole}, &c.version, &creator)
	if err != nil || !creator {
		return err
	}
	c.creator = creatorRole
	return c.act(ctx, creatorRole)
}

// adminApplication is the application_name of a proxy's admin connections. Everybody may read it in pg_stat_activity,
// so it tells other proxies of the deployment that this one lives.
func adminApplication(deployment, proxy string) string {
	name := "hourgate " + proxy + " " + deployment
	return name[:min(len(name), maxIdentifier)]
}
