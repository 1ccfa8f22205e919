package reader

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"sluice/internal/fetch"
	"sluice/internal/log"
	"sluice/internal/web"
	"sluice/reader/store"
	"sluice/schema"
)

const (
	waitFor = time.Minute
	tick    = time.Millisecond
)

// TestFirstInTheLogWins gives blocks and consumers different values for the same times, in every arrangement.
func TestFirstInTheLogWins(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) }) // after all other cleaning up
	rng := rand.New(rand.NewPCG(7, 7))
	rounds := 15
	if testing.Short() { // under the race detector, which sees the same goroutines in each of them
		rounds = 3
	}
	for round := range rounds {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			w := newWorld(t, nil, web.Tenancy{})
			w.log.bounds = []log.Bounds{{End: 100}, {End: 100}}
			w.cat.snapshots[0].shipped = map[int32]int64{0: 10, 1: 20}
			want := map[string]map[int64]float64{}
			add := func(value float64) map[string][]sample { // in order of priority
				data := map[string][]sample{}
				for s := range 5 {
					name := fmt.Sprint("s", s)
					for ts := range int64(40) {
						if rng.IntN(3) == 0 {
							continue
						}
						data[name] = append(data[name], sample{ts, value})
						if want[name] == nil {
							want[name] = map[int64]float64{}
						}
						if _, ok := want[name][ts]; !ok {
							want[name][ts] = value
						}
					}
				}
				return data
			}
			for i := range 4 { // the IDs and the snapshot's order say nothing
				w.block(byte(200-i), int64(i), newData(t, add(float64(i))))
			}
			rng.Shuffle(4, func(i, j int) {
				b := w.cat.snapshots[0].blocks
				b[i], b[j] = b[j], b[i]
			})
			w.sources["a"] = &fakeSource{held: map[int32]int64{0: 10}, data: newData(t, add(100))}
			w.sources["b"] = &fakeSource{held: map[int32]int64{1: 0}, data: newData(t, add(101))}
			w.dir[0], w.dir[1] = []string{"a"}, []string{"b"}

			got, _, err := w.selectAll(asTenant("acme"))
			require.NoError(t, err)
			require.Len(t, got, len(want))
			for name, samples := range want {
				var list []sample
				for ts, v := range samples {
					list = append(list, sample{ts, v})
				}
				slices.SortFunc(list, func(a, b sample) int { return int(a.t - b.t) })
				require.Equal(t, list, got[name], name)
			}
			require.Equal(t, [][]fetch.Ask{{{Partition: 0, From: 10}}}, w.sources["a"].(*fakeSource).asked)
			require.Equal(t, [][]fetch.Ask{{{Partition: 1, From: 20}}}, w.sources["b"].(*fakeSource).asked)
			require.Equal(t, 1, w.sources["a"].(*fakeSource).released)
		})
	}
}

func TestLogTimeThenPartitionRank(t *testing.T) {
	w := newWorld(t, nil, web.Tenancy{})
	late := w.block(1, 5, newData(t, map[string][]sample{"a": {{1, 2}}}))
	late.Ranges = []schema.LogRange{{Partition: 2}}
	early := w.block(9, 5, newData(t, map[string][]sample{"a": {{1, 1}}}))
	early.Ranges = []schema.LogRange{{Partition: 1}}
	got, _, err := w.selectAll(asTenant("acme"))
	require.NoError(t, err)
	require.Equal(t, map[string][]sample{"a": {{1, 1}}}, got)
}

// TestOffsetRank: two generations of one partition that began in the same millisecond are in order of their offsets.
func TestOffsetRank(t *testing.T) {
	w := newWorld(t, nil, web.Tenancy{})
	late := w.block(1, 5, newData(t, map[string][]sample{"a": {{1, 2}}}))
	late.Ranges = []schema.LogRange{{Partition: 1, From: 20, To: 30}}
	early := w.block(9, 5, newData(t, map[string][]sample{"a": {{1, 1}}}))
	early.Ranges = []schema.LogRange{{Partition: 1, From: 10, To: 20}}
	got, _, err := w.selectAll(asTenant("acme"))
	require.NoError(t, err)
	require.Equal(t, map[string][]sample{"a": {{1, 1}}}, got)
}

