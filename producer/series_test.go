package producer

import (
	"errors"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"github.com/stretchr/testify/require"

	"sluice/internal/log"
	"sluice/schema"
)

// defs returns how many definitions the records since the last reset hold, and how many epochs they are of.
func (f *fakeLog) defs(t *testing.T) (n int, epochs map[uint64]bool) {
	t.Helper()
	epochs = map[uint64]bool{}
	for _, recs := range f.records() {
		for _, r := range recs {
			var c schema.Columns
			require.NoError(t, c.Parse(r.Value))
			epochs[c.Epoch] = true
			for {
				_, _, ok, err := c.NextDefinition()
				require.NoError(t, err)
				if !ok {
					break
				}
				n++
			}
		}
	}
	return n, epochs
}

func tenSeries(v float64) *prompb.WriteRequest {
	req := request1()
	for i := range 10 {
		req.Timeseries = append(req.Timeseries, withSamples(series("__name__", "up", "i", fmt.Sprint(i)), one(v)))
	}
	return req
}

// TestDefinitions: a series is defined until a definition of it has been acknowledged, and again before that is too old.
func TestDefinitions(t *testing.T) {
	f := newFixture(t, Config{}, "", 4)
	push := func(status, defined int) {
		t.Helper()
		f.log.reset()
		require.Equal(t, status, f.push(t, tenSeries(1)).Code)
		n, epochs := f.log.defs(t)
		require.Equal(t, defined, n)
		if status == 204 {
			require.Len(t, epochs, 1)
			require.Len(t, f.log.content(t).Timeseries, 10)
		}
	}
	f.log.fail(errors.New("away"))
	push(503, 0)
	f.log.fail(nil)
	push(204, 10)
	push(204, 0)
	f.log.fail(errors.New("away"))
	push(503, 0)
	f.log.fail(nil)
	push(204, 0)

	now := testNow
	f.now = func() time.Time { return now }
	now = testNow.Add(schema.RefLife / 2)
	push(204, 0)
	now = testNow.Add(schema.RefLife)
	push(204, 10)
	push(204, 0)
}

// TestDefinitionsOfUnknownOutcome: what may or may not be in the log is not counted on.
func TestDefinitionsOfUnknownOutcome(t *testing.T) {
	f := newFixture(t, Config{}, "", 1)
	f.log.lose = errors.New("timed out")
	require.Equal(t, 503, f.push(t, tenSeries(1)).Code)
	f.log.lose = nil
	f.log.recs = map[int32][]log.Record{} // they were not
	require.Equal(t, 204, f.push(t, tenSeries(1)).Code)
	n, _ := f.log.defs(t)
	require.Equal(t, 10, n)
	require.Len(t, f.log.content(t).Timeseries, 10)
}

// TestNewEpochs: other limits, another number of partitions and a tenant that comes back begin anew.
func TestNewEpochs(t *testing.T) {
	f := newFixture(t, Config{}, "", 4)
	seen := map[uint64]bool{}
	push := func(why string) {
		t.Helper()
		f.log.reset()
		require.Equal(t, 204, f.push(t, tenSeries(1)).Code)
		n, epochs := f.log.defs(t)
		require.Equal(t, 10, n, why)
		for e := range epochs {
			require.False(t, seen[e], why)
			seen[e] = true
		}
	}
	push("first")
	f.partitions.Store(5)
	f.log.partitions = 5
	push("a partition more")
	f.tenants.sweep(testNow.Add(tenantIdle + time.Minute))
	push("after a while")
	require.EqualValues(t, 10, f.tenants.series.used.Load())
	require.NoError(t, f.learn(t.Context()))
	f.log.topicID = "another"
	require.NoError(t, f.learn(t.Context()))
	push("a topic made anew")
	f.log.fail(log.ErrUnknownPartition)
	require.Equal(t, 503, f.push(t, tenSeries(1)).Code)
	f.log.fail(nil)
	push("a topic that was gone")
	f.tenants.states["team-a"].cache.next[0].Store(schema.MaxRef/2 + 1)
	push("refs run out")
	require.EqualValues(t, 10, f.tenants.series.used.Load(), "what is forgotten is given back")
}

