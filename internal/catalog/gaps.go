package catalog

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"sluice/internal/log"
	"sluice/schema"
)

// AcceptedMark starts the reason of a gap that an operator has accepted.
const AcceptedMark = "accepted: "

// Accepted tells whether an operator has accepted that the gap's samples are lost: a query over it is answered with a
// warning, where otherwise it fails.
func Accepted(g schema.Gap) bool { return strings.HasPrefix(g.Reason, AcceptedMark) }

// withGaps returns the state with its gaps as the outside sees them, in a slice of their own.
func (s *state) withGaps(p int32, ps schema.PartitionState) schema.PartitionState {
	ps.Gaps = slices.Clone(ps.Gaps)
	for i := range ps.Gaps {
		g := &ps.Gaps[i]
		g.Partition = p
		// A consumer that copies its gaps from here writes the mark down, too.
		if s.accepted[g.LogRange] && !Accepted(*g) {
			g.Reason = AcceptedMark + g.Reason
		}
	}
	return ps
}

// AcceptGap writes down, durably, that an operator has accepted the gaps of partition p that start at the offset from. Doing it
// again is harmless. The catalogue must be synced; it knows of the acceptance itself after the next Sync.
func (c *Catalog) AcceptGap(ctx context.Context, p int32, from int64) error {
	s, _ := c.Partition(p)
	var recs []log.Record
	var known []string
	found := false
	for _, g := range s.Gaps {
		known = append(known, fmt.Sprintf("[%d, %d)", g.From, g.To))
		if g.From != from {
			continue
		}
		found = true
		if Accepted(g) {
			continue
		}
		rec, err := encodeAccepted(g)
		if err != nil {
			return err
		}
		recs = append(recs, rec)
	}
	switch {
	case !found && len(known) == 0:
		return fmt.Errorf("accept gap at offset %d of partition %d: the partition has no gaps", from, p)
	case !found:
		return fmt.Errorf("accept gap at offset %d of partition %d: no gap starts there, only %s", from, p, strings.Join(known, ", "))
	case len(recs) == 0:
		return nil
	}
	if err := c.log.Append(ctx, log.TopicBlocks, recs); err != nil {
		return fmt.Errorf("accept gap at offset %d of partition %d: %w", from, p, err)
	}
	return nil
}
