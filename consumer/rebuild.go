package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/thanos-io/objstore"

	"sluice/internal/block"
	"sluice/internal/log"
	"sluice/schema"
)

// RebuildConfig names a part of the log to build blocks of.
type RebuildConfig struct {
	Partition int32
	From      int64  // first offset; -1 = the oldest. Generations are cut from here on: to get the blocks that were shipped, it must be where one of them began
	To        int64  // end offset; -1 = the log's end. What is left of the last generation becomes blocks too
	Scratch   string // folder for heads and blocks under way
}

// Rebuilt is what came out.
type Rebuilt struct {
	Generations, Blocks int
	Samples             uint64
}

// Rebuild builds the blocks of a part of the log, by the very code that consumers run, and puts them into the bucket
// out. It commits nothing, announces nothing and writes nothing into the log: for recovery after a lost bucket, and to
// prove that blocks are a function of the log.
func Rebuild(ctx context.Context, cfg RebuildConfig, l log.Log, out objstore.Bucket, logger *slog.Logger) (r Rebuilt, err error) {
	topicID, err := l.TopicID(ctx, log.TopicSamples)
	if err != nil {
		return r, fmt.Errorf("identify topic: %w", err)
	}
	bounds, err := l.Bounds(ctx, log.TopicSamples, cfg.Partition)
	if err != nil {
		return r, fmt.Errorf("read bounds of partition %d: %w", cfg.Partition, err)
	}
	from, to := cfg.From, cfg.To
	if from < 0 {
		from = bounds.Start
	}
	if to < 0 {
		to = bounds.End
	}
	if from < bounds.Start || to > bounds.End || from > to {
		return r, fmt.Errorf("offsets %d to %d of partition %d are not all in the log [%d, %d)", from, to, cfg.Partition, bounds.Start, bounds.End)
	}
	p := &partition{
		id: cfg.Partition, topicID: topicID, log: l, readOnly: true, metadataLimit: func(schema.Tenant) int { return 0 },
		logger: logger.With("partition", cfg.Partition), metrics: newMetrics(nil).partition(cfg.Partition),
		dir: partitionDir(cfg.Scratch, cfg.Partition), side: newSide(), advanced: make(chan struct{}),
		next: from, applied: from, replay: replay{log.Bounds{Start: from, End: to}, time.Now()},
	}
	p.hand = func(ctx context.Context, g *generation) error {
		r.Generations++
		if err := p.seal(ctx, g); err != nil {
			return err
		}
		for _, b := range g.localBlocks() {
			if err := block.Upload(ctx, out, b.dir, b.meta); err != nil {
				return err
			}
			r.Blocks++
			r.Samples += b.meta.Stats.NumSamples
		}
		p.gens = p.gens[1:]
		return g.drop(false)
	}
	if err := os.RemoveAll(p.dir); err != nil {
		return r, fmt.Errorf("empty scratch folder: %w", err)
	}
	p.gens = []*generation{p.newGeneration(from)}
	defer func() {
		for _, g := range p.gens {
			err = errors.Join(err, g.drop(false))
		}
		err = errors.Join(err, os.RemoveAll(p.dir))
	}()
	if err := p.lookBack(ctx, from, 0); err != nil {
		return r, err
	}
	if err := p.takeUntil(ctx, to); err != nil {
		return r, err
	}
	if g := p.live(); g.started {
		g.to = to
		return r, p.hand(ctx, g)
	}
	return r, nil
}

// takeUntil applies the records before the offset to.
func (p *partition) takeUntil(ctx context.Context, to int64) (err error) {
	if p.next >= to {
		return nil
	}
	reader, err := p.log.Reader(log.TopicSamples, p.id, p.next)
	if err != nil {
		return fmt.Errorf("open partition %d: %w", p.id, err)
	}
	defer func() { err = errors.Join(err, reader.Close()) }()
	for p.next < to {
		recs, err := reader.Next(ctx)
		if err != nil {
			return fmt.Errorf("read partition %d: %w", p.id, err)
		}
		for i := range recs {
			if recs[i].Offset >= to {
				return nil
			}
			if err := p.take(ctx, &recs[i]); err != nil {
				return err
			}
		}
	}
	return nil
}
