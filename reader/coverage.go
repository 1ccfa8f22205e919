package reader

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/util/stats"

	"sluice/internal/trace"
)

// coverage says what an answer was made of: what a caller needs to know that it is whole. It gathers over all selectors
// of a query, and of all of its tenants.
type coverage struct {
	mu         sync.Mutex // guards the rest
	strong     bool
	partitions map[int32]*partitionCoverage
	blocks     map[ulid.ULID]struct{}
	missing    []string // each once
	lost       []string // each once
}

// partitionCoverage is one partition's part of data.stats.coverage: every sample of its log before To is in the answer.
type partitionCoverage struct {
	Partition int32  `json:"partition"`
	To        int64  `json:"to"`               // offset, exclusive
	BlocksTo  int64  `json:"blocks_to"`        // of these, blocks hold what is before
	Member    string `json:"member,omitempty"` // and this consumer held the rest; none: there was no rest
	Zone      string `json:"zone,omitempty"`
}

// coverageJSON is data.stats.coverage.
type coverageJSON struct {
	Consistency string              `json:"consistency"` // strong or eventual
	Whole       bool                `json:"whole"`       // nothing is missing, as far as anybody knows
	Blocks      int                 `json:"blocks"`
	Partitions  []partitionCoverage `json:"partitions"`
	CachedParts int64               `json:"cached_parts,omitempty"` // parts out of the results cache: they were final when they were made
	Missing     []string            `json:"missing,omitempty"`      // of a partial answer
	Lost        []string            `json:"lost,omitempty"`         // what the log has lost, and an operator has accepted
}

// maxTold bounds the sentences that a coverage holds.
const maxTold = 100

// cover notes what a question that was answered was put to.
func (o *options) cover(v *view, withBlocks bool, sources []*source, missing []error, remark error) {
	if o.whole != nil {
		o.whole.cover(v, withBlocks, sources, missing, remark)
		return
	}
	c := &o.coverage
	c.mu.Lock()
	defer c.mu.Unlock()
	c.strong = v.strong
	if c.partitions == nil {
		c.partitions, c.blocks = map[int32]*partitionCoverage{}, map[ulid.ULID]struct{}{}
	}
	now := make([]partitionCoverage, v.partitions)
	for p := range now {
		shipped := v.shipped[int32(p)]
		now[p] = partitionCoverage{Partition: int32(p), To: shipped, BlocksTo: shipped}
	}
	for _, s := range sources {
		switch {
		case s.entry != nil && withBlocks:
			c.blocks[s.entry.ID] = struct{}{}
		case s.share != nil:
			for _, e := range s.share.entries {
				c.blocks[e.ID] = struct{}{}
			}
		case s.src != nil:
			applied := s.applied()
			for _, ask := range s.asks {
				at := &now[ask.Partition]
				at.Member, at.Zone, at.To = s.member.ID, s.member.Zone, max(at.To, applied[ask.Partition], ask.Wait)
			}
		}
	}
	for _, at := range now { // several selectors: the answer has what the one with least has
		if had := c.partitions[at.Partition]; had == nil || at.To < had.To {
			c.partitions[at.Partition] = &at
		}
	}
	for _, m := range missing {
		c.missing = once(c.missing, m.Error())
	}
	if remark != nil {
		c.lost = once(c.lost, remark.Error())
	}
}

// once adds text to a short list unless it is there.
func once(list []string, text string) []string {
	if slices.Contains(list, text) || len(list) >= maxTold {
		return list
	}
	return append(list, text)
}

// told returns what is known so far.
func (c *coverage) told(cached int64) coverageJSON {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := coverageJSON{
		Consistency: consistencyWeak, Whole: len(c.missing) == 0 && len(c.lost) == 0, Blocks: len(c.blocks), Partitions: []partitionCoverage{},
		CachedParts: cached, Missing: slices.Clone(c.missing), Lost: slices.Clone(c.lost),
	}
	if c.strong {
		out.Consistency = consistencyStrong
	}
	for _, at := range c.partitions {
		out.Partitions = append(out.Partitions, *at)
	}
	slices.SortFunc(out.Partitions, func(a, b partitionCoverage) int { return cmp.Compare(a.Partition, b.Partition) })
	return out
}

// partialHeader tells callers of endpoints whose answers have no room for a warning (federate, remote read) that parts
// are missing; its value is how many. What turns out while the body is on its way is not in it.
const partialHeader = "X-Sluice-Missing-Parts"

func (c *coverage) setHeader(h http.Header) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.missing); n > 0 {
		h.Set(partialHeader, fmt.Sprint(n))
	}
}

// queryStats are Prometheus' own statistics and what the answer covers.
type queryStats struct {
	stats.BuiltinStats
	Coverage coverageJSON `json:"coverage"`
}

// renderStats is what stats=true adds to an answer.
func renderStats(ctx context.Context, s *stats.Statistics, param string) stats.QueryStats {
	if param == "" {
		return nil
	}
	builtin := stats.NewQueryStats(s)
	opts, err := optionsFrom(ctx)
	if err != nil {
		return builtin
	}
	theirs := builtin.Builtin()
	theirs.Timings.ExecQueueTime += opts.queued.Seconds()
	return &queryStats{theirs, opts.coverage.told(trace.From(ctx).Counts()[trace.CacheHits])}
}
