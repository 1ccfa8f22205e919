package compactor

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Results of a job.
const (
	resultDone    = "done"
	resultStale   = "stale"   // an input was replaced or deleted in the meantime: nothing was lost, nothing was done
	resultFailed  = "failed"  // tried again later
	resultSkipped = "skipped" // the catalogue knows the output already
	resultLeased  = "leased"  // another compactor is at it
	resultLost    = "lost"    // the lease was lost on the way
	resultTidied  = "tidied"  // of a shard
)

// What reconciling found and mended, or could only tell.
const (
	foundAdopted       = "adopted"        // a whole block that the catalogue did not know
	foundPartial       = "partial"        // an upload that was never finished, deleted
	foundLeftover      = "leftover"       // a block whose samples are in other blocks, deleted
	foundForeignTenant = "foreign_tenant" // meta.json names another tenant than the folder, left alone
	foundUnverified    = "unverified"     // files differ from meta.json, left alone
	foundMarked        = "marked"         // an unknown block with a deletion mark, left to whoever marked it
)

type metrics struct {
	jobs        *prometheus.CounterVec
	shards      *prometheus.CounterVec
	seconds     prometheus.Histogram
	backlog     prometheus.Gauge
	tooLarge    prometheus.Gauge
	bytesIn     prometheus.Counter
	bytesOut    prometheus.Counter
	quarantined prometheus.Gauge
	corrections *prometheus.CounterVec
	missing     prometheus.Gauge
	deleted     *prometheus.CounterVec
	filesGone   prometheus.Counter
	forgotten   prometheus.Counter
	passes      *prometheus.CounterVec
	lastPass    prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	m := &metrics{
		jobs: f.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_compactor_jobs_total", Help: "Merges by result: done, stale (an input had gone), skipped (done before), leased (another compactor is at it), lost (the lease was, on the way), failed (tried again later)."}, []string{"result"}),
		shards: f.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_compactor_shards_total", Help: "Shards of tenants that were due for tidying by result: tidied, leased (another compactor is at it), lost (the lease was, on the way), failed (some part of it; the log says which)."}, []string{"result"}),
		seconds: f.NewHistogram(prometheus.HistogramOpts{
			Name: "sluice_compactor_job_duration_seconds", Help: "Duration of a merge from the first download to the new entry in the catalogue.",
			Buckets: prometheus.ExponentialBuckets(0.1, 3, 11)}),
		backlog: f.NewGauge(prometheus.GaugeOpts{
			Name: "sluice_compactor_backlog_jobs", Help: "Merges that are due and not done, by whichever compactor. Growing means that the compactors do not keep up."}),
		tooLarge: f.NewGauge(prometheus.GaugeOpts{
			Name: "sluice_compactor_too_large_windows", Help: "Windows with overlapping blocks that are not merged because they exceed the bounds of one job."}),
		bytesIn: f.NewCounter(prometheus.CounterOpts{
			Name: "sluice_compactor_input_bytes_total", Help: "Bytes of the blocks downloaded for merging."}),
		bytesOut: f.NewCounter(prometheus.CounterOpts{
			Name: "sluice_compactor_output_bytes_total", Help: "Bytes of the blocks uploaded after merging."}),
		quarantined: f.NewGauge(prometheus.GaugeOpts{
			Name: "sluice_compactor_quarantined_blocks", Help: "Blocks that some compactor could not read for merging. They stay where they are and are tried again a day later; the log says which and why. Always 0 in a healthy cluster."}),
		corrections: f.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_compactor_reconcile_corrections_total", Help: "Differences between bucket and catalogue by what was found."}, []string{"found"}),
		missing: f.NewGauge(prometheus.GaugeOpts{
			Name: "sluice_compactor_missing_blocks", Help: "Blocks that the catalogue has live and the bucket has not, at the last listing by whichever compactor. Queries over them fail. Always 0 in a healthy cluster."}),
		deleted: f.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_compactor_deleted_blocks_total", Help: "Blocks taken out of the catalogue by reason: replaced, retention."}, []string{"reason"}),
		filesGone: f.NewCounter(prometheus.CounterOpts{
			Name: "sluice_compactor_removed_blocks_total", Help: "Deleted blocks whose files were removed from the bucket."}),
		forgotten: f.NewCounter(prometheus.CounterOpts{
			Name: "sluice_compactor_forgotten_tombstones_total", Help: "Tombstones that were old enough to be forgotten."}),
		passes: f.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_compactor_passes_total", Help: "Passes over all tenants by result: ok, failed (some part of it; the log says which)."}, []string{"result"}),
		lastPass: f.NewGauge(prometheus.GaugeOpts{
			Name: "sluice_compactor_last_pass_timestamp_seconds", Help: "Time of the last pass that went through without an error."}),
	}
	for _, r := range []string{resultDone, resultStale, resultFailed, resultSkipped, resultLeased, resultLost} {
		m.jobs.WithLabelValues(r)
	}
	for _, r := range []string{resultTidied, resultLeased, resultLost, resultFailed} {
		m.shards.WithLabelValues(r)
	}
	for _, r := range []string{foundAdopted, foundPartial, foundLeftover, foundForeignTenant, foundUnverified, foundMarked} {
		m.corrections.WithLabelValues(r)
	}
	for _, r := range []string{reasonReplaced, reasonRetention} {
		m.deleted.WithLabelValues(r)
	}
	return m
}
