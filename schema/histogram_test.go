package schema

import (
	"math"
	"testing"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
	"github.com/stretchr/testify/require"
)

func marshalHistogram(t testing.TB, h interface{ Marshal() ([]byte, error) }) []byte {
	t.Helper()
	b, err := h.Marshal()
	require.NoError(t, err)
	return b
}

func TestDecodeHistogram(t *testing.T) {
	for _, want := range tsdbutil.GenerateTestHistograms(3) {
		p := prompb.FromIntHistogram(1234, want)
		h, fh, ts, start, err := DecodeHistogram(marshalHistogram(t, &p))
		require.NoError(t, err)
		require.Nil(t, fh)
		require.True(t, want.Equals(h))
		require.Equal(t, []int64{1234, 0}, []int64{ts, start})
	}
	for _, want := range append(tsdbutil.GenerateTestFloatHistograms(3), tsdbutil.GenerateTestCustomBucketsFloatHistograms(2)...) {
		want.CounterResetHint = histogram.GaugeType
		p := writev2.FromFloatHistogram(7, -5, want)
		h, fh, ts, start, err := DecodeHistogram(marshalHistogram(t, &p))
		require.NoError(t, err)
		require.Nil(t, h)
		require.True(t, want.Equals(fh))
		require.Equal(t, histogram.GaugeType, fh.CounterResetHint)
		require.Equal(t, []int64{-5, 7}, []int64{ts, start})
		at, err := HistogramTime(marshalHistogram(t, &p))
		require.NoError(t, err)
		require.Equal(t, int64(-5), at)
	}
	for _, want := range tsdbutil.GenerateTestCustomBucketsHistograms(2) {
		p := prompb.FromIntHistogram(1, want)
		h, _, _, _, err := DecodeHistogram(marshalHistogram(t, &p))
		require.NoError(t, err)
		require.True(t, want.Equals(h))
		require.NotEmpty(t, h.CustomValues)
	}
	stale := prompb.FromIntHistogram(1, &histogram.Histogram{Sum: math.Float64frombits(value.StaleNaN)})
	h, _, _, _, err := DecodeHistogram(marshalHistogram(t, &stale))
	require.NoError(t, err)
	require.Equal(t, value.StaleNaN, math.Float64bits(h.Sum))

	fine := prompb.FromIntHistogram(1, tsdbutil.GenerateTestHistogram(1))
	fine.Schema = 12
	h, _, _, _, err = DecodeHistogram(marshalHistogram(t, &fine))
	require.NoError(t, err)
	require.Equal(t, histogram.ExponentialSchemaMax, h.Schema)

	hint := prompb.FromIntHistogram(1, tsdbutil.GenerateTestHistogram(1))
	hint.ResetHint = 99
	h, _, _, _, err = DecodeHistogram(marshalHistogram(t, &hint))
	require.NoError(t, err)
	require.Equal(t, histogram.UnknownCounterReset, h.CounterResetHint)
}

func TestDecodeHistogramUnpacked(t *testing.T) {
	// Spans {0,2}; deltas 1, 1 and count 3, each delta in a field of its own.
	h, _, _, _, err := DecodeHistogram([]byte{0x08, 3, 0x5a, 2, 0x10, 2, 0x60, 2, 0x60, 2})
	require.NoError(t, err)
	require.Equal(t, []int64{1, 1}, h.PositiveBuckets)
	float := append([]byte{0x11}, 0, 0, 0, 0, 0, 0, 0, 0x40, 0x5a, 2, 0x10, 1, 0x69, 0, 0, 0, 0, 0, 0, 0, 0x40)
	_, fh, _, _, err := DecodeHistogram(float)
	require.NoError(t, err)
	require.Equal(t, []float64{2}, fh.PositiveBuckets)
	require.InDelta(t, 2, fh.Count, 0)
}

