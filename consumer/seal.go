package consumer

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/tombstones"
	"golang.org/x/sync/errgroup"

	"sluice/internal/block"
	"sluice/internal/exemplars"
	"sluice/internal/failpoint"
	"sluice/internal/log"
	"sluice/internal/merge"
	"sluice/schema"
)

// maxBlocksPerHead is how many blocks a head may become. A tenant that sends samples of years at once gets longer ones.
const maxBlocksPerHead = 24

// writeBlocks writes the head as blocks below dir, one for each stretch of time that holds samples.
func (h *head) writeBlocks(ctx context.Context, dir string, origin schema.BlockOrigin, beside *exemplars.Set) (blocks []localBlock, err error) {
	var tmps []string
	var written []block.Contents
	for _, r := range h.ranges() {
		tmp := filepath.Join(dir, fmt.Sprintf("writing-%d", r.mint))
		contents, err := h.writeBlock(ctx, tmp, r)
		if err != nil {
			return nil, fmt.Errorf("write block of tenant %s: %w", h.tenant, err)
		}
		if contents.Stats.NumSamples > 0 {
			tmps, written = append(tmps, tmp), append(written, contents)
		}
	}
	if err := writeExemplars(tmps, written, beside); err != nil {
		return nil, fmt.Errorf("write exemplars of tenant %s: %w", h.tenant, err)
	}
	for i, tmp := range tmps {
		meta, final, err := block.Finish(tmp, written[i], origin, "sluice.consumer", 1, nil)
		if err != nil {
			return nil, fmt.Errorf("finish block of tenant %s: %w", h.tenant, err)
		}
		blocks = append(blocks, localBlock{dir: final, meta: meta})
	}
	return blocks, nil
}

func (h *head) writeBlock(ctx context.Context, dir string, r timeRange) (c block.Contents, err error) {
	view := h.series.Block(r.mint, r.maxt)
	idx, err := view.Index()
	if err != nil {
		return c, fmt.Errorf("open head index: %w", err)
	}
	defer func() { err = errors.Join(err, idx.Close()) }()
	chunkr, err := view.Chunks()
	if err != nil {
		return c, fmt.Errorf("open head chunks: %w", err)
	}
	defer func() { err = errors.Join(err, chunkr.Close()) }()
	set := tsdb.NewBlockChunkSeriesSet(ulid.ULID{}, idx, chunkr, tombstones.NewMemTombstones(),
		tsdb.AllSortedPostings(ctx, idx), r.mint, r.maxt, false)
	if !h.late.empty() {
		set = storage.NewMergeChunkSeriesSet([]storage.ChunkSeriesSet{
			merge.RankChunkSeriesSet(set, 0),
			merge.RankChunkSeriesSet(h.late.chunkSet(r.mint, r.maxt), 1),
		}, 0, merge.ChunkSeries)
	}
	return block.Write(ctx, dir, idx.Symbols(), set)
}

// timeRange is [mint, maxt], both inclusive, in ms.
type timeRange struct{ mint, maxt int64 }

// ranges returns the stretches of time to make blocks of: aligned to two hours, or to a multiple of that which brings
// their number down to maxBlocksPerHead.
func (h *head) ranges() []timeRange {
	windows := make([]int64, 0, len(h.windows))
	for w := range h.windows {
		windows = append(windows, w)
	}
	slices.Sort(windows)
	length := int64(1)
	for _, factor := range []int64{6, 2, 7, 4, 13, 100} { // 12 h, 24 h, a week, 4 weeks, a year, a century
		if len(windows) <= maxBlocksPerHead {
			break
		}
		length *= factor
		for i, w := range windows {
			windows[i] = floorDiv(w, factor)
		}
		windows = slices.Compact(windows)
	}
	ranges := make([]timeRange, len(windows))
	for i, w := range windows {
		ranges[i] = timeRange{mint: w * length * window, maxt: (w+1)*length*window - 1}
	}
	return ranges
}

