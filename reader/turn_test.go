package reader

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"sluice/internal/fetch"
	"sluice/internal/log"
	"sluice/internal/trace"
	"sluice/internal/web"
	"sluice/reader/front"
	"sluice/schema"
)

// haltedSource is a source whose answers wait until it goes on.
type haltedSource struct {
	*fakeSource
	asked chan struct{} // one for each question
	goOn  chan struct{}
}

func stop(w *world, src *fakeSource) *haltedSource {
	s := &haltedSource{fakeSource: src, asked: make(chan struct{}, 100), goOn: make(chan struct{})}
	w.sources["c"] = s
	return s
}

func (s *haltedSource) Held(ctx context.Context, _ schema.Tenant, _ []fetch.Ask) ([]fetch.Interval, fetch.Applied, error) {
	s.asked <- struct{}{}
	select {
	case <-s.goOn:
		return []fetch.Interval{fetch.Always}, fetch.Applied{0: 100}, nil
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
}

// TestTooManyWait: past the tenant's limit requests are refused, on every endpoint with work to do, and others get their turn.
func TestTooManyWait(t *testing.T) {
	w, src, base := simple(t, web.Tenancy{})
	w.reader.queue = front.NewQueue(4, nil)
	w.limits.MaxOutstandingRequestsPerTenant = 1
	s := stop(w, src)
	u := base + "/api/v1/query_range?query=m&start=0&end=200&step=10"
	ask := func(wg *sync.WaitGroup) {
		wg.Go(func() {
			got := get(t, u)
			assert.Equal(t, 200, got.code, got.body)
		})
	}
	var wg sync.WaitGroup
	for range 3 {
		ask(&wg)
	}
	for range 3 {
		<-s.asked
	}
	ask(&wg) // waits, as a tenant gets three of four places
	require.Eventually(t, func() bool { return w.reader.queue.Waiting("acme") == 1 }, waitFor, tick)
	for _, path := range []string{"query?query=1", "query_range?query=1&start=0&end=1&step=1", "query_exemplars?query=m&start=0&end=1", "series?match[]=m", "labels", "label/s/values"} {
		got := get(t, base+"/prometheus/api/v1/"+path)
		require.Equal(t, 429, got.code, path)
		require.Contains(t, got.json.Error, schema.ErrTooManyOutstanding, path)
		require.NotEmpty(t, got.header.Get("Retry-After"), path)
	}
	require.Equal(t, 200, get(t, base+"/api/v1/query?query=1", schema.TenantHeader, "another").code)
	require.Equal(t, 200, get(t, base+"/api/v1/status/buildinfo").code, "what costs nothing does not wait")
	close(s.goOn)
	wg.Wait()
	require.Equal(t, 200, get(t, u).code)
}

// TestSlowClient: one that does not read holds no place, and is cut off.
func TestSlowClient(t *testing.T) {
	w, src, _ := simple(t, web.Tenancy{})
	series := map[string][]sample{}
	for i := range 1000 {
		series[fmt.Sprint("series", i, strings.Repeat("x", 500))] = []sample{{60_000, 1}}
	}
	src.data = newData(t, series)
	w.reader.cfg.WritePace = 50 * time.Millisecond
	w.reader.queue = front.NewQueue(1, nil)
	base := serve(t, w)
	addr := strings.TrimPrefix(base, "http://")
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.(*net.TCPConn).SetReadBuffer(4096))
	path := "/api/v1/query_range?query=m&start=0&end=110&step=0.1"
	_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nX-Scope-OrgID: acme\r\n\r\n", path)
	require.NoError(t, err)
	_, err = bufio.NewReader(conn).ReadByte() // the answer has begun
	require.NoError(t, err)
	require.Equal(t, 200, get(t, base+"/api/v1/query?query=1").code, "the only place is free again")
	require.Eventually(t, func() bool {
		n := testutil.ToFloat64(w.reader.metrics.queries.WithLabelValues("200"))
		return n == 2 && w.reader.memory.Used() == 0
	}, waitFor, tick, "the request is over")
	w.reader.cfg.WritePace = time.Minute
	got := get(t, base+path)
	require.Equal(t, 200, got.code)
	require.Greater(t, len(got.body), 6<<20, "more than buffers take")
}

