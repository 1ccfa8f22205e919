package lease

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	held        prometheus.Gauge
	won         prometheus.Counter
	raced       prometheus.Counter
	lost        prometheus.Counter
	undecodable prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	claims := f.NewCounterVec(prometheus.CounterOpts{
		Name: "sluice_lease_claims_total", Help: "Claims of leases by result: won, raced (somebody else's claim stood before it in the log)."}, []string{"result"})
	return &metrics{
		won:   claims.WithLabelValues("won"),
		raced: claims.WithLabelValues("raced"),
		held: f.NewGauge(prometheus.GaugeOpts{
			Name: "sluice_lease_held_leases", Help: "Leases that this process holds at the moment."}),
		lost: f.NewCounter(prometheus.CounterOpts{
			Name: "sluice_lease_lost_total", Help: "Leases that could not be renewed in time: the log was away, or this process stood still."}),
		undecodable: f.NewCounter(prometheus.CounterOpts{
			Name: "sluice_lease_undecodable_total", Help: "Claims in the control topic that could not be read and were skipped. Always 0 in a healthy cluster."}),
	}
}
