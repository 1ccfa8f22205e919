package merge

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"testing"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
	"github.com/stretchr/testify/require"
)

type point struct {
	t    int64
	v    float64
	h    *histogram.Histogram
	rank int
}

func (p point) T() int64                      { return p.t }
func (p point) ST() int64                     { return 0 }
func (p point) F() float64                    { return p.v }
func (p point) H() *histogram.Histogram       { return p.h }
func (p point) FH() *histogram.FloatHistogram { return nil }
func (p point) Copy() chunks.Sample           { return p }
func (p point) Type() chunkenc.ValueType {
	if p.h != nil {
		return chunkenc.ValHistogram
	}
	return chunkenc.ValFloat
}

var lset = labels.FromStrings("__name__", "m")

func list(points []point) storage.Series {
	samples := make([]chunks.Sample, len(points))
	for i, p := range points {
		samples[i] = p
	}
	return storage.NewListSeries(lset, samples)
}

// sources makes n sources with a few overlapping, sometimes histogram-valued points; the value names time and rank.
func sources(rnd *rand.Rand, n int) [][]point {
	out := make([][]point, n)
	for rank := range out {
		start := rnd.Int64N(200)
		for t := start; t < start+rnd.Int64N(600); t += 1 + rnd.Int64N(3) {
			p := point{t: t, v: float64(t*100 + int64(rank)), rank: rank}
			if t/50%3 == 2 {
				p.h, p.v = tsdbutil.GenerateTestHistogram(t*100+int64(rank)), 0
			}
			out[rank] = append(out[rank], p)
		}
	}
	return out
}

// expected is what a plain map makes of it: the lowest rank wins.
func expected(all [][]point) []point {
	byTime := map[int64]point{}
	for rank := len(all) - 1; rank >= 0; rank-- {
		for _, p := range all[rank] {
			byTime[p.t] = p
		}
	}
	out := make([]point, 0, len(byTime))
	for _, p := range byTime {
		out = append(out, p)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].t < out[j].t })
	return out
}

func read(t *testing.T, it chunkenc.Iterator) []point {
	t.Helper()
	var out []point
	for typ := it.Next(); typ != chunkenc.ValNone; typ = it.Next() {
		out = append(out, current(t, it, typ))
	}
	require.NoError(t, it.Err())
	return out
}

func current(t *testing.T, it chunkenc.Iterator, typ chunkenc.ValueType) point {
	t.Helper()
	if typ == chunkenc.ValHistogram {
		ts, h := it.AtHistogram(nil)
		require.Equal(t, ts, it.AtT())
		return point{t: ts, h: h}
	}
	ts, v := it.At()
	require.Equal(t, ts, it.AtT())
	return point{t: ts, v: v}
}

func requireSame(t *testing.T, want, got []point) {
	t.Helper()
	require.Len(t, got, len(want))
	for i := range want {
		require.Equal(t, want[i].t, got[i].t)
		require.Equal(t, want[i].v, got[i].v, "time %d", want[i].t)
		if want[i].h != nil {
			require.NotNil(t, got[i].h)
			require.True(t, want[i].h.Equals(got[i].h), "time %d", want[i].t)
		}
	}
}

func TestSeriesLowestRankWins(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		all := sources(rnd, 1+rnd.IntN(5))
		series := make([]storage.Series, len(all))
		for rank, points := range all {
			series[rank] = rankedSeries{list(points), rank}
		}
		rnd.Shuffle(len(series), func(i, j int) { series[i], series[j] = series[j], series[i] })
		merged := Series(series...)
		require.Equal(t, lset, merged.Labels())
		requireSame(t, expected(all), read(t, merged.Iterator(nil)))
	}
}

func TestSeriesSeek(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		all := sources(rnd, 2+rnd.IntN(3))
		series := make([]storage.Series, len(all))
		for rank, points := range all {
			series[rank] = rankedSeries{list(points), rank}
		}
		want := expected(all)
		it := Series(series...).Iterator(nil)
		at := -1 // index of the current sample in want
		for range 50 {
			var typ chunkenc.ValueType
			if rnd.IntN(2) == 0 {
				typ = it.Next()
				at++
			} else {
				to := rnd.Int64N(900)
				typ = it.Seek(to)
				at = max(at, 0)
				at += sort.Search(len(want)-min(at, len(want)), func(i int) bool { return want[at+i].t >= to })
			}
			if at >= len(want) {
				require.Equal(t, chunkenc.ValNone, typ)
				break
			}
			requireSame(t, want[at:at+1], []point{current(t, it, typ)})
		}
		require.NoError(t, it.Err())
	}
}

