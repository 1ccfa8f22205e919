package producer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"sluice/internal/limits"
	"sluice/internal/log"
	"sluice/internal/web"
	"sluice/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testNow is the producer's clock in tests.
var testNow = time.UnixMilli(1_700_000_000_000)

type fixture struct {
	*Producer
	log *fakeLog
	mux *http.ServeMux
	reg *prometheus.Registry
}

func newFixture(t testing.TB, cfg Config, limitsYAML string, partitions int32) *fixture {
	t.Helper()
	var lc limits.Config
	if limitsYAML != "" {
		lc.Path = filepath.Join(t.TempDir(), "limits.yaml")
		require.NoError(t, os.WriteFile(lc.Path, []byte(limitsYAML), 0o600))
	}
	lim, err := limits.New(lc, slog.New(slog.DiscardHandler), nil)
	require.NoError(t, err)
	f := &fixture{log: newFakeLog(partitions), mux: http.NewServeMux(), reg: prometheus.NewPedanticRegistry()}
	f.Producer, err = New(cfg, f.log, nil, lim, web.Tenancy{}, slog.New(slog.DiscardHandler), f.reg)
	require.NoError(t, err)
	f.now = func() time.Time { return testNow }
	f.Register(f.mux)
	return f
}

// post sends body as it is, with header pairs.
func (f *fixture) post(body []byte, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, "/api/v1/push", bytes.NewReader(body))
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	f.mux.ServeHTTP(w, r)
	return w
}

// push sends req the way Prometheus does.
func (f *fixture) push(t testing.TB, req *prompb.WriteRequest) *httptest.ResponseRecorder {
	t.Helper()
	return f.post(encode(t, req), "Content-Type", "application/x-protobuf", "Content-Encoding", "snappy", "X-Scope-OrgID", "team-a")
}

func encode(t testing.TB, m interface{ Marshal() ([]byte, error) }) []byte {
	t.Helper()
	b, err := m.Marshal()
	require.NoError(t, err)
	return snappy.Encode(nil, b)
}

// series makes a series out of name, value pairs, not sorted.
func series(pairs ...string) prompb.TimeSeries {
	var ts prompb.TimeSeries
	for i := 0; i < len(pairs); i += 2 {
		ts.Labels = append(ts.Labels, prompb.Label{Name: pairs[i], Value: pairs[i+1]})
	}
	return ts
}

func withSamples(ts prompb.TimeSeries, samples ...prompb.Sample) prompb.TimeSeries {
	ts.Samples = append(ts.Samples, samples...)
	return ts
}

func one(v float64) prompb.Sample { return prompb.Sample{Value: v, Timestamp: testNow.UnixMilli()} }

func request1(ts ...prompb.TimeSeries) *prompb.WriteRequest {
	return &prompb.WriteRequest{Timeseries: ts}
}

func requireRefused(t testing.TB, w *httptest.ResponseRecorder, status int, id schema.ErrorID) {
	t.Helper()
	require.Equal(t, status, w.Code, w.Body.String())
	require.True(t, strings.HasSuffix(strings.TrimSpace(w.Body.String()), "("+string(id)+")"), w.Body.String())
}

func testHistogram(t int64) prompb.Histogram {
	return prompb.FromIntHistogram(t, &histogram.Histogram{
		Schema: 1, ZeroThreshold: 1e-128, ZeroCount: 1, Count: 10, Sum: 3.5,
		PositiveSpans: []histogram.Span{{Offset: -2, Length: 2}, {Offset: 3, Length: 1}}, PositiveBuckets: []int64{2, 1, -2},
		NegativeSpans: []histogram.Span{{Offset: 0, Length: 1}}, NegativeBuckets: []int64{3},
	})
}

func sortSeries(req *prompb.WriteRequest) {
	sort.SliceStable(req.Timeseries, func(i, j int) bool {
		return fmt.Sprint(req.Timeseries[i].Labels) < fmt.Sprint(req.Timeseries[j].Labels)
	})
}

