package reader

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"

	"sluice/internal/merge"
	"sluice/internal/queried"
	"sluice/internal/trace"
	"sluice/internal/web"
	"sluice/schema"
)

// options are how a caller wants to be answered. They travel in the context.
type options struct {
	tenant  schema.Tenant
	tenants []schema.Tenant // two or more: the query is about them, and tenant is empty
	strong  bool            // see everything that was acknowledged before the query, even if no consumer has applied it yet
	partial bool            // a part of the answer, with a warning, instead of an error
	explain bool            // the answer says where its time and bytes went
	asking  *asking         // the request; nil outside of HTTP

	coverage coverage
	queued   time.Duration // how long it waited for its turn
	noStore  bool          // neither take anything from the results cache nor put anything into it

	queried *queried.Request // which metrics it asks for; nil = that is not counted

	mu      sync.Mutex
	failure *schema.Error // the first one; decides status and Retry-After
	whole   *options      // of the query over several tenants that this is a part of
}

type optionsKey struct{}

func withOptions(ctx context.Context, o *options) context.Context {
	return context.WithValue(ctx, optionsKey{}, o)
}

// optionsFrom returns the options of ctx; without any it makes the plain ones of the tenant in ctx.
func optionsFrom(ctx context.Context) (*options, error) {
	if o, ok := ctx.Value(optionsKey{}).(*options); ok {
		return o, nil
	}
	tenant, ok := web.TenantFrom(ctx)
	if !ok {
		return nil, errors.New("query without a tenant in its context")
	}
	return &options{tenant: tenant}, nil
}

func (o *options) note(err *schema.Error) {
	if o.whole != nil {
		o.whole.note(err)
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.failure == nil {
		o.failure = err
	}
}

// noteNames notes which metrics a selector asks for.
func (o *options) noteNames(ms []*labels.Matcher) {
	if o.whole != nil {
		o.whole.queried.Note(o.tenant, ms)
		return
	}
	o.queried.Note(o.tenant, ms)
}

func (o *options) noted() *schema.Error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.failure
}

// query is a tenant's view shared by all calls of one querier.
type query struct {
	reader *Reader
	opts   *options

	mu   sync.Mutex
	view *view
}

// current returns the view that calls start from.
func (q *query) current(ctx context.Context) (*view, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.view == nil {
		ctx, span := trace.Start(ctx, "plan")
		v, err := q.reader.newView(ctx, q.opts, nil)
		span.End(err)
		if err != nil {
			return nil, err
		}
		v.describe(span)
		q.view = v
	}
	return q.view.copy(), nil
}

// use makes later calls start from what was learned.
func (q *query) use(v *view) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.view = v.copy()
}

// copy gives a call its own notes, as calls run at the same time.
func (v *view) copy() *view {
	c := *v
	c.avoid, c.skip, c.shipped, c.cut = make(map[avoidKey]error, len(v.avoid)), make(map[string]error, len(v.skip)), maps.Clone(v.shipped), maps.Clone(v.cut)
	for k, err := range v.avoid {
		c.avoid[k] = err
	}
	for k, err := range v.skip {
		c.skip[k] = err
	}
	return &c
}

// querier is the storage.Querier over everything. It is lazy, as the tenant comes with the context of the first call.
type querier struct {
	reader     *Reader
	mint, maxt int64

	mu      sync.Mutex
	query   *query
	closers []func() error
	closed  bool
	running sync.WaitGroup
}

func (q *querier) start(ctx context.Context) (*query, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return nil, errors.New("querier is closed")
	}
	if q.query == nil {
		opts, err := optionsFrom(ctx)
		if err != nil {
			return nil, err
		}
		if opts.tenant == "" {
			return nil, errors.New("query of several tenants without federation")
		}
		q.query = &query{reader: q.reader, opts: opts}
		q.mint = max(q.mint, q.reader.earliest(opts))
	}
	return q.query, nil
}

// Select starts to select and returns at once: the selectors of a query work side by side. The set is sorted always.
func (q *querier) Select(ctx context.Context, _ bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	qry, err := q.start(ctx)
	if err != nil {
		return storage.ErrSeriesSet(err)
	}
	if hints == nil || hints.Func != "series" { // a list of series asks for no metric
		qry.opts.noteNames(ms)
	}
	ctx, cancel := context.WithCancel(ctx)
	set := &pendingSet{done: make(chan struct{}), query: qry}
	if !q.begin(func() error { cancel(); return nil }) {
		cancel()
		return storage.ErrSeriesSet(errors.New("querier is closed"))
	}
	ms = slices.Clone(ms)
	if hints != nil { // the engine goes on and sorts the expression's own list of labels
		own := *hints
		own.Grouping = slices.Clone(own.Grouping)
		hints = &own
	}
	go func() {
		defer q.running.Done()
		defer close(set.done)
		ctx, span := trace.Start(ctx, "select")
		describeSelect(span, qry.opts, hints, ms)
		set.SeriesSet = q.selectAll(ctx, qry, hints, ms)
		span.End(set.SeriesSet.Err())
	}()
	return set
}

// begin registers a goroutine and how to stop it; false after Close.
func (q *querier) begin(stop func() error) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.running.Add(1)
	q.closers = append(q.closers, stop)
	return true
}

