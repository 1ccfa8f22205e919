package reader

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"
	"golang.org/x/sync/errgroup"

	"sluice/internal/merge"
	"sluice/schema"
)

// A query over several tenants is a query to each of them. Their series are told apart by a label, as in Cortex and Mimir;
// where a series has such a label itself, that one is given out under another name. Matchers on the label choose tenants.
const (
	tenantLabel   = "__tenant_id__"
	originalLabel = "original_" + tenantLabel
)

// tenantsAtOnce is how many tenants are asked side by side where their answers need not be there together.
const tenantsAtOnce = 8

// of returns the options for one of the tenants; what goes wrong there decides the status of the whole.
func (o *options) of(t schema.Tenant) *options {
	return &options{tenant: t, strong: o.strong, partial: o.partial, whole: o}
}

// each returns the options for each tenant of the query.
func (o *options) each() []*options {
	if len(o.tenants) == 0 {
		return []*options{o}
	}
	all := make([]*options, len(o.tenants))
	for i, t := range o.tenants {
		all[i] = o.of(t)
	}
	return all
}

// federated is a querier over the tenants in the context of its first call. With one tenant it is that tenant's querier.
type federated struct {
	reader     *Reader
	mint, maxt int64

	mu      sync.Mutex
	members []*querier // nil before the first call
	closed  bool
}

func (f *federated) start(ctx context.Context) ([]*querier, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, errors.New("querier is closed")
	}
	if f.members == nil {
		opts, err := optionsFrom(ctx)
		if err != nil {
			return nil, err
		}
		for _, o := range opts.each() {
			f.members = append(f.members, &querier{reader: f.reader, mint: f.mint, maxt: f.maxt, query: &query{reader: f.reader, opts: o}})
		}
	}
	return f.members, nil
}

func (q *querier) tenant() schema.Tenant { return q.query.opts.tenant }

// choose returns the members that the matchers on the tenants' label leave, and the matchers for what they hold.
func choose(members []*querier, ms []*labels.Matcher) ([]*querier, []*labels.Matcher, error) {
	accept, rest, err := splitMatchers(ms)
	if err != nil {
		return nil, nil, err
	}
	if len(rest) == 0 && len(ms) > 0 { // every series of the tenants chosen
		rest = append(rest, labels.MustNewMatcher(labels.MatchRegexp, model.MetricNameLabel, ".*"))
	}
	chosen := slices.DeleteFunc(slices.Clone(members), func(q *querier) bool { return !accept(q.tenant()) })
	return chosen, rest, nil
}

// splitMatchers parts matchers on the tenants' label from others. What is given out under another name is asked for by its own.
func splitMatchers(ms []*labels.Matcher) (accept func(schema.Tenant) bool, rest []*labels.Matcher, err error) {
	var of []*labels.Matcher
	for _, m := range ms {
		switch m.Name {
		case tenantLabel:
			of = append(of, m)
			continue
		case originalLabel:
			if m, err = labels.NewMatcher(m.Type, tenantLabel, m.Value); err != nil {
				return nil, nil, err
			}
		}
		rest = append(rest, m)
	}
	return func(t schema.Tenant) bool {
		return !slices.ContainsFunc(of, func(m *labels.Matcher) bool { return !m.Matches(string(t)) })
	}, rest, nil
}

// Select selects from every tenant that the matchers leave. Only where the caller wants order are all asked at once.
func (f *federated) Select(ctx context.Context, sorted bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	members, err := f.start(ctx)
	if err != nil {
		return storage.ErrSeriesSet(err)
	}
	if len(members) == 1 {
		return members[0].Select(ctx, sorted, hints, ms...)
	}
	if members, ms, err = choose(members, ms); err != nil {
		return storage.ErrSeriesSet(err)
	}
	if !sorted {
		return newChain(len(members), func(i int) storage.SeriesSet {
			q := members[i]
			return &labelledSet{SeriesSet: q.Select(ctx, false, hints, ms...), tenant: q.tenant()}
		})
	}
	limit := 0
	if hints != nil {
		limit = hints.Limit
	}
	// Series that have the label themselves change their place when it gets another name: they are asked for apart.
	without := labels.MustNewMatcher(labels.MatchEqual, tenantLabel, "")
	with := labels.MustNewMatcher(labels.MatchNotEqual, tenantLabel, "")
	var sets []storage.SeriesSet
	for _, q := range members {
		sets = append(sets,
			&orderedSet{labelledSet: labelledSet{SeriesSet: q.Select(ctx, true, hints, append(slices.Clip(ms), without)...), tenant: q.tenant()}},
			&sortedSet{labelledSet: labelledSet{SeriesSet: q.Select(ctx, true, hints, append(slices.Clip(ms), with)...), tenant: q.tenant()}})
	}
	return storage.NewMergeSeriesSet(sets, limit, merge.Series)
}

