package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/proxy"
	"github.com/hourgate/hourgate/roles"
	"github.com/hourgate/hourgate/secrets"
)

// settleTimeout is how long the end of the program waits for roles to be settled, after the last session has ended. The
// next start sweeps what is left.
const settleTimeout = 20 * time.Second

// gate is the running program: it wires the packages together and holds what a reload changes.
type gate struct {
	cfg      config
	log      *slog.Logger
	registry *prometheus.Registry
	trail    *audit.Trail
	stores   []*secrets.Store
	live     *policy.Live
	metrics  *roles.Metrics
	keepers  map[string]*roles.Keeper
	server   *proxy.Server
	reloads  reloadMetrics
	onOpen   func(opsAddress string) // optional: called once clients can connect
}

// newGate opens everything that can be opened without talking to a server.
func newGate(ctx context.Context, cfg config, set *policy.Set, log *slog.Logger) (*gate, error) {
	g := &gate{cfg: cfg, log: log, registry: newRegistry(), keepers: make(map[string]*roles.Keeper), live: policy.NewLive(set)}
	g.metrics = roles.NewMetrics(g.registry)
	g.reloads = newReloadMetrics(g.registry)
	trail, err := audit.Open(cfg.Audit.File, audit.Options{Sync: cfg.Audit.Sync, Deployment: cfg.Deployment})
	if err != nil {
		return nil, fmt.Errorf("audit.file: %w", err)
	}
	g.trail = trail
	if err := g.wire(ctx, set); err != nil {
		return nil, errors.Join(err, trail.Close())
	}
	return g, nil
}

func (g *gate) wire(ctx context.Context, set *policy.Set) error {
	integrations := make(fixedIntegrations)
	for _, i := range g.cfg.Integrations {
		integration, err := g.integration(ctx, i)
		if err != nil {
			return fmt.Errorf("integration %s: %w", i.Name, err)
		}
		integrations[i.Name] = integration
	}
	cert, clientCAs, err := g.cfg.TLS.load()
	if err != nil {
		return err
	}
	g.server, err = proxy.New(proxy.Config{
		Certificate: cert, ClientCAs: clientCAs, ClientCertificateOptional: g.cfg.TLS.ClientCertOptional, AllowPlaintextLoopback: g.cfg.TLS.AllowPlaintextLoopback,
		Policy: g.live, Integrations: integrations,
		ProxyProtocol: g.cfg.ProxyProtocol, LoginTimeout: g.cfg.LoginTimeout,
		FirstByteTimeout: g.cfg.Limits.FirstByteTimeout, StartupTimeout: g.cfg.Limits.StartupTimeout,
		MaxUnauthenticated: int(g.cfg.Limits.Unauthenticated), MaxUnauthenticatedPerAddress: int(g.cfg.Limits.UnauthenticatedPerAddress),
		Trail: g.trail, DiscardStatements: !g.cfg.Audit.Statements, Logger: g.log, Registry: g.registry,
	})
	g.reloads.loaded(set)
	return err
}

type fixedIntegrations map[string]proxy.Integration

func (f fixedIntegrations) Integration(name string) (proxy.Integration, bool) {
	integration, ok := f[name]
	return integration, ok
}

func (g *gate) integration(ctx context.Context, i integrationConfig) (proxy.Integration, error) {
	settings := i.server()
	server, err := upstream.New(settings)
	if err != nil {
		return proxy.Integration{}, err
	}
	for _, note := range settings.Notes() {
		g.log.Warn("connections to the server are not as safe as they could be", "integration", i.Name, "why", note)
	}
	source, err := secrets.Open(ctx, i.Secret.For(server.Address()))
	if err != nil {
		return proxy.Integration{}, err
	}
	store := secrets.NewStore(source, secrets.StoreConfig{Log: g.log})
	keeper := roles.New(roles.Config{
		Integration: i.Name, Database: i.Database, Deployment: g.cfg.Deployment, Linger: g.cfg.RoleLinger,
		Server: server, Secret: store, Trail: g.trail, Logger: g.log, Metrics: g.metrics, Policy: g.live,
	})
	g.stores = append(g.stores, store)
	g.keepers[i.Name] = keeper
	acquire := func(ctx context.Context, user string, grant *policy.Grant, database string) (proxy.Lease, error) {
		lease, err := keeper.Acquire(ctx, user, grant, database)
		switch {
		case errors.Is(err, roles.ErrSessionLimit):
			return nil, proxy.ErrSessionLimit
		case err != nil:
			return nil, err // not lease: a nil *roles.Lease would make a Lease that is not nil
		}
		return lease, nil
	}
	return proxy.Integration{Upstream: server, Acquire: acquire}, nil
}

