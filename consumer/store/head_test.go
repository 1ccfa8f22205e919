package store

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	tsdbindex "github.com/prometheus/prometheus/tsdb/index"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
	"github.com/stretchr/testify/require"
)

const testWindow = 7_200_000

// times and values that are hard on the encoder, and some that are common.
func hard(rnd *rand.Rand, t int64, v float64) (int64, float64) {
	switch rnd.IntN(12) {
	case 0:
		t += 1 + rnd.Int64N(1<<40)
	case 1:
		t += 1 + rnd.Int64N(1<<rnd.IntN(22))
	case 2:
		t += 15_000 + rnd.Int64N(20) - 10
	default:
		t += 15_000
	}
	switch rnd.IntN(10) {
	case 0:
		v = math.Float64frombits(rnd.Uint64())
	case 1:
		v = math.Float64frombits(math.Float64bits(v) ^ 1<<rnd.IntN(64))
	case 2:
		v = math.Float64frombits(value.StaleNaN)
	case 3, 4:
		v += rnd.Float64()
	case 5, 6:
		v = math.Trunc(v) + float64(rnd.IntN(1000))
	}
	return t, v
}

// TestXOR holds the encoder against Prometheus' own, bit for bit.
func TestXOR(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		h := New(math.MaxInt64 / 4)
		h.Begin()
		ref := h.Add(labels.FromStrings("a", "b"))
		want := chunkenc.NewXORChunk()
		app, err := want.Appender()
		require.NoError(t, err)
		ts, v := rnd.Int64N(1<<50), 1.0
		for range 1 + rnd.IntN(maxSamples) {
			if ts, v = hard(rnd, ts, v); len(want.Bytes()) > maxChunkBits/8 {
				break
			}
			app.Append(0, ts, v)
			require.NoError(t, h.Float(ref, 0, ts, v))
		}
		h.End()
		got, err := h.appendChunks(h.series(ref), math.MinInt64, math.MaxInt64, nil)
		require.NoError(t, err)
		require.Len(t, got, 1)
		require.Equal(t, want.Bytes(), got[0].Chunk.Bytes(), "seed %d", seed)
	}
}

type sample struct {
	st, t int64
	v     float64
	h     *histogram.Histogram
	fh    *histogram.FloatHistogram
}

func (s sample) same(o sample) bool {
	switch {
	case s.st != o.st || s.t != o.t:
		return false
	case s.h != nil:
		return o.h != nil && s.h.Equals(o.h)
	case s.fh != nil:
		return o.fh != nil && s.fh.Equals(o.fh)
	}
	return o.h == nil && o.fh == nil && math.Float64bits(s.v) == math.Float64bits(o.v)
}

// collect reads what a querier returns, and holds it against tsdb's over the head as a block.
func collect(t *testing.T, h *Head, mint, maxt int64, matchers ...*labels.Matcher) map[string][]sample {
	t.Helper()
	q, err := tsdb.NewBlockQuerier(h.Block(mint, maxt), mint, maxt)
	require.NoError(t, err)
	defer q.Close()
	got := read(t, h.Querier(mint, maxt), matchers)
	like := read(t, q, matchers)
	require.Len(t, got, len(like))
	for name, want := range like {
		require.Len(t, got[name], len(want), name)
		for i := range want {
			require.True(t, want[i].same(got[name][i]), "%s: want %+v, got %+v", name, want[i], got[name][i])
		}
	}
	return got
}

func read(t *testing.T, q storage.Querier, matchers []*labels.Matcher) map[string][]sample {
	t.Helper()
	out := map[string][]sample{}
	set := q.Select(context.Background(), true, nil, matchers...)
	var it chunkenc.Iterator
	last := labels.EmptyLabels()
	for set.Next() {
		s := set.At()
		require.Negative(t, labels.Compare(last, s.Labels()), "sorted")
		last = s.Labels()
		it = s.Iterator(it)
		var got []sample
		for typ := it.Next(); typ != chunkenc.ValNone; typ = it.Next() {
			smp := sample{st: it.AtST()}
			switch typ {
			case chunkenc.ValFloat:
				smp.t, smp.v = it.At()
			case chunkenc.ValHistogram:
				smp.t, smp.h = it.AtHistogram(nil)
			case chunkenc.ValFloatHistogram:
				smp.t, smp.fh = it.AtFloatHistogram(nil)
			}
			got = append(got, smp)
		}
		require.NoError(t, it.Err())
		out[s.Labels().String()] = got
	}
	require.NoError(t, set.Err())
	return out
}

var everything = labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".+")