// TestHole: the consumer has shipped and dropped what is asked for, and the catalogue learns of it in time.
func TestHole(t *testing.T) {
	for _, late := range []bool{false, true} {
		w := newWorld(t, nil, web.Tenancy{})
		w.log.bounds = []log.Bounds{{End: 100}}
		w.cat.snapshots = []snapshot{{shipped: map[int32]int64{0: 10}}, {shipped: map[int32]int64{0: 20}}, {shipped: map[int32]int64{0: 50}}}
		w.block(1, 0, newData(t, map[string][]sample{"a": {{1, 1}}}), 0, 1, 2)
		w.block(2, 1, newData(t, map[string][]sample{"a": {{2, 2}}}), 2)
		src := &fakeSource{held: map[int32]int64{0: 50}, data: newData(t, map[string][]sample{"a": {{3, 3}}}), late: late}
		w.sources["c"] = src
		w.dir[0] = []string{"c"}
		got, _, err := w.selectAll(asTenant("acme"))
		require.NoError(t, err)
		require.Equal(t, map[string][]sample{"a": {{1, 1}, {2, 2}, {3, 3}}}, got)
		require.Equal(t, 2, w.cat.syncs)
		require.Equal(t, 2.0, testutil.ToFloat64(w.reader.metrics.holes))
		require.Equal(t, 2.0, testutil.ToFloat64(w.reader.metrics.retries))
		if late {
			require.Equal(t, 3, src.released)
		}
	}
}

func requireID(t *testing.T, err error, id schema.ErrorID) *schema.Error {
	var se *schema.Error
	require.ErrorAs(t, err, &se)
	require.Equal(t, id, se.ID)
	require.Equal(t, 503, se.Status)
	require.Positive(t, se.RetryAfter)
	return se
}

func TestHoleThatNobodyFills(t *testing.T) {
	w := newWorld(t, nil, web.Tenancy{})
	w.log.bounds = []log.Bounds{{End: 100}}
	w.sources["c"] = &fakeSource{held: map[int32]int64{0: 50}, data: newData(t, nil)}
	w.dir[0] = []string{"c"}
	_, _, err := w.selectAll(asTenant("acme"))
	requireID(t, err, schema.ErrCoverage)

	// Another member has it.
	w.sources["d"] = &fakeSource{held: map[int32]int64{0: 0}, data: newData(t, map[string][]sample{"a": {{1, 1}}})}
	w.dir[0] = []string{"c", "d"}
	got, _, err := w.selectAll(asTenant("acme"))
	require.NoError(t, err)
	require.Equal(t, map[string][]sample{"a": {{1, 1}}}, got)

	// The log was cut there: nobody can have it, and that is not passed over in silence.
	w.dir[0] = []string{"c"}
	w.log.bounds[0].Start = 50
	_, _, err = w.selectAll(asTenant("acme"))
	requireID(t, err, schema.ErrCoverage)
	require.ErrorContains(t, err, "offsets 0 to 50 of partition 0")
}

