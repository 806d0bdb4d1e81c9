package roles

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/secrets"
)

// poolSize is how many admin connections one integration may have open in its default database: one is always kept for
// settling.
const poolSize = 4

const (
	idleCheck    = time.Second     // a connection that lay idle for longer is pinged before it is used
	closeTimeout = 2 * time.Second // for saying goodbye to the server
)

// adminConn is a connection as the admin. It is used by one goroutine at a time.
type adminConn struct {
	*pgx.Conn
	version int              // server_version_num
	used    time.Time        // when it was last given back to the pool
	notices []*pgconn.Notice // since the last call of warnings
}

// warnings returns the SQLSTATEs of the notices that came since the last call.
func (c *adminConn) warnings() []string {
	var codes []string
	for _, n := range c.notices {
		codes = append(codes, n.Code)
	}
	c.notices = nil
	return codes
}

// script sends statements as one message and returns the rows of the last. They are joined here and nowhere else; what
// is put into them is either a constant or quoted by quoteIdentifier or quoteLiteral.
func (c *adminConn) script(ctx context.Context, statements ...string) ([][][]byte, error) {
	results, err := c.PgConn().Exec(ctx, strings.Join(statements, ";\n")).ReadAll()
	if err != nil {
		return nil, err
	}
	if len(results) == 0 {
		return nil, nil
	}
	return results[len(results)-1].Rows, nil
}

// transaction runs fn between BEGIN and COMMIT, holding the lock under which privileges of shared objects change when
// exclusive is set: concurrent changes of one ACL fail with XX000 otherwise.
func (c *adminConn) transaction(ctx context.Context, exclusive bool, fn func() error) error {
	begin := []string{"BEGIN"}
	if exclusive {
		begin = append(begin, "SELECT pg_advisory_xact_lock(hashtext('hourgate-acl'))")
	}
	begin = append(begin, "SET LOCAL lock_timeout = '1500ms'")
	if _, err := c.script(ctx, begin...); err != nil {
		return errors.Join(err, c.rollback(ctx))
	}
	if err := fn(); err != nil {
		return errors.Join(err, c.rollback(ctx))
	}
	_, err := c.script(ctx, "COMMIT")
	return err
}

// rollback leaves the connection outside any transaction, or closes it.
func (c *adminConn) rollback(ctx context.Context) error {
	if c.IsClosed() {
		return nil
	}
	_, err := c.script(context.WithoutCancel(ctx), "ROLLBACK")
	return err
}

func quoteIdentifier(name string) string { return pgx.Identifier{name}.Sanitize() }

// quoteLiteral quotes for standard_conforming_strings = on, which every admin connection pins.
func quoteLiteral(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// connect logs in as the admin with the newest secret that works.
func (k *Keeper) connect(ctx context.Context, database string) (*adminConn, error) {
	var conn *adminConn
	err := k.cfg.Secret.Use(ctx, func(ctx context.Context, cred secrets.Credential) error {
		var err error
		conn, err = k.login(ctx, database, cred)
		if sqlstate(err) == "28P01" {
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
	conn := &adminConn{}
	login := upstream.Login{
		User: cred.Username, Password: cred.Password.Reveal(), Database: database,
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
	if err := conn.QueryRow(ctx, "SELECT current_setting('server_version_num')::int").Scan(&conn.version); err != nil {
		_ = conn.Close(ctx)
		return nil, err
	}
	return conn, nil
}

// adminApplication is the application_name of a proxy's admin connections. Everybody may read it in pg_stat_activity,
// so it tells other proxies of the deployment that this one lives.
func adminApplication(deployment, proxy string) string {
	name := "hourgate " + proxy + " " + deployment
	return name[:min(len(name), maxIdentifier)]
}

// pool holds the admin connections in the integration's default database. Connections are opened as needed, up to
// poolSize, and the last one is never closed while it works.
type pool struct {
	open   func(context.Context) (*adminConn, error)
	idle   chan *adminConn
	free   chan struct{} // a token is the right to open one more connection
	live   atomic.Int32
	logins chan struct{} // bounds the log-ins that hold a connection, so that one is left for settling
}

func newPool(open func(context.Context) (*adminConn, error)) *pool {
	p := &pool{
		open:   open,
		idle:   make(chan *adminConn, poolSize),
		free:   make(chan struct{}, poolSize),
		logins: make(chan struct{}, poolSize-1),
	}
	for range poolSize {
		p.free <- struct{}{}
	}
	return p
}

// use runs fn on a connection of the pool.
func (p *pool) use(ctx context.Context, fn func(*adminConn) error) error {
	conn, err := p.acquire(ctx)
	if err != nil {
		return err
	}
	defer p.release(conn)
	return fn(conn)
}

// reserve waits until a log-in may use a connection. Call release when it is done.
func (p *pool) reserve(ctx context.Context) (release func(), err error) {
	select {
	case p.logins <- struct{}{}:
		return func() { <-p.logins }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// acquire returns a connection that works, as far as can be told: one that lay idle is asked first.
func (p *pool) acquire(ctx context.Context) (*adminConn, error) {
	for {
		conn, err := p.next(ctx)
		if err != nil || time.Since(conn.used) < idleCheck || conn.Ping(ctx) == nil {
			return conn, err
		}
		p.discard(conn)
	}
}

// next prefers an idle connection to a new one, and waits for one where no new one can be had.
func (p *pool) next(ctx context.Context) (*adminConn, error) {
	select {
	case conn := <-p.idle:
		return conn, nil
	default:
	}
	select {
	case conn := <-p.idle:
		return conn, nil
	case <-p.free:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	conn, err := p.open(ctx)
	if err == nil {
		conn.used = time.Now()
		p.live.Add(1)
		return conn, nil
	}
	p.free <- struct{}{}
	if p.live.Load() == 0 {
		return nil, err
	}
	// The server has no slot left or the secret can't be had: wait for a connection that is there already.
	select {
	case conn := <-p.idle:
		return conn, nil
	case <-ctx.Done():
		return nil, errors.Join(err, context.Cause(ctx))
	}
}

func (p *pool) release(conn *adminConn) {
	if conn.IsClosed() || conn.PgConn().TxStatus() != 'I' {
		p.discard(conn)
		return
	}
	conn.notices, conn.used = nil, time.Now()
	p.idle <- conn
}

func (p *pool) discard(conn *adminConn) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_ = conn.Close(ctx)
	p.live.Add(-1)
	p.free <- struct{}{}
}

// close closes the idle connections; the others are closed by whoever uses them.
func (p *pool) close() {
	for {
		select {
		case conn := <-p.idle:
			p.discard(conn)
		default:
			return
		}
	}
}

// in runs fn on an admin connection to a database: one of the pool for the default database, else a fresh one.
func (k *Keeper) in(ctx context.Context, database string, fn func(*adminConn) error) error {
	if database == k.cfg.Database {
		return k.pool.use(ctx, fn)
	}
	conn, err := k.connect(ctx, database)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		_ = conn.Close(ctx)
	}()
	return fn(conn)
}
