package consumer

import (
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"

	"sluice/internal/block"
	"sluice/internal/exemplars"
	"sluice/schema"
)

// Exemplars are kept with the generation that brought them: in memory as long as it is held, and in a file beside each of its
// blocks. How many is in the log, so that the files are a function of it.

// selectExemplars returns the tenant's exemplars in [start, end].
func (g *generation) selectExemplars(tenant schema.Tenant, start, end int64, matchers [][]*labels.Matcher) ([]exemplar.QueryResult, error) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.dropped {
		return nil, errDropped
	}
	part := g.tenants[tenant]
	if part == nil {
		return nil, nil
	}
	return part.exemplars.Select(start, end, matchers), nil
}

// exemplarReach is how far from the samples of a block the time of an exemplar in it may be. One that is further from all
// blocks of its generation is not kept: an old one that an application shows for hours was written when it was new.
const exemplarReach = schema.ExemplarReach

// writeExemplars writes each exemplar beside the samples that are nearest in time. dirs are the folders of blocks that are not
// finished yet.
func writeExemplars(dirs []string, blocks []block.Contents, all *exemplars.Set) error {
	if all.Len() == 0 {
		return nil
	}
	parts := all.Split(len(blocks), func(t int64) int {
		nearest, best := -1, exemplarReach.Milliseconds()+1
		for i, b := range blocks {
			if d := max(b.MinTime-t, t-b.MaxTime, 0); d < best {
				nearest, best = i, d
			}
		}
		return nearest
	})
	for i, part := range parts {
		if err := block.WriteExemplars(dirs[i], part); err != nil {
			return err
		}
	}
	return nil
}
