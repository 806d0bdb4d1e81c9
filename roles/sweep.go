package roles

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/roles/ledger"
	"github.com/hourgate/hourgate/roles/settle"
)

// suspectGrace is how long a proxy must be missing before roles of it that still have sessions are settled: a proxy that
// lost its admin connection for a moment still serves people.
const suspectGrace = 15 * time.Second

// aliveGrace is how long a proxy that is alive may take to end a role.
const aliveGrace = 500 * time.Millisecond

// orphan is a role on the server that looks like ours.
type orphan struct {
	OID      uint32
	Name     string
	Comment  string
	Sessions int
	CanLogin bool
	Alive    bool      // a proxy of the name in the comment has an admin connection
	Now      time.Time // the server's clock
}

// sweeper settles what no running proxy answers for.
type sweeper struct {
	k        *Keeper
	mu       sync.Mutex           // held for a whole sweep
	suspects map[string]time.Time // roles of proxies that seem dead, and since when
}

// Sweep settles every role of this deployment that no running proxy answers for: leftovers of a crash, tombstones,
// roles that came back with a restored snapshot, roles that were renamed. Roles of other deployments, and what only has
// a similar name, are left alone. Then it tidies the profiles. It returns an error if anything is left that a further
// sweep should try.
func (k *Keeper) Sweep(ctx context.Context) error { return k.sweeper.sweep(ctx) }

func (s *sweeper) sweep(ctx context.Context) error {
	k := s.k
	s.mu.Lock()
	defer s.mu.Unlock()
	before := k.live()
	orphans, err := readLedger(ctx, k.pool)
	if err != nil {
		k.log.Error("sweep failed", "error", err)
		return err
	}
	for i, o := range orphans { // a keeper of ours that has ended lives no more, though this process does
		if e, ok := ledger.Parse(o.Comment); ok && k.cfg.Process.ended(e.Proxy) {
			orphans[i].Alive = false
		}
	}
	k.disown(before, orphans)
	s.dropSuspects(orphans)
	errs := s.settle(ctx, orphans)
	if err := k.settler.Profiles(ctx); err != nil {
		k.log.Error("profiles could not be tidied, trying again", "error", err)
		errs = append(errs, err)
	}
	if err := k.readers.sweep(ctx, k.live); err != nil {
		k.log.Error("readers could not be swept, trying again", "error", err)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// dropSuspects forgets suspects that are not on the server any more; the mutex is held.
func (s *sweeper) dropSuspects(found []orphan) {
	there := make(map[string]bool)
	for _, o := range found {
		there[o.Name] = true
	}
	maps.DeleteFunc(s.suspects, func(name string, _ time.Time) bool { return !there[name] })
}

// suspicious reports that there are suspects, which a sweep soon may settle.
func (s *sweeper) suspicious() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.suspects) > 0
}

// unfinished reports whether a sweep left something that is worth another try soon. What holds a tombstone is other
// people's, and they don't hurry.
func unfinished(err error) bool {
	var several interface{ Unwrap() []error }
	if errors.As(err, &several) {
		for _, e := range several.Unwrap() {
			if unfinished(e) {
				return true
			}
		}
		return false
	}
	var tombstone *settle.TombstoneError
	return err != nil && !errors.As(err, &tombstone)
}

// readLedger reads the ephemeral roles of all deployments from the server. A proxy lives if it has an admin connection; an
// ephemeral role that gives itself such a connection's name does not count.
func readLedger(ctx context.Context, pool *admin.Pool) ([]orphan, error) {
	var orphans []orphan
	err := pool.Use(ctx, func(c *admin.Conn) error {
		rows, err := c.Query(ctx, `
			SELECT r.oid, r.rolname::text, coalesce(d.description, ''), coalesce(a.sessions, 0)::int, r.rolcanlogin, false, clock_timestamp()
			  FROM pg_roles r
			  LEFT JOIN pg_shdescription d ON d.classoid = 'pg_authid'::regclass AND d.objoid = r.oid
			  LEFT JOIN (SELECT usesysid, count(*) AS sessions FROM pg_stat_activity GROUP BY 1) a ON a.usesysid = r.oid
			 WHERE r.rolname ~ '^hg_' OR d.description LIKE '{"hourgate":%' ORDER BY r.oid`)
		if err != nil {
			return err
		}
		if orphans, err = pgx.CollectRows(rows, pgx.RowToStructByPos[orphan]); err != nil {
			return err
		}
		rows, err = c.Query(ctx, `
			SELECT a.application_name FROM pg_stat_activity a JOIN pg_roles r ON r.oid = a.usesysid
			 WHERE a.application_name LIKE 'hourgate %' AND r.rolname !~ '^hg_'
			   AND coalesce(shobj_description(r.oid, 'pg_authid'), '') NOT LIKE '{"hourgate":%'`)
		if err != nil {
			return err
		}
		names, err := pgx.CollectRows(rows, pgx.RowTo[string])
		markAlive(orphans, names)
		return err
	})
	return orphans, err
}

