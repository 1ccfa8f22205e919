package producer

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/storage/remote"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"

	"sluice/internal/log"
	"sluice/schema"
)

var (
	discard   = slog.New(slog.DiscardHandler)
	otlpTime  = pcommon.NewTimestampFromTime(testNow)
	otlpStart = pcommon.NewTimestampFromTime(testNow.Add(-time.Minute))
)

// otlpMetrics returns metrics of one resource and scope, and where to add metrics.
func otlpMetrics() (md pmetric.Metrics, add func(name string) pmetric.Metric) {
	md = pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	a := rm.Resource().Attributes()
	a.PutStr("service.name", "shop")
	a.PutStr("service.namespace", "eu")
	a.PutStr("service.instance.id", "i-1")
	a.PutStr("host.name", "node-7")
	sm := rm.ScopeMetrics().AppendEmpty()
	sm.Scope().SetName("lib")
	sm.Scope().SetVersion("1.2")
	return md, func(name string) pmetric.Metric {
		m := sm.Metrics().AppendEmpty()
		m.SetName(name)
		m.SetDescription("about " + name)
		return m
	}
}

func setPoint(d interface {
	SetTimestamp(pcommon.Timestamp)
	SetStartTimestamp(pcommon.Timestamp)
	Attributes() pcommon.Map
}) {
	d.SetTimestamp(otlpTime)
	d.SetStartTimestamp(otlpStart)
	d.Attributes().PutStr("http.route", "/cart")
}

func addGauge(m pmetric.Metric, v float64) pmetric.NumberDataPoint {
	d := m.SetEmptyGauge().DataPoints().AppendEmpty()
	d.SetDoubleValue(v)
	setPoint(d)
	return d
}

func addSum(m pmetric.Metric, t pmetric.AggregationTemporality) pmetric.NumberDataPoint {
	m.SetEmptySum().SetIsMonotonic(true)
	m.Sum().SetAggregationTemporality(t)
	d := m.Sum().DataPoints().AppendEmpty()
	d.SetIntValue(42)
	setPoint(d)
	return d
}

func addHistogram(m pmetric.Metric, bounds []float64, counts []uint64) pmetric.HistogramDataPoint {
	m.SetEmptyHistogram().SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	d := m.Histogram().DataPoints().AppendEmpty()
	d.ExplicitBounds().FromRaw(bounds)
	d.BucketCounts().FromRaw(counts)
	for _, c := range counts {
		d.SetCount(d.Count() + c)
	}
	d.SetSum(12.5)
	setPoint(d)
	return d
}

func addExponential(m pmetric.Metric, scale int32) pmetric.ExponentialHistogramDataPoint {
	m.SetEmptyExponentialHistogram().SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	d := m.ExponentialHistogram().DataPoints().AppendEmpty()
	d.SetScale(scale)
	d.Positive().SetOffset(-3)
	d.Positive().BucketCounts().FromRaw([]uint64{1, 0, 0, 0, 0, 5, 2})
	d.Negative().BucketCounts().FromRaw([]uint64{4})
	d.SetZeroCount(2)
	d.SetCount(14)
	d.SetSum(3)
	setPoint(d)
	return d
}

