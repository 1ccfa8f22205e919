package store

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	hits, misses    prometheus.Counter
	bytes, requests *prometheus.CounterVec
	open, openBytes prometheus.Gauge
	headers         *prometheus.CounterVec
	answers         *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	m := &metrics{
		hits:      f.NewCounter(prometheus.CounterOpts{Name: "sluice_store_cache_hits_total", Help: "Pages found in memory."}),
		misses:    f.NewCounter(prometheus.CounterOpts{Name: "sluice_store_cache_misses_total", Help: "Pages not found in memory."}),
		bytes:     f.NewCounterVec(prometheus.CounterOpts{Name: "sluice_store_fetched_bytes_total", Help: "Bytes read from the bucket, by what for."}, []string{"reason"}),
		requests:  f.NewCounterVec(prometheus.CounterOpts{Name: "sluice_store_requests_total", Help: "GETs sent to the bucket, by result and by what for."}, []string{"result", "reason"}),
		answers:   f.NewCounterVec(prometheus.CounterOpts{Name: "sluice_store_answers_total", Help: "Questions to blocks for label names, label values or series that may be none: hit (remembered from before), miss."}, []string{"result"}),
		open:      f.NewGauge(prometheus.GaugeOpts{Name: "sluice_store_open_blocks", Help: "Blocks whose index header is in memory."}),
		openBytes: f.NewGauge(prometheus.GaugeOpts{Name: "sluice_store_open_bytes", Help: "Memory of the index headers of open blocks."}),
		headers:   f.NewCounterVec(prometheus.CounterOpts{Name: "sluice_store_headers_total", Help: "Blocks opened, by where the index header came from: bucket, disk, built (the block has none), broken (built, as the one in the bucket cannot be used)."}, []string{"from"}),
	}
	for _, why := range reasons { // there from the start, with 0
		m.bytes.WithLabelValues(string(why))
		m.requests.WithLabelValues("ok", string(why))
		m.requests.WithLabelValues("error", string(why))
	}
	return m
}
