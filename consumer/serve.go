package consumer

import (
	"context"
	"errors"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/storage"

	"sluice/internal/fetch"
	"sluice/internal/merge"
	"sluice/schema"
)

var (
	_ fetch.Source = (*Consumer)(nil)
	_ fetch.Times  = (*Consumer)(nil)
)

// Querier implements fetch.Source over live heads, frozen heads and sealed blocks.
func (c *Consumer) Querier(ctx context.Context, tenant schema.Tenant, mint, maxt int64, asks []fetch.Ask) (_ storage.Querier, err error) {
	var queriers []storage.Querier
	defer func() {
		if err != nil {
			for _, q := range queriers {
				err = errors.Join(err, q.Close())
			}
		}
	}()
	applied := fetch.Applied{}
	for _, ask := range asks {
		p, err := c.partition(ask.Partition)
		if err != nil {
			return nil, err
		}
		if err := p.wait(ctx, ask.Wait); err != nil {
			return nil, err
		}
		p.mu.RLock()
		applied[ask.Partition] = p.applied // before the heads are opened: they have that much at least
		p.mu.RUnlock()
		gens, err := p.asked(&ask)
		if err != nil {
			return nil, err
		}
		for _, g := range gens {
			q, err := g.querier(tenant, mint, maxt)
			if errors.Is(err, errDropped) {
				return nil, &fetch.HoleError{Partition: ask.Partition, From: ask.From, Held: g.to}
			}
			if err != nil {
				return nil, err
			}
			if q != nil {
				queriers = append(queriers, q)
			}
		}
	}
	switch len(queriers) {
	case 0:
		return fetch.WithApplied(storage.NoopQuerier(), applied), nil
	case 1:
		return fetch.WithApplied(queriers[0], applied), nil
	}
	return fetch.WithApplied(newRankedQuerier(queriers), applied), nil
}

// Held implements fetch.Times over live heads, frozen heads and sealed blocks.
func (c *Consumer) Held(ctx context.Context, tenant schema.Tenant, asks []fetch.Ask) (all []fetch.Interval, _ fetch.Applied, _ error) {
	applied := fetch.Applied{}
	for _, ask := range asks {
		p, err := c.partition(ask.Partition)
		if err != nil {
			return nil, nil, err
		}
		if err := p.wait(ctx, ask.Wait); err != nil {
			return nil, nil, err
		}
		p.mu.RLock()
		applied[ask.Partition] = p.applied
		p.mu.RUnlock()
		gens, err := p.since(ask.From)
		if err != nil {
			return nil, nil, err
		}
		for _, g := range gens {
			held, err := g.held(tenant)
			if errors.Is(err, errDropped) {
				return nil, nil, &fetch.HoleError{Partition: ask.Partition, From: ask.From, Held: g.to}
			}
			if err != nil {
				return nil, nil, err
			}
			all = append(all, held...)
		}
	}
	return all, applied, nil
}

// Exemplars implements fetch.Source.
func (c *Consumer) Exemplars(ctx context.Context, tenant schema.Tenant, start, end int64, matchers [][]*labels.Matcher, asks []fetch.Ask) ([]exemplar.QueryResult, error) {
	var out []exemplar.QueryResult
	for _, ask := range asks {
		p, err := c.partition(ask.Partition)
		if err != nil {
			return nil, err
		}
		if err := p.wait(ctx, ask.Wait); err != nil {
			return nil, err
		}
		gens, err := p.asked(&ask)
		if err != nil {
			return nil, err
		}
		for _, g := range gens {
			found, err := g.selectExemplars(tenant, start, end, matchers)
			if errors.Is(err, errDropped) {
				return nil, &fetch.HoleError{Partition: ask.Partition, From: ask.From, Held: g.to}
			}
			out = append(out, found...)
		}
	}
	return out, nil
}

// Metadata implements fetch.Source.
func (c *Consumer) Metadata(_ context.Context, tenant schema.Tenant, metric string) (map[string][]metadata.Metadata, error) {
	out := map[string][]metadata.Metadata{}
	for _, p := range c.open() {
		p.side.selectMetadata(tenant, metric, out)
	}
	return out, nil
}

func (c *Consumer) partition(id int32) (*partition, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	h := c.holdings[id]
	if h == nil {
		return nil, &fetch.HoleError{Partition: id, Held: -1}
	}
	return h.partition, nil
}

// wait returns once every record before offset has been applied.
func (p *partition) wait(ctx context.Context, offset int64) error {
	for {
		p.mu.RLock()
		applied, advanced, failure := p.applied, p.advanced, p.failure
		p.mu.RUnlock()
		switch {
		case applied >= offset:
			return nil
		case failure != nil:
			return schema.Unavailable(schema.ErrPartitionUnavailable, failure, "partition %d has stopped at offset %d", p.id, applied)
		}
		select {
		case <-advanced:
		case <-ctx.Done():
			return schema.Unavailable(schema.ErrStrongRead, ctx.Err(), "partition %d is applied up to offset %d, the strong read needs %d", p.id, applied, offset)
		}
	}
}

// asked returns the generations that are asked for.
func (p *partition) asked(ask *fetch.Ask) ([]*generation, error) {
	from := ask.From
	if ask.All {
		p.mu.RLock()
		from = p.heldFrom
		p.mu.RUnlock()
	}
	return p.since(from)
}

// since returns the generations that hold the partition's samples from offset on.
func (p *partition) since(from int64) ([]*generation, error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if !p.caughtUp {
		return nil, schema.Unavailable(schema.ErrPartitionUnavailable, nil, "partition %d is replaying: applied %d of %d", p.id, p.applied, p.replay.End)
	}
	if p.heldFrom > from {
		return nil, &fetch.HoleError{Partition: p.id, From: from, Held: p.heldFrom}
	}
	var gens []*generation
	for i, g := range p.gens {
		if live := i == len(p.gens)-1; live || g.to > from {
			gens = append(gens, g)
		}
	}
	return gens, nil
}

// newRankedQuerier merges queriers; the samples of an earlier one win.
func newRankedQuerier(queriers []storage.Querier) storage.Querier {
	ranked := make([]storage.Querier, len(queriers))
	for i, q := range queriers {
		ranked[i] = rankedQuerier{q, i}
	}
	return storage.NewMergeQuerier(ranked, nil, merge.Series)
}

type rankedQuerier struct {
	storage.Querier
	rank int
}

func (q rankedQuerier) Select(ctx context.Context, sorted bool, hints *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	return merge.RankSeriesSet(q.Querier.Select(ctx, sorted, hints, matchers...), q.rank)
}
