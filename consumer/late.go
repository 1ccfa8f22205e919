package consumer

import (
	"context"
	"math"
	"slices"
	"sort"
	"sync"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"

	"sluice/internal/fetch"
	"sluice/internal/merge"
)

// late holds the samples of a head that came after a newer one of their series. They are kept in the order of the log
// and sorted when somebody asks; of equal times the first stays.
type late struct {
	mu     sync.RWMutex
	series map[uint32]*lateSeries // guarded by mu; by ref of the series in the head
	mint   int64                  // guarded by mu; of all samples, if there are any
	maxt   int64                  // guarded by mu
}

type lateSeries struct {
	lset    labels.Labels
	samples []lateSample // in log order
}

// lateSample is a float, or a histogram of one of the two kinds.
type lateSample struct {
	st int64 // start timestamp, 0 = none
	t  int64
	v  float64
	h  *histogram.Histogram
	fh *histogram.FloatHistogram
}

func (l *late) has(ref uint32) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.series[ref] != nil
}

func (l *late) empty() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return len(l.series) == 0
}

// times returns the oldest and the newest time of all samples; false if there are none.
func (l *late) times() (fetch.Interval, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return fetch.Interval{Mint: l.mint, Maxt: l.maxt}, len(l.series) > 0
}

func (l *late) add(ones []lateOne) {
	if len(ones) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.series == nil {
		l.series = map[uint32]*lateSeries{}
		l.mint, l.maxt = math.MaxInt64, math.MinInt64
	}
	for _, one := range ones {
		s := l.series[one.ref]
		if s == nil {
			s = &lateSeries{lset: one.lset}
			l.series[one.ref] = s
		}
		s.samples = append(s.samples, one.sample)
		l.mint, l.maxt = min(l.mint, one.sample.t), max(l.maxt, one.sample.t)
	}
}

// pick returns the series that match, sorted by labels, with their samples in [mint, maxt] sorted by time.
func (l *late) pick(mint, maxt int64, matchers []*labels.Matcher) []storage.Series {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var picked []storage.Series
	for _, s := range l.series {
		if !matches(s.lset, matchers) {
			continue
		}
		if samples := s.between(mint, maxt); len(samples) > 0 {
			picked = append(picked, storage.NewListSeries(s.lset, samples))
		}
	}
	slices.SortFunc(picked, func(a, b storage.Series) int { return labels.Compare(a.Labels(), b.Labels()) })
	return picked
}

func matches(lset labels.Labels, matchers []*labels.Matcher) bool {
	for _, m := range matchers {
		if !m.Matches(lset.Get(m.Name)) {
			return false
		}
	}
	return true
}

func (s *lateSeries) between(mint, maxt int64) []chunks.Sample {
	var out []chunks.Sample
	for _, smp := range s.samples {
		if smp.t >= mint && smp.t <= maxt {
			out = append(out, smp)
		}
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].T() < out[j].T() })
	return slices.CompactFunc(out, func(a, b chunks.Sample) bool { return a.T() == b.T() })
}

// chunks.Sample, so that Prometheus' list series and chunk encoder can read it.

func (s lateSample) T() int64   { return s.t }
func (s lateSample) ST() int64  { return s.st }
func (s lateSample) F() float64 { return s.v }
func (s lateSample) Type() chunkenc.ValueType {
	switch {
	case s.h != nil:
		return chunkenc.ValHistogram
	case s.fh != nil:
		return chunkenc.ValFloatHistogram
	}
	return chunkenc.ValFloat
}

// H returns a copy without a claim about counter resets: the sample before it is not the one that its sender saw.
func (s lateSample) H() *histogram.Histogram {
	if s.h == nil {
		return nil
	}
	h := s.h.Copy()
	if h.CounterResetHint != histogram.GaugeType {
		h.CounterResetHint = histogram.UnknownCounterReset
	}
	return h
}

// FH is H for histograms of both kinds: PromQL asks for floats whatever the sample is, and Prometheus' list series does not convert.
func (s lateSample) FH() *histogram.FloatHistogram {
	var fh *histogram.FloatHistogram
	switch {
	case s.fh != nil:
		fh = s.fh.Copy()
	case s.h != nil:
		fh = s.h.ToFloat(nil)
	default:
		return nil
	}
	if fh.CounterResetHint != histogram.GaugeType {
		fh.CounterResetHint = histogram.UnknownCounterReset
	}
	return fh
}

// Copy implements chunks.Sample.
func (s lateSample) Copy() chunks.Sample { return s }

// chunkSet is every series with samples in [mint, maxt], sorted, as chunks.
func (l *late) chunkSet(mint, maxt int64) storage.ChunkSeriesSet {
	return storage.NewSeriesSetToChunkSet(newListSet(l.pick(mint, maxt, nil)))
}

// listSet is a SeriesSet over a slice.
type listSet struct {
	storage.SeriesSet
	series []storage.Series
	at     int
}

func newListSet(series []storage.Series) *listSet {
	return &listSet{SeriesSet: storage.EmptySeriesSet(), series: series, at: -1}
}

func (s *listSet) Next() bool         { s.at++; return s.at < len(s.series) }
func (s *listSet) At() storage.Series { return s.series[s.at] }

// lateQuerier puts the late samples beside the others. Every series with late samples has others too, so label
// names and values need no merging.
type lateQuerier struct {
	storage.Querier
	late       *late
	mint, maxt int64
}

func (q *lateQuerier) Select(ctx context.Context, _ bool, hints *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	picked := q.late.pick(q.mint, q.maxt, matchers)
	if len(picked) == 0 {
		return q.Querier.Select(ctx, true, hints, matchers...)
	}
	return storage.NewMergeSeriesSet([]storage.SeriesSet{
		merge.RankSeriesSet(q.Querier.Select(ctx, true, hints, matchers...), 0),
		merge.RankSeriesSet(newListSet(picked), 1),
	}, 0, merge.Series)
}