func TestMembersThatFail(t *testing.T) {
	w := newWorld(t, nil, web.Tenancy{})
	w.log.bounds = []log.Bounds{{End: 100}, {End: 7}}
	w.cat.snapshots[0].shipped = map[int32]int64{1: 7}
	w.sources["dead"] = &fakeSource{err: errors.New("connection refused"), data: newData(t, nil)}
	w.sources["empty"] = &fakeSource{held: map[int32]int64{}, data: newData(t, nil)}
	w.sources["good"] = &fakeSource{held: map[int32]int64{0: 0, 1: 0}, data: newData(t, map[string][]sample{"a": {{1, 1}}})}

	w.dir[0] = []string{"dead", "empty", "good"} // partition 1 has nobody, but nothing beyond the blocks either
	got, set, err := w.selectAll(asTenant("acme"))
	require.NoError(t, err)
	require.Empty(t, set.Warnings())
	require.Equal(t, map[string][]sample{"a": {{1, 1}}}, got)

	w.dir[0] = []string{"dead", "empty"}
	_, _, err = w.selectAll(asTenant("acme"))
	se := requireID(t, err, schema.ErrPartitionUnavailable)
	require.ErrorContains(t, se, "partition 0")

	w.dir[0] = nil
	_, _, err = w.selectAll(asTenant("acme"))
	requireID(t, err, schema.ErrPartitionUnavailable)

	w.log.bounds[1].End = 8
	w.dir[0] = []string{"good"}
	_, _, err = w.selectAll(asTenant("acme"))
	requireID(t, err, schema.ErrPartitionUnavailable)

	w.log.err = errors.New("no broker")
	_, _, err = w.selectAll(asTenant("acme"))
	requireID(t, err, schema.ErrLogDown)
}

func TestStrongRead(t *testing.T) {
	w := newWorld(t, nil, web.Tenancy{})
	w.log.bounds = []log.Bounds{{End: 100}, {End: 70}}
	src := &fakeSource{held: map[int32]int64{0: 0, 1: 0}, data: newData(t, map[string][]sample{"a": {{1, 1}}})}
	w.sources["c"] = src
	w.dir[0], w.dir[1] = []string{"c"}, []string{"c"}
	ctx := withOptions(context.Background(), &options{tenant: "acme", strong: true})
	_, _, err := w.selectAll(ctx)
	require.NoError(t, err)
	require.Equal(t, [][]fetch.Ask{{{Partition: 0, Wait: 100}, {Partition: 1, Wait: 70}}}, src.asked)

	src.stuck = true
	w.reader.cfg.StrongTimeout = time.Millisecond
	_, _, err = w.selectAll(ctx)
	requireID(t, err, schema.ErrStrongRead)

	src.err = schema.Unavailable(schema.ErrStrongRead, nil, "member says so")
	w.reader.cfg.StrongTimeout = time.Hour
	_, _, err = w.selectAll(ctx)
	requireID(t, err, schema.ErrStrongRead)
}

func TestPartial(t *testing.T) {
	w := newWorld(t, nil, web.Tenancy{})
	w.log.bounds = []log.Bounds{{End: 100}, {End: 100}}
	w.sources["c"] = &fakeSource{held: map[int32]int64{0: 0}, data: newData(t, map[string][]sample{"a": {{1, 1}}})}
	w.dir[0] = []string{"c"}
	w.block(1, 0, newData(t, map[string][]sample{"a": {{2, 2}}}))
	bad := w.block(2, 0, nil)
	w.blocks.errs[bad.ID] = schema.Unavailable(schema.ErrBlockUnreadable, nil, "block is broken")
	_, _, err := w.selectAll(asTenant("acme"))
	require.Error(t, err)

	ctx := withOptions(context.Background(), &options{tenant: "acme", partial: true})
	got, set, err := w.selectAll(ctx)
	require.NoError(t, err)
	require.Equal(t, map[string][]sample{"a": {{1, 1}, {2, 2}}}, got)
	require.Len(t, set.Warnings(), 2)

	q, err := w.reader.Querier(0, 10)
	require.NoError(t, err)
	values, warnings, err := q.LabelValues(ctx, "s", nil)
	require.NoError(t, err)
	require.Equal(t, []string{"a"}, values)
	require.Len(t, warnings, 2)
	require.NoError(t, q.Close())
}

