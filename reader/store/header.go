package store

import (
	"context"
	"fmt"
	"math"

	layout "sluice/internal/block"
	"sluice/reader/store/disk"
)

// header returns the header of an index: the one that was written with the block, else one that is made of the index by
// reading its tables once. A header that is broken or of another index costs time, and nothing else.
func (s *Store) header(ctx context.Context, index, file *file, sum [32]byte) (h *layout.Header, err error) {
	defer recovered(index, &err)
	from := "built"
	if file != nil {
		h, err := s.readHeader(ctx, index, file, sum)
		if err == nil {
			s.metrics.headers.WithLabelValues("bucket").Inc()
			return h, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		s.logger.Warn("the header of a block's index cannot be used and is made again of the index", "tenant", index.tenant, "block", index.block, "err", err)
		from = "broken"
	}
	kept := disk.Key{File: index.id, Page: math.MaxUint32} // where a header that took long to make is kept
	if b := s.pages.disk.Get(kept); b != nil && index.size > wholeBytes {
		if h, err := layout.DecodeHeader(b); err == nil && h.IndexSize == index.size {
			s.metrics.headers.WithLabelValues("disk").Inc()
			return h, nil
		}
		s.pages.disk.Drop(kept)
	}
	if index.size <= wholeBytes && index.size > 0 { // all of it at once
		whole := []span{{0, index.size}}
		if err := s.pages.read(ctx, index, forHeader, whole, func(int, []byte) error { return nil }); err != nil {
			return nil, err
		}
	}
	if h, err = layout.BuildHeader(ctx, s.pages.source(index), index.size, false); err != nil {
		if !isContextError(err) {
			s.pages.dropAll(index)
		}
		return nil, err
	}
	s.metrics.headers.WithLabelValues(from).Inc()
	if index.size > wholeBytes {
		s.pages.disk.Put(kept, h.Append(nil))
	}
	return h, nil
}

func (s *Store) readHeader(ctx context.Context, index, file *file, sum [32]byte) (h *layout.Header, err error) {
	defer recovered(file, &err)
	if file.size <= 0 || file.size > layout.MaxHeader {
		return nil, fmt.Errorf("%w: it has %d bytes", layout.ErrHeader, file.size)
	}
	err = s.pages.read(ctx, file, forHeader, []span{{0, file.size}}, func(_ int, b []byte) (err error) {
		h, err = layout.DecodeHeader(b)
		return err
	})
	switch none := [32]byte{}; {
	case err != nil:
	case h.IndexSize != index.size || h.IndexSum != sum && h.IndexSum != none && sum != none:
		err = fmt.Errorf("%w: it is that of another index, of %d bytes", layout.ErrHeader, h.IndexSize)
	}
	if err != nil {
		s.pages.dropAll(file)
	}
	return h, err
}
