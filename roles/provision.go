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
	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/internal/verifier"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/roles/ledger"
	"github.com/hourgate/hourgate/roles/profile"
)

const (
	// passwordBytes is 256 bits of randomness. No dictionary reaches that, so the verifier needs no more than one
	// iteration, which makes every upstream log-in a few milliseconds cheaper.
	passwordBytes      = 32
	passwordIterations = 1

	// defaultSessions bounds one person's sessions under one grant that says nothing else. IDEs open several at once.
	defaultSessions = 20
	// connectionReserve is by how much the server's bound on the same is higher, for the backends of sessions that have
	// just ended and are not gone yet.
	connectionReserve = 10
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
func (l *lease) provision(ctx context.Context, database string) error {
	k := l.keeper
	started, g := time.Now(), l.current()
	password, encoded, err := newPassword()
	if err != nil {
		return err
	}
	p := profile.Of(database, g.Access, k.cfg.Deployment)
	err = k.profiles.With(ctx, p, p.Local() || len(g.Access.Roles) > 0, func(c *admin.Conn) error {
		if err := profile.CheckNamed(ctx, c, g); err != nil {
			return err
		}
		if role, found, err := l.orphan(ctx, c, g); err != nil || found {
			if err == nil {
				err = l.adopt(ctx, c, g, p, role, encoded)
			}
			if !errors.Is(err, errTaken) {
				return err
			}
		}
		return l.makeRole(ctx, c, g, p, encoded)
	})
	if err != nil {
		return fmt.Errorf("making a role for grant %s on %s: %w", g.Name, k.cfg.Integration, l.provisionFailed(err))
	}
	l.password = password
	l.heard(g)
	k.metrics.provisioned(time.Since(started))
	return nil
}

// provisionFailed takes back what the trail says of a role whose transaction did not commit after all.
func (l *lease) provisionFailed(err error) error {
	k := l.keeper
	role := l.identity()
	if role.OID == 0 {
		return err
	}
	return errors.Join(err, k.cfg.Trail.Append(role.Record(audit.RoleMakeFailed, k.cfg.Integration, nil)))
}

// makeRole is one transaction, which holds the lock where an ACL changes or where a profile may be removed just now. The
// statements are the same on 13 to 18, but for the options of GRANT.
func (l *lease) makeRole(ctx context.Context, c *admin.Conn, g *policy.Grant, p profile.Profile, verifier string) error {
	k, role := l.keeper, l.identity()
	role.Entry = l.entry(g)
	name := admin.QuoteIdentifier(role.Name)
	statements := []string{
		fmt.Sprintf("CREATE ROLE %s LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS INHERIT CONNECTION LIMIT %d VALID UNTIL %s PASSWORD %s",
			name, sessionLimit(g)+connectionReserve, validUntil(g), admin.QuoteLiteral(verifier)),
		fmt.Sprintf("COMMENT ON ROLE %s IS %s", name, admin.QuoteLiteral(role.Entry.Comment())),
		c.Join(name),
	}
	statements = append(statements, settings(g, name)...)
	if g.Access.ActAs != "" {
		// What the session resets and discards comes back to it: on all majors this is the setting's value to reset to.
		statements = append(statements, fmt.Sprintf("ALTER ROLE %s SET role = %s", name, admin.QuoteLiteral(g.Access.ActAs)))
	}
	admissions, err := admissions(ctx, c, g.Access, p, name)
	if err != nil {
		return err
	}
	statements = append(statements, admissions...)
	statements = append(statements, "SELECT oid FROM pg_roles WHERE rolname = "+admin.QuoteLiteral(role.Name))
	return change(ctx, c, p.Local(), statements, func(rows [][][]byte) error {
		if role.OID, err = parseOID(rows); err != nil {
			return err
		}
		l.found(role)
		return k.cfg.Trail.Append(role.Record(audit.RoleMade, k.cfg.Integration, func(r *audit.Record) {
			r.Database, r.Access, r.Until = p.Database(), g.Access.String(), g.Until
		}))
	})
}

// found notes which role on the server is the lease's.
func (l *lease) found(role ledger.Role) {
	l.keeper.mu.Lock()
	defer l.keeper.mu.Unlock()
	if role.Name != l.role.Name {
		delete(l.keeper.ours, l.role.Name)
		l.keeper.ours[role.Name] = l
	}
	l.role = role
}

// admit lets an existing role into one more database of its grant.
func (l *lease) admit(ctx context.Context, g *policy.Grant, database string) error {
	k := l.keeper
	p, name := profile.Of(database, g.Access, k.cfg.Deployment), l.identity().Name
	err := k.profiles.With(ctx, p, p.Local() || len(g.Access.Roles) > 0, func(c *admin.Conn) error {
		if err := profile.CheckNamed(ctx, c, g); err != nil {
			return err
		}
		statements, err := admissions(ctx, c, g.Access, p, admin.QuoteIdentifier(name))
		if err != nil {
			return err
		}
		return change(ctx, c, p.Local(), statements, func([][][]byte) error { return nil })
	})
	if err != nil {
		return fmt.Errorf("admitting role %s to database %s: %w", name, database, err)
	}
	return nil
}

// change is a transaction of the statements, under the lock if asked for.
func change(ctx context.Context, c *admin.Conn, exclusive bool, statements []string, done func(rows [][][]byte) error) error {
	if !exclusive {
		return c.Transaction(ctx, statements, done)
	}
	return c.Exclusively(ctx, func() error {
		rows, err := c.Script(ctx, statements...)
		if err != nil {
			return err
		}
		return done(rows)
	})
}

// admissions are the statements that let a role into one database: membership in the profile and in the roles that the
// grant names, and for an ADMIN the right to create.
func admissions(ctx context.Context, c *admin.Conn, access policy.Access, p profile.Profile, name string) ([]string, error) {
	statements := []string{joinGroup(c, p.Name(), name, false)}
	for _, role := range access.Roles {
		statements = append(statements, joinGroup(c, role, name, role == access.ActAs))
	}
	if access.Level != policy.Admin {
		return statements, nil
	}
	creates, err := grantCreate(ctx, c, access, name)
	return append(statements, creates...), err
}

// sessionLimit is how many sessions a person may have under a grant.
func sessionLimit(g *policy.Grant) int {
	if g.MaxSessions > 0 {
		return g.MaxSessions
	}
	return defaultSessions
}

// joinGroup makes the role a member of its profile or of a role that its grant names, never with ADMIN OPTION, and where
// the server can tell the difference (16) without the right to SET ROLE to it unless it is to act as it.
func joinGroup(c *admin.Conn, group, name string, act bool) string {
	switch {
	case c.Version >= 160000 && act:
		return "GRANT " + admin.QuoteIdentifier(group) + " TO " + name + " WITH INHERIT TRUE, SET TRUE"
	case c.Version >= 160000:
		return "GRANT " + admin.QuoteIdentifier(group) + " TO " + name + " WITH INHERIT TRUE, SET FALSE"
	}
	return "GRANT " + admin.QuoteIdentifier(group) + " TO " + name
}

// grantCreate lets an ADMIN's role create: in a schema of its own, which bears its name, so that "$user" in search_path
// finds it, and in those that the grant names. It goes to the role itself and never to a profile; see profile.Profile. A database
// in which the admin may not create schemas has no own one, which is not a reason to keep people out; see Preflight.
func grantCreate(ctx context.Context, c *admin.Conn, access policy.Access, name string) ([]string, error) {
	var own bool
	if err := c.QueryOne(ctx, "SELECT has_database_privilege(current_database(), 'CREATE')", nil, &own); err != nil {
		return nil, err
	}
	var statements []string
	if own {
		statements = append(statements, fmt.Sprintf("CREATE SCHEMA IF NOT EXISTS %s AUTHORIZATION %[1]s", name))
	}
	for _, schema := range access.CreateIn {
		var everybody, may bool
		err := c.QueryOne(ctx, `
			SELECT EXISTS (SELECT FROM aclexplode(nspacl) x WHERE x.grantee = 0 AND x.privilege_type = 'CREATE'), has_schema_privilege(oid, 'CREATE WITH GRANT OPTION')
			  FROM pg_namespace WHERE nspname = $1`, []any{schema}, &everybody, &may)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return nil, fmt.Errorf("%w: schema %s", profile.ErrNoObject, schema)
		case err != nil:
			return nil, err
		case everybody: // as in public on 13 and 14, whose owner the admin is not a member of
			continue
		case !may:
			return nil, &admin.PrivilegeError{
				Problem:    fmt.Sprintf("the admin %s may not let anybody create in schema %s", c.Acting, schema),
				Statements: []string{fmt.Sprintf("GRANT CREATE ON SCHEMA %s TO %s WITH GRANT OPTION;", admin.QuoteIdentifier(schema), admin.QuoteIdentifier(c.Acting))},
			}
		}
		statements = append(statements, fmt.Sprintf("GRANT CREATE ON SCHEMA %s TO %s", admin.QuoteIdentifier(schema), name))
	}
	return statements, nil
}

func parseOID(rows [][][]byte) (uint32, error) {
	if len(rows) != 1 || len(rows[0]) != 1 {
		return 0, errors.New("the server did not say the role's OID")
	}
	oid, err := strconv.ParseUint(string(rows[0][0]), 10, 32)
	return uint32(oid), err
}
