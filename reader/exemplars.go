package reader

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/storage"

	"sluice/internal/block"
	"sluice/internal/families"
	"sluice/reader/store"
	"sluice/schema"
)

// ExemplarQuerier returns a querier of the exemplars that the consumers hold, and of those beside the blocks in the bucket.
func (r *Reader) ExemplarQuerier(ctx context.Context) (storage.ExemplarQuerier, error) {
	opts, err := optionsFrom(ctx)
	if err != nil {
		return nil, err
	}
	var members []*exemplarQuerier
	for _, o := range opts.each() {
		members = append(members, &exemplarQuerier{ctx: ctx, query: &query{reader: r, opts: o}})
	}
	if len(members) == 1 {
		return members[0], nil
	}
	return federatedExemplars{members}, nil
}

type exemplarQuerier struct {
	ctx   context.Context // the interface has none in Select
	query *query
}

// Select merges the exemplars of all sources, by series, in order of time.
func (q *exemplarQuerier) Select(start, end int64, matchers ...[]*labels.Matcher) ([]exemplar.QueryResult, error) {
	reach := schema.ExemplarReach.Milliseconds()
	got, err := ask(q.ctx, q.query, question[[]exemplar.QueryResult]{
		blocks: true, mint: max(start, math.MinInt64+reach) - reach, maxt: min(end, math.MaxInt64-reach) + reach, only: block.HasExemplars,
		put: func(ctx context.Context, s *source) ([]exemplar.QueryResult, error) {
			if s.entry != nil {
				return q.query.reader.blockExemplars(ctx, s.entry, start, end, matchers)
			}
			return s.src.Exemplars(ctx, q.query.opts.tenant, start, end, matchers, s.asks)
		},
	})
	if err != nil {
		return nil, q.query.told(err)
	}
	var all []exemplar.QueryResult
	for _, a := range got.answers {
		all = append(all, a...)
	}
	return mergeExemplars(all), got.close()
}

// blockExemplars reads the exemplars beside a block.
func (r *Reader) blockExemplars(ctx context.Context, e *schema.BlockEntry, start, end int64, matchers [][]*labels.Matcher) ([]exemplar.QueryResult, error) {
	set, err := block.ReadExemplars(ctx, r.bucket, e)
	switch {
	case err == nil:
		return set.Select(start, end, matchers), nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, block.ErrNotFound):
		err = fmt.Errorf("%w: %w", store.ErrGone, err)
	}
	return nil, schema.Unavailable(schema.ErrBlockUnreadable, err, "exemplars of block %s of tenant %s cannot be read", e.ID, e.Tenant)
}

func mergeExemplars(all []exemplar.QueryResult) []exemplar.QueryResult {
	slices.SortStableFunc(all, func(a, b exemplar.QueryResult) int { return labels.Compare(a.SeriesLabels, b.SeriesLabels) })
	merged := []exemplar.QueryResult{}
	for _, f := range all {
		if n := len(merged); n > 0 && labels.Equal(merged[n-1].SeriesLabels, f.SeriesLabels) {
			merged[n-1].Exemplars = append(slices.Clip(merged[n-1].Exemplars), f.Exemplars...)
			continue
		}
		merged = append(merged, f)
	}
	for i := range merged {
		es := slices.Clone(merged[i].Exemplars)
		slices.SortStableFunc(es, func(a, b exemplar.Exemplar) int { return exemplar.Compare(a, b) })
		merged[i].Exemplars = slices.CompactFunc(es, func(a, b exemplar.Exemplar) bool { return a.Equals(b) })
	}
	return merged
}

// metadata merges what the members know and, of metrics that they do not, what the bucket has. What cannot be reached is left out, as
// metadata is a help only; of the bucket it is told.
func (r *Reader) metadata(ctx context.Context, metric string) (_ map[string][]metadata.Metadata, warnings []string, _ error) {
	opts, err := optionsFrom(ctx)
	if err != nil {
		return nil, nil, err
	}
	all := map[string][]metadata.Metadata{}
	for _, o := range opts.each() {
		warning, err := r.metadataOf(ctx, o.tenant, metric, all)
		if err != nil {
			return nil, nil, err
		}
		if warning != nil {
			warnings = append(warnings, warning.Error())
		}
	}
	for name, ms := range all {
		slices.SortFunc(ms, func(a, b metadata.Metadata) int {
			return strings.Compare(string(a.Type)+"\xff"+a.Help+"\xff"+a.Unit, string(b.Type)+"\xff"+b.Help+"\xff"+b.Unit)
		})
		all[name] = slices.Compact(ms)
	}
	return all, warnings, nil
}

// metadataOf adds what is known of a tenant to all.
func (r *Reader) metadataOf(ctx context.Context, tenant schema.Tenant, metric string, all map[string][]metadata.Metadata) (warning, _ error) {
	q := &query{reader: r, opts: &options{tenant: tenant, partial: true}}
	got, err := ask(ctx, q, question[map[string][]metadata.Metadata]{
		put: func(ctx context.Context, s *source) (map[string][]metadata.Metadata, error) {
			return s.src.Metadata(ctx, tenant, metric)
		},
	})
	if err != nil {
		return nil, err
	}
	told := map[string]bool{} // those who have heard of a metric last know best
	for _, a := range got.answers {
		for name, ms := range a {
			all[name], told[name] = append(all[name], ms...), true
		}
	}
	saved, warning := families.ReadAll(ctx, r.bucket, tenant)
	for name, f := range saved {
		if !told[name] && (metric == "" || metric == name) {
			all[name] = append(all[name], f.Metadata)
		}
	}
	return warning, got.close()
}
