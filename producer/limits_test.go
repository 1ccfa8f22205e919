package producer

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/prompb"
	"github.com/stretchr/testify/require"

	"sluice/internal/limits"
	"sluice/schema"
)

// bothVersions runs f for records with labels once and with labels every time.
func bothVersions(t *testing.T, f func(t *testing.T, cfg Config)) {
	for _, v := range []int{schema.RecordV1, schema.RecordV2} {
		t.Run(fmt.Sprintf("records %d", v), func(t *testing.T) { f(t, Config{RecordVersion: v}) })
	}
}

// get asks as team-a and decodes the answer.
func (f *fixture) get(t *testing.T, path string, into any) {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.Header.Set("X-Scope-OrgID", "team-a")
	w := httptest.NewRecorder()
	f.mux.ServeHTTP(w, r)
	require.Equal(t, 200, w.Code, w.Body.String())
	require.Equal(t, "application/json", w.Header().Get("Content-Type"))
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), into))
}

// buckets returns a series with a histogram of n buckets.
func buckets(n int) prompb.TimeSeries {
	h := &histogram.Histogram{Count: uint64(n), PositiveSpans: []histogram.Span{{Length: uint32(n)}}, PositiveBuckets: make([]int64, n)}
	h.PositiveBuckets[0] = 1
	ts := series("__name__", "h")
	ts.Histograms = []prompb.Histogram{prompb.FromIntHistogram(testNow.UnixMilli(), h)}
	return ts
}

