package log

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"
)

// housekeepingEvery is how often Run looks for what can go.
const housekeepingEvery = 30 * time.Second

// Run implements Log: retention and compaction, every 30 s. What fails is logged and tried again.
func (e *Embedded) Run(ctx context.Context) error {
	if e.cfg.ReadOnly {
		return errReadOnly
	}
	ticker := time.NewTicker(housekeepingEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-e.done:
			return nil
		case <-ticker.C:
			if err := e.Maintain(); err != nil && !errors.Is(err, ErrClosed) {
				e.logger.Warn("housekeeping of the log", "err", err)
			}
		}
	}
}

// Maintain does one round of housekeeping: what Run does from time to time.
func (e *Embedded) Maintain() error {
	if e.cfg.ReadOnly {
		return errReadOnly
	}
	e.life.RLock()
	defer e.life.RUnlock()
	if e.closed {
		return ErrClosed
	}
	e.housekeeping.Lock()
	defer e.housekeeping.Unlock()
	return errors.Join(
		e.retain(e.topics[TopicSamples]), e.retain(e.topics[TopicDeadLetter]),
		e.topics[TopicBlocks].parts[0].compact(), e.topics[TopicControl].parts[0].compact(),
	)
}

// retain removes the segments of a topic that are too old, then the oldest until the topic is small enough. Of samples
// it takes none that a group needs: those from LookBack before its committed offset on, and all if nobody has committed.
// Times and offsets are compared by the first records of segments, so up to two segments more are kept than need be.
func (e *Embedded) retain(t *topic) error {
	oldest := e.cfg.Now().Add(-e.cfg.Retention).UnixMilli()
	var errs []error
	var total int64
	free := make([]func(*segment, *segment) bool, len(t.parts))
	for i, p := range t.parts {
		off, ms := int64(math.MaxInt64), int64(math.MaxInt64)
		if t.name == TopicSamples {
			off, ms = e.needed(p)
		}
		free[i] = func(_, next *segment) bool { return next.first <= off && next.time < ms }
		n := p.droppable(func(s, next *segment) bool { return free[i](s, next) && next.time < oldest })
		_, err := p.drop(n)
		errs = append(errs, err)
		total += p.size()
	}
	for e.cfg.MaxBytes > 0 && total > e.cfg.MaxBytes {
		var from *partition
		age := int64(math.MaxInt64)
		for i, p := range t.parts {
			if p.droppable(free[i]) > 0 && p.oldest() < age {
				from, age = p, p.oldest()
			}
		}
		if from == nil {
			e.logger.Warn("the log is larger than it should be, but all of it is still needed", "topic", t.name, "bytes", total, "max", e.cfg.MaxBytes)
			break
		}
		n, err := from.drop(1)
		total -= n
		if err != nil {
			errs = append(errs, err)
			break
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("retention of %s: %w", t.name, err)
	}
	return nil
}

// needed returns the smallest committed offset of a partition, and the log time before which no group needs anything.
func (e *Embedded) needed(p *partition) (off, ms int64) {
	off = -1
	e.commitMu.Lock()
	for _, topics := range e.commits {
		if c, ok := topics[p.topic][p.id]; ok && (off < 0 || c < off) {
			off = c
		}
	}
	e.commitMu.Unlock()
	if off < 0 {
		return -1, math.MinInt64
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	ms = p.lastTime
	if off < p.end && len(p.segs) > 0 {
		seg, _ := p.find(off)
		ms = seg.time // of a record before that one: not too late
	}
	return off, ms - e.cfg.LookBack.Milliseconds()
}

// droppable returns how many segments from the oldest on may be dropped as ok(segment, next one) says. The last one with
// records is never among them: the next offset is known from it.
func (p *partition) droppable(ok func(seg, next *segment) bool) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := len(p.segs) - 1
	for last > 0 && p.segs[last].size == 0 {
		last--
	}
	n := 0
	for n < last && ok(p.segs[n], p.segs[n+1]) {
		n++
	}
	return n
}

// size returns the bytes of the partition on disk.
func (p *partition) size() (n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.segs {
		n += s.size
	}
	return n
}

// oldest returns the log time of the first record.
func (p *partition) oldest() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.segs[0].time
}
