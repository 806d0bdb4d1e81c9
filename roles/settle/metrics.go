package settle

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are those of one settler.
type Metrics struct {
	Settled    prometheus.Counter  // roles removed and verified to be gone
	Failed     prometheus.Counter  // tries that failed and will be made again
	Tombstones prometheus.Counter  // tries that ended with the role disabled but held by others
	Bugs       prometheus.Counter  // statements that the server could not understand
	Took       prometheus.Observer // seconds of one try
}

func (m Metrics) settled(err error, d time.Duration) {
	m.Took.Observe(d.Seconds())
	var tombstone *TombstoneError
	switch {
	case err == nil:
		m.Settled.Inc()
	case errors.As(err, &tombstone):
		m.Tombstones.Inc()
	default:
		m.Failed.Inc()
	}
}
