package front

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"

	"sluice/internal/processes"
	"sluice/internal/trace"
	"sluice/schema"
)

// Config of a Front. Zero values take the defaults.
type Config struct {
	Timeout    time.Duration // of one query; default 2 min
	MaxSamples int           // that one query may have in memory at one time; default 50 million
	Lookback   time.Duration // of queries that do not say; default 5 min
	SubStep    time.Duration // of subqueries that do not say; default 1 min
	CacheBytes int64         // of results; 0 = no cache
}

// Validate fills in the defaults and refuses what cannot work.
func (c *Config) Validate() error {
	if c.Timeout == 0 {
		c.Timeout = 2 * time.Minute
	}
	if c.MaxSamples == 0 {
		c.MaxSamples = 50_000_000
	}
	if c.Lookback == 0 {
		c.Lookback = 5 * time.Minute
	}
	if c.SubStep == 0 {
		c.SubStep = time.Minute
	}
	if c.Timeout < 0 || c.MaxSamples < 0 || c.Lookback < 0 || c.SubStep < 0 || c.CacheBytes < 0 {
		return errors.New("time-outs, limits and sizes of the front must not be negative")
	}
	return nil
}

// Asker is whose query it is.
type Asker struct {
	Name     string // different for askers whose answers differ
	Limits   *schema.QueryLimits
	Earliest int64 // ms; nothing before is shown; 0 or less = everything is
	NoCache  bool  // neither take results from the cache nor put them there
}

// Backend is what the front stands before. All of it takes the asker from the context.
type Backend interface {
	Asker(ctx context.Context) (Asker, error)
	// Cover says what answers about [mint, maxt] (ms, both inclusive) are made of as of now.
	Cover(ctx context.Context, mint, maxt int64) (*Cover, error)
	// Spare returns how to give back a place for another hand; false if none is free.
	Spare(ctx context.Context) (leave func(), ok bool)
	Now() time.Time
}

// Cover is what answers about a time are made of. Two answers about the same part of it are the same if its fingerprints
// are: blocks never change, and nothing else has a say in what is final.
type Cover struct {
	Blocks []Block // in the order of their ranks
	Held   []Span  // times of which somebody holds samples that are in no block yet
}

// Span is a time range, both ends inclusive, ms.
type Span struct{ Mint, Maxt int64 }

func (s Span) overlaps(o Span) bool { return s.Mint <= o.Maxt && o.Mint <= s.Maxt }

// Block is a block with the time of its samples.
type Block struct {
	ID ulid.ULID
	Span
}

// fingerprint is a hash over blocks.
type fingerprint [16]byte

// of returns the fingerprint of [mint, maxt]; false if what it is made of may still change unseen.
func (c *Cover) of(mint, maxt int64) (f fingerprint, final bool) {
	span := Span{mint, maxt}
	for _, held := range c.Held {
		if held.overlaps(span) {
			return f, false
		}
	}
	h := sha256.New()
	for i := range c.Blocks {
		if c.Blocks[i].overlaps(span) {
			h.Write(c.Blocks[i].ID[:])
		}
	}
	copy(f[:], h.Sum(nil))
	return f, true
}

// Engines makes the engine for queries that may have so many samples in memory.
type Engines func(maxSamples int) promql.QueryEngine

// Front is a promql.QueryEngine before another one.
type Front struct {
	cfg      Config
	language parser.Parser
	backend  Backend
	cache    *cache // nil = none
	metrics  *metrics

	mu      sync.Mutex
	make    Engines
	engines map[int]promql.QueryEngine // guarded by mu; by their samples
}

var _ promql.QueryEngine = (*Front)(nil)

// maxEngines bounds how many different max_samples_per_query have an engine of their own; others get the process' limit.
const maxEngines = 100

// New makes a Front. language must be that of the engines. Close ends it.
func New(cfg Config, engines Engines, language parser.Parser, backend Backend, reg prometheus.Registerer) (*Front, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("front: %w", err)
	}
	f := &Front{cfg: cfg, language: language, backend: backend, make: engines, engines: map[int]promql.QueryEngine{}}
	f.metrics = newMetrics(reg, func() float64 { return float64(f.Usage().Bytes) })
	if cfg.CacheBytes > 0 {
		var err error
		if f.cache, err = newCache(cfg.CacheBytes, f.metrics); err != nil {
			return nil, fmt.Errorf("front: %w", err)
		}
	}
	f.engine(cfg.MaxSamples)
	return f, nil
}

// Close lets the cache go. Queries that are still under way go on without it.
func (f *Front) Close() {
	if f.cache != nil {
		f.cache.close()
	}
}

// Usage is what the results cache has done since it was made.
type Usage struct {
	Bytes        int64 // that it takes now
	Hits, Misses int64 // of parts of range queries
}

// Usage returns it.
func (f *Front) Usage() Usage {
	u := Usage{
		Hits:   int64(processes.Total(f.metrics.parts.WithLabelValues("cached"))),
		Misses: int64(processes.Total(f.metrics.parts.WithLabelValues("worked out"))),
	}
	if f.cache != nil {
		u.Bytes = f.cache.entries.MaxCost() - f.cache.entries.RemainingCost()
	}
	return u
}

// Wait returns once what was put into the cache before is there, for tests.
func (f *Front) Wait() {
	if f.cache != nil {
		f.cache.entries.Wait()
	}
}

// engine returns the engine for so many samples.
func (f *Front) engine(samples int) promql.QueryEngine {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.engines[samples]
	if e == nil {
		if len(f.engines) >= maxEngines {
			return f.engines[f.cfg.MaxSamples]
		}
		e = f.make(samples)
		f.engines[samples] = e
	}
	return e
}

