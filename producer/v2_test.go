package producer

import (
	"fmt"
	"math"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"github.com/stretchr/testify/require"

	"sluice/schema"
)

const contentTypeV2 = "application/x-protobuf;proto=io.prometheus.write.v2.Request"

// builder makes a 2.0 request the way senders do.
type builder struct {
	symbols writev2.SymbolsTable
	req     writev2.Request
}

func newBuilder() *builder { return &builder{symbols: writev2.NewSymbolTable()} }

func (b *builder) add(lbls labels.Labels) *writev2.TimeSeries {
	b.req.Timeseries = append(b.req.Timeseries, writev2.TimeSeries{LabelsRefs: b.symbols.SymbolizeLabels(lbls, nil)})
	return &b.req.Timeseries[len(b.req.Timeseries)-1]
}

func (b *builder) request() *writev2.Request {
	b.req.Symbols = b.symbols.Symbols()
	return &b.req
}

func (f *fixture) push2(t testing.TB, req *writev2.Request) *httptest.ResponseRecorder {
	t.Helper()
	return f.post(encode(t, req), "Content-Type", contentTypeV2, "Content-Encoding", "snappy", "X-Scope-OrgID", "team-a")
}

func requireWritten(t *testing.T, w *httptest.ResponseRecorder, samples, histograms, exemplars int) {
	t.Helper()
	require.Equal(t, []string{strconv.Itoa(samples)}, w.Header().Values(headerSamplesWritten))
	require.Equal(t, []string{strconv.Itoa(histograms)}, w.Header().Values(headerHistogramsWritten))
	require.Equal(t, []string{strconv.Itoa(exemplars)}, w.Header().Values(headerExemplarsWritten))
}

func TestV2(t *testing.T) {
	f := newFixture(t, Config{}, "", 4)
	now := testNow.UnixMilli()
	b := newBuilder()
	up := labels.FromStrings("__name__", "up", "job", "x")
	ts := b.add(up)
	ts.Samples = []writev2.Sample{
		{Value: 1, Timestamp: now, StartTimestamp: now - 1000},
		{Value: math.Float64frombits(value.StaleNaN), Timestamp: now + 1},
	}
	ts.Exemplars = []writev2.Exemplar{{LabelsRefs: b.symbols.SymbolizeLabels(labels.FromStrings("trace_id", "t"), nil), Value: 5, Timestamp: now}, {Value: 6, Timestamp: now}}
	ts.Metadata = writev2.Metadata{Type: writev2.Metadata_METRIC_TYPE_GAUGE, HelpRef: b.symbols.Symbolize("Is it?"), UnitRef: b.symbols.Symbolize("bool")}
	h := b.add(labels.FromStrings("__name__", "lat_bucket"))
	integer := &histogram.Histogram{
		Schema: 0, Count: 4, Sum: 7, PositiveSpans: []histogram.Span{{Offset: -1, Length: 2}}, PositiveBuckets: []int64{1, 2},
	}
	h.Histograms = []writev2.Histogram{writev2.FromIntHistogram(now-77, now, integer)}
	h.Metadata = writev2.Metadata{Type: writev2.Metadata_METRIC_TYPE_HISTOGRAM, HelpRef: b.symbols.Symbolize("Latency")}
	custom := b.add(labels.FromStrings("__name__", "custom"))
	float := &histogram.FloatHistogram{
		Schema: histogram.CustomBucketsSchema, Count: 3, Sum: 1, CustomValues: []float64{1, 2},
		PositiveSpans: []histogram.Span{{Offset: 0, Length: 3}}, PositiveBuckets: []float64{1, 1, 1},
	}
	custom.Histograms = []writev2.Histogram{writev2.FromFloatHistogram(0, now, float)}
	b.add(labels.FromStrings("__name__", "lat_sum")).Metadata = h.Metadata // metadata alone, said already

	w := f.push2(t, b.request())
	require.Equal(t, 204, w.Code, w.Body.String())
	require.Empty(t, w.Body.String())
	requireWritten(t, w, 2, 2, 2)

	got := f.log.content(t)
	sortSeries(&got)
	require.Len(t, got.Timeseries, 3)
	require.Equal(t, "custom", got.Timeseries[0].Labels[0].Value)
	require.True(t, float.Equals(got.Timeseries[0].Histograms[0].ToFloatHistogram()))
	require.Equal(t, "lat_bucket", got.Timeseries[1].Labels[0].Value)
	require.Equal(t, []prompb.Label{{Name: "__name__", Value: "up"}, {Name: "job", Value: "x"}}, got.Timeseries[2].Labels)
	require.Equal(t, value.StaleNaN, math.Float64bits(got.Timeseries[2].Samples[1].Value))
	require.Equal(t, []prompb.Exemplar{
		{Labels: []prompb.Label{{Name: "trace_id", Value: "t"}}, Value: 5, Timestamp: now}, {Value: 6, Timestamp: now},
	}, got.Timeseries[2].Exemplars)
	require.ElementsMatch(t, []prompb.MetricMetadata{
		{Type: prompb.MetricMetadata_GAUGE, MetricFamilyName: "up", Help: "Is it?", Unit: "bool"},
		{Type: prompb.MetricMetadata_HISTOGRAM, MetricFamilyName: "lat", Help: "Latency"},
	}, got.Metadata)

	// What 1.0 cannot say is there as well.
	starts := map[int64]bool{}
	for _, recs := range f.log.selfContained(t) {
		for _, r := range recs {
			for rest := r.Value; len(rest) > 0; {
				field, next, err := schema.NextField(rest)
				require.NoError(t, err)
				rest = next
				var s schema.Series
				if field.Meta {
					continue
				}
				require.NoError(t, s.Parse(field.Payload))
				for _, smp := range s.Samples {
					starts[smp.Start] = true
				}
				for _, payload := range s.Histograms {
					_, _, _, start, err := schema.DecodeHistogram(payload)
					require.NoError(t, err)
					starts[start] = true
				}
			}
		}
	}
	require.Equal(t, map[int64]bool{0: true, now - 1000: true, now - 77: true}, starts)
}

