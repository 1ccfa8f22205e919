package producer

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/golang/snappy"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"github.com/stretchr/testify/require"

	"sluice/internal/auth"
	"sluice/internal/log"
	"sluice/schema"
)

// byTenant returns the series in the log by tenant, as text, sorted, and what their metadata are of.
func (f *fakeLog) byTenant(t testing.TB) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for _, recs := range f.selfContained(t) {
		for _, r := range recs {
			var req prompb.WriteRequest
			require.NoError(t, req.Unmarshal(r.Value))
			for _, ts := range req.Timeseries {
				var sb strings.Builder
				for _, l := range ts.Labels {
					fmt.Fprintf(&sb, "%s=%s ", l.Name, l.Value)
				}
				fmt.Fprintf(&sb, "%d/%d/%d", len(ts.Samples), len(ts.Histograms), len(ts.Exemplars))
				out[string(r.Key)] = append(out[string(r.Key)], sb.String())
			}
			for _, m := range req.Metadata {
				out[string(r.Key)] = append(out[string(r.Key)], "meta "+m.MetricFamilyName)
			}
		}
	}
	for _, all := range out {
		slices.Sort(all)
	}
	return out
}

func TestSplit(t *testing.T) {
	mixed := func() *prompb.WriteRequest {
		req := request1(
			withSamples(series("__name__", "up", "job", "x", "team", "a"), one(1)),
			withSamples(series("__name__", "up", "job", "x", "team", "b"), one(2), one(3)),
			withSamples(series("__name__", "up", "job", "x"), one(4)),
			withSamples(series("__name__", "up", "job", "y", "team", "team-a"), one(5)), // the request's own tenant
			withSamples(series("__name__", "up", "job", "z", "team", ""), one(5)),
			withSamples(series("__name__", "up", "job", "x", "zone", "1", "team", "a"), one(6)), // not sorted, in the first place of the others
		)
		sort := req.Timeseries[5].Labels
		sort[2], sort[3] = sort[3], sort[2]
		req.Timeseries[1].Exemplars = []prompb.Exemplar{{Labels: []prompb.Label{{Name: "trace", Value: "1"}}, Value: 1, Timestamp: testNow.UnixMilli()}}
		req.Timeseries = append(req.Timeseries, series("__name__", "h", "team", "b"))
		req.Timeseries[6].Histograms = []prompb.Histogram{testHistogram(testNow.UnixMilli())}
		req.Metadata = []prompb.MetricMetadata{{MetricFamilyName: "up", Type: prompb.MetricMetadata_GAUGE, Help: "x"}}
		return req
	}
	for _, version := range []int{1, 2} {
		f := newFixture(t, Config{TenantLabel: "team", RecordVersion: version}, "", 4)
		for range 2 { // the second time the series are known
			w := f.push(t, mixed())
			require.Equal(t, http.StatusNoContent, w.Code, w.Body.String())
		}
		twice := func(s ...string) []string { return slices.Sorted(slices.Values(append(s, s...))) }
		require.Equal(t, map[string][]string{
			"a":      twice("__name__=up job=x team=a 1/0/0", "__name__=up job=x team=a zone=1 1/0/0"),
			"b":      twice("__name__=h team=b 0/1/0", "__name__=up job=x team=b 2/0/1"),
			"team-a": twice("__name__=up job=x 1/0/0", "__name__=up job=y team=team-a 1/0/0", "__name__=up job=z 1/0/0", "meta up"),
		}, f.log.byTenant(t))
		if version == 2 {
			n, epochs := f.log.defs(t)
			require.Equal(t, 7, n, "each series is defined once")
			require.Len(t, epochs, 3, "each tenant has its own refs")
		}

		f = newFixture(t, Config{TenantLabel: "team", StripTenantLabel: true, RecordVersion: version}, "", 4)
		require.Equal(t, http.StatusNoContent, f.push(t, mixed()).Code)
		require.Equal(t, http.StatusNoContent, f.push(t, mixed()).Code)
		require.Equal(t, map[string][]string{
			"a":      twice("__name__=up job=x 1/0/0", "__name__=up job=x zone=1 1/0/0"),
			"b":      twice("__name__=h 0/1/0", "__name__=up job=x 2/0/1"),
			"team-a": twice("__name__=up job=x 1/0/0", "__name__=up job=y 1/0/0", "__name__=up job=z 1/0/0", "meta up"),
		}, f.log.byTenant(t))
	}
	require.Error(t, (&Config{TenantLabel: "__name__"}).Validate())
	require.Error(t, (&Config{TenantLabel: "\xff"}).Validate())
}