// TestHeadAgainstAMap appends samples of all kinds to many series, one after the other and mixed, and reads them back.
func TestHeadAgainstAMap(t *testing.T) {
	seeds := uint64(12)
	if testing.Short() { // under the race detector: one goroutine does it all
		seeds = 2
	}
	for seed := range seeds {
		rnd := rand.New(rand.NewPCG(seed, 2))
		h := New(testWindow)
		type one struct {
			ref     uint32
			t       int64
			v       float64
			kind    int
			samples []sample
		}
		all := map[string]*one{}
		var order []*one
		for i := range 150 {
			lset := labels.FromStrings("__name__", fmt.Sprint("m", i%7), "i", fmt.Sprint(i), "common", "x")
			require.Zero(t, h.Find(lset))
			h.Begin()
			s := &one{ref: h.Add(lset), t: rnd.Int64N(1 << 41), kind: rnd.IntN(6)}
			h.End()
			require.Equal(t, s.ref, h.Find(lset))
			require.EqualValues(t, NoSample, h.Newest(s.ref))
			all[lset.String()] = s
			order = append(order, s)
		}
		for range 30_000 {
			s := order[rnd.IntN(len(order))]
			s.t, s.v = hard(rnd, s.t, s.v)
			if rnd.IntN(50) == 0 {
				s.kind = rnd.IntN(6)
			}
			smp := sample{t: s.t, v: s.v}
			h.Begin()
			switch s.kind {
			case 3:
				smp.st = s.t - rnd.Int64N(100_000)
			case 4:
				smp.v, smp.h = 0, tsdbutil.GenerateTestHistogram(rnd.Int64N(40))
			case 5:
				smp.v, smp.fh = 0, tsdbutil.GenerateTestFloatHistogram(rnd.Int64N(40))
				if rnd.IntN(3) == 0 {
					smp.st = s.t - 5
				}
			}
			var err error
			if smp.h != nil || smp.fh != nil {
				err = h.Histogram(s.ref, smp.st, smp.t, smp.h, smp.fh)
			} else {
				if len(s.samples) > 0 && value.IsStaleNaN(smp.v) { // becomes a histogram in a series of histograms
					smp.v = 1
				}
				err = h.Float(s.ref, smp.st, smp.t, smp.v)
			}
			h.End()
			require.NoError(t, err)
			require.Equal(t, s.t, h.Newest(s.ref))
			s.samples = append(s.samples, smp)
		}
		for range 20 {
			mint := rnd.Int64N(1 << 41)
			maxt := mint + rnd.Int64N(1<<43)
			if rnd.IntN(4) == 0 {
				mint, maxt = math.MinInt64/2, math.MaxInt64/2
			}
			want := 0
			got := collect(t, h, mint, maxt, everything)
			for name, s := range all {
				var in []sample
				for _, smp := range s.samples {
					if smp.t >= mint && smp.t <= maxt {
						in = append(in, smp)
					}
				}
				if len(in) == 0 {
					continue
				}
				want++
				require.Len(t, got[name], len(in), "seed %d %s", seed, name)
				for i := range in {
					require.True(t, in[i].same(got[name][i]), "seed %d %s: want %+v, got %+v", seed, name, in[i], got[name][i])
				}
			}
			require.Len(t, got, want)
		}
	}
}

// TestChunksKeepToWindows: a block takes chunks as they are, so none may reach into the next one.
func TestChunksKeepToWindows(t *testing.T) {
	h := New(testWindow)
	h.Begin()
	ref := h.Add(labels.FromStrings("__name__", "m"))
	hist := h.Add(labels.FromStrings("__name__", "h"))
	for ts := int64(-3 * testWindow); ts < 3*testWindow; ts += 61_007 {
		require.NoError(t, h.Float(ref, 0, ts, float64(ts)))
		require.NoError(t, h.Histogram(hist, 0, ts, tsdbutil.GenerateTestHistogram(ts/61_007+1000), nil))
	}
	h.End()
	for _, r := range []uint32{ref, hist} {
		metas, err := h.appendChunks(h.series(r), math.MinInt64, math.MaxInt64, nil)
		require.NoError(t, err)
		windows := map[int64]bool{}
		for i, m := range metas {
			require.Equal(t, floor(m.MinTime), floor(m.MaxTime))
			windows[floor(m.MinTime)] = true
			require.Positive(t, m.Chunk.NumSamples())
			if i > 0 {
				require.Less(t, metas[i-1].MaxTime, m.MinTime)
			}
		}
		require.Len(t, windows, 6)
		in, err := h.appendChunks(h.series(r), 0, testWindow-1, nil)
		require.NoError(t, err)
		require.Less(t, len(in), len(metas)/3)
		require.NotEmpty(t, in)
	}
}

