package front

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/stats"

	"sluice/internal/trace"
	"sluice/schema"
)

// query is a query with its limits.
type query struct {
	promql.Query // the whole, as the engine would work on it
	front        *Front
	asker        Asker
	samples      int
	samplesName  string
	failure      error   // known before
	nothing      bool    // it is about nothing that is shown
	ranged       *ranged // nil: not to be worked on in parts

	mu     sync.Mutex // guards what follows
	cancel context.CancelFunc
	parted *stats.Statistics // of the parts, when it was worked on in parts
	ctx    context.Context   // to give back memory in
	held   int64             // bytes
}

// ranged is a range query that may be worked on in parts.
type ranged struct {
	*shape
	engine      promql.QueryEngine
	from        storage.Queryable
	opts        promql.QueryOpts
	text        string
	lookback    time.Duration
	start, last int64 // of the steps, ms
	step        int64 // ms
}

// Exec works on the query.
func (q *query) Exec(ctx context.Context) *promql.Result {
	switch {
	case q.failure != nil:
		return &promql.Result{Err: q.failure}
	case q.nothing:
		return &promql.Result{Value: promql.Matrix{}}
	}
	ctx, cancel := context.WithTimeout(ctx, q.front.cfg.Timeout)
	defer cancel()
	q.mu.Lock()
	q.cancel, q.ctx = cancel, ctx
	q.mu.Unlock()
	var res *promql.Result
	if q.ranged != nil {
		res = q.inParts(ctx)
	}
	if res == nil {
		res = q.whole(ctx)
	}
	if tooMany := promql.ErrTooManySamples(""); errors.As(res.Err, &tooMany) {
		res.Err = q.tooManySamples(res.Err)
	}
	return res
}

func (q *query) tooManySamples(cause error) error {
	return &schema.Error{
		ID: schema.ErrMaxSamplesPerQuery, Status: http.StatusUnprocessableEntity, Cause: cause,
		Message: "query needs more than " + strconv.Itoa(q.samples) + " samples in memory at one time (" + q.samplesName + ")",
	}
}

func (q *query) whole(ctx context.Context) *promql.Result {
	res := q.Query.Exec(ctx)
	if res.Err == nil {
		res.Err = q.hold(ctx, res.Value)
	}
	return res
}

// hold counts the memory of a result.
func (q *query) hold(ctx context.Context, value any) error {
	var bytes int64
	switch v := value.(type) {
	case promql.Matrix:
		bytes = memoryOf(v)
	case promql.Vector:
		for i := range v {
			bytes += seriesBytes + int64(v[i].Metric.ByteSize())
		}
	}
	q.mu.Lock()
	q.held += bytes
	q.mu.Unlock()
	return remember(ctx, bytes)
}

// Close lets the result go.
func (q *query) Close() {
	q.Query.Close()
	q.mu.Lock()
	ctx, bytes := q.ctx, q.held
	q.held = 0
	q.mu.Unlock()
	if bytes > 0 {
		_ = remember(ctx, -bytes) // less is never too much
	}
}

// Cancel stops the work.
func (q *query) Cancel() {
	q.Query.Cancel()
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.cancel != nil {
		q.cancel()
	}
}

// Stats returns what the work has taken. What came from the cache has taken nothing.
func (q *query) Stats() *stats.Statistics {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.parted != nil {
		return q.parted
	}
	return q.Query.Stats()
}

// part is the steps from first to last: known from the cache, or to be worked out.
type part struct {
	bucket      int64
	first, last int64 // ms
	known       promql.Matrix
	remarks     []remark // with known
	cached      bool

	result *promql.Result
	stats  *stats.Statistics
	close  func()
}