// Every limit one below, at the bound and one above, through both versions of the record; twice, as a series that is known
// takes another way.
func TestEachLimit(t *testing.T) {
	now := testNow.UnixMilli()
	up := func(pairs ...string) *prompb.WriteRequest {
		return request1(withSamples(series(append([]string{"__name__", "up"}, pairs...)...), one(1)))
	}
	nLabels := func(name string, n int) *prompb.WriteRequest {
		ts := series("__name__", name)
		for i := range n - 1 {
			ts.Labels = append(ts.Labels, prompb.Label{Name: fmt.Sprintf("l%03d", i), Value: "v"})
		}
		return request1(withSamples(ts, one(1)))
	}
	nSeries := func(n int) *prompb.WriteRequest {
		req := request1()
		for i := range n {
			req.Timeseries = append(req.Timeseries, withSamples(series("__name__", "up", "i", fmt.Sprint(i)), one(1)))
		}
		return req
	}
	nSamples := func(n int) *prompb.WriteRequest {
		ts := series("__name__", "up")
		for i := range n {
			ts.Samples = append(ts.Samples, at(now+int64(i)))
		}
		return request1(ts)
	}
	nHistograms := func(n int) *prompb.WriteRequest {
		ts := withSamples(series("__name__", "h"), one(1), one(2))
		for i := range n {
			ts.Histograms = append(ts.Histograms, testHistogram(now+int64(i)))
		}
		return request1(ts)
	}
	for name, tc := range map[string]struct {
		limits string // N is the bound
		bound  int
		build  func(n int) *prompb.WriteRequest
		status int
		id     schema.ErrorID
		says   string
	}{
		"max_series_per_request":     {"max_series_per_request: N", 5, nSeries, 413, schema.ErrSeriesPerRequest, "max_series_per_request of 5"},
		"max_label_names_per_series": {"max_label_names_per_series: N", 5, func(n int) *prompb.WriteRequest { return nLabels("up", n) }, 400, schema.ErrTooManyLabels, "max_label_names_per_series of 5"},
		"default label names":        {"", 30, func(n int) *prompb.WriteRequest { return nLabels("up", n) }, 400, schema.ErrTooManyLabels, "max_label_names_per_series of 30"},
		"default info label names":   {"", 80, func(n int) *prompb.WriteRequest { return nLabels("up_info", n) }, 400, schema.ErrTooManyLabels, "max_label_names_per_info_series of 80"},
		"info below the other":       {"max_label_names_per_info_series: 3, max_label_names_per_series: N", 5, func(n int) *prompb.WriteRequest { return nLabels("up_info", n) }, 400, schema.ErrTooManyLabels, "max_label_names_per_series of 5"},
		"max_label_name_length":      {"max_label_name_length: N", 12, func(n int) *prompb.WriteRequest { return up(strings.Repeat("n", n), "x") }, 400, schema.ErrLabelNameTooLong, "max_label_name_length of 12"},
		"max_label_value_length":     {"max_label_value_length: N", 12, func(n int) *prompb.WriteRequest { return up("v", strings.Repeat("n", n)) }, 400, schema.ErrLabelValueTooLong, "max_label_value_length of 12"},
		"max_labels_size_bytes":      {"max_labels_size_bytes: N", 20, func(n int) *prompb.WriteRequest { return up("v", strings.Repeat("n", n-len("__name__upv"))) }, 400, schema.ErrLabelsSize, "have 21 bytes, more than max_labels_size_bytes of 20"},
		"max_native_histogram_buckets": {"max_native_histogram_buckets: N", 8, func(n int) *prompb.WriteRequest { return request1(buckets(n)) }, 400, schema.ErrHistogramBuckets,
			"max_native_histogram_buckets of 8"},
		"creation_grace_period": {"creation_grace_period: Nms", 5000, func(n int) *prompb.WriteRequest {
			return request1(withSamples(series("__name__", "up"), at(now+int64(n))))
		}, 400, schema.ErrTooFarInFuture, "creation_grace_period of 5s"},
		"past_grace_period": {"past_grace_period: Nms", 5000, func(n int) *prompb.WriteRequest {
			return request1(withSamples(series("__name__", "up"), at(now-int64(n))))
		}, 400, schema.ErrTooFarInPast, "past_grace_period of 5s"},
		"reject_old_samples": {"past_grace_period: 1h, reject_old_samples: true, reject_old_samples_max_age: Nms", 5000, func(n int) *prompb.WriteRequest {
			return request1(withSamples(series("__name__", "up"), at(now-int64(n))))
		}, 400, schema.ErrTooFarInPast, "reject_old_samples_max_age of 5s"},
		"reject_old_samples off": {"past_grace_period: Nms, reject_old_samples_max_age: 1s", 5000, func(n int) *prompb.WriteRequest {
			return request1(withSamples(series("__name__", "up"), at(now-int64(n))))
		}, 400, schema.ErrTooFarInPast, "past_grace_period of 5s"},
		"reject_old_samples, longer": {"past_grace_period: Nms, reject_old_samples: true", 5000, func(n int) *prompb.WriteRequest {
			return request1(withSamples(series("__name__", "up"), at(now-int64(n))))
		}, 400, schema.ErrTooFarInPast, "past_grace_period of 5s"},
		"ingestion_burst_size":            {"ingestion_rate: 1, ingestion_burst_size: N", 5, nSamples, 413, schema.ErrIngestionRate, "more than ingestion_burst_size allows at once (5)"},
		"ingestion_burst_factor":          {"ingestion_rate: 2.5, ingestion_burst_size: 99, ingestion_burst_factor: 2", 5, nSamples, 413, schema.ErrIngestionRate, "more than ingestion_burst_factor allows at once (5)"},
		"ingestion_rate":                  {"ingestion_rate: 0.5", 5, nSamples, 413, schema.ErrIngestionRate, "allows at once (5)"},
		"native_histogram_ingestion_rate": {"native_histogram_ingestion_rate: 1, native_histogram_ingestion_burst_size: N", 3, nHistograms, 413, schema.ErrHistogramRate, "4 native histograms, more than native_histogram_ingestion_burst_size"},
	} {
		t.Run(name, func(t *testing.T) {
			bothVersions(t, func(t *testing.T, cfg Config) {
				for _, n := range []int{tc.bound - 1, tc.bound, tc.bound + 1} {
					f := newFixture(t, cfg, "default: {"+strings.ReplaceAll(tc.limits, "N", fmt.Sprint(tc.bound))+"}", 3)
					for round := range 2 {
						w := f.push(t, tc.build(n))
						if n > tc.bound {
							requireRefused(t, w, tc.status, tc.id)
							require.Contains(t, w.Body.String(), tc.says)
							require.Empty(t, f.log.records())
							require.Positive(t, testutil.ToFloat64(f.metrics.rejected.WithLabelValues("team-a", string(tc.id))))
							continue
						}
						if round == 1 && tc.status == 429 || tc.status == 413 {
							break // there is nothing left of the burst
						}
						require.Equal(t, 204, w.Code, "%d of %d: %s", n, tc.bound, w.Body.String())
						require.NotEmpty(t, f.log.content(t).Timeseries)
					}
				}
			})
		})
	}
}

