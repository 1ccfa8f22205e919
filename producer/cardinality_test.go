package producer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/prompb"
	"github.com/stretchr/testify/require"

	"sluice/internal/limits"
	"sluice/internal/log"
	"sluice/internal/usage"
	"sluice/internal/web"
	"sluice/schema"
)

// counting is a real log with what stands in for its consumers: count reads what was written and tells of it.
type counting struct {
	t        testing.TB
	ctx      context.Context
	log      log.Log
	table    *usage.Table
	trackers []*usage.Tracker
	next     []int64
}

const countingPartitions = 4

func newCounting(t testing.TB) *counting {
	logger := slog.New(slog.DiscardHandler)
	l, err := log.OpenEmbedded(log.EmbeddedConfig{Dir: t.TempDir(), Partitions: countingPartitions, Fsync: log.FsyncOff}, logger, nil)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	control := log.NewTable(l, log.TopicControl)
	c := &counting{t: t, ctx: ctx, log: l, table: usage.NewTable(control, logger), next: make([]int64, countingPartitions)}
	for range countingPartitions {
		c.trackers = append(c.trackers, usage.NewTracker())
	}
	done := make(chan error, 1)
	go func() { done <- control.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
		require.NoError(t, l.Close())
	})
	return c
}

// count does what consumers do every two seconds.
func (c *counting) count() {
	c.t.Helper()
	ends, err := c.log.Ends(c.ctx, log.TopicSamples)
	require.NoError(c.t, err)
	for p, end := range ends {
		r, err := c.log.Reader(log.TopicSamples, int32(p), c.next[p])
		require.NoError(c.t, err)
		for c.next[p] < end {
			recs, err := r.Next(c.ctx)
			require.NoError(c.t, err)
			for i := range recs {
				c.mark(c.trackers[p], &recs[i])
				c.next[p] = recs[i].Offset + 1
			}
		}
		require.NoError(c.t, r.Close())
		src := usage.Source{Instance: "consumer-0", Partition: int32(p), Applied: end}
		require.NoError(c.t, c.log.Append(c.ctx, log.TopicControl, c.trackers[p].Collect(src, true)))
	}
	require.NoError(c.t, c.table.Sync(c.ctx))
}

func (c *counting) mark(t *usage.Tracker, rec *log.Record) {
	t.Tick(rec.Time)
	if h, ok := rec.Header(schema.HeaderSeriesLimit); ok {
		l, err := schema.DecodeSeriesLimit(h)
		require.NoError(c.t, err)
		t.Limit(schema.Tenant(rec.Key), l)
	}
	series := func(payload []byte) {
		var s schema.Series
		require.NoError(c.t, s.Parse(payload))
		hash, _ := schema.SeriesHash(schema.Tenant(rec.Key), s.Labels, nil)
		t.Mark(schema.Tenant(rec.Key), hash, s.Labels[0].Value)
	}
	if v, _ := rec.Header(schema.HeaderVersion); v[0] == schema.RecordV2 {
		var cols schema.Columns
		require.NoError(c.t, cols.Parse(rec.Value))
		for {
			_, b, ok, err := cols.NextDefinition()
			require.NoError(c.t, err)
			if !ok {
				return
			}
			series(b)
		}
	}
	for rest := rec.Value; ; {
		f, next, err := schema.NextField(rest)
		require.NoError(c.t, err)
		if f.Raw == nil {
			return
		}
		series(f.Payload)
		rest = next
	}
}

func (c *counting) limitsOf(yaml string) *limits.Limits {
	path := filepath.Join(c.t.TempDir(), "limits.yaml")
	require.NoError(c.t, os.WriteFile(path, []byte(yaml), 0o600))
	lim, err := limits.New(limits.Config{Path: path}, slog.New(slog.DiscardHandler), nil)
	require.NoError(c.t, err)
	return lim
}

// producer starts a producer on the log. It has been running for as long as it takes.
func (c *counting) producer(version int, limitsYAML string) *fixture {
	f := &fixture{mux: http.NewServeMux()}
	var err error
	f.Producer, err = New(Config{RecordVersion: version}, c.log, nil, c.limitsOf(limitsYAML), web.Tenancy{}, slog.New(slog.DiscardHandler), nil)
	require.NoError(c.t, err)
	f.LimitSeries(c.table)
	f.cardinality.settled.Store(true)
	f.Register(f.mux)
	return f
}