func TestSplitV2(t *testing.T) {
	f := newFixture(t, Config{TenantLabel: "team", StripTenantLabel: true}, "", 4)
	b := newBuilder()
	for i, team := range []string{"a", "b", "b", "", "x/y"} {
		ts := b.add(labels.FromStrings("__name__", "up", "i", strconv.Itoa(i), "team", team))
		ts.Samples = []writev2.Sample{{Timestamp: testNow.UnixMilli(), Value: 1}}
		ts.Metadata = writev2.Metadata{Type: writev2.Metadata_METRIC_TYPE_GAUGE}
	}
	b.req.Timeseries[1].Exemplars = []writev2.Exemplar{{LabelsRefs: b.symbols.SymbolizeLabels(labels.FromStrings("t", "1"), nil), Timestamp: testNow.UnixMilli()}}
	h := b.add(labels.FromStrings("__name__", "h", "team", "c"))
	h.Histograms = []writev2.Histogram{writev2.FromIntHistogram(0, testNow.UnixMilli(), testHistogram(0).ToIntHistogram())}
	w := f.push2(t, b.request())
	requireRefused(t, w, http.StatusBadRequest, schema.ErrTenantInvalid)
	require.Contains(t, w.Body.String(), "1 of ")
	requireWritten(t, w, 4, 1, 1)
	got := f.log.byTenant(t)
	require.Equal(t, []string{"__name__=up i=1 1/0/1", "__name__=up i=2 1/0/0", "meta up"}, got["b"])
	require.Equal(t, []string{"__name__=up i=0 1/0/0", "meta up"}, got["a"])
	require.Equal(t, []string{"__name__=up i=3 1/0/0", "meta up"}, got["team-a"])
	require.Equal(t, []string{"__name__=h 0/1/0"}, got["c"])
	require.Len(t, got, 4)
	require.InDelta(t, 1, testutil.ToFloat64(f.metrics.rejected.WithLabelValues("team-a", string(schema.ErrTenantInvalid))), 0)
}

