package roles

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgerrcode"

	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/roles/ledger"
)

// ErrLagging is returned by AcquireOnReader when the reader has not replayed the role in time.
var ErrLagging = errors.New("roles: the reader has not replayed the role in time")

const (
	readerWait    = 8 * time.Second        // how long a log-in waits for the reader to know its role
	replayPoll    = 20 * time.Millisecond  // while it waits
	readerTimeout = 5 * time.Second        // for one look
	readerLook    = 5 * time.Second        // between two looks while all roles live
	endLook       = 100 * time.Millisecond // between two looks while a role that has ended may still be used
	lagLook       = time.Second            // the same, when the reader lags for long
	lagging       = 5 * time.Second        // what long is
	readerRid     = 2 * time.Second        // how long the removal of a role waits for readers
	readerClose   = 3 * time.Second        // how long Close waits for readers
)

// readers are those of one integration.
type readers struct {
	writer     *admin.Pool
	deployment string
	log        *slog.Logger
	evict      func(ctx context.Context, c *admin.Conn, s seen, r ledger.Role) error

	all      []*reader
	turn     atomic.Uint32
	watching sync.WaitGroup // one for each reader that has roles to watch
	running  context.Context
	stop     context.CancelFunc
}

// reader is a server that replays what is done on the writer. A role is made and ended on the writer only, and is known
// here a moment later. Until this server has replayed the end, it would still let the role in, and the sessions here are
// none of the writer's: so they are terminated here, again and again, until the role is gone from here too. Every role of
// the integration is watched on every reader, since its password would be good on each of them.
type reader struct {
	of     *readers
	server *upstream.Server
	pool   *admin.Pool
	log    *slog.Logger

	mu      sync.Mutex
	roles   map[uint32]*watch // by OID
	woken   chan struct{}     // capacity 1
	running bool
	failed  time.Time // when it last could not be asked
}

// watch is one role on one reader.
type watch struct {
	role     ledger.Role
	backends backends
	ended    time.Time       // zero while it lives
	settling bool            // on the writer
	lsn      string          // of the writer after it was settled, "" if that is not known
	clean    int             // looks in a row that found no session
	told     <-chan struct{} // closed when clients have been told of the end
}

func newReaders(k *Keeper) *readers {
	rs := &readers{writer: k.pool, deployment: k.cfg.Deployment, log: k.log, evict: k.evict}
	rs.running, rs.stop = context.WithCancel(context.Background())
	for _, of := range k.cfg.Readers {
		log := k.log.With("reader", of.Server.Address())
		rs.all = append(rs.all, &reader{
			of: rs, server: of.Server, log: log, roles: make(map[uint32]*watch), woken: make(chan struct{}, 1),
			pool: admin.NewPool(admin.Config{
				Integration: k.cfg.Integration, Database: k.cfg.Database, Application: ledger.Application(k.cfg.Deployment, k.proxy),
				Server: of.Server, Secret: of.Secret, Shared: of.Admins, Log: log, Reader: true,
			}),
		})
	}
	return rs
}

// Reader returns the number of the reader that the next session should use, and false if there is none. Those that could
// not be asked a moment ago are passed over while there are others.
func (k *Keeper) Reader() (int, bool) { return k.readers.next() }

func (rs *readers) next() (int, bool) {
	if len(rs.all) == 0 {
		return 0, false
	}
	first := int(rs.turn.Add(1)) % len(rs.all)
	for n := range rs.all {
		at := (first + n) % len(rs.all)
		r := rs.all[at]
		r.mu.Lock()
		sound := time.Since(r.failed) > readerTimeout
		r.mu.Unlock()
		if sound {
			return at, true
		}
	}
	return first, true
}

// AcquireOnReader is Acquire for a session on a reader, by its number: the role is made on the writer, and the reader has
// replayed it when this returns. Errors: as Acquire, and ErrLagging.
func (k *Keeper) AcquireOnReader(ctx context.Context, user string, grant *policy.Grant, database string, n int) (*Lease, error) {
	l, err := k.Acquire(ctx, user, grant, database)
	if err != nil {
		return nil, err
	}
	r := k.readers.all[n]
	k.mu.Lock()
	delete(l.lease.backends.dialing, l) // none of its backends is on the writer
	k.mu.Unlock()
	if err := r.await(ctx, l.lease.role); err != nil {
		l.Release()
		return nil, err
	}
	l.reader = r
	r.mu.Lock()
	if w := r.roles[l.lease.role.OID]; w != nil {
		w.backends.dialing[l] = dial{began: time.Now()}
	}
	r.mu.Unlock()
	return l, nil
}

// await waits until the reader has replayed everything that the writer has done so far.
func (r *reader) await(ctx context.Context, role ledger.Role) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readerWait, ErrLagging)
	defer cancel()
	lsn, err := position(ctx, r.of.writer)
	if err != nil {
		return fmt.Errorf("asking the writer where it is: %w", err)
	}
	for {
		var replayed bool
		err := r.pool.Use(ctx, func(c *admin.Conn) error {
			var err error
			replayed, err = hasReplayed(ctx, c, lsn, role.OID)
			return err
		})
		r.asked(err)
		if err == nil && replayed {
			return nil
		}
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("asking the reader %s how far it is: %w", r.server.Address(), err)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(replayPoll):
		}
	}
}

// position is where the writer is in its log. What has been committed is before it.
func position(ctx context.Context, writer *admin.Pool) (lsn string, err error) {
	err = writer.Use(ctx, func(c *admin.Conn) error {
		return c.QueryOne(ctx, "SELECT pg_current_wal_lsn()::text", nil, &lsn)
	})
	return lsn, err
}

// hasReplayed reports whether the reader has come to the writer's position and knows the role. A reader that does not know
// positions, as Aurora's, which answers "feature not supported" and applies the log in order all the same, is asked for the role alone.
func hasReplayed(ctx context.Context, c *admin.Conn, lsn string, oid uint32) (replayed bool, err error) {
	err = c.QueryOne(ctx, `
		SELECT (NOT pg_is_in_recovery() OR coalesce(pg_last_wal_replay_lsn() >= $1::text::pg_lsn, true))
		       AND EXISTS (SELECT FROM pg_roles WHERE oid = $2)`, []any{lsn, oid}, &replayed)
	if admin.SQLState(err) == pgerrcode.FeatureNotSupported {
		err = c.QueryOne(ctx, "SELECT EXISTS (SELECT FROM pg_roles WHERE oid = $1)", []any{oid}, &replayed)
	}
	return replayed, err
}

// asked notes whether the reader could be asked.
func (r *reader) asked(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil || errors.Is(err, ErrLagging) {
		r.failed = time.Time{}
		return
	}
	r.failed = time.Now()
}

// watch has a role that was made looked after.
func (rs *readers) watch(role ledger.Role) {
	for _, r := range rs.all {
		r.add(role)
	}
}

func (r *reader) add(role ledger.Role) *watch {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.roles[role.OID]
	if w == nil {
		w = &watch{role: role, backends: newBackends()}
		r.roles[role.OID] = w
	}
	if !r.running && r.of.running.Err() == nil {
		r.running = true
		r.of.watching.Go(r.run)
	}
	return w
}

func (r *reader) wake() {
	select {
	case r.woken <- struct{}{}:
	default:
	}
}
