package usage

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/stretchr/testify/require"

	"sluice/internal/log"
	"sluice/schema"
)

// told is a topic and a table of it.
type topic struct {
	*Table
	t    testing.TB
	recs []log.Record
	now  int64
}

func newTopic(t testing.TB) *topic {
	return &topic{Table: NewTable(log.NewTable(nil, log.TopicControl), slog.New(slog.NewTextHandler(io.Discard, nil))), t: t, now: 1_700_000_000_000}
}

// take appends records and lets the table read them.
func (o *topic) take(recs []log.Record) {
	for _, r := range recs {
		r.Time, r.Offset = o.now, int64(len(o.recs))
		o.recs = append(o.recs, r)
		o.apply(&r)
	}
}

// again is a table that reads the topic as compaction may have left it: of each key the last record.
func (o *topic) again(compacted bool) *topic {
	last := map[string]int{}
	for i, r := range o.recs {
		last[string(r.Key)] = i
	}
	other := newTopic(o.t)
	for i := range o.recs {
		if !compacted || last[string(o.recs[i].Key)] == i {
			other.apply(&o.recs[i])
		}
	}
	return other
}

// seen is what a view says.
func (o *topic) seen(tenant schema.Tenant) View {
	v := *o.View(tenant)
	v.parts = nil
	return v
}

func hashOf(n int) uint64 { return xxhash.Sum64String(fmt.Sprint("series ", n)) }

func mark(t *Tracker, tenant schema.Tenant, from, to int) {
	for n := from; n < to; n++ {
		t.Mark(tenant, hashOf(n), []byte(fmt.Sprintf("metric_%d", n%3)))
	}
}

func requireKnown(t *testing.T, table *topic, tenant schema.Tenant, from, to int) {
	t.Helper()
	for n := from; n < to; n++ {
		require.True(t, table.Known(tenant, hashOf(n), 0), "series %d", n)
	}
}

const minute = int64(60_000)

func limit(n int64) schema.SeriesLimit {
	return schema.SeriesLimit{MaxSeries: n, MaxPerMetric: n, Partitions: 1, Producer: 7}
}

// What consumers count is what producers know, over many small and large steps, for one who was there all the time and for
// one who comes later, compacted or not.
func TestWhatIsCountedIsKnown(t *testing.T) {
	o := newTopic(t)
	tr := NewTracker()
	src := Source{Instance: "c/0", Partition: 3, TopicID: "x"}
	n := 0
	for step, more := range []int{1, 1, 254, 1, 255, 256, 257, 0, 3, 20_000, 5, 40_000, 1} {
		src.Applied, o.now = int64(step), o.now+2000
		tr.Tick(o.now)
		tr.Limit("a", limit(1_000_000))
		mark(tr, "a", n, n+more)
		mark(tr, "a", 0, min(n, 10)) // those that are known cost nothing
		n += more
		o.take(tr.Collect(src, false))
		for _, table := range []*topic{o, o.again(false), o.again(true)} {
			v := table.View("a")
			require.True(t, v.Complete)
			require.EqualValues(t, n, v.Series, "step %d", step)
			require.Equal(t, []uint32{7}, v.Producers)
			require.EqualValues(t, (n+2)/3, v.Metrics["metric_0"])
			requireKnown(t, table, "a", 0, n)
			for i := n; i < n+1000; i++ {
				require.False(t, table.Known("a", hashOf(i), 0))
			}
			require.False(t, table.Known("b", hashOf(0), 0))
		}
	}
	require.Empty(t, tr.Collect(src, false), "nothing has changed")
	require.Len(t, tr.Collect(src, true), 1, "nothing but the beat")
	off, at := o.Applied(3)
	require.EqualValues(t, 12, off)
	require.Equal(t, o.now, at)
	series, top := o.Usage("a", 2)
	require.EqualValues(t, n, series)
	require.Equal(t, []MetricUsage{{"metric_0", int64(n+2) / 3}, {"metric_1", int64(n+1) / 3}}, top)
}

