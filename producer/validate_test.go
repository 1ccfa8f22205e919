package producer

import (
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"
	"github.com/stretchr/testify/require"

	"sluice/schema"
)

const testLimits = `
default:
  max_label_names_per_series: 5
  max_label_name_length: 30
  max_label_value_length: 40
  max_native_histogram_buckets: 4
  creation_grace_period: 10m
  past_grace_period: 1h
  max_metadata_length: 10
`

func at(t int64) prompb.Sample { return prompb.Sample{Value: 1, Timestamp: t} }

// Every reason to refuse something: the ID, what the message says, and that the neighbours are written.
func TestRefusals(t *testing.T) {
	now := testNow.UnixMilli()
	wide := testHistogram(now)
	wide.PositiveSpans[1].Length, wide.PositiveDeltas = 2, append(wide.PositiveDeltas, 0)
	wide.Count = &prompb.Histogram_CountInt{CountInt: 11}
	badCount := testHistogram(now)
	badCount.Count = &prompb.Histogram_CountInt{CountInt: 99}
	badSpans := testHistogram(now)
	badSpans.PositiveSpans = []prompb.BucketSpan{{Length: math.MaxUint32}, {Length: 1 << 31}}
	badSchema := testHistogram(now)
	badSchema.Schema = -10
	future := testHistogram(now + time.Hour.Milliseconds())
	hist := func(h prompb.Histogram) prompb.TimeSeries {
		ts := series("__name__", "h")
		ts.Histograms = []prompb.Histogram{h}
		return ts
	}
	labels := func(pairs ...string) prompb.TimeSeries { return withSamples(series(pairs...), one(1)) }
	for name, tc := range map[string]struct {
		series prompb.TimeSeries
		id     schema.ErrorID
		says   []string
	}{
		"no labels":             {labels(), schema.ErrNoLabels, nil},
		"only empty labels":     {labels("__name__", "", "a", ""), schema.ErrNoLabels, nil},
		"empty name":            {labels("", "x", "__name__", "up"), schema.ErrLabelNameInvalid, []string{`up{""="x"}`}},
		"empty name and value":  {labels("", "", "__name__", "up"), schema.ErrLabelNameInvalid, nil},
		"name not utf8":         {labels("__name__", "up", "a\xff", "x"), schema.ErrLabelNameInvalid, []string{`a\xff`}},
		"too many":              {labels("__name__", "up", "a", "1", "b", "2", "c", "3", "d", "4", "e", "5"), schema.ErrTooManyLabels, []string{"6 labels", "max_label_names_per_series of 5"}},
		"name too long":         {labels("__name__", "up", strings.Repeat("n", 31), "x"), schema.ErrLabelNameTooLong, []string{"31 bytes", "max_label_name_length of 30"}},
		"value too long":        {labels("__name__", "up", "v", strings.Repeat("n", 41)), schema.ErrLabelValueTooLong, []string{"41 bytes", "max_label_value_length of 40", `"v"`}},
		"value not utf8":        {labels("__name__", "up", "v", "\xff"), schema.ErrLabelValueInvalid, []string{`"v"`}},
		"unsorted":              {labels("b", "1", "a", "2", "__name__", "up"), schema.ErrLabelsNotSorted, []string{`"a" comes after "b"`}},
		"twice":                 {labels("__name__", "up", "a", "1", "a", "2"), schema.ErrDuplicateLabelNames, []string{`"a"`}},
		"twice the same":        {labels("__name__", "up", "__name__", "up"), schema.ErrDuplicateLabelNames, nil},
		"no metric name":        {labels("job", "x"), schema.ErrMissingMetricName, []string{`{job="x"}`}},
		"empty metric name":     {labels("__name__", "", "job", "x"), schema.ErrMissingMetricName, nil},
		"metric name not utf8":  {labels("__name__", "up\xc3"), schema.ErrMetricNameInvalid, []string{`up\xc3`}},
		"future":                {withSamples(series("__name__", "up"), at(now+600_001)), schema.ErrTooFarInFuture, []string{"2023-11-14T22:23:20.001Z", "creation_grace_period of 10m"}},
		"past":                  {withSamples(series("__name__", "up"), at(now-3_600_001)), schema.ErrTooFarInPast, []string{"past_grace_period of 1h"}},
		"1970":                  {withSamples(series("__name__", "up"), at(0)), schema.ErrTooFarInPast, []string{"1970-01-01"}},
		"max":                   {withSamples(series("__name__", "up"), at(math.MaxInt64)), schema.ErrTooFarInFuture, []string{"9999"}},
		"min":                   {withSamples(series("__name__", "up"), at(math.MinInt64)), schema.ErrTooFarInPast, []string{"year 1"}},
		"histogram count":       {hist(badCount), schema.ErrHistogramInvalid, []string{"99"}},
		"histogram spans":       {hist(badSpans), schema.ErrHistogramInvalid, nil},
		"histogram schema":      {hist(badSchema), schema.ErrHistogramInvalid, []string{"-10"}},
		"histogram buckets":     {hist(wide), schema.ErrHistogramBuckets, []string{"5 buckets", "max_native_histogram_buckets of 4"}},
		"histogram future":      {hist(future), schema.ErrTooFarInFuture, nil},
		"order: name over many": {labels("__name__", "up", "", "1", "b", "2", "c", "3", "d", "4", "e", "5"), schema.ErrLabelNameInvalid, nil},
		"order: many over long": {labels("__name__", "up", "a", "1", "b", "2", "c", "3", "d", "4", "e", strings.Repeat("5", 50)), schema.ErrTooManyLabels, nil},
		"order: long over utf8": {labels("__name__", "up", "a", "\xff", "e", strings.Repeat("5", 50)), schema.ErrLabelValueTooLong, nil},
		"order: sort over name": {labels("b", "1", "a", "1"), schema.ErrLabelsNotSorted, nil},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, Config{RefuseUnsorted: true}, testLimits, 3)
			before := withSamples(series("__name__", "neighbour", "i", "1"), one(1))
			after := withSamples(series("__name__", "neighbour", "i", "2"), one(2))
			w := f.push(t, request1(before, tc.series, after))
			requireRefused(t, w, http.StatusBadRequest, tc.id)
			body := w.Body.String()
			require.Contains(t, body, "1 of 3 series were refused, wholly or in part: ")
			for _, s := range tc.says {
				require.Contains(t, body, s)
			}
			require.True(t, utf8.ValidString(body))
			require.Less(t, len(body), 700)

			got := f.log.content(t)
			sortSeries(&got)
			require.Equal(t, []prompb.TimeSeries{before, after}, got.Timeseries)
			require.InDelta(t, 1, testutil.ToFloat64(f.metrics.rejected.WithLabelValues("team-a", string(tc.id))), 0)
			require.Zero(t, f.budget.used.Load())
		})
	}
}

