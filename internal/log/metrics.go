package log

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics are those of either implementation; what one does not have stays at 0.
type metrics struct {
	appendBytes   *prometheus.CounterVec
	appendRecords *prometheus.CounterVec
	appendErrors  *prometheus.CounterVec
	appendSeconds prometheus.Histogram
	fsyncSeconds  prometheus.Histogram
	bytes         *prometheus.GaugeVec
	start, end    *prometheus.GaugeVec
	corruptions   prometheus.Counter
	overloads     prometheus.Counter
	queued        prometheus.Gauge
	readRetries   prometheus.Counter
	compactions   prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	return &metrics{
		appendBytes: f.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_log_append_bytes_total",
			Help: "Bytes of keys, values and headers that were appended and acknowledged, before compression.",
		}, []string{"topic"}),
		appendRecords: f.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_log_append_records_total",
			Help: "Records that were appended and acknowledged.",
		}, []string{"topic"}),
		appendErrors: f.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_log_append_errors_total",
			Help: "Appends that failed; some of their records may be in the log all the same. Overloads are not among them.",
		}, []string{"topic"}),
		appendSeconds: f.NewHistogram(prometheus.HistogramOpts{
			Name:    "sluice_log_append_seconds",
			Help:    "Time from an append to its acknowledgement.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15),
		}),
		fsyncSeconds: f.NewHistogram(prometheus.HistogramOpts{
			Name:    "sluice_log_fsync_seconds",
			Help:    "Time of one sync of a partition's segment (embedded log only).",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 16),
		}),
		bytes: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "sluice_log_bytes",
			Help: "Bytes of a topic on disk (embedded log only).",
		}, []string{"topic"}),
		start: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "sluice_log_start_offset",
			Help: "First offset that a partition of samples still holds (embedded log only).",
		}, []string{"partition"}),
		end: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "sluice_log_end_offset",
			Help: "Offset that the next record of a partition of samples will get (embedded log only).",
		}, []string{"partition"}),
		corruptions: f.NewCounter(prometheus.CounterOpts{
			Name: "sluice_log_corruptions_total",
			Help: "Damaged places that were met and skipped, or cut off a torn tail (embedded log only).",
		}),
		overloads: f.NewCounter(prometheus.CounterOpts{
			Name: "sluice_log_overloads_total",
			Help: "Appends that were refused because the buffer of records not yet durable was full.",
		}),
		queued: f.NewGauge(prometheus.GaugeOpts{
			Name: "sluice_log_queued_bytes",
			Help: "Bytes of records that wait to become durable.",
		}),
		readRetries: f.NewCounter(prometheus.CounterOpts{
			Name: "sluice_log_read_retries_total",
			Help: "Errors of the broker that a reader has waited out (Kafka only).",
		}),
		compactions: f.NewCounter(prometheus.CounterOpts{
			Name: "sluice_log_compactions_total",
			Help: "Rewrites of a compacted topic (embedded log only).",
		}),
	}
}
