package proxy

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics of one server. Labels come from closed sets and from configuration, never from what clients send.
type metrics struct {
	sessions                           *prometheus.GaugeVec
	ended                              *prometheus.CounterVec
	refused                            *prometheus.CounterVec
	phases                             *prometheus.HistogramVec
	upstreams                          *prometheus.CounterVec
	cancels                            *prometheus.CounterVec
	bytesFromClient, bytesFromUpstream prometheus.Counter
	trailErrors                        prometheus.Counter
	certificateExpiry                  prometheus.Gauge
}

func newMetrics(registry prometheus.Registerer) *metrics {
	f := promauto.With(registry)
	bytes := f.NewCounterVec(prometheus.CounterOpts{
		Name: "hourgate_relayed_bytes_total", Help: "Bytes relayed, by the side that they came from.",
	}, []string{"from"})
	return &metrics{
		sessions: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "hourgate_sessions", Help: "Sessions that are being relayed.",
		}, []string{"integration"}),
		ended: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hourgate_sessions_ended_total", Help: "Sessions that were relayed, by the reason for their end.",
		}, []string{"integration", "reason"}),
		refused: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hourgate_connections_refused_total", Help: "Connections that did not become sessions, by reason.",
		}, []string{"reason"}),
		phases: f.NewHistogramVec(prometheus.HistogramOpts{
			Name: "hourgate_connect_duration_seconds", Help: "Time that a client waited for each phase of setting up a session.",
			Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30},
		}, []string{"phase"}),
		upstreams: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hourgate_upstream_connections_total",
			Help: "Connections to servers for sessions, by what protects them: verified TLS, TLS of which only the chain was verified, unverified TLS, none.",
		}, []string{"integration", "tls"}),
		cancels: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hourgate_cancel_requests_total", Help: "CancelRequests: forwarded, failed, for an unknown key, or throttled after many of those.",
		}, []string{"result"}),
		bytesFromClient:   bytes.WithLabelValues("client"),
		bytesFromUpstream: bytes.WithLabelValues("upstream"),
		trailErrors: f.NewCounter(prometheus.CounterOpts{
			Name: "hourgate_trail_errors_total", Help: "Records about sessions that the trail could not take.",
		}),
		certificateExpiry: f.NewGauge(prometheus.GaugeOpts{
			Name: "hourgate_tls_certificate_expiry_timestamp_seconds", Help: "When the certificate that clients are shown expires.",
		}),
	}
}

// observe records one phase of a session's set-up and returns the time for the next.
func (m *metrics) observe(phase string, started time.Time) time.Time {
	now := time.Now()
	m.phases.WithLabelValues(phase).Observe(now.Sub(started).Seconds())
	return now
}