// Whatever is wrong with one tenant's series, the others' are written.
func TestSplitRefusals(t *testing.T) {
	long := strings.Repeat("x", schema.MaxTenantLength)
	f := newFixture(t, Config{TenantLabel: "team"}, `overrides: {few: {max_series_per_request: 2}, slow: {ingestion_rate: 1, ingestion_burst_size: 2}, rare: {request_rate: 0.001, request_burst_size: 1}}`, 1)
	push := func(teams ...string) *httptest.ResponseRecorder {
		f.log.reset()
		req := request1()
		for i, team := range teams {
			req.Timeseries = append(req.Timeseries, withSamples(series("__name__", "up", "i", strconv.Itoa(i), "team", team), one(1)))
		}
		return f.push(t, req)
	}
	count := func(tenant string) int { return len(f.log.byTenant(t)[tenant]) }
	rejected := func(tenant string, id schema.ErrorID) float64 {
		return testutil.ToFloat64(f.metrics.rejected.WithLabelValues(tenant, string(id)))
	}

	require.Equal(t, 204, push(long).Code)
	w := push("a", long+"x", "..", "__b", "a")
	requireRefused(t, w, 400, schema.ErrTenantInvalid)
	require.Contains(t, w.Body.String(), "3 of 3 series were refused")
	require.Equal(t, 2, count("a"))
	require.InDelta(t, 3, rejected("team-a", schema.ErrTenantInvalid), 0)

	require.Equal(t, 204, push("few", "a", "few").Code)
	w = push("few", "few", "a", "few")
	requireRefused(t, w, http.StatusRequestEntityTooLarge, schema.ErrSeriesPerRequest)
	require.Contains(t, w.Body.String(), "tenant few: ")
	require.Zero(t, count("few"))
	require.Equal(t, 1, count("a"))
	require.InDelta(t, 1, rejected("few", schema.ErrSeriesPerRequest), 0)

	require.Equal(t, 204, push("slow", "slow", "a").Code)
	w = push("..", "slow", "a")
	requireRefused(t, w, 429, schema.ErrIngestionRate)
	require.NotEmpty(t, w.Header().Get("Retry-After"), "the rate decides, as coming back helps")
	require.Zero(t, count("slow"))
	require.Equal(t, 1, count("a"))
	require.InDelta(t, 1, rejected("slow", schema.ErrIngestionRate), 0)

	require.Equal(t, 204, push("rare", "rare").Code)
	w = push("rare", "rare", "a")
	requireRefused(t, w, 429, schema.ErrRequestRate)
	require.Equal(t, 1, count("a"))

	twice := request1(withSamples(series("__name__", "up", "team", "a", "team", "b"), one(1)), withSamples(series("__name__", "up", "team", "b"), one(1)))
	f.log.reset()
	requireRefused(t, f.push(t, twice), 400, schema.ErrDuplicateLabelNames)
	require.Equal(t, 1, count("b"))

	f.log.reset()
	f.log.fail(log.ErrOverloaded)
	requireRefused(t, push("a", "b"), 503, schema.ErrOverloaded)
	f.log.fail(nil)

	f.log.reset()
	requireRefused(t, f.post(snappy.Encode(nil, []byte{0x0a, 0x05, 1}), "X-Scope-OrgID", "a"), 400, schema.ErrDecode)
	require.Empty(t, f.log.records())
	require.Zero(t, f.budget.used.Load(), "all memory was given back")
}

func TestSplitMostTenants(t *testing.T) {
	f := newFixture(t, Config{TenantLabel: "team"}, "", 1)
	for _, n := range []int{maxTenantsPerRequest, maxTenantsPerRequest + 1} {
		f.log.reset()
		req := request1()
		for i := range n {
			req.Timeseries = append(req.Timeseries, withSamples(series("__name__", "up", "team", fmt.Sprint("t", i)), one(1)))
		}
		w := f.push(t, req)
		require.Len(t, f.log.byTenant(t), maxTenantsPerRequest)
		if n == maxTenantsPerRequest {
			require.Equal(t, 204, w.Code, w.Body.String())
		} else {
			requireRefused(t, w, 400, schema.ErrTenantsPerWrite)
		}
	}
	require.Zero(t, f.budget.used.Load())
}

// A label does not open other tenants than the user's own.
func TestSplitOfAUser(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users.yaml")
	token := "0123456789abcdef0123456789abcdef"
	sum, err := auth.Hash(strings.NewReader(token), true, 0)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, []byte("users: [{name: shared, tokens_sha256: ["+sum+"], tenants: [own, 'dev-*'], default_tenant: own, rights: [write]}]"), 0o600))
	users, err := auth.New(auth.Config{UsersFile: path}, slog.New(slog.DiscardHandler), nil)
	require.NoError(t, err)
	u, err := users.User(t.Context(), http.Header{"Authorization": {"Bearer " + token}})
	require.NoError(t, err)

	f := newFixture(t, Config{TenantLabel: "team"}, "", 1)
	f.tenancy.Users = true
	send := func(r *http.Request) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		f.mux.ServeHTTP(w, r)
		return w
	}
	body := encode(t, request1(withSamples(series("__name__", "up", "team", "dev-1"), one(1)),
		withSamples(series("__name__", "up", "team", "prod"), one(1)), withSamples(series("__name__", "up"), one(1))))
	r := httptest.NewRequest(http.MethodPost, "/api/v1/push", bytes.NewReader(body))
	w := send(r.WithContext(auth.WithUser(r.Context(), u)))
	requireRefused(t, w, 400, schema.ErrTenantForbidden)
	got := f.log.byTenant(t)
	require.Len(t, got, 2)
	require.Len(t, got["dev-1"], 1)
	require.Len(t, got["own"], 1)

	r = httptest.NewRequest(http.MethodPost, "/api/v1/push", bytes.NewReader(body))
	requireRefused(t, send(r), 401, schema.ErrUnauthorized)
	r.Header.Set(schema.TenantHeader, "prod")
	requireRefused(t, send(r.WithContext(auth.WithUser(r.Context(), u))), 403, schema.ErrTenantForbidden)
}

