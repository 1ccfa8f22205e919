package schema

import (
	"bytes"
	"encoding/hex"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/prompb"
	"github.com/stretchr/testify/require"
)

// goldenRecord is a record value with one of everything that v1 knows.
func goldenRecord() []byte {
	ls := []Label{{[]byte("__name__"), []byte("up")}, {[]byte("job"), []byte("node ☃")}}
	series := AppendLabels(nil, ls)
	series = AppendSample(series, 1_700_000_000_000, 0, 1.5)
	series = AppendSample(series, 1_700_000_015_000, 1_699_999_999_000, math.Float64frombits(0x7ff0000000000002))
	series = AppendSample(series, -1, -2, math.Inf(-1))
	series = AppendExemplar(series, []byte("\x0a\x0d\x0a\x08trace_id\x12\x01x\x11\x00\x00\x00\x00\x00\x00\xf8\x3f\x18\x05"))
	out := AppendTimeSeries(nil, series)
	h := prompb.FromIntHistogram(1_700_000_000_000, &histogram.Histogram{
		Count: 3, Sum: 2, ZeroThreshold: 1e-128, ZeroCount: 1, Schema: 3,
		PositiveSpans: []histogram.Span{{Offset: -2, Length: 2}}, PositiveBuckets: []int64{1, 0},
	})
	payload, err := h.Marshal()
	if err != nil {
		panic(err)
	}
	payload = append(payload, 0x88, 0x01, 0x07) // field 17: start timestamp
	out = AppendTimeSeries(out, AppendHistogram(AppendLabels(nil, ls[:1]), payload))
	m := Metadata{Type: 2, Name: []byte("up"), Help: []byte("Is it?"), Unit: []byte("bool")}
	return AppendMetadata(out, m.AppendPayload(nil))
}

// The bytes of a record do not change: logs that hold them live longer than a release. A new format is a new version.
func TestGoldenRecord(t *testing.T) {
	path := filepath.Join("testdata", "record-v1.hex")
	if os.Getenv("SLUICE_REWRITE_GOLDEN") != "" {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, append([]byte(hex.Dump(goldenRecord())), '\n'), 0o600))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), hex.Dump(goldenRecord())+"\n")

	f, rest, err := NextField(goldenRecord())
	require.NoError(t, err)
	require.False(t, f.Meta)
	var s Series
	require.NoError(t, s.Parse(f.Payload))
	require.Equal(t, []Label{{[]byte("__name__"), []byte("up")}, {[]byte("job"), []byte("node ☃")}}, s.Labels)
	require.Equal(t, AppendLabels(nil, s.Labels), s.LabelBytes)
	require.Len(t, s.Samples, 3)
	require.Equal(t, int64(1_700_000_000_000), s.Samples[0].Time)
	require.Zero(t, s.Samples[0].Start)
	require.InDelta(t, 1.5, s.Samples[0].Value, 0)
	require.Equal(t, int64(1_699_999_999_000), s.Samples[1].Start)
	require.Equal(t, uint64(0x7ff0000000000002), math.Float64bits(s.Samples[1].Value))
	require.Equal(t, Sample{Time: -1, Start: -2, Value: math.Inf(-1), Raw: s.Samples[2].Raw}, s.Samples[2])
	require.Equal(t, AppendSample(nil, -1, -2, math.Inf(-1)), s.Samples[2].Raw)
	e, err := DecodeExemplar(s.Exemplars[0])
	require.NoError(t, err)
	require.Equal(t, `{trace_id="x"}`, e.Labels.String())
	require.InDelta(t, 1.5, e.Value, 0)
	require.Equal(t, int64(5), e.Ts)
	require.True(t, e.HasTs)

	f, rest, err = NextField(rest)
	require.NoError(t, err)
	require.NoError(t, s.Parse(f.Payload))
	require.Empty(t, s.Samples)
	h, fh, ts, start, err := DecodeHistogram(s.Histograms[0])
	require.NoError(t, err)
	require.Nil(t, fh)
	require.Equal(t, int64(1_700_000_000_000), ts)
	require.Equal(t, int64(7), start)
	require.Equal(t, []int64{1, 0}, h.PositiveBuckets)

	f, rest, err = NextField(rest)
	require.NoError(t, err)
	require.True(t, f.Meta)
	name, md, err := DecodeMetadata(f.Payload)
	require.NoError(t, err)
	require.Equal(t, "up", name)
	require.Equal(t, "gauge Is it? bool", string(md.Type)+" "+md.Help+" "+md.Unit)
	f, rest, err = NextField(rest)
	require.NoError(t, err)
	require.Nil(t, f.Raw)
	require.Empty(t, rest)

	// Prometheus reads the same.
	var req prompb.WriteRequest
	require.NoError(t, req.Unmarshal(goldenRecord()))
	require.Len(t, req.Timeseries, 2)
	require.Len(t, req.Metadata, 1)
	require.Equal(t, h, req.Timeseries[1].Histograms[0].ToIntHistogram().Copy(), "with the spans that are there")
}

