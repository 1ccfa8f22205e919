package store

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
	"github.com/stretchr/testify/require"
)

// TestStartTimestamps: whatever a sender claims as a start timestamp comes back, beside any time.
func TestStartTimestamps(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 5))
	extremes := []int64{0, 1, -1, math.MinInt64, math.MaxInt64, 1 << 62, -1 << 62}
	for range 300 {
		h := New(testWindow)
		h.Begin()
		floats, hists := h.Add(labels.FromStrings("__name__", "f")), h.Add(labels.FromStrings("__name__", "h"))
		var want []int64
		for ts := int64(1); ts < 200; ts += 1 + rnd.Int64N(20) {
			st := extremes[rnd.IntN(len(extremes))]
			if rnd.IntN(2) == 0 {
				st = rnd.Int64N(1 << rnd.IntN(62))
			}
			want = append(want, st)
			require.NoError(t, h.Float(floats, st, ts, 1))
			require.NoError(t, h.Histogram(hists, st, ts, tsdbutil.GenerateTestHistogram(ts), nil))
		}
		h.End()
		for name, got := range collect(t, h, math.MinInt64/2, math.MaxInt64/2, everything) {
			require.Len(t, got, len(want))
			for i := range got {
				require.Equal(t, want[i], got[i].st, "%s: sample %d of %v", name, i, want)
			}
		}
	}
}