// What is sent is what is in the log, bit by bit, whatever the partition.
func TestWrittenIsSent(t *testing.T) {
	for _, partitions := range []int32{1, 7} {
		f := newFixture(t, Config{}, "", partitions)
		now := testNow.UnixMilli()
		req := request1()
		for i := range 100 {
			ts := series("__name__", "up", "instance", fmt.Sprintf("host-%02d", i), "unicode", "ä\u2603\n")
			ts.Samples = []prompb.Sample{one(float64(i)), {Value: math.Float64frombits(value.StaleNaN), Timestamp: now - 1}}
			req.Timeseries = append(req.Timeseries, ts)
		}
		h := series("__name__", "hist", "le.g", "utf8 name")
		h.Histograms = []prompb.Histogram{testHistogram(now), prompb.FromFloatHistogram(now-5, &histogram.FloatHistogram{
			Schema: histogram.CustomBucketsSchema, Count: 3, Sum: math.Float64frombits(value.StaleNaN), CustomValues: []float64{1, 2.5},
			PositiveSpans: []histogram.Span{{Offset: 0, Length: 3}}, PositiveBuckets: []float64{1, 0.5, 1.5},
		})}
		h.Exemplars = []prompb.Exemplar{
			{Labels: []prompb.Label{{Name: "trace_id", Value: "测试"}}, Value: 2, Timestamp: now},
			{Value: 3, Timestamp: now - 1},
		}
		req.Timeseries = append(req.Timeseries, h)
		req.Metadata = []prompb.MetricMetadata{
			{Type: prompb.MetricMetadata_GAUGE, MetricFamilyName: "up", Help: "Is it?", Unit: "bool"},
			{MetricFamilyName: "hist"},
		}
		w := f.push(t, req)
		require.Equal(t, http.StatusNoContent, w.Code, w.Body.String())
		require.Empty(t, w.Body.String())
		require.Empty(t, w.Header().Get(headerSamplesWritten), "1.0 has no such header")

		got := f.log.content(t)
		sortSeries(&got)
		sortSeries(req)
		sort.Slice(got.Metadata, func(i, j int) bool { return got.Metadata[i].MetricFamilyName > got.Metadata[j].MetricFamilyName })
		want, err := req.Marshal()
		require.NoError(t, err)
		have, err := got.Marshal()
		require.NoError(t, err)
		require.Equal(t, want, have, "NaN payloads compare as bytes")
		require.InDelta(t, 200, testutil.ToFloat64(f.metrics.samples), 0)
		require.InDelta(t, 2, testutil.ToFloat64(f.metrics.histograms), 0)
		require.InDelta(t, 2, testutil.ToFloat64(f.metrics.exemplars), 0)
		require.Zero(t, f.budget.used.Load())
		for _, recs := range f.log.records() {
			require.Equal(t, "team-a", string(recs[0].Key))
		}
	}
}

func TestEndpointsAndMethods(t *testing.T) {
	f := newFixture(t, Config{}, "", 2)
	body := encode(t, request1(withSamples(series("__name__", "up"), one(1))))
	for _, path := range []string{"/api/v1/push", "/api/prom/push", "/api/v1/write", "/api/v1/receive"} {
		w := httptest.NewRecorder()
		f.mux.ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, bytes.NewReader(body)))
		require.Equal(t, http.StatusNoContent, w.Code)
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete, http.MethodOptions} {
			w := httptest.NewRecorder()
			f.mux.ServeHTTP(w, httptest.NewRequest(method, path, bytes.NewReader(body)))
			requireRefused(t, w, http.StatusMethodNotAllowed, schema.ErrMethod)
			require.Equal(t, "POST", w.Header().Get("Allow"))
		}
	}
	require.Len(t, f.log.content(t).Timeseries, 4)
	require.InDelta(t, 4, testutil.ToFloat64(f.metrics.requests.WithLabelValues("204", "1.0")), 0)
	require.InDelta(t, 20, testutil.ToFloat64(f.metrics.requests.WithLabelValues("405", "1.0")), 0)
}

