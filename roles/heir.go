package roles

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/roles/ledger"
	"github.com/hourgate/hourgate/roles/profile"
)

// A role that owns something lives until its grant's end, also when the process ends that made it: it is put to sleep, so
// that it can't log in, and another process takes it over. Sessions of the same person and grant get it again, with a new
// password. It ends at until, in whatever process has it then. See docs/decisions/0019-roles-live-as-long-as-grants.md.

// errTaken is a role whose entry in the ledger has changed since it was read: another process has it now.
var errTaken = errors.New("another process has taken the role over")

// sleep puts the role to sleep if it owns something, and reports whether it did. A role that can't be put to sleep now,
// though it owns something, is left as it is: the next process's sweep finds it and takes it over.
func (l *lease) sleep(told <-chan struct{}) bool {
	k := l.keeper
	ctx, cancel := context.WithTimeout(context.Background(), provisionTimeout)
	defer cancel()
	l.making.Lock() // a session may still be making the role
	defer l.making.Unlock()
	role := l.identity()
	if role.OID == 0 {
		return false
	}
	owns, err := ownsAnything(ctx, k.pool, role)
	if err != nil {
		k.log.Error("what a role owns could not be asked, so it is left for the next start to decide", "role", role.Name, "error", err)
		return true
	}
	if !owns {
		return false
	}
	select {
	case <-told:
	case <-ctx.Done():
	}
	asleep := role.Entry
	asleep.Proxy = ""
	if err := disable(ctx, k.pool, role, asleep); err != nil {
		k.log.Error("role could not be put to sleep, the next start takes it over", "role", role.Name, "grant", role.Entry.Grant, "error", err)
		return true
	}
	k.log.Info("role left for its grant's next session, since it owns something", "role", role.Name, "grant", role.Entry.Grant, "until", role.Entry.Until)
	return true
}

