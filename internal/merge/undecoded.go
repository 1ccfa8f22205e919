package merge

import (
	"bytes"
	"slices"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
)

// Chunk is a piece of a series that nobody has decoded yet. Of its samples only those in [From, To] count.
type Chunk struct {
	MinTime, MaxTime int64 // ms, of all of its samples
	From, To         int64 // ms, both inclusive
	Encoding         chunkenc.Encoding
	Data             []byte // as chunkenc has it; not to be written to
}

// Undecoded is a series that has its samples as chunks. Iterating it gives the same samples.
type Undecoded interface {
	storage.Series
	// AppendChunks appends the chunks of the series to out, in the order of their times, no two of them overlapping. When
	// it cannot, ok is false and the series must be iterated.
	AppendChunks(out []Chunk) (_ []Chunk, ok bool)
}

// ChunksOf appends the chunks of any series to out, as Undecoded.AppendChunks does; ok is false for one that has none.
func ChunksOf(s storage.Series, out []Chunk) (_ []Chunk, ok bool) {
	if r, ranked := s.(rankedSeries); ranked {
		s = r.Series
	}
	u, is := s.(Undecoded)
	if !is {
		return out, false
	}
	return u.AppendChunks(out)
}

// AppendMetas appends chunks that are in memory, bounded by [from, to] (ms, both inclusive).
func AppendMetas(out []Chunk, metas []chunks.Meta, from, to int64) []Chunk {
	for _, m := range metas {
		out = append(out, Chunk{m.MinTime, m.MaxTime, from, to, m.Chunk.Encoding(), m.Chunk.Bytes()})
	}
	return out
}

// AppendChunks merges chunks as long as none of one part overlaps one of another: in the order of time each is as good
// as alone. Copies are dropped: the same block is built by several zones.
func (m *merged) AppendChunks(out []Chunk) (_ []Chunk, ok bool) {
	first := len(out)
	for _, s := range m.sorted {
		if out, ok = ChunksOf(s, out); !ok {
			return out[:first], false
		}
	}
	all := out[first:]
	slices.SortStableFunc(all, func(a, b Chunk) int { // stable: of copies the one of the lowest rank stays
		switch {
		case a.MinTime < b.MinTime:
			return -1
		case a.MinTime > b.MinTime:
			return 1
		}
		return 0
	})
	kept := all[:0]
	for _, c := range all {
		if n := len(kept); n > 0 && c.MinTime <= kept[n-1].MaxTime {
			if !kept[n-1].same(c) {
				return out[:first], false
			}
			continue
		}
		kept = append(kept, c)
	}
	return out[:first+len(kept)], true
}

func (c Chunk) same(o Chunk) bool {
	return c.MinTime == o.MinTime && c.MaxTime == o.MaxTime && c.From == o.From && c.To == o.To &&
		c.Encoding == o.Encoding && bytes.Equal(c.Data, o.Data)
}

// Bounded is a series over chunks that are in memory, in the order of their times and without overlaps, with those of
// their samples that are in [from, to] (ms, both inclusive).
func Bounded(lset labels.Labels, metas []chunks.Meta, from, to int64) *BoundedSeries {
	return &BoundedSeries{lset, metas, from, to}
}

// BoundedSeries is a part of a series. It is Undecoded.
type BoundedSeries struct {
	labels   labels.Labels
	metas    []chunks.Meta
	from, to int64
}

// Labels of the series.
func (b *BoundedSeries) Labels() labels.Labels { return b.labels }

// AppendChunks implements Undecoded.
func (b *BoundedSeries) AppendChunks(out []Chunk) (_ []Chunk, ok bool) {
	return AppendMetas(out, b.metas, b.from, b.to), true
}

// Chunks gives the chunks whole, for passing on: whoever reads them must leave out what is out of bounds.
func (b *BoundedSeries) Chunks(chunks.Iterator) chunks.Iterator {
	return storage.NewListChunkSeriesIterator(b.metas...)
}

// Iterator walks the samples within the bounds.
func (b *BoundedSeries) Iterator(it chunkenc.Iterator) chunkenc.Iterator {
	i, ok := it.(*boundedIterator)
	if !ok {
		i = &boundedIterator{}
	}
	*i = boundedIterator{Iterator: nothing, reuse: i.reuse, series: b}
	return i
}

var nothing = chunkenc.NewNopIterator()

// boundedIterator reads chunk after chunk.
type boundedIterator struct {
	chunkenc.Iterator // of the chunk before next
	reuse             chunkenc.Iterator
	series            *BoundedSeries
	next              int
	typ               chunkenc.ValueType
}

// open goes on to the next chunk; false when there is none.
func (i *boundedIterator) open() bool {
	if i.Err() != nil || i.next == len(i.series.metas) || i.series.metas[i.next].MinTime > i.series.to {
		return false
	}
	i.reuse = i.series.metas[i.next].Chunk.Iterator(i.reuse)
	i.Iterator = i.reuse
	i.next++
	return true
}

func (i *boundedIterator) Next() chunkenc.ValueType {
	for {
		for i.typ = i.Iterator.Next(); i.typ != chunkenc.ValNone; i.typ = i.Iterator.Next() {
			switch t := i.AtT(); {
			case t > i.series.to:
				return i.end()
			case t >= i.series.from:
				return i.typ
			}
		}
		if !i.open() {
			return chunkenc.ValNone
		}
	}
}

// end makes the iterator one that has come to its end.
func (i *boundedIterator) end() chunkenc.ValueType {
	i.Iterator, i.next, i.typ = nothing, len(i.series.metas), chunkenc.ValNone
	return chunkenc.ValNone
}

func (i *boundedIterator) Seek(t int64) chunkenc.ValueType {
	if i.typ != chunkenc.ValNone && i.AtT() >= t {
		return i.typ
	}
	for t = max(t, i.series.from); ; {
		if i.next > 0 && t <= i.series.metas[i.next-1].MaxTime {
			if i.typ = i.Iterator.Seek(t); i.typ != chunkenc.ValNone {
				if i.AtT() > i.series.to {
					return i.end()
				}
				return i.typ
			}
		}
		for i.next < len(i.series.metas) && i.series.metas[i.next].MaxTime < t {
			i.next++ // nothing of it is wanted
		}
		if !i.open() {
			if i.Err() == nil {
				i.end()
			}
			i.typ = chunkenc.ValNone
			return chunkenc.ValNone
		}
	}
}
