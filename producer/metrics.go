package producer

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"sluice/schema"
)

type metrics struct {
	requests     *prometheus.CounterVec
	seconds      prometheus.Histogram
	samples      prometheus.Counter
	histograms   prometheus.Counter
	exemplars    prometheus.Counter
	rejected     *prometheus.CounterVec
	dropped      *prometheus.CounterVec
	records      prometheus.Counter
	recordBytes  prometheus.Counter
	tickFailures prometheus.Counter
	partitions   prometheus.Gauge
	deduplicated *prometheus.CounterVec

	mu      sync.Mutex // guards tenants
	tenants map[schema.Tenant]bool
}

// maxRejectedTenants bounds the tenants that have their own label value: anybody can invent tenants.
const maxRejectedTenants = 1000

// otherTenants is the label of those above maxRejectedTenants; no tenant's name starts with two underscores.
const otherTenants = "__other__"

// newMetrics registers the metrics; inflight returns the bytes reserved at this moment.
func newMetrics(reg prometheus.Registerer, inflight func() float64) *metrics {
	f := promauto.With(reg)
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sluice_producer_inflight_bytes",
		Help: "Memory that requests under way have reserved.",
	}, inflight)
	counter := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	return &metrics{
		tenants: map[schema.Tenant]bool{},
		requests: f.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_producer_requests_total",
			Help: "Write requests by status code and by version of the remote-write protocol (empty: refused before that was known).",
		}, []string{"code", "version"}),
		seconds: f.NewHistogram(prometheus.HistogramOpts{
			Name:    "sluice_producer_request_seconds",
			Help:    "Time of a write request from its headers to its answer.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2.5, 12),
		}),
		samples:    counter("sluice_producer_samples_total", "Float samples that the log has acknowledged."),
		histograms: counter("sluice_producer_histograms_total", "Native histogram samples that the log has acknowledged."),
		exemplars:  counter("sluice_producer_exemplars_total", "Exemplars that the log has acknowledged."),
		rejected: f.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_producer_rejected_total",
			Help: "Samples, histograms, exemplars and metadata entries that were refused, by error ID; a request that was not looked into counts as one.",
		}, []string{"tenant", "reason"}),
		dropped: f.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_producer_relabel_dropped_total",
			Help: "Samples and histograms of series that the tenant's metric_relabel_configs drop.",
		}, []string{"tenant"}),
		records:      counter("sluice_producer_records_total", "Records of samples that the log has acknowledged."),
		recordBytes:  counter("sluice_producer_record_bytes_total", "Bytes in the values of these records."),
		tickFailures: counter("sluice_producer_tick_failures_total", "Rounds of ticks that the log did not acknowledge."),
		deduplicated: f.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_producer_ha_deduplicated_samples_total",
			Help: "Samples and histograms that were not written because another replica of their HA cluster is elected.",
		}, []string{"tenant"}),
		partitions: f.NewGauge(prometheus.GaugeOpts{
			Name: "sluice_producer_partitions",
			Help: "Partitions of the samples topic that series are spread over.",
		}),
	}
}

func (m *metrics) reject(tenant schema.Tenant, reason schema.ErrorID, n int) {
	m.rejected.WithLabelValues(m.label(tenant), string(reason)).Add(float64(n))
}

func (m *metrics) deduplicate(tenant schema.Tenant, n int) {
	m.deduplicated.WithLabelValues(m.label(tenant)).Add(float64(n))
}

func (m *metrics) drop(tenant schema.Tenant, n int) {
	m.dropped.WithLabelValues(m.label(tenant)).Add(float64(n))
}

// label is the tenant's label value.
func (m *metrics) label(tenant schema.Tenant) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	known := m.tenants[tenant]
	if !known && len(m.tenants) < maxRejectedTenants {
		m.tenants[tenant], known = true, true
	}
	if !known {
		return otherTenants
	}
	return string(tenant)
}