// some are the series from..to-1 of a metric.
func some(metric string, from, to int) *prompb.WriteRequest {
	var req prompb.WriteRequest
	for n := from; n < to; n++ {
		req.Timeseries = append(req.Timeseries, withSamples(series("__name__", metric, "n", fmt.Sprint(n)),
			prompb.Sample{Value: 1, Timestamp: time.Now().UnixMilli()}))
	}
	return &req
}

// sends requires that so many of the series are refused, with that ID.
func (c *counting) sends(f *fixture, req *prompb.WriteRequest, refused int, id schema.ErrorID) {
	c.t.Helper()
	w := f.push(c.t, req)
	if refused == 0 {
		require.Equal(c.t, http.StatusNoContent, w.Code, w.Body.String())
		return
	}
	requireRefused(c.t, w, http.StatusBadRequest, id)
	require.True(c.t, strings.HasPrefix(w.Body.String(), fmt.Sprintf("%d of %d series were refused", refused, len(req.Timeseries))), w.Body.String())
}

func (c *counting) series() int { return int(c.table.View("team-a").Series) }

const hundred = "default: {max_global_series_per_user: 100}"

// With one producer the limit is exact, whether the consumers have counted in between or not, and what is there goes on.
func TestSeriesPerUser(t *testing.T) {
	bothVersions(t, func(t *testing.T, cfg Config) {
		version := cfg.RecordVersion
		c := newCounting(t)
		f := c.producer(version, hundred)
		c.sends(f, some("m", 0, 99), 0, "")
		c.sends(f, some("m", 0, 99), 0, "")
		c.sends(f, some("m", 98, 100), 0, "")
		c.sends(f, some("m", 95, 101), 1, schema.ErrMaxSeriesPerUser)
		c.count()
		require.Equal(t, 100, c.series())
		c.sends(f, some("m", 0, 101), 1, schema.ErrMaxSeriesPerUser)
		c.sends(f, some("bomb", 0, 1000), 1000, schema.ErrMaxSeriesPerUser)
		c.sends(f, some("m", 0, 100), 0, "")
		w := f.push(t, some("m", 99, 102))
		require.Contains(t, w.Body.String(), `the tenant has 100 active series, no room for a new one within max_global_series_per_user of 100: series m{n="100"}`)
		c.count()
		require.Equal(t, 100, c.series())
		require.Zero(t, int(c.table.View("team-b").Series))
		w = f.post(encode(t, some("m", 0, 100)), "Content-Type", "application/x-protobuf", "X-Scope-OrgID", "team-b")
		require.Equal(t, http.StatusNoContent, w.Code, "another tenant's limit is its own")
	})
}

// A producer that has just started knows the series that others have accepted, and no new one gets past it.
func TestRestartAtTheLimit(t *testing.T) {
	bothVersions(t, func(t *testing.T, cfg Config) {
		version := cfg.RecordVersion
		c := newCounting(t)
		f := c.producer(version, hundred)
		c.sends(f, some("m", 0, 60), 0, "")
		c.count()
		c.sends(f, some("m", 60, 100), 0, "") // the consumers have yet to count these

		f = c.producer(version, hundred)
		f.cardinality.settled.Store(false)
		f.refresh(c.ctx)
		c.sends(f, some("m", 0, 60), 0, "")
		// 60 are counted, 40 are not: those that come now may be new or not, up to the limit.
		c.sends(f, some("m", 60, 90), 0, "")
		c.sends(f, some("bomb", 0, 10), 0, "")
		w := f.push(t, some("m", 90, 91))
		requireRefused(t, w, http.StatusServiceUnavailable, schema.ErrNotReady)
		require.NotEmpty(t, w.Header().Get("Retry-After"))
		c.sends(f, some("m", 0, 60), 0, "")
		c.count()
		require.Equal(t, 110, c.series())
		c.sends(f, some("m", 0, 100), 0, "")
		c.sends(f, some("bomb", 0, 20), 10, schema.ErrMaxSeriesPerUser)

		f = c.producer(version, hundred)
		c.sends(f, some("m", 0, 101), 1, schema.ErrMaxSeriesPerUser)
		f = c.producer(version, hundred)
		c.sends(f, some("bomb", 5, 15), 5, schema.ErrMaxSeriesPerUser)
	})
}

