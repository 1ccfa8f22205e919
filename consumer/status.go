package consumer

import (
	"context"
	"time"

	"sluice/internal/log"
	"sluice/internal/processes"
)

// What those who look at the whole cluster see of the partitions.

// figures of a generation, as of the last record.
type figures struct {
	from, began    int64 // offset, and log time of the first record, 0 = there is none yet
	bytes, samples int64
	series         int
	length         int64 // ms
}

func figuresOf(g *generation) figures {
	return figures{from: g.from, began: g.logFrom, bytes: g.bytes, samples: g.samples, series: g.series, length: g.settings.Length}
}

const (
	// lagInterval is how often is looked how much of the log is not applied.
	lagInterval = 5 * time.Second
	// lagGrace is how long that look waits for what came just now: whoever applies it within that is not behind.
	lagGrace = 200 * time.Millisecond
)

// lagLoop measures how far the partitions are behind the log.
func (c *Consumer) lagLoop(ctx context.Context) {
	tick := time.NewTicker(lagInterval)
	defer tick.Stop()
	for {
		c.measureLag(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (c *Consumer) measureLag(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, lagInterval)
	defer cancel()
	ends, err := c.log.Ends(limited, log.TopicSamples)
	if err != nil {
		return // the log is away: whoever reads or writes tells
	}
	grace, cancel := context.WithTimeout(ctx, lagGrace)
	defer cancel()
	for _, p := range c.open() {
		if int(p.id) >= len(ends) {
			continue
		}
		_ = p.wait(grace, ends[p.id]) // else it is behind, which is what this finds out
		p.mu.Lock()
		p.behind = max(ends[p.id]-p.applied, 0)
		behind, applied := p.behind, p.appliedTime
		p.mu.Unlock()
		p.metrics.lagRecords.Set(float64(behind))
		seconds := 0.0
		if behind > 0 && applied > 0 {
			seconds = max(time.Since(time.UnixMilli(applied)).Seconds(), 0)
		}
		p.metrics.lagSeconds.Set(seconds)
	}
}

// tellHeldUp notes whether a step fails at the moment; another one's failure stays.
func (p *partition) tellHeldUp(step string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err != nil:
		p.heldUpStep, p.heldUp = step, step+": "+err.Error()
	case p.heldUpStep == step:
		p.heldUpStep, p.heldUp = "", ""
	}
}

// Status is what the consumer does.
func (c *Consumer) Status() *processes.Consumer {
	s := &processes.Consumer{Samples: processes.Of(processes.Total(c.metrics.samples, c.metrics.histograms)), Notes: c.Notes()}
	if err := c.Ready(); err == nil {
		s.Ready = true
	}
	leaving := map[int32]bool{}
	c.mu.RLock()
	for id, h := range c.holdings {
		leaving[id] = h.leaving
	}
	c.mu.RUnlock()
	for _, p := range c.open() {
		part := p.look()
		part.Leaving = leaving[p.id]
		s.Partitions = append(s.Partitions, part)
		if g := part.Generation; g != nil {
			s.HeadSeries += int64(g.Series)
			s.HeadBytes += g.Bytes
		}
	}
	return s
}

// look says where the partition is.
func (p *partition) look() processes.Partition {
	p.mu.RLock()
	defer p.mu.RUnlock()
	s := processes.Partition{
		Partition: p.id, State: processes.StateLive, From: p.heldFrom, Applied: p.applied, AppliedTime: p.appliedTime, Behind: p.behind,
		HeldUp: p.heldUp,
	}
	if !p.lastShipped.IsZero() {
		s.LastShipped = p.lastShipped.UnixMilli()
	}
	switch {
	case p.failure != nil:
		s.State, s.Failure = processes.StateFailed, p.failure.Error()
		return s
	case !p.caughtUp:
		s.State = processes.StateReplaying
		if all := p.replay.End - p.replay.Start; all > 0 {
			s.Replayed = float64(max(p.applied-p.replay.Start, 0)) / float64(all)
		}
	}
	if len(p.gens) == 0 {
		return s
	}
	s.Generation = &processes.Generation{
		From: p.growing.from, Began: p.growing.began, Bytes: p.growing.bytes, Series: p.growing.series, Samples: p.growing.samples,
		Length: p.growing.length, Ended: p.ended,
	}
	s.Unshipped = p.growing.began
	for _, g := range p.gens[:len(p.gens)-1] {
		switch g.stage.Load() {
		case stageWaiting:
			s.Waiting++
		case stageSealing:
			s.Sealing++
		case stageShipping:
			s.Shipping++
		default:
			continue
		}
		// What was cut is not changed any more.
		if s.Unshipped == 0 || g.logFrom < s.Unshipped {
			s.Unshipped = g.logFrom
		}
	}
	return s
}