// disable takes from the role the right to log in, gives its comment to whom the entry names, and ends its sessions.
func disable(ctx context.Context, pool *admin.Pool, role ledger.Role, now ledger.Entry) error {
	name := admin.QuoteIdentifier(role.Name)
	return pool.Use(ctx, func(c *admin.Conn) error {
		err := admin.Retry(ctx, func() error {
			return ifOurs(ctx, c, role, "ALTER ROLE "+name+" NOLOGIN PASSWORD NULL", func() error {
				_, err := c.Script(ctx, "COMMENT ON ROLE "+name+" IS "+admin.QuoteLiteral(now.Comment()))
				return err
			})
		})
		if err != nil {
			return err
		}
		_, err = c.Exec(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usesysid = $1", role.OID)
		return err
	})
}

// ifOurs is a transaction in which the role is altered, and fn runs if its comment is still what it was then: altering it
// locks its row, so that of two processes that go about it one sees the other's comment.
func ifOurs(ctx context.Context, c *admin.Conn, role ledger.Role, alter string, fn func() error) error {
	return c.Transaction(ctx, heldRole(role, alter), func(rows [][][]byte) error {
		if !sameEntry(rows, role.Entry) {
			return errTaken
		}
		return fn()
	})
}

// heldRole are the statements whose last row is for sameEntry.
func heldRole(role ledger.Role, alter string) []string {
	return []string{alter, fmt.Sprintf("SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE oid = %d", role.OID)}
}

// sameEntry reports whether a comment, as the only row, is that of the entry, whose end and limits may have changed.
func sameEntry(rows [][][]byte, entry ledger.Entry) bool {
	if len(rows) != 1 || len(rows[0]) != 1 {
		return false
	}
	now, ok := ledger.Parse(string(rows[0][0]))
	return ok && now.Proxy == entry.Proxy && now.Deployment == entry.Deployment && now.User == entry.User && now.Grant == entry.Grant
}

// inherits takes a role over that no process answers for, if it owns something and its grant lives, and reports whether it
// did, or whether that can't be told now: then the role is not to be settled either. A process that lives and is only late
// to tell the server that the grant goes on keeps its role, and a role of another integration on the server is left to that.
func (k *Keeper) inherits(ctx context.Context, role ledger.Role, alive bool) (bool, error) {
	grant := k.heirs(role.Entry)
	switch {
	case grant == nil:
		return false, nil
	case alive:
		return true, nil
	}
	ctx, cancel := context.WithTimeout(ctx, provisionTimeout)
	defer cancel()
	begun, err := settling(ctx, k.pool, role)
	if err != nil || begun {
		return err != nil, err
	}
	owns, err := ownsAnything(ctx, k.pool, role)
	if err != nil || !owns {
		return err != nil, err
	}
	if role.Entry.Integration != k.cfg.Integration {
		return true, nil // that one's keeper takes it over
	}
	l, err := k.inherit(ctx, role, grant)
	if err != nil {
		return true, fmt.Errorf("taking role %s over: %w", role.Name, err)
	}
	k.mu.Lock()
	current := k.leases[l.key]
	l.start()
	k.mu.Unlock()
	k.log.Info("role of another process taken over, since it owns something", "role", role.Name, "grant", role.Entry.Grant, "user", role.Entry.User)
	if current != nil {
		return true, share(ctx, k.pool, role, current.identity())
	}
	return true, nil
}

// settling reports whether the role's end has begun: its connection limit is zero from then on. Nobody inherits it, though
// its grant may live: somebody ended it by hand.
func settling(ctx context.Context, pool *admin.Pool, role ledger.Role) (begun bool, err error) {
	err = pool.Use(ctx, func(c *admin.Conn) error {
		return c.QueryOne(ctx, "SELECT coalesce((SELECT rolconnlimit = 0 FROM pg_roles WHERE oid = $1), true)", []any{role.OID}, &begun)
	})
	return begun, err
}

// inherit makes the role ours, asleep, and returns the lease for it.
func (k *Keeper) inherit(ctx context.Context, role ledger.Role, grant *policy.Grant) (*lease, error) {
	l := k.newLease(leaseKey{role.Entry.User, role.Entry.Grant}, grant, role.Name)
	entry := role.Entry // a process without a policy keeps what it can't know
	entry.Proxy = k.proxy
	if k.cfg.Policy != nil {
		entry = l.entry(grant)
	}
	l.role.OID, l.role.Entry, l.backends.oid = role.OID, entry, role.OID
	l.made, l.asleep, l.kept, l.retired, l.told = true, true, true, true, grant
	return l, disable(ctx, k.pool, role, entry)
}

// heirs returns the grant under which a role of that entry goes on, or nil. A process without a policy believes until.
func (k *Keeper) heirs(e ledger.Entry) *policy.Grant {
	if e.Rights == "" {
		return nil
	}
	if k.cfg.Policy == nil {
		if !time.Now().Before(e.Until) {
			return nil
		}
		return &policy.Grant{Name: e.Grant, Integration: e.Integration, Until: e.Until, KeepObjectsAs: e.Keep}
	}
	set := k.cfg.Policy.Set()
	for _, database := range set.Databases(e.Integration) {
		if g, ok := set.Covers(e.User, e.Grant, database, time.Now()); ok && g.Integration == e.Integration && g.Access.Fingerprint() == e.Rights {
			return g
		}
	}
	return nil
}

// share lets the role that a person's sessions use already have what an older one of the same person and grant owns.
func share(ctx context.Context, pool *admin.Pool, older, current ledger.Role) error {
	if current.OID == 0 {
		return nil // it is being made, and looks for older ones itself
	}
	return pool.Use(ctx, func(c *admin.Conn) error {
		grant := "GRANT " + admin.QuoteIdentifier(older.Name) + " TO " + admin.QuoteIdentifier(current.Name)
		if c.Version >= 160000 {
			grant += " WITH INHERIT TRUE, SET TRUE"
		}
		return c.Transaction(ctx, []string{grant}, func([][][]byte) error { return nil })
	})
}

// spare is a lease of the person's grant that was taken over and that no session has used here yet, to be used now. The
// keeper's mutex is held.
func (k *Keeper) spare(key leaseKey, grant *policy.Grant) *lease {
	for _, l := range k.ours {
		if l.key == key && !l.over && !l.broken && l.grant.SameRights(grant) {
			l.retired = false
			k.leases[key] = l
			return l
		}
	}
	return nil
}

// ready makes a role that is there fit for a log-in to the database: a new password if it has none, and admission.
func (l *lease) ready(ctx context.Context, database string) error {
	g := l.current()
	if l.password == "" {
		if err := l.awaken(ctx, g, database); err != nil {
			return fmt.Errorf("waking role %s: %w", l.identity().Name, err)
		}
	}
	if l.lapsed() {
		if err := l.tellNow(ctx, g); err != nil {
			return fmt.Errorf("moving the end of role %s: %w", l.identity().Name, err)
		}
	}
	if l.databases[database] {
		return nil
	}
	return l.admit(ctx, g, database)
}

// awaken gives the role a new password and, if it was put to sleep, the right to log in.
func (l *lease) awaken(ctx context.Context, g *policy.Grant, database string) error {
	k := l.keeper
	password, verifier, err := newPassword()
	if err != nil {
		return err
	}
	role := l.identity()
	err = k.pool.Use(ctx, func(c *admin.Conn) error {
		alter := "ALTER ROLE " + admin.QuoteIdentifier(role.Name) + " PASSWORD " + admin.QuoteLiteral(verifier)
		if l.asleep {
			alter += " LOGIN"
			if err := profile.CheckNamed(ctx, c, g); err != nil {
				return err
			}
		} else if err := stillThere(ctx, c, role); err != nil {
			return err
		}
		return ifOurs(ctx, c, role, alter, func() error {
			if l.closed() {
				return ErrGrantGone
			}
			if _, err := c.Script(ctx, terms(role, g, l.entry(g))...); err != nil || !l.asleep {
				return err
			}
			return k.cfg.Trail.Append(tookOver(role, k.cfg.Integration, database, g))
		})
	})
	switch {
	case admin.SQLState(err) == pgerrcode.UndefinedObject, errors.Is(err, errTaken):
		return errors.Join(errRoleGone, err)
	case err != nil:
		return err
	}
	l.password, l.asleep = password, false
	l.heard(g)
	return nil
}

// tookOver is the record of a role that can log in again.
func tookOver(role ledger.Role, integration, database string, g *policy.Grant) audit.Record {
	return role.Record(audit.RoleMade, integration, func(r *audit.Record) {
		r.Database, r.Access, r.Until = database, g.Access.String(), g.Until
		r.Detail = map[string]string{"taken_over": "the role was there already and owns something"}
	})
}

// stillThere is errRoleGone for a role that was dropped or that somebody keeps from logging in.
func stillThere(ctx context.Context, c *admin.Conn, role ledger.Role) error {
	var login bool
	err := c.QueryOne(ctx, "SELECT rolcanlogin FROM pg_roles WHERE oid = $1", []any{role.OID}, &login)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && !login {
		return errRoleGone
	}
	return err
}

func (l *lease) closed() bool {
	l.keeper.mu.Lock()
	defer l.keeper.mu.Unlock()
	return l.over
}

// orphan is a role that another process made for the person's grant and left, if it owns something; nobody else uses it.
func (l *lease) orphan(ctx context.Context, c *admin.Conn, g *policy.Grant) (role ledger.Role, found bool, err error) {
	k, prefix := l.keeper, ledger.NamePrefix(l.key.user, l.key.grant)
	rows, err := c.Query(ctx, `
		SELECT r.oid, r.rolname::text, d.description
		  FROM pg_roles r JOIN pg_shdescription d ON d.classoid = 'pg_authid'::regclass AND d.objoid = r.oid
		 WHERE r.rolname >= $1::name AND r.rolname < $2::name AND r.rolconnlimit <> 0
		   AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.usesysid = r.oid)
		   AND EXISTS (SELECT FROM pg_shdepend o WHERE o.refclassid = 'pg_authid'::regclass AND o.refobjid = r.oid AND o.deptype = 'o'
		                  AND o.classid <> 'pg_namespace'::regclass AND o.classid <> 'pg_default_acl'::regclass)
		 ORDER BY r.oid`, prefix, prefix+"~")
	if err != nil {
		return role, false, err
	}
	type candidate struct {
		OID           uint32
		Name, Comment string
	}
	candidates, err := pgx.CollectRows(rows, pgx.RowToStructByPos[candidate])
	for _, o := range candidates {
		e, ok := ledger.Parse(o.Comment)
		if !ok || e.Deployment != k.cfg.Deployment || e.Integration != k.cfg.Integration || e.User != l.key.user || e.Grant != l.key.grant ||
			e.Rights != g.Access.Fingerprint() || k.Live(o.Name) {
			continue
		}
		lives, err := k.lives(ctx, c, e)
		if err != nil || !lives {
			return ledger.Role{Name: o.Name, OID: o.OID, Entry: e}, err == nil, err
		}
	}
	return role, false, err
}

// lives reports whether the process that the entry names has an admin connection.
func (k *Keeper) lives(ctx context.Context, c *admin.Conn, e ledger.Entry) (lives bool, err error) {
	if e.Asleep() || e.Proxy == k.proxy || k.cfg.Process.ended(e.Proxy) {
		return false, nil
	}
	err = c.QueryOne(ctx, `
		SELECT EXISTS (SELECT FROM pg_stat_activity a JOIN pg_roles r ON r.oid = a.usesysid
		                WHERE a.application_name = $1 AND r.rolname !~ '^hg_'
		                  AND coalesce(shobj_description(r.oid, 'pg_authid'), '') NOT LIKE '{"hourgate":%')`,
		[]any{ledger.Application(e.Deployment, e.Proxy)}, &lives)
	return lives, err
}

// adopt makes a role that another process left the lease's own, able to log in with the verifier's password, and admits it
// to the profile's database.
func (l *lease) adopt(ctx context.Context, c *admin.Conn, g *policy.Grant, p profile.Profile, role ledger.Role, verifier string) error {
	k, name := l.keeper, admin.QuoteIdentifier(role.Name)
	admissions, err := admissions(ctx, c, g.Access, p, name)
	if err != nil {
		return err
	}
	now := ledger.Role{Name: role.Name, OID: role.OID, Entry: l.entry(g)}
	alter := "ALTER ROLE " + name + " LOGIN PASSWORD " + admin.QuoteLiteral(verifier)
	err = change(ctx, c, p.Local(), heldRole(role, alter), func(rows [][][]byte) error {
		if !sameEntry(rows, role.Entry) {
			return errTaken
		}
		if _, err := c.Script(ctx, append(terms(role, g, now.Entry), admissions...)...); err != nil {
			return err
		}
		return k.cfg.Trail.Append(tookOver(now, k.cfg.Integration, p.Database(), g))
	})
	if err == nil {
		l.found(now)
		k.log.Info("role of another process taken over, since it owns something", "role", role.Name, "grant", g.Name, "user", role.Entry.User)
	}
	return err
}

// disown lets go, without a word to the server, of roles that another process has taken over while this one was cut off
// from the server: their backends are that one's. before are the roles that were ours before the ledger was read.
func (k *Keeper) disown(before liveRoles, orphans []orphan) {
	for _, o := range orphans {
		e, ok := ledger.Parse(o.Comment)
		if !ok || !before.oids[o.OID] || e.Proxy == k.proxy {
			continue
		}
		k.mu.Lock()
		if l := k.ours[o.Name]; l != nil && !l.over {
			l.lost = true
			l.close()
			k.log.Warn("another process has taken a role over", "role", o.Name, "grant", e.Grant)
		}
		k.mu.Unlock()
	}
}
