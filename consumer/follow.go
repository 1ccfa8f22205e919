package consumer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"sluice/internal/log"
	"sluice/schema"
)

// follow reads the partition and applies record after record, for ever.
func (p *partition) follow(ctx context.Context) (err error) {
	reader, err := p.log.Reader(log.TopicSamples, p.id, p.next)
	if err != nil {
		return fmt.Errorf("open partition %d: %w", p.id, err)
	}
	defer func() { err = errors.Join(err, reader.Close()) }()
	told := time.Now()
	for {
		recs, err := reader.Next(ctx)
		var out *log.OutOfRangeError
		switch {
		case errors.As(err, &out) && out.Bounds.Start > p.next:
			p.skip(out.Bounds.Start)
			if err := reader.Close(); err != nil {
				return fmt.Errorf("close reader: %w", err)
			}
			if reader, err = p.log.Reader(log.TopicSamples, p.id, p.next); err != nil {
				return fmt.Errorf("open partition %d: %w", p.id, err)
			}
			continue
		case err != nil:
			return fmt.Errorf("read partition %d: %w", p.id, err)
		}
		for i := range recs {
			if err := p.take(ctx, &recs[i]); err != nil {
				return err
			}
		}
		if time.Since(told) > 10*time.Second {
			if err := p.ready(); err != nil {
				p.logger.Info("replaying", "progress", err)
			}
			told = time.Now()
		}
	}
}

// skip goes on at the offset to, because the log has nothing of what is before.
func (p *partition) skip(to int64) {
	g := p.live()
	p.lost(g, schema.Gap{
		LogRange: schema.LogRange{TopicID: p.topicID, Partition: p.id, From: p.next, To: to},
		FromTime: g.logTime, Reason: schema.GapRetention,
	})
	p.next = to
}

// wentBack tells of a record whose offset was applied before: what was applied stays applied, so nothing is doubled, but a
// log that does this is not the log that we know.
func (p *partition) wentBack(offset int64) {
	p.metrics.offsetsBack.Inc()
	note := fmt.Sprintf("partition %d: the log has given offsets again that were read before", p.id)
	p.mu.Lock()
	known := slices.Contains(p.notes, note)
	if !known {
		p.notes = append(p.notes, note)
	}
	p.mu.Unlock()
	if !known {
		p.logger.Error("the log went back", "offset", offset, "expected", p.next)
	}
}

// live is the generation that grows; only for the follow goroutine.
func (p *partition) live() *generation {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.gens[len(p.gens)-1]
}

// take applies one record, and cuts the generation before or after it when the log's content says so. Nothing else may
// have a say: no clock, no flag, no size of a batch.
func (p *partition) take(ctx context.Context, rec *log.Record) error {
	if rec.Offset < p.next {
		p.wentBack(rec.Offset)
		return nil
	}
	if rec.Offset > p.next {
		p.skip(rec.Offset)
	}
	g := p.live()
	if g.closeGaps(rec.Time) {
		p.tellGaps(ctx, g)
	}
	if g.started && max(g.logTime, rec.Time) >= g.boundary {
		if err := p.cut(ctx, g, rec.Offset, "time"); err != nil {
			return err
		}
		g = p.live()
	}
	if !g.started {
		g.start(rec.Time, p.id)
	}
	g.logTime = max(g.logTime, rec.Time)
	p.usage.Tick(rec.Time)
	kind, _ := rec.Header(schema.HeaderKind)
	if err := p.apply(ctx, g, rec, string(kind)); err != nil {
		return err
	}
	p.next = rec.Offset + 1
	p.advance(g, p.next, rec.Time)
	switch {
	case string(kind) == schema.KindSeal:
		return p.cut(ctx, g, p.next, "seal")
	case g.bytes >= g.settings.MaxBytes:
		return p.cut(ctx, g, p.next, "bytes")
	case g.series >= g.settings.MaxSeries:
		return p.cut(ctx, g, p.next, "series")
	}
	return nil
}

// cut ends the generation at the offset to, opens the next, and hands the old one over to be sealed.
func (p *partition) cut(ctx context.Context, g *generation, to int64, reason string) error {
	g.to = to
	p.usage.Cut()
	p.metrics.cuts.WithLabelValues(reason).Inc()
	g.stage.Store(stageWaiting)
	next := p.newGeneration(to)
	p.mu.Lock()
	p.gens = append(p.gens, next)
	p.growing = figuresOf(next)
	p.ended = reason
	p.mu.Unlock()
	return p.hand(ctx, g)
}

// freeze gives a generation to the seal loop.
func (p *partition) freeze(ctx context.Context, g *generation) error {
	select {
	case p.frozen <- g:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// advance publishes how far the partition has been applied, and what that came to in the live generation.
func (p *partition) advance(g *generation, applied, logTime int64) {
	p.mu.Lock()
	p.applied, p.appliedTime = applied, logTime
	p.growing = figuresOf(g)
	if !p.caughtUp {
		p.metrics.replayed.Set(float64(applied-p.replay.Start) / float64(max(p.replay.End-p.replay.Start, 1)))
		if applied >= p.replay.End {
			p.caughtUp = true
			p.logger.Info("partition caught up", "records", p.replay.End-p.replay.Start, "took", time.Since(p.replay.began))
		}
	}
	close(p.advanced)
	p.advanced = make(chan struct{})
	p.mu.Unlock()
	p.metrics.appliedOffset.Set(float64(applied))
	p.metrics.appliedTime.Set(float64(logTime) / 1000)
}
