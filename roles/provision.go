package roles

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/verifier"
	"github.com/hourgate/hourgate/policy"
)

// Role is an ephemeral role on the server.
type Role struct {
	Name  string
	OID   uint32
	entry entry
}

const (
	// passwordBytes is 256 bits of randomness. No dictionary reaches that, so the verifier needs no more than one
	// iteration, which makes every upstream log-in a few milliseconds cheaper.
	passwordBytes      = 32
	passwordIterations = 1

	// maxSessions bounds one person's sessions under one grant. IDEs open several at once.
	maxSessions = 20
	// connectionLimit is the server's bound on the same. It is higher by the backends of sessions that have just ended
	// and are not gone yet.
	connectionLimit = maxSessions + 10
)

// newPassword returns a password and the only form of it that the server ever sees.
func newPassword() (password, encoded string, err error) {
	var b [passwordBytes]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	password = base64.RawURLEncoding.EncodeToString(b[:])
	v, err := verifier.New(password, passwordIterations)
	if err != nil {
		return "", "", fmt.Errorf("making a SCRAM verifier: %w", err)
	}
	return password, v.Encode(), nil
}

// provision makes the lease's role in one transaction on the database, with the record in the trail before COMMIT.
func (k *Keeper) provision(ctx context.Context, l *lease, database string) error {
	started := time.Now()
	password, encoded, err := newPassword()
	if err != nil {
		return err
	}
	p := profile{database, l.grant.Access.Level}
	err = k.in(ctx, database, func(c *adminConn) error {
		if err := k.ensureProfile(ctx, c, p); err != nil {
			return err
		}
		return c.transaction(ctx, p.level == policy.Admin, func() error { return k.makeRole(ctx, c, l, p, encoded) })
	})
	if err != nil {
		k.profiles.forget(p)
		return fmt.Errorf("making a role for grant %s on %s: %w", l.grant.Name, k.cfg.Integration, k.provisionFailed(l, err))
	}
	l.password = password
	k.metrics.provisioned(time.Since(started))
	return nil
}

// provisionFailed takes back what the trail says of a role whose transaction did not commit after all.
func (k *Keeper) provisionFailed(l *lease, err error) error {
	if l.role.OID == 0 {
		return err
	}
	return errors.Join(err, k.cfg.Trail.Append(k.record(audit.RoleMakeFailed, l.role, nil)))
}

// makeRole runs inside a transaction. The statements are the same on 13 to 18, but for the options of GRANT.
func (k *Keeper) makeRole(ctx context.Context, c *adminConn, l *lease, p profile, verifier string) error {
	name := quoteIdentifier(l.role.Name)
	rows, err := c.script(ctx,
		fmt.Sprintf("CREATE ROLE %s LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS INHERIT CONNECTION LIMIT %d VALID UNTIL %s PASSWORD %s",
			name, connectionLimit, quoteLiteral(l.until.UTC().Format(time.RFC3339)), quoteLiteral(verifier)),
		fmt.Sprintf("COMMENT ON ROLE %s IS %s", name, quoteLiteral(l.role.entry.comment())),
		joinRole(c, name),
		joinProfile(c, p, name),
		"SELECT oid FROM pg_roles WHERE rolname = "+quoteLiteral(l.role.Name))
	if err != nil {
		return err
	}
	if l.role.OID, err = parseOID(rows); err != nil {
		return err
	}
	if p.level == policy.Admin {
		if err := grantCreate(ctx, c, name); err != nil {
			return err
		}
	}
	return k.cfg.Trail.Append(k.record(audit.RoleMade, l.role, func(r *audit.Record) {
		r.Database, r.Access, r.Until = p.database, string(p.level), l.until
	}))
}

// admit lets an existing role into one more database of its grant.
func (k *Keeper) admit(ctx context.Context, l *lease, database string) error {
	p := profile{database, l.grant.Access.Level}
	name := quoteIdentifier(l.role.Name)
	err := k.in(ctx, database, func(c *adminConn) error {
		if err := k.ensureProfile(ctx, c, p); err != nil {
			return err
		}
		return c.transaction(ctx, p.level == policy.Admin, func() error {
			if _, err := c.script(ctx, joinProfile(c, p, name)); err != nil {
				return err
			}
			if p.level == policy.Admin {
				return grantCreate(ctx, c, name)
			}
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("admitting role %s to database %s: %w", l.role.Name, database, err)
	}
	return nil
}

// joinRole makes the admin a member of the role, which is what allows it to terminate the role's backends and to drop
// what it owns. Done here and not when settling, it can't be held up by the tenant.
func joinRole(c *adminConn, name string) string {
	if c.version >= 160000 {
		return "GRANT " + name + " TO CURRENT_USER WITH INHERIT TRUE, SET TRUE"
	}
	return "GRANT " + name + " TO CURRENT_USER"
}

// joinProfile makes the role a member of its profile, never with ADMIN OPTION, and where the server can tell the
// difference (16) without the right to SET ROLE to it.
func joinProfile(c *adminConn, p profile, name string) string {
	if c.version >= 160000 {
		return "GRANT " + quoteIdentifier(p.name()) + " TO " + name + " WITH INHERIT TRUE, SET FALSE"
	}
	return "GRANT " + quoteIdentifier(p.name()) + " TO " + name
}

// grantCreate lets an ADMIN's role create in the schemas where the admin can allow it. It goes to the role itself and
// never to a profile; see profile.
func grantCreate(ctx context.Context, c *adminConn, name string) error {
	rows, err := c.Query(ctx, `
		SELECT quote_ident(nspname) FROM pg_namespace
		 WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' AND pg_has_role(nspowner, 'USAGE')
		 ORDER BY 1`)
	if err != nil {
		return err
	}
	schemas, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	var statements []string
	for _, schema := range schemas {
		statements = append(statements, "GRANT CREATE ON SCHEMA "+schema+" TO "+name)
	}
	if len(statements) == 0 {
		return nil
	}
	_, err = c.script(ctx, statements...)
	return err
}

func parseOID(rows [][][]byte) (uint32, error) {
	if len(rows) != 1 || len(rows[0]) != 1 {
		return 0, errors.New("the server did not say the role's OID")
	}
	oid, err := strconv.ParseUint(string(rows[0][0]), 10, 32)
	return uint32(oid), err
}