// inParts works on the query in parts; nil if it has to be worked on as a whole.
func (q *query) inParts(ctx context.Context) *promql.Result {
	r := q.ranged
	timers := stats.NewQueryTimers()
	total, ctx := timers.GetSpanTimer(ctx, stats.ExecTotalTime)
	defer total.Finish()
	evaluation, ctx := timers.GetSpanTimer(ctx, stats.EvalTotalTime)
	defer evaluation.Finish()

	preparation, _ := timers.GetSpanTimer(ctx, stats.QueryPreparationTime)
	look := q.lookUp(ctx)
	parts := q.plan(look)
	preparation.Finish()
	if look == nil && len(parts) == 1 {
		return nil
	}
	inner, _ := timers.GetSpanTimer(ctx, stats.InnerEvalTime)
	err := q.work(ctx, parts)
	inner.Finish()
	defer func() {
		for _, p := range parts {
			if p.close != nil {
				p.close()
			}
		}
	}()
	if err != nil {
		return err
	}
	sorting, _ := timers.GetSpanTimer(ctx, stats.ResultSortTime)
	defer sorting.Finish()
	res := &promql.Result{}
	sum := &stats.Statistics{Timers: timers, Samples: stats.NewQuerySamples(r.opts != nil && r.opts.EnablePerStepStats())}
	sum.Samples.StartTimestamp, sum.Samples.Interval = r.start, r.step
	matrices := make([]promql.Matrix, len(parts))
	points, most := 0, 0
	for i, p := range parts {
		if matrices[i] = p.known; !p.cached {
			m, ok := p.result.Value.(promql.Matrix)
			if !ok {
				return nil
			}
			matrices[i] = m
			res.Warnings.Merge(p.result.Warnings)
			most = max(most, addStats(sum.Samples, p.stats.Samples)-m.TotalSamples())
		}
		points += matrices[i].TotalSamples()
	}
	for _, p := range parts {
		if len(p.known) == 0 {
			continue
		}
		for _, note := range p.remarks {
			if _, ok := res.Warnings[note.raw]; !ok {
				res.Warnings.Add(note.fresh())
			}
		}
	}
	joined, ok := join(matrices)
	if !ok {
		return nil
	}
	sum.Samples.PeakSamples = points + max(most, 0)
	if points > q.samples {
		return &promql.Result{Err: promql.ErrTooManySamples("query execution"), Warnings: res.Warnings}
	}
	if err := q.hold(ctx, joined); err != nil {
		return &promql.Result{Err: err}
	}
	res.Value = joined
	if look != nil {
		q.keep(ctx, look, parts, joined)
	}
	q.mu.Lock()
	q.parted = sum
	q.mu.Unlock()
	return res
}

// addStats adds a part's counts, in the order of the parts, and returns its peak.
func addStats(sum, s *stats.QuerySamples) (peak int) {
	if s == nil {
		return 0
	}
	sum.TotalSamples += s.TotalSamples
	sum.SamplesRead += s.SamplesRead
	sum.TotalSamplesPerStep = append(sum.TotalSamplesPerStep, s.TotalSamplesPerStep...)
	sum.SamplesReadPerStep = append(sum.SamplesReadPerStep, s.SamplesReadPerStep...)
	return s.PeakSamples
}

// minSteps is how many steps a part has at least: looking series up costs the same for one step as for many.
const minSteps = 16

// length returns how long the parts are that the time is cut into, ms: the tenant's interval, but at least as long as a
// step looks back, so that no sample is read much more than twice.
func (q *query) length() int64 {
	each := time.Duration(q.asker.Limits.SplitQueriesByInterval).Milliseconds()
	if each <= 0 {
		return 0
	}
	least := max(q.ranged.reach.Milliseconds(), minSteps*q.ranged.step)
	return (least + each - 1) / each * each
}