func TestUnknownAndWrongFields(t *testing.T) {
	ts := AppendTimeSeries(nil, AppendSample(AppendLabels(nil, []Label{{[]byte("a"), []byte("b")}}), 5, 0, 1))
	unknown := [][]byte{{0x10, 0x05}, {0x12, 0x01, 0x00}, {0x21, 1, 2, 3, 4, 5, 6, 7, 8}, {0x25, 1, 2, 3, 4}, {0xfa, 0xff, 0xff, 0xff, 0x0f, 0x00}}
	for _, u := range unknown {
		f, rest, err := NextField(append(append([]byte{}, u...), ts...))
		require.NoError(t, err, "%x", u)
		require.Equal(t, ts, f.Raw)
		require.Empty(t, rest)
	}
	var s Series
	for _, bad := range [][]byte{
		{0x08, 0x01}, {0x19, 1, 2, 3, 4, 5, 6, 7, 8}, // our fields, other wire types
		{0x00, 0x00}, {0x02, 0x00}, // field 0
		{0x13}, {0x14}, {0x16}, {0x17}, // groups, and what is no wire type
		{0x8a, 0x80, 0x80, 0x80, 0x10, 0x00}, // a tag of more than 32 bits
		{0x0a}, {0x0a, 0x01}, {0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}, {0x80},
		{0x10}, {0x10, 0x80}, {0x21, 0}, {0x25, 0},
	} {
		_, _, err := NextField(bad)
		require.Error(t, err, "%x", bad)
	}
	for _, bad := range [][]byte{
		{0x08, 0x01}, {0x10, 0x01}, {0x18, 0x01}, {0x20, 0x01}, {0x0d, 0, 0, 0, 0},
		{0x0a, 0x02, 0x08, 0x01}, {0x0a, 0x02, 0x10, 0x01}, {0x0a, 0x02, 0x0a, 0x01},
		{0x12, 0x02, 0x08, 0x01}, {0x12, 0x02, 0x12, 0x00}, {0x12, 0x02, 0x1a, 0x00}, {0x12, 0x01, 0x09}, {0x12, 0x02, 0x10, 0x80},
	} {
		require.Error(t, s.Parse(bad), "%x", bad)
	}
	require.NoError(t, s.Parse([]byte{0x12, 0x02, 0x20, 0x01, 0x28, 0x01}), "fields that we do not know")
}

// Labels that do not lie together are gathered, so that they make the same key.
func TestScatteredLabels(t *testing.T) {
	a, b := []Label{{[]byte("a"), []byte("1")}}, []Label{{[]byte("b"), []byte("2")}}
	payload := AppendLabels(nil, a)
	payload = AppendSample(payload, 1, 0, 1)
	payload = AppendLabels(payload, b)
	payload = append(payload, 0x28, 0x01)
	var s Series
	for range 2 {
		require.NoError(t, s.Parse(payload))
		require.Equal(t, AppendLabels(AppendLabels(nil, a), b), s.LabelBytes)
	}
	require.NoError(t, s.Parse(nil))
	require.Empty(t, s.LabelBytes)
	require.Empty(t, s.Labels)
}

func FuzzNextField(f *testing.F) {
	f.Add(goldenRecord())
	f.Add([]byte("\x22\x00\x0a\x02\x0a\x00"))
	f.Add([]byte("\x8a\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var again []byte
		for rest := b; ; {
			field, next, err := NextField(rest)
			if err != nil {
				return
			}
			if field.Raw == nil {
				break
			}
			require.Less(t, len(next), len(rest))
			require.Contains(t, string(b), string(field.Raw))
			if field.Meta {
				again = AppendMetadata(again, field.Payload)
			} else {
				again = AppendTimeSeries(again, field.Payload)
			}
			rest = next
		}
		// What was cut can be put together and cut again.
		for rest := again; len(rest) > 0; {
			field, next, err := NextField(rest)
			require.NoError(t, err)
			require.True(t, bytes.HasPrefix(rest, field.Raw))
			rest = next
		}
	})
}

// What Parse accepts, Prometheus' decoder reads in the same way, and what it writes anew is the same series.
func FuzzParse(f *testing.F) {
	field, rest, _ := NextField(goldenRecord())
	f.Add(field.Payload)
	field, _, _ = NextField(rest)
	f.Add(field.Payload)
	f.Add([]byte("\x0a\x00\x12\x00\x1a\x00\x22\x00"))
	f.Add([]byte("\x0a\x06\x0a\x01a\x0a\x01b\x28\x01\x0a\x00"))
	f.Fuzz(func(t *testing.T, payload []byte) {
		var s Series
		if s.Parse(payload) != nil {
			return
		}
		for _, h := range s.Histograms {
			if _, _, _, _, err := DecodeHistogram(h); err != nil {
				return // Prometheus looks into them at once
			}
		}
		for _, e := range s.Exemplars {
			if _, err := DecodeExemplar(e); err != nil {
				return
			}
		}
		var ts prompb.TimeSeries
		require.NoError(t, ts.Unmarshal(payload))
		require.Len(t, s.Labels, len(ts.Labels))
		for i, l := range s.Labels {
			require.Equal(t, ts.Labels[i].Name, string(l.Name))
			require.Equal(t, ts.Labels[i].Value, string(l.Value))
		}
		require.Len(t, s.Samples, len(ts.Samples))
		anew := append([]byte{}, s.LabelBytes...)
		for i, smp := range s.Samples {
			require.Equal(t, ts.Samples[i].Timestamp, smp.Time)
			require.Equal(t, math.Float64bits(ts.Samples[i].Value), math.Float64bits(smp.Value))
			anew = AppendSample(anew, smp.Time, smp.Start, smp.Value)
		}
		var s2 Series
		require.NoError(t, s2.Parse(anew))
		require.Len(t, s2.Samples, len(s.Samples))
		require.Equal(t, s.LabelBytes, s2.LabelBytes)
	})
}

func BenchmarkParse(b *testing.B) {
	field, _, err := NextField(goldenRecord())
	require.NoError(b, err)
	var s Series
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Parse(field.Payload); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSeriesHash(b *testing.B) {
	var ls []Label
	for _, n := range []string{"__name__", "cluster", "container", "endpoint", "id", "image", "instance", "interface", "job", "namespace", "node", "pod"} {
		ls = append(ls, Label{[]byte(n), []byte(n + " has a value of some length")})
	}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		_, buf = SeriesHash("tenant", ls, buf)
	}
}