func TestProtocol(t *testing.T) {
	good := encode(t, request1(withSamples(series("__name__", "up"), one(1))))
	for _, tc := range []struct {
		contentType, encoding string
		status                int
		id                    schema.ErrorID
	}{
		{"", "", 204, ""},
		{"", "snappy", 204, ""},
		{"application/x-protobuf", "", 204, ""},
		{"application/x-protobuf;proto=prometheus.WriteRequest", "snappy", 204, ""},
		{"application/x-protobuf; proto=\"prometheus.WriteRequest\"", "snappy", 204, ""},
		{"Application/X-Protobuf", "snappy", 204, ""},
		{"application/x-protobuf;proto=io.prometheus.write.v2.Request", "snappy", 400, schema.ErrDecode},
		{"application/x-protobuf;proto=io.prometheus.write.v3.Request", "snappy", 415, schema.ErrContentType},
		{"application/json", "snappy", 415, schema.ErrContentType},
		{"image/png", "snappy", 415, schema.ErrContentType},
		{"application/x-protobuf;;proto", "snappy", 415, schema.ErrContentType},
		{"application/x-protobuf", "gzip", 415, schema.ErrContentEncoding},
		{"application/x-protobuf", "zstd", 400, schema.ErrDecompress}, // it is snappy
		{"application/x-protobuf", "deflate", 415, schema.ErrContentEncoding},
		{"application/x-protobuf", "identity", 415, schema.ErrContentEncoding},
	} {
		t.Run(tc.contentType+","+tc.encoding, func(t *testing.T) {
			f := newFixture(t, Config{}, "", 1)
			var headers []string
			if tc.contentType != "" {
				headers = append(headers, "Content-Type", tc.contentType)
			}
			if tc.encoding != "" {
				headers = append(headers, "Content-Encoding", tc.encoding)
			}
			w := f.post(good, headers...)
			if tc.id == "" {
				require.Equal(t, tc.status, w.Code, w.Body.String())
				return
			}
			requireRefused(t, w, tc.status, tc.id)
			require.Empty(t, f.log.records())
			require.InDelta(t, 1, testutil.ToFloat64(f.metrics.rejected.WithLabelValues("anonymous", string(tc.id))), 0)
		})
	}
}

func TestTenants(t *testing.T) {
	f := newFixture(t, Config{}, "", 1)
	body := encode(t, request1(withSamples(series("__name__", "up"), one(1))))
	for _, tc := range []struct {
		headers []string
		id      schema.ErrorID
	}{
		{[]string{".."}, schema.ErrTenantInvalid},
		{[]string{"."}, schema.ErrTenantInvalid},
		{[]string{"a/b"}, schema.ErrTenantInvalid},
		{[]string{`a\b`}, schema.ErrTenantInvalid},
		{[]string{"%2e%2e"}, schema.ErrTenantInvalid},
		{[]string{"a|b"}, schema.ErrTenantInvalid},
		{[]string{"a b"}, schema.ErrTenantInvalid},
		{[]string{"a\r\nb"}, schema.ErrTenantInvalid},
		{[]string{"a\x00b"}, schema.ErrTenantInvalid},
		{[]string{"é"}, schema.ErrTenantInvalid},
		{[]string{"__x"}, schema.ErrTenantInvalid},
		{[]string{strings.Repeat("a", 1000)}, schema.ErrTenantInvalid},
		{[]string{"a", "a"}, schema.ErrTenantInvalid},
		{[]string{""}, schema.ErrNoTenant},
	} {
		r := httptest.NewRequest(http.MethodPost, "/api/v1/push", bytes.NewReader(body))
		r.Header["X-Scope-Orgid"] = tc.headers
		w := httptest.NewRecorder()
		f.mux.ServeHTTP(w, r)
		status := http.StatusBadRequest
		if tc.id == schema.ErrNoTenant {
			status = http.StatusUnauthorized
		}
		requireRefused(t, w, status, tc.id)
		require.NotContains(t, w.Body.String(), "\r")
	}
	require.Empty(t, f.log.records())

	f.tenancy.Required = true
	requireRefused(t, f.post(body), http.StatusUnauthorized, schema.ErrNoTenant)
	require.Equal(t, 204, f.post(body, "X-Scope-OrgID", "A").Code)
	require.Equal(t, 204, f.post(body, "X-Scope-OrgID", "a").Code)
	recs := f.log.records()[0]
	require.Equal(t, []string{"A", "a"}, []string{string(recs[0].Key), string(recs[1].Key)}, "case matters")
}

