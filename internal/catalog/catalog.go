// Package catalog is what a process knows of the bucket without listing it: the topic of blocks, read from its start
// and followed. In go entries of blocks and states of partitions, appended to the topic; out come, per tenant, the
// blocks that a query must read and how far each partition's log is covered by them, both of one instant. It never
// touches the bucket, and its state depends on nothing but the latest value of each key, so that compaction of the
// topic changes nothing.
package catalog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"

	"sluice/internal/log"
	"sluice/schema"
)

// Status is what the catalogue says of one block ID.
type Status int

const (
	// Absent: nothing is known of the block. Its samples may be missing from the bucket.
	Absent Status = iota
	// Live: queries read the block.
	Live
	// Replaced: the block's samples are in another known block, which lists it in Replaces or, if it has no entry of its
	// own any more, in Sources.
	Replaced
	// Deleted: the block was deleted on purpose and must not come back.
	Deleted
)

// String returns the status as a word for logs.
func (s Status) String() string {
	switch s {
	case Live:
		return "live"
	case Replaced:
		return "replaced"
	case Deleted:
		return "deleted"
	}
	return "absent"
}

// Catalog follows the topic of blocks. All methods may be called from many goroutines; entries and slices that it
// returns are shared and must not be changed.
type Catalog struct {
	log     log.Log
	table   *log.Table
	logger  *slog.Logger
	metrics *metrics

	mu    sync.RWMutex
	state *state // guarded by mu
}

// New makes a catalogue that knows nothing until Run. reg may be nil.
func New(l log.Log, logger *slog.Logger, reg prometheus.Registerer) *Catalog {
	c := &Catalog{log: l, logger: logger, metrics: newMetrics(reg), state: newState()}
	c.table = log.NewTable(l, log.TopicBlocks, c.apply)
	return c
}

// Load reads the topic once to its present end and returns a catalogue that follows it no further.
func Load(ctx context.Context, l log.Log, logger *slog.Logger) (*Catalog, error) {
	c := New(l, logger, nil)
	run, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		err := c.Run(run)
		cancel() // a Run that fails must not leave Sync waiting
		done <- err
	}()
	err := c.Sync(run)
	cancel()
	runErr := <-done
	switch {
	case err == nil:
		return c, nil
	case ctx.Err() == nil && runErr != nil && !errors.Is(runErr, context.Canceled):
		err = runErr
	}
	return nil, fmt.Errorf("read the topic of blocks: %w", err)
}

// Run follows the topic until ctx ends.
func (c *Catalog) Run(ctx context.Context) error { return c.table.Run(ctx) }

// Sync waits until everything that was in the topic at the time of the call is known. Run must be running.
func (c *Catalog) Sync(ctx context.Context) error { return c.table.Sync(ctx) }

