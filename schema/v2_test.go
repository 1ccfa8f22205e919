package schema

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"github.com/stretchr/testify/require"
)

func goldenV2() *writev2.Request {
	return &writev2.Request{
		Symbols: []string{"", "__name__", "up", "job", "x", "help", "unit", "trace"},
		Timeseries: []writev2.TimeSeries{
			{
				LabelsRefs: []uint32{1, 2, 3, 4},
				Samples:    []writev2.Sample{{Value: 1, Timestamp: 5, StartTimestamp: 3}, {Value: math.NaN(), Timestamp: 6}},
				Exemplars:  []writev2.Exemplar{{LabelsRefs: []uint32{7, 4}, Value: 3, Timestamp: 9}, {Value: 1}},
				Metadata:   writev2.Metadata{Type: 2, HelpRef: 5, UnitRef: 6},
			},
			{LabelsRefs: []uint32{1, 4}, Histograms: []writev2.Histogram{{Timestamp: 7, StartTimestamp: 1}}},
		},
	}
}

func TestRequestV2(t *testing.T) {
	body, err := goldenV2().Marshal()
	require.NoError(t, err)
	require.True(t, LooksLikeV2(body))
	var r RequestV2
	for range 2 {
		require.NoError(t, r.Reset(body, 8))
		require.False(t, r.LooksLikeV1())
		s, ok, err := r.Next(1000)
		require.NoError(t, err)
		require.True(t, ok)
		require.True(t, s.HasMeta)
		require.Equal(t, Metadata{Type: 2, Help: []byte("help"), Unit: []byte("unit")}, s.Metadata)
		var ts prompb.TimeSeries
		require.NoError(t, ts.Unmarshal(s.Payload))
		require.Equal(t, []prompb.Label{{Name: "__name__", Value: "up"}, {Name: "job", Value: "x"}}, ts.Labels)
		require.Equal(t, []prompb.Exemplar{{Labels: []prompb.Label{{Name: "trace", Value: "x"}}, Value: 3, Timestamp: 9}, {Value: 1}}, ts.Exemplars)
		require.Len(t, ts.Samples, 2)
		var v1 Series
		require.NoError(t, v1.Parse(s.Payload))
		require.Equal(t, int64(3), v1.Samples[0].Start)

		s, ok, err = r.Next(1000)
		require.NoError(t, err)
		require.True(t, ok)
		require.False(t, s.HasMeta)
		require.NoError(t, v1.Parse(s.Payload))
		_, _, at, start, err := DecodeHistogram(v1.Histograms[0])
		require.NoError(t, err)
		require.Equal(t, []int64{7, 1}, []int64{at, start})
		_, ok, err = r.Next(1000)
		require.NoError(t, err)
		require.False(t, ok)
		r.Release()
	}
	require.ErrorIs(t, r.Reset(body, 7), ErrTooManySymbols)

	require.NoError(t, r.Reset(body, 8))
	_, ok, err := r.Next(30)
	require.True(t, ok, "the walk goes on after a series that is too large")
	var se *Error
	require.ErrorAs(t, err, &se)
	require.Equal(t, ErrRecordTooLarge, se.ID)
	_, ok, err = r.Next(1000)
	require.True(t, ok)
	require.NoError(t, err)
}

// References may come one by one, in several fields, after the samples, and symbols after the series.
func TestRequestV2Order(t *testing.T) {
	series := []byte("\x12\x02\x10\x05" + "\x08\x01" + "\x08\x02" + "\x0a\x01\x01" + "\x0a\x01\x03")
	body := AppendField(nil, 5, series)
	for _, s := range []string{"", "a", "1", "2"} {
		body = AppendField(body, 4, []byte(s))
	}
	var r RequestV2
	require.NoError(t, r.Reset(body, 10))
	s, ok, err := r.Next(1000)
	require.NoError(t, err)
	require.True(t, ok)
	var v1 Series
	require.NoError(t, v1.Parse(s.Payload))
	require.Equal(t, []Label{{[]byte("a"), []byte("1")}, {[]byte("a"), []byte("2")}}, v1.Labels)
	require.Equal(t, AppendLabels(nil, v1.Labels), v1.LabelBytes, "labels lie together")
	require.Len(t, v1.Samples, 1)
}

func TestRequestV2Malformed(t *testing.T) {
	var r RequestV2
	for _, bad := range []string{"\x22", "\x22\x05a", "\x20\x01", "\x00\x00"} {
		require.Error(t, r.Reset([]byte(bad), 10), "%q", bad)
	}
	for _, bad := range []string{
		"\x28\x01",             // series as a number
		"\x2a\x02\x10\x01",     // sample as a number
		"\x2a\x02\x0a\x01",     // truncated refs
		"\x2a\x03\x0a\x01\x80", // truncated ref
		"\x2a\x05\x0d\x00\x00\x00\x00",
		"\x2a\x04\x2a\x02\x1a\x00", // help ref as bytes
		"\x2a\x04\x22\x02\x10\x00", // exemplar value as a number
		"\x2a\x03\x22\x01\x11",
	} {
		require.NoError(t, r.Reset([]byte(bad), 10), "%q", bad)
		_, _, err := r.Next(1000)
		require.Error(t, err, "%q", bad)
		var se *Error
		require.NotErrorAs(t, err, &se, "%q", bad)
	}
}