// samples returns how many samples the asker's queries may have in memory, and what says so.
func (f *Front) samples(l *schema.QueryLimits) (n int, name string) {
	n, name = f.cfg.MaxSamples, "--reader.max-samples"
	if l.MaxSamplesPerQuery > 0 && l.MaxSamplesPerQuery < n {
		n, name = l.MaxSamplesPerQuery, "max_samples_per_query"
	}
	return n, name
}

// maxPoints is how many points a subquery may have for one series: a year of them at 7.5 s, 48 days at one second. One
// with more would be at work until its time is over, whatever it finds.
const maxPoints = 1 << 22

// check holds a query to what can be said before it runs.
func (f *Front) check(l *schema.QueryLimits, qs string, expr parser.Expr, start, end time.Time) error {
	if n := l.MaxQueryExpressionSizeBytes; n > 0 && len(qs) > n {
		return schema.NewError(schema.ErrQueryTooLong, http.StatusBadRequest,
			"query of %d bytes is longer than the limit of %d (max_query_expression_size_bytes)", len(qs), n)
	}
	span := end.Sub(start)
	length, points := longest(expr, span, f.cfg.SubStep)
	if limit := time.Duration(l.MaxTotalQueryLength); limit > 0 && float64(span)+float64(length) > float64(limit) {
		return schema.NewError(schema.ErrMaxQueryLength, http.StatusUnprocessableEntity,
			"the query is about %s, and %s more by its longest range; the limit is %s (max_total_query_length)", model.Duration(span), model.Duration(length), model.Duration(limit))
	}
	if points > maxPoints {
		return schema.NewError(schema.ErrMaxSamplesPerQuery, http.StatusUnprocessableEntity,
			"a subquery has %.0f points for each series, the limit is %d: its step is too short for its range", points, maxPoints)
	}
	return nil
}

// NewInstantQuery makes a query about one moment.
func (f *Front) NewInstantQuery(ctx context.Context, from storage.Queryable, opts promql.QueryOpts, qs string, ts time.Time) (promql.Query, error) {
	asker, err := f.backend.Asker(ctx)
	if err != nil {
		return nil, err
	}
	samples, name := f.samples(asker.Limits)
	whole, err := f.engine(samples).NewInstantQuery(ctx, from, opts, qs, ts)
	if err != nil {
		return nil, err
	}
	q := &query{Query: whole, front: f, asker: asker, samples: samples, samplesName: name}
	if s, ok := whole.Statement().(*parser.EvalStmt); ok {
		q.failure = f.check(asker.Limits, qs, s.Expr, ts, ts)
	}
	return q, nil
}

// NewRangeQuery makes a query about a range.
func (f *Front) NewRangeQuery(ctx context.Context, from storage.Queryable, opts promql.QueryOpts, qs string, start, end time.Time, step time.Duration) (promql.Query, error) {
	asker, err := f.backend.Asker(ctx)
	if err != nil {
		return nil, err
	}
	if asker.Limits.AlignQueriesWithStep && step > 0 {
		start, end = align(start, step), align(end, step)
	}
	samples, name := f.samples(asker.Limits)
	engine := f.engine(samples)
	nothing := false // all of it is too old
	if late := time.UnixMilli(asker.Earliest); asker.Earliest > 0 && step > 0 && start.Before(late) {
		start = start.Add((late.Sub(start) + step - 1) / step * step) // the steps stay where they are
		if nothing = start.After(end); nothing {
			start = end
		}
	}
	whole, err := engine.NewRangeQuery(ctx, from, opts, qs, start, end, step)
	if err != nil {
		return nil, err
	}
	q := &query{Query: whole, front: f, asker: asker, samples: samples, samplesName: name}
	stmt, ok := whole.Statement().(*parser.EvalStmt)
	if !ok {
		return q, nil
	}
	if q.failure = f.check(asker.Limits, qs, stmt.Expr, start, end); q.failure != nil {
		return q, nil
	}
	if q.nothing = nothing; nothing {
		return q, nil
	}
	expr, err := f.language.ParseExpr(qs)
	if err != nil {
		return nil, err
	}
	if s := shapeOf(expr, stmt.LookbackDelta); s.parts && regular(start, step) && !end.Before(start) {
		q.ranged = &ranged{
			shape: s, engine: engine, from: from, opts: opts, text: qs, lookback: stmt.LookbackDelta,
			start: start.UnixMilli(), step: step.Milliseconds(),
		}
		q.ranged.last = q.ranged.start + (end.UnixMilli()-q.ranged.start)/q.ranged.step*q.ranged.step
	}
	return q, nil
}

// align rounds down to a multiple of the step since 1970.
func align(t time.Time, step time.Duration) time.Time {
	ms, each := t.UnixMilli(), step.Milliseconds()
	if each <= 0 {
		return t
	}
	return time.UnixMilli(floorDiv(ms, each) * each)
}

// regular says whether the steps are at whole milliseconds, as the engine counts.
func regular(start time.Time, step time.Duration) bool {
	return step > 0 && step%time.Millisecond == 0 && start.Equal(time.UnixMilli(start.UnixMilli()))
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// remember counts bytes that the query holds until it is closed.
func remember(ctx context.Context, bytes int64) error { return trace.Add(ctx, trace.Memory, bytes) }

// key is what two queries must have in common for their results at the same steps to be the same, but for the data.
func (r *ranged) key(asker string) string {
	b := binary.AppendVarint(nil, r.step)
	b = binary.AppendVarint(b, r.start-floorDiv(r.start, r.step)*r.step)
	b = binary.AppendVarint(b, r.lookback.Milliseconds())
	b = binary.AppendUvarint(b, uint64(len(asker)))
	return string(b) + asker + r.text
}
