package store

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	hits, misses, bytes prometheus.Counter
	requests            *prometheus.CounterVec
	open                prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	return &metrics{
		hits:     f.NewCounter(prometheus.CounterOpts{Name: "sluice_store_cache_hits_total", Help: "Pages found in memory."}),
		misses:   f.NewCounter(prometheus.CounterOpts{Name: "sluice_store_cache_misses_total", Help: "Pages not found in memory."}),
		bytes:    f.NewCounter(prometheus.CounterOpts{Name: "sluice_store_fetched_bytes_total", Help: "Bytes read from the bucket."}),
		requests: f.NewCounterVec(prometheus.CounterOpts{Name: "sluice_store_requests_total", Help: "GETs sent to the bucket, by result."}, []string{"result"}),
		open:     f.NewGauge(prometheus.GaugeOpts{Name: "sluice_store_open_blocks", Help: "Blocks whose index tables are in memory."}),
	}
}