// The headers are exact when only a part was written, and zero when nothing was.
func TestV2Written(t *testing.T) {
	now := testNow.UnixMilli()
	build := func() *writev2.Request {
		b := newBuilder()
		b.add(labels.FromStrings("__name__", "a")).Samples = []writev2.Sample{{Timestamp: now}, {Timestamp: math.MaxInt64}, {Timestamp: now + 1}}
		b.add(labels.FromStrings("job", "no name")).Samples = []writev2.Sample{{Timestamp: now}}
		h := b.add(labels.FromStrings("__name__", "h"))
		h.Histograms = []writev2.Histogram{writev2.FromIntHistogram(0, now, &histogram.Histogram{Count: 7}), writev2.FromIntHistogram(0, now, &histogram.Histogram{})}
		h.Exemplars = []writev2.Exemplar{
			{LabelsRefs: b.symbols.SymbolizeLabels(labels.FromStrings("x", strings.Repeat("y", 200)), nil), Timestamp: now},
			{LabelsRefs: b.symbols.SymbolizeLabels(labels.FromStrings("x", "y"), nil), Timestamp: now},
		}
		return b.request()
	}
	f := newFixture(t, Config{}, "", 2)
	w := f.push2(t, build())
	requireRefused(t, w, 400, schema.ErrTooFarInFuture)
	require.Contains(t, w.Body.String(), "3 of 3 series")
	requireWritten(t, w, 2, 1, 1)
	require.Len(t, f.log.content(t).Timeseries, 2)

	f.log.fail(fmt.Errorf("away"))
	w = f.push2(t, build())
	requireRefused(t, w, 503, schema.ErrLogDown)
	requireWritten(t, w, 0, 0, 0)

	f = newFixture(t, Config{}, "default: {ingestion_rate: 1, ingestion_burst_size: 1}", 2)
	w = f.push2(t, build())
	requireRefused(t, w, 413, schema.ErrIngestionRate)
	requireWritten(t, w, 0, 0, 0)

	w = f.post([]byte("not snappy"), "Content-Type", contentTypeV2)
	requireRefused(t, w, 400, schema.ErrDecompress)
	requireWritten(t, w, 0, 0, 0)
	w = f.post(nil, "Content-Type", contentTypeV2, "Content-Encoding", "gzip")
	requireRefused(t, w, 415, schema.ErrContentEncoding)

	b := newBuilder()
	w = f.push2(t, b.request())
	require.Equal(t, 204, w.Code)
	requireWritten(t, w, 0, 0, 0)
}

func TestV2ExemplarsAlone(t *testing.T) {
	f := newFixture(t, Config{}, "", 2)
	b := newBuilder()
	b.add(labels.FromStrings("__name__", "a")).Exemplars = []writev2.Exemplar{{Value: 1, Timestamp: testNow.UnixMilli()}}
	w := f.push2(t, b.request())
	require.Equal(t, 204, w.Code, w.Body.String())
	requireWritten(t, w, 0, 0, 1)
	require.Len(t, f.log.content(t).Timeseries, 1)
}

