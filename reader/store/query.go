package store

import (
	"context"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"

	layout "sluice/internal/block"
)

// querier is the storage.Querier of one block.
type querier struct {
	block      *block
	replies    *replies
	mint, maxt int64
}

// Close does nothing: what a querier holds is memory.
func (q *querier) Close() error { return nil }

// Select returns the matching series, always sorted. It reads postings; series and chunks are read as the set advances.
func (q *querier) Select(ctx context.Context, _ bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	asked := question(aboutSeries, q.block.index.file, "", nil, ms)
	if _, none := q.replies.get(asked); none {
		return storage.EmptySeriesSet()
	}
	found, err := q.safeFind(ctx, ms)
	if err != nil {
		return storage.ErrSeriesSet(err)
	}
	if len(found.refs) == 0 {
		q.replies.put(asked, nil)
	}
	s := &seriesSet{ctx: ctx, block: q.block, refs: found.refs, rest: found.rest, hurry: found.deep, mint: q.mint, maxt: q.maxt}
	if hints != nil {
		s.hints = *hints
		s.mint, s.maxt = hints.Start, hints.End
	} else {
		s.hints = storage.SelectHints{Start: q.mint, End: q.maxt}
	}
	return s
}

func (q *querier) safeFind(ctx context.Context, ms []*labels.Matcher) (f found, err error) {
	defer recovered(q.block.index.file, &err)
	if f, err = q.block.index.find(ctx, ms); err != nil {
		return found{}, q.block.index.file.fail(err)
	}
	return f, nil
}

// refs returns the series that match, sorted as their labels are.
func (q *querier) refs(ctx context.Context, ms []*labels.Matcher) ([]uint32, error) {
	f, err := q.block.index.find(ctx, ms)
	if err != nil {
		return nil, err
	}
	return q.block.index.filter(ctx, f.refs, f.rest)
}

// LabelNames returns the label names of the series that match, sorted.
func (q *querier) LabelNames(ctx context.Context, hints *storage.LabelHints, ms ...*labels.Matcher) (names []string, _ annotations.Annotations, err error) {
	x := q.block.index
	defer recovered(x.file, &err)
	asked := question(aboutNames, x.file, "", hints, ms)
	if names, ok := q.replies.get(asked); ok {
		return names, nil, nil
	}
	if len(ms) == 0 {
		for _, l := range x.Labels {
			if l.Name != "" {
				names = append(names, strings.Clone(l.Name))
			}
		}
	} else if names, err = q.namesOf(ctx, ms); err != nil {
		return nil, nil, x.file.fail(err)
	}
	slices.Sort(names)
	names = limited(names, hints)
	q.replies.put(asked, names)
	return names, nil, nil
}

func (q *querier) namesOf(ctx context.Context, ms []*labels.Matcher) ([]string, error) {
	x := q.block.index
	refs, err := q.refs(ctx, ms)
	if err != nil {
		return nil, err
	}
	seen := map[string]struct{}{}
	for batch := range slices.Chunk(refs, batchSeries) {
		e, err := x.entries(ctx, batch, 1, 0)
		if err != nil {
			return nil, err
		}
		if err := x.resolve(ctx, e, true); err != nil {
			return nil, err
		}
		for _, name := range e.texts {
			seen[name] = struct{}{}
		}
	}
	return slices.Collect(maps.Keys(seen)), nil
}

// LabelValues returns the values of a label in the series that match, sorted.
func (q *querier) LabelValues(ctx context.Context, name string, hints *storage.LabelHints, ms ...*labels.Matcher) (values []string, _ annotations.Annotations, err error) {
	x := q.block.index
	defer recovered(x.file, &err)
	l := x.Label(name)
	if l == nil || name == "" {
		return nil, nil, nil
	}
	asked := question(aboutValues, x.file, name, hints, ms)
	if values, ok := q.replies.get(asked); ok {
		return values, nil, nil
	}
	if own := ownMatchers(name, ms); own {
		values, err = x.valuesThat(ctx, l, hints, ms)
	} else {
		values, err = q.valuesOf(ctx, l, name, ms)
	}
	if err != nil {
		return nil, nil, x.file.fail(err)
	}
	values = limited(values, hints)
	q.replies.put(asked, values)
	return values, nil, nil
}

// ownMatchers tells whether all matchers are about the label itself.
func ownMatchers(name string, ms []*labels.Matcher) bool {
	return !slices.ContainsFunc(ms, func(m *labels.Matcher) bool { return m.Name != name })
}

// valuesThat returns the values of a label that match: the table has all that there are.
func (x *blockIndex) valuesThat(ctx context.Context, l *layout.HeaderLabel, hints *storage.LabelHints, ms []*labels.Matcher) ([]string, error) {
	in := l.Stretches
	for _, m := range ms {
		if m.Type != labels.MatchRegexp || m.Matches("") {
			continue
		}
		if s := stretches(l, literalPrefix(m)); len(s) < len(in) {
			in = s
		}
	}
	limit := math.MaxInt
	if hints != nil && hints.Limit > 0 {
		limit = hints.Limit
	}
	if len(ms) == 0 { // the header says how far to read
		n := 0
		for i := range in {
			if n += in[i].Values; n >= limit {
				in = in[:i+1]
				break
			}
		}
	}
	var values []string
	err := x.walk(ctx, l, in, func(value string, _ span) bool {
		if !slices.ContainsFunc(ms, func(m *labels.Matcher) bool { return !m.Matches(value) }) {
			values = append(values, strings.Clone(value))
		}
		return len(values) < limit
	})
	return values, err
}

// valuesOf reads either the series that match or the postings of each value, whichever is less.
func (q *querier) valuesOf(ctx context.Context, l *layout.HeaderLabel, name string, ms []*labels.Matcher) ([]string, error) {
	x := q.block.index
	f, err := x.find(ctx, ms)
	if err != nil || len(f.refs) == 0 {
		return nil, err
	}
	last := l.Stretches[len(l.Stretches)-1]
	if x.bytesOf(f.refs) <= 2*(last.End-l.Stretches[0].Lists+last.To-l.Stretches[0].From)+roundBytes || len(f.rest) > 0 {
		seen := map[string]struct{}{}
		err := x.each(ctx, f.refs, func(_ uint32, ls labels.Labels) {
			if matches(ls, f.rest) {
				if v := ls.Get(name); v != "" {
					seen[v] = struct{}{}
				}
			}
		})
		return slices.Sorted(maps.Keys(seen)), err
	}
	var names []string
	var spans []span
	if err := x.walk(ctx, l, l.Stretches, func(value string, list span) bool {
		names, spans = append(names, strings.Clone(value)), append(spans, list)
		return true
	}); err != nil {
		return nil, err
	}
	var values []string
	var list []uint32
	err = x.pages.read(ctx, x.file, forPostings, spans, func(i int, b []byte) (err error) {
		if list, err = x.appendList(list[:0], spans[i].from, b); err == nil && intersect(f.refs, list) {
			values = append(values, names[i])
		}
		return err
	})
	return values, err
}

// intersect tells whether two sorted lists have a member in common.
func intersect(a, b []uint32) bool {
	for len(a) > 0 && len(b) > 0 {
		if a[0] == b[0] {
			return true
		}
		if a[0] < b[0] {
			a = skipTo(a, b[0])
		} else {
			b = skipTo(b, a[0])
		}
	}
	return false
}

func limited(s []string, hints *storage.LabelHints) []string {
	if hints != nil && hints.Limit > 0 && len(s) > hints.Limit {
		return s[:hints.Limit]
	}
	return s
}
