package gate

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hourgate/hourgate/access"
	"github.com/hourgate/hourgate/access/desk"
	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/descriptors"
	"github.com/hourgate/hourgate/internal/discover"
	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/internal/wholefile"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/proxy"
	"github.com/hourgate/hourgate/roles"
	"github.com/hourgate/hourgate/secrets"
)

// Gate is the running program: it wires the packages together and holds what a reload changes.
type Gate struct {
	cfg      Config
	version  string
	log      *slog.Logger
	registry *prometheus.Registry
	trail    *audit.Trail
	live     *policy.Live
	policies policies
	fleet    *Fleet
	server   *proxy.Server
	reloads  reloadMetrics
	access   *access.Service

	background []func(context.Context) // what runs while the gate does
	closers    []func() error          // what is closed at its end

	discovery *discover.Discovery // nil: all integrations are in the configuration

	reopenAt     time.Time    // when to try to reopen the trail again; belongs to watch
	drainTimeout atomic.Int64 // nanoseconds

	// Level is what the log shows, for a configuration that is reloaded. Optional.
	Level *slog.LevelVar

	// OnOpen is called once clients can connect, with the address of the operator port. Optional.
	OnOpen func(opsAddress string)
}

// open is New without its patience.
func open(ctx context.Context, cfg Config, set *policy.Set, version string, log *slog.Logger) (*Gate, error) {
	g := &Gate{cfg: cfg, version: version, log: log, registry: newRegistry(version), live: policy.NewLive(set)}
	g.reloads = newReloadMetrics(g.registry)
	descriptors.Hold()
	trail, err := audit.Open(cfg.Audit.File, audit.Options{
		Sync: cfg.Audit.Sync, Deployment: cfg.Deployment, SpoolFolder: cfg.Audit.SpoolFolder, Log: log,
	})
	if err != nil {
		return nil, fmt.Errorf("audit.file: %w", err)
	}
	g.trail = trail
	trail.Register(g.registry)
	if err := g.wire(ctx, set); err != nil {
		return nil, errors.Join(err, g.close())
	}
	return g, nil
}

func (g *Gate) wire(ctx context.Context, set *policy.Set) error {
	metrics := roles.NewMetrics(g.registry)
	g.fleet = &Fleet{
		log: g.log, members: make(map[string]*member), absent: make(map[string]*absent), retiring: make(map[*member]struct{}),
		open: len(g.cfg.Discovery) > 0,
		wiring: wiring{log: g.log, peers: g.cfg.PeerTimeout, secrets: new(secrets.Opener), admins: new(admins), roles: roles.Config{
			Process: roles.NewProcess(), Turns: make(chan struct{}, turns), Deployment: g.cfg.Deployment, Linger: g.cfg.RoleLinger, Trail: g.trail, Logger: g.log, Metrics: metrics, Policy: g.live,
		}},
		changed: func() {}, // the policy was read for all of these
		forget:  metrics.Forget,
	}
	for _, i := range g.cfg.Integrations {
		if err := g.fleet.Put(ctx, i); err != nil {
			return err
		}
	}
	if err := g.openDiscovery(ctx); err != nil {
		return err
	}
	if err := g.openAccess(ctx, set); err != nil {
		return err
	}
	cert, clientCAs, err := g.cfg.TLS.load()
	if err != nil {
		return err
	}
	g.server, err = proxy.New(proxy.Config{
		Certificate: cert, ClientCAs: clientCAs, ClientCertificateOptional: g.cfg.TLS.ClientCertOptional, AllowPlaintextLoopback: g.cfg.TLS.AllowPlaintextLoopback,
		Policy: g.live, Integrations: g.fleet, NoticeBeforeEnd: g.cfg.EndNotices,
		Console: console{desk.New(g.access, g.live, deskSessions{g})}, Desk: door{g},
		ProxyProtocol: g.cfg.ProxyProtocol, Limits: g.cfg.limits(),
		Trail: g.trail, Logger: g.log, Registry: g.registry,
		PeerTimeout: g.cfg.PeerTimeout, ApplicationNamePrefix: g.cfg.ApplicationNamePrefix,
	})
	if err != nil {
		return err
	}
	for _, i := range g.cfg.Integrations {
		g.server.Expect(i.Name)
	}
	g.policies = policies{put: g.access.SetFiles, integrations: g.fleet, files: set}
	if g.cfg.reading != nil {
		g.policies.accepted = g.cfg.reading.Sources
	}
	g.fleet.changed, g.fleet.forget = g.rebuild, func(integration string) { metrics.Forget(integration); g.server.Forget(integration) }
	g.reloads.loaded(set)
	g.warn(set)
	g.drainTimeout.Store(int64(g.cfg.DrainTimeout))
	return nil
}