func TestV2Refusals(t *testing.T) {
	now := testNow.UnixMilli()
	for name, tc := range map[string]struct {
		series writev2.TimeSeries // symbols: "", __name__, up, x
		id     schema.ErrorID
	}{
		"label ref":      {writev2.TimeSeries{LabelsRefs: []uint32{1, 4}}, schema.ErrSymbolRef},
		"huge ref":       {writev2.TimeSeries{LabelsRefs: []uint32{1, math.MaxUint32}}, schema.ErrSymbolRef},
		"odd refs":       {writev2.TimeSeries{LabelsRefs: []uint32{1, 2, 3}}, schema.ErrSymbolRef},
		"help ref":       {writev2.TimeSeries{LabelsRefs: []uint32{1, 2}, Metadata: writev2.Metadata{HelpRef: 99}}, schema.ErrSymbolRef},
		"unit ref":       {writev2.TimeSeries{LabelsRefs: []uint32{1, 2}, Metadata: writev2.Metadata{UnitRef: 99}}, schema.ErrSymbolRef},
		"exemplar ref":   {writev2.TimeSeries{LabelsRefs: []uint32{1, 2}, Exemplars: []writev2.Exemplar{{LabelsRefs: []uint32{3, 4}}}}, schema.ErrSymbolRef},
		"exemplar odd":   {writev2.TimeSeries{LabelsRefs: []uint32{1, 2}, Exemplars: []writev2.Exemplar{{LabelsRefs: []uint32{3}}}}, schema.ErrSymbolRef},
		"no labels":      {writev2.TimeSeries{}, schema.ErrNoLabels},
		"no metric name": {writev2.TimeSeries{LabelsRefs: []uint32{2, 3}}, schema.ErrMissingMetricName},
		"both kinds":     {writev2.TimeSeries{LabelsRefs: []uint32{1, 2}, Histograms: []writev2.Histogram{writev2.FromIntHistogram(0, now, &histogram.Histogram{})}}, schema.ErrSamplesAndHistograms},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, Config{}, "", 2)
			tc.series.Samples = []writev2.Sample{{Timestamp: now}}
			req := &writev2.Request{
				Symbols: []string{"", "__name__", "up", "x"},
				Timeseries: []writev2.TimeSeries{
					tc.series,
					{LabelsRefs: []uint32{1, 3}, Samples: []writev2.Sample{{Timestamp: now, Value: 4}}},
				},
			}
			w := f.push2(t, req)
			requireRefused(t, w, 400, tc.id)
			requireWritten(t, w, 1, 0, 0)
			require.Equal(t, []prompb.TimeSeries{withSamples(series("__name__", "x"), prompb.Sample{Timestamp: now, Value: 4})}, f.log.content(t).Timeseries)
		})
	}
}

// The two versions unmarshal into each other as empty requests. That must not look like success.
func TestVersionsMixedUp(t *testing.T) {
	f := newFixture(t, Config{}, "", 1)
	b := newBuilder()
	b.add(labels.FromStrings("__name__", "a")).Samples = []writev2.Sample{{Timestamp: 1}}
	w := f.post(encode(t, b.request()))
	requireRefused(t, w, 400, schema.ErrDecode)
	require.Contains(t, w.Body.String(), "remote write 2.0")

	v1 := encode(t, request1(withSamples(series("__name__", "up"), one(1))))
	w = f.post(v1, "Content-Type", contentTypeV2)
	requireRefused(t, w, 400, schema.ErrDecode)
	require.Contains(t, w.Body.String(), "remote write 1.0")
	requireWritten(t, w, 0, 0, 0)
	require.Empty(t, f.log.records())
}

// A symbol is named in few bytes and written out in many.
func TestV2Amplification(t *testing.T) {
	f := newFixture(t, Config{MaxDecodedBytes: 1 << 20}, "default: {max_label_value_length: 0, max_label_names_per_series: 0}", 1)
	req := &writev2.Request{Symbols: []string{"", "__name__", strings.Repeat("x", 100_000)}}
	for range 100 {
		req.Timeseries = append(req.Timeseries, writev2.TimeSeries{LabelsRefs: []uint32{1, 2}, Samples: []writev2.Sample{{Timestamp: testNow.UnixMilli()}}})
	}
	w := f.push2(t, req)
	requireRefused(t, w, 413, schema.ErrBodyTooLarge)
	require.Empty(t, f.log.records())
	require.Zero(t, f.budget.used.Load())

	req.Timeseries = req.Timeseries[:1]
	for range 20 {
		req.Timeseries[0].LabelsRefs = append(req.Timeseries[0].LabelsRefs, 2, 2)
	}
	requireRefused(t, f.push2(t, req), 400, schema.ErrRecordTooLarge)
}

func TestV2TooManySymbols(t *testing.T) {
	f := newFixture(t, Config{}, "", 1)
	w := f.push2(t, &writev2.Request{Symbols: make([]string, maxSymbols+1)})
	requireRefused(t, w, 413, schema.ErrBodyTooLarge)
	require.Equal(t, 204, f.push2(t, &writev2.Request{Symbols: make([]string, maxSymbols)}).Code)
	require.Zero(t, f.budget.used.Load())
}
