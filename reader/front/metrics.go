package front

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	parts  *prometheus.CounterVec
	bytes  prometheus.Gauge
	stored prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	return &metrics{
		parts: f.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_reader_query_parts_total",
			Help: "Parts of range queries: worked out, or taken from the results cache.",
		}, []string{"result"}),
		bytes:  f.NewGauge(prometheus.GaugeOpts{Name: "sluice_reader_results_cache_bytes", Help: "Size of the results cache."}),
		stored: f.NewCounter(prometheus.CounterOpts{Name: "sluice_reader_results_cache_stored_total", Help: "Parts put into the results cache."}),
	}
}