func TestEmpty(t *testing.T) {
	f := newFixture(t, Config{}, "", 1)
	requireRefused(t, f.post(nil), http.StatusBadRequest, schema.ErrDecompress)
	require.Equal(t, http.StatusNoContent, f.post(snappy.Encode(nil, nil)).Code, "a request without series")
	require.Equal(t, http.StatusNoContent, f.push(t, request1(series("__name__", "up"))).Code, "a series without samples")
	require.Empty(t, f.log.records())
}

func TestBodyTooLarge(t *testing.T) {
	f := newFixture(t, Config{MaxBodyBytes: 100, MaxDecodedBytes: 1000}, "", 1)
	requireRefused(t, f.post(make([]byte, 101)), http.StatusRequestEntityTooLarge, schema.ErrBodyTooLarge)

	r := httptest.NewRequest(http.MethodPost, "/api/v1/push", io.MultiReader(bytes.NewReader(make([]byte, 200))))
	require.EqualValues(t, -1, r.ContentLength)
	w := httptest.NewRecorder()
	f.mux.ServeHTTP(w, r)
	requireRefused(t, w, http.StatusRequestEntityTooLarge, schema.ErrBodyTooLarge)

	requireRefused(t, f.post(snappy.Encode(nil, make([]byte, 1001))), http.StatusRequestEntityTooLarge, schema.ErrBodyTooLarge)
	requireRefused(t, f.post(snappy.Encode(nil, bytes.Repeat([]byte{0xff}, 1000))), http.StatusBadRequest, schema.ErrDecode)
	require.Zero(t, f.budget.used.Load())
}

// A few bytes that promise gigabytes cost nothing.
func TestSnappyBombs(t *testing.T) {
	f := newFixture(t, Config{}, "", 1)
	requireRefused(t, f.post([]byte{0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0, 0, 0}), http.StatusRequestEntityTooLarge, schema.ErrBodyTooLarge)
	requireRefused(t, f.post([]byte{0x80, 0x80, 0x80, 0x10, 0, 0, 0, 0, 0, 0}), http.StatusBadRequest, schema.ErrDecompress)
	requireRefused(t, f.post([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}), http.StatusBadRequest, schema.ErrDecompress)
	require.Less(t, f.lastDecodeCap(), 1<<20)
	zeroes := snappy.Encode(nil, make([]byte, 64<<20))
	requireRefused(t, f.post(zeroes), http.StatusBadRequest, schema.ErrDecode)
}

func (f *fixture) lastDecodeCap() int {
	q := f.pool.Get().(*request)
	defer f.pool.Put(q)
	return cap(q.decodeBuf)
}

type brokenBody struct {
	data []byte
	err  error
}

func (b *brokenBody) Read(p []byte) (int, error) {
	if len(b.data) == 0 {
		return 0, b.err
	}
	n := copy(p, b.data)
	b.data = b.data[n:]
	return n, nil
}

func TestBodyUnreadable(t *testing.T) {
	f := newFixture(t, Config{}, "", 1)
	serve := func(ctx context.Context, err error) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/api/v1/push", &brokenBody{data: []byte("half"), err: err})
		w := httptest.NewRecorder()
		f.mux.ServeHTTP(w, r)
		return w
	}
	requireRefused(t, serve(t.Context(), io.ErrUnexpectedEOF), web.StatusClientClosedRequest, schema.ErrBodyUnreadable)
	requireRefused(t, serve(t.Context(), os.ErrDeadlineExceeded), http.StatusRequestTimeout, schema.ErrBodyUnreadable)
	requireRefused(t, serve(t.Context(), errors.New("malformed chunked encoding")), http.StatusBadRequest, schema.ErrBodyUnreadable)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Equal(t, web.StatusClientClosedRequest, serve(ctx, context.Canceled).Code)
	require.InDelta(t, 2, testutil.ToFloat64(f.metrics.requests.WithLabelValues("499", "1.0")), 0)
	require.Zero(t, f.budget.used.Load())
}

