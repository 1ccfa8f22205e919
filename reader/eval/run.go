package eval

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime/debug"
	"strings"
	"sync"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/schema"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/util/annotations"

	"sluice/internal/merge"
	"sluice/internal/trace"
)

const (
	// runSeries is how many series a worker takes at a time, fewer if their results are more than runPoints.
	runSeries = 64
	runPoints = 1 << 16

	// env is how Prometheus calls what was going on when there were too many samples.
	env = "query execution"
)

var (
	errSameLabels = errors.New("vector cannot contain metrics with the same labelset")
	// errSparse says that results have a place for many more steps than they have points.
	errSparse = errors.New("results are too sparse")
)

// evaluation is a subtree under way, as one worker sees it.
type evaluation struct {
	*subtree
	cfg     *Config
	in      *source
	sum     *total
	scratch scratch
}

// source hands out the series of a selector, a run at a time.
type source struct {
	mu   sync.Mutex
	set  storage.SeriesSet // guarded by mu
	last chan struct{}     // guarded by mu: closed when the runs handed out so far have been added up
	done bool              // guarded by mu
	n    int               // series of a run
}

// run is a number of series that follow each other.
type run struct {
	series []storage.Series
	turn   <-chan struct{} // closed when the runs before it have been added up
	over   chan struct{}   // to be closed when this one has
}

// take returns the next series, nil at the end.
func (s *source) take() *run {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &run{series: make([]storage.Series, 0, s.n)}
	for !s.done && len(r.series) < s.n {
		if !s.set.Next() {
			s.done = true
			break
		}
		r.series = append(r.series, s.set.At())
	}
	if len(r.series) == 0 {
		return nil
	}
	r.turn, r.over = s.last, make(chan struct{})
	s.last = r.over
	return r
}

// total is what the runs add up to. Whose turn it is may touch it.
type total struct {
	groups   *groups // nil: every series is a result
	results  []series
	labels   map[uint64]struct{} // hashes of those that may not be there twice
	points   int                 // in memory, as Prometheus counts them
	peak     int
	counts   counts
	readAt   []int64
	told     string // the last metric that was said to be no counter
	warnings annotations.Annotations
}

// scratch is what a worker uses again and again.
type scratch struct {
	samples samples
	chunks  []merge.Chunk
	it      chunkenc.Iterator
	falls   []int
	hashed  []byte
	values  []float64 // of the series of a run
	readAt  []int64
	taken   int64 // samples taken out of chunks for the run
	out     []outcome
}

// outcome is what came of one series that has any results.
type outcome struct {
	counts
	name   string // of the metric
	labels labels.Labels
	values []float64
	key    uint64 // of its group
	hash   uint64 // of its labels, if they may be there twice
	unique bool   // they are not
}

// resets returns where a value is smaller than the one before.
func (w *scratch) resets(vs []float64) []int {
	w.falls = w.falls[:0]
	for i := 1; i < len(vs); i++ {
		if vs[i] < vs[i-1] {
			w.falls = append(w.falls, i)
		}
	}
	return w.falls
}

// evaluate computes the results of a subtree over the series of set.
func evaluate(ctx context.Context, cfg *Config, s *subtree, set storage.SeriesSet) (_ []series, _ annotations.Annotations, err error) {
	ctx, span := trace.Start(ctx, "evaluate")
	span.Set("selector", s.selector.String())
	defer func() { span.End(err) }()
	steps := s.grid.steps()
	in := &source{set: set, n: max(1, min(runSeries, runPoints/steps)), last: make(chan struct{})}
	close(in.last)
	sum := &total{labels: map[uint64]struct{}{}, readAt: s.readAt}
	if s.aggr != nil {
		sum.groups = newGroups(s.aggr.Op, s.aggr.Without, s.aggr.Grouping)
	}
	first := in.take()
	workers := 1
	if first != nil && len(first.series) == in.n {
		workers = cfg.Workers
	}
	inner, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var wg sync.WaitGroup
	for range workers - 1 {
		wg.Go(func() { newEvaluation(s, cfg, in, sum).work(inner, stop, nil) })
	}
	if first != nil {
		newEvaluation(s, cfg, in, sum).work(inner, stop, first)
	}
	wg.Wait()
	warnings := sum.warnings
	warnings.Merge(set.Warnings())
	switch {
	case ctx.Err() != nil:
		return nil, warnings, contextError(ctx)
	case inner.Err() != nil:
		return nil, warnings, context.Cause(inner)
	case set.Err() != nil:
		return nil, warnings, set.Err()
	}
	s.done, s.peak = sum.counts, sum.peak
	if sum.groups != nil {
		return sum.groups.results(), warnings, nil
	}
	return sum.results, warnings, nil
}

func contextError(ctx context.Context) error {
	const doing = "expression evaluation"
	switch err := ctx.Err(); {
	case errors.Is(err, context.Canceled):
		return promql.ErrQueryCanceled(doing)
	case errors.Is(err, context.DeadlineExceeded):
		return promql.ErrQueryTimeout(doing)
	default:
		return err
	}
}

func newEvaluation(s *subtree, cfg *Config, in *source, sum *total) *evaluation {
	e := &evaluation{subtree: s, cfg: cfg, in: in, sum: sum}
	if sum.readAt != nil {
		e.scratch.readAt = make([]int64, len(sum.readAt))
	}
	return e
}

