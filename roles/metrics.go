package roles

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/hourgate/hourgate/roles/settle"
)

// Metrics are those of all keepers of a process, by integration. An integration may come, go and come back.
type Metrics struct {
	counters   map[string]*prometheus.CounterVec
	gauges     map[string]*prometheus.GaugeVec
	histograms map[string]*prometheus.HistogramVec
}

// metrics of one keeper.
type metrics struct {
	made, foreign   prometheus.Counter
	live, connected prometheus.Gauge
	leftOut         prometheus.Gauge
	provision       prometheus.Histogram
	settle          settle.Metrics
}

const (
	metricMade       = "hourgate_roles_made_total"
	metricSettled    = "hourgate_roles_settled_total"
	metricFailed     = "hourgate_roles_settle_failures_total"
	metricTombstones = "hourgate_roles_tombstones_total"
	metricBugs       = "hourgate_statements_misunderstood_total"
	metricForeign    = "hourgate_foreign_sessions_total"
	metricLive       = "hourgate_roles"
	metricLeftOut    = "hourgate_objects_left_out"
	metricConnected  = "hourgate_admin_connected"
	metricProvision  = "hourgate_role_make_duration_seconds"
	metricSettle     = "hourgate_role_settle_duration_seconds"
)

// NewMetrics registers them.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	f, label := promauto.With(registry), []string{"integration"}
	buckets := []float64{.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60}
	m := &Metrics{
		counters: make(map[string]*prometheus.CounterVec), gauges: make(map[string]*prometheus.GaugeVec), histograms: make(map[string]*prometheus.HistogramVec),
	}
	for name, help := range map[string]string{
		metricMade:       "Ephemeral roles made.",
		metricSettled:    "Ephemeral roles removed and verified to be gone.",
		metricFailed:     "Tries at settling a role that failed; each is tried again by the sweep.",
		metricTombstones: "Tries at settling a role that ended with the role disabled but held by other people's objects.",
		metricBugs:       "Statements of Hourgate that a server could not understand: each is a bug to be reported.",
		metricForeign:    "Sessions under an ephemeral role that did not come through the gate, and were terminated.",
	} {
		m.counters[name] = f.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, label)
	}
	for name, help := range map[string]string{
		metricLive:      "Ephemeral roles of this process that are in use, linger or are being settled.",
		metricLeftOut:   "Objects that grants cover and that nobody gets, since the admin is not a member of their owners.",
		metricConnected: "1 if the admin connection answered at the last heartbeat.",
	} {
		m.gauges[name] = f.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, label)
	}
	for name, help := range map[string]string{
		metricProvision: "Time to make an ephemeral role.",
		metricSettle:    "Time of one try at settling a role.",
	} {
		m.histograms[name] = f.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, label)
	}
	return m
}

// of returns an integration's, which are shown from now on.
func (m *Metrics) of(integration string) *metrics {
	counter := func(name string) prometheus.Counter { return m.counters[name].WithLabelValues(integration) }
	gauge := func(name string) prometheus.Gauge { return m.gauges[name].WithLabelValues(integration) }
	histogram := func(name string) prometheus.Histogram {
		return m.histograms[name].WithLabelValues(integration).(prometheus.Histogram) // as all histograms are
	}
	return &metrics{
		made: counter(metricMade), foreign: counter(metricForeign),
		live: gauge(metricLive), connected: gauge(metricConnected), leftOut: gauge(metricLeftOut), provision: histogram(metricProvision),
		settle: settle.Metrics{
			Settled: counter(metricSettled), Failed: counter(metricFailed), Tombstones: counter(metricTombstones),
			Bugs: counter(metricBugs), Took: histogram(metricSettle),
		},
	}
}

// Forget takes away what is shown of an integration that is gone, once its last keeper is closed.
func (m *Metrics) Forget(integration string) {
	for _, v := range m.counters {
		v.DeleteLabelValues(integration)
	}
	for _, v := range m.gauges {
		v.DeleteLabelValues(integration)
	}
	for _, v := range m.histograms {
		v.DeleteLabelValues(integration)
	}
}

func (m *metrics) provisioned(d time.Duration) {
	m.made.Inc()
	m.provision.Observe(d.Seconds())
}

func (m *metrics) reachable(yes bool) {
	m.connected.Set(0)
	if yes {
		m.connected.Set(1)
	}
}
