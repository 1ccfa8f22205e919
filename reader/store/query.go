package store

import (
	"context"
	"errors"
	"slices"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/index"
	"github.com/prometheus/prometheus/util/annotations"
)

// querier is the storage.Querier of one block.
type querier struct {
	block      *block
	mint, maxt int64
}

// Close does nothing: what a querier holds is memory.
func (q *querier) Close() error { return nil }

// refs resolves the matchers to series, sorted as their labels are.
func (q *querier) refs(ctx context.Context, ms []*labels.Matcher) ([]storage.SeriesRef, error) {
	// PostingsForMatchers sorts what it is given.
	p, err := tsdb.PostingsForMatchers(ctx, &lookup{index: q.block.index, ctx: ctx}, slices.Clone(ms)...)
	if err != nil {
		return nil, err
	}
	return index.ExpandPostings(p)
}

// Select returns the matching series, always sorted. It reads postings; series and chunks are read as the set advances.
func (q *querier) Select(ctx context.Context, _ bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	return q.selectSeries(ctx, hints, ms, false)
}

// SelectWhole is Select with each chunk that has a part in the range as it is in the block: for passing on, as nothing is
// decoded. The series have a method Chunks for that. Whoever reads the samples must leave out those outside of the range.
func (q *querier) SelectWhole(ctx context.Context, hints *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	return q.selectSeries(ctx, hints, ms, true)
}

func (q *querier) selectSeries(ctx context.Context, hints *storage.SelectHints, ms []*labels.Matcher, whole bool) storage.SeriesSet {
	refs, err := q.safeRefs(ctx, ms)
	if err != nil {
		return storage.ErrSeriesSet(err)
	}
	s := &seriesSet{ctx: ctx, block: q.block, refs: refs, mint: q.mint, maxt: q.maxt, whole: whole}
	if hints != nil {
		s.hints = *hints
		s.mint, s.maxt = hints.Start, hints.End
	} else {
		s.hints = storage.SelectHints{Start: q.mint, End: q.maxt}
	}
	return s
}

func (q *querier) safeRefs(ctx context.Context, ms []*labels.Matcher) (refs []storage.SeriesRef, err error) {
	defer recovered(q.block.index.file, &err)
	if refs, err = q.refs(ctx, ms); err != nil {
		return nil, q.block.index.file.fail(err)
	}
	return refs, nil
}

// LabelNames returns the label names of the series that match, sorted.
func (q *querier) LabelNames(ctx context.Context, hints *storage.LabelHints, ms ...*labels.Matcher) (names []string, _ annotations.Annotations, err error) {
	x := q.block.index
	defer recovered(x.file, &err)
	if len(ms) == 0 {
		for name := range x.labels {
			if name != "" {
				names = append(names, name)
			}
		}
	} else if names, err = q.namesOf(ctx, ms); err != nil {
		return nil, nil, x.file.fail(err)
	}
	slices.Sort(names)
	return limited(names, hints), nil, nil
}

func (q *querier) namesOf(ctx context.Context, ms []*labels.Matcher) ([]string, error) {
	refs, err := q.refs(ctx, ms)
	if err != nil {
		return nil, err
	}
	seen := map[string]struct{}{}
	err = q.block.index.series(ctx, refs, false, func(_ storage.SeriesRef, b *labels.ScratchBuilder, _ []chunks.Meta) error {
		b.Labels().Range(func(l labels.Label) { seen[l.Name] = struct{}{} })
		return nil
	})
	names := make([]string, 0, len(seen))
	for name := range seen {
		names = append(names, name)
	}
	return names, err
}

// LabelValues returns the values of a label in the series that match, sorted.
func (q *querier) LabelValues(ctx context.Context, name string, hints *storage.LabelHints, ms ...*labels.Matcher) (values []string, _ annotations.Annotations, err error) {
	x := q.block.index
	defer recovered(x.file, &err)
	l := x.labels[name]
	if l == nil || name == "" {
		return nil, nil, nil
	}
	if len(ms) > 0 {
		values, err = q.valuesOf(ctx, l, name, ms)
	} else {
		err = x.walk(ctx, l, l.from, func(value string, _ span) bool {
			values = append(values, value)
			return hints == nil || hints.Limit <= 0 || len(values) < hints.Limit
		})
	}
	if err != nil {
		return nil, nil, x.file.fail(err)
	}
	return limited(values, hints), nil, nil
}

// valuesOf reads either the series that match or the postings of each value, whichever is less.
func (q *querier) valuesOf(ctx context.Context, l *labelTable, name string, ms []*labels.Matcher) ([]string, error) {
	x := q.block.index
	refs, err := q.refs(ctx, ms)
	if err != nil || len(refs) == 0 {
		return nil, err
	}
	if len(refs) <= 16*l.values {
		seen := map[string]struct{}{}
		err := x.series(ctx, refs, false, func(_ storage.SeriesRef, b *labels.ScratchBuilder, _ []chunks.Meta) error {
			if v := b.Labels().Get(name); v != "" {
				seen[v] = struct{}{}
			}
			return nil
		})
		values := make([]string, 0, len(seen))
		for v := range seen {
			values = append(values, v)
		}
		slices.Sort(values)
		return values, err
	}
	var names []string
	var lists []index.Postings
	var spans []span
	if err := x.walk(ctx, l, l.from, func(value string, list span) bool {
		names, spans = append(names, value), append(spans, list)
		return true
	}); err != nil {
		return nil, err
	}
	for _, s := range spans {
		p, err := x.postings(ctx, []span{s})
		if err != nil {
			return nil, err
		}
		lists = append(lists, p)
	}
	found, err := index.FindIntersectingPostings(index.NewListPostings(refs), lists)
	if err != nil {
		return nil, err
	}
	slices.Sort(found)
	values := make([]string, len(found))
	for i, j := range found {
		values[i] = names[j]
	}
	return values, nil
}

func limited(s []string, hints *storage.LabelHints) []string {
	if hints != nil && hints.Limit > 0 && len(s) > hints.Limit {
		return s[:hints.Limit]
	}
	return s
}

// lookup is as much of a tsdb.IndexReader as PostingsForMatchers uses, for one call with its context.
type lookup struct {
	tsdb.IndexReader // nil: a method that is not below is not called
	index            *blockIndex
	ctx              context.Context
}

func (l *lookup) Postings(ctx context.Context, name string, values ...string) (index.Postings, error) {
	values = slices.Clone(values)
	slices.Sort(values)
	lists, err := l.index.lists(ctx, name, values)
	if err != nil {
		return nil, err
	}
	return l.index.postings(ctx, lists)
}

func (l *lookup) PostingsForLabelMatching(ctx context.Context, name string, match func(string) bool) index.Postings {
	t := l.index.labels[name]
	if t == nil {
		return index.EmptyPostings()
	}
	var lists []span
	err := l.index.walk(ctx, t, t.from, func(value string, list span) bool {
		if match(value) {
			lists = append(lists, list)
		}
		return true
	})
	if err != nil {
		return index.ErrPostings(err)
	}
	p, err := l.index.postings(ctx, lists)
	if err != nil {
		return index.ErrPostings(err)
	}
	return p
}

func (l *lookup) PostingsForAllLabelValues(ctx context.Context, name string) index.Postings {
	return l.PostingsForLabelMatching(ctx, name, func(string) bool { return true })
}

var errUnused = errors.New("not served by a prepared batch")
