package reader

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	queries *prometheus.CounterVec
	seconds *prometheus.HistogramVec
	holes   prometheus.Counter
	retries prometheus.Counter
	partial prometheus.Counter

	peerBlocks *prometheus.CounterVec

	tenants *tenantMetrics
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	return &metrics{
		queries: f.NewCounterVec(prometheus.CounterOpts{Name: "sluice_reader_queries_total", Help: "Requests to the query API, by HTTP status."}, []string{"code"}),
		seconds: f.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sluice_reader_query_duration_seconds", Help: "Time to answer a request to the query API, by endpoint.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 9),
		}, []string{"endpoint"}),
		holes:   f.NewCounter(prometheus.CounterOpts{Name: "sluice_reader_holes_total", Help: "Times that a consumer no longer held what was asked of it."}),
		retries: f.NewCounter(prometheus.CounterOpts{Name: "sluice_reader_retries_total", Help: "Times that a question was put again."}),
		partial: f.NewCounter(prometheus.CounterOpts{Name: "sluice_reader_partial_answers_total", Help: "Answers with a part missing, given because the caller allowed it."}),

		peerBlocks: f.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_reader_peer_blocks_total",
			Help: "Blocks that were asked of the reader that owns them: answered, or failed and read here instead.",
		}, []string{"result"}),

		tenants: newTenantMetrics(reg),
	}
}
