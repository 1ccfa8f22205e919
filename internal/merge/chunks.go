package merge

import (
	"bytes"
	"slices"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
)

// ChunkSeries merges chunk series with equal labels into one whose chunks do not overlap: a
// storage.VerticalChunkSeriesMergeFunc. Chunks that overlap no other are passed on as they are; only the others are
// decoded and encoded again.
func ChunkSeries(series ...storage.ChunkSeries) storage.ChunkSeries {
	switch len(series) {
	case 0:
		return nil
	case 1:
		return series[0]
	}
	sorted := byRank(series)
	return &storage.ChunkSeriesEntry{
		Lset: labelsOf(sorted),
		ChunkIteratorFn: func(chunks.Iterator) chunks.Iterator {
			return mergeChunks(sorted)
		},
	}
}

// piece is a chunk with the rank of its source and its place there.
type piece struct {
	chunks.Meta
	source, place int
}

func mergeChunks(series []storage.ChunkSeries) chunks.Iterator {
	var pieces []piece
	var it chunks.Iterator
	for source, s := range series {
		it = s.Iterator(it)
		for place := 0; it.Next(); place++ {
			pieces = append(pieces, piece{it.At(), source, place})
		}
		if it.Err() != nil {
			return it
		}
	}
	slices.SortStableFunc(pieces, func(a, b piece) int {
		switch {
		case a.MinTime != b.MinTime:
			if a.MinTime < b.MinTime {
				return -1
			}
			return 1
		default:
			return a.source - b.source
		}
	})
	var out []chunks.Meta
	for i := 0; i < len(pieces); {
		end, maxt := i+1, pieces[i].MaxTime
		for end < len(pieces) && pieces[end].MinTime <= maxt {
			maxt = max(maxt, pieces[end].MaxTime)
			end++
		}
		cluster := withoutCopies(pieces[i:end])
		if len(cluster) == 1 && (i == 0 || follows(pieces[i-1], cluster[0]) || !isHistogram(cluster[0].Chunk)) {
			out = append(out, cluster[0].Meta)
		} else {
			enc := storage.NewSeriesToChunkEncoder(clusterSeries(cluster, len(series))).Iterator(nil)
			for enc.Next() {
				out = append(out, enc.At())
			}
			if enc.Err() != nil {
				return enc
			}
		}
		i = end
	}
	return storage.NewListChunkSeriesIterator(out...)
}

// follows says that b came directly after a in one source, so that what b's header says about counter resets still holds.
func follows(a, b piece) bool { return a.source == b.source && b.place == a.place+1 }

func isHistogram(c chunkenc.Chunk) bool {
	switch c.Encoding() {
	case chunkenc.EncXOR, chunkenc.EncXOR2:
		return false
	}
	return true
}

// withoutCopies drops chunks that are byte for byte one of a lower rank, the common case of the same block built twice.
func withoutCopies(cluster []piece) []piece {
	if len(cluster) == 1 {
		return cluster
	}
	kept := make([]piece, 0, len(cluster))
	for _, p := range cluster {
		copied := slices.ContainsFunc(kept, func(k piece) bool {
			return k.MinTime == p.MinTime && k.MaxTime == p.MaxTime && k.Chunk.Encoding() == p.Chunk.Encoding() &&
				bytes.Equal(k.Chunk.Bytes(), p.Chunk.Bytes())
		})
		if !copied {
			kept = append(kept, p)
		}
	}
	return kept
}

// clusterSeries is the sample view of overlapping chunks, one series per source, in order of rank.
func clusterSeries(cluster []piece, sources int) storage.Series {
	bySource := make([][]chunks.Meta, sources)
	for _, p := range cluster {
		bySource[p.source] = append(bySource[p.source], p.Meta)
	}
	var series []storage.Series
	for _, metas := range bySource {
		// Chunks of one source may overlap too (foreign blocks): each overlapping one becomes a series of its own.
		for len(metas) > 0 {
			run, rest := metas[:1:1], []chunks.Meta(nil)
			for _, m := range metas[1:] {
				if m.MinTime > run[len(run)-1].MaxTime {
					run = append(run, m)
				} else {
					rest = append(rest, m)
				}
			}
			series = append(series, SeriesOfChunks(labels.EmptyLabels(), run))
			metas = rest
		}
	}
	if len(series) == 1 {
		// Through the merging iterator all the same: it withdraws the hints about counter resets at the seams.
		series = append(series, SeriesOfChunks(labels.EmptyLabels(), nil))
	}
	return Series(series...)
}

// SeriesOfChunks is a series over chunks in time order.
func SeriesOfChunks(ls labels.Labels, metas []chunks.Meta) storage.Series {
	return &storage.SeriesEntry{
		Lset: ls,
		SampleIteratorFn: func(chunkenc.Iterator) chunkenc.Iterator {
			return &runIterator{metas: metas, Iterator: chunkenc.NewNopIterator()}
		},
	}
}

// runIterator reads chunk after chunk.
type runIterator struct {
	chunkenc.Iterator
	metas []chunks.Meta
}

func (r *runIterator) Next() chunkenc.ValueType {
	for {
		if typ := r.Iterator.Next(); typ != chunkenc.ValNone || r.Err() != nil || len(r.metas) == 0 {
			return typ
		}
		r.Iterator = r.metas[0].Chunk.Iterator(nil)
		r.metas = r.metas[1:]
	}
}

func (r *runIterator) Seek(t int64) chunkenc.ValueType {
	for {
		if typ := r.Iterator.Seek(t); typ != chunkenc.ValNone || r.Err() != nil || len(r.metas) == 0 {
			return typ
		}
		r.Iterator = r.metas[0].Chunk.Iterator(nil)
		r.metas = r.metas[1:]
	}
}
