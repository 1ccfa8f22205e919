package fetch

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sync/atomic"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/storage/remote"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/util/annotations"

	"sluice/internal/merge"
	"sluice/internal/trace"
)

const (
	minTime = math.MinInt64
	maxTime = math.MaxInt64
)

// errCut is what a stream without a proper end gives: the other side died, or something between us cut the connection.
var errCut = fmt.Errorf("%w: stream of series was cut", ErrUnreachable)

// stream is the series set over an answer of /fetch/select. Prometheus' own one does not join the frames of a long
// series, takes a cut between two fields for the end and forgets errors inside of chunks; so this is ours.
type stream struct {
	answer     *answer
	frames     *remote.ChunkedReader
	blocks     int // how many were asked for; 0 = partitions
	mint, maxt int64

	span     *trace.Span  // counts what arrives; may be nil
	held     atomic.Int64 // bytes that were counted as memory
	head     streamHead
	ahead    []storage.Series // read already, not yet given out
	cur      storage.Series
	next     *frame // after the last series that was read
	taken    int64  // bytes of the frames read
	last     labels.Labels
	done     bool
	err      error
	warnings annotations.Annotations
}

// frame is a part of a series.
type frame struct {
	*prompb.ChunkedSeries
	index int // query_index
}

func newStream(a *answer, blocks int, mint, maxt int64) *stream {
	body := bufio.NewReaderSize(a.Body, 1<<15)
	return &stream{answer: a, span: trace.Current(a.ctx), frames: remote.NewChunkedReader(body, maxFrameLimit, nil), blocks: blocks, mint: mint, maxt: maxt}
}

// begin waits for the first series.
func (s *stream) begin() { s.next = s.frame() }

// readAhead reads on until the end, or until it has read limit bytes. After an error there is no series at all.
func (s *stream) readAhead(limit int64) {
	for s.taken < limit {
		series := s.read()
		if series == nil {
			break
		}
		s.ahead = append(s.ahead, series)
	}
	if s.err != nil {
		s.ahead = nil
	}
}

// aside takes a frame that holds no series.
func (s *stream) aside(b []byte) (ok bool, err error) {
	if ok, err = parseFrame(b, headTag, &s.head); ok {
		return true, err
	}
	var tail streamTail
	if ok, err = parseFrame(b, tailTag, &tail); ok && err == nil {
		err = s.span.Attach(tail.Trace)
	}
	return ok, err
}

// count counts the frame of a series.
func (s *stream) count(bytes int, chunks []prompb.Chunk) error {
	size := 0
	for i := range chunks {
		size += len(chunks[i].Data)
	}
	s.held.Add(int64(bytes))
	return cmp.Or(s.span.Add(trace.Memory, int64(bytes)), s.span.Add(trace.Chunks, int64(len(chunks))), s.span.Add(trace.ChunkBytes, int64(size)))
}

// close lets go of what came.
func (s *stream) close() {
	s.answer.close()
	_ = s.span.Add(trace.Memory, -s.held.Swap(0)) // less passes no limit
}

// frame reads up to the next frame of a series; nil at the proper end and after an error.
func (s *stream) frame() *frame {
	for !s.done {
		b, err := s.frames.Next()
		if err != nil {
			s.finish(err)
			return nil
		}
		if len(b) == 0 {
			continue // a sign of life
		}
		s.taken += int64(len(b))
		if ok, err := s.aside(b); err != nil {
			s.finish(err)
			return nil
		} else if ok {
			continue
		}
		var resp prompb.ChunkedReadResponse
		switch err := resp.Unmarshal(bytes.Clone(b)); {
		case err != nil:
			s.finish(err)
		case len(resp.ChunkedSeries) != 1:
			s.finish(fmt.Errorf("frame has %d series, must have one", len(resp.ChunkedSeries)))
		case resp.QueryIndex < 0 || resp.QueryIndex >= int64(max(s.blocks, 1)):
			s.finish(fmt.Errorf("frame is of block %d of %d", resp.QueryIndex, s.blocks))
		default:
			f := &frame{resp.ChunkedSeries[0], int(resp.QueryIndex)}
			if err := s.count(len(b), f.Chunks); err != nil {
				s.finish(err)
				return nil
			}
			return f
		}
	}
	return nil
}

