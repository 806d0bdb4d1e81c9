package roles

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/roles/ledger"
)

// end terminates what a role runs on the readers, now and until they have replayed its end. Clients hear from us
// why, if told is closed soon enough; nil waits for nothing. settled says that the writer is done with it, or has given up.
func (rs *readers) end(role ledger.Role, told <-chan struct{}) (settled func(ctx context.Context)) {
	if len(rs.all) == 0 || role.OID == 0 {
		return func(context.Context) {}
	}
	for _, r := range rs.all {
		w := r.add(role)
		r.mu.Lock()
		if w.ended.IsZero() {
			w.ended = time.Now()
		}
		w.settling, w.clean, w.told = true, 0, told
		r.mu.Unlock()
		r.wake()
	}
	return func(ctx context.Context) {
		lsn, err := position(ctx, rs.writer)
		if err != nil {
			rs.log.Warn("the writer did not say where it is, readers are watched until they don't let the role in", "role", role.Name, "error", err)
		}
		for _, r := range rs.all {
			r.mu.Lock()
			if w := r.roles[role.OID]; w != nil {
				w.settling, w.lsn = false, lsn
			}
			r.mu.Unlock()
			r.wake()
		}
	}
}

// rid terminates what a role runs on readers until they let it in no more, for a moment: once a reader has replayed
// the drop of the role, only who is a member of pg_signal_backend can terminate a session of it there. Readers that lag for
// longer are pursued by their run.
func (rs *readers) rid(ctx context.Context, role ledger.Role) {
	ctx, cancel := context.WithTimeout(ctx, readerRid)
	defer cancel()
	var all sync.WaitGroup
	for _, r := range rs.all {
		all.Go(func() {
			for ctx.Err() == nil {
				var signalled int
				var closed bool
				err := r.pool.Use(ctx, func(c *admin.Conn) error {
					return c.QueryOne(ctx, `
						SELECT (SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usesysid = $1),
						       NOT EXISTS (SELECT FROM pg_roles WHERE oid = $1 AND rolcanlogin)`, []any{role.OID}, &signalled, &closed)
				})
				if err == nil && closed && signalled == 0 || admin.Pause(ctx, replayPoll) != nil {
					return
				}
			}
		})
	}
	all.Wait()
}

// run looks after the roles on the reader until there are none.
func (r *reader) run() {
	for {
		wait, over := r.look(r.of.running)
		if over {
			return
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-r.woken:
		case <-r.of.running.Done():
		}
		timer.Stop()
	}
}

// look does one round: it terminates what has ended, then what is foreign, and forgets the roles that are gone from here.
func (r *reader) look(ctx context.Context) (wait time.Duration, over bool) {
	alive, ended := r.watched()
	if len(alive)+len(ended) == 0 && r.stop() || ctx.Err() != nil {
		r.pool.Close()
		return 0, true
	}
	within, cancel := context.WithTimeout(ctx, readerTimeout)
	defer cancel()
	err := r.pool.Use(within, func(c *admin.Conn) error {
		return errors.Join(r.terminate(within, c, ended), r.evictForeign(within, c, alive))
	})
	r.asked(err)
	if err != nil && ctx.Err() == nil {
		r.log.Error("sessions on a reader could not be looked after, trying again", "ended_roles", len(ended), "error", err)
	}
	return r.pause(), false
}

// watched returns the OIDs of the roles that live and of those that have ended.
func (r *reader) watched() (alive, ended []uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for oid, w := range r.roles {
		if w.ended.IsZero() {
			alive = append(alive, oid)
		} else {
			ended = append(ended, oid)
		}
	}
	slices.Sort(ended)
	return alive, ended
}

// stop ends the run if there is really nothing left to watch.
func (r *reader) stop() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running = len(r.roles) > 0
	return !r.running
}

func (r *reader) pause() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	wait := readerLook
	for _, w := range r.roles {
		switch {
		case w.ended.IsZero():
		case time.Since(w.ended) < lagging:
			wait = min(wait, endLook)
		default:
			wait = min(wait, lagLook)
		}
	}
	return wait
}