// A client that has gone while we write does not stop the writing.
func TestClientGoneWhileWriting(t *testing.T) {
	f := newFixture(t, Config{}, "", 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	body := encode(t, request1(withSamples(series("__name__", "up"), one(1))))
	w := httptest.NewRecorder()
	f.mux.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodPost, "/api/v1/push", bytes.NewReader(body)))
	require.Equal(t, http.StatusNoContent, w.Code)
	require.Len(t, f.log.content(t).Timeseries, 1)
	_, limited := f.log.ctxs[0].Deadline()
	require.True(t, limited)
}

func TestLogTrouble(t *testing.T) {
	f := newFixture(t, Config{}, "", 1)
	bad := withSamples(series("__name__", "up", "a", "\xff"), one(1))
	good := withSamples(series("__name__", "up"), one(1))
	for _, tc := range []struct {
		err    error
		status int
		id     schema.ErrorID
	}{
		{errors.New("broker away"), 503, schema.ErrLogDown},
		{context.DeadlineExceeded, 503, schema.ErrLogDown},
		{fmt.Errorf("append: %w", log.ErrOverloaded), 503, schema.ErrOverloaded},
		{log.ErrClosed, 503, schema.ErrShuttingDown},
		{log.ErrTooLarge, 400, schema.ErrRecordTooLarge},
	} {
		f.log.fail(tc.err)
		w := f.push(t, request1(bad, good)) // whatever the validation says
		requireRefused(t, w, tc.status, tc.id)
		if tc.status == 503 {
			require.Equal(t, "1", w.Header().Get("Retry-After"))
		}
	}
	require.Zero(t, testutil.ToFloat64(f.metrics.samples))
	f.log.fail(nil)
	require.Equal(t, 204, f.push(t, request1(good)).Code)

	f = newFixture(t, Config{}, "", 0)
	requireRefused(t, f.push(t, request1(good)), 503, schema.ErrLogDown)
	_, err := f.Seal(t.Context())
	require.Error(t, err)
}

func TestInflightBound(t *testing.T) {
	f := newFixture(t, Config{}, "", 1)
	body := request1(withSamples(series("__name__", "up"), one(1)))
	f.budget.limit = 10
	w := f.push(t, body)
	requireRefused(t, w, 503, schema.ErrOverloaded)
	require.Equal(t, "1", w.Header().Get("Retry-After"))
	require.Zero(t, f.budget.used.Load())
	f.budget.limit = 1 << 20
	require.Equal(t, 204, f.push(t, body).Code)
	require.Zero(t, f.budget.used.Load())
}

func TestRates(t *testing.T) {
	f := newFixture(t, Config{}, `
default: {ingestion_rate: 10, ingestion_burst_size: 20}
overrides:
  slow: {ingestion_rate: 0, request_rate: 0.1, request_burst_size: 1}
`, 1)
	now := testNow
	f.now = func() time.Time { return now }
	send := func(tenant string, n int) *httptest.ResponseRecorder {
		req := request1()
		for i := range n {
			req.Timeseries = append(req.Timeseries, withSamples(series("__name__", "up", "i", fmt.Sprint(i)), one(1)))
		}
		return f.post(encode(t, req), "X-Scope-OrgID", tenant)
	}
	require.Equal(t, 204, send("a", 20).Code)
	w := send("a", 15)
	requireRefused(t, w, 429, schema.ErrIngestionRate)
	require.Equal(t, "2", w.Header().Get("Retry-After"))
	require.Contains(t, w.Body.String(), "ingestion_rate of 10")
	require.Equal(t, 204, send("b", 20).Code, "another tenant")
	now = now.Add(1500 * time.Millisecond)
	require.Equal(t, 204, send("a", 15).Code)

	w = send("a", 21)
	requireRefused(t, w, 413, schema.ErrIngestionRate)
	require.Empty(t, w.Header().Get("Retry-After"))
	require.Contains(t, w.Body.String(), "21 samples, more than ingestion_burst_size allows at once (20)")
	require.InDelta(t, 36, testutil.ToFloat64(f.metrics.rejected.WithLabelValues("a", string(schema.ErrIngestionRate))), 0)

	require.Equal(t, 204, send("slow", 100).Code)
	w = send("slow", 1)
	requireRefused(t, w, 429, schema.ErrRequestRate)
	require.Equal(t, "10", w.Header().Get("Retry-After"))

	require.Len(t, f.tenants.states, 3)
	f.tenants.sweep(now.Add(tenantIdle - 2*time.Second))
	require.Len(t, f.tenants.states, 3)
	f.tenants.sweep(now.Add(tenantIdle + time.Second))
	require.Empty(t, f.tenants.states)
}

