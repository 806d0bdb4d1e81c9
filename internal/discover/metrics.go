package discover

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics have the labels of places, which the configuration bounds, and no names of servers.
type metrics struct {
	integrations *prometheus.GaugeVec
	up, answered *prometheus.GaugeVec
	failures     *prometheus.CounterVec
	duration     prometheus.Histogram
}

func newMetrics(registry prometheus.Registerer) *metrics {
	f := promauto.With(registry)
	place := []string{"source", "account", "region", "kind"}
	return &metrics{
		integrations: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "hourgate_discovery_integrations", Help: "Servers that were found, by whether something is known against using them.",
		}, []string{"state"}),
		up: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "hourgate_discovery_up", Help: "1 if the place answered when it was last asked for its servers, 0 if not; then its last answer stays.",
		}, place),
		answered: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "hourgate_discovery_last_success_timestamp_seconds", Help: "When the place last answered.",
		}, place),
		failures: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hourgate_discovery_failures_total", Help: "Questions that the place did not answer, after all repetitions.",
		}, place),
		duration: f.NewHistogram(prometheus.HistogramOpts{
			Name: "hourgate_discovery_duration_seconds", Help: "How long one region or file took to answer.", Buckets: prometheus.ExponentialBuckets(0.01, 4, 8),
		}),
	}
}

func (m *metrics) asked(status []Status, took time.Duration) {
	m.duration.Observe(took.Seconds())
	for _, s := range status {
		place := []string{s.Place.Source, s.Place.Account, s.Place.Region, string(s.Place.Kind)}
		m.failures.WithLabelValues(place...) // it begins at zero
		up := 1.0
		if s.Err != nil {
			up = 0
			m.failures.WithLabelValues(place...).Inc()
		}
		m.up.WithLabelValues(place...).Set(up)
		if !s.Asked.IsZero() {
			m.answered.WithLabelValues(place...).Set(float64(s.Asked.Unix()))
		}
	}
}

func (m *metrics) found(all []Integration) {
	ready := 0
	for _, i := range all {
		if i.NotReady == "" {
			ready++
		}
	}
	m.integrations.WithLabelValues("usable").Set(float64(ready))
	m.integrations.WithLabelValues("not_ready").Set(float64(len(all) - ready))
}
