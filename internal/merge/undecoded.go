package merge

import (
	"bytes"
	"math"
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
	for { // a consumer ranks its partitions, a reader the consumer
		r, ranked := s.(rankedSeries)
		if !ranked {
			break
		}
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
func (m *merged) AppendChunks(out []Chunk) (_ []Chunk, ok bool) { return appendMerged(out, m.sorted) }

// AppendChunks is that of the merged series.
func (g *group) AppendChunks(out []Chunk) (_ []Chunk, ok bool) { return appendMerged(out, g.parts) }

func appendMerged[S storage.Series](out []Chunk, sorted []S) (_ []Chunk, ok bool) {
	first := len(out)
	for _, s := range sorted {
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

// OfChunks is a series over chunks as Undecoded.AppendChunks gives them.
func OfChunks(lset labels.Labels, parts []Chunk) *ChunksSeries { return &ChunksSeries{lset, parts} }

// ChunksSeries is a series that has nothing but chunks. It is Undecoded.
type ChunksSeries struct {
	labels labels.Labels
	parts  []Chunk
}

// Labels of the series.
func (s *ChunksSeries) Labels() labels.Labels { return s.labels }

// AppendChunks implements Undecoded.
func (s *ChunksSeries) AppendChunks(out []Chunk) (_ []Chunk, ok bool) {
	return append(out, s.parts...), true
}

// Chunks gives the chunks whole, for passing on: whoever reads them must leave out what is out of bounds.
func (s *ChunksSeries) Chunks(chunks.Iterator) chunks.Iterator {
	metas := make([]chunks.Meta, len(s.parts))
	for i, p := range s.parts {
		c, err := chunkenc.FromData(p.Encoding, p.Data)
		if err != nil {
			return failedChunks{err}
		}
		metas[i] = chunks.Meta{Chunk: c, MinTime: p.MinTime, MaxTime: p.MaxTime}
	}
	return storage.NewListChunkSeriesIterator(metas...)
}

// failedChunks has an error and no chunk.
type failedChunks struct{ err error }

func (failedChunks) Next() bool      { return false }
func (failedChunks) At() chunks.Meta { return chunks.Meta{} }
func (f failedChunks) Err() error    { return f.err }

// Iterator walks the samples within the bounds.
func (s *ChunksSeries) Iterator(it chunkenc.Iterator) chunkenc.Iterator {
	i, ok := it.(*partIterator)
	if !ok {
		i = &partIterator{}
	}
	*i = partIterator{Iterator: chunkenc.NewNopIterator(), reuse: i.reuse, parts: s.parts}
	return i
}

// partIterator reads chunk after chunk.
type partIterator struct {
	chunkenc.Iterator // of the chunk cur
	reuse             chunkenc.Iterator
	parts             []Chunk // cur and those behind it
	begun             bool    // cur is open
	typ               chunkenc.ValueType
	err               error
}

// open goes on to the next chunk that has samples at or after t; false when there is none.
func (i *partIterator) open(t int64) bool {
	if i.err = i.Iterator.Err(); i.err != nil {
		return i.end()
	}
	if i.begun {
		i.parts = i.parts[1:]
	}
	for len(i.parts) > 0 && min(i.parts[0].MaxTime, i.parts[0].To) < t {
		i.parts = i.parts[1:]
	}
	if len(i.parts) == 0 {
		return i.end()
	}
	c, err := chunkenc.FromData(i.parts[0].Encoding, i.parts[0].Data)
	if i.err = err; err != nil {
		return i.end()
	}
	i.reuse = c.Iterator(i.reuse)
	i.Iterator, i.begun = i.reuse, true
	return true
}

// end makes the iterator one that has come to its end, or to an error.
func (i *partIterator) end() bool {
	i.Iterator, i.parts, i.begun, i.typ = chunkenc.NewNopIterator(), nil, false, chunkenc.ValNone
	return false
}

func (i *partIterator) Next() chunkenc.ValueType {
	for {
		if i.begun {
			for i.typ = i.Iterator.Next(); i.typ != chunkenc.ValNone; i.typ = i.Iterator.Next() {
				t := i.AtT()
				if t > i.parts[0].To {
					break
				}
				if t >= i.parts[0].From {
					return i.typ
				}
			}
		}
		if !i.open(math.MinInt64) {
			return chunkenc.ValNone
		}
	}
}

func (i *partIterator) Seek(t int64) chunkenc.ValueType {
	if i.typ != chunkenc.ValNone && i.AtT() >= t {
		return i.typ
	}
	for {
		if i.begun && min(i.parts[0].MaxTime, i.parts[0].To) >= t {
			if i.typ = i.Iterator.Seek(max(t, i.parts[0].From)); i.typ != chunkenc.ValNone && i.AtT() <= i.parts[0].To {
				return i.typ
			}
		}
		if !i.open(t) {
			return chunkenc.ValNone
		}
	}
}

func (i *partIterator) Err() error {
	if i.err != nil {
		return i.err
	}
	return i.Iterator.Err()
}
