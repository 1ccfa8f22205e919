package store

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
	"golang.org/x/sync/errgroup"

	"sluice/internal/merge"
	"sluice/internal/trace"
)

// batchSeries is how many series are read at a time.
const batchSeries = 4096

// seriesSet gives the series of refs, batch by batch: first the index pages of all series of a batch are fetched, then
// the chunk pages of all their chunks in range. What a batch needs is then copied out of the pages, so that iterating
// does no I/O, cannot fail on the bucket and does not depend on what the cache keeps.
type seriesSet struct {
	ctx        context.Context
	block      *block
	refs       []uint32          // not yet read
	rest       []*labels.Matcher // that the labels of refs must still match
	hurry      bool              // rather read too much than one round trip more
	hints      storage.SelectHints
	mint, maxt int64

	cur storage.SeriesSet // over the current batch
	err error
}

func (s *seriesSet) Next() bool {
	for s.err == nil {
		if s.cur != nil {
			if s.cur.Next() {
				return true
			}
			if s.err = s.cur.Err(); s.err != nil {
				break
			}
			s.cur = nil
		}
		if len(s.refs) == 0 {
			return false
		}
		n := min(batchSeries, len(s.refs))
		s.cur, s.err = s.prepare(s.refs[:n])
		s.refs = s.refs[n:]
	}
	s.err = s.block.index.file.fail(s.err)
	return false
}

func (s *seriesSet) At() storage.Series                { return s.cur.At() }
func (s *seriesSet) Err() error                        { return s.err }
func (s *seriesSet) Warnings() annotations.Annotations { return nil }