func (q *querier) selectAll(ctx context.Context, qry *query, hints *storage.SelectHints, ms []*labels.Matcher) storage.SeriesSet {
	if hints != nil && hints.Start < q.mint && hints.Start <= hints.End { // sources go by the hints
		if hints.End < q.mint {
			return storage.EmptySeriesSet()
		}
		later := *hints
		later.Start, hints = q.mint, &later
	}
	mint, maxt, limit := q.mint, q.maxt, 0
	if hints != nil {
		limit = hints.Limit
		if hints.Start <= hints.End { // remote read may send none
			mint, maxt = max(mint, hints.Start), min(maxt, hints.End)
		}
	}
	got, err := ask(ctx, qry, question[storage.SeriesSet]{
		blocks: true, mint: mint, maxt: maxt,
		put: func(ctx context.Context, s *source) (storage.SeriesSet, error) {
			sq, err := s.querier(ctx, q.reader, qry.opts.tenant, q.mint, q.maxt)
			if err != nil {
				return nil, err
			}
			return prime(s.followed(ctx, s.ranked(sq.Select(ctx, true, hints, slices.Clone(ms)...))))
		},
	})
	if err != nil {
		return storage.ErrSeriesSet(err)
	}
	q.keep(got.close)
	set := storage.NewMergeSeriesSet(got.answers, limit, merge.Series)
	if len(got.warnings) == 0 {
		return set
	}
	return &warnedSet{set, got.warnings}
}

func (q *querier) keep(close func() error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closers = append(q.closers, close)
}

// LabelNames returns the names of labels in the sources, sorted.
func (q *querier) LabelNames(ctx context.Context, hints *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return q.strings(ctx, hints, func(ctx context.Context, sq storage.Querier) ([]string, annotations.Annotations, error) {
		return sq.LabelNames(ctx, hints, slices.Clone(ms)...)
	})
}

// LabelValues returns the values of a label in the sources, sorted.
func (q *querier) LabelValues(ctx context.Context, name string, hints *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return q.strings(ctx, hints, func(ctx context.Context, sq storage.Querier) ([]string, annotations.Annotations, error) {
		return sq.LabelValues(ctx, name, hints, slices.Clone(ms)...)
	})
}

func (q *querier) strings(ctx context.Context, hints *storage.LabelHints, get func(context.Context, storage.Querier) ([]string, annotations.Annotations, error)) (_ []string, _ annotations.Annotations, err error) {
	qry, err := q.start(ctx)
	if err != nil {
		return nil, nil, err
	}
	ctx, span := trace.Start(ctx, "labels")
	defer func() { span.End(err) }()
	type answer struct {
		values   []string
		warnings annotations.Annotations
	}
	got, err := ask(ctx, qry, question[answer]{
		blocks: true, mint: q.mint, maxt: q.maxt,
		put: func(ctx context.Context, s *source) (answer, error) {
			sq, err := s.querier(ctx, q.reader, qry.opts.tenant, q.mint, q.maxt)
			if err != nil {
				return answer{}, err
			}
			values, warnings, err := get(ctx, sq)
			return answer{values, warnings}, err
		},
	})
	if err != nil {
		return nil, nil, qry.told(err)
	}
	q.keep(got.close)
	lists := make([][]string, len(got.answers))
	for i, a := range got.answers {
		lists[i] = a.values
		got.warnings.Merge(a.warnings)
	}
	return union(lists, hints), got.warnings, nil
}

// union returns what is in sorted lists, each value once. It may be one of the lists.
func union(lists [][]string, hints *storage.LabelHints) []string {
	if len(lists) == 1 && (hints == nil || hints.Limit <= 0) {
		return lists[0]
	}
	return sortedUnique(slices.Concat(lists...), hints)
}

// sortedUnique sorts all in place.
func sortedUnique(all []string, hints *storage.LabelHints) []string {
	slices.Sort(all)
	all = slices.Compact(all)
	if hints != nil && hints.Limit > 0 && len(all) > hints.Limit {
		all = all[:hints.Limit]
	}
	return all
}

// Close stops what is under way, waits for it and closes every source.
func (q *querier) Close() error {
	q.mu.Lock()
	q.closed = true
	stop := q.closers
	q.closers = nil
	q.mu.Unlock()
	var errs []error
	for _, f := range stop {
		errs = append(errs, f())
	}
	q.running.Wait()
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, f := range q.closers { // opened while we waited
		errs = append(errs, f())
	}
	q.closers = nil
	return errors.Join(errs...)
}

// pendingSet waits for a Select that is under way.
type pendingSet struct {
	storage.SeriesSet
	done  chan struct{}
	query *query
}

func (s *pendingSet) Next() bool {
	<-s.done
	return s.SeriesSet.Next()
}

func (s *pendingSet) Err() error {
	<-s.done
	return s.query.told(s.SeriesSet.Err())
}

func (s *pendingSet) Warnings() annotations.Annotations {
	<-s.done
	return s.SeriesSet.Warnings()
}

// warnedSet adds warnings to a set's own.
type warnedSet struct {
	storage.SeriesSet
	warnings annotations.Annotations
}

func (s *warnedSet) Warnings() annotations.Annotations {
	var all annotations.Annotations
	all.Merge(s.SeriesSet.Warnings())
	all.Merge(s.warnings)
	return all
}

// primedSet has its first series at hand. A source that fails does so then, while the question can still be put again.
type primedSet struct {
	storage.SeriesSet
	first, any bool
}

func prime(set storage.SeriesSet) (storage.SeriesSet, error) {
	p := &primedSet{SeriesSet: set, first: true, any: set.Next()}
	if !p.any && set.Err() != nil {
		return nil, set.Err()
	}
	return p, nil
}

func (p *primedSet) Next() bool {
	if p.first {
		p.first = false
		return p.any
	}
	p.any = p.any && p.SeriesSet.Next()
	return p.any
}

// chunkQuerier gives the same as chunks.
type chunkQuerier struct{ storage.Querier }

func (q chunkQuerier) Select(ctx context.Context, sorted bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.ChunkSeriesSet {
	return storage.NewSeriesSetToChunkSet(q.Querier.Select(ctx, sorted, hints, ms...))
}