// finish closes the stream and finds out whether it is complete: err is io.EOF and the trailer says so.
func (s *stream) finish(err error) {
	s.done = true
	var last end
	trailer := s.answer.Trailer.Get(trailerEnd) // there only once the body has been read to its end
	switch {
	case s.answer.ctx.Err() != nil:
		s.err = s.answer.explain(err)
	case trailer != "" && json.Unmarshal([]byte(trailer), &last) != nil:
		s.err = fmt.Errorf("%w: its end cannot be read", errCut)
	case last.Error != nil:
		s.err = last.Error.unpack()
	case trace.IsLimit(err): // our own, and no fault of the other side
		s.err = err
	case !errors.Is(err, io.EOF) || trailer == "":
		s.err = fmt.Errorf("%w: %v", errCut, err)
	}
	s.warnings = last.notes.unpack()
	s.answer.close()
}

// read reads one series; nil at the end and after an error.
func (s *stream) read() storage.Series {
	if s.next == nil || s.err != nil {
		return nil
	}
	first := s.next
	b := labels.NewScratchBuilder(len(first.Labels))
	for _, l := range first.Labels {
		b.Add(l.Name, l.Value)
	}
	ls := b.Labels()
	if !s.last.IsEmpty() && labels.Compare(ls, s.last) <= 0 {
		s.finish(fmt.Errorf("series %s comes after %s", ls, s.last))
		return nil
	}
	s.last = ls
	if err := s.span.Add(trace.Series, 1); err != nil {
		s.finish(err)
		return nil
	}
	var parts []storage.Series
	for s.next != nil && slices.EqualFunc(s.next.Labels, first.Labels, sameLabel) {
		part := &series{labels: ls, mint: s.mint, maxt: s.maxt, chunks: s.next.Chunks}
		index := s.next.index
		for s.next = s.frame(); s.next != nil && s.next.index == index && slices.EqualFunc(s.next.Labels, first.Labels, sameLabel); s.next = s.frame() {
			part.chunks = append(part.chunks, s.next.Chunks...)
		}
		if s.blocks == 0 {
			parts = append(parts, part)
		} else {
			parts = append(parts, merge.Ranked(part, index))
		}
	}
	if s.err != nil { // whether the series is complete nobody knows
		return nil
	}
	return merge.Group(parts...)
}

func (s *stream) Next() bool {
	if len(s.ahead) > 0 {
		s.cur, s.ahead[0], s.ahead = s.ahead[0], nil, s.ahead[1:]
		return true
	}
	s.cur = s.read()
	return s.cur != nil
}

func sameLabel(a, b prompb.Label) bool { return a.Name == b.Name && a.Value == b.Value }

func (s *stream) At() storage.Series                { return s.cur }
func (s *stream) Err() error                        { return s.err }
func (s *stream) Warnings() annotations.Annotations { return s.warnings }

// series is one series as chunks in time order.
type series struct {
	labels     labels.Labels
	chunks     []prompb.Chunk
	mint, maxt int64
}

func (s *series) Labels() labels.Labels { return s.labels }

func (s *series) Iterator(it chunkenc.Iterator) chunkenc.Iterator {
	c, ok := it.(*chunkIterator)
	if !ok {
		c = &chunkIterator{}
	}
	*c = chunkIterator{series: s, at: -1, reuse: c.reuse}
	return c
}

// AppendChunks implements merge.Undecoded.
func (s *series) AppendChunks(out []merge.Chunk) (_ []merge.Chunk, ok bool) {
	last := int64(math.MinInt64)
	for i := range s.chunks {
		c := &s.chunks[i]
		if i > 0 && c.MinTimeMs <= last {
			return out, false
		}
		last = c.MaxTimeMs
		out = append(out, merge.Chunk{
			MinTime: c.MinTimeMs, MaxTime: c.MaxTimeMs, From: s.mint, To: s.maxt,
			Encoding: chunkenc.Encoding(c.Type & encodingMask), Data: c.Data,
		})
	}
	return out, true
}