// prepare reads a batch.
func (s *seriesSet) prepare(refs []uint32) (_ storage.SeriesSet, err error) {
	defer recovered(s.block.index.file, &err)
	defer trace.Current(s.ctx).Busy(time.Now())
	x := s.block.index
	e, err := x.entries(s.ctx, refs, s.mint, s.maxt)
	if err != nil {
		return nil, err
	}
	e.series = slices.DeleteFunc(e.series, func(en entry) bool { return en.metasFrom == en.metasTo })
	b := &batch{metas: e.metas}
	// The symbols of the labels and the chunks come at the same time, unless the labels may save most of the chunks.
	withChunks := s.hints.Func != "series"
	together := withChunks && (s.hurry || len(s.rest) == 0 && s.hints.ShardCount == 0)
	g, ctx := errgroup.WithContext(s.ctx)
	g.Go(func() (err error) {
		defer recovered(x.file, &err)
		return x.resolve(ctx, e, false)
	})
	if together {
		g.Go(func() error { return b.load(ctx, s.block, nil) })
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var builder labels.ScratchBuilder
	for i := range e.series {
		en := &e.series[i]
		ls := e.labels(en, &builder)
		if matches(ls, s.rest) && (s.hints.ShardCount == 0 || labels.StableHash(ls)%s.hints.ShardCount == s.hints.ShardIndex) {
			b.series = append(b.series, batchEntry{ls, en.metasFrom, en.metasTo})
		}
	}
	if err := trace.Add(s.ctx, trace.Series, int64(len(b.series))); err != nil {
		return nil, err
	}
	if withChunks && !together && len(b.series) > 0 {
		if err := b.load(s.ctx, s.block, b.series); err != nil {
			return nil, err
		}
	}
	return &batchSet{series: b.undecoded(s.hints.DisableTrimming, s.mint, s.maxt), at: -1}, nil
}

// batchSet gives the series of a batch.
type batchSet struct {
	series []merge.ChunksSeries
	at     int
}

func (s *batchSet) Next() bool                      { s.at++; return s.at < len(s.series) }
func (s *batchSet) At() storage.Series              { return &s.series[s.at] }
func (*batchSet) Err() error                        { return nil }
func (*batchSet) Warnings() annotations.Annotations { return nil }

// undecoded returns the series with their chunks; without any if labels alone were asked for. Samples outside of
// [mint, maxt] do not count, but for a caller who wants them all.
func (b *batch) undecoded(all bool, mint, maxt int64) []merge.ChunksSeries {
	if all {
		mint, maxt = math.MinInt64, math.MaxInt64
	}
	series := make([]merge.ChunksSeries, len(b.series))
	parts := make([]merge.Chunk, 0, len(b.chunks))
	for i, e := range b.series {
		first := len(parts)
		if b.chunks != nil {
			for j := e.from; j < e.to; j++ {
				m, c := &b.metas[j], &b.chunks[j]
				parts = append(parts, merge.Chunk{MinTime: m.MinTime, MaxTime: m.MaxTime, From: mint, To: maxt, Encoding: c.enc, Data: c.data})
			}
		}
		series[i] = *merge.OfChunks(e.labels, parts[first:len(parts):len(parts)])
	}
	return series
}

// batch is a number of series with their chunks in memory.
type batch struct {
	series []batchEntry
	metas  []chunks.Meta // in range
	chunks []batchChunk  // of metas; nil: labels alone are asked for
}

type batchEntry struct {
	labels   labels.Labels
	from, to int // of metas
}

type batchChunk struct {
	enc  chunkenc.Encoding
	data []byte
}

// load reads the chunks of some series, or of all for nil, segment by segment in the order of the file.
func (b *batch) load(ctx context.Context, blk *block, series []batchEntry) error {
	b.chunks = make([]batchChunk, len(b.metas))
	order := make([]int, 0, len(b.metas))
	if series == nil {
		series = []batchEntry{{to: len(b.metas)}}
	}
	for _, e := range series {
		for i := e.from; i < e.to; i++ {
			order = append(order, i)
		}
	}
	if err := trace.Add(ctx, trace.Chunks, int64(len(order))); err != nil {
		return err
	}
	slices.SortFunc(order, func(x, y int) int {
		if b.metas[x].Ref < b.metas[y].Ref { // a ref is segment << 32 | offset
			return -1
		}
		return 1
	})
	g, gctx := errgroup.WithContext(ctx)
	for len(order) > 0 {
		segment, _ := chunks.BlockChunkRef(b.metas[order[0]].Ref).Unpack()
		n := 1
		for n < len(order) && int(b.metas[order[n]].Ref>>32) == segment {
			n++
		}
		if segment >= len(blk.segments) {
			_ = g.Wait()
			return fmt.Errorf("series refers to segment %d of %d", segment+1, len(blk.segments))
		}
		f := blk.segments[segment]
		these := order[:n]
		order = order[n:]
		g.Go(func() error { return f.fail(b.loadSegment(gctx, blk, f, these)) })
	}
	return g.Wait()
}

func (b *batch) loadSegment(ctx context.Context, blk *block, f *file, order []int) (err error) {
	defer recovered(f, &err)
	spans := make([]span, len(order))
	for i, j := range order {
		from := int64(uint32(b.metas[j].Ref))
		if from < chunks.SegmentHeaderSize || from > f.size-chunks.MaxChunkLengthFieldSize {
			return fmt.Errorf("chunk at %d is outside of the file of %d bytes", from, f.size)
		}
		spans[i] = span{from, min(from+blk.chunkGuess, f.size)}
		if i > 0 && from > spans[i-1].from { // a chunk ends where the next one starts
			spans[i-1].to = min(spans[i-1].to, max(from, spans[i-1].from+1))
		}
	}
	var arena []byte
	bytes := 0
	defer func() {
		if err == nil {
			err = trace.Add(ctx, trace.ChunkBytes, int64(bytes))
		}
	}()
	return blk.pages.framed(ctx, f, forChunks, spans, chunks.ChunkEncodingSize, func(i int, data []byte) error {
		enc, data := chunkenc.Encoding(data[0]), data[1:]
		if len(data) < minChunk {
			return fmt.Errorf("chunk at %d has %d bytes", spans[i].from, len(data))
		}
		if len(data) > cap(arena)-len(arena) {
			arena = make([]byte, 0, max(len(data), min(64<<10, len(order)*int(blk.chunkGuess))))
		}
		bytes += len(data)
		from := len(arena)
		arena = append(arena, data...)
		b.chunks[order[i]] = batchChunk{enc, arena[from:len(arena):len(arena)]}
		return nil
	})
}

// minChunk is the number of bytes that every decoder reads without looking.
const minChunk = 2
