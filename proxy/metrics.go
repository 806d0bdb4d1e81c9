package proxy

import (
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/hourgate/hourgate/policy"
)

// metrics of one server. Labels come from closed sets and from configuration, never from what clients send.
type metrics struct {
	sessions          *prometheus.GaugeVec
	ended             *prometheus.CounterVec
	refused           *prometheus.CounterVec
	phases            *prometheus.HistogramVec
	upstreams         *prometheus.CounterVec
	cancels           *prometheus.CounterVec
	trailErrors       prometheus.Counter
	panics            prometheus.Counter
	certificateExpiry prometheus.Gauge

	served sync.Map // integrations whose counters have begun
}

// newMetrics registers the metrics. relayed is asked at each scrape for the bytes from clients and from upstream: each
// session counts its own, so that no two share a counter that every burst has to write.
func newMetrics(registry prometheus.Registerer, relayed func() (fromClient, fromUpstream int64)) *metrics {
	f := promauto.With(registry)
	bytes := func(from string, count func() int64) {
		f.NewCounterFunc(prometheus.CounterOpts{
			Name: "hourgate_relayed_bytes_total", Help: "Bytes relayed, by the side that they came from.",
			ConstLabels: prometheus.Labels{"from": from},
		}, func() float64 { return float64(count()) })
	}
	bytes("client", func() int64 { n, _ := relayed(); return n })
	bytes("upstream", func() int64 { _, n := relayed(); return n })
	m := &metrics{
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
			Name: "hourgate_connect_duration_seconds", Help: "Time that a client waited for each phase of setting up a session, one after the other.",
			Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30},
		}, []string{"phase"}),
		upstreams: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hourgate_upstream_connections_total",
			Help: "Connections to servers for sessions, by what protects them: verified TLS, TLS of which only the chain was verified, unverified TLS, none.",
		}, []string{"integration", "tls"}),
		cancels: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hourgate_cancel_requests_total", Help: "CancelRequests: forwarded, failed, for an unknown key, or throttled after many of those.",
		}, []string{"result"}),
		trailErrors: f.NewCounter(prometheus.CounterOpts{
			Name: "hourgate_trail_errors_total", Help: "Records about sessions that the trail could not take.",
		}),
		panics: f.NewCounter(prometheus.CounterOpts{
			Name: "hourgate_session_panics_total", Help: "Sessions that were ended by a defect of the gate. The log has the stack.",
		}),
		certificateExpiry: f.NewGauge(prometheus.GaugeOpts{
			Name: "hourgate_tls_certificate_expiry_timestamp_seconds", Help: "When the certificate that clients are shown expires.",
		}),
	}
	// A counter that begins with its first event hides that one from increase().
	for _, reason := range slices.Concat(refusalReasons, endReasons) {
		m.refused.WithLabelValues(reason)
	}
	for _, result := range []string{"forwarded", "failed", "unknown", "throttled"} {
		m.cancels.WithLabelValues(result)
	}
	return m
}

// serve makes the counters of an integration's sessions begin at zero.
func (m *metrics) serve(integration string) {
	if _, known := m.served.LoadOrStore(integration, true); known {
		return
	}
	for _, reason := range endReasons {
		m.ended.WithLabelValues(integration, reason)
	}
	for _, encryption := range []string{"none", "unverified", "chain", "verified"} {
		m.upstreams.WithLabelValues(integration, encryption)
	}
}

// The closed sets of reasons: refusalReasons are for connections that do not become sessions only, and endReasons for
// sessions as well.
var (
	refusalReasons = []string{
		"plaintext", "replication", "protocol", "authentication", "parameter", "timeout", "session_limit", "gate_full", "server_full", "unreachable",
		"provision", "console", string(policy.NoGrant), string(policy.Expired), string(policy.NotYet), string(policy.Ambiguous),
		string(policy.NoDatabase), string(RequestPending), string(RequestDenied), string(RequestInvalid),
		string(policy.Unconfirmed), "not_served", "not_ready", "reader_lags", "standby",
	}
	endReasons = []string{
		"disconnect", "grant_expired", "grant_revoked", "shutdown", "ended_by_operator", "ended_by_user", "locked", "identity_changed",
		"upstream_error", "upstream_closed", "upstream_vanished", "client_vanished", "trail", "internal", "panic",
	}
)

// observe records one phase of a session's set-up and returns the time for the next.
func (m *metrics) observe(phase string, started time.Time) time.Time {
	now := time.Now()
	m.phases.WithLabelValues(phase).Observe(now.Sub(started).Seconds())
	return now
}