// TestPartialWithoutABucket: however many blocks cannot be read, they are found out together, and the rest is answered.
func TestPartialWithoutABucket(t *testing.T) {
	w := newWorld(t, nil, web.Tenancy{})
	w.log.bounds = []log.Bounds{{End: 100}}
	w.sources["c"] = &fakeSource{held: map[int32]int64{0: 0}, data: newData(t, map[string][]sample{"a": {{1, 1}}})}
	w.dir[0] = []string{"c"}
	const n = 3 * maxAttempts
	for i := range byte(n) {
		w.blocks.errs[w.block(i+1, 0, nil).ID] = schema.Unavailable(schema.ErrBlockUnreadable, nil, "the bucket is away: block %d", i)
	}
	got, set, err := w.selectAll(withOptions(context.Background(), &options{tenant: "acme", partial: true}))
	require.NoError(t, err)
	require.Equal(t, map[string][]sample{"a": {{1, 1}}}, got)
	require.Len(t, set.Warnings(), n)
	require.LessOrEqual(t, testutil.ToFloat64(w.reader.metrics.retries), float64(2))
}

func TestBlocks(t *testing.T) {
	w := newWorld(t, nil, web.Tenancy{})
	w.cat.snapshots = []snapshot{{}, {}}
	bad := w.block(1, 0, nil)
	w.blocks.errs[bad.ID] = schema.Unavailable(schema.ErrBlockUnreadable, fmt.Errorf("get: %w", store.ErrGone), "block has gone")
	w.block(2, 0, newData(t, map[string][]sample{"a": {{2, 2}}}), 1)
	got, _, err := w.selectAll(asTenant("acme")) // compacted away in the meantime
	require.NoError(t, err)
	require.Equal(t, map[string][]sample{"a": {{2, 2}}}, got)

	w.cat.snapshots[0].blocks = append(w.cat.snapshots[0].blocks, bad) // gone, and the catalogue does not know
	_, _, err = w.selectAll(asTenant("acme"))
	requireID(t, err, schema.ErrBlockUnreadable)

	w.blocks.opened = 0
	bad.MinTime, bad.MaxTime = 100, 200
	for _, r := range [][2]int64{{0, 99}, {200, 300}} {
		q, err := w.reader.Querier(r[0], r[1])
		require.NoError(t, err)
		_, _, err = q.LabelNames(asTenant("acme"), nil)
		require.NoError(t, err, "%v", r)
		require.NoError(t, q.Close())
	}
	for _, r := range [][2]int64{{0, 100}, {199, 300}} {
		q, err := w.reader.Querier(r[0], r[1])
		require.NoError(t, err)
		_, _, err = q.LabelNames(asTenant("acme"), nil)
		require.Error(t, err, "%v", r)
		require.NoError(t, q.Close())
	}
}

func TestLabels(t *testing.T) {
	w := newWorld(t, nil, web.Tenancy{})
	w.log.bounds = []log.Bounds{{End: 1}}
	w.block(1, 0, newData(t, map[string][]sample{"a": {{1, 1}}, "c": {{1, 1}}}))
	w.sources["c"] = &fakeSource{held: map[int32]int64{0: 0}, data: newData(t, map[string][]sample{"a": {{1, 1}}, "b": {{1, 1}}})}
	w.dir[0] = []string{"c"}
	q, err := w.reader.Querier(0, 10)
	require.NoError(t, err)
	defer q.Close()
	values, _, err := q.LabelValues(asTenant("acme"), "s", nil, everything)
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b", "c"}, values)
	values, _, err = q.LabelValues(asTenant("acme"), "s", &storage.LabelHints{Limit: 2})
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b"}, values)
	names, _, err := q.LabelNames(asTenant("acme"), nil)
	require.NoError(t, err)
	require.Equal(t, []string{"__name__", "s"}, names)
}

func TestNoTenant(t *testing.T) {
	w := newWorld(t, nil, web.Tenancy{})
	_, _, err := w.selectAll(context.Background())
	require.ErrorContains(t, err, "tenant")
}