func TestDecodeHistogramRefuses(t *testing.T) {
	good := func() prompb.Histogram { return prompb.FromIntHistogram(1, tsdbutil.GenerateTestHistogram(1)) }
	for name, spoil := range map[string]func(h *prompb.Histogram){
		"count":           func(h *prompb.Histogram) { h.Count = &prompb.Histogram_CountInt{CountInt: 1} },
		"schema":          func(h *prompb.Histogram) { h.Schema = -30 },
		"length 2^31":     func(h *prompb.Histogram) { h.PositiveSpans[0].Length = 1 << 31 },
		"length 2^32-1":   func(h *prompb.Histogram) { h.NegativeSpans[0].Length = math.MaxUint32 },
		"negative offset": func(h *prompb.Histogram) { h.PositiveSpans[1].Offset = -1 },
		"offsets overflow": func(h *prompb.Histogram) {
			h.PositiveSpans[0].Offset = math.MaxInt32
			h.PositiveSpans[1].Offset = math.MaxInt32
		},
		"offset at the end":     func(h *prompb.Histogram) { h.PositiveSpans[0].Offset = math.MaxInt32 },
		"threshold NaN":         func(h *prompb.Histogram) { h.ZeroThreshold = math.NaN() },
		"threshold Inf":         func(h *prompb.Histogram) { h.ZeroThreshold = math.Inf(1) },
		"threshold negative":    func(h *prompb.Histogram) { h.ZeroThreshold = -1 },
		"no buckets":            func(h *prompb.Histogram) { h.PositiveDeltas = nil },
		"no spans":              func(h *prompb.Histogram) { h.PositiveSpans = nil },
		"negative bucket":       func(h *prompb.Histogram) { h.PositiveDeltas[0] = -5 },
		"custom values, exp":    func(h *prompb.Histogram) { h.CustomValues = []float64{1} },
		"custom, no bounds":     func(h *prompb.Histogram) { h.Schema = histogram.CustomBucketsSchema },
		"fine and mismatched":   func(h *prompb.Histogram) { h.Schema, h.PositiveSpans[0].Length = 20, 1<<32-1 },
		"float with int deltas": func(h *prompb.Histogram) { h.Count = &prompb.Histogram_CountFloat{CountFloat: 1} },
	} {
		t.Run(name, func(t *testing.T) {
			h := good()
			spoil(&h)
			_, _, _, _, err := DecodeHistogram(marshalHistogram(t, &h))
			require.Error(t, err)
		})
	}
	p := good()
	whole := marshalHistogram(t, &p)
	for i := range whole {
		_, _, _, _, _ = DecodeHistogram(whole[:i]) // no panic; a cut between fields may be valid
	}
	for _, bad := range [][]byte{{0x09}, {0x0a, 0}, {0x58, 1}, {0x5a, 2, 0x12, 0}, {0x65, 0, 0, 0, 0}, {0x6a, 3, 0, 0, 0}, {0x62, 1, 0x80}, {0x69, 0}, {0x42, 1, 0x08}} {
		_, _, _, _, err := DecodeHistogram(bad)
		require.ErrorIs(t, err, ErrHistogramWire, "%x", bad)
	}
}

// Whatever is accepted passes Prometheus' own validation, and Prometheus' decoder reads the same.
func FuzzDecodeHistogram(f *testing.F) {
	for _, h := range tsdbutil.GenerateTestHistograms(2) {
		p := prompb.FromIntHistogram(1, h)
		f.Add(marshalHistogram(f, &p))
	}
	for _, h := range append(tsdbutil.GenerateTestFloatHistograms(1), tsdbutil.GenerateTestCustomBucketsFloatHistograms(1)...) {
		p := writev2.FromFloatHistogram(1, 2, h)
		f.Add(marshalHistogram(f, &p))
	}
	f.Add([]byte{0x5a, 6, 0x10, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Add([]byte{0x20, 0x28, 0x5a, 2, 0x10, 1, 0x60, 2, 0x08, 1})
	f.Fuzz(func(t *testing.T, payload []byte) {
		h, fh, _, start, err := DecodeHistogram(payload)
		if err != nil {
			return
		}
		require.NotEqual(t, h == nil, fh == nil)
		var p writev2.Histogram
		require.NoError(t, p.Unmarshal(payload))
		require.Equal(t, p.StartTimestamp, start)
		if fh != nil {
			require.NoError(t, fh.Validate())
			require.True(t, p.IsFloatHistogram())
			require.Equal(t, math.Float64bits(p.Sum), math.Float64bits(fh.Sum))
			if p.Schema == fh.Schema {
				require.Len(t, fh.PositiveBuckets, len(p.PositiveCounts))
			}
			return
		}
		require.NoError(t, h.Validate())
		require.False(t, p.IsFloatHistogram())
		if want := p.ToIntHistogram(); p.Schema == h.Schema && want.CounterResetHint == h.CounterResetHint {
			require.True(t, want.Equals(h))
		}
		_ = h.ToFloat(nil)
	})
}

func FuzzDecodeExemplar(f *testing.F) {
	f.Add([]byte("\x0a\x0d\x0a\x08trace_id\x12\x01x\x11\x00\x00\x00\x00\x00\x00\xf8\x3f\x18\x05"))
	f.Add([]byte("\x0a\x00"))
	f.Fuzz(func(t *testing.T, payload []byte) {
		e, err := DecodeExemplar(payload)
		if err != nil {
			return
		}
		var p prompb.Exemplar
		require.NoError(t, p.Unmarshal(payload))
		require.Equal(t, p.Timestamp, e.Ts)
		require.Equal(t, math.Float64bits(p.Value), math.Float64bits(e.Value))
	})
}

func FuzzDecodeMetadata(f *testing.F) {
	m := Metadata{Type: 2, Name: []byte("up"), Help: []byte("Is it?"), Unit: []byte("bool")}
	f.Add(m.AppendPayload(nil))
	f.Add([]byte("\x12\x00"))
	f.Fuzz(func(t *testing.T, payload []byte) {
		name, md, err := DecodeMetadata(payload)
		if err != nil {
			return
		}
		var p prompb.MetricMetadata
		require.NoError(t, p.Unmarshal(payload))
		require.Equal(t, []string{p.MetricFamilyName, p.Help, p.Unit}, []string{name, md.Help, md.Unit})
		var m Metadata
		require.NoError(t, m.Parse(payload))
		name2, md2, err := DecodeMetadata(m.AppendPayload(nil))
		require.NoError(t, err)
		require.Equal(t, name, name2)
		require.Equal(t, md, md2)
	})
}

func BenchmarkDecodeHistogram(b *testing.B) {
	p := prompb.FromIntHistogram(1, tsdbutil.GenerateTestHistogram(5))
	payload := marshalHistogram(b, &p)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, _, _, err := DecodeHistogram(payload); err != nil {
			b.Fatal(err)
		}
	}
}
