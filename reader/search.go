package reader

import (
	"context"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"
)

// The search API's questions: all names, or all values of a label, of which Prometheus' own code picks the best.

var (
	_ storage.Searcher = (*querier)(nil)
	_ storage.Searcher = (*federated)(nil)
)

func searched(hints *storage.SearchHints, all []string, warnings annotations.Annotations, err error) storage.SearchResultSet {
	if err != nil {
		return storage.ErrSearchResultSet(err, warnings)
	}
	return storage.NewSearchResultSetFromSlice(storage.ApplySearchHints(all, hints), warnings)
}

// SearchLabelNames implements storage.Searcher.
func (q *querier) SearchLabelNames(ctx context.Context, hints *storage.SearchHints, ms ...*labels.Matcher) storage.SearchResultSet {
	all, warnings, err := q.LabelNames(ctx, nil, ms...)
	return searched(hints, all, warnings, err)
}

// SearchLabelValues implements storage.Searcher.
func (q *querier) SearchLabelValues(ctx context.Context, name string, hints *storage.SearchHints, ms ...*labels.Matcher) storage.SearchResultSet {
	all, warnings, err := q.LabelValues(ctx, name, nil, ms...)
	return searched(hints, all, warnings, err)
}

// SearchLabelNames implements storage.Searcher.
func (f *federated) SearchLabelNames(ctx context.Context, hints *storage.SearchHints, ms ...*labels.Matcher) storage.SearchResultSet {
	all, warnings, err := f.LabelNames(ctx, nil, ms...)
	return searched(hints, all, warnings, err)
}

// SearchLabelValues implements storage.Searcher.
func (f *federated) SearchLabelValues(ctx context.Context, name string, hints *storage.SearchHints, ms ...*labels.Matcher) storage.SearchResultSet {
	all, warnings, err := f.LabelValues(ctx, name, nil, ms...)
	return searched(hints, all, warnings, err)
}