// terminate ends the sessions of roles that have ended. One that is refused keeps the others from nothing.
func (r *reader) terminate(ctx context.Context, c *admin.Conn, ended []uint32) error {
	var errs []error
	for _, oid := range ended {
		if r.stillTelling(oid) {
			continue
		}
		var signalled int
		err := c.QueryOne(ctx, "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usesysid = $1", []any{oid}, &signalled)
		if err != nil {
			errs = append(errs, fmt.Errorf("terminating the sessions of the role with OID %d: %w", oid, err))
			continue
		}
		if err := r.judge(ctx, c, oid, signalled); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// stillTelling reports whether the sessions of a role that has just ended are telling their clients why. Terminated at once
// they would hear PostgreSQL's own words, which say nothing of the grant.
func (r *reader) stillTelling(oid uint32) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.roles[oid]
	if w == nil || w.told == nil || time.Since(w.ended) > sessionsGrace {
		return false
	}
	select {
	case <-w.told:
		return false
	default:
		return true
	}
}

// letGo has the readers forget a role that this process answers for no longer and that has not ended.
func (rs *readers) letGo(role ledger.Role) {
	for _, r := range rs.all {
		r.mu.Lock()
		if w := r.roles[role.OID]; w != nil && w.ended.IsZero() {
			delete(r.roles, role.OID)
		}
		r.mu.Unlock()
		r.wake()
	}
}

// judge forgets a role once nobody can come in with it here any more: the reader has replayed what the writer did to end it,
// it is gone or may not log in, and nothing ran under it twice in a row.
func (r *reader) judge(ctx context.Context, c *admin.Conn, oid uint32, sessions int) error {
	r.mu.Lock()
	w := r.roles[oid]
	if w == nil {
		r.mu.Unlock()
		return nil
	}
	if sessions > 0 {
		w.clean = 0
	} else {
		w.clean++
	}
	lsn, due := w.lsn, !w.settling && w.clean >= 2
	r.mu.Unlock()
	if !due {
		return nil
	}
	var closed bool
	err := c.QueryOne(ctx, "SELECT NOT EXISTS (SELECT FROM pg_roles WHERE oid = $1 AND rolcanlogin)", []any{oid}, &closed)
	if err == nil && closed && lsn != "" {
		err = c.QueryOne(ctx, "SELECT NOT pg_is_in_recovery() OR coalesce(pg_last_wal_replay_lsn() >= $1::text::pg_lsn, true)", []any{lsn}, &closed)
		if admin.SQLState(err) == pgerrcode.FeatureNotSupported {
			err = nil
		}
	}
	if err != nil || !closed {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if w.settling { // once more, by the sweep
		return nil
	}
	if took := time.Since(w.ended); took > lagging {
		r.log.Info("the reader has replayed the end of a role at last", "role", w.role.Name, "after", took)
	}
	delete(r.roles, oid)
	return nil
}

// evictForeign terminates sessions under roles that live and that did not come through the gate.
func (r *reader) evictForeign(ctx context.Context, c *admin.Conn, alive []uint32) error {
	if len(alive) == 0 {
		return nil
	}
	asked := time.Now()
	all, err := sessionsOf(ctx, c, alive)
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range r.foreign(all, asked, time.Now()) {
		errs = append(errs, r.of.evict(ctx, c, f.seen, f.role))
	}
	return errors.Join(errs...)
}

func (r *reader) foreign(all []seen, asked, answered time.Time) []foreignSession {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []foreignSession
	for oid, w := range r.roles {
		showing := make(map[uint32]bool)
		for _, s := range all {
			if s.OID != oid {
				continue
			}
			showing[s.PID] = true
			if w.ended.IsZero() && !w.backends.knows(s, answered) {
				found = append(found, foreignSession{s, w.role})
			}
		}
		w.backends.forget(showing, asked)
	}
	return found
}

// sweep ends, on the readers, the roles of this deployment that the writer does not have any more: a reader that
// lagged when a gate died may still have them. live returns the roles of this process.
func (rs *readers) sweep(ctx context.Context, live func() liveRoles) error {
	if len(rs.all) == 0 {
		return nil
	}
	var errs []error
	known := make([]map[uint32]ledger.Role, len(rs.all))
	for n, r := range rs.all {
		var err error
		known[n], err = r.ledger(ctx)
		r.asked(err)
		if err != nil {
			errs = append(errs, fmt.Errorf("reader %s: %w", r.server.Address(), err))
		}
	}
	// After the readers were asked: what is there and not here was dropped.
	orphans, err := readLedger(ctx, rs.writer)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	there, ours := make(map[uint32]bool), live()
	for _, o := range orphans {
		there[o.OID] = true
	}
	for n, r := range rs.all {
		maps.DeleteFunc(known[n], func(oid uint32, role ledger.Role) bool { return there[oid] || ours.oids[oid] || ours.names[role.Name] })
		for _, role := range known[n] {
			w := r.add(role)
			r.mu.Lock()
			if w.ended.IsZero() {
				w.ended = time.Now()
			}
			r.mu.Unlock()
			r.wake()
		}
		if r.idle() {
			r.pool.Close()
		}
	}
	return errors.Join(errs...)
}

func (r *reader) idle() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.running
}

// ledger is the roles of this deployment that the reader knows.
func (r *reader) ledger(ctx context.Context) (map[uint32]ledger.Role, error) {
	ctx, cancel := context.WithTimeout(ctx, readerTimeout)
	defer cancel()
	known := make(map[uint32]ledger.Role)
	err := r.pool.Use(ctx, func(c *admin.Conn) error {
		rows, err := c.Query(ctx, `
			SELECT r.oid, r.rolname::text, coalesce(shobj_description(r.oid, 'pg_authid'), '')
			  FROM pg_roles r WHERE r.rolname ~ '^hg_'`)
		if err != nil {
			return err
		}
		type row struct {
			OID           uint32
			Name, Comment string
		}
		all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
		for _, o := range all {
			if e, ok := ledger.Parse(o.Comment); ok && e.Deployment == r.of.deployment && strings.HasPrefix(o.Name, "hg_") {
				known[o.OID] = ledger.Role{Name: o.Name, OID: o.OID, Entry: e}
			}
		}
		return err
	})
	return known, err
}

// close waits until the readers have nothing of ours any more, for a moment; the next start goes on.
func (rs *readers) close(ctx context.Context) error {
	if len(rs.all) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, readerClose, errors.New("readers have not replayed the end of all roles: the next start goes on"))
	defer cancel()
	for _, r := range rs.all {
		r.mu.Lock()
		maps.DeleteFunc(r.roles, func(_ uint32, w *watch) bool { return w.ended.IsZero() }) // another process may go on with them
		r.mu.Unlock()
		r.wake()
	}
	done := make(chan struct{})
	go func() { rs.watching.Wait(); close(done) }()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	rs.stop()
	<-done
	return err
}