// chunkIterator walks the samples of a series inside of its time range.
type chunkIterator struct {
	series *series
	at     int // the chunk that cur walks
	cur    chunkenc.Iterator
	reuse  chunkenc.Iterator
	taken  int // samples of the chunk
	typ    chunkenc.ValueType
	err    error
}

// open goes to chunk i; false when there is none or it cannot be read.
func (c *chunkIterator) open(i int) bool {
	c.at, c.cur = i, nil
	if c.err != nil || i >= len(c.series.chunks) {
		return false
	}
	p := &c.series.chunks[i]
	if len(p.Data) < 2 {
		c.err = fmt.Errorf("chunk of %d bytes", len(p.Data))
		return false
	}
	chunk, err := chunkenc.FromData(chunkenc.Encoding(p.Type&encodingMask), p.Data)
	if err != nil {
		c.err = err
		return false
	}
	c.cur = chunk.Iterator(c.reuse)
	c.reuse = c.cur
	c.taken = 0
	return true
}

func (c *chunkIterator) Next() chunkenc.ValueType {
	c.typ = c.step()
	return c.typ
}

func (c *chunkIterator) step() chunkenc.ValueType {
	if c.at < 0 && !c.open(0) {
		return chunkenc.ValNone
	}
	for c.cur != nil {
		typ := c.cur.Next()
		if typ == chunkenc.ValNone {
			if c.err = c.cur.Err(); c.err != nil || !c.open(c.at+1) {
				c.cur = nil
				return chunkenc.ValNone
			}
			continue
		}
		c.taken++
		switch t := c.cur.AtT(); {
		case t > c.series.maxt:
			c.cur = nil
			return chunkenc.ValNone
		case t >= c.series.mint:
			return typ
		}
	}
	return chunkenc.ValNone
}

func (c *chunkIterator) Seek(t int64) chunkenc.ValueType {
	if c.typ != chunkenc.ValNone && c.cur != nil && c.cur.AtT() >= t {
		return c.typ
	}
	if c.at >= 0 && c.cur == nil {
		return chunkenc.ValNone
	}
	i := max(c.at, 0)
	for i < len(c.series.chunks) && c.series.chunks[i].MaxTimeMs < t {
		i++
	}
	if i != c.at && !c.open(i) {
		c.typ = chunkenc.ValNone
		return chunkenc.ValNone
	}
	for typ := c.Next(); typ != chunkenc.ValNone; typ = c.Next() {
		if c.cur.AtT() >= t {
			return typ
		}
	}
	return chunkenc.ValNone
}

func (c *chunkIterator) At() (int64, float64) { return c.cur.At() }

func (c *chunkIterator) AtHistogram(h *histogram.Histogram) (int64, *histogram.Histogram) {
	t, h := c.cur.AtHistogram(h)
	if hint := c.hint(); hint != histogram.UnknownCounterReset {
		h.CounterResetHint = hint
	}
	return t, h
}

func (c *chunkIterator) AtFloatHistogram(fh *histogram.FloatHistogram) (int64, *histogram.FloatHistogram) {
	t, fh := c.cur.AtFloatHistogram(fh)
	if hint := c.hint(); hint != histogram.UnknownCounterReset {
		fh.CounterResetHint = hint
	}
	return t, fh
}

// hint is what the wire says in the place of the first histogram of a chunk, unknown if nothing.
func (c *chunkIterator) hint() histogram.CounterResetHint {
	if c.taken != 1 {
		return histogram.UnknownCounterReset
	}
	return histogram.CounterResetHint(c.series.chunks[c.at].Type >> hintShift & 3)
}

func (c *chunkIterator) AtT() int64  { return c.cur.AtT() }
func (c *chunkIterator) AtST() int64 { return c.cur.AtST() }
func (c *chunkIterator) Err() error  { return c.err }