// The size of a histogram at the bound, one byte below and one above.
func TestHistogramSizes(t *testing.T) {
	h := testHistogram(testNow.UnixMilli())
	text, err := h.Marshal()
	require.NoError(t, err)
	ts := series("__name__", "h")
	ts.Histograms = []prompb.Histogram{h}
	for _, d := range []int{-1, 0, 1} {
		bothVersions(t, func(t *testing.T, cfg Config) {
			f := newFixture(t, cfg, fmt.Sprintf("default: {max_native_histogram_sample_size_bytes: %d}", len(text)+d), 1)
			w := f.push(t, request1(ts))
			if d >= 0 {
				require.Equal(t, 204, w.Code, w.Body.String())
				return
			}
			requireRefused(t, w, 400, schema.ErrHistogramSize)
			require.Contains(t, w.Body.String(), fmt.Sprintf("native histogram of %d bytes", len(text)))
		})
	}
}

// Metadata at the bound, one byte below and one above: a help is cut, a unit refused, and no sample is lost.
func TestMetadataLengths(t *testing.T) {
	bothVersions(t, func(t *testing.T, cfg Config) {
		for n := 9; n <= 11; n++ {
			f := newFixture(t, cfg, "default: {max_metadata_length: 10, max_label_value_length: 10}", 1)
			req := request1(withSamples(series("__name__", "up"), one(1)))
			text := strings.Repeat("x", n)
			req.Metadata = []prompb.MetricMetadata{
				{MetricFamilyName: "help", Help: text}, {MetricFamilyName: "unit", Unit: text}, {MetricFamilyName: text, Unit: "s"},
			}
			require.Equal(t, 204, f.push(t, req).Code)
			got := f.log.content(t)
			require.Len(t, got.Timeseries, 1)
			want := req.Metadata
			if n > 10 {
				want = []prompb.MetricMetadata{{MetricFamilyName: "help", Help: text[:10]}}
			}
			require.ElementsMatch(t, want, got.Metadata)
		}
	})
}

// Requests at the bound of the burst and of the rate.
func TestRequestRate(t *testing.T) {
	f := newFixture(t, Config{}, "default: {request_rate: 0.5}", 1)
	now := testNow
	f.now = func() time.Time { return now }
	for range 5 { // ten seconds' worth
		require.Equal(t, 204, f.push(t, tenSeries(1)).Code)
	}
	requireRefused(t, f.push(t, tenSeries(1)), 429, schema.ErrRequestRate)
	now = now.Add(2*time.Second - time.Millisecond)
	requireRefused(t, f.push(t, tenSeries(1)), 429, schema.ErrRequestRate)
	now = now.Add(time.Millisecond)
	require.Equal(t, 204, f.push(t, tenSeries(1)).Code)
}

// The file changes all the time while several senders write: nobody gets anything but what one of its versions says, every
// ref resolves, and in the end the last version holds.
func TestReloadWhileWriting(t *testing.T) {
	bothVersions(t, func(t *testing.T, cfg Config) {
		path := filepath.Join(t.TempDir(), "limits.yaml")
		version := func(i int) {
			content := fmt.Sprintf("classes: {team-*: {request_rate: %d, metric_relabel_configs: [{target_label: version, replacement: v%d}]}}", 1_000_000+i, i%3)
			if i%5 == 4 {
				content = "classes: {broken"
			}
			require.NoError(t, os.WriteFile(path+".new", []byte(content), 0o600))
			require.NoError(t, os.Rename(path+".new", path))
		}
		version(0)
		f := newFixture(t, cfg, "", 3)
		lim, err := limits.New(limits.Config{Path: path, Reload: time.Millisecond}, slog.New(slog.DiscardHandler), nil)
		require.NoError(t, err)
		f.limits = lim
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = lim.Run(ctx) })
		defer wg.Wait()
		defer cancel()

		body := encode(t, tenSeries(1))
		push := func() int {
			return f.post(body, "Content-Type", "application/x-protobuf", "Content-Encoding", "snappy", "X-Scope-OrgID", "team-a").Code
		}
		const versions, senders, pushes = 25, 3, 20
		for i := range versions {
			var sending sync.WaitGroup
			statuses := make([]int, senders)
			for s := range senders {
				sending.Go(func() {
					for range pushes {
						if statuses[s] = push(); statuses[s] != 204 {
							return
						}
					}
				})
			}
			version(i) // while they write
			sending.Wait()
			require.Equal(t, []int{204, 204, 204}, statuses)
			if i%5 != 4 {
				require.Eventually(t, func() bool { return lim.For("team-a").RequestRate == float64(1_000_000+i) }, 10*time.Second, time.Millisecond)
			}
		}
		seen, samples := map[string]bool{}, 0
		for _, ts := range f.log.content(t).Timeseries {
			seen[ts.Labels[len(ts.Labels)-1].Value] = true
			samples += len(ts.Samples)
		}
		require.Equal(t, versions*senders*pushes*10, samples)
		require.Subset(t, map[string]bool{"v0": true, "v1": true, "v2": true}, seen)
		f.log.reset()
		require.Equal(t, 204, push())
		for _, ts := range f.log.content(t).Timeseries {
			require.Equal(t, "v"+fmt.Sprint((versions-2)%3), ts.Labels[len(ts.Labels)-1].Value, "the last good version")
		}
	})
}

