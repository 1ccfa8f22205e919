package front

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	parts  *prometheus.CounterVec
	stored prometheus.Counter
}

// newMetrics registers the metrics; bytes returns the size of the cache.
func newMetrics(reg prometheus.Registerer, bytes func() float64) *metrics {
	f := promauto.With(reg)
	f.NewGaugeFunc(prometheus.GaugeOpts{Name: "sluice_reader_results_cache_bytes", Help: "Size of the results cache."}, bytes)
	return &metrics{
		parts: f.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_reader_query_parts_total",
			Help: "Parts of range queries: worked out, or taken from the results cache.",
		}, []string{"result"}),
		stored: f.NewCounter(prometheus.CounterOpts{Name: "sluice_reader_results_cache_stored_total", Help: "Parts put into the results cache."}),
	}
}
