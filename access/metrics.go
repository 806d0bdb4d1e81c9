package access

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/hourgate/hourgate/policy"
)

// metrics of a service. Flows are named in the policy, so they are a closed set.
type metrics struct {
	requests    *prometheus.CounterVec
	decision    prometheus.Histogram
	pending     prometheus.Gauge
	active      *prometheus.GaugeVec
	breakGlass  *prometheus.CounterVec
	locks       prometheus.Gauge
	up          prometheus.Gauge
	skew        prometheus.Gauge
	restored    prometheus.Counter
	trailErrors prometheus.Counter
}

func newMetrics(registry prometheus.Registerer) *metrics {
	f := promauto.With(registry)
	return &metrics{
		requests: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hourgate_request_changes_total", Help: "Changes of requests made by this gate, such as request_filed, request_approved and request_lapsed.",
		}, []string{"flow", "event"}),
		decision: f.NewHistogram(prometheus.HistogramOpts{
			Name: "hourgate_request_decision_seconds", Help: "Time from a request to its approval or denial by people.",
			Buckets: []float64{10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 28800, 86400},
		}),
		pending: f.NewGauge(prometheus.GaugeOpts{Name: "hourgate_requests_pending", Help: "Requests that wait for a decision."}),
		active: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "hourgate_requests_active", Help: "Requests that are access now.",
		}, []string{"flow"}),
		breakGlass: f.NewCounterVec(prometheus.CounterOpts{
			Name: "hourgate_break_glass_total", Help: "Uses of break-glass that this gate granted.",
		}, []string{"flow"}),
		locks: f.NewGauge(prometheus.GaugeOpts{Name: "hourgate_locks", Help: "Locks that are in force."}),
		up: f.NewGauge(prometheus.GaugeOpts{
			Name: "hourgate_state_up", Help: "1 while the state of requests can be reached, 0 while grants from requests take no new sessions.",
		}),
		skew: f.NewGauge(prometheus.GaugeOpts{
			Name: "hourgate_state_clock_skew_seconds", Help: "How far the clock of the state is ahead of this machine's.",
		}),
		restored: f.NewCounter(prometheus.CounterOpts{
			Name: "hourgate_state_restored_total", Help: "Times that the state was found to be older than what this gate had seen, and all requests were ended.",
		}),
		trailErrors: f.NewCounter(prometheus.CounterOpts{
			Name: "hourgate_request_trail_errors_total", Help: "Records about requests and locks that the trail could not take.",
		}),
	}
}

// expect shows the counters of all flows from before their first request, so that this one is an increase.
func (m *metrics) expect(set *policy.Set) {
	if set == nil {
		return
	}
	for _, flow := range set.FlowNames() {
		for _, kind := range kinds {
			m.requests.WithLabelValues(flow, string(kind))
		}
		if set.Flow(flow).BreakGlass != nil {
			m.breakGlass.WithLabelValues(flow)
		}
	}
}

// count counts a change that was made.
func (s *Service) count(e event, r *Request) {
	s.metrics.requests.WithLabelValues(r.Flow, string(e.kind)).Inc()
	switch {
	case e.kind == requestApproved && r.BreakGlass:
		s.metrics.breakGlass.WithLabelValues(r.Flow).Inc()
	case (e.kind == requestApproved || e.kind == requestDenied) && e.rule == "":
		s.metrics.decision.Observe(s.now().Sub(r.Asked).Seconds())
	}
}
