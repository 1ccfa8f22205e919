package store

import (
	"context"
	"math"
	"slices"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	tsdbindex "github.com/prometheus/prometheus/tsdb/index"
	"github.com/prometheus/prometheus/util/annotations"

	"sluice/internal/merge"
)

// Querier returns a querier of the head's samples in [mint, maxt] (ms, both inclusive). Its series give their chunks
// undecoded (merge.Undecoded). It need not be closed.
func (h *Head) Querier(mint, maxt int64) storage.Querier {
	return &querier{index: indexReader{&block{h, mint, maxt}}}
}

type querier struct{ index indexReader }

func (*querier) Close() error { return nil }

// LabelValues implements storage.LabelQuerier.
func (q *querier) LabelValues(ctx context.Context, name string, hints *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	values, err := q.index.SortedLabelValues(ctx, name, hints, ms...)
	return values, nil, err
}

// LabelNames implements storage.LabelQuerier.
func (q *querier) LabelNames(ctx context.Context, hints *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	names, err := q.index.LabelNames(ctx, ms...)
	return limited(names, hints), nil, err
}

// Select returns the series that match and have samples in the range of the hints, always sorted.
func (q *querier) Select(ctx context.Context, _ bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	p, err := tsdb.PostingsForMatchers(ctx, &q.index, ms...)
	if err != nil {
		return storage.ErrSeriesSet(err)
	}
	s := &seriesSet{ctx: ctx, head: q.index.head, mint: q.index.mint, maxt: q.index.maxt}
	s.from, s.to = s.mint, s.maxt
	if hints != nil {
		if hints.ShardCount > 0 {
			p = q.index.ShardedPostings(p, hints.ShardIndex, hints.ShardCount)
		}
		s.from, s.to, s.names = hints.Start, hints.End, hints.Func == "series"
		s.mint, s.maxt = max(s.mint, s.from), min(s.maxt, s.to)
		if hints.DisableTrimming {
			s.from, s.to = math.MinInt64, math.MaxInt64
		}
	}
	if s.refs, err = expand(p); err != nil {
		return storage.ErrSeriesSet(err)
	}
	s.head.sort(s.refs)
	return s
}

// expand returns the refs of postings.
func expand(p tsdbindex.Postings) ([]uint32, error) {
	if l, ok := p.(*list); ok && l.at < 0 {
		return l.refs, nil // made for this question
	}
	var refs []uint32
	for p.Next() {
		refs = append(refs, uint32(p.At()))
	}
	return refs, p.Err()
}

// batchSeries is how many series are read under one lock: 30 µs.
const batchSeries = 256

// seriesSet reads batch after batch. A batch has the samples of its series as they are when it is read.
type seriesSet struct {
	ctx        context.Context
	head       *Head
	refs       []uint32 // not yet read
	mint, maxt int64    // chunks with a part in it are read
	from, to   int64    // of the samples that count
	names      bool     // labels alone are asked for

	batch []merge.ChunksSeries
	at    int
	err   error
}

func (s *seriesSet) Next() bool {
	s.at++
	for s.at >= len(s.batch) {
		if s.err = s.ctx.Err(); s.err != nil || len(s.refs) == 0 {
			return false
		}
		s.at = 0
		s.read()
	}
	return true
}

func (s *seriesSet) At() storage.Series              { return &s.batch[s.at] }
func (s *seriesSet) Err() error                      { return s.err }
func (*seriesSet) Warnings() annotations.Annotations { return nil }

// read reads the next batch. The bytes of open chunks are copied, as the appender goes on writing into them; those of
// closed ones stay as they are.
func (s *seriesSet) read() {
	refs := s.refs[:min(batchSeries, len(s.refs))]
	s.refs = s.refs[len(refs):]
	s.batch = make([]merge.ChunksSeries, 0, len(refs))
	var (
		h     = s.head
		parts = make([]merge.Chunk, 0, len(refs)+len(refs)/2)
		open  []byte
	)
	h.mu.RLock()
	defer h.mu.RUnlock()
	for _, ref := range refs {
		first := len(parts)
		parts, open = s.chunks(h.series(ref), parts, open)
		if first == len(parts) {
			continue
		}
		own := parts[first:len(parts):len(parts)]
		slices.Reverse(own)
		if s.names {
			own = nil
		}
		s.batch = append(s.batch, *merge.OfChunks(h.labels[ref-1], own))
	}
}

// chunks appends the chunks of a series, newest first. open is memory for copies. Held: Head.mu.
func (s *seriesSet) chunks(one *series, parts []merge.Chunk, open []byte) ([]merge.Chunk, []byte) {
	h := s.head
	put := func(mint, maxt int64, enc chunkenc.Encoding, data []byte) {
		parts = append(parts, merge.Chunk{MinTime: mint, MaxTime: maxt, From: s.from, To: s.to, Encoding: enc, Data: data})
	}
	if one.count > 0 && one.newest >= s.mint {
		raw, enc, from := h.openChunk(one)
		if from <= s.maxt {
			if len(open)+len(raw) > cap(open) {
				open = make([]byte, 0, max(batchSeries*64, len(raw)))
			}
			at := len(open)
			open = append(open, raw...)
			own := open[at:len(open):len(open)]
			own[0], own[1] = byte(one.count>>8), byte(one.count)
			put(from, one.newest, enc, own)
		}
	}
	for i := one.closed; i > 0; {
		c := &h.chunks[i-1]
		if c.maxt < s.mint {
			break
		}
		if c.mint <= s.maxt {
			put(c.mint, c.maxt, c.encoding, h.arena.bytes(c.at, int(c.size)))
		}
		i = c.prev
	}
	return parts, open
}

// openChunk returns the bytes of a series' open chunk, whose header does not have the number of samples yet, and the time of its first sample.
func (h *Head) openChunk(s *series) (raw []byte, enc chunkenc.Encoding, from int64) {
	if s.kind == kindFloat {
		raw = h.arena.bytes(s.at, int(s.pos+7)/8)
		return raw, encFloat, firstTime(raw)
	}
	o := &h.open[s.open-1]
	return o.chunk.Bytes(), o.chunk.Encoding(), o.mint
}
