package audit

import "github.com/prometheus/client_golang/prometheus"

// Register shows in r how the trail is doing.
func (t *Trail) Register(r prometheus.Registerer) {
	gauge := func(name, help string, value func(Status) float64) {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return value(t.Status()) }))
	}
	gauge("hourgate_trail_failing", "1 if the last try to write the trail failed.", func(s Status) float64 {
		if s.Failing {
			return 1
		}
		return 0
	})
	gauge("hourgate_trail_stalled_seconds", "How long the trail's disk has not answered; 0 when it does.", func(s Status) float64 { return s.Stalled.Seconds() })
	gauge("hourgate_trail_queued_records", "Records of what has happened that wait in memory for the trail's disk.", func(s Status) float64 { return float64(s.Queued) })
	gauge("hourgate_trail_spool_bytes", "Bytes of statements that wait in the spool for the trail's disk.", func(s Status) float64 { return float64(s.Spooled) })
	r.MustRegister(prometheus.NewCounterFunc(
		prometheus.CounterOpts{Name: "hourgate_trail_write_errors_total", Help: "Tries to write the trail that failed."},
		func() float64 { return float64(t.Status().Errors) },
	))
}
