package consumer

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"

	"sluice/internal/block"
	"sluice/internal/catalog"
	"sluice/internal/failpoint"
	"sluice/internal/log"
	"sluice/schema"
)

// ship brings a sealed generation into the bucket, in this order and no other:
//
//  0. wait for one's turn, when others hold the same generation (another zone, or the partition's former owner): the first
//     uploads, the others find everything done and only commit;
//  1. upload the blocks that the catalogue does not know (a crash leaves files without an event: the replay uploads the
//     same bytes under the same names);
//  2. save what senders said of their metrics (internal/families), for the log that brought it may go;
//  3. announce them, and with them the partition's new state, and wait until the event is durable (a crash leaves an
//     uncommitted offset: the replay finds the blocks in the catalogue and only commits);
//  4. commit the generation's end. From here on nobody needs the log before it.
//
// Each step is tried until it succeeds or ctx ends: a bucket or a log that is away costs time and local disk, nothing else.
func (p *partition) ship(ctx context.Context, g *generation) error {
	steps := []struct {
		name string
		do   func(context.Context, *generation) error
	}{{"turn", p.turn}, {"upload", p.upload}, {"metadata", p.saveMetadata}, {"announce", p.announce}, {"commit", p.commit}}
	for _, step := range steps {
		err := p.persist(ctx, step.name, func() error { return step.do(ctx, g) })
		if err != nil {
			return err
		}
	}
	return nil
}

