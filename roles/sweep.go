package roles

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
)

// suspectGrace is how long a proxy must be missing before roles of it that still have sessions are settled: a proxy that
// lost its admin connection for a moment still serves people.
const suspectGrace = 15 * time.Second

// orphan is a role on the server that looks like ours.
type orphan struct {
	OID      uint32
	Name     string
	Comment  string
	Sessions int
	Alive    bool // a proxy of the name in the comment has an admin connection
}

// Sweep settles every role of this deployment that no running proxy answers for: leftovers of a crash, tombstones,
// roles that came back with a restored snapshot. Roles of other deployments, and what only has a similar name, are left
// alone. It returns an error if anything is left that a further sweep should try.
func (k *Keeper) Sweep(ctx context.Context) error {
	var orphans []orphan
	err := k.pool.use(ctx, func(c *adminConn) error {
		rows, err := c.Query(ctx, `
			SELECT r.oid, r.rolname::text, coalesce(shobj_description(r.oid, 'pg_authid'), ''),
			       (SELECT count(*) FROM pg_stat_activity a WHERE a.usesysid = r.oid)::int, false
			  FROM pg_roles r WHERE r.rolname ~ '^hg_' ORDER BY r.oid`)
		if err != nil {
			return err
		}
		if orphans, err = pgx.CollectRows(rows, pgx.RowToStructByPos[orphan]); err != nil {
			return err
		}
		return k.markAlive(ctx, c, orphans)
	})
	if err != nil {
		k.log.Error("sweep failed", "error", err)
		return err
	}
	var errs []error
	live := k.live()
	for _, o := range orphans {
		if role, ok := k.orphaned(o, live); ok {
			errs = append(errs, k.sweepOne(ctx, role))
		}
	}
	return errors.Join(errs...)
}

// markAlive looks for the admin connections of the proxies that the comments name.
func (k *Keeper) markAlive(ctx context.Context, c *adminConn, orphans []orphan) error {
	for i, o := range orphans {
		e, ok := parseComment(o.Comment)
		if !ok {
			continue
		}
		err := c.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = $1)",
			adminApplication(e.Deployment, e.Proxy)).Scan(&orphans[i].Alive)
		if err != nil {
			return err
		}
	}
	return nil
}

// orphaned decides whether the role is to be settled by us, now.
func (k *Keeper) orphaned(o orphan, live map[string]bool) (Role, bool) {
	e, ok := parseComment(o.Comment)
	if !ok || e.Deployment != k.cfg.Deployment || live[o.Name] {
		return Role{}, false
	}
	if e.Proxy != k.proxy {
		if o.Alive {
			delete(k.suspects, o.Name)
			return Role{}, false
		}
		since, known := k.suspects[o.Name]
		if !known {
			since = time.Now()
			k.suspects[o.Name] = since
		}
		if o.Sessions > 0 && time.Since(since) < suspectGrace && time.Now().Before(e.Until) {
			return Role{}, false
		}
	}
	return Role{Name: o.Name, OID: o.OID, entry: e}, true
}

func (k *Keeper) sweepOne(ctx context.Context, role Role) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	err := k.settleLogged(ctx, role)
	if err == nil {
		delete(k.suspects, role.Name)
		k.log.Info("swept a role that no proxy answers for", "role", role.Name, "grant", role.entry.Grant, "user", role.entry.User)
		return nil
	}
	k.log.Error("role could not be swept, trying again", "role", role.Name, "grant", role.entry.Grant, "error", err)
	return err
}
