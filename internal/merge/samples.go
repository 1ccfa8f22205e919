package merge

import (
	"errors"
	"math"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

// Series merges series with equal labels into one: a storage.VerticalSeriesMergeFunc.
func Series(series ...storage.Series) storage.Series {
	switch len(series) {
	case 0:
		return nil
	case 1:
		return series[0]
	}
	return &merged{byRank(apart(series))}
}

// merged is one series out of several, two at least.
type merged struct{ sorted []storage.Series } // by rank

func (m *merged) Labels() labels.Labels { return labelsOf(m.sorted) }

func (m *merged) Iterator(it chunkenc.Iterator) chunkenc.Iterator {
	i, ok := it.(*iterator)
	if !ok || len(i.its) != len(m.sorted) {
		i = &iterator{its: make([]chunkenc.Iterator, len(m.sorted))}
	}
	for j, s := range m.sorted {
		i.its[j] = s.Iterator(i.its[j])
	}
	i.reset()
	return i
}

// iterator walks several iterators in time order. Each stands on a sample not yet given out, or is exhausted.
type iterator struct {
	its   []chunkenc.Iterator // in order of rank
	types []chunkenc.ValueType
	times []int64

	started bool
	cur     int   // index of the current sample's iterator
	lastT   int64 // time of the current sample
	othersT int64 // smallest time among the others: cur may go on alone while it stays below
	// consecutive says that this sample directly follows the one before in the same source: only then does a hint about
	// counter resets still hold.
	consecutive bool
	failed      bool
}

func (m *iterator) reset() {
	m.types = make([]chunkenc.ValueType, len(m.its))
	m.times = make([]int64, len(m.its))
	m.started, m.failed, m.cur, m.lastT = false, false, -1, math.MinInt64
}

// step moves iterator i on and notes where it stands; false after an error.
func (m *iterator) step(i int, typ chunkenc.ValueType) bool {
	m.types[i] = typ
	if typ == chunkenc.ValNone {
		if m.its[i].Err() != nil {
			m.failed = true
			return false
		}
		return true
	}
	m.times[i] = m.its[i].AtT()
	return true
}

func (m *iterator) Next() chunkenc.ValueType {
	if m.failed {
		return chunkenc.ValNone
	}
	if !m.started {
		m.started = true
		for i := range m.its {
			if !m.step(i, m.its[i].Next()) {
				return chunkenc.ValNone
			}
		}
		return m.choose(-1)
	}
	if m.cur < 0 {
		return chunkenc.ValNone
	}
	if !m.step(m.cur, m.its[m.cur].Next()) {
		return chunkenc.ValNone
	}
	if t := m.times[m.cur]; m.types[m.cur] != chunkenc.ValNone && t < m.othersT && t > m.lastT {
		m.lastT, m.consecutive = t, true
		return m.types[m.cur]
	}
	return m.choose(m.cur)
}

// choose takes the smallest time above lastT, the lowest rank of equals, and drops what it shadows.
func (m *iterator) choose(before int) chunkenc.ValueType {
	for i := range m.its {
		for m.types[i] != chunkenc.ValNone && before >= 0 && m.times[i] <= m.lastT {
			if !m.step(i, m.its[i].Next()) {
				return chunkenc.ValNone
			}
		}
	}
	best := -1
	m.othersT = math.MaxInt64
	for i, typ := range m.types {
		switch {
		case typ == chunkenc.ValNone:
		case best < 0:
			best = i
		case m.times[i] < m.times[best]:
			m.othersT = m.times[best]
			best = i
		default:
			m.othersT = min(m.othersT, m.times[i])
		}
	}
	m.cur = best
	if best < 0 {
		return chunkenc.ValNone
	}
	m.consecutive = best == before
	m.lastT = m.times[best]
	return m.types[best]
}

func (m *iterator) Seek(t int64) chunkenc.ValueType {
	if m.failed || (m.started && m.cur < 0) {
		return chunkenc.ValNone
	}
	if m.started && m.lastT >= t {
		return m.types[m.cur]
	}
	for i := range m.its {
		if m.started && (m.types[i] == chunkenc.ValNone || m.times[i] >= t) {
			continue
		}
		if !m.step(i, m.its[i].Seek(t)) {
			return chunkenc.ValNone
		}
	}
	m.started = true
	return m.choose(-1)
}

func (m *iterator) At() (int64, float64) { return m.its[m.cur].At() }

func (m *iterator) AtHistogram(h *histogram.Histogram) (int64, *histogram.Histogram) {
	t, h := m.its[m.cur].AtHistogram(h)
	if !m.consecutive && h.CounterResetHint != histogram.GaugeType {
		h.CounterResetHint = histogram.UnknownCounterReset
	}
	return t, h
}

func (m *iterator) AtFloatHistogram(fh *histogram.FloatHistogram) (int64, *histogram.FloatHistogram) {
	t, fh := m.its[m.cur].AtFloatHistogram(fh)
	if !m.consecutive && fh.CounterResetHint != histogram.GaugeType {
		fh.CounterResetHint = histogram.UnknownCounterReset
	}
	return t, fh
}

func (m *iterator) AtT() int64  { return m.lastT }
func (m *iterator) AtST() int64 { return m.its[m.cur].AtST() }

func (m *iterator) Err() error {
	var errs []error
	for _, it := range m.its {
		errs = append(errs, it.Err())
	}
	return errors.Join(errs...)
}
