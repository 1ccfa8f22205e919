package consumer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"sluice/internal/log"
	"sluice/internal/members"
	"sluice/schema"
)

// holding is a partition that this process follows and answers for. One that was assigned to somebody else is held on
// until that one has caught up: it goes on following the log, so that no query notices the move.
type holding struct {
	partition *partition
	stop      context.CancelFunc
	done      chan struct{}

	// Guarded by Consumer.mu.
	leaving bool      // it was assigned to somebody else
	since   time.Time // when that happened
	reach   int64     // how far the other one has to get
}

// assignPause is how long to wait before joining again, or asking again for the number of partitions.
const assignPause = 5 * time.Second

// assignLoop follows what is assigned to this process: by the group of the zone's consumers or, where the operator wants
// no rebalancing, by number.
func (c *Consumer) assignLoop(ctx context.Context) {
	changed := func(ids []int32) { c.assign(ctx, ids) }
	join, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.leaving, cancel)()
	for ctx.Err() == nil {
		var err error
		switch {
		case c.cfg.Count > 0:
			err = c.assignByNumber(ctx, changed)
		case c.leaving.Err() == nil:
			err = c.log.Join(join, c.membership(), log.TopicSamples, changed)
		default:
			if err = c.log.Leave(ctx, c.membership()); err == nil {
				c.logger.Info("left the group of consumers")
				return
			}
		}
		if ctx.Err() != nil || c.leaving.Err() != nil && errors.Is(err, context.Canceled) {
			continue
		}
		c.logger.Warn("assignment of partitions is held up, trying again", "in", assignPause, "err", err)
		select {
		case <-time.After(assignPause):
		case <-ctx.Done():
		}
	}
}

func (c *Consumer) membership() log.Membership {
	return log.Membership{Group: schema.MemberGroup(c.cfg.Zone), Instance: c.cfg.InstanceID, SessionTimeout: c.cfg.SessionTimeout}
}

// assignByNumber takes the partitions whose remainder is ours, and looks for new ones now and then.
func (c *Consumer) assignByNumber(ctx context.Context, changed func([]int32)) error {
	for {
		n, err := c.log.Partitions(ctx, log.TopicSamples)
		if err != nil {
			return fmt.Errorf("count partitions: %w", err)
		}
		var ours []int32
		for id := int32(c.cfg.Ordinal); id < n; id += int32(c.cfg.Count) {
			ours = append(ours, id)
		}
		changed(ours)
		select {
		case <-time.After(assignPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// assign opens the partitions that are new here, and marks those that are not ours any more.
func (c *Consumer) assign(ctx context.Context, ids []int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ctx.Err() != nil || c.leaving.Err() != nil {
		return
	}
	c.assigned = true
	for _, id := range ids {
		if h := c.holdings[id]; h != nil {
			h.leaving = false
			continue
		}
		c.hold(ctx, id)
	}
	for id, h := range c.holdings {
		if !slices.Contains(ids, id) {
			h.leave()
		}
	}
}

// hold starts to follow a partition. The caller has the lock.
func (c *Consumer) hold(ctx context.Context, id int32) {
	ctx, stop := context.WithCancel(ctx)
	h := &holding{partition: c.build(id), stop: stop, done: make(chan struct{})}
	c.holdings[id] = h
	go func() {
		defer close(h.done)
		h.partition.supervise(ctx)
	}()
	h.partition.logger.Info("partition taken")
}

// leave marks a partition as somebody else's.
func (h *holding) leave() {
	if h.leaving {
		return
	}
	h.leaving, h.since, h.reach = true, time.Now(), h.partition.appliedOffset()
	h.partition.logger.Info("partition goes to another consumer, serving it until that one has caught up")
}

// handOverLoop lets go of partitions that somebody else answers for by now.
func (c *Consumer) handOverLoop(ctx context.Context) {
	look := time.NewTicker(min(time.Second, c.cfg.AnnounceInterval))
	defer look.Stop()
	for {
		select {
		case <-look.C:
		case <-ctx.Done():
			return
		}
		for _, h := range c.superseded() {
			c.handOver(ctx, h)
		}
	}
}

// handOver stops following a partition and removes what it has on disk. One that was assigned to us again in the meantime
// is opened anew.
func (c *Consumer) handOver(ctx context.Context, h *holding) {
	h.stop()
	<-h.done
	id := h.partition.id
	if err := h.partition.retire(); err != nil {
		c.logger.Warn("removing what a partition had on disk", "partition", id, "err", err)
	}
	c.withdrawUsage(ctx, h.partition)
	c.mu.Lock()
	defer c.mu.Unlock()
	if h.leaving {
		delete(c.holdings, id)
		c.logger.Info("partition handed over", "partition", id, "after", time.Since(h.since))
	} else {
		c.hold(ctx, id)
	}
}

// superseded returns the leaving partitions that a live consumer of our zone has applied as far as we had when they were
// taken from us.
func (c *Consumer) superseded() []*holding {
	peers := c.peers.Members()
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*holding
	for id, h := range c.holdings {
		if !h.leaving {
			continue
		}
		for _, m := range livePeers(peers, id) {
			if m.ID != c.cfg.InstanceID && m.Zone == c.cfg.Zone && appliedBy(m, id) >= h.reach {
				out = append(out, h)
				break
			}
		}
	}
	return out
}

// appliedBy is how far the member has announced to have applied the partition; -1 if it does not hold it.
func appliedBy(m members.Member, id int32) int64 {
	for _, cov := range m.Partitions {
		if cov.Partition == id {
			return cov.Applied
		}
	}
	return -1
}

// peerAge is the age from which an announcement does not show that its member is alive.
const peerAge = 6 * time.Second

// livePeers returns the consumers that hold the partition and were heard of lately, measured by the newest announcement of
// all, as clocks differ.
func livePeers(all []members.Member, id int32) []members.Member {
	newest := int64(0)
	for _, m := range all {
		newest = max(newest, m.Time)
	}
	return slices.DeleteFunc(slices.Clone(all), func(m members.Member) bool {
		return m.Kind != members.KindConsumer || newest-m.Time > peerAge.Milliseconds() || appliedBy(m, id) < 0
	})
}

// Leave gives every partition to the other consumers of the zone, for good: for a consumer that is about to be taken away.
// It returns when all are handed over. Until then, and after it, the process answers for what it holds.
func (c *Consumer) Leave(ctx context.Context) error {
	if c.cfg.Count > 0 {
		return errors.New("partitions are assigned by number: give the others another number of consumers")
	}
	c.leave()
	c.mu.Lock()
	for _, h := range c.holdings {
		h.leave()
	}
	c.mu.Unlock()
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for {
		left := len(c.open())
		if left == 0 {
			return nil
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return fmt.Errorf("%d partitions are still held, nobody has caught up on them yet: %w", left, ctx.Err())
		}
	}
}

// releaseAll stops every partition and waits for it.
func (c *Consumer) releaseAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range c.holdings {
		h.stop()
	}
	for _, h := range c.holdings {
		<-h.done
	}
	clear(c.holdings)
}
