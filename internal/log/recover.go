package log

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// open finds what the partition holds: of the last segment with records by reading it through, of every other one by its
// first record. What stands behind the last whole record of the last segment and was never acknowledged is cut off.
// Damage anywhere else is left as it is for a reader to step over, because what follows it was acknowledged.
func (p *partition) open(readOnly bool) error {
	segs, err := listSegments(p.dir)
	if err != nil {
		return err
	}
	p.segs = segs
	i := len(segs) - 1
	for ; i >= 0; i-- {
		found, err := p.openLast(segs[i], i, readOnly)
		if err != nil {
			return fmt.Errorf("recover %s: %w", segs[i].path, err)
		}
		if found {
			break
		}
	}
	for k := i + 1; k < len(segs); k++ {
		segs[k].first, segs[k].time = p.end, p.lastTime
	}
	for i--; i >= 0; i-- {
		if err := p.openFirst(segs[i], segs[i+1]); err != nil {
			return fmt.Errorf("read %s: %w", segs[i].path, err)
		}
	}
	if len(segs) > 0 && !p.compacted {
		p.start = segs[0].first
	}
	for _, s := range segs {
		p.bytes.Add(float64(s.size))
	}
	if p.startGauge != nil {
		p.startGauge.Set(float64(p.start))
		p.endGauge.Set(float64(p.end))
	}
	return nil
}

// openLast reads through segment i, the last that may hold a record, and reports whether it does.
func (p *partition) openLast(seg *segment, i int, readOnly bool) (bool, error) {
	flags := os.O_RDWR
	if readOnly {
		flags = os.O_RDONLY
	}
	f, err := os.OpenFile(seg.path, flags, 0)
	if err != nil {
		if readOnly && errors.Is(err, os.ErrNotExist) {
			seg.size = 0
			return false, nil
		}
		return false, err
	}
	defer f.Close()

	tail, err := p.scanTail(f, seg, i)
	if err != nil {
		return false, err
	}
	if tail.end < seg.size {
		p.logger.Warn("torn end of the log", "topic", p.topic, "partition", p.id, "segment", seg.path,
			"bytes", seg.size-tail.end, "why", tail.why, "cut", !readOnly)
		if tail.why != "" { // zeros that a file system has left are no damage
			p.metrics.corruptions.Inc()
		}
		if !readOnly {
			if err := f.Truncate(tail.end); err != nil {
				return false, fmt.Errorf("cut the torn end: %w", err)
			}
		}
		seg.size = tail.end
	}
	if !readOnly {
		// What a killed process wrote but did not sync is about to be shown to readers: it must not vanish any more.
		if err := f.Sync(); err != nil {
			return false, err
		}
	}
	if tail.last < 0 {
		return false, nil
	}
	seg.first, seg.time = tail.first, tail.firstTime
	p.end, p.lastTime = tail.last+1, tail.lastTime
	return true, nil
}

// tailScan is what is known of a segment that was read through.
type tailScan struct {
	first, firstTime int64
	last, lastTime   int64 // last < 0: no records
	end              int64 // of the last record, in bytes
	why              string
}

// scanTail reads through the last segment. A record that follows damage is kept if it is of a later group than the first
// one missing (frame.go); if it is of the same group, it and all that follows was never acknowledged.
func (p *partition) scanTail(f io.ReaderAt, seg *segment, i int) (tailScan, error) {
	t := tailScan{last: -1}
	var s scanner
	s.reset(f, 0, seg.size)
	var buf []byte
	var rec Record
	var headers []Header
	var bad *corruption // damage since the last record
	for {
		frame, err := s.next(buf[:0])
		buf = frame
		var group int64
		if err == nil {
			group, headers, err = decodeFrame(frame, &rec, headers[:0])
			if err == nil && t.last >= 0 && rec.Offset <= t.last {
				err = fmt.Errorf("offset %d after %d", rec.Offset, t.last)
			}
			if err != nil {
				err = &corruption{pos: s.start, why: err.Error()}
			}
		}
		var c *corruption
		switch {
		case errors.Is(err, io.EOF):
			if bad != nil {
				t.why = bad.why
			}
			return t, nil
		case errors.As(err, &c):
			if bad == nil {
				bad = c
			}
			continue
		case err != nil:
			return t, err
		}
		if bad != nil {
			missing := t.last + 1
			if t.last < 0 {
				if missing, err = p.endBefore(i); err != nil {
					return t, err
				}
			}
			if group <= missing && rec.Offset > missing {
				t.why = bad.why
				return t, nil
			}
			p.metrics.corruptions.Inc()
			p.logger.Error("damage in the log, going on behind it", "topic", p.topic, "partition", p.id, "segment", seg.path,
				"position", bad.pos, "why", bad.why, "from", missing, "to", rec.Offset)
			bad = nil
		}
		if t.last < 0 {
			t.first, t.firstTime = rec.Offset, rec.Time
		}
		t.last, t.lastTime, t.end = rec.Offset, rec.Time, s.pos
	}
}

// endBefore returns the offset after the last record in the segments before i.
func (p *partition) endBefore(i int) (int64, error) {
	for i--; i >= 0; i-- {
		f, err := os.Open(p.segs[i].path)
		if err != nil {
			return 0, err
		}
		last := int64(-1)
		err = scanRecords(f, p.segs[i].size, nil, func(r *Record) bool { last = r.Offset; return true })
		if err := errors.Join(err, f.Close()); err != nil {
			return 0, err
		}
		if last >= 0 {
			return last + 1, nil
		}
	}
	return 0, nil
}

// openFirst finds the first record of a segment. One without a readable record holds nothing: it begins where the next
// one does.
func (p *partition) openFirst(seg, next *segment) error {
	seg.first, seg.time = next.first, next.time
	f, err := os.Open(seg.path)
	if errors.Is(err, os.ErrNotExist) {
		seg.size = 0
		return nil // trimmed by the process that owns the log, while this one only reads
	}
	if err != nil {
		return err
	}
	defer f.Close()
	bad := func(c *corruption) {
		p.metrics.corruptions.Inc()
		p.logger.Error("damage at the start of a segment", "topic", p.topic, "partition", p.id, "segment", seg.path, "position", c.pos, "why", c.why)
	}
	return scanRecords(f, seg.size, bad, func(r *Record) bool {
		// A crash during compaction leaves a segment whose first record is behind the next one's: none of it counts then.
		if r.Offset < next.first {
			seg.first, seg.time = r.Offset, min(r.Time, next.time)
		}
		return false
	})
}

// scanRecords calls fn with each record in the first size bytes of a segment, until it returns false, and bad, if it is
// not nil, with each damaged place.
func scanRecords(f io.ReaderAt, size int64, bad func(*corruption), fn func(*Record) bool) error {
	var s scanner
	s.reset(f, 0, size)
	var buf []byte
	var rec Record
	var headers []Header
	for {
		frame, err := s.next(buf[:0])
		buf = frame
		if err == nil {
			if _, headers, err = decodeFrame(frame, &rec, headers[:0]); err != nil {
				err = &corruption{pos: s.start, why: err.Error()}
			}
		}
		var c *corruption
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.As(err, &c):
			if bad != nil {
				bad(c)
			}
		case err != nil:
			return err
		default:
			if !fn(&rec) {
				return nil
			}
		}
	}
}
