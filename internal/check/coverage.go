package check

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"sluice/internal/catalog"
	"sluice/internal/log"
	"sluice/schema"
)

// PartitionCoverage says where each offset of one partition of the samples is.
type PartitionCoverage struct {
	Partition int32
	TopicID   string // of the log, now
	Start     int64  // the log holds [Start, End)
	End       int64
	Blocks    int64        // every offset before is in blocks, but for the gaps; 0 = none
	Committed int64        // -1 = never
	Gaps      []schema.Gap // as recorded by a consumer, of any incarnation of the topic; see catalog.Accepted
	Elsewhere int64        // what the catalogue has as Blocks of another incarnation of the topic; 0 = nothing
}

// Catalog is what Coverage wants of internal/catalog.
type Catalog interface {
	Sync(ctx context.Context) error
	Partitions() map[int32]schema.PartitionState
}

// Coverage returns what is known of each partition, in order. cat is a running catalogue, or nil: then the topic of blocks
// is read for it. Over a running cluster it looks in an order that makes no holes out of what merely goes on.
func Coverage(ctx context.Context, l log.Log, cat Catalog) ([]PartitionCoverage, error) {
	parts, err := logSide(ctx, l)
	if err != nil {
		return nil, err
	}
	if cat == nil {
		if cat, err = catalog.Load(ctx, l, slog.New(slog.DiscardHandler)); err != nil {
			return nil, err
		}
	} else if err := cat.Sync(ctx); err != nil {
		return nil, fmt.Errorf("read the catalogue: %w", err)
	}
	return parts, catalogSide(ctx, l, parts, cat)
}

// logSide fills in what the log says. It comes before the catalogue's side, as what that promises only grows.
func logSide(ctx context.Context, l log.Log) ([]PartitionCoverage, error) {
	n, err := l.Partitions(ctx, log.TopicSamples)
	if err != nil {
		return nil, fmt.Errorf("look up the partitions of %s: %w", log.TopicSamples, err)
	}
	id, err := l.TopicID(ctx, log.TopicSamples)
	if err != nil {
		return nil, fmt.Errorf("look up the ID of %s: %w", log.TopicSamples, err)
	}
	committed, err := l.Committed(ctx, schema.ConsumerGroup, log.TopicSamples)
	if err != nil {
		return nil, fmt.Errorf("read committed offsets: %w", err)
	}
	parts := make([]PartitionCoverage, n)
	for p := range n {
		b, err := l.Bounds(ctx, log.TopicSamples, p)
		if err != nil {
			return nil, fmt.Errorf("read bounds of partition %d: %w", p, err)
		}
		parts[p] = PartitionCoverage{Partition: p, TopicID: id, Start: b.Start, End: b.End, Committed: -1}
		if at, ok := committed[p]; ok {
			parts[p].Committed = at
		}
	}
	return parts, nil
}

// catalogSide fills in what the catalogue says. Blocks that reach beyond the end that was read before may be newer than
// it: then the end is read again.
func catalogSide(ctx context.Context, l log.Log, parts []PartitionCoverage, cat interface {
	Partitions() map[int32]schema.PartitionState
}) error {
	states := cat.Partitions()
	for i := range parts {
		c := &parts[i]
		s, ok := states[c.Partition]
		if !ok {
			continue
		}
		c.Gaps = s.Gaps
		if s.TopicID != "" && s.TopicID != c.TopicID {
			c.Elsewhere = s.To
			continue
		}
		c.Blocks = s.To
		if c.Blocks > c.End {
			b, err := l.Bounds(ctx, log.TopicSamples, c.Partition)
			if err != nil {
				return fmt.Errorf("read bounds of partition %d: %w", c.Partition, err)
			}
			c.End = b.End
		}
	}
	return nil
}

// Holes returns the parts of the log that are lost and that nobody has accepted, each once: the recorded gaps first, then
// what was found to be missing now. Reason says how it is known.
func (c *PartitionCoverage) Holes() []schema.Gap {
	var holes []schema.Gap
	for _, g := range c.Gaps {
		if g.From < g.To && !catalog.Accepted(g) {
			g.Reason = fmt.Sprintf("never read by a consumer (%s): topic %s, written between %s and %s", g.Reason, g.TopicID, moment(g.FromTime), moment(g.ToTime))
			holes = append(holes, g)
		}
	}
	found := func(from, to int64, why string, args ...any) {
		for _, r := range c.unrecorded(from, to) {
			holes = append(holes, schema.Gap{LogRange: r, Reason: fmt.Sprintf(why, args...)})
		}
	}
	found(c.Blocks, c.Start, "neither in blocks nor in the log: blocks end at %d, the log starts at %d", c.Blocks, c.Start)
	found(max(c.Blocks, c.Start), c.Committed, "committed up to %d, but blocks end at %d", c.Committed, c.Blocks)
	found(c.End, c.Blocks, "in blocks of this topic, but the log ends at %d: what is appended next has offsets that count as shipped", c.End)
	return holes
}

// unrecorded returns [from, to) without the recorded gaps of this incarnation of the topic.
func (c *PartitionCoverage) unrecorded(from, to int64) []schema.LogRange {
	var out []schema.LogRange
	for from < to {
		end, next := to, to
		for _, g := range c.Gaps {
			if g.TopicID != "" && g.TopicID != c.TopicID || g.From >= g.To || g.To <= from || g.From >= end {
				continue
			}
			end = max(from, g.From)
			next = g.To
		}
		if from < end {
			out = append(out, schema.LogRange{TopicID: c.TopicID, Partition: c.Partition, From: from, To: end})
		}
		from = next
	}
	return out
}

// String is one line for the partition and one for each of its gaps.
func (c PartitionCoverage) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "partition %d: log [%d, %d)", c.Partition, c.Start, c.End)
	switch {
	case c.Elsewhere > 0:
		fmt.Fprintf(&b, ", in blocks nothing of this topic (of another up to %d)", c.Elsewhere)
	case c.Blocks == 0:
		b.WriteString(", in blocks nothing")
	default:
		fmt.Fprintf(&b, ", in blocks up to %d", c.Blocks)
	}
	if c.Committed >= 0 {
		fmt.Fprintf(&b, ", committed %d", c.Committed)
	}
	fmt.Fprintf(&b, ", not yet in blocks %d", max(0, c.End-max(c.Blocks, c.Start)))
	for _, g := range c.Gaps {
		fmt.Fprintf(&b, "\n  gap [%d, %d), written between %s and %s: %s", g.From, g.To, moment(g.FromTime), moment(g.ToTime), g.Reason)
	}
	return b.String()
}

func moment(ms int64) string {
	if ms == 0 {
		return "an unknown time"
	}
	return time.UnixMilli(ms).UTC().Format(time.RFC3339)
}