// everythingOTLP has one of everything.
func everythingOTLP() pmetric.Metrics {
	md, add := otlpMetrics()
	add("queue.depth").SetUnit("{item}")
	addGauge(md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().At(0), 3.5).Attributes().PutInt("_shard", 3)
	e := addSum(add("orders.placed"), pmetric.AggregationTemporalityCumulative).Exemplars().AppendEmpty()
	e.SetTimestamp(otlpTime)
	e.SetDoubleValue(1)
	e.SetTraceID([16]byte{1, 2})
	e.FilteredAttributes().PutStr("user", "u-1")
	h := add("req.latency")
	h.SetUnit("s")
	d := addHistogram(h, []float64{0.1, 1}, []uint64{3, 4, 5})
	d.Exemplars().AppendEmpty().SetDoubleValue(0.5)
	d = h.Histogram().DataPoints().AppendEmpty() // without sum and bounds
	d.SetCount(7)
	d.BucketCounts().FromRaw([]uint64{7})
	setPoint(d)
	d.Attributes().PutStr("http.route", "/pay")
	addExponential(add("exp.latency"), 12).Exemplars().AppendEmpty().SetIntValue(1)
	s := add("rpc.time").SetEmptySummary().DataPoints().AppendEmpty()
	setPoint(s)
	s.SetCount(10)
	s.SetSum(20)
	q := s.QuantileValues().AppendEmpty()
	q.SetQuantile(0.99)
	q.SetValue(4)
	gone := addGauge(add("gone"), 0)
	gone.SetFlags(pmetric.DefaultDataPointFlags.WithNoRecordedValue(true))
	up := add("active")
	addSum(up, pmetric.AggregationTemporalityCumulative)
	up.Sum().SetIsMonotonic(false)
	nested := addGauge(add("nested"), 1).Attributes().PutEmptyMap("map")
	nested.PutEmptySlice("list").AppendEmpty().SetDouble(1.5)
	nested.PutEmptyBytes("bytes").FromRaw([]byte{1, 2, 3})
	return md
}

func otlpProto(t testing.TB, md pmetric.Metrics) []byte {
	b, err := pmetricotlp.NewExportRequestFromMetrics(md).MarshalProto()
	require.NoError(t, err)
	return b
}

func otlpJSON(t testing.TB, md pmetric.Metrics) []byte {
	b, err := pmetricotlp.NewExportRequestFromMetrics(md).MarshalJSON()
	require.NoError(t, err)
	return b
}

// postOTLP sends body with header pairs; of two of one name the last counts.
func (f *fixture) postOTLP(body []byte, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, "/otlp/v1/metrics", bytes.NewReader(body))
	r.Header.Set("Content-Type", protobufType)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	f.mux.ServeHTTP(w, r)
	return w
}

// status returns the code and the message of a google.rpc.Status.
func rpcStatus(t testing.TB, w *httptest.ResponseRecorder) (code int, message string) {
	t.Helper()
	if w.Header().Get("Content-Type") == jsonType {
		var s struct {
			Code    int
			Message string
		}
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &s))
		return s.Code, s.Message
	}
	require.Equal(t, protobufType, w.Header().Get("Content-Type"))
	b := w.Body.Bytes()
	require.Equal(t, []byte{1 << 3, b[1], 2<<3 | 2}, b[:3])
	var s schema.Metadata // any message with a text in field 2: that of metadata is the name
	require.NoError(t, s.Parse(b[2:]))
	return int(b[1]), string(s.Name)
}

func exportResponse(t testing.TB, w *httptest.ResponseRecorder) (rejected int64, message string) {
	t.Helper()
	require.Equal(t, http.StatusOK, w.Code, w.Body.String())
	r := pmetricotlp.NewExportResponse()
	if w.Header().Get("Content-Type") == jsonType {
		require.NoError(t, r.UnmarshalJSON(w.Body.Bytes()))
	} else {
		require.NoError(t, r.UnmarshalProto(w.Body.Bytes()))
	}
	return r.PartialSuccess().RejectedDataPoints(), r.PartialSuccess().ErrorMessage()
}

// recorder is a storage that writes down what Prometheus' own receiver appends.
type recorder struct{ lines []string }

func (r *recorder) AppenderV2(context.Context) storage.AppenderV2 { return r }
func (r *recorder) Commit() error                                 { return nil }
func (r *recorder) Rollback() error                               { return nil }
func (r *recorder) Append(_ storage.SeriesRef, ls labels.Labels, st, at int64, v float64, h *histogram.Histogram, _ *histogram.FloatHistogram, opts storage.AOptions) (storage.SeriesRef, error) {
	line := fmt.Sprintf("%s %d %x", ls, at, math.Float64bits(v))
	if h != nil {
		line = fmt.Sprintf("%s %d %s", ls, at, h)
	}
	for _, e := range opts.Exemplars {
		if !e.HasTs {
			e.Ts = at
		}
		line += fmt.Sprintf(" # %s %d %v", e.Labels, e.Ts, e.Value)
	}
	r.lines = append(r.lines, line)
	return 0, nil
}