func TestTenants(t *testing.T) {
	o := newTopic(t)
	tr := NewTracker()
	src := Source{Instance: "c/0", Partition: 3, TopicID: "x"}
	tr.Tick(o.now)
	mark(tr, "b", 0, 10)
	mark(tr, "a", 0, 1)
	tr.Limit("idle", limit(10)) // it has a limit and no series
	o.take(tr.Collect(src, false))
	series := o.Totals()
	require.Equal(t, [2]int64{1, 10}, [2]int64{series["a"].Series, series["b"].Series})
	require.Zero(t, series["idle"].Series)
	o.take(tr.Withdraw(src))
	require.Empty(t, o.Totals())
}

// What it costs in the log: new series some bytes each, series that go on nothing.
func TestTraffic(t *testing.T) {
	tr := NewTracker()
	src := Source{Instance: "consumer-0", Partition: 1}
	size := func() (n int) {
		for _, r := range tr.Collect(src, true) {
			n += len(r.Key) + len(r.Value)
		}
		return n
	}
	tr.Tick(1_700_000_000_000)
	tr.Limit("a", limit(1_000_000))
	mark(tr, "a", 0, 200_000)
	first := size()
	require.Less(t, first, 6*200_000)
	mark(tr, "a", 0, 200_000)
	beat := size()
	require.Less(t, beat, 200)
	mark(tr, "a", 200_000, 200_010)
	few := size()
	require.Less(t, few, 1000)
	total := 0
	for n := 200_010; n < 210_010; n += 10 {
		mark(tr, "a", n, n+10)
		total += size()
	}
	t.Logf("200,000 new series at once: %d bytes, 10 new ones: %d bytes, and %d on average; none: %d bytes", first, few, total/1000, beat)
	require.Less(t, total/1000, 2000)
}

// Series that are active already and come back after the end of a generation are told to be in heads again.
func TestHeadsFillAgain(t *testing.T) {
	for _, limited := range []bool{false, true} {
		o, tr := newTopic(t), NewTracker()
		heads := func(want int64) {
			t.Helper()
			o.now += 2 * quietFor
			tr.Tick(o.now)
			o.take(tr.Collect(Source{Instance: "c", Partition: 0}, true))
			require.Equal(t, []int64{100, want}, []int64{o.View("a").Series, o.View("a").InHeads})
		}
		tr.Tick(o.now)
		if limited {
			tr.Limit("a", limit(1000))
		}
		mark(tr, "a", 0, 100)
		tr.NewSeries("a", 100)
		heads(100)
		tr.Cut()
		heads(0)
		mark(tr, "a", 0, 100)
		tr.NewSeries("a", 100)
		heads(100)
	}
}

// A series counts until it has been idle for long enough, and a record from the future does not end it.
func TestIdleSeries(t *testing.T) {
	o := newTopic(t)
	tr := NewTracker()
	src := Source{Instance: "c", Partition: 0}
	mark2 := func(from, to int) { tr.Limit("a", limit(1000)); mark(tr, "a", from, to) }
	count := func() int64 {
		o.take(tr.Collect(src, true))
		return o.View("a").Series
	}
	now := o.now
	tr.Tick(now)
	mark2(0, 10)
	tr.Tick(now + 365*24*60*minute) // from the future: one round
	tr.Tick(now)                    // and back: another one
	require.EqualValues(t, 10, count())
	for m := int64(0); m <= 30; m++ { // a minute later each time; series 5 to 9 go on
		tr.Tick(now + m*minute)
		mark2(5, 10)
	}
	require.EqualValues(t, 10, count())
	for m := int64(31); m <= 60; m++ {
		tr.Tick(now + m*minute)
		mark2(5, 10)
	}
	require.EqualValues(t, 5, count())
	for m := int64(61); m <= 120; m++ {
		tr.Tick(now + m*minute)
	}
	require.Zero(t, count(), "all are idle")
	require.False(t, o.Known("a", hashOf(7), 0))
	require.Empty(t, o.sources[0]["c"].tenants, "an idle tenant costs nothing")
	require.Empty(t, tr.tenants)
}

