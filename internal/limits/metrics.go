package limits

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	failures    prometheus.Counter
	lastSuccess prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	return &metrics{
		failures: f.NewCounter(prometheus.CounterOpts{
			Name: "sluice_limits_reload_failures_total",
			Help: "Readings of the limits file that failed; the limits before stay in force.",
		}),
		lastSuccess: f.NewGauge(prometheus.GaugeOpts{
			Name: "sluice_limits_last_reload_success_timestamp_seconds",
			Help: "When the limits file was last found to be good, in seconds since the epoch.",
		}),
	}
}

func (m *metrics) success(now time.Time) { m.lastSuccess.Set(float64(now.UnixMilli()) / 1000) }