func TestAtTheLimit(t *testing.T) {
	f := newFixture(t, Config{}, testLimits, 3)
	now := testNow.UnixMilli()
	h := series("__name__", "h")
	h.Histograms = []prompb.Histogram{testHistogram(now)}
	req := request1(
		withSamples(series("__name__", "up", "a", "1", "b", "2", "c", "3", "d", "4"), at(now+600_000), at(now-3_600_000)),
		withSamples(series("__name__", strings.Repeat("n", 40), strings.Repeat("n", 30), "1"), one(1)),
		withSamples(series("__name__", "name with spaces and ☃", "label with spaces", "\x00"), one(1)),
		h,
	)
	w := f.push(t, req)
	require.Equal(t, 204, w.Code, w.Body.String())
	require.Len(t, f.log.content(t).Timeseries, 4)

	f = newFixture(t, Config{}, `default: {creation_grace_period: 0s, max_label_names_per_series: 0, max_label_name_length: 0, max_label_value_length: 0, max_native_histogram_buckets: 0}`, 3)
	many := series("__name__", "up")
	for i := range 10_000 {
		many.Labels = append(many.Labels, prompb.Label{Name: fmt.Sprintf("l%05d", i), Value: "v"})
	}
	w = f.push(t, request1(
		withSamples(series("__name__", "up"), at(maxTimestamp), at(minTimestamp)),
		withSamples(series("__name__", "up", strings.Repeat("n", 5000), strings.Repeat("v", 5000)), one(1)),
		withSamples(many, one(1)),
	))
	require.Equal(t, 204, w.Code, w.Body.String())
	w = f.push(t, request1(withSamples(series("__name__", "up"), at(maxTimestamp+1), at(minTimestamp-1))))
	requireRefused(t, w, 400, schema.ErrTooFarInFuture)
}