// apply takes one record of the topic over. A record that cannot be read changes nothing: the block of that key, if it
// was known, stays as it was, because a hole in an answer is worse than an entry that is a little old.
func (c *Catalog) apply(rec *log.Record) {
	ev, err := decode(rec.Key, rec.Value)
	if err != nil {
		c.metrics.undecodable.Inc()
		c.logger.Error("skip undecodable record in the topic of blocks", "offset", rec.Offset, "err", err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state.apply(ev, rec.Offset)
	c.metrics.set(c.state)
}

// Blocks returns the tenant's live blocks in the order of Compare.
func (c *Catalog) Blocks(tenant schema.Tenant) []*schema.BlockEntry {
	blocks, _ := c.view(tenant, false)
	return blocks
}

// Snapshot returns the tenant's live blocks and, by partition, the offset before which every sample is in blocks of the
// catalogue, both of the same instant.
func (c *Catalog) Snapshot(tenant schema.Tenant) (blocks []*schema.BlockEntry, shipped map[int32]int64) {
	return c.view(tenant, true)
}

func (c *Catalog) view(tenant schema.Tenant, partitions bool) ([]*schema.BlockEntry, map[int32]int64) {
	var shipped map[int32]int64
	ship := func() {
		if !partitions {
			return
		}
		shipped = make(map[int32]int64, len(c.state.partitions))
		for p, s := range c.state.partitions {
			shipped[p] = s.To
		}
	}
	c.mu.RLock()
	t := c.state.tenants[tenant]
	if t == nil || t.sorted != nil {
		defer c.mu.RUnlock()
		ship()
		if t == nil {
			return nil, shipped
		}
		return t.sorted, shipped
	}
	c.mu.RUnlock()

	c.mu.Lock()
	defer c.mu.Unlock()
	ship()
	if t = c.state.tenants[tenant]; t == nil {
		return nil, shipped
	}
	if t.sorted == nil {
		t.sort()
	}
	return t.sorted, shipped
}

// Entries returns every known entry of the tenant, in whatever state, by ID.
func (c *Catalog) Entries(tenant schema.Tenant) []*schema.BlockEntry {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.state.tenants[tenant].all()
}

// All returns every known entry of every tenant, in whatever state, by tenant and ID.
func (c *Catalog) All() []*schema.BlockEntry {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var out []*schema.BlockEntry
	for _, tenant := range slices.Sorted(maps.Keys(c.state.tenants)) {
		out = append(out, c.state.tenants[tenant].all()...)
	}
	return out
}

func (t *tenantState) all() []*schema.BlockEntry {
	if t == nil {
		return nil
	}
	return slices.SortedFunc(maps.Values(t.entries), func(a, b *schema.BlockEntry) int { return a.ID.Compare(b.ID) })
}

// Tenants returns the tenants that have an entry, in whatever state, sorted.
func (c *Catalog) Tenants() []schema.Tenant {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return slices.Sorted(maps.Keys(c.state.tenants))
}

// Status tells what is known of a block. Live is exactly what Blocks returns.
func (c *Catalog) Status(tenant schema.Tenant, id ulid.ULID) Status {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if t := c.state.tenants[tenant]; t != nil {
		return t.status(id)
	}
	return Absent
}

// Entry returns what the topic says of a block.
func (c *Catalog) Entry(tenant schema.Tenant, id ulid.ULID) (*schema.BlockEntry, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if t := c.state.tenants[tenant]; t != nil {
		e, ok := t.entries[id]
		return e, ok
	}
	return nil, false
}

// Replacer returns the known entry that lists the block in Replaces; of several, the one that was written first.
func (c *Catalog) Replacer(tenant schema.Tenant, id ulid.ULID) (*schema.BlockEntry, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	t := c.state.tenants[tenant]
	if t == nil {
		return nil, false
	}
	var first *schema.BlockEntry
	for _, by := range t.replacers[id] {
		e := t.entries[by]
		if first == nil || e.At < first.At || e.At == first.At && e.ID.Compare(first.ID) < 0 {
			first = e
		}
	}
	return first, first != nil
}

// Partition returns how far the blocks cover the partition, over all zones. Its gaps name their partition, and those that were accepted
// say so (see Accepted).
func (c *Catalog) Partition(p int32) (schema.PartitionState, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	s, ok := c.state.partitions[p]
	return c.state.withGaps(p, s), ok
}

// ZonePartition returns what the consumers of one zone have written of the partition.
func (c *Catalog) ZonePartition(p int32, zone string) (schema.PartitionState, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	z, ok := c.state.zones[p][zone]
	return c.state.withGaps(p, z.PartitionState), ok
}

// Partitions returns the state of every known partition, as Partition does.
func (c *Catalog) Partitions() map[int32]schema.PartitionState {
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := maps.Clone(c.state.partitions)
	for p, s := range out {
		if len(s.Gaps) > 0 {
			out[p] = c.state.withGaps(p, s)
		}
	}
	return out
}

// Add appends entries and then the states of partitions and returns when both are durable (not: when they are known
// here, see Sync). The entries are durable before the first state is sent: after an error any of a batch may be in the
// log, and a state without its blocks would be a hole that no reader could see. Doing it again is harmless.
// log.ErrTooLarge: an entry is larger than a record may be; nothing was appended.
func (c *Catalog) Add(ctx context.Context, entries []schema.BlockEntry, parts map[int32]schema.PartitionState) error {
	blocks := make([]log.Record, 0, len(entries))
	for i := range entries {
		rec, err := encodeBlock(&entries[i])
		if err != nil {
			return err
		}
		blocks = append(blocks, rec)
	}
	states := make([]log.Record, 0, len(parts))
	for _, p := range slices.Sorted(maps.Keys(parts)) {
		rec, err := encodePartition(p, parts[p])
		if err != nil {
			return err
		}
		states = append(states, rec)
	}
	for _, recs := range [][]log.Record{blocks, states} {
		if len(recs) == 0 {
			continue
		}
		if err := c.log.Append(ctx, log.TopicBlocks, recs); err != nil {
			return fmt.Errorf("append %d records to the topic of blocks: %w", len(recs), err)
		}
	}
	return nil
}

// Forget removes a block's entry from the topic. Whoever forgets a block that may still be in the log or in the bucket
// brings it back.
func (c *Catalog) Forget(ctx context.Context, tenant schema.Tenant, id ulid.ULID) error {
	if err := c.log.Append(ctx, log.TopicBlocks, []log.Record{{Key: blockKey(tenant, id)}}); err != nil {
		return fmt.Errorf("forget block %s of tenant %s: %w", id, tenant, err)
	}
	return nil
}

// Totals is what the live blocks of a tenant are together.
type Totals struct {
	Blocks         int
	Bytes          int64
	Samples        uint64
	Oldest, Newest int64 // ms: of the first sample, and behind the last one; 0 if there is no block
}

// Totals returns the totals of every tenant that has an entry, in whatever state. What has not changed since the last call is
// not added up again.
func (c *Catalog) Totals() map[schema.Tenant]Totals {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[schema.Tenant]Totals, len(c.state.tenants))
	for tenant, t := range c.state.tenants {
		if t.totals == nil {
			t.add()
		}
		out[tenant] = *t.totals
	}
	return out
}

func (t *tenantState) add() {
	sum := Totals{Blocks: len(t.live)}
	first := true
	for _, e := range t.live {
		sum.Bytes += e.Bytes
		sum.Samples += e.Samples
		if first || e.MinTime < sum.Oldest {
			sum.Oldest = e.MinTime
		}
		if first || e.MaxTime > sum.Newest {
			sum.Newest = e.MaxTime
		}
		first = false
	}
	t.totals = &sum
}