// written is the same of what is in the log.
func writtenLines(got prompb.WriteRequest) (lines []string) {
	var b labels.ScratchBuilder
	for _, ts := range got.Timeseries {
		ls := ts.ToLabels(&b, nil)
		var values []string
		for _, s := range ts.Samples {
			values = append(values, fmt.Sprintf("%s %d %x", ls, s.Timestamp, math.Float64bits(s.Value)))
		}
		for _, h := range ts.Histograms {
			values = append(values, fmt.Sprintf("%s %d %s", ls, h.Timestamp, h.ToIntHistogram()))
		}
		for _, e := range ts.Exemplars {
			ls := labels.NewScratchBuilder(1)
			for _, l := range e.Labels {
				ls.Add(l.Name, l.Value)
			}
			values[0] += fmt.Sprintf(" # %s %d %v", ls.Labels(), e.Timestamp, e.Value)
		}
		lines = append(lines, values...)
	}
	return lines
}

// What is in the log is what Prometheus' own receiver would have stored, in every encoding and with every setting.
func TestOTLPAsPrometheus(t *testing.T) {
	base := config.DefaultOTLPConfig
	for name, tc := range map[string]struct {
		limits string
		change func(c *config.OTLPConfig)
	}{
		"default":           {"default: {}", func(*config.OTLPConfig) {}},
		"without suffixes":  {"default: {otel_metric_suffixes_enabled: false}", func(c *config.OTLPConfig) { c.TranslationStrategy = schema.UnderscoreEscapingWithoutSuffixes }},
		"strategy":          {"default: {otel_translation_strategy: NoTranslation}", func(c *config.OTLPConfig) { c.TranslationStrategy = schema.NoTranslation }},
		"utf8":              {"default: {otel_translation_strategy: NoUTF8EscapingWithSuffixes}", func(c *config.OTLPConfig) { c.TranslationStrategy = schema.NoUTF8EscapingWithSuffixes }},
		"promote":           {"default: {promote_otel_resource_attributes: 'host.name, absent'}", func(c *config.OTLPConfig) { c.PromoteResourceAttributes = []string{"host.name"} }},
		"promote as a list": {"default: {promote_otel_resource_attributes: [host.name]}", func(c *config.OTLPConfig) { c.PromoteResourceAttributes = []string{"host.name"} }},
		"promote all":       {"default: {promote_otel_resource_attributes: '*'}", func(c *config.OTLPConfig) { c.PromoteAllResourceAttributes = true }},
		"identifying":       {"default: {otel_keep_identifying_resource_attributes: true}", func(c *config.OTLPConfig) { c.KeepIdentifyingResourceAttributes = true }},
		"nhcb":              {"default: {otel_convert_histograms_to_nhcb: true}", func(c *config.OTLPConfig) { c.ConvertHistogramsToNHCB = true }},
		"scope":             {"default: {otel_promote_scope_metadata: true}", func(c *config.OTLPConfig) { c.PromoteScopeMetadata = true }},
		"no underscore rules": {"default: {otel_label_name_underscore_sanitization: false, otel_label_name_preserve_multiple_underscores: false}", func(c *config.OTLPConfig) {
			c.LabelNameUnderscoreSanitization, c.LabelNamePreserveMultipleUnderscores = false, false
		}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := base
			tc.change(&cfg)
			var want recorder
			h := remote.NewOTLPWriteHandler(discard, prometheus.NewRegistry(), &want, func() config.Config { return config.Config{OTLPConfig: cfg} }, remote.OTLPOptions{})
			md := everythingOTLP()
			r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(otlpProto(t, md)))
			r.Header.Set("Content-Type", protobufType)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			require.Equal(t, http.StatusOK, w.Code, w.Body.String())
			require.Greater(t, len(want.lines), 10)
			slices.Sort(want.lines)

			for _, version := range []int{schema.RecordV1, schema.RecordV2} {
				f := newFixture(t, Config{RecordVersion: version}, tc.limits, 3)
				rejected, message := exportResponse(t, f.postOTLP(otlpProto(t, md)))
				require.Zero(t, rejected, message)
				require.Empty(t, message)
				got := writtenLines(f.log.content(t))
				slices.Sort(got)
				require.Equal(t, want.lines, got)
				require.Zero(t, f.budget.used.Load())
			}
		})
	}
}

