package reader

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"
	"github.com/stretchr/testify/require"
	"github.com/thanos-io/objstore"

	"sluice/internal/fetch"
	"sluice/internal/members"
	"sluice/internal/trace"
	"sluice/internal/web"
	"sluice/schema"
)

// stuckData answers nothing until its caller gives up.
type stuckData struct{}

func (stuckData) Querier(int64, int64) (storage.Querier, error) {
	return stuckQuerier{storage.NoopQuerier()}, nil
}

type stuckQuerier struct{ storage.Querier }

func (stuckQuerier) Select(ctx context.Context, _ bool, _ *storage.SelectHints, _ ...*labels.Matcher) storage.SeriesSet {
	<-ctx.Done()
	return storage.ErrSeriesSet(context.Cause(ctx))
}

func (stuckQuerier) LabelNames(ctx context.Context, _ *storage.LabelHints, _ ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	<-ctx.Done()
	return nil, nil, context.Cause(ctx)
}

func active(t *testing.T, u string, headers ...string) (list []activeQuery) {
	got := get(t, u, headers...)
	require.Equal(t, 200, got.code, got.body)
	require.NoError(t, json.Unmarshal(got.json.Data, &list))
	return list
}

func TestCancel(t *testing.T) {
	w := newWorld(t, nil, web.Tenancy{MaxFederated: 5})
	e := w.block(1, 0, nil)
	w.blocks.data[e.ID] = stuckData{}
	base := serve(t, w)
	api := base + "/prometheus/api/v1"
	var wg sync.WaitGroup
	defer wg.Wait()
	answers := make(chan reply, 3)
	ask := func(u string, headers ...string) { wg.Go(func() { answers <- get(t, api+u, headers...) }) }
	other := []string{schema.TenantHeader, "other"}

	ask("/query_range?query=sum(m)&start=60&end=120&step=15", "X-Forwarded-For", "1.2.3.4")
	ask("/labels", other...)
	ask("/series?match[]=a&match[]=b", schema.TenantHeader, "acme|other")
	all := base + "/-/active_queries"
	require.Eventually(t, func() bool { return len(active(t, all)) == 3 }, waitFor, tick)
	list := active(t, base+"/api/prom/api/v1/status/active_queries")
	require.Len(t, list, 1, "its own, and not the one that another tenant has a part in")
	q := list[0]
	require.Equal(t, []string{"acme", "/query_range", "sum(m)", "60", "120", "15", "running"}, []string{q.Tenant, q.Endpoint, q.Query, q.Start, q.End, q.Step, q.State})
	require.NotEmpty(t, q.Remote)
	require.Len(t, active(t, api+"/status/active_queries", schema.TenantHeader, "acme|other"), 3)

	theirs := active(t, api+"/status/active_queries", other...)[0].ID
	for _, id := range []string{theirs, "nobody", ""} {
		got := post(t, api+"/status/active_queries/cancel", url.Values{"id": {id}})
		require.Equal(t, 404, got.code, got.body)
		require.Equal(t, "not_found", got.json.ErrorType)
		require.Contains(t, got.json.Error, schema.ErrQueryNotFound)
	}
	require.Len(t, active(t, all), 3)

	require.Equal(t, 200, post(t, api+"/status/active_queries/cancel?id="+q.ID, nil).code)
	got := <-answers
	require.Equal(t, 499, got.code, got.body)
	require.Equal(t, "canceled", got.json.ErrorType)

	req, err := http.NewRequest(http.MethodDelete, api+"/status/active_queries/"+theirs, nil)
	require.NoError(t, err)
	req.Header.Set(schema.TenantHeader, "other")
	require.Equal(t, 200, do(t, req).code)
	got = <-answers
	require.Equal(t, 499, got.code, got.body)
	require.Contains(t, got.json.Error, schema.ErrQueryCanceled)

	last := active(t, all)
	require.Equal(t, "acme|other", last[0].Tenant)
	require.Equal(t, "a b", last[0].Query)
	require.Equal(t, 200, post(t, all+"/cancel", url.Values{"id": {last[0].ID}}).code)
	require.Equal(t, 499, (<-answers).code)
	require.Eventually(t, func() bool { return len(active(t, all)) == 0 }, waitFor, tick)
}

