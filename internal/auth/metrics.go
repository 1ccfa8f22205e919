package auth

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// What became of the credentials of a request, as label values.
const (
	resultKnown   = "known"
	resultRefused = "refused"
	resultBusy    = "busy"
)

type metrics struct {
	requests    *prometheus.CounterVec
	failures    *prometheus.CounterVec
	lastSuccess *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	m := &metrics{
		requests: f.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_auth_requests_total",
			Help: "Requests whose credentials were looked at: known, refused (401), or busy (503, too many passwords to check at once).",
		}, []string{"result"}),
		failures: f.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_auth_reload_failures_total",
			Help: "Readings of the users file or of the secret file that failed; what they said before stays in force.",
		}, []string{"path"}),
		lastSuccess: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "sluice_auth_last_reload_success_timestamp_seconds",
			Help: "When the file was last found to be good, in seconds since the epoch.",
		}, []string{"path"}),
	}
	for _, r := range []string{resultKnown, resultRefused, resultBusy} {
		m.requests.WithLabelValues(r)
	}
	return m
}

func (m *metrics) success(path string) {
	m.failures.WithLabelValues(path)
	m.lastSuccess.WithLabelValues(path).Set(float64(time.Now().UnixMilli()) / 1000)
}
