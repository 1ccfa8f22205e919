package fetch

import (
	"fmt"
	"iter"

	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"

	"sluice/internal/merge"
)

// encoder writes series as frames. Prometheus' own one cannot give each part of a series its own query_index, and leaves
// out a series without chunks, which is what a caller who asked for labels alone (the hint "series") gets.
type encoder struct {
	out    *lifeline
	answer prompb.ChunkedReadResponse
	series prompb.ChunkedSeries
	packed []prompb.Chunk // memory for the chunks of a series
	buf    []byte
}

// chunked is a series that has its samples as chunks, which may reach beyond the range that was asked for: the client
// leaves out what does.
type chunked interface {
	Chunks(chunks.Iterator) chunks.Iterator
}

// streamSeries writes the series of set; those of blocks with the place of each part. Partitions are merged already, and
// what ranks their series may still have are the source's own affair.
func streamSeries(out *lifeline, set storage.SeriesSet, labelsOnly, blocks bool) (annotations.Annotations, error) {
	e := &encoder{out: out}
	e.answer.ChunkedSeries = []*prompb.ChunkedSeries{&e.series}
	for set.Next() {
		parts := merge.Parts(set.At())
		if !blocks {
			parts = only(set.At())
		}
		for index, part := range parts {
			e.answer.QueryIndex = int64(index)
			e.series.Labels = prompb.FromLabels(part.Labels(), e.series.Labels)
			if err := e.write(part, labelsOnly); err != nil {
				return nil, err
			}
		}
	}
	return set.Warnings(), set.Err()
}

// only is a series that is not taken apart.
func only(s storage.Series) iter.Seq2[int, storage.Series] {
	return func(yield func(int, storage.Series) bool) { yield(0, s) }
}

// write writes one part of a series, in as many frames as it needs.
func (e *encoder) write(part storage.Series, labelsOnly bool) error {
	e.series.Chunks = nil
	if labelsOnly {
		return e.flush()
	}
	packed, err := packSeries(e.packed[:0], part)
	if err != nil {
		return fmt.Errorf("read a series: %w", err)
	}
	e.packed = packed
	for len(packed) > 0 {
		n := 1
		for left := maxFrameBytes - len(packed[0].Data); n < len(packed) && left > 0; n++ {
			left -= len(packed[n].Data)
		}
		e.series.Chunks = packed[:n]
		if err := e.flush(); err != nil {
			return err
		}
		packed = packed[n:]
	}
	clear(e.packed) // it would hold on to the chunks of the longest series
	return nil
}

func (e *encoder) flush() error {
	n := e.answer.Size()
	if cap(e.buf) < n {
		e.buf = make([]byte, n)
	}
	n, err := e.answer.MarshalToSizedBuffer(e.buf[:n])
	if err != nil {
		return fmt.Errorf("encode series: %w", err)
	}
	if err := e.out.Frame(e.buf[:n]); err != nil {
		return fmt.Errorf("write series: %w", err)
	}
	return nil
}
