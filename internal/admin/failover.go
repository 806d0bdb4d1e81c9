package admin

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgerrcode"

	"github.com/hourgate/hourgate/secrets"
)

// ErrStandby is a server that can't make roles. After a failover it is where the name led before, and leads no more soon.
var ErrStandby = errors.New("the server is a replica, which can't make roles: hostname must lead to the writer")

// FailoverWait is how long a connection waits for a server that is away; less than people have patience.
const FailoverWait = 5 * time.Second

const (
	failoverPause    = 50 * time.Millisecond
	maxFailoverPause = 500 * time.Millisecond
)

// connect logs in as the admin. A server that restarts or fails over is waited for, a little; its name is looked up again
// each time. One that never answered is not waited for: it is more likely that something is set up wrongly, and whoever does
// that wants to know at once.
func (p *Pool) connect(ctx context.Context, database string) (*Conn, error) {
	deadline := time.Now()
	if p.reached.Load() {
		deadline = deadline.Add(FailoverWait)
	}
	for pause := failoverPause; ; pause = min(2*pause, maxFailoverPause) {
		conn, err := p.connectOnce(ctx, database)
		if err == nil || !Passing(err) || time.Now().Add(pause).After(deadline) {
			return conn, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// Passing reports an error that a server gives, or is, while it stops, starts or changes its place.
func Passing(err error) bool {
	switch code := SQLState(err); {
	case code == pgerrcode.AdminShutdown, code == pgerrcode.CrashShutdown, code == pgerrcode.CannotConnectNow, strings.HasPrefix(code, "08"):
		return true
	case code != "":
		return false
	}
	for _, cause := range []error{
		ErrStandby, syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE, syscall.ETIMEDOUT, syscall.EHOSTUNREACH, syscall.ENETUNREACH, io.EOF, io.ErrUnexpectedEOF,
	} {
		if errors.Is(err, cause) {
			return true
		}
	}
	var name *net.DNSError // an endpoint has none for a moment while it moves
	return errors.As(err, &name)
}

// rejected reports that the server refused the credential itself. PAM, with which RDS checks tokens, knows one code for
// everything.
func rejected(err error, cred secrets.Credential) bool {
	code := SQLState(err)
	return code == pgerrcode.InvalidPassword || cred.Token && code == pgerrcode.InvalidAuthorizationSpecification
}

// check asks whether the connection works and leads to where it should.
func (p *Pool) check(ctx context.Context, c *Conn) error {
	if p.cfg.Reader {
		return c.Ping(ctx)
	}
	return c.writable(ctx)
}

// writable asks whether the connection works and leads to the writer.
func (c *Conn) writable(ctx context.Context) error {
	var replica bool
	if err := c.Conn.QueryRow(ctx, "SELECT pg_is_in_recovery()").Scan(&replica); err != nil {
		return err
	}
	if replica {
		return ErrStandby
	}
	return nil
}