func TestTenantStatesAreBounded(t *testing.T) {
	f := newFixture(t, Config{}, "", 1)
	lim := schema.DefaultLimits()
	for i := range maxTenantStates + 50 {
		f.tenants.get(schema.Tenant(fmt.Sprint(i)), &lim, 1, testNow)
	}
	require.Len(t, f.tenants.states, maxTenantStates)
	for i := range maxRejectedTenants + 50 {
		f.metrics.reject(schema.Tenant(fmt.Sprint(i)), schema.ErrDecode, 1)
	}
	require.Equal(t, maxRejectedTenants+1, testutil.CollectAndCount(f.metrics.rejected))
	require.InDelta(t, 50, testutil.ToFloat64(f.metrics.rejected.WithLabelValues(otherTenants, string(schema.ErrDecode))), 0)
}

func TestShard(t *testing.T) {
	f := newFixture(t, Config{}, "default: {partition_shard_size: 2}", 16)
	req := request1()
	for i := range 200 {
		req.Timeseries = append(req.Timeseries, withSamples(series("__name__", "up", "i", fmt.Sprint(i)), one(1)))
	}
	require.Equal(t, 204, f.push(t, req).Code)
	shard := schema.ShardOf("team-a", 16, 2)
	recs := f.log.records()
	require.Len(t, recs, 2)
	for p := range recs {
		require.Contains(t, shard, p)
	}
}

// Records are cut before the limit of the log, and nothing is lost at the cuts.
func TestRecordsAreCut(t *testing.T) {
	f := newFixture(t, Config{}, "default: {max_label_value_length: 0}", 2)
	req := request1()
	for i := range 500 {
		req.Timeseries = append(req.Timeseries, withSamples(series("__name__", "up", "i", fmt.Sprint(i), "x", strings.Repeat("x", 10_000)), one(float64(i))))
	}
	require.Equal(t, 204, f.push(t, req).Code)
	require.Len(t, f.log.content(t).Timeseries, 500)
	recs := f.log.records()
	require.Greater(t, len(recs[0])+len(recs[1]), 5)
	require.Equal(t, 1, f.log.appends, "in one go")

	f.log.reset()
	huge := withSamples(series("__name__", "up", "x", strings.Repeat("x", 1_100_000)), one(1))
	fits := withSamples(series("__name__", "up", "x", strings.Repeat("x", maxRawSeries-100)), one(1))
	w := f.push(t, request1(huge, fits))
	requireRefused(t, w, 400, schema.ErrRecordTooLarge)
	require.Less(t, w.Body.Len(), 1000)
	require.Len(t, f.log.content(t).Timeseries, 1)
}

