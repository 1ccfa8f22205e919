package consumer

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics of all partitions; a partition has its own view of them.
type metrics struct {
	samples, histograms, late, duplicates, unapplied   *prometheus.CounterVec
	unresolved, capped                                 *prometheus.CounterVec
	bytes, deadLetters, deadLettersLost                *prometheus.CounterVec
	missedOffsets, offsetsBack, resets, failures, cuts *prometheus.CounterVec
	sealedBlocks, shippedBlocks, shipFailures          *prometheus.CounterVec
	divergentBlocks                                    *prometheus.CounterVec
	appliedOffset, appliedTime, committedOffset        *prometheus.GaugeVec
	replayed, coverageGap, lostOffsets, lagRecords     *prometheus.GaugeVec
	lagSeconds                                         *prometheus.GaugeVec
	shippedBytes                                       *prometheus.CounterVec
	sealSeconds                                        prometheus.Histogram
	activeSeries, headSeries                           *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	counter := func(name, help string, more ...string) *prometheus.CounterVec {
		return f.NewCounterVec(prometheus.CounterOpts{Name: "sluice_consumer_" + name, Help: help}, append([]string{"partition"}, more...))
	}
	gauge := func(name, help string) *prometheus.GaugeVec {
		return f.NewGaugeVec(prometheus.GaugeOpts{Name: "sluice_consumer_" + name, Help: help}, []string{"partition"})
	}
	return &metrics{
		samples:         counter("samples_total", "Float samples taken into heads."),
		histograms:      counter("histograms_total", "Native histogram samples taken into heads."),
		late:            counter("late_samples_total", "Samples older than another one of their series in the generation; kept."),
		duplicates:      counter("duplicate_samples_total", "Samples left out because their series has a value for that time: the first in log order stays. Late ones are counted when the generation is sealed."),
		unapplied:       counter("unapplied_samples_total", "Samples that a head refused; their record is in the dead-letter topic. Should be 0."),
		unresolved:      counter("unresolved_refs_total", "Samples of series that no record before them has defined; their record is in the dead-letter topic. Always 0."),
		capped:          counter("capped_samples_total", "Samples of new series of a tenant that is at its safety cap, twice its max_global_series_per_user: not applied. Should be 0, as producers refuse them long before."),
		bytes:           counter("record_bytes_total", "Bytes of record values applied."),
		deadLetters:     counter("dead_letters_total", "Records copied to the dead-letter topic. Should be 0."),
		deadLettersLost: counter("dead_letters_lost_total", "Records that could not even be copied to the dead-letter topic."),
		missedOffsets:   counter("missed_offsets_total", "Offsets that the log no longer had when they were due: lost samples. Always 0 on a sound system."),
		offsetsBack:     counter("offsets_back_total", "Records whose offset was lower than what was applied already; passed over."),
		failures:        counter("partition_failures_total", "Times that a partition stopped and was started again from its committed offset."),
		resets:          counter("log_resets_total", "Starts that found another log than the one committed to."),
		cuts:            counter("generations_total", "Generations ended, by what ended them: time, seal, bytes or series.", "reason"),
		sealedBlocks:    counter("sealed_blocks_total", "Blocks written to local disk."),
		shippedBlocks:   counter("shipped_blocks_total", "Blocks uploaded to the bucket."),
		divergentBlocks: counter("divergent_blocks_total", "Blocks of a part of the log that another consumer has shipped as other blocks; left out. 0 unless versions are mixed."),
		shipFailures:    counter("ship_failures_total", "Failed attempts at a step between heads and the committed offset; they are repeated.", "step"),
		appliedOffset:   gauge("applied_offset", "Offset up to which the log is in heads or blocks."),
		appliedTime:     gauge("applied_timestamp_seconds", "Log time of the last applied record; its age is the lag, and at most the tick interval when idle."),
		committedOffset: gauge("committed_offset", "Offset up to which everything is in the bucket."),
		replayed:        gauge("replay_progress_ratio", "How much of what was in the log at the start is applied: 1 = caught up."),
		coverageGap:     gauge("coverage_gap_offsets", "Offsets of the log that are neither in blocks nor held by this consumer. Should be 0."),
		lostOffsets:     gauge("lost_offsets", "Offsets that were never read because the log had lost them, ever."),
		lagRecords:      gauge("lag_records", "Records in the log that are not applied yet, looked at every 5 s."),
		lagSeconds:      gauge("lag_seconds", "Age of the last applied record while others wait behind it; 0 = all are applied."),
		shippedBytes:    counter("shipped_bytes_total", "Bytes of the blocks uploaded to the bucket."),
		activeSeries: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "sluice_consumer_active_series", Help: "Series of the tenant that were defined within 40 minutes, in the partitions that this consumer holds; __other__ are all beyond the largest 1000 tenants.",
		}, []string{"tenant"}),
		headSeries: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "sluice_consumer_head_series", Help: "Series of the tenant in the heads that are growing, in the partitions that this consumer holds.",
		}, []string{"tenant"}),
		sealSeconds: f.NewHistogram(prometheus.HistogramOpts{
			Name: "sluice_consumer_seal_seconds", Help: "Time to write a generation's blocks to local disk.",
			Buckets: prometheus.ExponentialBuckets(0.01, 3, 10),
		}),
	}
}