// plan cuts the query at multiples of its parts' length, and those at what is known already.
func (q *query) plan(look *lookup) (parts []*part) {
	r := q.ranged
	length := q.length()
	if length <= 0 {
		return []*part{{first: r.start, last: r.last}}
	}
	for first := r.start; first <= r.last; {
		bucket := floorDiv(first, length)
		end := min(r.last, r.start+((bucket+1)*length-1-r.start)/r.step*r.step)
		var known []*extent
		if look != nil {
			known = look.known[bucket]
		}
		for _, e := range known {
			from, to := max(first, e.first), min(end, e.last, look.young)
			if to = r.start + floorDiv(to-r.start, r.step)*r.step; from > to {
				continue
			}
			if first < from {
				parts = append(parts, &part{bucket: bucket, first: first, last: from - r.step})
			}
			parts = append(parts, &part{bucket: bucket, first: from, last: to, known: slice(e.matrix, from, to), remarks: e.remarks, cached: true})
			first = to + r.step
		}
		if first <= end {
			parts = append(parts, &part{bucket: bucket, first: first, last: end})
			first = end + r.step
		}
	}
	return parts
}

// work works out what is not known: in this goroutine, and with as many more hands as there are spare places. It returns
// the failure that comes first in time.
func (q *query) work(outer context.Context, parts []*part) *promql.Result {
	ctx, cancel := context.WithCancel(outer)
	defer cancel()
	todo := make(chan *part, len(parts))
	for _, p := range parts {
		if p.cached {
			q.front.metrics.parts.WithLabelValues("cached").Inc()
			_ = trace.Add(ctx, trace.CacheHits, 1) // has no limit
			continue
		}
		q.front.metrics.parts.WithLabelValues("worked out").Inc()
		_ = trace.Add(ctx, trace.CacheMisses, 1) // has no limit
		todo <- p
	}
	close(todo)
	work := func(p *part) {
		if ctx.Err() == nil {
			q.workOut(ctx, p)
			if p.result.Err != nil {
				cancel()
			}
		}
	}
	// take gives a part to another hand, if there is a part and a place for it.
	take := func() (p *part, leave func(), ok bool) {
		if len(todo) == 0 {
			return nil, nil, false
		}
		if leave, ok = q.front.backend.Spare(outer); !ok {
			return nil, nil, false
		}
		if p, ok = <-todo; !ok {
			leave()
		}
		return p, leave, ok
	}
	var wg sync.WaitGroup
	var hands atomic.Int64 // other than this one
	most := int64(q.asker.Limits.MaxQueryParallelism)
	for p := range todo {
		for most == 0 || hands.Load() < most-1 {
			p, leave, ok := take()
			if !ok {
				break
			}
			hands.Add(1)
			wg.Go(func() {
				defer hands.Add(-1)
				for ok {
					work(p)
					leave() // whoever waits is first
					p, leave, ok = take()
				}
			})
		}
		work(p)
	}
	wg.Wait()
	var stopped *promql.Result
	for _, p := range parts {
		switch {
		case p.cached:
		case p.result == nil && errors.Is(outer.Err(), context.DeadlineExceeded):
			return &promql.Result{Err: promql.ErrQueryTimeout("query execution")}
		case p.result == nil:
			stopped = &promql.Result{Err: promql.ErrQueryCanceled("query execution")}
		case p.result.Err != nil:
			if !errors.As(p.result.Err, new(promql.ErrQueryCanceled)) && !errors.Is(p.result.Err, context.Canceled) {
				return p.result // what the others were stopped for
			}
			stopped = p.result
		}
	}
	return stopped
}

// workOut works on one part.
func (q *query) workOut(ctx context.Context, p *part) {
	r := q.ranged
	ctx, span := trace.Start(ctx, "part")
	span.Set("start", p.first)
	span.Set("end", p.last)
	qry, err := r.engine.NewRangeQuery(ctx, r.from, r.opts, r.text, time.UnixMilli(p.first), time.UnixMilli(p.last), time.Duration(r.step)*time.Millisecond)
	if err != nil {
		p.result = &promql.Result{Err: err}
		span.End(err)
		return
	}
	p.close = qry.Close
	p.result = qry.Exec(ctx)
	p.stats = qry.Stats()
	if m, ok := p.result.Value.(promql.Matrix); ok && p.result.Err == nil {
		bytes := memoryOf(m)
		p.close = func() {
			qry.Close()
			_ = remember(ctx, -bytes) // less is never too much
		}
		p.result.Err = remember(ctx, bytes)
	}
	span.End(p.result.Err)
}