// rebuild gives the policy a new meaning after integrations have changed.
func (g *Gate) rebuild() {
	if err := g.policies.rebuild(); err != nil {
		g.log.Error("the policy does not fit the integrations any more, it stays as it is", "error", err)
		return
	}
	g.reloads.sizes(g.policies.inFiles())
}

// Alive returns when the list of sessions can be had: it hangs where the gate does, for a watchdog to notice.
func (g *Gate) Alive() { g.server.Sessions() }

// Fleet is the integrations, which may be added, changed and removed.
func (g *Gate) Fleet() *Fleet { return g.fleet }

// Server is the integration as package upstream knows it.
func (i Integration) server() upstream.Config {
	return upstream.Config{
		Host: i.Hostname, Port: i.Port, SSLMode: i.SSLMode, SSLNegotiation: i.SSLNegotiation, RootCert: i.SSLRootCert,
		ServerName: i.SSLServerName, ClientCert: i.SSLCert, ClientKey: i.SSLKey, AllowWeakAuth: i.AllowWeakAuth,
	}
}

// reader is server for one of the integration's readers.
func (i Integration) reader(r discover.Server) upstream.Config {
	cfg := i.server()
	cfg.Host, cfg.Port, cfg.ServerName = r.Host, r.Port, ""
	if i.SSLMode != upstream.Disable {
		cfg.ServerName = r.Name
	}
	return cfg
}

// Run serves until ctx is done, then drains and settles. reload is signalled to read policy, certificates and the trail's
// path anew.
func (g *Gate) Run(ctx context.Context, reload <-chan os.Signal) error {
	var listen net.ListenConfig
	listener, err := listen.Listen(ctx, "tcp", g.cfg.Listen)
	if err != nil {
		return g.unopened(ctx, fmt.Errorf("listen: %w", err))
	}
	return g.Serve(ctx, listener, reload)
}

// Serve is run with a listener that is open already.
func (g *Gate) Serve(ctx context.Context, listener net.Listener, reload <-chan os.Signal) error {
	if err := g.trail.Append(audit.Record{Event: audit.ProxyStarted}); err != nil {
		return g.unopened(ctx, errors.Join(fmt.Errorf("audit.file: %w", err), listener.Close()))
	}
	ops, err := g.startOps(ctx)
	if err != nil {
		return g.unopened(ctx, errors.Join(err, listener.Close()))
	}
	operators, err := g.listenOperators(ctx)
	if err != nil {
		return g.unopened(ctx, errors.Join(err, ops.close(), listener.Close()))
	}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	g.fleet.Start(background)
	running := g.beside(background, reload, operators)

	served := make(chan error, 1)
	go func() { served <- g.server.Serve(listener) }()
	g.log.Info("gate open", "listen", listener.Addr().String(), "ops_listen", ops.address(), "connections", g.cfg.limits().MaxConnections, "version", g.version)
	ops.ready.Store(true)
	if g.OnOpen != nil {
		g.OnOpen(ops.address())
	}

	select {
	case err = <-served:
	case <-ctx.Done():
	}
	ops.ready.Store(false)
	left := g.drain()
	if operators != nil {
		running = append(running, begin("the admin socket", func() {
			if err := operators.Close(); err != nil {
				g.log.Error("the admin socket could not be closed", "error", err)
			}
		}))
	}
	stop()
	if errors.Is(err, proxy.ErrServerClosed) {
		err = nil
	}
	return errors.Join(err, ops.close(), g.finish(running, left))
}

// beside begins what runs beside the sessions.
func (g *Gate) beside(ctx context.Context, reload <-chan os.Signal, operators net.Listener) []part {
	running := []part{
		begin("the configuration's and the policy's files", func() { g.watch(ctx, reload) }),
		begin("the names of discovered servers", func() { g.discover(ctx) }),
		begin("state, locks and their files", func() { g.access.Run(ctx) }),
		begin("what was lent", func() { g.giveBack(ctx) }),
	}
	if operators != nil {
		running = append(running, begin("the admin socket", func() { g.server.ServeOperators(descriptors.Listener{Listener: operators}) }))
	}
	for _, run := range g.background {
		running = append(running, begin("notifications and the state's secret", func() { run(ctx) }))
	}
	return running
}

// load reads the certificate that clients are shown and the authorities for theirs.
func (t TLS) load() (cert tls.Certificate, clientCAs *x509.CertPool, err error) {
	cert, err = wholefile.KeyPair(t.CertFile, t.KeyFile)
	if err != nil {
		return cert, nil, err
	}
	if t.ClientCAFile == "" {
		return cert, nil, nil
	}
	pem, err := wholefile.Content(t.ClientCAFile)
	if err != nil {
		return cert, nil, fmt.Errorf("client_ca_file: %w", err)
	}
	clientCAs = x509.NewCertPool()
	if !clientCAs.AppendCertsFromPEM(pem) {
		return cert, nil, fmt.Errorf("client_ca_file: %s holds no PEM certificate", t.ClientCAFile)
	}
	return cert, clientCAs, nil
}
