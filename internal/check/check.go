// Package check holds log, catalogue and bucket against each other. In go a log and a bucket, also of a running cluster
// and also read-only ones; out come findings: samples that are nowhere, samples that are there twice, blocks that cannot
// be read, and objects that nobody knows. It reads and never changes anything.
package check

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/thanos-io/objstore"

	"sluice/internal/catalog"
	"sluice/internal/log"
	"sluice/schema"
)

// Kinds of findings.
const (
	// KindGap: offsets [From, To) of a partition whose samples are neither in blocks nor (or not any more) going to be. Gaps
	// that an operator has accepted are not found; Coverage shows them.
	KindGap = "gap"
	// KindOverlap: two live blocks hold the same part of the log and of time. Queries hide it, storage pays for it.
	KindOverlap = "overlap"
	// KindUnreadable: a live block whose files are not what its meta says, or do not make sense.
	KindUnreadable = "unreadable"
	// KindMissing: the catalogue has the block live, the bucket does not have it. Queries over its time range fail.
	KindMissing = "missing"
	// KindOrphan: an object in the bucket that belongs to no block of the catalogue and is none of the other files we know.
	KindOrphan = "orphan"
	// KindForeignTenant: a block whose meta.json names another tenant than its folder does.
	KindForeignTenant = "foreign-tenant"
)

// Finding is one thing that is not as it should be.
type Finding struct {
	Kind      string        `json:"kind"`
	Tenant    schema.Tenant `json:"tenant,omitempty"`
	Block     string        `json:"block,omitempty"` // ULID
	Partition int32         `json:"partition"`       // -1 = of no partition
	From      int64         `json:"from,omitempty"`  // gap, overlap: offsets [From, To) of the partition
	To        int64         `json:"to,omitempty"`
	Detail    string        `json:"detail"`
}

// String is the finding as one line.
func (f Finding) String() string {
	var b strings.Builder
	b.WriteString(f.Kind)
	if f.Tenant != "" {
		fmt.Fprintf(&b, " tenant=%s", f.Tenant)
	}
	if f.Block != "" {
		fmt.Fprintf(&b, " block=%s", f.Block)
	}
	if f.Partition >= 0 {
		fmt.Fprintf(&b, " partition=%d offsets=[%d,%d)", f.Partition, f.From, f.To)
	}
	return b.String() + ": " + f.Detail
}

// Options say how much to look at.
type Options struct {
	// Deep downloads every live block and reads every series and chunk of it. Without it each file is read and held
	// against its size and hash.
	Deep bool
	// Scratch is a local directory for Deep, one block at a time; empty = the system's for temporary files.
	Scratch string
	// OrphanAge is how old an unknown object must be to be an orphan, so that uploads under way are not; 0 = any age.
	OrphanAge time.Duration
}

// Run checks everything and returns what it found in a fixed order, or an error if it could not look. Over a running
// cluster it looks in an order that makes no findings out of what merely goes on.
func Run(ctx context.Context, l log.Log, bkt objstore.BucketReader, opts Options) ([]Finding, error) {
	c := &checker{log: l, bkt: bkt, opts: opts}
	// What the catalogue promises only grows: so look first at what it must cover, and at the bucket's list.
	parts, err := logSide(ctx, l)
	if err != nil {
		return nil, err
	}
	listed, err := c.list(ctx)
	if err != nil {
		return nil, err
	}
	if c.cat, err = catalog.Load(ctx, l, slog.New(slog.DiscardHandler)); err != nil {
		return nil, err
	}
	if err := catalogSide(ctx, l, parts, c.cat); err != nil {
		return nil, err
	}
	for i := range parts {
		for _, h := range parts[i].Holes() {
			c.add(Finding{Kind: KindGap, Partition: h.Partition, From: h.From, To: h.To, Detail: h.Reason})
		}
	}
	for _, tenant := range c.cat.Tenants() {
		blocks := c.cat.Blocks(tenant)
		c.overlaps(blocks)
		for _, e := range blocks {
			if err := c.block(ctx, e); err != nil {
				return nil, err
			}
		}
	}
	if err := c.unknown(ctx, listed); err != nil {
		return nil, err
	}
	if err := c.again(ctx); err != nil {
		return nil, err
	}
	slices.SortFunc(c.found, compare)
	return c.found, nil
}

func compare(a, b Finding) int {
	return cmp.Or(
		strings.Compare(a.Kind, b.Kind), strings.Compare(string(a.Tenant), string(b.Tenant)), strings.Compare(a.Block, b.Block),
		cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To), strings.Compare(a.Detail, b.Detail))
}

type checker struct {
	log   log.Log
	bkt   objstore.BucketReader
	opts  Options
	cat   *catalog.Catalog
	found []Finding
}

func (c *checker) add(f Finding) { c.found = append(c.found, f) }

// overlaps finds pairs of a tenant's live blocks that hold the same samples of the log. blocks are in order of MinTime.
//
// One generation makes several blocks, of different time ranges; when they are merged in different windows, the merged
// blocks share offsets and no sample. So two blocks are the same samples twice if they overlap in time and offsets and
// are both as a consumer wrote them, or have a block of level 1 in common.
func (c *checker) overlaps(blocks []*schema.BlockEntry) {
	var open []*schema.BlockEntry
	for _, b := range blocks {
		open = slices.DeleteFunc(open, func(a *schema.BlockEntry) bool { return a.MaxTime <= b.MinTime })
		for _, a := range open {
			r, ok := common(a.Ranges, b.Ranges)
			if !ok || (a.Level > 1 || b.Level > 1) && !shareSource(a, b) {
				continue
			}
			c.add(Finding{Kind: KindOverlap, Tenant: b.Tenant, Block: b.ID.String(), Partition: r.Partition, From: r.From, To: r.To,
				Detail: fmt.Sprintf("also in block %s, time ranges [%d,%d) and [%d,%d)", a.ID, b.MinTime, b.MaxTime, a.MinTime, a.MaxTime)})
		}
		open = append(open, b)
	}
}

// common returns the first part of the log that is in both.
func common(a, b []schema.LogRange) (schema.LogRange, bool) {
	for _, x := range a {
		for _, y := range b {
			if x.TopicID == y.TopicID && x.Partition == y.Partition && x.From < y.To && y.From < x.To {
				x.From, x.To = max(x.From, y.From), min(x.To, y.To)
				return x, true
			}
		}
	}
	return schema.LogRange{}, false
}

func shareSource(a, b *schema.BlockEntry) bool {
	return slices.ContainsFunc(a.Sources, func(id ulid.ULID) bool { return slices.Contains(b.Sources, id) })
}

// again drops findings about blocks that a compactor or a consumer has dealt with while we looked.
func (c *checker) again(ctx context.Context) error {
	blocks := slices.ContainsFunc(c.found, func(f Finding) bool { return f.Kind != KindGap })
	if !blocks {
		return nil
	}
	now, err := catalog.Load(ctx, c.log, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	c.found = slices.DeleteFunc(c.found, func(f Finding) bool {
		id, err := ulid.ParseStrict(f.Block)
		if err != nil {
			return false
		}
		switch f.Kind {
		case KindMissing, KindUnreadable, KindOverlap:
			return now.Status(f.Tenant, id) != catalog.Live
		case KindOrphan:
			_, known := now.Entry(f.Tenant, id)
			return known
		}
		return false
	})
	return nil
}