// What changes nothing about series leaves what is known of them alone; what does empties it, for that tenant only.
func TestReloadKeepsWhatIsKnown(t *testing.T) {
	f := newFixture(t, Config{}, "", 3)
	path := filepath.Join(t.TempDir(), "limits.yaml")
	use := func(content string) {
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		lim, err := limits.New(limits.Config{Path: path}, slog.New(slog.DiscardHandler), nil)
		require.NoError(t, err)
		f.limits = lim
	}
	push := func(defined int, why string) {
		t.Helper()
		f.log.reset()
		require.Equal(t, 204, f.push(t, tenSeries(1)).Code)
		n, _ := f.log.defs(t)
		require.Equal(t, defined, n, why)
	}
	use("")
	push(10, "first")
	use("overrides: {team-b: {max_label_names_per_series: 1}}")
	push(0, "another tenant")
	use("default: {ingestion_rate: 1000, request_rate: 5, past_grace_period: 1h, reject_old_samples: true, compactor_blocks_retention_period: 1d}")
	push(0, "rates and times")
	use("default: {max_label_value_length: 100}")
	push(10, "labels")
	use("default: {max_label_value_length: 100, drop_labels: [zone]}")
	push(10, "labels to drop")
	use("default: {max_label_value_length: 100, drop_labels: [zone], partition_shard_size: 1}")
	push(10, "another shard")
}

func TestUserLimits(t *testing.T) {
	f := newFixture(t, Config{}, "classes: {team-*: {ingestion_rate: 10, ingestion_burst_size: 100, request_rate: 2, request_burst_size: 8, drop_labels: [a]}}", 2)
	now := testNow
	f.now = func() time.Time { return now }
	type answer struct {
		IngestionRate       float64  `json:"ingestion_rate"`
		CreationGracePeriod string   `json:"creation_grace_period"`
		DropLabels          []string `json:"drop_labels"`
		Usage               map[string]float64
		Source              limits.Source
	}
	var a answer
	f.get(t, "/api/v1/user_limits", &a)
	require.Equal(t, answer{
		10, "10m", []string{"a"},
		map[string]float64{"ingestion_rate": 0, "request_rate": 0, "native_histogram_ingestion_rate": 0}, limits.Source{Class: "team-*"},
	}, a, "of a tenant that has not written yet")

	for range 3 {
		require.Equal(t, 204, f.push(t, tenSeries(1)).Code)
	}
	a = answer{}
	f.get(t, "/api/v1/user_limits", &a)
	require.Equal(t, map[string]float64{
		"ingestion_rate": 0.5, "request_rate": 0.05, "native_histogram_ingestion_rate": 0, "ingestion_burst_size": 70, "request_burst_size": 5,
	}, a.Usage)
	now = now.Add(90 * time.Second)
	a = answer{}
	f.get(t, "/api/v1/user_limits", &a)
	require.Equal(t, map[string]float64{
		"ingestion_rate": 0.25, "request_rate": 0.025, "native_histogram_ingestion_rate": 0, "ingestion_burst_size": 100, "request_burst_size": 8,
	}, a.Usage)

	f.tenancy.Required = true
	for _, path := range []string{"/api/v1/user_limits", "/api/v1/rejects"} {
		w := httptest.NewRecorder()
		f.mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		requireRefused(t, w, 401, schema.ErrNoTenant)
	}
}