// TestLimitsOfQueries: each limit that is known before or after the work has its ID, the number and the limit.
func TestLimitsOfQueries(t *testing.T) {
	w, _, base := simple(t, web.Tenancy{})
	w.reader.now = func() time.Time { return time.UnixMilli(200_000) }
	defaults := w.limits.QueryLimits
	for _, c := range []struct {
		set   func(*schema.QueryLimits)
		path  string
		code  int
		id    schema.ErrorID
		limit string
	}{
		{func(l *schema.QueryLimits) { l.MaxFetchedSeriesPerQuery = 1 }, "query?query=m&time=100", 422, schema.ErrMaxSeriesPerQuery, "limit of 1 (max_fetched_series_per_query)"},
		{func(l *schema.QueryLimits) { l.MaxFetchedSeriesPerQuery = 1 }, "series?match[]=m", 422, schema.ErrMaxSeriesPerQuery, "limit of 1 ("},
		{func(l *schema.QueryLimits) { l.MaxSamplesPerQuery = 3 }, "query_range?query=m&start=60&end=100&step=1", 422, schema.ErrMaxSamplesPerQuery, "3 samples in memory at one time (max_samples_per_query)"},
		{func(l *schema.QueryLimits) { l.MaxSamplesPerQuery = 1 }, "query?query=m&time=100", 422, schema.ErrMaxSamplesPerQuery, "1 samples"},
		{func(l *schema.QueryLimits) { l.MaxEstimatedMemoryConsumptionPerQuery = 100 }, "query_range?query=m&start=60&end=100&step=1", 422, schema.ErrMaxMemoryPerQuery, "limit of 100 (max_estimated_memory_consumption_per_query)"},
		{func(l *schema.QueryLimits) { l.MaxTotalQueryLength = model.Duration(time.Minute) }, "query_range?query=m&start=0&end=100&step=1", 422, schema.ErrMaxQueryLength, "limit is 1m (max_total_query_length)"},
		{func(l *schema.QueryLimits) { l.MaxTotalQueryLength = model.Duration(time.Minute) }, "query?query=rate(m[2m])", 422, schema.ErrMaxQueryLength, "limit is 1m"},
		{func(l *schema.QueryLimits) { l.MaxLabelsQueryLength = model.Duration(time.Minute) }, "labels?start=0&end=100", 422, schema.ErrMaxQueryLength, "limit is 1m (max_labels_query_length)"},
		{func(l *schema.QueryLimits) { l.MaxLabelsQueryLength = model.Duration(time.Minute) }, "label/s/values?start=1970-01-01T00:00:00Z", 422, schema.ErrMaxQueryLength, "limit is 1m"},
		{func(l *schema.QueryLimits) { l.MaxQueryExpressionSizeBytes = 5 }, "query?query=sum(m)", 400, schema.ErrQueryTooLong, "limit of 5 (max_query_expression_size_bytes)"},
		{func(l *schema.QueryLimits) { l.MaxQueryResponseSize = 60 }, "query?query=m&time=100", 422, schema.ErrMaxResponseSize, "limit is 60 (max_query_response_size)"},
		{func(l *schema.QueryLimits) { l.MaxQueryResponseSize = 60 }, "series?match[]=m", 422, schema.ErrMaxResponseSize, "limit is 60"},
		{func(l *schema.QueryLimits) {}, "query?query=sum_over_time(m[1y:1ms])", 422, schema.ErrMaxSamplesPerQuery, "limit is 4194304"},
	} {
		w.limits.QueryLimits = defaults
		c.set(&w.limits.QueryLimits)
		got := get(t, base+"/prometheus/api/v1/"+c.path, "Accept-Encoding", "identity")
		require.Equal(t, c.code, got.code, "%s: %s", c.path, got.body)
		require.Contains(t, got.json.Error, c.id, c.path)
		require.Contains(t, got.json.Error, c.limit, c.path)
		require.Equal(t, "error", got.json.Status)
		w.limits.QueryLimits = defaults
		require.Contains(t, []int{200, 422}, get(t, base+"/prometheus/api/v1/"+c.path).code)
	}
	w.limits.MaxQueryResponseSize = 1 << 20
	got := get(t, base+"/prometheus/api/v1/query?query=m&time=100", "Accept-Encoding", "gzip")
	require.Equal(t, "gzip", got.header.Get("Content-Encoding"))
	require.Equal(t, 204, func() int {
		req, err := http.NewRequest(http.MethodOptions, base+"/prometheus/api/v1/query", nil)
		require.NoError(t, err)
		return do(t, req).code
	}())
	require.Zero(t, w.reader.memory.Used())

	w.reader.memory = trace.NewBudget(10, "--reader.query-memory")
	got = get(t, base+"/prometheus/api/v1/query?query=m&time=100")
	require.Equal(t, 422, got.code)
	require.Contains(t, got.json.Error, schema.ErrMaxMemoryPerQuery)
}

// What is older than the look-back is not shown, wherever one asks.
func TestLookback(t *testing.T) {
	w, _, base := simple(t, web.Tenancy{})
	w.reader.now = func() time.Time { return time.UnixMilli(160_000) }
	w.limits.MaxQueryLookback = model.Duration(time.Minute) // since 100 s: only the later sample of a
	base += "/api/v1/"
	require.JSONEq(t, `[{"__name__":"m","s":"a"}]`, string(get(t, base+"series?match[]=m").json.Data))
	got := get(t, base+"query_range?query=count_over_time(m[1h])&start=55&end=125&step=10")
	require.JSONEq(t, `[{"metric":{"s":"a"},"values":[[125,"1"]]}]`, result(t, got), got.body)
	require.JSONEq(t, `[]`, result(t, get(t, base+"query_range?query=m&start=55&end=85&step=10")))
	w.limits.MaxQueryLookback = 0
	require.Contains(t, result(t, get(t, base+"query_range?query=m&start=55&end=85&step=10")), `"b"`)
}