// server is the integration as package upstream knows it.
func (i integrationConfig) server() upstream.Config {
	return upstream.Config{
		Host: i.Hostname, Port: i.Port, SSLMode: i.SSLMode, SSLNegotiation: i.SSLNegotiation, RootCert: i.SSLRootCert,
		ServerName: i.SSLServerName, ClientCert: i.SSLCert, ClientKey: i.SSLKey, AllowWeakAuth: i.AllowWeakAuth,
	}
}

// run serves until ctx is done, then drains and settles. reload is signalled to read policy, certificates and the trail's
// path anew.
func (g *gate) run(ctx context.Context, reload <-chan os.Signal) error {
	var listen net.ListenConfig
	listener, err := listen.Listen(ctx, "tcp", g.cfg.Listen)
	if err != nil {
		return errors.Join(fmt.Errorf("listen: %w", err), g.trail.Close())
	}
	return g.serve(ctx, listener, reload)
}

// serve is run with a listener that is open already.
func (g *gate) serve(ctx context.Context, listener net.Listener, reload <-chan os.Signal) error {
	if err := g.trail.Append(audit.Record{Event: audit.ProxyStarted}); err != nil {
		return errors.Join(fmt.Errorf("audit.file: %w", err), listener.Close(), g.trail.Close())
	}
	ops, err := g.startOps(ctx)
	if err != nil {
		return errors.Join(err, listener.Close(), g.trail.Close())
	}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	for _, store := range g.stores {
		running.Go(func() { store.Run(background) })
	}
	for name, keeper := range g.keepers {
		running.Go(func() { keeper.Run(background) })
		running.Go(func() { g.preflight(background, name, keeper) })
	}
	running.Go(func() { g.watch(background, reload) })
	running.Go(func() { g.giveBack(background) })

	served := make(chan error, 1)
	go func() { served <- g.server.Serve(listener) }()
	g.log.Info("gate open", "listen", listener.Addr().String(), "ops_listen", ops.address(), "version", version)
	ops.ready.Store(true)
	if g.onOpen != nil {
		g.onOpen(ops.address())
	}

	select {
	case err = <-served:
	case <-ctx.Done():
	}
	ops.ready.Store(false)
	g.drain()
	stop()
	running.Wait()
	if errors.Is(err, proxy.ErrServerClosed) {
		err = nil
	}
	return errors.Join(err, ops.close(), g.trail.Append(audit.Record{Event: audit.ProxyStopped}), g.trail.Close())
}

// drain lets sessions finish their transactions, then settles all roles.
func (g *gate) drain() {
	g.log.Info("draining", "timeout", g.cfg.DrainTimeout)
	ctx, cancel := context.WithTimeout(context.Background(), g.cfg.DrainTimeout)
	defer cancel()
	if err := g.server.Shutdown(ctx); err != nil {
		g.log.Warn("sessions were cut off at the end of the drain", "error", err)
	}
	ctx, cancel = context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	var settled sync.WaitGroup
	for name, keeper := range g.keepers {
		settled.Go(func() {
			if err := keeper.Close(ctx); err != nil {
				g.log.Error("roles are left to the sweep of the next start", "integration", name, "error", err)
			}
		})
	}
	settled.Wait()
	g.log.Info("gate closed")
}

// load reads the certificate that clients are shown and the authorities for theirs.
func (t tlsConfig) load() (cert tls.Certificate, clientCAs *x509.CertPool, err error) {
	cert, err = tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
	if err != nil {
		return cert, nil, err
	}
	if t.ClientCAFile == "" {
		return cert, nil, nil
	}
	pem, err := os.ReadFile(t.ClientCAFile)
	if err != nil {
		return cert, nil, fmt.Errorf("client_ca_file: %w", err)
	}
	clientCAs = x509.NewCertPool()
	if !clientCAs.AppendCertsFromPEM(pem) {
		return cert, nil, fmt.Errorf("client_ca_file: %s holds no PEM certificate", t.ClientCAFile)
	}
	return cert, clientCAs, nil
}