// markAlive looks for the proxies that the comments name among the applications that are connected.
func markAlive(orphans []orphan, applications []string) {
	connected := make(map[string]bool)
	for _, name := range applications {
		connected[name] = true
	}
	for i, o := range orphans {
		if e, ok := ledger.Parse(o.Comment); ok {
			orphans[i].Alive = connected[ledger.Application(e.Deployment, e.Proxy)]
		}
	}
}

// live returns the OIDs and names of this process's roles. A role that is being made has no OID yet.
func (k *Keeper) live() (live liveRoles) {
	k.mu.Lock()
	defer k.mu.Unlock()
	live = liveRoles{oids: make(map[uint32]bool), names: make(map[string]bool)}
	for name, l := range k.ours {
		live.names[name] = true
		if l.backends.oid != 0 {
			live.oids[l.backends.oid] = true
		}
	}
	return live
}

type liveRoles struct {
	oids  map[uint32]bool
	names map[string]bool
}

// orphaned decides whether the role is to be settled by us, now.
func (s *sweeper) orphaned(o orphan, live liveRoles) (ledger.Role, bool) {
	e, ok := ledger.Parse(o.Comment)
	if !ok || e.Deployment != s.k.cfg.Deployment || live.names[o.Name] || live.oids[o.OID] {
		return ledger.Role{}, false
	}
	if e.Proxy != s.k.proxy && !s.abandoned(o, e) {
		return ledger.Role{}, false
	}
	return ledger.Role{Name: o.Name, OID: o.OID, Entry: e}, true
}

// abandoned decides whether a role of another proxy is nobody's. Whoever is believed to be alive is believed until the
// grant's end and the moment that it takes to end it, since everybody could claim to be that proxy.
func (s *sweeper) abandoned(o orphan, e ledger.Entry) bool {
	overdue := o.Now.Sub(e.Until)
	if o.Alive {
		delete(s.suspects, o.Name)
		return overdue > aliveGrace && (o.CanLogin || overdue > settleTimeout)
	}
	since, known := s.suspects[o.Name]
	if !known {
		since = time.Now()
		s.suspects[o.Name] = since
	}
	return o.Sessions == 0 || time.Since(since) >= suspectGrace || overdue >= 0
}

// settle settles the orphans among the roles, together: their power is taken in one batch. The mutex is held.
func (s *sweeper) settle(ctx context.Context, found []orphan) []error {
	live := s.k.live()
	roles, errs := make([]ledger.Role, len(found)), make([]error, len(found))
	var settled sync.WaitGroup
	for i, o := range found {
		var ok bool
		if roles[i], ok = s.orphaned(o, live); ok {
			settled.Go(func() { errs[i] = s.settleOne(ctx, roles[i], o) })
		}
	}
	settled.Wait()
	for i, r := range roles {
		if errs[i] == nil && r.OID != 0 {
			delete(s.suspects, r.Name)
		}
	}
	return errs
}

func (s *sweeper) settleOne(ctx context.Context, role ledger.Role, o orphan) error {
	k := s.k
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	if inherited, err := k.inherits(ctx, role, o.Alive && role.Entry.Proxy != k.proxy); inherited {
		return err
	}
	err := k.settle(ctx, settle.End{Role: role, Comment: o.Comment, Once: true}, nil)
	switch {
	case errors.Is(err, settle.ErrTaken):
		return nil
	case err != nil:
		k.log.Error("role could not be swept, trying again", "role", role.Name, "grant", role.Entry.Grant, "error", err)
		return err
	}
	k.log.Info("swept a role that no proxy answers for", "role", role.Name, "grant", role.Entry.Grant, "user", role.Entry.User)
	return nil
}