// partitionMetrics are the metrics of one partition.
type partitionMetrics struct {
	samples, histograms, late, duplicates, unapplied prometheus.Counter
	unresolved, capped                               prometheus.Counter
	bytes, deadLetters, deadLettersLost              prometheus.Counter
	missedOffsets, offsetsBack, resets, failures     prometheus.Counter
	sealedBlocks, shippedBlocks, divergentBlocks     prometheus.Counter
	cuts, shipFailures                               *prometheus.CounterVec
	appliedOffset, appliedTime, committedOffset      prometheus.Gauge
	replayed, coverageGap, lostOffsets, lagRecords   prometheus.Gauge
	lagSeconds                                       prometheus.Gauge
	shippedBytes                                     prometheus.Counter
	sealSeconds                                      prometheus.Histogram
}

func (m *metrics) partition(id int32) *partitionMetrics {
	p := strconv.Itoa(int(id))
	of := prometheus.Labels{"partition": p}
	return &partitionMetrics{
		samples: m.samples.With(of), histograms: m.histograms.With(of), late: m.late.With(of),
		duplicates: m.duplicates.With(of), unapplied: m.unapplied.With(of), unresolved: m.unresolved.With(of), capped: m.capped.With(of), bytes: m.bytes.With(of),
		deadLetters: m.deadLetters.With(of), deadLettersLost: m.deadLettersLost.With(of),
		missedOffsets: m.missedOffsets.With(of), resets: m.resets.With(of),
		sealedBlocks: m.sealedBlocks.With(of), shippedBlocks: m.shippedBlocks.With(of), divergentBlocks: m.divergentBlocks.With(of),
		cuts: m.cuts.MustCurryWith(of), shipFailures: m.shipFailures.MustCurryWith(of),
		appliedOffset: m.appliedOffset.With(of), appliedTime: m.appliedTime.With(of), committedOffset: m.committedOffset.With(of),
		offsetsBack: m.offsetsBack.With(of), failures: m.failures.With(of), replayed: m.replayed.With(of),
		coverageGap: m.coverageGap.With(of), lostOffsets: m.lostOffsets.With(of), lagRecords: m.lagRecords.With(of),
		lagSeconds: m.lagSeconds.With(of), shippedBytes: m.shippedBytes.With(of),
		sealSeconds: m.sealSeconds,
	}
}

// forget takes a partition out of the gauges: what they said of it is not so any more.
func (m *metrics) forget(id int32) {
	of := prometheus.Labels{"partition": strconv.Itoa(int(id))}
	for _, g := range []*prometheus.GaugeVec{m.appliedOffset, m.appliedTime, m.committedOffset, m.replayed, m.coverageGap, m.lostOffsets, m.lagRecords, m.lagSeconds} {
		g.Delete(of)
	}
}

// count adds what a record came to.
func (m *partitionMetrics) count(t *tally, bytes int) {
	m.samples.Add(float64(t.floats))
	m.histograms.Add(float64(t.histograms))
	m.late.Add(float64(t.late))
	m.duplicates.Add(float64(t.duplicates))
	m.unapplied.Add(float64(t.unapplied))
	m.unresolved.Add(float64(t.unresolved))
	m.capped.Add(float64(t.capped))
	m.bytes.Add(float64(bytes))
}
