package ha

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	clusters    prometheus.Gauge
	claims      prometheus.Counter
	failovers   prometheus.Counter
	invalid     prometheus.Counter
	bytes       prometheus.Counter
	undecodable prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	counter := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	return &metrics{
		clusters: f.NewGauge(prometheus.GaugeOpts{
			Name: "sluice_ha_clusters", Help: "Clusters of all tenants with an elected replica."}),
		claims:    counter("sluice_ha_claims_total", "Claims of elections that this process has written."),
		failovers: counter("sluice_ha_failovers_total", "Times that a cluster got another replica, as seen by this process since it began to follow."),
		invalid: counter("sluice_ha_invalid_claims_total",
			"Claims that did not count because they came to the log too late or before the time-out was over. A few are normal."),
		bytes: counter("sluice_ha_written_bytes_total", "Bytes of keys and values that this process has written to the control topic about HA replicas."),
		undecodable: counter("sluice_ha_undecodable_total",
			"Records in the control topic that could not be read and were skipped. Always 0 in a healthy cluster."),
	}
}