func floor(t int64) int64 { return int64(math.Floor(float64(t) / testWindow)) }

// TestStaleHistograms: a float stale marker ends a series of histograms as a histogram, as in Prometheus.
func TestStaleHistograms(t *testing.T) {
	h := New(testWindow)
	h.Begin()
	a, b := h.Add(labels.FromStrings("__name__", "a")), h.Add(labels.FromStrings("__name__", "b"))
	require.NoError(t, h.Histogram(a, 0, 1, tsdbutil.GenerateTestHistogram(1), nil))
	require.NoError(t, h.Histogram(b, 0, 1, nil, tsdbutil.GenerateTestFloatHistogram(1)))
	for _, ref := range []uint32{a, b} {
		require.NoError(t, h.Float(ref, 0, 2, math.Float64frombits(value.StaleNaN)))
		require.NoError(t, h.Float(ref, 0, 3, 7))
	}
	h.End()
	got := collect(t, h, 0, 10, everything)
	require.True(t, value.IsStaleNaN(got[`{__name__="a"}`][1].h.Sum))
	require.True(t, value.IsStaleNaN(got[`{__name__="b"}`][1].fh.Sum))
	require.Equal(t, 7.0, got[`{__name__="a"}`][2].v)
}

// TestMatchers holds selection, names and values against a look at every series.
func TestMatchers(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 3))
	h := New(testWindow)
	var lsets []labels.Labels
	h.Begin()
	for i := range 400 {
		b := labels.NewBuilder(labels.FromStrings("__name__", fmt.Sprint("m", rnd.IntN(5)), "i", fmt.Sprint(i)))
		for _, name := range []string{"a", "b", "c"} {
			if rnd.IntN(3) > 0 {
				b.Set(name, fmt.Sprint(rnd.IntN(6)))
			}
		}
		lsets = append(lsets, b.Labels())
		require.NoError(t, h.Float(h.Add(b.Labels()), 0, int64(i), 1))
	}
	h.End()
	ctx := context.Background()
	values := []string{"", "1", "2", "m1", "1|2", ".*", ".+", "m.*", "[0-3]", "x|", "7"}
	for range 2000 {
		var ms []*labels.Matcher
		for range 1 + rnd.IntN(3) {
			m, err := labels.NewMatcher(labels.MatchType(rnd.IntN(4)), []string{"__name__", "a", "b", "c", "no"}[rnd.IntN(5)], values[rnd.IntN(len(values))])
			require.NoError(t, err)
			ms = append(ms, m)
		}
		want := map[string]bool{}
		names, ofA := map[string]struct{}{}, map[string]struct{}{}
		for _, lset := range lsets {
			if !slices.ContainsFunc(ms, func(m *labels.Matcher) bool { return !m.Matches(lset.Get(m.Name)) }) {
				want[lset.String()] = true
				note(lset, names)
				if v := lset.Get("a"); v != "" {
					ofA[v] = struct{}{}
				}
			}
		}
		got := collect(t, h, 0, 1000, ms...)
		require.Len(t, got, len(want), "%v", ms)
		for name := range got {
			require.True(t, want[name], "%v: %s", ms, name)
		}
		q, err := tsdb.NewBlockQuerier(h.Block(0, 1000), 0, 1000)
		require.NoError(t, err)
		n, _, err := q.LabelNames(ctx, nil, ms...)
		require.NoError(t, err)
		require.Equal(t, sortedKeys(names), n, "%v", ms)
		v, _, err := q.LabelValues(ctx, "a", nil, ms...)
		require.NoError(t, err)
		require.Equal(t, sortedKeys(ofA), v, "%v", ms)
		require.NoError(t, q.Close())
	}
	q, err := tsdb.NewBlockQuerier(h.Block(2000, 3000), 2000, 3000)
	require.NoError(t, err)
	n, _, err := q.LabelNames(ctx, nil)
	require.NoError(t, err)
	require.Empty(t, n, "no sample is in this range")
	idx, err := h.Block(0, 1000).Index()
	require.NoError(t, err)
	shards := 0
	for i := range uint64(4) {
		p, err := idx.Postings(ctx, "", "")
		require.NoError(t, err)
		for p = idx.ShardedPostings(p, i, 4); p.Next(); {
			shards++
		}
	}
	require.Equal(t, len(lsets), shards)
	var symbols []string
	for it := idx.Symbols(); it.Next(); {
		symbols = append(symbols, it.At())
	}
	require.True(t, slices.IsSorted(symbols))
	require.Contains(t, symbols, "__name__")
	require.Contains(t, symbols, "399")
	values, err = idx.SortedLabelValues(ctx, "__name__", &storage.LabelHints{Limit: 2})
	require.NoError(t, err)
	require.Equal(t, []string{"m0", "m1"}, values)
}

