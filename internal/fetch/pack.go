package fetch

import (
	"fmt"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

// In the type of a chunk on the wire, above its encoding, stands what its first histogram says about counter resets. A chunk
// alone cannot say that: what comes first in one is of unknown descent, whatever its header says. Who knows nothing of it
// takes the lowest byte and reads the chunk as ever.
const (
	encodingMask = 0xff
	hintShift    = 8
)

// maxPacked is how many samples go into a chunk, as Prometheus cuts them.
const maxPacked = 120

// packer encodes samples as chunks that give back every sample as it was: with its start timestamp and what it says about
// counter resets. Prometheus' own encoder forgets what the first histogram of a chunk says, and for the others trusts the
// chunk before them.
type packer struct {
	out   []prompb.Chunk
	chunk chunkenc.Chunk // nil before the first sample
	app   chunkenc.Appender
	kind  chunkenc.ValueType
	n     int // samples in chunk
	first int64
	last  int64
	hint  histogram.CounterResetHint // of the first sample
}

// pack appends the samples of it to out.
func pack(out []prompb.Chunk, it chunkenc.Iterator) ([]prompb.Chunk, error) {
	p := &packer{out: out}
	for kind := it.Next(); kind != chunkenc.ValNone; kind = it.Next() {
		if err := p.add(it, kind); err != nil {
			return nil, fmt.Errorf("encode samples: %w", err)
		}
	}
	p.finish()
	return p.out, it.Err()
}

// add appends the sample that it stands on.
func (p *packer) add(it chunkenc.Iterator, kind chunkenc.ValueType) error {
	st := it.AtST()
	switch kind {
	case chunkenc.ValFloat:
		t, v := it.At()
		if err := p.room(kind, st, false); err != nil {
			return err
		}
		p.app.Append(st, t, v)
		p.added(t)
	case chunkenc.ValHistogram:
		t, h := it.AtHistogram(nil)
		if err := p.room(kind, st, descentEnds(h.CounterResetHint)); err != nil {
			return err
		}
		made, recoded, app, err := p.app.AppendHistogram(nil, st, t, h, false)
		if err != nil {
			return err
		}
		p.use(made, recoded, app)
		p.histogram(t, h.CounterResetHint)
	case chunkenc.ValFloatHistogram:
		t, h := it.AtFloatHistogram(nil)
		if err := p.room(kind, st, descentEnds(h.CounterResetHint)); err != nil {
			return err
		}
		made, recoded, app, err := p.app.AppendFloatHistogram(nil, st, t, h, false)
		if err != nil {
			return err
		}
		p.use(made, recoded, app)
		p.histogram(t, h.CounterResetHint)
	default:
		return fmt.Errorf("unknown kind of sample %s", kind)
	}
	return nil
}

// descentEnds tells whether a histogram can say so only as the first one of its chunk.
func descentEnds(hint histogram.CounterResetHint) bool {
	return hint == histogram.UnknownCounterReset || hint == histogram.CounterReset
}

// room makes p.chunk one that takes the next sample.
func (p *packer) room(kind chunkenc.ValueType, st int64, first bool) error {
	encoding := kind.ChunkEncoding(st != 0, st != 0)
	if p.chunk != nil && p.kind == kind && p.n < maxPacked && (!first || p.n == 0) && holds(p.chunk.Encoding(), encoding) {
		return nil
	}
	p.finish()
	chunk, err := chunkenc.NewEmptyChunk(encoding)
	if err != nil {
		return err
	}
	app, err := chunk.Appender()
	if err != nil {
		return err
	}
	p.chunk, p.app, p.kind = chunk, app, kind
	return nil
}

// holds tells whether a chunk of one encoding takes a sample of the same kind that wants another: one with start timestamps
// takes samples without, so that a sender who does not always know them makes no chunk for each.
func holds(have, want chunkenc.Encoding) bool {
	switch have {
	case chunkenc.EncXOR2, chunkenc.EncHistogramST, chunkenc.EncFloatHistogramST:
		return true
	}
	return have == want
}

// use goes on with what an append to a chunk of histograms has come to: another chunk in its place, or one after it.
func (p *packer) use(made chunkenc.Chunk, recoded bool, app chunkenc.Appender) {
	if made != nil {
		if !recoded {
			p.finish()
		}
		p.chunk = made
	}
	p.app = app
}

func (p *packer) histogram(t int64, hint histogram.CounterResetHint) {
	if p.n == 0 {
		p.hint = hint
	}
	p.added(t)
}

func (p *packer) added(t int64) {
	if p.n == 0 {
		p.first = t
	}
	p.last = t
	p.n++
}

// finish puts the chunk out.
func (p *packer) finish() {
	if p.n == 0 {
		return
	}
	kind := prompb.Chunk_Encoding(p.chunk.Encoding()) | prompb.Chunk_Encoding(p.hint)<<hintShift
	p.out = append(p.out, prompb.Chunk{MinTimeMs: p.first, MaxTimeMs: p.last, Type: kind, Data: p.chunk.Bytes()})
	p.chunk, p.n, p.hint = nil, 0, histogram.UnknownCounterReset
}

// packSeries appends the chunks of a series to out: as they are where the series has them.
func packSeries(out []prompb.Chunk, s storage.Series) ([]prompb.Chunk, error) {
	whole, ok := s.(chunked)
	if !ok {
		return pack(out, s.Iterator(nil))
	}
	it := whole.Chunks(nil)
	for it.Next() {
		c := it.At()
		out = append(out, prompb.Chunk{MinTimeMs: c.MinTime, MaxTimeMs: c.MaxTime, Type: prompb.Chunk_Encoding(c.Chunk.Encoding()), Data: c.Chunk.Bytes()})
	}
	return out, it.Err()
}