// Our own metrics have labels of their own, one of which may well be called tenant.
func TestSplitLeavesOwnMetricsTogether(t *testing.T) {
	f := newFixture(t, Config{TenantLabel: "team"}, "", 1)
	body, err := request1(withSamples(series("__name__", "up", "team", "a"), one(1))).Marshal()
	require.NoError(t, err)
	require.NoError(t, f.Push(t.Context(), "self", body))
	require.Equal(t, map[string][]string{"self": {"__name__=up team=a 1/0/0"}}, f.log.byTenant(t))
}

// Requests that are for each other's tenants, whose caches change under them, come to an end.
func TestSplitSideBySide(t *testing.T) {
	f := newFixture(t, Config{TenantLabel: "team"}, "", 2)
	f.log.discard = true
	var all sync.WaitGroup
	for g := range 4 {
		all.Go(func() {
			for i := range 100 {
				req := request1()
				for k := range 20 {
					team := fmt.Sprint("t", (g+k*(1+g%2))%5)
					req.Timeseries = append(req.Timeseries, withSamples(series("__name__", "up", "i", fmt.Sprint(g, i, k), "team", team), one(1)))
				}
				if w := f.post(encode(t, req), "X-Scope-OrgID", fmt.Sprint("t", g)); w.Code != 204 {
					t.Error(w.Code, w.Body)
				}
			}
		})
	}
	all.Wait()
}

func FuzzSplit(f *testing.F) {
	f.Add([]byte("\x0a\x20\x0a\x0e\x0a\x08__name__\x12\x02up\x0a\x09\x0a\x04team\x12\x01a\x12\x03\x10\xe8\x07"), true, false)
	f.Add([]byte("\x22\x00\x22\x04team\x22\x01a\x2a\x04\x0a\x02\x01\x02"), false, true)
	f.Fuzz(func(t *testing.T, body []byte, strip, v2 bool) {
		fix := newFixture(t, Config{TenantLabel: "team", StripTenantLabel: strip}, "", 2)
		headers := []string{"X-Scope-OrgID", "own"}
		if v2 {
			headers = append(headers, "Content-Type", contentTypeV2)
		}
		w := fix.post(snappy.Encode(nil, body), headers...)
		require.Contains(t, []int{204, 400, 413}, w.Code, w.Body.String())
		fix.log.content(t)
		require.Zero(t, fix.budget.used.Load())
	})
}

// BenchmarkSplit is BenchmarkHandlerV1 with a hundred tenants in each request.
func BenchmarkSplit(b *testing.B) {
	var body []byte
	for i := range benchSeries {
		ls := []schema.Label{}
		bld := labels.NewBuilder(benchLabels(i))
		bld.Set("team", fmt.Sprint("team-", i*100/benchSeries)).Labels().Range(func(l labels.Label) {
			ls = append(ls, schema.Label{Name: []byte(l.Name), Value: []byte(l.Value)})
		})
		body = schema.AppendTimeSeries(body, schema.AppendSample(schema.AppendLabels(nil, ls), testNow.UnixMilli(), 0, float64(i)))
	}
	for _, strip := range []bool{false, true} {
		b.Run(fmt.Sprintf("strip=%v", strip), func(b *testing.B) {
			benchHandlerWith(b, Config{TenantLabel: "team", StripTenantLabel: strip}, body, "application/x-protobuf")
		})
	}
}