// A series keeps its good samples, in their bytes.
func TestGoodSamplesAreKept(t *testing.T) {
	f := newFixture(t, Config{}, testLimits, 1)
	now := testNow.UnixMilli()
	stale := prompb.Sample{Value: math.Float64frombits(value.StaleNaN), Timestamp: now}
	odd := prompb.Sample{Value: math.Float64frombits(0x7ff8_0000_dead_beef), Timestamp: now - 1}
	ts := withSamples(series("__name__", "up", "a", "", "b", "1"), at(math.MaxInt64), stale, at(0), odd, at(math.MinInt64))
	bad := testHistogram(now)
	bad.Count = &prompb.Histogram_CountInt{}
	ts.Histograms = []prompb.Histogram{bad, testHistogram(now)}
	ts.Exemplars = []prompb.Exemplar{
		{Labels: []prompb.Label{{Name: "trace", Value: strings.Repeat("x", 200)}}, Value: 1, Timestamp: now},
		{Labels: []prompb.Label{{Name: "trace", Value: "good"}}, Value: 1, Timestamp: now},
		{Labels: []prompb.Label{{Name: "trace", Value: "never"}}, Value: 1, Timestamp: math.MaxInt64},
	}
	w := f.push(t, request1(ts))
	requireRefused(t, w, 400, schema.ErrTooFarInFuture)
	require.Contains(t, w.Body.String(), "1 of 1 series")
	require.Contains(t, w.Body.String(), string(schema.ErrTooFarInPast))
	require.Contains(t, w.Body.String(), string(schema.ErrHistogramInvalid))

	want := series("__name__", "up", "b", "1")
	want.Samples = []prompb.Sample{stale, odd}
	want.Histograms = ts.Histograms[1:]
	want.Exemplars = ts.Exemplars[1:2]
	got := f.log.content(t)
	wantBytes, err := request1(want).Marshal()
	require.NoError(t, err)
	gotBytes, err := got.Marshal()
	require.NoError(t, err)
	require.Equal(t, wantBytes, gotBytes)

	rejected := func(id schema.ErrorID) float64 {
		return testutil.ToFloat64(f.metrics.rejected.WithLabelValues("team-a", string(id)))
	}
	require.InDelta(t, 1, rejected(schema.ErrTooFarInFuture), 0)
	require.InDelta(t, 2, rejected(schema.ErrTooFarInPast), 0)
	require.InDelta(t, 1, rejected(schema.ErrHistogramInvalid), 0)
	require.InDelta(t, 2, rejected(schema.ErrExemplarInvalid), 0)
	require.InDelta(t, 2, testutil.ToFloat64(f.metrics.samples), 0)

	f.log.reset()
	requireRefused(t, f.push(t, request1(withSamples(series("__name__", "up"), at(math.MaxInt64)))), 400, schema.ErrTooFarInFuture)
	require.Empty(t, f.log.records(), "nothing is left of it")
}

// A label without a value is no label: with and without it, it is one series.
func TestEmptyValuesAreDropped(t *testing.T) {
	f := newFixture(t, Config{}, "", 16)
	for i := range 50 {
		id := fmt.Sprint(i)
		w := f.push(t, request1(
			withSamples(series("__name__", "up", "i", id), one(1)),
			withSamples(series("__name__", "up", "a", "", "i", id, "z", ""), one(2)),
		))
		require.Equal(t, 204, w.Code, w.Body.String())
	}
	got := f.log.content(t)
	require.Len(t, got.Timeseries, 100)
	for _, ts := range got.Timeseries {
		require.Len(t, ts.Labels, 2)
	}
}

func TestSortLabels(t *testing.T) {
	f := newFixture(t, Config{}, "", 3)
	w := f.push(t, request1(withSamples(series("z", "1", "a", "2", "__name__", "up"), one(1))))
	require.Equal(t, 204, w.Code, w.Body.String())
	require.Equal(t, []prompb.TimeSeries{withSamples(series("__name__", "up", "a", "2", "z", "1"), one(1))}, f.log.content(t).Timeseries)
	requireRefused(t, f.push(t, request1(withSamples(series("a", "1", "__name__", "up", "a", "1"), one(1)))), 400, schema.ErrDuplicateLabelNames)
}