// TestForgottenSeries: a series that has not come for long is not remembered, and a full cache remembers no more.
func TestForgottenSeries(t *testing.T) {
	f := newFixture(t, Config{MaxKnownSeries: 10}, "", 4)
	require.Equal(t, 204, f.push(t, tenSeries(1)).Code)
	more := request1(withSamples(series("__name__", "other"), one(1)))
	for range 2 {
		f.log.reset()
		require.Equal(t, 204, f.push(t, more).Code)
		n, _ := f.log.defs(t)
		require.Equal(t, 1, n, "there is no room for it")
		require.Len(t, f.log.content(t).Timeseries, 1)
	}
	f.tenants.forgetSeries(f.clock(testNow.Add(time.Minute)))
	require.EqualValues(t, 10, f.tenants.series.used.Load())
	f.tenants.forgetSeries(f.clock(testNow.Add(schema.RefLife)))
	require.Zero(t, f.tenants.series.used.Load())
	for i := range 2 {
		f.log.reset()
		require.Equal(t, 204, f.push(t, more).Code)
		n, _ := f.log.defs(t)
		require.Equal(t, 1-i, n, "now there is")
		require.Len(t, f.log.content(t).Timeseries, 1)
	}
}

// TestKnownSeriesAreChecked: what can be wrong with a value is wrong with that of a known series, too, and told by name.
func TestKnownSeriesAreChecked(t *testing.T) {
	f := newFixture(t, Config{}, "", 4)
	require.Equal(t, 204, f.push(t, tenSeries(1)).Code)
	f.log.reset()
	bad := tenSeries(2)
	bad.Timeseries[3].Samples[0].Timestamp = testNow.Add(1000 * time.Hour).UnixMilli()
	w := f.push(t, bad)
	requireRefused(t, w, 400, schema.ErrTooFarInFuture)
	require.Contains(t, w.Body.String(), `up{i="3"}`)
	require.Len(t, f.log.content(t).Timeseries, 9)
}

// TestVersion1: records of version 1 can still be written.
func TestVersion1(t *testing.T) {
	f := newFixture(t, Config{RecordVersion: schema.RecordV1}, "", 4)
	for range 2 {
		f.log.reset()
		require.Equal(t, 204, f.push(t, tenSeries(1)).Code)
		for _, recs := range f.log.records() {
			v, _ := recs[0].Header(schema.HeaderVersion)
			require.Equal(t, []byte{schema.RecordV1}, v)
		}
		require.Len(t, f.log.content(t).Timeseries, 10)
	}
	require.Error(t, (&Config{RecordVersion: 3}).Validate())
}

// BenchmarkSeriesCache measures what a known series takes in memory and what finding it costs.
func BenchmarkSeriesCache(b *testing.B) {
	const n = 200_000
	lim := schema.DefaultLimits()
	c := newSeriesCache(&lim, 4, &seriesBudget{limit: n})
	before := heap()
	var fresh []learned
	keys := make([][]byte, n)
	for i := range keys {
		keys[i] = fmt.Appendf(nil, "%0326d", i)
		fresh = append(fresh[:0], learned{key: c.key(keys[i]), ref: uint32(i)})
		c.learn(fresh, 1, nil)
	}
	perSeries := float64(heap()-before-n*(326+24+10)) / n
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if s := c.index.find(c.key(keys[i])); s == nil || s.ref != uint32(i) {
			b.Fatal(i)
		}
		if i++; i == n {
			i = 0
		}
	}
	b.ReportMetric(perSeries, "bytes/series")
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestKnownV2: a known series of remote write 2.0 is told by its symbols, wherever they stand in the table, and by both
// protocols it is the same series to the reader.
func TestKnownV2(t *testing.T) {
	f := newFixture(t, Config{}, "", 4)
	push := func(extra []string, refs bool, defined int) {
		t.Helper()
		f.log.reset()
		b := newBuilder()
		for _, s := range extra { // moves all other symbols
			b.symbols.Symbolize(s)
		}
		for i := range 10 {
			b.add(labels.FromStrings("__name__", "up", "i", fmt.Sprint(i))).Samples = []writev2.Sample{{Timestamp: testNow.UnixMilli(), Value: float64(i)}}
		}
		req := b.request()
		if refs {
			req.Timeseries[4].LabelsRefs[3] = 1000
		}
		w := f.push2(t, req)
		if refs {
			requireRefused(t, w, 400, schema.ErrSymbolRef)
		} else {
			require.Equal(t, 204, w.Code, w.Body.String())
		}
		n, _ := f.log.defs(t)
		require.Equal(t, defined, n)
		got := f.log.content(t)
		want := 10
		if refs {
			want = 9
		}
		require.Len(t, got.Timeseries, want)
		for _, ts := range got.Timeseries {
			require.Equal(t, fmt.Sprint(ts.Samples[0].Value), ts.Labels[1].Value)
		}
	}
	push(nil, false, 10)
	push(nil, false, 0)
	push([]string{"a", "b", "c"}, false, 0)
	push(nil, true, 0)
	f.log.reset()
	require.Equal(t, 204, f.push(t, tenSeries(1)).Code)
	n, _ := f.log.defs(t)
	require.Equal(t, 10, n, "by 1.0 they are known under other keys")
}
