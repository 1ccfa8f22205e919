// Package eval evaluates the common parts of PromQL expressions fast. In comes a query as Prometheus' engine takes it, out
// comes the answer that this engine would give, to the last bit, with the same warnings, errors and statistics.
//
// An expression is looked through for subtrees of a few shapes: an aggregation of a function of a selector with a range
// (sum by (job) (rate(x[5m]))), of a selector, or such a function alone. These are evaluated here, series by series over
// decoded chunks, by several goroutines whose results are added up in the order of the series. A selector of the results
// takes the place of the subtree, and Prometheus' engine evaluates the rest of the expression. What is not recognised, and
// a query that meets native histograms in such a place, is left to that engine wholly. It never knows where samples come
// from: it reads what the storage selects, once.
package eval

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"
	"github.com/prometheus/prometheus/util/stats"
)

// Config says how the engine was made that everything else is left to.
type Config struct {
	// MaxSamples, NoStepSubqueryInterval, DelayedNameRemoval, TypeAndUnitLabels, UseStartTimestamps and PerStepStats are
	// those of its options.
	MaxSamples             int
	NoStepSubqueryInterval func(rangeMillis int64) int64 // must not be nil
	DelayedNameRemoval     bool
	TypeAndUnitLabels      bool
	UseStartTimestamps     bool
	PerStepStats           bool

	Workers int // goroutines for one subtree; default GOMAXPROCS
}

// withDefaults fills in the defaults. There is nothing to refuse.
func (c Config) withDefaults() Config {
	if c.Workers <= 0 {
		c.Workers = runtime.GOMAXPROCS(0)
	}
	return c
}

// Engine is a promql.QueryEngine.
type Engine struct {
	cfg     Config
	engine  promql.QueryEngine
	queries *prometheus.CounterVec
}

var _ promql.QueryEngine = (*Engine)(nil)

// New makes an Engine over Prometheus' own.
func New(cfg Config, engine promql.QueryEngine, reg prometheus.Registerer) *Engine {
	return &Engine{cfg: cfg.withDefaults(), engine: engine, queries: promauto.With(reg).NewCounterVec(prometheus.CounterOpts{
		Name: "sluice_reader_evaluations_total",
		Help: "Queries evaluated, by the way they took: fast (a part of the expression, or all of it, by our own code), prometheus (nothing to gain), again (by Prometheus' engine after native histograms were met).",
	}, []string{"way"})}
}

// plainKey marks contexts whose queries Prometheus' engine evaluates alone.
type plainKey struct{}

// Plain makes queries under the context be evaluated by Prometheus' engine alone, to compare.
func Plain(ctx context.Context) context.Context { return context.WithValue(ctx, plainKey{}, true) }

// NewInstantQuery implements promql.QueryEngine.
func (e *Engine) NewInstantQuery(ctx context.Context, q storage.Queryable, opts promql.QueryOpts, qs string, ts time.Time) (promql.Query, error) {
	return e.query(ctx, q, opts, func(ctx context.Context, q storage.Queryable) (promql.Query, error) {
		return e.engine.NewInstantQuery(ctx, q, opts, qs, ts)
	})
}

// NewRangeQuery implements promql.QueryEngine.
func (e *Engine) NewRangeQuery(ctx context.Context, q storage.Queryable, opts promql.QueryOpts, qs string, start, end time.Time, interval time.Duration) (promql.Query, error) {
	return e.query(ctx, q, opts, func(ctx context.Context, q storage.Queryable) (promql.Query, error) {
		return e.engine.NewRangeQuery(ctx, q, opts, qs, start, end, interval)
	})
}

type makeQuery func(context.Context, storage.Queryable) (promql.Query, error)

func (e *Engine) query(ctx context.Context, q storage.Queryable, opts promql.QueryOpts, mk makeQuery) (promql.Query, error) {
	x := &execution{cfg: &e.cfg, storage: q}
	made, err := mk(ctx, x)
	if err != nil {
		return nil, err
	}
	stmt, ok := made.Statement().(*parser.EvalStmt)
	plain := ctx.Value(plainKey{}) != nil || e.cfg.PerStepStats && opts != nil && opts.EnablePerStepStats()
	if ok && !plain {
		x.mint, x.maxt = promql.FindMinMaxTime(stmt)
		x.subtrees = plan(&e.cfg, stmt)
	}
	if len(x.subtrees) == 0 {
		e.queries.WithLabelValues("prometheus").Inc()
		return made, nil
	}
	return &query{Query: made, engine: e, execution: x, again: func(ctx context.Context) (promql.Query, error) { return mk(ctx, q) }}, nil
}