func result(t *testing.T, got reply) string {
	_, after, ok := strings.Cut(string(got.json.Data), `"result":`)
	require.True(t, ok, got.body)
	return strings.TrimSuffix(after, "}")
}

// timesSource is a source that tells of which times it holds something.
type timesSource struct {
	*fakeSource
	intervals []fetch.Interval
	asks      int
}

func (s *timesSource) Held(ctx context.Context, _ schema.Tenant, asks []fetch.Ask) ([]fetch.Interval, fetch.Applied, error) {
	s.asks++
	return s.intervals, fetch.Applied{0: 100}, s.check(ctx, asks)
}

// TestResultsCache goes through what changes answers: samples in heads, new blocks, blocks that go, and who asks how.
func TestResultsCache(t *testing.T) {
	w, src, base := simple(t, web.Tenancy{})
	w.log.bounds = []log.Bounds{{End: 100}}
	w.reader.now = func() time.Time { return time.UnixMilli(100_000_000) }
	w.limits.SplitQueriesByInterval = model.Duration(10 * time.Minute)
	src.data, src.applied = newData(t, nil), fetch.Applied{0: 100}
	h := &timesSource{fakeSource: src}
	w.sources["c"] = h
	first := w.block(1, 0, newData(t, map[string][]sample{"a": {{60_000, 1}, {1_200_000, 2}, {2_400_000, 3}}}))
	first.MinTime, first.MaxTime = 60_000, 2_400_001
	ask := func(headers ...string) (string, int) {
		before := w.blocks.opened
		got := get(t, base+"/api/v1/query_range?"+url.Values{"query": {"m"}, "start": {"0"}, "end": {"3000"}, "step": {"30"}}.Encode(), headers...)
		require.Equal(t, 200, got.code, got.body)
		w.reader.front.Wait()
		return got.body, w.blocks.opened - before
	}
	same := func(worked bool, about string) {
		t.Helper()
		got, n := ask()
		require.Equal(t, worked, n > 0, about)
		fresh, n := ask("Cache-Control", "max-age=0, no-store")
		require.NotZero(t, n)
		require.Equal(t, fresh, got, about)
	}
	same(true, "the first time")
	same(false, "again")
	require.NotZero(t, h.asks)

	src.data = newData(t, map[string][]sample{"a": {{1_230_000, 77}}})
	h.intervals = []fetch.Interval{{Mint: 1_230_000, Maxt: 1_230_000}}
	same(true, "a late sample in a head")
	same(true, "is never taken for final")

	late := w.block(2, 1, newData(t, map[string][]sample{"a": {{1_230_000, 77}}}))
	late.MinTime, late.MaxTime = 1_230_000, 1_230_001
	src.data, h.intervals = newData(t, nil), nil
	same(true, "in a block")
	same(false, "which is final")

	w.cat.snapshots[0].blocks = slices.DeleteFunc(w.cat.snapshots[0].blocks, func(e *schema.BlockEntry) bool { return e == first })
	merged := w.block(3, 0, newData(t, map[string][]sample{"a": {{60_000, 1}, {1_200_000, 2}, {2_400_000, 3}}}))
	merged.MinTime, merged.MaxTime = 60_000, 2_400_001
	same(true, "another block in the place of one")
	same(false, "and again")

	w.cat.snapshots[0].blocks = w.cat.snapshots[0].blocks[:1]
	got, _ := ask()
	require.Equal(t, 1, strings.Count(got, "77")/strings.Count(got, `"77"`), "only what is left")
	fresh, _ := ask("Cache-Control", "no-store")
	require.Equal(t, fresh, got)

	w.cat.snapshots[0].gaps = []schema.Gap{{LogRange: schema.LogRange{From: 1, To: 2}, FromTime: 1_000_000, ToTime: 1_000_001, Reason: "test"}}
	require.Equal(t, 422, get(t, base+"/api/v1/query_range?query=m&start=0&end=3000&step=30").code, "what was lost is told as ever")
	w.cat.snapshots[0].gaps = nil

	// A tenant's own answers.
	require.NotContains(t, get(t, base+"/api/v1/query_range?query=m&start=0&end=3000&step=30&partial_response=true").body, "warnings")
	src.err = schema.Unavailable(schema.ErrPartitionUnavailable, nil, "away")
	require.Equal(t, 503, get(t, base+"/api/v1/query_range?query=m&start=0&end=3000&step=30").code, "an answer that cannot be checked is none")
}