// Bad exemplars are no reason to fail a 1.0 request.
func TestExemplarsV1(t *testing.T) {
	f := newFixture(t, Config{}, "", 1)
	for name, labels := range map[string][]prompb.Label{
		"long":       {{Name: "a", Value: strings.Repeat("x", 128)}},
		"not utf8":   {{Name: "a", Value: "\xff"}},
		"empty name": {{Name: "", Value: "x"}},
		"twice":      {{Name: "a", Value: "x"}, {Name: "a", Value: "y"}},
	} {
		t.Run(name, func(t *testing.T) {
			f.log.reset()
			ts := withSamples(series("__name__", "up"), one(1))
			ts.Exemplars = []prompb.Exemplar{{Labels: labels, Timestamp: testNow.UnixMilli()}}
			require.Equal(t, 204, f.push(t, request1(ts)).Code)
			require.Empty(t, f.log.content(t).Timeseries[0].Exemplars)
			require.Len(t, f.log.content(t).Timeseries[0].Samples, 1)
		})
	}
	f.log.reset()
	alone := series("__name__", "up")
	alone.Exemplars = []prompb.Exemplar{{Labels: []prompb.Label{{Name: "a", Value: strings.Repeat("☃", 127)}}, Timestamp: testNow.UnixMilli()}}
	require.Equal(t, 204, f.push(t, request1(alone)).Code)
	require.Equal(t, []prompb.TimeSeries{alone}, f.log.content(t).Timeseries)
}

func TestMetadata(t *testing.T) {
	f := newFixture(t, Config{}, testLimits, 5)
	w := f.push(t, &prompb.WriteRequest{Metadata: []prompb.MetricMetadata{
		{MetricFamilyName: "a", Help: "12345678☃", Type: prompb.MetricMetadata_INFO}, // 11 bytes
		{MetricFamilyName: "a", Help: "12345678☃", Type: prompb.MetricMetadata_INFO},
		{MetricFamilyName: "", Help: "x"},
		{MetricFamilyName: "b", Unit: strings.Repeat("u", 11)},
		{MetricFamilyName: strings.Repeat("b", 41)},
		{MetricFamilyName: "c\xff"},
	}})
	require.Equal(t, 204, w.Code, w.Body.String())
	require.Equal(t, []prompb.MetricMetadata{{MetricFamilyName: "a", Help: "12345678", Type: prompb.MetricMetadata_INFO}}, f.log.content(t).Metadata)
	require.InDelta(t, 4, testutil.ToFloat64(f.metrics.rejected.WithLabelValues("team-a", string(schema.ErrMetadataInvalid))), 0)
}

func TestResolutionFinerThanStored(t *testing.T) {
	f := newFixture(t, Config{}, "", 1)
	ts := series("__name__", "h")
	h := testHistogram(testNow.UnixMilli())
	h.Schema = 20
	ts.Histograms = []prompb.Histogram{h}
	require.Equal(t, 204, f.push(t, request1(ts)).Code)
}

func TestFormatSeries(t *testing.T) {
	for want, pairs := range map[string][]string{
		`{}`:                           {},
		`up{}`:                         {"__name__", "up"},
		`up{a="x\ny", b="\"q\""}`:      {"__name__", "up", "a", "x\ny", "b", `"q"`},
		`{a="x"}`:                      {"a", "x"},
		`{"with space"="\xff"}`:        {"with space", "\xff"},
		`☃{}`:                          {"__name__", "☃"},
		"\ufffd{}":                     {"__name__", "\xff"},
		strings.Repeat("n", 200) + "…": {"__name__", strings.Repeat("n", 1<<20)},
	} {
		var labels []schema.Label
		for i := 0; i < len(pairs); i += 2 {
			labels = append(labels, schema.Label{Name: []byte(pairs[i]), Value: []byte(pairs[i+1])})
		}
		require.Equal(t, want, formatSeries(labels))
	}
	cut := formatSeries([]schema.Label{{Name: []byte("__name__"), Value: []byte(strings.Repeat("☃", 100))}})
	require.True(t, utf8.ValidString(cut))
	require.LessOrEqual(t, len(cut), maxSeriesText+len("…"))
}