func TestCancelAndClose(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) }) // after all other cleaning up
	w := newWorld(t, nil, web.Tenancy{})
	w.log.bounds = []log.Bounds{{End: 1}}
	src := &fakeSource{held: map[int32]int64{0: 0}, data: newData(t, nil), stuck: true}
	w.sources["c"] = src
	w.dir[0] = []string{"c"}
	ctx, cancel := context.WithCancel(withOptions(context.Background(), &options{tenant: "acme", strong: true}))
	go func() {
		for {
			src.mu.Lock()
			n := len(src.asked)
			src.mu.Unlock()
			if n > 0 {
				cancel()
				return
			}
			time.Sleep(tick)
		}
	}()
	_, _, err := w.selectAll(ctx)
	require.ErrorIs(t, err, context.Canceled)

	q, err := w.reader.Querier(0, 1)
	require.NoError(t, err)
	set := q.Select(withOptions(context.Background(), &options{tenant: "acme", strong: true}), true, nil, everything)
	require.NoError(t, q.Close()) // ends what is under way
	require.False(t, set.Next())
	require.Error(t, set.Err())
	_, _, err = q.LabelNames(asTenant("acme"), nil)
	require.Error(t, err)
}

func TestExemplarsAreMerged(t *testing.T) {
	w := newWorld(t, nil, web.Tenancy{})
	w.log.bounds = []log.Bounds{{End: 5}, {End: 5}}
	ls := labels.FromStrings("__name__", "m")
	one := exemplar.Exemplar{Labels: labels.FromStrings("trace", "1"), Value: 1, Ts: 10, HasTs: true}
	two := exemplar.Exemplar{Labels: labels.FromStrings("trace", "2"), Value: 2, Ts: 5, HasTs: true}
	w.sources["a"] = &fakeSource{held: map[int32]int64{0: 0}, found: []exemplar.QueryResult{{SeriesLabels: ls, Exemplars: []exemplar.Exemplar{one}}}}
	w.sources["b"] = &fakeSource{held: map[int32]int64{1: 0}, found: []exemplar.QueryResult{{SeriesLabels: ls, Exemplars: []exemplar.Exemplar{two, one}}}}
	w.dir[0], w.dir[1] = []string{"a"}, []string{"b"}
	q, err := w.reader.ExemplarQuerier(asTenant("acme"))
	require.NoError(t, err)
	got, err := q.Select(0, 100, []*labels.Matcher{everything})
	require.NoError(t, err)
	require.Equal(t, []exemplar.QueryResult{{SeriesLabels: ls, Exemplars: []exemplar.Exemplar{two, one}}}, got)
	w.dir[1] = nil
	_, err = q.Select(0, 100, []*labels.Matcher{everything})
	require.Error(t, err)
}

func TestChunkQuerier(t *testing.T) {
	w := newWorld(t, nil, web.Tenancy{})
	w.block(1, 0, newData(t, map[string][]sample{"a": {{1, 1}, {2, 2}}}))
	w.block(2, 1, newData(t, map[string][]sample{"a": {{2, 3}, {3, 3}}}))
	q, err := w.reader.ChunkQuerier(math.MinInt64, math.MaxInt64)
	require.NoError(t, err)
	defer q.Close()
	set := q.Select(asTenant("acme"), true, nil, everything)
	require.True(t, set.Next())
	it := set.At().Iterator(nil)
	require.True(t, it.Next())
	require.Equal(t, 3, it.At().Chunk.NumSamples())
	require.False(t, it.Next())
	require.False(t, set.Next())
	require.NoError(t, set.Err())
}

func TestConfig(t *testing.T) {
	require.Error(t, (&Config{MaxSamples: -1}).Validate())
	require.Error(t, (&Config{Store: store.Config{PageBytes: 1}}).Validate())
	require.NoError(t, (&Config{}).Validate())
}