func TestChunkSeriesLowestRankWins(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		all := sources(rnd, 1+rnd.IntN(5))
		series := make([]storage.ChunkSeries, len(all))
		for rank, points := range all {
			series[rank] = rankedChunkSeries{storage.NewSeriesToChunkEncoder(list(points)), rank}
		}
		rnd.Shuffle(len(series), func(i, j int) { series[i], series[j] = series[j], series[i] })
		var got []point
		last := int64(-1)
		it := ChunkSeries(series...).Iterator(nil)
		for it.Next() {
			m := it.At()
			require.Greater(t, m.MinTime, last, "chunks overlap")
			last = m.MaxTime
			got = append(got, read(t, m.Chunk.Iterator(nil))...)
		}
		require.NoError(t, it.Err())
		requireSame(t, expected(all), got)
	}
}

// Sets come out of Prometheus' heap in any order of equal labels: ranks must survive that.
func TestRanksSurviveMergedSets(t *testing.T) {
	all := [][]point{{{t: 1, v: 10}, {t: 3, v: 30}}, {{t: 1, v: 11}, {t: 2, v: 21}}, {{t: 3, v: 32}}}
	var sets []storage.SeriesSet
	var chunkSets []storage.ChunkSeriesSet
	for rank := range slices.Backward(all) {
		sets = append(sets, RankSeriesSet(setOf(list(all[rank])), rank))
		chunkSets = append(chunkSets, RankChunkSeriesSet(storage.NewSeriesSetToChunkSet(setOf(list(all[rank]))), rank))
	}
	set := storage.NewMergeSeriesSet(sets, 0, Series)
	require.True(t, set.Next())
	requireSame(t, expected(all), read(t, set.At().Iterator(nil)))
	require.False(t, set.Next())

	chunkSet := storage.NewMergeChunkSeriesSet(chunkSets, 0, ChunkSeries)
	require.True(t, chunkSet.Next())
	it := chunkSet.At().Iterator(nil)
	require.True(t, it.Next())
	requireSame(t, expected(all), read(t, it.At().Chunk.Iterator(nil)))
}

// An untouched chunk is passed on, not encoded again.
func TestChunkSeriesPassesOn(t *testing.T) {
	a := storage.NewSeriesToChunkEncoder(list([]point{{t: 1}, {t: 2}}))
	b := storage.NewSeriesToChunkEncoder(list([]point{{t: 10}, {t: 20}}))
	it := ChunkSeries(a, b, a).Iterator(nil)
	n := 0
	for ; it.Next(); n++ {
	}
	require.Equal(t, 2, n, "a copy of a chunk is dropped")
}

func BenchmarkSeries(b *testing.B) {
	for _, n := range []int{2, 8} {
		b.Run(fmt.Sprintf("sources=%d", n), func(b *testing.B) {
			series := make([]storage.Series, n)
			for rank := range series {
				points := make([]point, 1000)
				for i := range points {
					points[i] = point{t: int64(rank*1000 + i), v: float64(i)}
				}
				series[rank] = list(points)
			}
			merged := Series(series...)
			var it chunkenc.Iterator
			b.ReportAllocs()
			for b.Loop() {
				it = merged.Iterator(it)
				for it.Next() != chunkenc.ValNone {
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n*1000), "ns/sample")
		})
	}
}

// oneSet is a set of one series.
type oneSet struct {
	storage.SeriesSet
	series storage.Series
	done   bool
}

func setOf(s storage.Series) storage.SeriesSet {
	return &oneSet{SeriesSet: storage.EmptySeriesSet(), series: s}
}

func (s *oneSet) Next() bool         { first := !s.done; s.done = true; return first }
func (s *oneSet) At() storage.Series { return s.series }

// TestGroups: however the sources are grouped on the way, the result is that of merging them all at once.
func TestGroups(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 4))
		all := sources(rnd, 2+rnd.IntN(6))
		var loose []storage.Series
		halves := make([][]storage.Series, 3)
		ranks := make([][]int, 3)
		for rank, points := range all {
			if half := rnd.IntN(4); half < 3 {
				halves[half] = append(halves[half], Ranked(list(points), len(ranks[half])))
				ranks[half] = append(ranks[half], rank)
				continue
			}
			loose = append(loose, Ranked(list(points), rank))
		}
		for i, half := range halves {
			if len(half) == 0 {
				continue
			}
			want := make([][]point, len(half))
			for j, rank := range ranks[i] {
				want[j] = all[rank]
			}
			rnd.Shuffle(len(half), func(i, j int) { half[i], half[j] = half[j], half[i] })
			set := RerankSeriesSet(setOf(Group(half...)), ranks[i])
			require.True(t, set.Next())
			requireSame(t, expected(want), read(t, set.At().Iterator(nil)))
			loose = append(loose, set.At())
		}
		rnd.Shuffle(len(loose), func(i, j int) { loose[i], loose[j] = loose[j], loose[i] })
		merged := Series(loose...)
		require.Equal(t, lset, merged.Labels())
		requireSame(t, expected(all), read(t, merged.Iterator(nil)))
	}
}