// Series that come and go do not make what is told grow without end.
func TestChurnIsToldAnew(t *testing.T) {
	o := newTopic(t)
	tr := NewTracker()
	src := Source{Instance: "c", Partition: 0}
	for m := range 400 {
		tr.Tick(o.now + int64(m)*minute)
		tr.Limit("a", limit(1_000_000))
		mark(tr, "a", 100*m, 100*m+100)
		o.take(tr.Collect(src, true))
		require.True(t, o.View("a").Complete)
		requireKnown(t, o, "a", max(0, 100*(m-40)), 100*m+100)
	}
	p := o.sources[0]["c"].tenants["a"]
	require.LessOrEqual(t, p.summary.Series, int64(5100))
	require.LessOrEqual(t, p.known.set.n, int(p.summary.Series+p.summary.Series/4+1000))
	require.Equal(t, o.seen("a"), o.again(true).seen("a"))
}

// Two zones hold a partition: its series count once. A consumer that has fallen silent does not count beside one that has not.
func TestZones(t *testing.T) {
	o := newTopic(t)
	a, b := NewTracker(), NewTracker()
	tell := func(tr *Tracker, instance string, series int) {
		tr.Tick(o.now)
		tr.Limit("a", limit(1000))
		mark(tr, "a", 0, series)
		o.take(tr.Collect(Source{Instance: instance, Partition: 0, Applied: int64(series)}, true))
	}
	tell(a, "zone-a", 100)
	tell(b, "zone-b", 90)
	require.EqualValues(t, 100, o.View("a").Series)
	o.now += staleAfter + 1
	tell(b, "zone-b", 95)
	require.EqualValues(t, 95, o.View("a").Series)
	requireKnown(t, o, "a", 0, 100)
	tell(a, "zone-a", 101) // it was stalled, and goes on where it was
	require.EqualValues(t, 101, o.View("a").Series)
	require.True(t, o.View("a").Complete)
	o.take(a.Withdraw(Source{Instance: "zone-a", Partition: 0}))
	require.EqualValues(t, 95, o.View("a").Series)
	require.Equal(t, o.seen("a"), o.again(true).seen("a"))
	o.take(b.Withdraw(Source{Instance: "zone-b", Partition: 0}))
	require.Zero(t, o.View("a").Series)
}

// Who wants numbers only has the same numbers, and keeps no series.
func TestCounts(t *testing.T) {
	o, counts := newTopic(t), NewCounts(log.NewTable(nil, log.TopicControl), slog.New(slog.DiscardHandler))
	a, b := NewTracker(), NewTracker()
	for _, tr := range []*Tracker{a, b} {
		tr.Tick(o.now)
		tr.Limit("a", limit(1000))
		mark(tr, "a", 0, 100)
		mark(tr, "b", 0, 3)
	}
	mark(b, "a", 100, 120)
	o.take(a.Collect(Source{Instance: "zone-a", Partition: 0}, true))
	o.take(b.Collect(Source{Instance: "zone-b", Partition: 0}, true))
	o.take(a.Collect(Source{Instance: "zone-a", Partition: 1}, true))
	mark(a, "c", 0, 1)
	o.take(a.Collect(Source{Instance: "zone-a", Partition: 2}, true))
	for _, r := range o.recs {
		counts.apply(&r)
	}
	want := map[schema.Tenant]Total{}
	for _, tenant := range []schema.Tenant{"a", "b", "c"} {
		v := o.View(tenant)
		want[tenant] = Total{v.Series, v.InHeads}
	}
	require.EqualValues(t, 120, want["a"].Series, "a partition counts once, as who has counted most says")
	require.Equal(t, want, o.Totals())
	require.Equal(t, want, counts.Totals())
	require.Equal(t, o.View("a").Metrics, counts.View("a").Metrics)
	require.True(t, o.Known("a", hashOf(1), 0))
	require.False(t, counts.Known("a", hashOf(1), 0))

	o.now += staleAfter + 1
	o.take(b.Collect(Source{Instance: "zone-b", Partition: 0}, true))
	require.EqualValues(t, 120, o.Totals()["a"].Series)
	o.take(b.Withdraw(Source{Instance: "zone-b", Partition: 0}))
	require.NotContains(t, o.Totals(), schema.Tenant("b"), "the other one is not heard any more")
}

