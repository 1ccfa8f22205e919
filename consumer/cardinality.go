package consumer

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"

	"sluice/internal/cardinality"
	"sluice/internal/fetch"
	"sluice/schema"
)

// Cardinality implements fetch.Source over the partitions: a series that several generations
// have counts once, and one that two partitions have, as they have become more meanwhile, twice.
func (c *Consumer) Cardinality(ctx context.Context, tenant schema.Tenant, q cardinality.Query, asks []fetch.Ask) (*cardinality.Result, error) {
	counter := cardinality.NewCounter(q)
	for _, ask := range asks {
		p, err := c.partition(ask.Partition)
		if err != nil {
			return nil, err
		}
		if err := p.wait(ctx, ask.Wait); err != nil {
			return nil, err
		}
		err = p.countSeries(ctx, tenant, &ask, q, counter)
		if errors.Is(err, cardinality.ErrTooMany) {
			return nil, schema.NewError(schema.ErrCardinalityTooLarge, http.StatusUnprocessableEntity, "the series of tenant %s cannot be counted at once: %v; a selector leaves fewer", tenant, err)
		}
		if err != nil {
			return nil, fmt.Errorf("count series: %w", err)
		}
	}
	return counter.Result(), nil
}

// countSeries adds the tenant's series in the generations that are held.
func (p *partition) countSeries(ctx context.Context, tenant schema.Tenant, ask *fetch.Ask, q cardinality.Query, into *cardinality.Counter) (err error) {
	gens, err := p.asked(ask)
	if err != nil {
		return err
	}
	var queriers []storage.Querier
	defer func() {
		for _, open := range queriers {
			err = errors.Join(err, open.Close())
		}
	}()
	for _, g := range gens {
		open, err := g.querier(tenant, q.Since, q.End())
		switch {
		case errors.Is(err, errDropped):
			return &fetch.HoleError{Partition: p.id, From: ask.From, Held: g.to}
		case err != nil:
			return err
		case open == nil:
			continue
		}
		queriers = append(queriers, open)
		g.tellSamples(tenant, into)
	}
	if len(queriers) == 0 {
		return nil
	}
	merged := queriers[0]
	if len(queriers) > 1 {
		merged = newRankedQuerier(queriers)
	}
	total := int64(0)
	err = eachSeries(ctx, merged, &q, q.Matchers, func(lset labels.Labels) error {
		total++
		return into.Add(lset)
	})
	if err == nil && len(q.Matchers) > 0 {
		total = 0
		err = eachSeries(ctx, merged, &q, nil, func(labels.Labels) error {
			total++
			return nil
		})
	}
	into.AddTotal(total)
	return err
}

// eachSeries calls f with the labels of every series that matches and has a sample in the time of the question.
func eachSeries(ctx context.Context, q storage.Querier, asked *cardinality.Query, ms []*labels.Matcher, f func(labels.Labels) error) error {
	if len(ms) == 0 {
		ms = []*labels.Matcher{labels.MustNewMatcher(labels.MatchRegexp, model.MetricNameLabel, ".*")}
	}
	set := q.Select(ctx, true, &storage.SelectHints{Start: asked.Since, End: asked.End(), Func: "series"}, ms...)
	for set.Next() {
		if err := f(set.At().Labels()); err != nil {
			return err
		}
	}
	return set.Err()
}

// tellSamples tells of the chunks of a tenant in the generation.
func (g *generation) tellSamples(tenant schema.Tenant, into *cardinality.Counter) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	part := g.tenants[tenant]
	switch {
	case part == nil:
	case part.head != nil:
		into.AddSamples(part.head.series.Stats())
	default:
		for _, b := range part.blocks {
			into.AddSamples(int64(b.meta.Stats.NumChunks), b.meta.MinTime, b.meta.MaxTime-1)
		}
	}
}