// TestQueued: one that waits for its turn is told apart, and can be ended as well.
func TestQueued(t *testing.T) {
	w, _, base := simple(t, web.Tenancy{})
	var leave []func()
	for range 4 * w.reader.cfg.MaxConcurrent { // several tenants, as no single one gets all places
		if out, ok := enterNow(w, schema.Tenant(fmt.Sprint("t", len(leave)))); ok {
			leave = append(leave, out)
		}
	}
	defer func() {
		for _, out := range leave {
			out()
		}
	}()
	done := make(chan reply, 1)
	go func() { done <- get(t, base+"/api/v1/query?query=m") }()
	list := base + "/api/v1/status/active_queries"
	require.Eventually(t, func() bool { l := active(t, list); return len(l) == 1 && l[0].State == "queued" }, waitFor, tick)
	require.Equal(t, 200, post(t, list+"/cancel", url.Values{"id": {active(t, list)[0].ID}}).code)
	got := <-done
	require.Equal(t, 499, got.code, got.body)
	require.Equal(t, "canceled", got.json.ErrorType)
}

func enterNow(w *world, tenant schema.Tenant) (leave func(), ok bool) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	leave, err := w.reader.queue.Enter(ctx, tenant, 0)
	return leave, err == nil
}

func TestTopQueries(t *testing.T) {
	g := newRegistry()
	now := time.Unix(1e6, 0)
	g.now = func() time.Time { return now }
	run := func(tenant schema.Tenant, query string, took time.Duration, bytes int64) {
		a := &asking{opts: &options{tenant: tenant}, endpoint: "/query_range", query: query, start: "0", end: "1970-01-01T01:00:00Z", began: now.Add(-took), trace: trace.New("x", nil)}
		g.begin(a)
		var c trace.Counts
		c[trace.ChunkBytes] = bytes
		g.end(a, c)
	}
	for range maxOver {
		run("acme", "forgotten", time.Hour, 1)
	}
	for range maxOver - 103 {
		run("acme", "old", time.Hour, 1)
	}
	now = now.Add(time.Hour)
	for range 100 {
		run("acme", "often", time.Millisecond, 1)
	}
	run("acme", "slow", time.Minute, 10)
	run("acme", "large", time.Second, 5000)
	run("other", "secret", time.Hour, 1e9)
	require.Len(t, g.over, maxOver)

	top := g.top([]schema.Tenant{"acme"}, 1, time.Minute)
	require.Equal(t, 102, top.Remembered)
	require.Equal(t, "often", top.ByCount[0].Query)
	require.Equal(t, topQuery{Tenant: "acme", Endpoint: "/query_range", Query: "slow", Range: 3600, Count: 1, AvgDuration: 60, SumDuration: 60, SumBytes: 10}, top.ByAvgDuration[0])
	require.Equal(t, "slow", top.BySumDuration[0].Query)
	require.Equal(t, "large", top.ByBytes[0].Query)
	require.Equal(t, "secret", g.top(nil, 5, time.Minute).ByBytes[0].Query)
	all := g.top([]schema.Tenant{"acme"}, 5, 2*time.Hour)
	require.Equal(t, maxOver-1, all.Remembered)
	require.Equal(t, "old", all.ByCount[0].Query)

	w, _, base := simple(t, web.Tenancy{})
	base += "/api/v1"
	for range 3 {
		require.Equal(t, 200, get(t, base+"/query?query=sum(m)&time=100").code)
	}
	require.Equal(t, 422, get(t, base+"/query?query=sum(m)/on()m&time=100").code)
	require.Equal(t, 200, get(t, base+"/format_query?query=m").code)
	w.isOver(t, 4)
	got := get(t, base+"/status/top_queries?topN=1&maxLifetime=1h")
	require.Equal(t, 200, got.code)
	require.Contains(t, got.body, `"query":"sum(m)","timeRangeSeconds":0,"count":3`)
	for _, bad := range []string{"topN=0", "topN=1001", "topN=x", "maxLifetime=-1s", "maxLifetime=soon"} {
		require.Equal(t, 400, get(t, base+"/status/top_queries?"+bad).code, bad)
	}
	require.Equal(t, 4.0, testutil.ToFloat64(w.reader.metrics.tenants.queries.WithLabelValues("acme")))
	require.Equal(t, 10.0, testutil.ToFloat64(w.reader.metrics.tenants.series.WithLabelValues("acme")))
	require.Positive(t, testutil.ToFloat64(w.reader.metrics.tenants.seconds.WithLabelValues("acme")))
}

// isOver waits until n requests are over: that comes after the last byte of the answer.
func (w *world) isOver(t *testing.T, n int) {
	require.Eventually(t, func() bool {
		w.reader.registry.mu.Lock()
		defer w.reader.registry.mu.Unlock()
		return len(w.reader.registry.over) == n
	}, waitFor, tick)
}

