package reader

import (
	"context"
	"slices"
	"strings"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/storage"

	"sluice/schema"
)

// ExemplarQuerier returns a querier of the exemplars that the consumers hold; blocks have none.
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
	got, err := ask(q.ctx, q.query, question[[]exemplar.QueryResult]{
		put: func(ctx context.Context, s *source) ([]exemplar.QueryResult, error) {
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

// metadata merges what the members know; a member that does not answer is left out, as metadata is a help only.
func (r *Reader) metadata(ctx context.Context, metric string) (map[string][]metadata.Metadata, error) {
	opts, err := optionsFrom(ctx)
	if err != nil {
		return nil, err
	}
	all := map[string][]metadata.Metadata{}
	for _, o := range opts.each() {
		if err := r.metadataOf(ctx, o.tenant, metric, all); err != nil {
			return nil, err
		}
	}
	for name, ms := range all {
		slices.SortFunc(ms, func(a, b metadata.Metadata) int {
			return strings.Compare(string(a.Type)+"\xff"+a.Help+"\xff"+a.Unit, string(b.Type)+"\xff"+b.Help+"\xff"+b.Unit)
		})
		all[name] = slices.Compact(ms)
	}
	return all, nil
}

// metadataOf adds what the members know of a tenant to all.
func (r *Reader) metadataOf(ctx context.Context, tenant schema.Tenant, metric string, all map[string][]metadata.Metadata) error {
	q := &query{reader: r, opts: &options{tenant: tenant, partial: true}}
	got, err := ask(ctx, q, question[map[string][]metadata.Metadata]{
		put: func(ctx context.Context, s *source) (map[string][]metadata.Metadata, error) {
			return s.src.Metadata(ctx, tenant, metric)
		},
	})
	if err != nil {
		return err
	}
	for _, a := range got.answers {
		for name, ms := range a {
			all[name] = append(all[name], ms...)
		}
	}
	return got.close()
}
