package fetch

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
	"github.com/stretchr/testify/require"
)

// packed is a sample as a reader of it sees it.
type packed struct {
	st, t int64
	bits  uint64
	h     *histogram.Histogram
	fh    *histogram.FloatHistogram
}

func (s packed) ST() int64                     { return s.st }
func (s packed) T() int64                      { return s.t }
func (s packed) F() float64                    { return math.Float64frombits(s.bits) }
func (s packed) H() *histogram.Histogram       { return s.h }
func (s packed) FH() *histogram.FloatHistogram { return s.fh }
func (s packed) Copy() chunks.Sample           { return s }
func (s packed) Type() chunkenc.ValueType {
	switch {
	case s.h != nil:
		return chunkenc.ValHistogram
	case s.fh != nil:
		return chunkenc.ValFloatHistogram
	}
	return chunkenc.ValFloat
}

// readAll walks it; reuse hands the same histograms over again and again, as the engine does.
func readAll(t *testing.T, it chunkenc.Iterator, reuse bool) (out []packed) {
	var h *histogram.Histogram
	var fh *histogram.FloatHistogram
	for kind := it.Next(); kind != chunkenc.ValNone; kind = it.Next() {
		s := packed{st: it.AtST(), t: it.AtT()}
		switch kind {
		case chunkenc.ValFloat:
			_, v := it.At()
			s.bits = math.Float64bits(v)
		case chunkenc.ValHistogram:
			_, got := it.AtHistogram(h)
			s.h = got.Copy().Compact(0)
			if reuse {
				h = got
			}
		case chunkenc.ValFloatHistogram:
			_, got := it.AtFloatHistogram(fh)
			s.fh = got.Copy().Compact(0)
			if reuse {
				fh = got
			}
		}
		out = append(out, s)
	}
	require.NoError(t, it.Err())
	return out
}

// Whatever a series holds comes out on the other side: every bit of floats, start timestamps, and what each histogram says
// about counter resets, were it wrong. Whole and from any sample on.
func TestPackKeepsEverything(t *testing.T) {
	hints := []histogram.CounterResetHint{
		histogram.UnknownCounterReset, histogram.CounterReset, histogram.NotCounterReset, histogram.NotCounterReset, histogram.NotCounterReset,
	}
	rnd := rand.New(rand.NewPCG(6, 6))
	for range 200 {
		var samples []packed
		var list []chunks.Sample
		kind, gauge, now := 0, false, int64(rnd.IntN(1000))-500
		for range 1 + rnd.IntN(400) {
			if rnd.IntN(30) == 0 {
				kind, gauge = rnd.IntN(3), rnd.IntN(3) == 0
			}
			now += 1 + int64(rnd.IntN(30_000))
			s := packed{t: now}
			if rnd.IntN(3) > 0 {
				s.st = now - int64(rnd.IntN(100_000)) - 1
			}
			hint := hints[rnd.IntN(len(hints))]
			if gauge {
				hint = histogram.GaugeType
			}
			size := int64(rnd.IntN(20))
			switch kind {
			case 0:
				s.bits = math.Float64bits(rnd.NormFloat64())
				if rnd.IntN(10) == 0 {
					s.bits = []uint64{value.StaleNaN, value.NormalNaN, math.Float64bits(math.Inf(-1)), 1 << 63}[rnd.IntN(4)]
				}
			case 1:
				s.h = tsdbutil.GenerateTestHistogram(size)
				s.h.CounterResetHint = hint
				s.h.Compact(0)
			default:
				s.fh = tsdbutil.GenerateTestFloatHistogram(size)
				s.fh.CounterResetHint = hint
				s.fh.Compact(0)
			}
			samples, list = append(samples, s), append(list, s)
		}
		out, err := pack(nil, storage.NewListSeriesIterator(listOf(list)))
		require.NoError(t, err)
		whole := &series{labels: labels.FromStrings("a", "b"), mint: minTime, maxt: maxTime, chunks: out}
		require.Equal(t, samples, readAll(t, whole.Iterator(nil), false))
		require.Equal(t, samples, readAll(t, whole.Iterator(nil), true))

		from := rnd.IntN(len(samples))
		rest := &series{mint: samples[from].t, maxt: maxTime, chunks: out}
		require.Equal(t, samples[from:], readAll(t, rest.Iterator(nil), false))
	}
}

type listOf []chunks.Sample

func (l listOf) Get(i int) chunks.Sample { return l[i] }
func (l listOf) Len() int                { return len(l) }
