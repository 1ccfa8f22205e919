package log

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sort"
)

const (
	readBytes   = 1 << 20 // what one Next returns, more or less
	readRecords = 4096
)

// embeddedReader reads a partition: from the tail in memory if that reaches back to its position, else from the segment
// that holds it. It remembers where in the segment it stands whichever it was, so it never looks for its place twice.
type embeddedReader struct {
	p    *partition
	done <-chan struct{} // closed with the log
	off  int64           // next record to return

	seg *segment // where off is, if it is known; pos is where in it
	pos int64

	file    *os.File // open segment
	fileSeg *segment
	scan    scanner
	buf     []byte // frames of the present batch
	recs    []Record
	headers []Header
}

// Position implements Reader.
func (r *embeddedReader) Position() int64 { return r.off }

// Close implements Reader.
func (r *embeddedReader) Close() error {
	f := r.file
	r.file, r.fileSeg, r.seg = nil, nil, nil
	if f == nil {
		return nil
	}
	return f.Close()
}

// Next implements Reader.
func (r *embeddedReader) Next(ctx context.Context) ([]Record, error) {
	p := r.p
	for {
		select {
		case <-r.done:
			return nil, errors.Join(ErrClosed, r.Close())
		default:
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		p.mu.Lock()
		if b := (Bounds{Start: p.start, End: p.end}); r.off < b.Start || r.off > b.End {
			p.mu.Unlock()
			return nil, &OutOfRangeError{Topic: p.topic, Partition: p.id, Offset: r.off, Bounds: b}
		}
		if r.off == p.end {
			wake := p.wake
			p.mu.Unlock()
			select {
			case <-wake:
			case <-r.done:
			case <-ctx.Done():
			}
			continue
		}
		if len(p.tail) > 0 && r.off >= p.tail[0].first {
			r.fromTail()
			p.mu.Unlock()
			return r.recs, nil
		}
		if len(p.segs) == 0 { // all of them were taken away by someone else
			r.off = p.end
			p.mu.Unlock()
			continue
		}
		seg, end := p.find(r.off)
		limit := seg.size
		p.mu.Unlock()

		err := r.fromDisk(seg, end, limit)
		if errors.Is(err, os.ErrNotExist) {
			p.vanished(seg)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", seg.path, err)
		}
		if len(r.recs) > 0 {
			return r.recs, nil
		}
	}
}

// fromTail takes records out of memory: they are shared, never written to. The caller holds the partition's mu.
func (r *embeddedReader) fromTail() {
	tail := r.p.tail
	i := sort.Search(len(tail), func(i int) bool { return tail[i].first > r.off }) - 1
	r.recs = r.recs[:0]
	for size := int64(0); i < len(tail) && (len(r.recs) == 0 || size+tail[i].size <= readBytes); i++ {
		g := &tail[i]
		r.recs = append(r.recs, g.recs[r.off-g.first:]...)
		r.off = g.first + int64(len(g.recs))
		r.seg, r.pos = g.seg, g.end
		size += g.size
	}
}

// fromDisk reads records of [off, end) from a segment, of which limit bytes may be read. If there are none, all that is
// left of the segment is damaged or superseded, and the reader moves on to end.
func (r *embeddedReader) fromDisk(seg *segment, end, limit int64) error {
	if err := r.openSegment(seg, limit); err != nil {
		return err
	}
	r.buf, r.recs, r.headers = r.buf[:0], r.recs[:0], r.headers[:0]
	next := r.off
	var rec Record
	for len(r.buf) < readBytes && len(r.recs) < readRecords {
		at := len(r.buf)
		buf, err := r.scan.next(r.buf)
		r.buf = buf
		if err == nil {
			rec = Record{Partition: r.p.id}
			if _, r.headers, err = decodeFrame(buf[at:], &rec, r.headers); err != nil {
				err = &corruption{pos: r.scan.start, why: err.Error()}
			}
		}
		var c *corruption
		switch {
		case errors.As(err, &c):
			r.p.metrics.corruptions.Inc()
			r.p.logger.Error("damage in the log, going on behind it", "topic", r.p.topic, "partition", r.p.id,
				"segment", seg.path, "position", c.pos, "why", c.why, "after", next)
			r.buf = r.buf[:at]
			continue
		case err != nil && !errors.Is(err, io.EOF):
			return err
		case err != nil || rec.Offset >= end:
			if len(r.recs) == 0 {
				next = end
			} else if err == nil {
				r.scan.pos = r.scan.start
			}
			r.off, r.seg, r.pos = next, seg, r.scan.pos
			return nil
		}
		if rec.Offset < next {
			r.buf = r.buf[:at]
			continue
		}
		r.recs = append(r.recs, rec)
		next = rec.Offset + 1
	}
	r.off, r.seg, r.pos = next, seg, r.scan.pos
	return nil
}

// openSegment puts the scanner at the reader's place in the segment, or at its start if that is not known.
func (r *embeddedReader) openSegment(seg *segment, limit int64) error {
	pos := int64(0)
	if r.seg == seg {
		pos = r.pos
	}
	if r.file != nil && r.fileSeg == seg {
		r.scan.limit = limit
		if r.scan.pos != pos {
			r.scan.pos, r.scan.lost = pos, false
		}
		return nil
	}
	if r.file != nil {
		if err := r.file.Close(); err != nil {
			return err
		}
		r.file = nil
	}
	f, err := os.Open(seg.path)
	if err != nil {
		return err
	}
	r.file, r.fileSeg = f, seg
	r.scan.reset(f, pos, limit)
	return nil
}

// vanished takes a segment whose file is gone off the list. Housekeeping does that before it removes a file, so this is
// for a log that another process owns, or a file that somebody has deleted.
func (p *partition) vanished(seg *segment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.Index(p.segs, seg)
	if i < 0 {
		return
	}
	p.segs = slices.Clone(p.segs[i+1:])
	switch {
	case p.compacted:
	case len(p.segs) > 0:
		p.start = p.segs[0].first
	default:
		p.start = p.end
	}
}

// offsetAt returns the offset of the first record with a log time of at least ms, or the end.
func (p *partition) offsetAt(ms int64) (int64, error) {
	for {
		p.mu.Lock()
		if p.end == p.start || p.lastTime < ms || len(p.segs) == 0 {
			defer p.mu.Unlock()
			return p.end, nil
		}
		i := sort.Search(len(p.segs), func(i int) bool { return p.segs[i].time >= ms }) - 1
		if i < 0 {
			defer p.mu.Unlock()
			return p.start, nil
		}
		seg, size, off := p.segs[i], p.segs[i].size, p.end
		if i+1 < len(p.segs) {
			off = p.segs[i+1].first
		}
		p.mu.Unlock()

		f, err := os.Open(seg.path)
		if errors.Is(err, os.ErrNotExist) {
			p.vanished(seg)
			continue
		}
		if err != nil {
			return 0, err
		}
		err = scanRecords(f, size, nil, func(r *Record) bool {
			if r.Time >= ms {
				off = min(off, r.Offset)
				return false
			}
			return true
		})
		return off, errors.Join(err, f.Close())
	}
}
