package store

import (
	"fmt"
	"slices"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
)

// chunk is a closed one. Those of a series are a list, newest first.
type chunk struct {
	mint, maxt int64
	at         place
	size       uint32
	prev       uint32 // 1 + index of the one before it
	encoding   chunkenc.Encoding
}

// open is a chunk under way that is none of plain floats: chunkenc's own.
type open struct {
	chunk chunkenc.Chunk
	app   chunkenc.Appender
	mint  int64
}

// Bounds of a chunk of histograms: it is cut from this size on, if it has a few samples, and at the latest at this number.
const (
	histogramBytes      = chunkenc.TargetBytesPerHistogramChunk
	minHistogramSamples = chunkenc.MinSamplesPerHistogramChunk
	maxHistogramSamples = 1000
)

func (k kind) encoding() chunkenc.Encoding {
	switch k {
	case kindFloatST:
		return chunkenc.EncXOR2
	case kindHistogram:
		return chunkenc.EncHistogram
	case kindHistogramST:
		return chunkenc.EncHistogramST
	case kindFloatHistogram:
		return chunkenc.EncFloatHistogram
	case kindFloatHistogramST:
		return chunkenc.EncFloatHistogramST
	}
	return chunkenc.EncXOR
}

// opened returns the series' open chunk of this kind with room for a sample at t, a new one if need be. prev is the
// appender of the chunk that came to its end for it.
func (h *Head) opened(s *series, k kind, t int64) (o *open, prev chunkenc.Appender, err error) {
	if s.open == 0 {
		h.open = append(h.open, open{})
		s.open = uint32(len(h.open))
	}
	o = &h.open[s.open-1]
	if s.count > 0 && s.kind == k && t < s.end && !full(k, o.chunk) {
		return o, nil, nil
	}
	if s.count > 0 && s.kind == k {
		prev = o.app
	}
	h.close(s)
	c, err := chunkenc.NewEmptyChunk(k.encoding())
	if err != nil {
		return nil, nil, fmt.Errorf("begin chunk: %w", err)
	}
	app, err := c.Appender()
	if err != nil {
		return nil, nil, fmt.Errorf("begin chunk: %w", err)
	}
	*o = open{chunk: c, app: app, mint: t}
	s.begin(t, h.window)
	s.kind = k
	return o, prev, nil
}

func full(k kind, c chunkenc.Chunk) bool {
	n := c.NumSamples()
	if k == kindFloatST {
		return n >= maxSamples || len(c.Bytes()) > chunkenc.MaxBytesPerXORChunkBeforeAppend
	}
	return n >= maxHistogramSamples || n >= minHistogramSamples && len(c.Bytes()) >= histogramBytes
}

func (h *Head) histogram(s *series, st, t int64, hist *histogram.Histogram, fhist *histogram.FloatHistogram) error {
	k := kindHistogram
	if fhist != nil {
		k = kindFloatHistogram
	}
	if st != 0 {
		k++
	}
	o, prev, err := h.opened(s, k, t)
	if err != nil {
		return err
	}
	var (
		other   chunkenc.Chunk
		recoded bool
		app     chunkenc.Appender
	)
	if hist != nil {
		other, recoded, app, err = o.app.AppendHistogram(prev, st, t, hist, false)
	} else {
		other, recoded, app, err = o.app.AppendFloatHistogram(prev, st, t, fhist, false)
	}
	if err != nil {
		return fmt.Errorf("append histogram: %w", err)
	}
	o.app = app
	switch {
	case other == nil:
	case recoded:
		o.chunk = other
	default: // it began a new one, with this sample
		h.close(s)
		o.chunk, o.mint = other, t
		s.begin(t, h.window)
	}
	s.newest = t
	s.count++
	h.note(t)
	return nil
}

// appendChunks appends the chunks of a series that overlap [mint, maxt], oldest first. Of the open one it is a copy, as the
// appender goes on writing into it. Held: h.mu.
func (h *Head) appendChunks(s *series, mint, maxt int64, out []chunks.Meta) ([]chunks.Meta, error) {
	first := len(out)
	if s.count > 0 && s.newest >= mint {
		raw, encoding, from := h.openChunk(s)
		raw = slices.Clone(raw)
		raw[0], raw[1] = byte(s.count>>8), byte(s.count)
		if from <= maxt {
			c, err := chunkenc.FromData(encoding, raw)
			if err != nil {
				return out, fmt.Errorf("read open chunk: %w", err)
			}
			out = append(out, chunks.Meta{Chunk: c, MinTime: from, MaxTime: s.newest})
		}
	}
	for i := s.closed; i > 0; {
		k := &h.chunks[i-1]
		if k.maxt < mint {
			break
		}
		if k.mint <= maxt {
			c, err := chunkenc.FromData(k.encoding, h.arena.bytes(k.at, int(k.size)))
			if err != nil {
				return out, fmt.Errorf("read chunk: %w", err)
			}
			out = append(out, chunks.Meta{Chunk: c, MinTime: k.mint, MaxTime: k.maxt})
		}
		i = k.prev
	}
	slices.Reverse(out[first:])
	return out, nil
}