func gzipped(t testing.TB, b []byte) []byte {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, err := w.Write(b)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return buf.Bytes()
}

func zstded(t testing.TB, b []byte) []byte {
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	require.NoError(t, err)
	return w.EncodeAll(b, nil)
}

func TestOTLPEncodings(t *testing.T) {
	md := everythingOTLP()
	f := newFixture(t, Config{}, "", 3)
	exportResponse(t, f.postOTLP(otlpProto(t, md)))
	want := writtenLines(f.log.content(t))
	for _, path := range []string{"/otlp/v1/metrics", "/api/v1/otlp/v1/metrics"} {
		for contentType, body := range map[string][]byte{
			protobufType: otlpProto(t, md), jsonType: otlpJSON(t, md), "application/json; charset=utf-8": otlpJSON(t, md),
		} {
			for encoding, body := range map[string][]byte{"": body, "identity": body, "gzip": gzipped(t, body), "zstd": zstded(t, body)} {
				f := newFixture(t, Config{}, "", 3)
				r := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(body))
				r.Header.Set("Content-Type", contentType)
				r.Header.Set("Content-Encoding", encoding)
				w := httptest.NewRecorder()
				f.mux.ServeHTTP(w, r)
				rejected, message := exportResponse(t, w)
				require.Zero(t, rejected, "%s %s %s", contentType, encoding, message)
				require.Contains(t, contentType, w.Header().Get("Content-Type"))
				require.ElementsMatch(t, want, writtenLines(f.log.content(t)), "%s %s", contentType, encoding)
			}
		}
	}
}

// Start times and metadata are kept; metadata comes with the definition of a series and not with every request.
func TestOTLPStartAndMetadata(t *testing.T) {
	f := newFixture(t, Config{}, "", 1)
	exportResponse(t, f.postOTLP(otlpProto(t, everythingOTLP())))
	got := f.log.content(t)
	about := map[string]prompb.MetricMetadata{}
	for _, m := range got.Metadata {
		about[m.MetricFamilyName] = m
	}
	require.Equal(t, prompb.MetricMetadata{Type: prompb.MetricMetadata_COUNTER, MetricFamilyName: "orders_placed_total", Help: "about orders.placed"}, about["orders_placed_total"])
	require.Equal(t, prompb.MetricMetadata{Type: prompb.MetricMetadata_HISTOGRAM, MetricFamilyName: "req_latency_seconds", Help: "about req.latency", Unit: "seconds"}, about["req_latency_seconds"])
	require.Equal(t, prompb.MetricMetadata_HISTOGRAM, about["exp_latency"].Type)
	require.Equal(t, prompb.MetricMetadata_SUMMARY, about["rpc_time"].Type)
	require.Equal(t, prompb.MetricMetadata_GAUGE, about["active"].Type)
	require.Equal(t, prompb.MetricMetadata_GAUGE, about["target_info"].Type)
	require.Len(t, about, 9)
	var starts []int64
	for _, recs := range f.log.selfContained(t) {
		for _, r := range recs {
			var s schema.Series
			for rest := r.Value; len(rest) > 0; {
				field, next, err := schema.NextField(rest)
				require.NoError(t, err)
				if rest = next; field.Meta {
					continue
				}
				require.NoError(t, s.Parse(field.Payload))
				for _, smp := range s.Samples {
					starts = append(starts, smp.Start)
				}
				for _, h := range s.Histograms {
					_, _, _, start, err := schema.DecodeHistogram(h)
					require.NoError(t, err)
					starts = append(starts, start)
				}
			}
		}
	}
	require.Greater(t, len(starts), 15)
	slices.Sort(starts)
	require.Zero(t, starts[0], "target_info has none")
	for _, s := range starts[1:] {
		require.Equal(t, testNow.Add(-time.Minute).UnixMilli(), s)
	}
	f.log.reset()
	exportResponse(t, f.postOTLP(otlpProto(t, everythingOTLP())))
	require.Empty(t, f.log.content(t).Metadata)
}