// LabelNames returns the names in all tenants, and those that come from there being several.
func (f *federated) LabelNames(ctx context.Context, hints *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	members, err := f.start(ctx)
	switch {
	case err != nil:
		return nil, nil, err
	case len(members) == 1:
		return members[0].LabelNames(ctx, hints, ms...)
	}
	return askAll(ctx, members, hints, ms,
		func(ctx context.Context, q *querier, ms []*labels.Matcher) ([]string, annotations.Annotations, error) {
			return q.LabelNames(ctx, hints, ms...)
		},
		func(_ schema.Tenant, names []string) []string {
			if len(names) == 0 {
				return nil
			}
			if i := slices.Index(names, tenantLabel); i >= 0 {
				names[i] = originalLabel
			}
			return append(names, tenantLabel)
		})
}

// LabelValues returns the values in all tenants. Of the tenants' own label they are the tenants that have anything.
func (f *federated) LabelValues(ctx context.Context, name string, hints *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	members, err := f.start(ctx)
	switch {
	case err != nil:
		return nil, nil, err
	case len(members) == 1:
		return members[0].LabelValues(ctx, name, hints, ms...)
	}
	if name == tenantLabel {
		return askAll(ctx, members, hints, ms,
			func(ctx context.Context, q *querier, ms []*labels.Matcher) ([]string, annotations.Annotations, error) {
				return q.LabelNames(ctx, &storage.LabelHints{Limit: 1}, ms...)
			},
			func(t schema.Tenant, names []string) []string {
				if len(names) == 0 {
					return nil
				}
				return []string{string(t)}
			})
	}
	inside := name
	if name == originalLabel {
		inside = tenantLabel
	}
	return askAll(ctx, members, hints, ms,
		func(ctx context.Context, q *querier, ms []*labels.Matcher) ([]string, annotations.Annotations, error) {
			return q.LabelValues(ctx, inside, hints, ms...)
		},
		func(_ schema.Tenant, values []string) []string { return values })
}

