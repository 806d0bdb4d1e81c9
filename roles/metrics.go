package roles

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics of one keeper; the integration is a constant label, so that several keepers share a registry.
type metrics struct {
	made, settledTotal, failed, tombstones, foreign prometheus.Counter
	live, connected                                 prometheus.Gauge
	provision, settle                               prometheus.Histogram
}

func newMetrics(registry prometheus.Registerer, integration string) *metrics {
	f := promauto.With(prometheus.WrapRegistererWith(prometheus.Labels{"integration": integration}, registry))
	buckets := []float64{.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60}
	return &metrics{
		made: f.NewCounter(prometheus.CounterOpts{
			Name: "hourgate_roles_made_total", Help: "Ephemeral roles made.",
		}),
		settledTotal: f.NewCounter(prometheus.CounterOpts{
			Name: "hourgate_roles_settled_total", Help: "Ephemeral roles removed and verified to be gone.",
		}),
		failed: f.NewCounter(prometheus.CounterOpts{
			Name: "hourgate_roles_settle_failures_total", Help: "Tries at settling a role that failed; each is tried again by the sweep.",
		}),
		tombstones: f.NewCounter(prometheus.CounterOpts{
			Name: "hourgate_roles_tombstones_total", Help: "Tries at settling a role that ended with the role disabled but held by other people's objects.",
		}),
		foreign: f.NewCounter(prometheus.CounterOpts{
			Name: "hourgate_foreign_sessions_total", Help: "Sessions under an ephemeral role that did not come through the gate, and were terminated.",
		}),
		live: f.NewGauge(prometheus.GaugeOpts{
			Name: "hourgate_roles", Help: "Ephemeral roles of this process that are in use, linger or are being settled.",
		}),
		connected: f.NewGauge(prometheus.GaugeOpts{
			Name: "hourgate_admin_connected", Help: "1 if the admin connection answered at the last heartbeat.",
		}),
		provision: f.NewHistogram(prometheus.HistogramOpts{
			Name: "hourgate_role_make_duration_seconds", Help: "Time to make an ephemeral role.", Buckets: buckets,
		}),
		settle: f.NewHistogram(prometheus.HistogramOpts{
			Name: "hourgate_role_settle_duration_seconds", Help: "Time of one try at settling a role.", Buckets: buckets,
		}),
	}
}

func (m *metrics) provisioned(d time.Duration) {
	m.made.Inc()
	m.provision.Observe(d.Seconds())
}

func (m *metrics) settled(err error, d time.Duration) {
	m.settle.Observe(d.Seconds())
	var tombstone *TombstoneError
	switch {
	case err == nil:
		m.settledTotal.Inc()
	case errors.As(err, &tombstone):
		m.tombstones.Inc()
	default:
		m.failed.Inc()
	}
}

func (m *metrics) reachable(yes bool) {
	m.connected.Set(0)
	if yes {
		m.connected.Set(1)
	}
}
