package gate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/internal/discover"
	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/proxy"
	"github.com/hourgate/hourgate/roles"
	"github.com/hourgate/hourgate/secrets"
)

// Fleet is the integrations that are guarded. They may be added, changed and removed while sessions run. It is safe for
// concurrent use.
//
// A session keeps the server that it began with. An integration that is changed or removed takes no new sessions as it
// was; those that run go on until their grants end or are withdrawn, and their roles are settled when they have left. So a
// source of integrations that fails for a moment puts nobody out. To end access, take the grants away.
type Fleet struct {
	wiring wiring
	log    *slog.Logger

	// changed is called after each change, without a lock: the policy's grants on an integration wait for it.
	changed func()
	// forget is called under a lock when the last session of an integration that was removed has left.
	forget func(integration string)

	changing sync.Mutex // held for a whole change, so that two changes of one integration don't cross

	open bool // discovery finds integrations, so that they come and go

	mu       sync.RWMutex
	members  map[string]*member
	absent   map[string]*absent // that were found and can't be used; never one of members
	retiring map[*member]struct{}
	running  context.Context // of the work in the background; nil before Start
	work     sync.WaitGroup
}

// wiring is what every integration is made with.
type wiring struct {
	roles   roles.Config  // what is the same for all
	peers   time.Duration // Config.PeerTimeout
	log     *slog.Logger  // of secrets
	secrets *secrets.Opener
	admins  *admins
}

// member is one integration as it is, or was.
type member struct {
	name     string
	settings Integration // belongs to the fleet's mutex
	about    about       // belongs to the fleet's mutex
	failed   *failure    // likewise: what the last look at the server found against it
	server   *upstream.Server
	readers  []*upstream.Server
	store    *secrets.Store
	keeper   *roles.Keeper
	ctx      context.Context
	stop     context.CancelFunc // ends the member's work in the background
	work     sync.WaitGroup
	closed   sync.Once
}

// open makes everything that an integration needs, and talks to no server.
// A lazy one holds no connection while nobody uses it.
func (w wiring) open(ctx context.Context, i Integration, lazy bool) (*member, error) {
	settings := i.server()
	settings.PeerTimeout = w.peers
	server, err := upstream.New(settings)
	if err != nil {
		return nil, fmt.Errorf("integration %s: %w", i.Name, err)
	}
	source, err := w.secrets.Open(ctx, i.Secret.For(server.Address()))
	if err != nil {
		return nil, fmt.Errorf("integration %s: %w", i.Name, err)
	}
	m := &member{name: i.Name, settings: i, server: server, store: secrets.NewStore(source, secrets.StoreConfig{Log: w.log})}
	cfg := w.roles
	cfg.Admins = w.admins.of(settings, i.Secret)
	for _, r := range i.ReaderServers {
		reader, err := w.reader(ctx, i, r, m.store)
		if err != nil {
			return nil, fmt.Errorf("integration %s: reader %s: %w", i.Name, r, err)
		}
		m.readers, cfg.Readers = append(m.readers, reader.Server), append(cfg.Readers, reader)
	}
	if !lazy {
		cfg.Turns = nil
	}
	cfg.Integration, cfg.Database, cfg.Server, cfg.Secret = i.Name, i.Database, server, m.store
	m.keeper = roles.New(cfg)
	m.ctx, m.stop = context.WithCancel(context.WithoutCancel(ctx))
	return m, nil
}

// reader is one of the integration's readers. The admin logs in there with the same secret, but for tokens, each of which is
// for one server.
func (w wiring) reader(ctx context.Context, i Integration, r discover.Server, store *secrets.Store) (roles.Reader, error) {
	server, err := upstream.New(i.reader(r))
	shared := w.admins.of(i.reader(r), i.Secret)
	if err != nil || i.Secret.RDSIAM == nil {
		return roles.Reader{Server: server, Secret: store, Admins: shared}, err
	}
	source, err := w.secrets.Open(ctx, i.Secret.For(server.Address()))
	if err != nil {
		return roles.Reader{}, err
	}
	return roles.Reader{Server: server, Admins: shared, Secret: secrets.NewStore(source, secrets.StoreConfig{Log: w.log})}, nil
}

// acquire fits the keeper to the proxy.
func (m *member) acquire(ctx context.Context, user string, grant *policy.Grant, database string) (proxy.Lease, error) {
	return forProxy(m.keeper.Acquire(ctx, user, grant, database))
}

// reader is what a session on one of the readers uses.
func (m *member) reader() (proxy.Integration, bool) {
	n, ok := m.keeper.Reader()
	if !ok {
		return proxy.Integration{}, false
	}
	return proxy.Integration{
		Upstream: m.readers[n], Standby: true,
		Acquire: func(ctx context.Context, user string, grant *policy.Grant, database string) (proxy.Lease, error) {
			return forProxy(m.keeper.AcquireOnReader(ctx, user, grant, database, n))
		},
	}, true
}

func forProxy(lease *roles.Lease, err error) (proxy.Lease, error) {
	switch {
	case errors.Is(err, roles.ErrLagging):
		return nil, proxy.ErrReaderLags
	case errors.Is(err, roles.ErrSessionLimit):
		return nil, proxy.ErrSessionLimit
	case errors.Is(err, admin.ErrStandby):
		return nil, proxy.ErrStandby
	case err != nil:
		return nil, err // not lease: a nil *roles.Lease would make a Lease that is not nil
	}
	return lease, nil
}