func TestLooksLikeV2(t *testing.T) {
	v1, err := (&prompb.WriteRequest{Timeseries: make([]prompb.TimeSeries, 1)}).Marshal()
	require.NoError(t, err)
	require.False(t, LooksLikeV2(v1))
	require.False(t, LooksLikeV2(nil))
	require.False(t, LooksLikeV2([]byte{0x30, 1}))
	require.False(t, LooksLikeV2([]byte{0x22}))
	require.True(t, LooksLikeV2([]byte{0x22, 0, 0x22, 0}))
	require.True(t, LooksLikeV2([]byte{0x2a, 0}))
}

func TestFamilyOf(t *testing.T) {
	for _, tc := range []struct {
		name string
		typ  uint64
		want string
	}{
		{"a_bucket", 3, "a"}, {"a_count", 3, "a"}, {"a_sum", 4, "a"}, {"a", 3, "a"}, {"_sum", 3, "_sum"},
		{"a_bucket", 5, "a_bucket"}, {"a_sum", 5, "a"}, {"a_total", 1, "a_total"}, {"a_sum", 2, "a_sum"}, {"", 3, ""},
	} {
		require.Equal(t, tc.want, string(FamilyOf([]byte(tc.name), tc.typ)))
	}
}

// Whatever comes out parses, keeps to its limit, and is what Prometheus' decoder finds in the request.
func FuzzRequestV2(f *testing.F) {
	body, err := goldenV2().Marshal()
	require.NoError(f, err)
	f.Add(body)
	f.Add([]byte("\x22\x00\x22\x01a\x2a\x04\x0a\x02\x01\x01"))
	f.Add([]byte("\x2a\x00\x2a\x06\x22\x04\x0a\x02\x00\x00\x22\x00"))
	f.Fuzz(func(t *testing.T, body []byte) {
		const limit = 2000
		var r RequestV2
		if r.Reset(body, 100) != nil {
			return
		}
		var got []prompb.TimeSeries
		for {
			raw, ok, err := r.NextRaw()
			if err != nil {
				return
			}
			if !ok {
				break
			}
			// The short way for known series takes nothing that the long one does not, and finds the same.
			var short Series
			var names []string
			refs, taken := r.LabelRefs(raw)
			for _, ref := range refs {
				names = append(names, string(r.Symbols()[min(int(ref), len(r.Symbols())-1)]))
			}
			taken = taken && r.CutValues(raw, &short)
			s, err := r.Translate(raw, limit)
			if err != nil {
				if bad := (&Error{}); taken && errors.As(err, &bad) && bad.ID != ErrRecordTooLarge {
					t.Fatalf("taken the short way: %v", err)
				}
				return
			}
			if taken {
				var long Series
				require.NoError(t, long.Parse(s.Payload))
				require.Len(t, names, 2*len(long.Labels))
				for i, l := range long.Labels {
					require.Equal(t, names[2*i]+"\xff"+names[2*i+1], string(l.Name)+"\xff"+string(l.Value))
				}
				require.Equal(t, len(long.Histograms), len(short.Histograms))
				require.Empty(t, long.Exemplars)
				require.Equal(t, len(long.Samples), len(short.Samples))
				for i, smp := range long.Samples {
					require.Equal(t, math.Float64bits(smp.Value), math.Float64bits(short.Samples[i].Value))
					require.Equal(t, [2]int64{smp.Time, smp.Start}, [2]int64{short.Samples[i].Time, short.Samples[i].Start})
				}
			}
			require.LessOrEqual(t, len(s.Payload), limit)
			var v1 Series
			if v1.Parse(s.Payload) != nil {
				return // samples are looked into there
			}
			for _, h := range v1.Histograms {
				if _, _, _, _, err := DecodeHistogram(h); err != nil {
					return
				}
			}
			var ts prompb.TimeSeries
			require.NoError(t, ts.Unmarshal(s.Payload))
			got = append(got, ts)
		}
		var want writev2.Request
		require.NoError(t, want.Unmarshal(body))
		require.Len(t, got, len(want.Timeseries))
		for i, ts := range want.Timeseries {
			require.Len(t, ts.LabelsRefs, 2*len(got[i].Labels))
			require.Len(t, ts.Samples, len(got[i].Samples))
			require.Len(t, ts.Histograms, len(got[i].Histograms))
			require.Len(t, ts.Exemplars, len(got[i].Exemplars))
			for j, l := range got[i].Labels {
				require.Equal(t, want.Symbols[ts.LabelsRefs[2*j]], l.Name)
				require.Equal(t, want.Symbols[ts.LabelsRefs[2*j+1]], l.Value)
			}
		}
	})
}

func BenchmarkRequestV2(b *testing.B) {
	req := goldenV2()
	req.Timeseries = req.Timeseries[:1]
	req.Symbols = append(req.Symbols, strings.Repeat("x", 100))
	body, err := req.Marshal()
	require.NoError(b, err)
	var r RequestV2
	b.ReportAllocs()
	for b.Loop() {
		if err := r.Reset(body, 100); err != nil {
			b.Fatal(err)
		}
		if _, _, err := r.Next(1000); err != nil {
			b.Fatal(err)
		}
	}
}