// persist calls f until it returns nil or ctx ends, with growing pauses.
func (p *partition) persist(ctx context.Context, step string, f func() error) error {
	for pause := 200 * time.Millisecond; ; pause = min(2*pause, 15*time.Second) {
		err := f()
		if err == nil || ctx.Err() != nil {
			p.tellHeldUp(step, nil)
			return err
		}
		p.tellHeldUp(step, err)
		p.metrics.shipFailures.WithLabelValues(step).Inc()
		p.logger.Warn("shipping is held up, trying again", "step", step, "in", pause, "err", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// upload puts into the bucket what the catalogue has never heard of. A block that was merged into another since, or
// deleted on purpose, must not come back.
func (p *partition) upload(ctx context.Context, g *generation) error {
	if err := p.catalog.Sync(ctx); err != nil {
		return fmt.Errorf("read catalogue: %w", err)
	}
	g.covered = p.covered(g)
	for _, b := range g.localBlocks() {
		if p.catalog.Status(b.meta.Sluice.Tenant, b.meta.ULID) != catalog.Absent {
			continue
		}
		if g.covered {
			p.metrics.divergentBlocks.Inc()
			p.logger.Error("another consumer has shipped this part of the log as other blocks: is it of another version?",
				"from", g.from, "to", g.to, "tenant", b.meta.Sluice.Tenant, "block", b.meta.ULID)
			continue
		}
		if err := block.Upload(ctx, p.bucket, b.dir, b.meta, uploadedFile); err != nil {
			return err
		}
		p.metrics.shippedBlocks.Inc()
		p.metrics.shippedBytes.Add(float64(b.meta.Entry(0).Bytes))
	}
	failpoint.Hit(failpoint.ConsumerUploaded)
	return nil
}

// uploadedFile marks the steps within an upload, for those who test crashes.
func uploadedFile(path string) {
	if path == schema.IndexFile {
		failpoint.Hit(failpoint.ConsumerUploadIndex)
	} else {
		failpoint.Hit(failpoint.ConsumerUploadChunks)
	}
}

// covered tells whether somebody else has brought the generation's part of the log into the bucket, all of it.
func (p *partition) covered(g *generation) bool {
	state, ok := p.catalog.Partition(p.id)
	if !ok || state.TopicID != p.topicID || state.To < g.to {
		return false
	}
	return !slices.ContainsFunc(state.Gaps, func(theirs schema.Gap) bool {
		return theirs.TopicID == p.topicID && theirs.From < g.to && theirs.To > g.from &&
			!slices.ContainsFunc(g.gaps, func(ours schema.Gap) bool { return ours.LogRange == theirs.LogRange })
	})
}

// turn waits until nobody who holds the same generation is to ship it before us, or has done so, or has had its time. The
// order is another for each generation, so that the work is shared. It saves uploads and nothing else: out of turn is harmless.
func (p *partition) turn(ctx context.Context, g *generation) error {
	rank := p.rank(g)
	if rank == 0 {
		return nil
	}
	limit := time.NewTimer(time.Duration(rank) * p.cfg.ShipStagger)
	defer limit.Stop()
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for !p.covered(g) {
		select {
		case <-look.C:
		case <-limit.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// rank is how many of the live members that hold the partition come before us, by a hash of their names and the generation.
func (p *partition) rank(g *generation) (before int) {
	weight := func(id string) uint64 {
		return xxhash.Sum64String(fmt.Sprintf("%s\xff%d\xff%d", id, p.id, g.from))
	}
	ours := weight(p.cfg.InstanceID)
	for _, m := range livePeers(p.peers.Members(), p.id) {
		if m.ID != p.cfg.InstanceID && weight(m.ID) > ours {
			before++
		}
	}
	return before
}

// announce tells the catalogue of the blocks, and once they are durable, that the partition is in blocks up to g.to.
func (p *partition) announce(ctx context.Context, g *generation) error {
	if g.covered {
		return nil
	}
	var entries []schema.BlockEntry
	now := time.Now().UnixMilli()
	for _, b := range g.localBlocks() {
		if p.catalog.Status(b.meta.Sluice.Tenant, b.meta.ULID) == catalog.Absent {
			entries = append(entries, b.meta.Entry(now))
		}
	}
	if err := p.catalog.Add(ctx, entries, nil); err != nil {
		return fmt.Errorf("announce blocks: %w", err)
	}
	failpoint.Hit(failpoint.ConsumerAnnouncedBlocks)
	err := p.changeState(ctx, func(s *schema.PartitionState) {
		if s.To < g.to { // else a replay of what was announced before a crash
			s.From, s.To, s.LogTime = g.from, g.to, g.logTime
		}
		s.Gaps = withGaps(s.Gaps, g.gaps)
	})
	if err != nil {
		return fmt.Errorf("announce the end of the generation: %w", err)
	}
	failpoint.Hit(failpoint.ConsumerAnnounced)
	return nil
}

// tellGaps announces lost records at once: queries over their time must not wait for the generation to be shipped. What
// fails here is announced with the generation.
func (p *partition) tellGaps(ctx context.Context, g *generation) {
	if p.readOnly {
		return
	}
	limited, cancel := context.WithTimeout(ctx, deadLetterTimeout)
	defer cancel()
	err := p.changeState(limited, func(s *schema.PartitionState) { s.Gaps = withGaps(s.Gaps, g.gaps) })
	if err != nil && ctx.Err() == nil {
		p.logger.Warn("announcing lost records", "err", err)
	}
}

// changeState reads what this zone says of the partition in the catalogue, changes it and waits until the change is
// durable. A state of another topic keeps nothing but its gaps. While a partition moves, its former and its new owner write
// the same key: so whoever has written looks again, until what stands there needs no change. change must be idempotent
// and never take anything back.
func (p *partition) changeState(ctx context.Context, change func(*schema.PartitionState)) error {
	p.stateMu.Lock()
	defer p.stateMu.Unlock()
	for {
		if err := p.catalog.Sync(ctx); err != nil {
			return fmt.Errorf("read catalogue: %w", err)
		}
		before, known := p.catalog.ZonePartition(p.id, p.cfg.Zone)
		state := before
		state.Gaps = slices.Clone(before.Gaps)
		if !known || before.TopicID != p.topicID {
			state = schema.PartitionState{Zone: p.cfg.Zone, TopicID: p.topicID, Gaps: state.Gaps}
		}
		change(&state)
		if known && reflect.DeepEqual(before, state) {
			return nil
		}
		if err := p.catalog.Add(ctx, nil, map[int32]schema.PartitionState{p.id: state}); err != nil {
			return err
		}
	}
}

// withGaps adds gaps to those known; of one that is known already, what is newly known of it.
func withGaps(known, more []schema.Gap) []schema.Gap {
	out := slices.Clone(known)
	for _, gap := range more {
		i := slices.IndexFunc(out, func(k schema.Gap) bool { return k.LogRange == gap.LogRange })
		switch {
		case i < 0:
			out = append(out, gap)
		case out[i].ToTime == 0:
			out[i].ToTime = gap.ToTime
		}
	}
	return out
}

// commit lets go of the log up to the generation's end. It first makes sure of what everything stands on: that the
// catalogue, as it is in the log, has the generation and each of its blocks.
func (p *partition) commit(ctx context.Context, g *generation) error {
	if err := p.catalog.Sync(ctx); err != nil {
		return fmt.Errorf("read catalogue: %w", err)
	}
	if state, ok := p.catalog.Partition(p.id); !ok || state.TopicID != p.topicID || state.To < g.to {
		return fmt.Errorf("will not commit %d: the catalogue has partition %d in blocks up to %d only", g.to, p.id, state.To)
	}
	for _, b := range g.localBlocks() {
		if !g.covered && p.catalog.Status(b.meta.Sluice.Tenant, b.meta.ULID) == catalog.Absent {
			return fmt.Errorf("will not commit %d: the catalogue does not have block %s of tenant %s", g.to, b.meta.ULID, b.meta.Sluice.Tenant)
		}
	}
	if g.covered { // then somebody may have committed this, or more: nothing is to be taken back
		committed, err := p.log.Committed(ctx, schema.ConsumerGroup, log.TopicSamples)
		if err != nil {
			return fmt.Errorf("read committed offsets: %w", err)
		}
		if committed[p.id] >= g.to {
			p.metrics.committedOffset.Set(float64(committed[p.id]))
			return nil
		}
	}
	if err := p.log.Commit(ctx, schema.ConsumerGroup, log.TopicSamples, p.id, g.to); err != nil {
		return fmt.Errorf("commit offset %d: %w", g.to, err)
	}
	p.metrics.committedOffset.Set(float64(g.to))
	failpoint.Hit(failpoint.ConsumerCommitted)
	return nil
}

// shipLoop ships sealed generations in order, forgets them some time after, and looks after the partition's coverage.
func (p *partition) shipLoop(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	type shipped struct {
		g    *generation
		when time.Time
	}
	var done []shipped
	for beat := 0; ; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case g := <-p.sealedGen:
			if err := p.ship(ctx, g); err != nil {
				return fmt.Errorf("ship [%d, %d) of partition %d: %w", g.from, g.to, p.id, err)
			}
			g.shipped = true
			g.stage.Store(stageShipped)
			p.mu.Lock()
			p.lastShipped = time.Now()
			p.mu.Unlock()
			p.logger.Info("generation shipped", "from", g.from, "to", g.to, "blocks", len(g.localBlocks()))
			done = append(done, shipped{g, time.Now()})
		case now := <-tick.C:
			for len(done) > 0 && now.Sub(done[0].when) >= p.cfg.RetainShipped {
				if err := p.forget(done[0].g); err != nil {
					p.logger.Warn("releasing a shipped generation", "err", err)
				}
				done = done[1:]
			}
			if beat++; beat%5 == 1 {
				if err := p.audit(ctx); err != nil {
					return err
				}
			}
		}
	}
}

// forget drops the oldest generation: readers have its blocks from the bucket by now.
func (p *partition) forget(g *generation) error {
	p.mu.Lock()
	p.gens = p.gens[1:]
	p.heldFrom = p.gens[0].from
	p.mu.Unlock()
	defer failpoint.Hit(failpoint.ConsumerForgotten)
	return g.drop(false)
}

// audit measures that every offset between the log's start and end is in blocks, or held here, or still to be read; and
// notices a topic that was replaced under us, which is an error.
func (p *partition) audit(ctx context.Context) error {
	topicID, err := p.log.TopicID(ctx, log.TopicSamples)
	switch {
	case err != nil:
		return nil // the log is away: whoever reads or writes tells
	case topicID != p.topicID:
		return fmt.Errorf("the topic was replaced: it is %s now, was %s", topicID, p.topicID)
	}
	bounds, err := p.log.Bounds(ctx, log.TopicSamples, p.id)
	if err != nil {
		return nil
	}
	inBlocks := bounds.Start
	gaps := int64(0)
	if state, ok := p.catalog.Partition(p.id); ok && state.TopicID == p.topicID {
		inBlocks = max(inBlocks, state.To)
		for _, g := range state.Gaps {
			gaps += g.To - g.From
		}
	}
	p.mu.RLock()
	held := p.heldFrom
	p.mu.RUnlock()
	p.metrics.coverageGap.Set(float64(max(held-inBlocks, 0)))
	p.metrics.lostOffsets.Set(float64(gaps))
	return nil
}

// localBlocks lists the generation's blocks, by tenant and time.
func (g *generation) localBlocks() []localBlock {
	var blocks []localBlock
	for _, tenant := range g.names() {
		g.mu.RLock()
		blocks = append(blocks, g.tenants[tenant].blocks...)
		g.mu.RUnlock()
	}
	return blocks
}