// work takes runs, the first of them if it is not nil, until there are no more. Any error stops all workers.
func (e *evaluation) work(ctx context.Context, stop context.CancelCauseFunc, r *run) {
	defer func() {
		if p := recover(); p != nil { // over data that lies: here nobody else would catch it
			stop(fmt.Errorf("evaluate %s: %v\n%s", e.selector, p, debug.Stack()))
		}
	}()
	if r == nil {
		r = e.in.take()
	}
	for ; r != nil; r = e.in.take() {
		if ctx.Err() != nil {
			return
		}
		err := e.compute(r.series)
		if err == nil {
			err = trace.Add(ctx, trace.Samples, e.scratch.taken)
		}
		if err != nil {
			stop(err)
			return
		}
		select {
		case <-r.turn:
		case <-ctx.Done():
			return
		}
		if err := e.add(); err != nil {
			stop(err)
			return
		}
		close(r.over)
	}
}

// compute makes the outcomes of a run.
func (e *evaluation) compute(all []storage.Series) error {
	w, steps := &e.scratch, e.grid.steps()
	if w.out = w.out[:0]; cap(w.values) < steps*len(all) || e.sum.groups == nil { // results of their own are kept
		w.values = make([]float64, steps*e.in.n)
	}
	left := w.values[:cap(w.values)]
	clear(w.readAt)
	w.taken = 0
	for _, s := range all {
		if err := e.load(s); err != nil {
			return err
		}
		w.taken += int64(len(w.samples.ts))
		out := left[:steps:steps]
		o := outcome{counts: e.windows(&w.samples, out, w.readAt), values: out}
		if o.results > 0 {
			left = left[steps:]
			e.name(&o, s.Labels())
		}
		w.out = append(w.out, o)
	}
	return nil
}

// name finds out under which labels a result is known.
func (e *evaluation) name(o *outcome, lset labels.Labels) {
	o.unique = true
	if !e.fn.keepsName() {
		if e.fn == funcRate || e.fn == funcIncrease {
			o.name = lset.Get(model.MetricNameLabel)
		}
		if !e.cfg.DelayedNameRemoval {
			o.unique = e.oneName && !lset.Has(model.MetricTypeLabel) && !lset.Has(model.MetricUnitLabel)
			if lset = lset.DropReserved(schema.IsMetadataLabel); !o.unique {
				o.hash = lset.Hash()
			}
		}
	}
	o.labels = lset
	if g := e.sum.groups; g != nil {
		o.key, e.scratch.hashed = g.key(lset, e.scratch.hashed)
	}
}

// load reads the samples of a series.
func (e *evaluation) load(s storage.Series) error {
	w := &e.scratch
	w.samples.reset()
	what := taking{
		from: e.hints.Start, to: e.hints.End,
		stale: e.fn == funcSelect, noStarts: e.cfg.UseStartTimestamps && e.fn.starts(),
	}
	var whole bool
	if w.chunks, whole = merge.ChunksOf(s, w.chunks[:0]); whole {
		for i := range w.chunks {
			if err := w.samples.add(&w.chunks[i], what); err != nil {
				return e.loadError(s, err)
			}
		}
		return nil
	}
	w.it = s.Iterator(w.it)
	for typ := w.it.Next(); typ != chunkenc.ValNone; typ = w.it.Next() {
		if typ != chunkenc.ValFloat || what.noStarts && w.it.AtST() != 0 {
			return errNotFloats
		}
		if t, v := w.it.At(); t >= what.from && t <= what.to && (what.stale || !isMissing(v)) {
			w.samples.room(1)
			w.samples.ts, w.samples.vs = append(w.samples.ts, t), append(w.samples.vs, v)
		}
	}
	if err := w.it.Err(); err != nil {
		return e.loadError(s, err)
	}
	return nil
}

func (e *evaluation) loadError(s storage.Series, err error) error {
	if errors.Is(err, errNotFloats) {
		return err
	}
	return fmt.Errorf("read series %s: %w", s.Labels(), err)
}

// add adds the outcomes of a run to the total, in their order, and holds the samples that Prometheus would have in memory
// against the limit.
func (e *evaluation) add() error {
	sum, limit, steps := e.sum, e.cfg.MaxSamples, e.grid.steps()
	for i := range e.scratch.out {
		o := &e.scratch.out[i]
		if sum.points+max(o.most, o.last+o.results) > limit && (o.results > 0 || o.most > 0) {
			return promql.ErrTooManySamples(env)
		}
		sum.points += o.results
		sum.peak = max(sum.peak, sum.points+o.last)
		sum.counts.total += o.total
		sum.counts.read += o.read
		if o.results == 0 {
			continue
		}
		e.inform(o.name)
		if !o.unique {
			if _, twice := sum.labels[o.hash]; twice {
				return errSameLabels
			}
			sum.labels[o.hash] = struct{}{}
		}
		kept := len(sum.results)
		if sum.groups != nil {
			kept = len(sum.groups.all)
			sum.groups.add(sum.groups.of(o.key, o.labels, steps), o.values)
		} else {
			sum.results = append(sum.results, series{o.labels, o.values})
		}
		if kept > math.MaxInt/steps || kept*steps > max(4*limit, 1<<16) {
			return errSparse
		}
	}
	for k, n := range e.scratch.readAt {
		sum.readAt[k] += n
	}
	return nil
}

// inform tells that a rate is taken of something that is no counter by its name.
func (e *evaluation) inform(name string) {
	if name == "" || name == e.sum.told {
		return
	}
	for _, suffix := range [...]string{"_total", "_sum", "_count", "_bucket"} {
		if strings.HasSuffix(name, suffix) {
			return
		}
	}
	e.sum.told = name
	e.sum.warnings.Add(annotations.NewPossibleNonCounterInfo(name, e.call.Args[0].PositionRange()))
}