// Every reason to refuse a data point: the ID, that it is counted, and that its neighbours are written.
func TestOTLPPartialSuccess(t *testing.T) {
	many := func(n int) func(m pmetric.Metric) {
		return func(m pmetric.Metric) {
			a := addGauge(m, 1).Attributes()
			for i := range n - 1 {
				a.PutStr(fmt.Sprint("a", i), "x")
			}
		}
	}
	for name, tc := range map[string]struct {
		build func(m pmetric.Metric)
		id    schema.ErrorID
		says  string
		n     int64
	}{
		"delta sum":   {func(m pmetric.Metric) { addSum(m, pmetric.AggregationTemporalityDelta) }, schema.ErrOTLPTemporality, "delta", 1},
		"unspecified": {func(m pmetric.Metric) { addSum(m, pmetric.AggregationTemporalityUnspecified) }, schema.ErrOTLPTemporality, "not said", 1},
		"delta histogram": {func(m pmetric.Metric) {
			addHistogram(m, []float64{1}, []uint64{1, 2})
			m.Histogram().SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
		}, schema.ErrOTLPTemporality, "bad.one", 1},
		"delta exponential": {func(m pmetric.Metric) {
			addExponential(m, 1)
			m.ExponentialHistogram().SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
		}, schema.ErrOTLPTemporality, "collector", 1},
		"no value":             {func(m pmetric.Metric) { d := m.SetEmptyGauge().DataPoints().AppendEmpty(); setPoint(d) }, schema.ErrOTLPDataPoint, "no value", 1},
		"no time":              {func(m pmetric.Metric) { addGauge(m, 1).SetTimestamp(0) }, schema.ErrOTLPDataPoint, "no time", 1},
		"time of no int64":     {func(m pmetric.Metric) { addGauge(m, 1).SetTimestamp(math.MaxUint64) }, schema.ErrTooFarInFuture, "9999", 1},
		"future":               {func(m pmetric.Metric) { addGauge(m, 1).SetTimestamp(otlpTime + 601e9) }, schema.ErrTooFarInFuture, "creation_grace_period", 1},
		"past":                 {func(m pmetric.Metric) { addGauge(m, 1).SetTimestamp(otlpTime - 3601e9) }, schema.ErrTooFarInPast, "past_grace_period", 1},
		"too few buckets":      {func(m pmetric.Metric) { addHistogram(m, []float64{1, 2}, []uint64{1, 2}) }, schema.ErrOTLPDataPoint, "2 bounds and 2 buckets", 1},
		"bounds descend":       {func(m pmetric.Metric) { addHistogram(m, []float64{2, 1}, []uint64{1, 2, 3}) }, schema.ErrOTLPDataPoint, "ascend", 1},
		"bound is NaN":         {func(m pmetric.Metric) { addHistogram(m, []float64{math.NaN()}, []uint64{1, 2}) }, schema.ErrOTLPDataPoint, "ascend", 1},
		"scale":                {func(m pmetric.Metric) { addExponential(m, -5) }, schema.ErrHistogramInvalid, "-5", 1},
		"count of exponential": {func(m pmetric.Metric) { addExponential(m, 1).SetCount(1) }, schema.ErrHistogramInvalid, "", 1},
		"attribute name":       {func(m pmetric.Metric) { addGauge(m, 1).Attributes().PutStr("___", "x") }, schema.ErrLabelNameInvalid, "___", 1},
		"empty attribute name": {func(m pmetric.Metric) { addGauge(m, 1).Attributes().PutStr("", "x") }, schema.ErrLabelNameInvalid, "", 1},
		"attributes":           {many(9), schema.ErrTooManyLabels, "max_label_names_per_series", 1},
		"labels":               {many(8), schema.ErrTooManyLabels, "11 labels", 1}, // with __name__, job and instance
		"value too long":       {func(m pmetric.Metric) { addGauge(m, 1).Attributes().PutStr("v", strings.Repeat("x", 41)) }, schema.ErrLabelValueTooLong, "41 bytes", 1},
		"not utf8":             {func(m pmetric.Metric) { addGauge(m, 1).Attributes().PutStr("v", "\xff") }, schema.ErrLabelValueInvalid, "", 1},
		"huge attribute":       {func(m pmetric.Metric) { addGauge(m, 1).Attributes().PutStr("v", strings.Repeat("x", 20<<20)) }, schema.ErrRecordTooLarge, "", 1},
		"metric name":          {func(m pmetric.Metric) { addGauge(m, 1); m.SetName("…") }, schema.ErrOTLPDataPoint, "", 1},
		"one bucket of many": {func(m pmetric.Metric) {
			addHistogram(m, []float64{1, 2}, []uint64{1, 2, 3})
			m.SetName(strings.Repeat("n", 36))
		}, schema.ErrLabelValueTooLong, "", 1},
		"two of a metric": {func(m pmetric.Metric) {
			addGauge(m, 1).SetTimestamp(0)
			setPoint(m.Gauge().DataPoints().AppendEmpty())
		}, schema.ErrOTLPDataPoint, "", 2},
	} {
		t.Run(name, func(t *testing.T) {
			md, add := otlpMetrics()
			addGauge(add("before"), 1)
			tc.build(add("bad.one"))
			addGauge(add("after"), 2)
			f := newFixture(t, Config{}, "default: {past_grace_period: 1h, max_label_names_per_series: 8, max_label_value_length: 40}", 3)
			rejected, message := exportResponse(t, f.postOTLP(otlpProto(t, md)))
			require.Equal(t, tc.n, rejected, message)
			require.Contains(t, message, string(tc.id))
			require.Contains(t, message, tc.says)
			require.Contains(t, message, fmt.Sprintf("%d of %d data points", tc.n, 2+tc.n))
			require.Less(t, len(message), 900)
			lines := strings.Join(writtenLines(f.log.content(t)), "\n")
			require.Contains(t, lines, `{__name__="before"`)
			require.Contains(t, lines, `{__name__="after"`)
			require.NotZero(t, testutil.ToFloat64(f.metrics.rejected.WithLabelValues("anonymous", string(tc.id))))
			require.Zero(t, f.budget.used.Load())

			// Alone it is no success at all.
			md, add = otlpMetrics()
			tc.build(add("bad.one"))
			w := f.postOTLP(otlpJSON(t, md), "Content-Type", jsonType)
			if w.Code == http.StatusOK && strings.Contains(name, "not utf8") {
				return // which JSON cannot carry
			}
			require.Equal(t, http.StatusBadRequest, w.Code, w.Body.String())
			code, message := rpcStatus(t, w)
			require.Equal(t, 3, code)
			require.Contains(t, message, string(tc.id))
		})
	}
}