// TestPostingsSeek: postings go to the first ref at or after the one asked for, and stay.
func TestPostingsSeek(t *testing.T) {
	l := newList([]uint32{2, 4, 9})
	require.True(t, l.Seek(3))
	require.EqualValues(t, 4, l.At())
	require.True(t, l.Seek(4))
	require.EqualValues(t, 4, l.At())
	require.True(t, l.Next())
	require.EqualValues(t, 9, l.At())
	require.False(t, l.Seek(10))
	require.False(t, l.Next())
	for more := range 4 {
		refs := refs{first: 2, more: []uint32{4, 9, 12}[:more]}
		want := refs.appendTo(nil)
		for steps := range 200 {
			l, o := newList(want), tsdbindex.Postings(&ofOne{refs: refs, at: -1})
			for rnd := rand.New(rand.NewPCG(uint64(steps), 1)); ; {
				var ok bool
				if to := storage.SeriesRef(rnd.IntN(14)); rnd.IntN(2) == 0 {
					ok = l.Next()
					require.Equal(t, ok, o.Next())
				} else {
					ok = l.Seek(to)
					require.Equal(t, ok, o.Seek(to))
				}
				if !ok {
					break
				}
				require.Equal(t, l.At(), o.At())
			}
		}
	}
	a := &all{last: 5}
	require.True(t, a.Seek(0))
	require.EqualValues(t, 1, a.At())
	require.True(t, a.Seek(5))
	require.False(t, a.Next())
	require.False(t, a.Seek(6))
}

// TestReadersBesideTheAppender: what a reader has been given does not change under it. Meant for the race detector.
func TestReadersBesideTheAppender(t *testing.T) {
	h := New(testWindow)
	var wg sync.WaitGroup
	done := make(chan struct{})
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				for name, got := range read(t, h.Querier(math.MinInt64/2, math.MaxInt64/2), []*labels.Matcher{everything}) {
					for i, smp := range got {
						if want := float64(smp.t); !strings.Contains(name, "h") && smp.v != want || i > 0 && smp.t <= got[i-1].t {
							t.Errorf("%s: %+v", name, smp)
							return
						}
					}
				}
			}
		})
	}
	for i := range int64(400) {
		h.Begin()
		for j := range 20 {
			lset := labels.FromStrings("__name__", fmt.Sprint("m", j+int(i/100)))
			ref := h.Find(lset)
			if ref == 0 {
				ref = h.Add(lset)
			}
			require.NoError(t, h.Float(ref, 0, i*15_000, float64(i*15_000)))
		}
		lset := labels.FromStrings("__name__", "h")
		ref := h.Find(lset)
		if ref == 0 {
			ref = h.Add(lset)
		}
		require.NoError(t, h.Histogram(ref, 0, i*15_000, tsdbutil.GenerateTestHistogram(i), nil))
		h.End()
	}
	close(done)
	wg.Wait()
}

// BenchmarkFloat appends one sample to each of many series in turn, as scrapes do, to series that are in no cache.
func BenchmarkFloat(b *testing.B) {
	const n = 200_000
	h := New(testWindow)
	h.Begin()
	for i := range n {
		h.Add(labels.FromStrings("__name__", "m", "i", fmt.Sprint(i)))
	}
	b.ReportAllocs()
	ts := int64(0)
	for b.Loop() {
		ts += 15_000
		for ref := uint32(1); ref <= n; ref++ {
			if err := h.Float(ref, 0, ts, float64(ts+int64(ref))); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/sample")
}

// BenchmarkAdd is what a new series of 12 labels costs, its strings aside.
func BenchmarkAdd(b *testing.B) {
	const n = 20_000
	lsets := make([]labels.Labels, n)
	for i := range lsets {
		builder := labels.NewBuilder(labels.FromStrings("__name__", fmt.Sprint("metric_", i%300)))
		for j := range 11 {
			builder.Set(fmt.Sprint("label_", j), fmt.Sprint("value", i%(1<<j)*j))
		}
		lsets[i] = builder.Labels()
	}
	b.ReportAllocs()
	for b.Loop() {
		h := New(testWindow)
		for _, lset := range lsets {
			if h.Find(lset) == 0 {
				h.Add(lset)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/series")
}