func TestRunTicksAndSeal(t *testing.T) {
	f := newFixture(t, Config{TickInterval: time.Millisecond, PartitionRefresh: time.Millisecond}, "", 3)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	require.Eventually(t, func() bool {
		recs := f.log.records()
		return len(recs[0]) >= 3 && len(recs[1]) >= 3 && len(recs[2]) >= 3
	}, 10*time.Second, time.Millisecond)

	f.log.mu.Lock()
	f.log.partitions = 4
	f.log.mu.Unlock()
	require.Eventually(t, func() bool { return len(f.log.records()[3]) > 0 }, 10*time.Second, time.Millisecond)
	f.log.fail(errors.New("away"))
	require.Eventually(t, func() bool { return testutil.ToFloat64(f.metrics.tickFailures) > 0 }, 10*time.Second, time.Millisecond)
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	f.log.fail(nil)

	for _, r := range f.log.records()[3] {
		kind, ok := r.Header(schema.HeaderKind)
		require.True(t, ok)
		require.Equal(t, schema.KindTick, string(kind))
		version, _ := r.Header(schema.HeaderVersion)
		require.Equal(t, []byte{schema.RecordV1}, version)
		require.Empty(t, r.Key)
		require.Empty(t, r.Value)
	}
	offsets, err := f.Seal(t.Context())
	require.NoError(t, err)
	require.Len(t, offsets, 4)
	for p, o := range offsets {
		kind, _ := f.log.records()[p][o].Header(schema.HeaderKind)
		require.Equal(t, schema.KindSeal, string(kind))
	}
	f.log.fail(errors.New("away"))
	_, err = f.Seal(t.Context())
	require.ErrorContains(t, err, "append seal: away")
}

func TestPush(t *testing.T) {
	f := newFixture(t, Config{}, "default: {request_rate: 0.001, request_burst_size: 1, ingestion_rate: 0.001, ingestion_burst_size: 1}", 2)
	for range 3 { // the rates are not for us
		body, err := request1(withSamples(series("__name__", "up"), one(1)), withSamples(series("__name__", "down"), one(1))).Marshal()
		require.NoError(t, err)
		require.NoError(t, f.Push(t.Context(), schema.Anonymous, body))
	}
	require.Len(t, f.log.content(t).Timeseries, 6)
	require.Error(t, f.Push(t.Context(), schema.Anonymous, []byte("x")))
	f.log.fail(errors.New("away"))
	body, err := request1(withSamples(series("__name__", "up"), one(1))).Marshal()
	require.NoError(t, err)
	var se *schema.Error
	require.ErrorAs(t, f.Push(t.Context(), schema.Anonymous, body), &se)
	require.Equal(t, schema.ErrLogDown, se.ID)
	require.Zero(t, f.budget.used.Load())
}

func TestConfig(t *testing.T) {
	for _, bad := range []Config{
		{MaxBodyBytes: -1}, {MaxDecodedBytes: -1}, {MaxInflightBytes: -1}, {MaxInflightBytes: 1 << 20},
		{AppendTimeout: -1}, {TickInterval: -1}, {PartitionRefresh: -1},
	} {
		_, err := New(bad, nil, nil, nil, web.Tenancy{}, nil, nil)
		require.Error(t, err, "%+v", bad)
	}
	var c Config
	require.NoError(t, c.Validate())
	require.Equal(t, 15*time.Second, c.TickInterval)
	require.LessOrEqual(t, c.largestRequest(), c.MaxInflightBytes)
}

// In a metric the registry finds nothing to complain about.
func TestMetricsLint(t *testing.T) {
	f := newFixture(t, Config{}, "", 1)
	require.Equal(t, 204, f.push(t, request1(withSamples(series("__name__", "up"), one(1)))).Code)
	requireRefused(t, f.push(t, request1(withSamples(series("a", "b"), one(1)))), 400, schema.ErrMissingMetricName)
	problems, err := testutil.GatherAndLint(f.reg)
	require.NoError(t, err)
	require.Empty(t, problems)
}

// Ticks carry the settings of generations, which not every process has.
func TestNoTicks(t *testing.T) {
	f := newFixture(t, Config{NoTicks: true}, "", 3)
	f.tick(t.Context())
	require.Empty(t, f.log.records())
	quiet := newFixture(t, Config{}, "", 3)
	quiet.tick(t.Context())
	require.Len(t, quiet.log.records(), 3)
}