// Requests that fail as a whole get a google.rpc.Status in their own encoding, and Retry-After where a retry helps.
func TestOTLPErrors(t *testing.T) {
	md, add := otlpMetrics()
	for i := range 20 {
		addGauge(add(fmt.Sprint("m", i)), 1)
	}
	for name, tc := range map[string]struct {
		cfg     Config
		limits  string
		logErr  error
		body    []byte // nil: the metrics
		headers []string
		status  int
		code    int
		id      schema.ErrorID
		retry   string
	}{
		"no protobuf":     {body: []byte("\xff\xff"), status: 400, code: 3, id: schema.ErrDecode},
		"cut protobuf":    {body: otlpProto(t, md)[:100], status: 400, code: 3, id: schema.ErrDecode},
		"encoding":        {headers: []string{"Content-Encoding", "br"}, status: 415, code: 3, id: schema.ErrContentEncoding},
		"snappy":          {headers: []string{"Content-Encoding", "snappy"}, status: 415, code: 3, id: schema.ErrContentEncoding},
		"no gzip":         {headers: []string{"Content-Encoding", "gzip"}, status: 400, code: 3, id: schema.ErrDecompress},
		"no zstd":         {headers: []string{"Content-Encoding", "zstd"}, status: 400, code: 3, id: schema.ErrDecompress},
		"empty gzip":      {body: []byte{}, headers: []string{"Content-Encoding", "gzip"}, status: 400, code: 3, id: schema.ErrDecompress},
		"tenant":          {headers: []string{"X-Scope-OrgID", ".."}, status: 400, code: 3, id: schema.ErrTenantInvalid},
		"no tenant":       {headers: []string{"X-Scope-OrgID", ""}, status: 401, code: 16, id: schema.ErrNoTenant},
		"body":            {cfg: Config{MaxBodyBytes: 100}, status: 413, code: 3, id: schema.ErrBodyTooLarge},
		"decoded":         {cfg: Config{MaxDecodedBytes: 100}, status: 413, code: 3, id: schema.ErrBodyTooLarge},
		"series":          {limits: "default: {max_series_per_request: 19}", status: 413, code: 3, id: schema.ErrSeriesPerRequest},
		"rate":            {limits: "default: {ingestion_rate: 1, ingestion_burst_size: 30}", status: 429, code: 8, id: schema.ErrIngestionRate, retry: "12"},
		"above the burst": {limits: "default: {ingestion_rate: 1, ingestion_burst_size: 20}", status: 413, code: 3, id: schema.ErrIngestionRate},
		"log":             {logErr: errors.New("away"), status: 503, code: 14, id: schema.ErrLogDown, retry: "1"},
		"log slow":        {logErr: log.ErrOverloaded, status: 503, code: 14, id: schema.ErrOverloaded, retry: "1"},
	} {
		for _, contentType := range []string{protobufType, jsonType} {
			t.Run(name+" "+contentType, func(t *testing.T) {
				f := newFixture(t, tc.cfg, tc.limits, 3)
				f.log.fail(tc.logErr)
				body := tc.body
				switch {
				case body == nil && contentType == jsonType:
					body = otlpJSON(t, md)
				case body == nil:
					body = otlpProto(t, md)
				}
				headers := append([]string{"Content-Type", contentType}, tc.headers...)
				if name == "rate" {
					require.Equal(t, http.StatusOK, f.postOTLP(body, headers...).Code) // 21 with target_info
				}
				w := f.postOTLP(body, headers...)
				require.Equal(t, tc.status, w.Code)
				require.Equal(t, contentType, w.Header().Get("Content-Type"))
				code, message := rpcStatus(t, w)
				require.Equal(t, tc.code, code)
				require.Contains(t, message, "("+string(tc.id)+")")
				require.Equal(t, tc.retry, w.Header().Get("Retry-After"))
				require.Zero(t, f.budget.used.Load())
				if tc.status != 429 {
					require.Empty(t, f.log.records())
				}
			})
		}
	}
	f := newFixture(t, Config{}, "", 1)
	for _, contentType := range []string{"text/plain", "", "application/x-protobuf;;"} {
		w := f.postOTLP(otlpProto(t, md), "Content-Type", contentType)
		require.Equal(t, http.StatusUnsupportedMediaType, w.Code)
		require.Equal(t, jsonType, w.Header().Get("Content-Type"))
		_, message := rpcStatus(t, w)
		require.Contains(t, message, string(schema.ErrContentType))
	}
	w := httptest.NewRecorder()
	f.mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/otlp/v1/metrics", nil))
	require.Equal(t, http.StatusMethodNotAllowed, w.Code)
	require.Equal(t, "POST", w.Header().Get("Allow"))
	require.Positive(t, testutil.ToFloat64(f.metrics.requests.WithLabelValues("415", versionOTLP)))

	empty := f.postOTLP(nil)
	rejected, message := exportResponse(t, empty)
	require.Zero(t, rejected)
	require.Empty(t, message)
}