// Integration returns what new sessions use; see [proxy.Integrations].
func (f *Fleet) Integration(name string) (proxy.Integration, bool) {
	name, onReader := strings.CutSuffix(name, "/"+policy.ReaderSuffix)
	f.mu.RLock()
	defer f.mu.RUnlock()
	m, ok := f.members[name]
	switch {
	case !ok && f.absent[name] != nil:
		return proxy.Integration{NotReady: f.absent[name].about.notReady}, true
	case !ok:
		return proxy.Integration{}, false
	case m.about.notReady != "":
		return proxy.Integration{NotReady: m.about.notReady}, true
	case m.failed != nil:
		return proxy.Integration{NotReady: m.failed.reason}, true
	case onReader:
		return m.reader()
	}
	return proxy.Integration{Upstream: m.server, Acquire: m.acquire}, true
}

// Keeper returns the keeper of an integration's roles, or nil.
func (f *Fleet) Keeper(name string) *roles.Keeper {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if m := f.members[name]; m != nil {
		return m.keeper
	}
	return nil
}

// Databases returns the default database of each integration by its name, as [policy.Load] wants it. Those that still have
// sessions are among them, so that the grants of these are understood.
func (f *Fleet) Databases() map[string]string {
	f.mu.RLock()
	defer f.mu.RUnlock()
	databases := make(map[string]string)
	for m := range f.retiring {
		databases[m.name] = m.settings.Database
	}
	for name, a := range f.absent {
		databases[name] = a.database
	}
	for name, m := range f.members {
		databases[name] = m.settings.Database
	}
	return databases
}

// Put adds an integration, or changes the one of that name. Nothing happens if it is there already as it is to be. The
// error is about the settings; a server that can't be reached is none.
func (f *Fleet) Put(ctx context.Context, i Integration) error {
	changed, err := f.put(ctx, i)
	if changed {
		f.changed()
	}
	return err
}

func (f *Fleet) put(ctx context.Context, i Integration) (changed bool, err error) {
	f.changing.Lock()
	defer f.changing.Unlock()
	return f.putLocked(ctx, i, said(i))
}

// putLocked is put with what is said of the integration; changing is held. What is said changes without a new connection,
// unless it is another server.
func (f *Fleet) putLocked(ctx context.Context, i Integration, a about) (changed bool, err error) {
	f.mu.Lock()
	old := f.members[i.Name]
	if old != nil && old.about.id == a.id && old.about.found == a.found && old.settings.sameServer(i) {
		changed = !old.about.same(a)
		old.about, old.settings = a, i
		f.mu.Unlock()
		return changed, nil
	}
	f.mu.Unlock()
	m, err := f.wiring.open(ctx, i, a.found)
	if err != nil {
		return false, err
	}
	m.about = a
	settings := i.server()
	for _, note := range settings.Notes() {
		f.log.Warn("connections to the server are not as safe as they could be", "integration", i.Name, "why", note)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.members[i.Name] = m
	if f.running != nil {
		f.start(m)
		f.log.Info("integration added or changed", "integration", i.Name, "server", m.server.Address())
	}
	f.retire(old)
	return true, nil
}

// Remove takes an integration out, and reports whether there was one of that name.
func (f *Fleet) Remove(name string) bool {
	f.changing.Lock()
	f.mu.Lock()
	old := f.members[name]
	delete(f.members, name)
	f.retire(old)
	f.mu.Unlock()
	f.changing.Unlock()
	if old == nil {
		return false
	}
	f.log.Info("integration removed, its sessions go on until their grants end", "integration", name)
	f.changed()
	return true
}

// Start begins the work in the background: to sweep, to keep connections warm, to look at each server. It goes on until
// Close.
func (f *Fleet) Start(ctx context.Context) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.running = context.WithoutCancel(ctx)
	for _, m := range f.members {
		f.start(m)
	}
}

// start runs a member's work; the mutex is held.
func (f *Fleet) start(m *member) {
	m.work.Go(func() { m.keeper.Run(m.ctx) })
	if m.about.found { // one of many: its secret is fetched when it is needed
		m.work.Go(func() { f.lookAfter(m) })
		return
	}
	m.work.Go(func() { m.store.Run(m.ctx) })
	m.work.Go(func() { m.preflight(m.ctx, f.log, f.wiring.roles.Policy.Set()) })
}

// retire lets the sessions of a member that takes no new ones come to their end; the mutex is held.
func (f *Fleet) retire(m *member) {
	if m == nil {
		return
	}
	f.retiring[m] = struct{}{}
	f.work.Go(func() {
		m.keeper.Retire(m.ctx)
		m.close(m.ctx, f.log)
		if f.retired(m) {
			f.changed()
		}
	})
}

// retired forgets a member whose last session has left, and reports whether nothing is left of its integration.
func (f *Fleet) retired(m *member) (gone bool) {
	f.changing.Lock()
	defer f.changing.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.retiring, m)
	gone = f.members[m.name] == nil
	for other := range f.retiring {
		gone = gone && other.name != m.name
	}
	if gone {
		f.forget(m.name)
	}
	return gone
}

// close settles what is left and ends the member's work.
func (m *member) close(ctx context.Context, log *slog.Logger) {
	m.closed.Do(func() {
		if err := m.keeper.Close(ctx); err != nil {
			log.Error("roles are left to the sweep of the next start", "integration", m.name, "error", err)
		}
		m.stop()
		m.work.Wait()
	})
}

// Close settles all roles, those of integrations that were removed too, until ctx is done, and ends the work in the
// background. No session may run any more.
func (f *Fleet) Close(ctx context.Context) {
	f.mu.Lock()
	members := make(map[*member]struct{})
	for _, m := range f.members {
		members[m] = struct{}{}
	}
	maps.Copy(members, f.retiring)
	f.mu.Unlock()
	var closing sync.WaitGroup
	for m := range members {
		closing.Go(func() { m.close(ctx, f.log) })
	}
	closing.Wait()
	f.work.Wait()
}
