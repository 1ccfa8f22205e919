package consumer

import (
	"math"
	"testing"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
	"github.com/stretchr/testify/require"
)

// TestLateHistogramsAreRead: PromQL reads histograms of both kinds as floats, which once was a nil pointer for integer ones.
func TestLateHistogramsAreRead(t *testing.T) {
	h, fh := tsdbutil.GenerateTestHistogram(3), tsdbutil.GenerateTestFloatHistogram(4)
	h.CounterResetHint = histogram.CounterReset
	lset := labels.FromStrings("__name__", "a")
	var l late
	l.add([]lateOne{
		{ref: 1, lset: lset, sample: lateSample{t: 20, fh: fh}},
		{ref: 1, lset: lset, sample: lateSample{t: 10, h: h}},
	})
	picked := l.pick(math.MinInt64, math.MaxInt64, nil)
	require.Len(t, picked, 1)
	it := picked[0].Iterator(nil)

	require.Equal(t, chunkenc.ValHistogram, it.Next())
	at, got := it.AtFloatHistogram(nil)
	want := h.ToFloat(nil)
	want.CounterResetHint = histogram.UnknownCounterReset
	require.EqualValues(t, 10, at)
	require.Equal(t, want, got)

	require.Equal(t, chunkenc.ValFloatHistogram, it.Next())
	_, got = it.AtFloatHistogram(nil)
	require.Equal(t, fh.Count, got.Count)
	require.Equal(t, chunkenc.ValNone, it.Next())
}