// query is one with subtrees of ours in it.
type query struct {
	promql.Query // guarded by mu: another one after the first gave up
	engine       *Engine
	execution    *execution
	again        func(context.Context) (promql.Query, error)

	mu        sync.Mutex
	cancelled bool // guarded by mu
}

func (q *query) current() promql.Query {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.Query
}

// Exec implements promql.Query.
func (q *query) Exec(ctx context.Context) *promql.Result {
	first := q.current()
	res := first.Exec(ctx)
	if q.execution.gaveUp.Load() {
		first.Close()
		q.engine.queries.WithLabelValues("again").Inc()
		second, err := q.again(ctx)
		if err != nil {
			return &promql.Result{Err: err}
		}
		q.mu.Lock()
		q.Query = second
		cancelled := q.cancelled
		q.mu.Unlock()
		if cancelled {
			return &promql.Result{Err: promql.ErrQueryCanceled(env)}
		}
		return second.Exec(ctx)
	}
	q.engine.queries.WithLabelValues("fast").Inc()
	if err := q.execution.failure.Load(); err != nil && res.Err != nil {
		res.Err, res.Warnings = *err, nil
	}
	q.execution.account(first.Stats().Samples)
	return res
}

func (q *query) Close()                   { q.current().Close() }
func (q *query) Stats() *stats.Statistics { return q.current().Stats() }

// Cancel implements promql.Query.
func (q *query) Cancel() {
	q.mu.Lock()
	q.cancelled = true
	now := q.Query
	q.mu.Unlock()
	now.Cancel()
}

// Statement implements promql.Query: it is the one that was asked for, without anything put in its place.
func (q *query) Statement() parser.Statement {
	made, err := q.again(context.Background())
	if err != nil { // it was made once
		return q.current().Statement()
	}
	return made.Statement()
}

// execution is the storage that Prometheus' engine reads: the results of subtrees, and for all other selectors what the
// true one has.
type execution struct {
	cfg        *Config
	storage    storage.Queryable
	subtrees   map[*labels.Matcher]*subtree
	mint, maxt int64 // of the whole expression, before anything was put in the place of subtrees

	gaveUp  atomic.Bool
	failure atomic.Pointer[error] // the first one of a subtree that Prometheus' engine would wrap otherwise
}

// Querier implements storage.Queryable.
func (x *execution) Querier(mint, maxt int64) (storage.Querier, error) {
	if len(x.subtrees) > 0 {
		mint, maxt = x.mint, x.maxt
	}
	q, err := x.storage.Querier(mint, maxt)
	if err != nil || len(x.subtrees) == 0 {
		return q, err
	}
	return &querier{q, x}, nil
}

type querier struct {
	storage.Querier
	execution *execution
}

// Select selects what a subtree needs at once, and evaluates it when its results are read.
func (q *querier) Select(ctx context.Context, sorted bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	x := q.execution
	if len(ms) == 1 && x.subtrees[ms[0]] != nil {
		s := x.subtrees[ms[0]]
		set := q.Querier.Select(ctx, sorted, s.hints, s.selector.LabelMatchers...)
		return &resultSet{grid: s.grid, evaluate: func() ([]series, annotations.Annotations, error) {
			out, warnings, err := evaluate(ctx, x.cfg, s, set)
			if err != nil {
				x.fail(err, set.Err() != nil)
			}
			s.give(out)
			return out, warnings, err
		}}
	}
	return q.Querier.Select(ctx, sorted, hints, ms...)
}

// fail notes why an evaluation ended. What the storage says itself goes the way it always goes.
func (x *execution) fail(err error, ofStorage bool) {
	switch {
	case errors.Is(err, errNotFloats) || errors.Is(err, errSparse):
		x.gaveUp.Store(true)
	case !ofStorage:
		x.failure.CompareAndSwap(nil, &err)
	}
}
