package roles

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/roles/ledger"
)

// A tenant can change its role's password and find another way to the server. Such a session shows itself by its backend,
// which none of ours: the proxy says which it opens and closes, and whatever else runs under a role of ours is foreign.

// dialGrace is how long the backend of a log-in that was given up may still show.
const dialGrace = 10 * time.Second

// backends are those of one ephemeral role. They belong to the keeper's mutex.
type backends struct {
	oid     uint32             // of the role, once it is made
	dialing map[*Lease]dial    // sessions that may have a backend whose pid is not known yet
	ours    map[uint32]backend // by pid, until the server no longer shows it
	unknown map[backend]time.Time
}

type dial struct {
	began   time.Time
	givenUp time.Time // zero while it lasts
}

// backend is a process of the server. The pid alone would not do: it is used again.
type backend struct {
	pid    uint32
	start  time.Time // zero until it was seen
	opened time.Time // by us
	closed bool      // by us; its statement may still run
}

func newBackends() backends {
	return backends{dialing: make(map[*Lease]dial), ours: make(map[uint32]backend), unknown: make(map[backend]time.Time)}
}

// Opened says that the session has logged in and that this is its backend.
func (l *Lease) Opened(pid uint32) {
	k := l.lease.keeper
	b, unlock := l.backends()
	delete(b.dialing, l)
	b.ours[pid] = backend{pid: pid, opened: time.Now()}
	unlock()
	if l.reader != nil {
		l.reader.wake()
		return
	}
	select {
	case k.opened <- struct{}{}:
	default: // a check is due already
	}
}

// Closed says that the session's connection to that backend is closed.
func (l *Lease) Closed(pid uint32) {
	all, unlock := l.backends()
	defer unlock()
	if b, ok := all.ours[pid]; ok {
		b.closed = true
		all.ours[pid] = b
	}
}

// backends returns those of the role on the server that the session is on, locked.
func (l *Lease) backends() (b *backends, unlock func()) {
	if r := l.reader; r != nil {
		r.mu.Lock()
		if w := r.roles[l.lease.role.OID]; w != nil {
			return &w.backends, r.mu.Unlock
		}
		forgotten := newBackends() // the role has ended
		return &forgotten, r.mu.Unlock
	}
	l.lease.keeper.mu.Lock()
	return &l.lease.backends, l.lease.keeper.mu.Unlock
}

// seen is a row of pg_stat_activity.
type seen struct {
	OID         uint32
	PID         uint32
	Start       time.Time
	Address     string
	Application string
}

// CheckSessions looks for backends of this process's roles that it did not open, terminates and reports them.
func (k *Keeper) CheckSessions(ctx context.Context) error {
	oids := k.roleOIDs()
	if len(oids) == 0 {
		return nil
	}
	asked := time.Now()
	return k.pool.Use(ctx, func(c *admin.Conn) error {
		all, err := sessionsOf(ctx, c, oids)
		if err != nil {
			return err
		}
		var errs []error
		for _, f := range k.foreign(all, asked, time.Now()) {
			errs = append(errs, k.evict(ctx, c, f.seen, f.role))
		}
		return errors.Join(errs...)
	})
}

// sessionsOf returns the backends of roles. Parallel workers have a leader, which is judged for them.
func sessionsOf(ctx context.Context, c *admin.Conn, oids []uint32) ([]seen, error) {
	rows, err := c.Query(ctx, `
		SELECT usesysid, pid, backend_start, coalesce(host(client_addr), 'local'), coalesce(application_name, '')
		  FROM pg_stat_activity WHERE usesysid = ANY ($1) AND leader_pid IS NULL AND backend_start IS NOT NULL`, oids)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[seen])
}

func (k *Keeper) roleOIDs() []uint32 {
	k.mu.Lock()
	defer k.mu.Unlock()
	var oids []uint32
	for _, l := range k.ours {
		if l.backends.oid != 0 {
			oids = append(oids, l.backends.oid)
		}
	}
	return oids
}

type foreignSession struct {
	seen
	role ledger.Role
}

// foreign returns which of the backends are none of ours, and forgets those that are gone. The server looked at some moment
// between the question and its answer, which is long after the question where a connection had to be waited for.
func (k *Keeper) foreign(all []seen, asked, answered time.Time) []foreignSession {
	k.mu.Lock()
	defer k.mu.Unlock()
	var found []foreignSession
	for _, l := range k.ours {
		showing := make(map[uint32]bool)
		for _, s := range all {
			if s.OID != l.backends.oid {
				continue
			}
			showing[s.PID] = true
			if !l.backends.knows(s, answered) {
				found = append(found, foreignSession{s, l.role})
			}
		}
		l.backends.forget(showing, asked)
	}
	return found
}

// knows reports whether a backend is ours, or may be.
func (b *backends) knows(s seen, answered time.Time) bool {
	if ours, ok := b.ours[s.PID]; ok && (ours.start.IsZero() || ours.start.Equal(s.Start)) {
		ours.start = s.Start
		b.ours[s.PID] = ours
		return true
	}
	// A log-in that began before the backend was first seen may be its origin.
	key := backend{pid: s.PID, start: s.Start}
	first, known := b.unknown[key]
	if !known {
		first = answered
		b.unknown[key] = first
	}
	for _, d := range b.dialing {
		if d.began.Before(first) {
			return true
		}
	}
	return false
}

// forget drops what is no longer there. What came after the question is not judged by its answer.
func (b *backends) forget(showing map[uint32]bool, asked time.Time) {
	for pid, ours := range b.ours {
		if ours.closed && !showing[pid] && ours.opened.Before(asked) {
			delete(b.ours, pid)
		}
	}
	maps.DeleteFunc(b.unknown, func(u backend, _ time.Time) bool { return !showing[u.pid] })
	maps.DeleteFunc(b.dialing, func(_ *Lease, d dial) bool { return !d.givenUp.IsZero() && asked.Sub(d.givenUp) > dialGrace })
}

// evict terminates a foreign session and reports it, in this order: access is closed whatever else fails.
func (k *Keeper) evict(ctx context.Context, c *admin.Conn, s seen, r ledger.Role) error {
	var ended int
	err := c.QueryOne(ctx, `
		SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity
		 WHERE pid = $1 AND usesysid = $2 AND backend_start = $3`, []any{s.PID, s.OID, s.Start}, &ended)
	if err == nil && ended == 0 {
		return nil // gone by itself, and never to be known
	}
	k.metrics.foreign.Inc()
	k.log.Error("session that did not come through the gate terminated", "role", r.Name, "grant", r.Entry.Grant, "user", r.Entry.User,
		"pid", s.PID, "client_address", s.Address, "error", err)
	return errors.Join(err, k.cfg.Trail.Append(r.Record(audit.SessionForeign, k.cfg.Integration, func(rec *audit.Record) {
		rec.RemoteAddr, rec.Application, rec.SessionsTerminated = s.Address, s.Application, ended
		rec.Detail = map[string]string{"pid": fmt.Sprint(s.PID)}
	})))
}

// checkPause is between two checks: at hundreds of log-ins a second, one for each would cost the server as much as every
// tenth of them.
const checkPause = 100 * time.Millisecond

// watchSessions checks after log-ins, the first at once, until ctx is done. Run's heartbeat checks besides.
func (k *Keeper) watchSessions(ctx context.Context) {
	for {
		select {
		case <-k.opened:
			if err := k.CheckSessions(ctx); err != nil && ctx.Err() == nil {
				k.log.Error("sessions could not be checked", "error", err)
			}
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(checkPause): // a log-in meanwhile is in opened
		case <-ctx.Done():
			return
		}
	}
}