// Several producers go at most as far above the limit as there was room when the consumers last counted.
func TestProducersTogether(t *testing.T) {
	for _, n := range []int{2, 3, 7} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			c := newCounting(t)
			var all []*fixture
			for i := range n {
				all = append(all, c.producer(schema.RecordV2, "default: {max_global_series_per_user: 1000}"))
				c.sends(all[i], some("m", 100*i, 100*i+100), 0, "")
			}
			c.count()
			before := c.series()
			require.Equal(t, 100*n, before)
			for i, f := range all { // all want more than there is
				f.push(t, some("bomb", 10_000*i, 10_000*i+2000))
			}
			c.count()
			require.GreaterOrEqual(t, c.series(), 1000)
			require.LessOrEqual(t, c.series(), 1000+(1000-before)+n)
			at := c.series()
			for i, f := range all {
				c.sends(f, some("bomb", 10_000*i+5000, 10_000*i+5001), 1, schema.ErrMaxSeriesPerUser)
				c.sends(f, some("m", 0, 100*n), 0, "") // those of the others too
			}
			c.count()
			require.Equal(t, at, c.series())
		})
	}
}

func TestRoomFor(t *testing.T) {
	for _, c := range []struct {
		limit, counted, pending int64
		producers               int
		want                    bool
	}{
		{100, 0, 0, 1, true}, {100, 0, 99, 1, true}, {100, 0, 100, 1, false},
		{100, 99, 0, 1, true}, {100, 100, 0, 1, false}, {100, 150, 0, 1, false},
		{100, 50, 49, 2, true}, {100, 50, 50, 2, false},
		{100, 50, 24, 4, true}, {100, 50, 25, 4, false},
		{100, 99, 0, 50, true}, {100, 99, 1, 50, false}, {100, 100, 0, 50, false},
	} {
		require.Equal(t, c.want, roomFor(c.limit, c.counted, c.pending, c.producers), "%+v", c)
	}
}

func TestSeriesPerMetric(t *testing.T) {
	bothVersions(t, func(t *testing.T, cfg Config) {
		version := cfg.RecordVersion
		c := newCounting(t)
		f := c.producer(version, "default: {max_global_series_per_metric: 100}")
		c.sends(f, some("m", 0, 99), 0, "")
		c.sends(f, some("other", 0, 100), 0, "")
		c.sends(f, some("m", 99, 100), 0, "")
		c.sends(f, some("m", 99, 101), 1, schema.ErrMaxSeriesPerMetric)
		c.count()
		c.sends(f, some("m", 0, 101), 1, schema.ErrMaxSeriesPerMetric)
		c.sends(f, some("third", 0, 100), 0, "")
		require.Contains(t, f.push(t, some("m", 100, 101)).Body.String(),
			`metric "m" has 100 active series, no room for a new one within max_global_series_per_metric of 100: series m{n="100"}`)
		c.count()
		require.Equal(t, 300, c.series())
		_, top := c.table.Usage("team-a", 10)
		require.Equal(t, []usage.MetricUsage{{Name: "m", Series: 100}, {Name: "other", Series: 100}, {Name: "third", Series: 100}}, top)

		f = c.producer(version, "default: {max_global_series_per_user: 305, max_global_series_per_metric: 100}")
		c.sends(f, some("m", 99, 101), 1, schema.ErrMaxSeriesPerMetric)
		c.sends(f, some("fourth", 0, 6), 1, schema.ErrMaxSeriesPerUser)
	})
}

// The file may change at any time: up, down, for a tenant that had no limit, and away.
func TestSeriesLimitReload(t *testing.T) {
	c := newCounting(t)
	f := c.producer(schema.RecordV2, "")
	c.sends(f, some("m", 0, 500), 0, "")
	c.count()
	f.limits = c.limitsOf(hundred) // far below what is there, and nobody knows yet what that is
	c.sends(f, some("m", 0, 500), 0, "")
	c.count()
	c.sends(f, some("m", 0, 501), 1, schema.ErrMaxSeriesPerUser)
	f.limits = c.limitsOf("default: {max_global_series_per_user: 501}")
	c.sends(f, some("m", 0, 502), 1, schema.ErrMaxSeriesPerUser)
	c.count()
	require.Equal(t, 501, c.series())
	f.limits = c.limitsOf(hundred)
	c.sends(f, some("m", 0, 501), 0, "")
	f.limits = c.limitsOf("")
	c.sends(f, some("m", 0, 1000), 0, "")
	c.count()
	require.Equal(t, 1000, c.series())
}