// A consumer that starts again says everything anew; what it does not say any more is gone.
func TestAnotherRun(t *testing.T) {
	o := newTopic(t)
	src := Source{Instance: "c", Partition: 0}
	tr := NewTracker()
	tr.Tick(o.now)
	tr.Limit("a", limit(1000))
	mark(tr, "a", 0, 500)
	mark(tr, "gone", 0, 10)
	o.take(tr.Collect(src, true))
	tr.Reset()
	tr.Tick(o.now)
	tr.Limit("a", limit(1000))
	mark(tr, "a", 100, 300)
	recs := tr.Collect(src, true)
	for i, r := range recs {
		o.take([]log.Record{r})
		if i < len(recs)-1 { // half-way, those that both know are known
			requireKnown(t, o, "a", 100, 300)
		}
	}
	require.EqualValues(t, 200, o.View("a").Series)
	require.True(t, o.View("a").Complete)
	require.False(t, o.Known("a", hashOf(0), 0))
	require.Zero(t, o.View("gone").Series)
	require.Equal(t, o.seen("a"), o.again(true).seen("a"))

	// An append that failed may have left any of its records.
	mark(tr, "a", 300, 310)
	o.take(tr.Collect(src, true)[:1])
	tr.Failed()
	o.take(tr.Collect(src, true))
	require.EqualValues(t, 210, o.View("a").Series)
	require.True(t, o.View("a").Complete)
	requireKnown(t, o, "a", 100, 310)
}

// As long as the consumers have not heard of a limit, nobody can tell a new series from one that is known.
func TestLimitComesAndGoes(t *testing.T) {
	o := newTopic(t)
	src := Source{Instance: "c", Partition: 0}
	tr := NewTracker()
	require.True(t, o.View("a").Complete, "a tenant that nobody has seen has only new series")
	tr.Tick(o.now)
	mark(tr, "a", 0, 500)
	o.take(tr.Collect(src, true))
	require.EqualValues(t, 500, o.View("a").Series)
	require.False(t, o.View("a").Complete)
	tr.Limit("a", limit(100))
	o.take(tr.Collect(src, true))
	require.True(t, o.View("a").Complete)
	requireKnown(t, o, "a", 0, 500)
	for m := int64(1); m <= 30; m++ { // records without a limit
		tr.Tick(o.now + m*minute)
		mark(tr, "a", 0, 500)
		o.take(tr.Collect(src, true))
	}
	require.EqualValues(t, 500, o.View("a").Series)
	require.False(t, o.View("a").Complete)
	require.False(t, o.Known("a", hashOf(1), 0), "the hashes are given back")
	require.Equal(t, o.seen("a"), o.again(true).seen("a"))
}

// What the cap has refused is not counted, and comes back when it is applied after all.
func TestRefuse(t *testing.T) {
	o := newTopic(t)
	src := Source{Instance: "c", Partition: 0}
	tr := NewTracker()
	tr.Tick(o.now)
	tr.Limit("a", limit(100))
	mark(tr, "a", 0, 10)
	tr.Refuse("a", hashOf(3))
	tr.Refuse("a", hashOf(3))
	tr.Refuse("a", hashOf(77))
	tr.Refuse("nobody", hashOf(3))
	o.take(tr.Collect(src, true))
	require.EqualValues(t, 9, o.View("a").Series)
	require.False(t, o.Known("a", hashOf(3), 0))
	mark(tr, "a", 3, 4)
	o.take(tr.Collect(src, true))
	require.EqualValues(t, 10, o.View("a").Series)
	requireKnown(t, o, "a", 0, 10)
}

