package gate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/hourgate/hourgate/internal/descriptors"
)

// opsServer answers operators and orchestrators, on a port of its own: /metrics, /livez and /readyz. Neither probe asks
// the guarded servers: restarting the gate does not mend them.
type opsServer struct {
	http     *http.Server
	listener net.Listener
	ready    atomic.Bool // listening and not draining
}

// startOps listens on ops_listen. With none configured nothing is served.
func (g *Gate) startOps(ctx context.Context) (*opsServer, error) {
	ops := &opsServer{}
	if g.cfg.OpsListen == "" {
		return ops, nil
	}
	var listen net.ListenConfig
	listener, err := listen.Listen(ctx, "tcp", g.cfg.OpsListen)
	if err != nil {
		return nil, fmt.Errorf("ops_listen: %w", err)
	}
	ops.listener = descriptors.Listener{Listener: listener} // an orchestrator that hears nothing ends the gate
	ops.http = ops.server(g.registry, g.log)
	go func() {
		if err := ops.http.Serve(ops.listener); !errors.Is(err, http.ErrServerClosed) {
			g.log.Error("operator port failed", "error", err)
		}
	}()
	return ops, nil
}

// server has its own errors written as lines of the log, such as of connections that can't be accepted.
func (o *opsServer) server(registry *prometheus.Registry, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           o.handler(registry, log),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		IdleTimeout:       time.Minute,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelError),
	}
}

func (o *opsServer) handler(registry *prometheus.Registry, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		EnableOpenMetrics: true, Registry: registry, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelError),
	}))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !o.ready.Load() {
			http.Error(w, "starting or draining", http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "ok\n")
	})
	return mux
}

func (o *opsServer) address() string {
	if o.listener == nil {
		return ""
	}
	return o.listener.Addr().String()
}

func (o *opsServer) close() error {
	if o.http == nil {
		return nil
	}
	return o.http.Close()
}

// newRegistry has what every Go service shows, and the version.
func newRegistry(version string) *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "hourgate_build_info", Help: "Always 1; the labels say what runs.",
		ConstLabels: prometheus.Labels{"version": version, "go_version": runtime.Version()},
	})
	info.Set(1)
	registry.MustRegister(info)
	return registry
}
