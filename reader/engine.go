package reader

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/features"

	"sluice/reader/dialect"
	"sluice/reader/eval"
	"sluice/schema"
)

// engines evaluate as the tenants of a query have it: one engine for each way to take an expression.
type engines struct {
	reader *Reader
	by     map[dialect.Semantics]promql.QueryEngine
}

// newEngines makes them all: that costs nothing before they are used. samples is what a query may have in memory.
func (r *Reader) newEngines(samples int, language parser.Parser, known features.Collector, reg, evalReg prometheus.Registerer) promql.QueryEngine {
	all := engines{reader: r, by: map[dialect.Semantics]promql.QueryEngine{}}
	for _, s := range []dialect.Semantics{{}, {DelayedNameRemoval: true}, {StartTimestamps: true}, {DelayedNameRemoval: true, StartTimestamps: true}} {
		into := known
		if s != (dialect.Semantics{}) {
			into = nil // known tells of the plain one
		}
		all.by[s] = r.newEngine(samples, s, language, into, featured(reg, s), featured(evalReg, s))
	}
	return all
}

func (r *Reader) newEngine(samples int, s dialect.Semantics, language parser.Parser, known features.Collector, reg, evalReg prometheus.Registerer) promql.QueryEngine {
	subqueryStep := func(int64) int64 { return time.Minute.Milliseconds() }
	theirs := promql.NewEngine(promql.EngineOpts{
		Logger: r.logger, Reg: reg, MaxSamples: samples, Timeout: r.cfg.QueryTimeout, LookbackDelta: lookback,
		NoStepSubqueryIntervalFn: subqueryStep,
		EnableAtModifier:         true, EnableNegativeOffset: true, FeatureRegistry: known, Parser: language,
		EnableDelayedNameRemoval: s.DelayedNameRemoval, UseStartTimestamps: s.StartTimestamps,
	})
	return eval.New(eval.Config{
		MaxSamples: samples, NoStepSubqueryInterval: subqueryStep,
		DelayedNameRemoval: s.DelayedNameRemoval, UseStartTimestamps: s.StartTimestamps,
	}, theirs, evalReg)
}

// featured tells the metrics of the engines apart. Those of the plain one are as ever: an empty label is none.
func featured(reg prometheus.Registerer, s dialect.Semantics) prometheus.Registerer {
	if reg == nil {
		return nil
	}
	name := ""
	switch s {
	case dialect.Semantics{DelayedNameRemoval: true}:
		name = "delayed-name-removal"
	case dialect.Semantics{StartTimestamps: true}:
		name = "start-timestamps"
	case dialect.Semantics{DelayedNameRemoval: true, StartTimestamps: true}:
		name = "delayed-name-removal,start-timestamps"
	}
	return prometheus.WrapRegistererWith(prometheus.Labels{"features": name}, reg)
}

// of returns the engine for the tenants in ctx.
func (es engines) of(ctx context.Context) (promql.QueryEngine, error) {
	opts, err := optionsFrom(ctx)
	if err != nil {
		return nil, err
	}
	return es.by[es.reader.dialect(opts).Semantics], nil
}

// NewInstantQuery implements promql.QueryEngine.
func (es engines) NewInstantQuery(ctx context.Context, q storage.Queryable, opts promql.QueryOpts, qs string, ts time.Time) (promql.Query, error) {
	e, err := es.of(ctx)
	if err != nil {
		return nil, err
	}
	return e.NewInstantQuery(ctx, q, opts, qs, ts)
}

// NewRangeQuery implements promql.QueryEngine.
func (es engines) NewRangeQuery(ctx context.Context, q storage.Queryable, opts promql.QueryOpts, qs string, start, end time.Time, step time.Duration) (promql.Query, error) {
	e, err := es.of(ctx)
	if err != nil {
		return nil, err
	}
	return e.NewRangeQuery(ctx, q, opts, qs, start, end, step)
}

// dialect returns what all tenants of a query may use.
func (r *Reader) dialect(opts *options) dialect.Dialect {
	if len(opts.tenants) == 0 {
		return dialect.Of(r.limits.For(opts.tenant))
	}
	limits := make([]*schema.Limits, len(opts.tenants))
	for i, t := range opts.tenants {
		limits[i] = r.limits.For(t)
	}
	return dialect.Of(limits...)
}

// serveFeatures answers /features as it is for the tenants that ask.
func (r *Reader) serveFeatures(w http.ResponseWriter, req *http.Request) {
	opts, err := optionsFrom(req.Context())
	if err != nil {
		respondError(w, req, err)
		return
	}
	known := features.NewRegistry()
	for category, names := range r.features.Get() {
		for name, on := range names {
			known.Set(category, name, on)
		}
	}
	d := r.dialect(opts)
	d.Features(known)
	respondData(w, req, known.Get())
}