// Of the metric names those are told that a limit needs: what is left out is an eighth of the limit at most.
func TestMetricsThatMatter(t *testing.T) {
	tr := NewTracker()
	tr.Tick(1)
	tr.Limit("a", schema.SeriesLimit{MaxPerMetric: 800, Partitions: 4})
	for m := range 50 {
		for n := range m + 1 {
			tr.Mark("a", hashOf(1000*m+n), fmt.Appendf(nil, "m%02d", m))
		}
	}
	told := tr.tenants["a"].largest()
	require.Len(t, told, 26) // 800 / (8 × 4) = 25 and more
	require.EqualValues(t, 50, told["m49"])
	require.EqualValues(t, 25, told["m24"])
	tr.Limit("a", schema.SeriesLimit{Partitions: 4})
	require.Len(t, tr.tenants["a"].largest(), topMetrics)
}

func TestNilTracker(t *testing.T) {
	var tr *Tracker
	tr.Reset()
	tr.Tick(1)
	tr.Mark("a", 1, nil)
	tr.Refuse("a", 1)
	tr.Limit("a", limit(1))
	tr.NewSeries("a", 1)
	tr.Cut()
	require.Zero(t, tr.Round())
}

// Nothing in the topic, ours or not, does more than be skipped.
func FuzzApply(f *testing.F) {
	tr := NewTracker()
	tr.Tick(1)
	tr.Limit("a", limit(10))
	mark(tr, "a", 0, 5)
	for _, r := range tr.Collect(Source{Instance: "c/1", Partition: 2}, true) {
		f.Add(r.Key, r.Value)
		f.Add(r.Key, []byte(nil))
	}
	f.Add([]byte("usage/0/a/1048577/c"), []byte{1})
	f.Add([]byte("member/x"), []byte("{}"))
	f.Fuzz(func(t *testing.T, k, value []byte) {
		o := newTopic(t)
		o.take([]log.Record{{Key: k, Value: value}, {Key: k, Value: value}})
		o.View("a")
		o.Usage("a", 3)
		o.Known("a", 1, 0)
		o.Applied(2)
		if dk, ours, err := decodeKey(k); ours && err == nil {
			again, _, err := decodeKey(dk.encode())
			require.NoError(t, err)
			require.Equal(t, dk, again)
		}
	})
}

// A table follows a real log.
func TestTableFollowsTheLog(t *testing.T) {
	l, err := log.OpenEmbedded(log.EmbeddedConfig{Dir: t.TempDir(), Partitions: 1}, slog.New(slog.NewTextHandler(io.Discard, nil)), nil)
	require.NoError(t, err)
	defer l.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	control := log.NewTable(l, log.TopicControl)
	table := NewTable(control, slog.New(slog.NewTextHandler(io.Discard, nil)))
	done := make(chan error, 1)
	go func() { done <- control.Run(ctx) }()
	tr := NewTracker()
	tr.Tick(time.Now().UnixMilli())
	tr.Limit("a", limit(10))
	mark(tr, "a", 0, 5)
	require.NoError(t, l.Append(ctx, log.TopicControl, tr.Collect(Source{Instance: "c", Partition: 0}, true)))
	require.NoError(t, table.Sync(ctx))
	require.EqualValues(t, 5, table.View("a").Series)
	cancel()
	require.NoError(t, <-done)
}

func BenchmarkMark(b *testing.B) {
	tr := NewTracker()
	tr.Tick(1)
	hashes := make([]uint64, 100_000)
	for i := range hashes {
		hashes[i] = hashOf(i)
	}
	metric := []byte("http_requests_total")
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		tr.Mark("a", hashes[i%len(hashes)], metric)
	}
}

func BenchmarkKnown(b *testing.B) {
	o := newTopic(b)
	for p := range int32(8) {
		tr := NewTracker()
		tr.Tick(1)
		tr.Limit("a", limit(1_000_000))
		mark(tr, "a", int(p)*25_000, int(p+1)*25_000)
		o.take(tr.Collect(Source{Instance: "c", Partition: p}, true))
	}
	hashes := make([]uint64, 400_000)
	for i := range hashes {
		hashes[i] = hashOf(i)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		o.Known("a", hashes[i%len(hashes)], int32(i%len(hashes)/25_000))
	}
}