func floorDiv(a, b int64) int64 {
	if a < 0 && a%b != 0 {
		return a/b - 1
	}
	return a / b
}

// seal turns the heads of a frozen generation into local blocks, tenant by tenant; each tenant's queries move over as
// soon as its blocks are there.
func (p *partition) seal(ctx context.Context, g *generation) error {
	failpoint.Hit(failpoint.ConsumerFrozen)
	origin := schema.BlockOrigin{
		Ranges:  []schema.LogRange{{TopicID: p.topicID, Partition: p.id, From: g.from, To: g.to}},
		LogTime: g.logTime, LogFrom: g.logFrom, Gaps: g.gaps,
	}
	// The blocks of small tenants are all waiting for the disk: together they wait once.
	tenants, ctx := errgroup.WithContext(ctx)
	tenants.SetLimit(sealTogether)
	for _, tenant := range g.names() {
		tenants.Go(func() error { return p.sealTenant(ctx, g, tenant, origin) })
	}
	if err := tenants.Wait(); err != nil {
		return err
	}
	if err := p.markSealed(g); err != nil {
		return err
	}
	failpoint.Hit(failpoint.ConsumerSealed)
	return nil
}

// sealTogether is how many tenants of a generation are written at a time.
const sealTogether = 8

// sealTenant writes one tenant's blocks and moves its queries over to them.
func (p *partition) sealTenant(ctx context.Context, g *generation, tenant schema.Tenant, origin schema.BlockOrigin) error {
	g.mu.RLock()
	part := g.tenants[tenant]
	g.mu.RUnlock()
	h := part.head
	if h == nil {
		return nil // written before an attempt that failed at another tenant
	}
	origin.Tenant = tenant
	blocks, err := h.writeBlocks(ctx, filepath.Join(g.dir, "blocks", string(tenant)), origin, &part.exemplars)
	if err != nil {
		return err
	}
	if err := g.swap(part, blocks); err != nil {
		return err
	}
	failpoint.Hit(failpoint.ConsumerBlockWritten)
	written := uint64(0)
	for _, b := range blocks {
		written += b.meta.Stats.NumSamples
		p.metrics.sealedBlocks.Inc()
	}
	// What the head took in and the blocks do not hold are late samples for a time that had a value.
	p.metrics.duplicates.Add(float64(h.samples - written))
	return nil
}

// sealLoop writes frozen generations as local blocks. Only "cannot write to disk" stops it, and with it the partition.
func (p *partition) sealLoop(ctx context.Context) error {
	waiting := p.resumed // sealed, not yet taken by shipLoop: costs disk only
	for {
		out := p.sealedGen
		var first *generation
		if len(waiting) == 0 {
			out = nil
		} else {
			first = waiting[0]
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case out <- first:
			waiting = waiting[1:]
		case g := <-p.frozen:
			if err := p.sealOne(ctx, g); err != nil {
				return fmt.Errorf("seal [%d, %d) of partition %d: %w", g.from, g.to, p.id, err)
			}
			waiting = append(waiting, g)
		}
	}
}

func (p *partition) sealOne(ctx context.Context, g *generation) error {
	// What was read since the last look may be of another topic: that must not become blocks of this one.
	if topicID, err := p.log.TopicID(ctx, log.TopicSamples); err == nil && topicID != p.topicID {
		return fmt.Errorf("the topic was replaced: it is %s now, was %s", topicID, p.topicID)
	}
	select {
	case p.sealing <- struct{}{}:
		defer func() { <-p.sealing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	began := time.Now()
	g.stage.Store(stageSealing)
	if err := p.persist(ctx, "seal", func() error { return p.seal(ctx, g) }); err != nil {
		return err
	}
	g.stage.Store(stageShipping)
	p.metrics.sealSeconds.Observe(time.Since(began).Seconds())
	p.logger.Info("generation sealed", "from", g.from, "to", g.to, "tenants", len(g.names()), "took", time.Since(began))
	return nil
}