// askAll asks the tenants that the matchers leave and puts together what seen makes of each answer.
func askAll(ctx context.Context, members []*querier, hints *storage.LabelHints, ms []*labels.Matcher,
	ask func(context.Context, *querier, []*labels.Matcher) ([]string, annotations.Annotations, error),
	seen func(schema.Tenant, []string) []string,
) ([]string, annotations.Annotations, error) {
	members, ms, err := choose(members, ms)
	if err != nil {
		return nil, nil, err
	}
	var mu sync.Mutex // guards all and warnings
	var all []string
	var warnings annotations.Annotations
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(tenantsAtOnce)
	for _, q := range members {
		g.Go(func() error {
			got, warned, err := ask(ctx, q, ms)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, seen(q.tenant(), slices.Clone(got))...)
			warnings.Merge(warned)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	return sortedUnique(all, hints), warnings, nil
}

// Close closes the queriers of all tenants.
func (f *federated) Close() error {
	f.mu.Lock()
	f.closed = true
	members := f.members
	f.mu.Unlock()
	var errs []error
	for _, q := range members {
		errs = append(errs, q.Close())
	}
	return errors.Join(errs...)
}

// federatedExemplars is the exemplar querier of several tenants.
type federatedExemplars struct{ members []*exemplarQuerier }

// Select asks the tenants one after the other: exemplars are few.
func (f federatedExemplars) Select(start, end int64, sets ...[]*labels.Matcher) ([]exemplar.QueryResult, error) {
	var all []exemplar.QueryResult
	for _, q := range f.members {
		tenant := q.query.opts.tenant
		var asked [][]*labels.Matcher
		for _, ms := range sets {
			accept, rest, err := splitMatchers(ms)
			if err != nil {
				return nil, err
			}
			if accept(tenant) {
				asked = append(asked, rest)
			}
		}
		if len(asked) == 0 {
			continue
		}
		found, err := q.Select(start, end, asked...)
		if err != nil {
			return nil, err
		}
		b := labels.NewBuilder(labels.EmptyLabels())
		for _, r := range found {
			r.SeriesLabels = withTenant(b, r.SeriesLabels, tenant)
			all = append(all, r)
		}
	}
	return mergeExemplars(all), nil
}

// withTenant returns the labels with which a tenant's series is given out.
func withTenant(b *labels.Builder, ls labels.Labels, t schema.Tenant) labels.Labels {
	b.Reset(ls)
	if own := ls.Get(tenantLabel); own != "" {
		b.Set(originalLabel, own)
	}
	return b.Set(tenantLabel, string(t)).Labels()
}

// renamed is a series under other labels.
type renamed struct {
	storage.Series
	labels labels.Labels
}

func (r renamed) Labels() labels.Labels { return r.labels }

// AppendChunks implements merge.Undecoded.
func (r renamed) AppendChunks(out []merge.Chunk) (_ []merge.Chunk, ok bool) {
	return merge.ChunksOf(r.Series, out)
}

// labelledSet gives out a tenant's series with the label, in the order of the series without it.
type labelledSet struct {
	storage.SeriesSet
	tenant  schema.Tenant
	builder *labels.Builder
}

func (s *labelledSet) At() storage.Series {
	if s.builder == nil {
		s.builder = labels.NewBuilder(labels.EmptyLabels())
	}
	series := s.SeriesSet.At()
	return renamed{series, withTenant(s.builder, series.Labels(), s.tenant)}
}

// orderedSet is a labelledSet in the order of the labels given out, for series that do not have the label themselves. One more
// label changes the order of few of them: a series without any label after the new one now comes behind the series that have
// all of its labels and others before the new one. Such series are held back until those have passed.
type orderedSet struct {
	labelledSet
	held  []heldSeries     // each has all labels of the one before
	ready []storage.Series // in their order
	at    storage.Series
}

type heldSeries struct {
	series storage.Series
	labels []labels.Label // without the tenant
}

func (s *orderedSet) Next() bool {
	for len(s.ready) == 0 {
		if !s.SeriesSet.Next() {
			if len(s.held) == 0 {
				return false
			}
			s.free(nil)
			break
		}
		before, whole := labelsBefore(s.SeriesSet.At().Labels())
		s.free(before)
		if series := s.labelledSet.At(); whole {
			s.held = append(s.held, heldSeries{series, before})
		} else {
			s.ready = append(s.ready, series)
		}
	}
	s.at, s.ready = s.ready[0], s.ready[1:]
	return true
}

func (s *orderedSet) At() storage.Series { return s.at }

// free gives out the series held that the next one, of which these are the labels before the tenant, does not extend.
func (s *orderedSet) free(next []labels.Label) {
	for n := len(s.held); n > 0; n = len(s.held) {
		top := s.held[n-1]
		if len(next) > len(top.labels) && slices.Equal(next[:len(top.labels)], top.labels) {
			return
		}
		s.held, s.ready = s.held[:n-1], append(s.ready, top.series)
	}
}

// labelsBefore returns the labels that sort before the tenant's; whole says that these are all.
func labelsBefore(ls labels.Labels) (before []labels.Label, whole bool) {
	whole = true
	ls.Range(func(l labels.Label) {
		if l.Name < tenantLabel {
			before = append(before, l)
		} else {
			whole = false
		}
	})
	return before, whole
}

// sortedSet is a labelledSet that has its series sorted by the labels given out, and those with the same as one. It holds all of them: they are those that
// have the tenants' label themselves, which are few.
type sortedSet struct {
	labelledSet
	all    []storage.Series
	sorted bool
}

func (s *sortedSet) Next() bool {
	if s.sorted {
		if len(s.all) > 0 {
			s.all = s.all[1:]
		}
		return len(s.all) > 0
	}
	s.sorted = true
	for s.SeriesSet.Next() {
		s.all = append(s.all, s.labelledSet.At())
	}
	slices.SortStableFunc(s.all, func(a, b storage.Series) int { return labels.Compare(a.Labels(), b.Labels()) })
	one := s.all[:0]
	for _, next := range s.all {
		if n := len(one); n > 0 && labels.Equal(one[n-1].Labels(), next.Labels()) {
			one[n-1] = merge.Series(one[n-1], next)
			continue
		}
		one = append(one, next)
	}
	s.all = one
	return len(s.all) > 0
}

func (s *sortedSet) At() storage.Series { return s.all[0] }

// chain gives out sets one after the other, and opens them a few ahead.
type chain struct {
	n        int
	open     func(int) storage.SeriesSet
	sets     []storage.SeriesSet // opened so far
	at       int                 // in sets
	err      error
	warnings annotations.Annotations
}

func newChain(n int, open func(int) storage.SeriesSet) *chain {
	c := &chain{n: n, open: open}
	c.ahead()
	return c
}

func (c *chain) ahead() {
	for len(c.sets) < min(c.n, c.at+tenantsAtOnce) {
		c.sets = append(c.sets, c.open(len(c.sets)))
	}
}

func (c *chain) Next() bool {
	for c.err == nil && c.at < c.n {
		set := c.sets[c.at]
		if set.Next() {
			return true
		}
		c.err = set.Err()
		c.warnings.Merge(set.Warnings())
		c.sets[c.at] = nil // its memory
		c.at++
		c.ahead()
	}
	return false
}

func (c *chain) At() storage.Series                { return c.sets[c.at].At() }
func (c *chain) Err() error                        { return c.err }
func (c *chain) Warnings() annotations.Annotations { return c.warnings }
