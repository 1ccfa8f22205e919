// Package merge puts several views of the same series together, exactly. In come series (samples or chunks) with equal
// labels and a rank each, out comes one series in time order; of samples with the same time the one of the lowest rank
// stays, always. That is how "the first in log order wins" holds in queries and in compaction alike, where Prometheus'
// own merging keeps an arbitrary one. It never reorders labels and never looks beyond one series at a time.
package merge

import (
	"iter"
	"slices"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

// RankSeriesSet gives every series of set the rank: lower wins.
func RankSeriesSet(set storage.SeriesSet, rank int) storage.SeriesSet {
	return &rankedSet{SeriesSet: set, rank: rank}
}

// RankChunkSeriesSet gives every series of set the rank: lower wins.
func RankChunkSeriesSet(set storage.ChunkSeriesSet, rank int) storage.ChunkSeriesSet {
	return &rankedChunkSet{ChunkSeriesSet: set, rank: rank}
}

type rankedSet struct {
	storage.SeriesSet
	rank int
}

func (s *rankedSet) At() storage.Series { return rankedSeries{s.SeriesSet.At(), s.rank} }

type rankedSeries struct {
	storage.Series
	rank int
}

type rankedChunkSet struct {
	storage.ChunkSeriesSet
	rank int
}

func (s *rankedChunkSet) At() storage.ChunkSeries {
	return rankedChunkSeries{s.ChunkSeriesSet.At(), s.rank}
}

type rankedChunkSeries struct {
	storage.ChunkSeries
	rank int
}

// byRank returns the series in the order of their ranks (0 for those without one); equal ranks keep their order. The
// sets of storage.NewMergeSeriesSet come out of a heap, so the order of arguments alone says nothing.
func byRank[S storage.Labels](series []S) []S {
	rank := func(s S) int {
		switch s := any(s).(type) {
		case rankedSeries:
			return s.rank
		case rankedChunkSeries:
			return s.rank
		}
		return 0
	}
	sorted := slices.Clone(series)
	slices.SortStableFunc(sorted, func(a, b S) int { return rank(a) - rank(b) })
	return sorted
}

// labelsOf returns the labels that all series share.
func labelsOf[S storage.Labels](series []S) labels.Labels { return series[0].Labels() }

// group is several series with equal labels, each with its rank, that nobody has merged yet.
type group struct{ parts []rankedSeries } // by rank, two at least

func (g *group) Labels() labels.Labels { return g.parts[0].Labels() }

// Iterator merges, so that a group is good for any reader.
func (g *group) Iterator(it chunkenc.Iterator) chunkenc.Iterator {
	series := make([]storage.Series, len(g.parts))
	for i, p := range g.parts {
		series[i] = p
	}
	return Series(series...).Iterator(it)
}

// Group puts series with equal labels together and leaves the merging to a later Series, which then knows the rank of
// each: a storage.VerticalSeriesMergeFunc. Without it, a merged half could have no right place among the other half.
func Group(series ...storage.Series) storage.Series {
	if len(series) == 1 {
		return series[0]
	}
	g := &group{}
	for _, s := range series {
		for rank, part := range Parts(s) {
			g.parts = append(g.parts, rankedSeries{part, rank})
		}
	}
	slices.SortStableFunc(g.parts, func(a, b rankedSeries) int { return a.rank - b.rank })
	return g
}

// Ranked gives a series its rank.
func Ranked(s storage.Series, rank int) storage.Series { return rankedSeries{s, rank} }

// Parts returns the ranks and the series that a group is made of, lowest rank first; any other series is its only part.
func Parts(s storage.Series) iter.Seq2[int, storage.Series] {
	return func(yield func(int, storage.Series) bool) {
		switch s := s.(type) {
		case *group:
			for _, p := range s.parts {
				if !yield(p.rank, p.Series) {
					return
				}
			}
		case rankedSeries:
			yield(s.rank, s.Series)
		default:
			yield(0, s)
		}
	}
}

// RerankSeriesSet gives every part of rank i the rank ranks[i]. The new ranks must be in the order of the old ones.
func RerankSeriesSet(set storage.SeriesSet, ranks []int) storage.SeriesSet {
	return &rerankedSet{SeriesSet: set, ranks: ranks}
}

type rerankedSet struct {
	storage.SeriesSet
	ranks []int
}

func (s *rerankedSet) At() storage.Series {
	series := s.SeriesSet.At()
	g, ok := series.(*group)
	if !ok {
		for rank, part := range Parts(series) {
			return rankedSeries{part, s.ranks[rank]}
		}
	}
	parts := make([]rankedSeries, len(g.parts))
	for i, p := range g.parts {
		parts[i] = rankedSeries{p.Series, s.ranks[p.rank]}
	}
	return &group{parts}
}

// apart takes groups apart.
func apart(series []storage.Series) []storage.Series {
	if !slices.ContainsFunc(series, func(s storage.Series) bool { _, ok := s.(*group); return ok }) {
		return series
	}
	var all []storage.Series
	for _, s := range series {
		for rank, part := range Parts(s) {
			all = append(all, rankedSeries{part, rank})
		}
	}
	return all
}