// A request that is not written takes no room, whatever it is that stops it.
func TestRoomIsGivenBack(t *testing.T) {
	c := newCounting(t)
	f := c.producer(schema.RecordV2, hundred)
	broken := &brokenAppend{Log: c.log}
	f.Producer.log = broken
	broken.err = errors.New("no")
	for i := range 5 {
		require.Equal(t, http.StatusServiceUnavailable, f.push(t, some("m", 100*i, 100*i+100)).Code)
	}
	body, err := some("x", 0, 100).Marshal()
	require.NoError(t, err)
	broken.err = nil
	w := f.post(encode(t, raw(append(body, 0x0a))), "Content-Type", "application/x-protobuf", "X-Scope-OrgID", "team-a")
	requireRefused(t, w, http.StatusBadRequest, schema.ErrDecode)
	c.sends(f, some("n", 0, 100), 0, "")
	c.sends(f, some("n", 0, 101), 1, schema.ErrMaxSeriesPerUser)
	c.sends(f, some("m", 0, 500), 500, schema.ErrMaxSeriesPerUser) // the cache remembers them, but nothing of them was written
}

type raw []byte

func (r raw) Marshal() ([]byte, error) { return r, nil }

type brokenAppend struct {
	log.Log
	err error
}

func (b *brokenAppend) Append(ctx context.Context, topic string, recs []log.Record) error {
	if b.err != nil {
		return b.err
	}
	return b.Log.Append(ctx, topic, recs)
}

// What was let through and never counted does not take room for ever, once the consumers are past it.
func TestPendingIsGivenUp(t *testing.T) {
	c := newCounting(t)
	a := newAdmissions()
	now := time.Now()
	for p := range int32(countingPartitions) {
		a.pending[uint64(p)] = admitted{"m", p, now.UnixMilli() - int64(p)*40_000}
		a.perMetric["m"]++
	}
	view := c.table.View("team-a")
	a.prune(c.table, "team-a", view, now)
	require.Len(t, a.pending, 4, "nobody has counted anything")
	f := c.producer(schema.RecordV2, hundred)
	f.tick(c.ctx)
	c.count()
	a.prune(c.table, "team-a", view, now.Add(time.Second))
	require.Len(t, a.pending, 4, "not yet")
	a.prune(c.table, "team-a", view, now.Add(time.Minute))
	require.Len(t, a.pending, 2)
	require.EqualValues(t, 2, a.perMetric["m"])
}

// Requests that come together do not pass the limit together.
func TestConcurrentNewSeries(t *testing.T) {
	c := newCounting(t)
	f := c.producer(schema.RecordV2, "default: {max_global_series_per_user: 1000}")
	done := make(chan int, 8)
	for i := range 8 {
		go func() { done <- f.push(t, some("m", 100*i, 100*i+400)).Code }()
	}
	for range 8 {
		<-done
	}
	c.count()
	require.Equal(t, 1000, c.series())
}

// BenchmarkRefused is what a series costs that is refused, in a flood of them.
func BenchmarkRefused(b *testing.B) {
	c := newCounting(b)
	f := c.producer(schema.RecordV2, hundred)
	c.sends(f, some("m", 0, 100), 0, "")
	c.count()
	req := some("bomb", 0, 2000)
	body := encode(b, req)
	b.ReportAllocs()
	for b.Loop() {
		f.post(body, "Content-Type", "application/x-protobuf", "X-Scope-OrgID", "team-a")
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/2000, "ns/series")
}

// A tenant sees how many series it has beside its limit, and which metric names have most.
func TestSeriesInUserLimits(t *testing.T) {
	c := newCounting(t)
	f := c.producer(schema.RecordV2, hundred)
	c.sends(f, some("m", 0, 30), 0, "")
	c.sends(f, some("n", 0, 12), 0, "")
	c.count()
	var answer struct {
		Limit      int                 `json:"max_global_series_per_user"`
		Usage      map[string]float64  `json:"usage"`
		TopMetrics []usage.MetricUsage `json:"top_metrics"`
	}
	f.get(t, "/api/v1/user_limits", &answer)
	require.Equal(t, 100, answer.Limit)
	require.EqualValues(t, 42, answer.Usage["max_global_series_per_user"])
	require.EqualValues(t, 30, answer.Usage["max_global_series_per_metric"])
	require.Equal(t, []usage.MetricUsage{{Name: "m", Series: 30}, {Name: "n", Series: 12}}, answer.TopMetrics)
}