// TestTenantsAreForgotten: counters by tenant do not grow with whoever has ever asked.
func TestTenantsAreForgotten(t *testing.T) {
	m := newTenantMetrics(prometheus.NewRegistry())
	now := time.Unix(1e6, 0)
	for i := range maxMeteredTenants + 10 {
		m.count(schema.Tenant(fmt.Sprint(i)), now, time.Second, trace.Counts{})
	}
	require.Equal(t, maxMeteredTenants+1, testutil.CollectAndCount(m.seconds))
	require.Equal(t, 10.0, testutil.ToFloat64(m.queries.WithLabelValues(string(otherTenants))))
	m.count("7", now.Add(idleTenant), time.Second, trace.Counts{})
	m.count("7", now.Add(idleTenant+2*time.Minute), time.Second, trace.Counts{})
	require.Equal(t, 1, testutil.CollectAndCount(m.seconds))
	require.Equal(t, 3.0, testutil.ToFloat64(m.seconds.WithLabelValues("7")))
}

func TestSlowQueryLog(t *testing.T) {
	var mu sync.Mutex
	var out bytes.Buffer
	w, _, base := simple(t, web.Tenancy{})
	w.reader.logger = slog.New(slog.NewTextHandler(lockedWriter{&mu, &out}, nil))
	logged := func() string {
		mu.Lock()
		defer mu.Unlock()
		return out.String()
	}
	for i, limit := range []time.Duration{0, time.Hour} {
		w.reader.cfg.SlowQuery = limit
		require.Equal(t, 200, get(t, base+"/api/v1/query?query=sum(m)&time=100").code)
		w.isOver(t, i+1)
	}
	w.reader.cfg.SlowQuery = -1
	long := "sum(m" + strings.Repeat(" ", 5000) + ")"
	require.Equal(t, 200, get(t, base+"/api/v1/query_range?query="+url.QueryEscape(long)+"&start=60&end=120&step=60").code)
	w.isOver(t, 3)
	line := logged()
	require.Equal(t, 1, strings.Count(line, "\n"))
	require.Less(t, len(line), 2500)
	for _, want := range []string{
		`msg="slow query" tenant=acme`, "endpoint=/query_range", "start=60 end=120 step=60", "status=200", " seconds=", "queue_seconds=", "plan_seconds=",
		"select_seconds=", "evaluate_seconds=", "encode_seconds=", "series=2", "samples=", "bucket_requests=0", "blocks=0 missing=0 consistency=eventual",
	} {
		require.Contains(t, line, want)
	}
}

type lockedWriter struct {
	mu  *sync.Mutex
	out *bytes.Buffer
}

func (w lockedWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.out.Write(b)
}

// TestCrashLeavesQueries: what was under way when a process died is in the next one's log.
func TestCrashLeavesQueries(t *testing.T) {
	dir := t.TempDir()
	var out bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&out, nil))
	first, err := openTracker(dir, logger)
	require.NoError(t, err)
	_, err = openTracker(dir, logger)
	require.Error(t, err, "one process has it open")
	var ends []func()
	for i := range trackedQueries + 5 { // more than there is room for: nobody waits
		ends = append(ends, first.begin(fmt.Sprintf("query %d", i)))
	}
	for _, end := range ends[1:] {
		end()
	}
	left, err := os.ReadFile(filepath.Join(dir, "queries.active"))
	require.NoError(t, err)
	require.Contains(t, string(left), "query 0")
	require.NotContains(t, string(left), "query 1")
	require.NoError(t, first.close())
	ends[0]() // the file is no longer mapped
	first.begin("late")()

	second, err := openTracker(dir, logger)
	require.NoError(t, err)
	require.Contains(t, out.String(), "query 0")
	require.NoError(t, second.close())
	var none *tracker
	none.begin("x")()
	require.NoError(t, none.close())

	// The reader itself.
	r, err := New(Config{Scratch: dir}, &fakeLog{}, &fakeCat{snapshots: []snapshot{{}}}, objstore.NewInMemBucket(), fakeDir{},
		func(members.Member) fetch.Source { return nil }, &fakeLimits{}, web.Tenancy{}, logger, nil)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	require.Eventually(t, func() bool { return r.Ready() == nil }, waitFor, tick)
	_, err = openTracker(dir, logger)
	require.Error(t, err, "the reader has it")
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
}

// BenchmarkFollow is what following costs a request, beside the spans of what it does.
func BenchmarkFollow(b *testing.B) {
	w, _, _ := simple(b, web.Tenancy{})
	t, err := openTracker(b.TempDir(), slog.New(slog.DiscardHandler))
	require.NoError(b, err)
	defer func() { require.NoError(b, t.close()) }()
	w.reader.tracker.Store(t)
	req, err := http.NewRequest(http.MethodGet, "/api/v1/query?query=sum(rate(http_requests_total[5m]))&time=1700000000", nil)
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		opts := &options{tenant: "acme"}
		_, done := w.reader.follow(&answer{opts: opts}, req, opts, "/query")
		done()
	}
}