func TestRejects(t *testing.T) {
	f := newFixture(t, Config{}, testLimits, 2)
	now := testNow
	f.now = func() time.Time { return now }
	read := func() []rejectedJSON {
		var a struct {
			Status string
			Data   struct {
				Tenant  string
				Rejects []rejectedJSON
			}
		}
		f.get(t, "/api/v1/rejects", &a)
		require.Equal(t, "success", a.Status)
		require.Equal(t, "team-a", a.Data.Tenant)
		return a.Data.Rejects
	}
	require.Empty(t, read())
	require.Equal(t, 204, f.push(t, tenSeries(1)).Code)
	require.Empty(t, read())

	nameless := withSamples(series("job", "x"), one(1), one(2))
	long := withSamples(series("__name__", "up", "v", strings.Repeat("n", 41)), one(1))
	exemplar := withSamples(series("__name__", "e"), one(1))
	exemplar.Exemplars = []prompb.Exemplar{{Timestamp: math.MaxInt64}}
	require.Equal(t, 400, f.push(t, request1(nameless, long, exemplar)).Code)
	now = now.Add(time.Second)
	require.Equal(t, 400, f.push(t, request1(withSamples(series("job", "y"), one(1)))).Code)
	req := request1(withSamples(series("__name__", "fine"), prompb.Sample{Timestamp: now.UnixMilli()}))
	req.Metadata = []prompb.MetricMetadata{{MetricFamilyName: "fine", Unit: "much longer than that"}}
	require.Equal(t, 204, f.push(t, req).Code)
	now = now.Add(time.Second)
	require.Equal(t, 400, f.post([]byte("not snappy"), "X-Scope-OrgID", "team-a").Code)

	got := read()
	require.Len(t, got, 5)
	require.Equal(t, rejectedJSON{
		Reason: schema.ErrDecompress, Count: 1, First: now.UTC(), Last: now.UTC(), Message: got[0].Message,
	}, got[0], "the latest first")
	require.Contains(t, got[0].Message, "no snappy block")
	require.Equal(t, schema.ErrMetadataInvalid, got[1].Reason)
	require.Contains(t, got[1].Message, `unit of "fine" has 21 bytes, more than max_metadata_length of 10`)
	require.Equal(t, rejectedJSON{
		Reason: schema.ErrMissingMetricName, Count: 3, First: testNow.UTC(), Last: testNow.Add(time.Second).UTC(),
		Series: `{job="y"}`, Message: "series has no metric name (label __name__)",
	}, got[2])
	require.Equal(t, schema.ErrExemplarInvalid, got[3].Reason)
	require.Equal(t, "e{}", got[3].Series)
	require.Contains(t, got[3].Message, "after the year 9999")
	require.Equal(t, schema.ErrLabelValueTooLong, got[4].Reason)

	// Another tenant reads its own.
	r := httptest.NewRequest(http.MethodGet, "/api/v1/rejects", nil)
	w := httptest.NewRecorder()
	f.mux.ServeHTTP(w, r)
	body, err := io.ReadAll(w.Body)
	require.NoError(t, err)
	require.Contains(t, string(body), `"rejects":[]`)
}

// Anybody can invent tenants and make mistakes: what is remembered of them is bounded.
func TestRejectsAreBounded(t *testing.T) {
	f := newFixture(t, Config{}, testLimits, 2)
	for i := range maxRejectedTenants + 50 {
		for _, body := range [][]byte{
			encode(t, request1(withSamples(series("a", strings.Repeat("\u2603", 5000)), one(1)))),
			bytes.Repeat([]byte{0xff}, 1000),
		} {
			require.Equal(t, 400, f.post(body, "X-Scope-OrgID", fmt.Sprintf("tenant-%d", i)).Code)
		}
	}
	require.Len(t, f.rejects.tenants, maxRejectedTenants)
	for _, of := range f.rejects.tenants {
		require.LessOrEqual(t, len(of), 2)
		for _, e := range of {
			require.LessOrEqual(t, len(e.message), maxMessage)
			require.LessOrEqual(t, len(e.series), maxSeriesText+3)
		}
	}
	require.NotEmpty(t, f.rejects.of(schema.Tenant(fmt.Sprintf("tenant-%d", maxRejectedTenants+49))))
}

func TestMeter(t *testing.T) {
	var m meter
	now := testNow
	require.Zero(t, m.perSecond(now))
	m.add(60, now)
	require.InDelta(t, 1, m.perSecond(now), 1e-9)
	now = now.Add(meterWindow - 1)
	m.add(60, now)
	require.InDelta(t, 2, m.perSecond(now), 1e-9)
	now = now.Add(1)
	require.InDelta(t, 2, m.perSecond(now), 1e-9, "the window before counts in full at first")
	now = now.Add(meterWindow / 2)
	m.add(30, now)
	require.InDelta(t, 1.5, m.perSecond(now), 1e-9)
	now = now.Add(meterWindow / 2)
	require.InDelta(t, 0.5, m.perSecond(now), 1e-9)
	now = now.Add(2 * meterWindow)
	require.Zero(t, m.perSecond(now))
}
