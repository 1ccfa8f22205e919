package reader

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/util/annotations"

	"sluice/internal/fetch"
	"sluice/internal/trace"
	"sluice/reader/store"
	"sluice/schema"
)

// maxAttempts bounds how often one question is put, each time with another view or other members.
const maxAttempts = 8

// question is what is asked of every source that a query needs.
type question[T any] struct {
	blocks bool // ask blocks too, those in [mint, maxt]
	// only, when not nil, says of which blocks anything is wanted. They are read here then, whoever's they are.
	only       func(*schema.BlockEntry) bool
	mint, maxt int64 // ms, both inclusive
	put        func(ctx context.Context, s *source) (T, error)
}

// asked are the answers, in order of their ranks, with the sources that gave them. They stay open until close.
type asked[T any] struct {
	answers  []T
	sources  []*source
	warnings annotations.Annotations
	cancel   context.CancelCauseFunc
}

func (a *asked[T]) close() error {
	var errs []error
	for _, s := range a.sources {
		errs = append(errs, s.close())
	}
	if a.cancel != nil {
		a.cancel(nil)
	}
	return errors.Join(errs...)
}

// ask puts the question to all sources of the query's view, and again with a better view when the first turns out not to
// hold. The context of the answers lives until they are closed.
func ask[T any](ctx context.Context, q *query, what question[T]) (*asked[T], error) {
	r, opts := q.reader, q.opts
	v, err := q.current(ctx)
	if err != nil {
		return nil, err
	}
	syncedForBlock, settled := false, false
	for attempt := 1; ; attempt++ {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		sources, missing, err := r.memberSources(ctx, v)
		if err == errFloor && !settled {
			settled = true
			if v, err = r.settle(ctx, opts); err == nil {
				q.use(v)
				sources, missing, err = r.memberSources(ctx, v)
			}
		}
		if err != nil {
			return nil, err
		}
		var remark error
		if what.blocks {
			blocks, gone := v.blockSources(what.mint, what.maxt)
			if what.only != nil {
				blocks = slices.DeleteFunc(blocks, func(s *source) bool { return !what.only(s.entry) })
			} else {
				blocks = r.shared(blocks)
			}
			sources, missing = append(blocks, sources...), append(gone, missing...)
			var lost error
			if lost, remark = v.lost(what.mint, what.maxt); lost != nil {
				missing = append([]error{lost}, missing...) // what no waiting mends is said first
			}
		}
		if len(missing) > 0 && !opts.partial {
			return nil, missing[0]
		}
		got, failures, err := put(ctx, r, sources, opts.partial, what.put)
		if err != nil {
			return nil, err
		}
		if len(failures) == 0 {
			r.answered(v, sources)
			opts.cover(v, what.blocks, sources, missing, remark)
			for _, m := range missing {
				got.warnings.Add(fmt.Errorf("partial answer: %w", m))
			}
			if len(missing) > 0 {
				r.metrics.partial.Inc()
			}
			if remark != nil {
				got.warnings.Add(remark)
			}
			return got, nil
		}
		for _, f := range failures {
			if trace.IsLimit(f.err) {
				return nil, f.err
			}
		}
		if attempt == maxAttempts {
			return nil, failures[0].err
		}
		trace.Current(ctx).Set("asked again, attempt", attempt+1)
		for _, f := range failures {
			switch {
			case f.entry != nil && errors.Is(f.err, store.ErrGone) && !syncedForBlock:
				syncedForBlock = true
				newer, nerr := r.newer(ctx, opts, v)
				if nerr != nil {
					return nil, nerr
				}
				if newer.has(f.entry) && !opts.partial {
					return nil, f.err
				}
				v = newer
			case f.entry != nil && !opts.partial && (v.has(f.entry) || !syncedForBlock):
				return nil, f.err
			default:
				if v, err = r.learn(ctx, opts, v, f.source, f.err); err != nil {
					return nil, err
				}
			}
		}
		r.metrics.retries.Inc()
		q.use(v)
	}
}

// answered notes who answered, and with how much of the log.
func (r *Reader) answered(v *view, sources []*source) {
	for _, s := range sources {
		if s.src != nil {
			r.dir.Trust(s.member.ID)
			r.floors.raise(v.topicID, s.applied())
			s.span.Set("applied", s.applied())
		}
	}
}

// errBehind is why a source stops to wait for the log.
var errBehind = schema.Unavailable(schema.ErrStrongRead, nil, "the log was not applied far enough in time")

// grace is how long the others may go on once a member turned out not to answer: members fail together (a zone, a
// machine), and a question put again for each of them would cost each one's silence.
const grace = 100 * time.Millisecond

// blockGrace is the same for blocks, of an answer that may be partial: when the bucket is away all of them fail, at about the same time, as its client
// tries each request as often.
const blockGrace = 3 * time.Second

// failed is a source that gave no answer.
type failed struct {
	*source
	err error
}

// put asks all sources at once, as far as Concurrency allows. After a failure it stops the others, if the answer may be partial after a grace, and returns what
// failed, the first first; err is set when it is the caller who gave up.
func put[T any](ctx context.Context, r *Reader, sources []*source, partial bool, f func(context.Context, *source) (T, error)) (_ *asked[T], _ []failed, err error) {
	inner, cancel := context.WithCancelCause(ctx)
	got := &asked[T]{answers: make([]T, len(sources)), sources: sources, cancel: cancel}
	var (
		wg       sync.WaitGroup
		mu       sync.Mutex
		failures []failed // guarded by mu
		slots    = make(chan struct{}, r.cfg.Concurrency)
	)
	fail := func(s *source, err error) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case context.Cause(inner) == errStopped:
			return // stopped for another's sake
		case errors.Is(err, fetch.ErrUnreachable):
			if len(failures) == 0 { // one that fires after the end stops nothing
				time.AfterFunc(grace, func() { cancel(errStopped) })
			}
		case partial && s.entry != nil && !trace.IsLimit(err):
			if len(failures) == 0 {
				time.AfterFunc(blockGrace, func() { cancel(errStopped) })
			}
		default:
			defer cancel(errStopped)
		}
		var b *blockError
		if errors.As(err, &b) {
			s, err = &source{entry: b.entry}, b.err
		}
		failures = append(failures, failed{s, err})
	}
	for i, s := range sources {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			answer, err := safely(s.begin(inner, r), s, f)
			if err != nil {
				s.span.End(err)
				fail(s, err)
				return
			}
			got.answers[i] = answer
		})
	}
	wg.Wait()
	if len(failures) == 0 && context.Cause(inner) == nil {
		return got, nil, nil
	}
	if err := got.close(); err != nil {
		r.logger.Debug("sources of a failed query did not close", "err", err)
	}
	if ctx.Err() != nil {
		return nil, nil, context.Cause(ctx)
	}
	return nil, failures, nil
}

var errStopped = errors.New("another source failed first")

// safely runs f in a goroutine of ours, where nobody else would catch a panic over data that lies.
func safely[T any](ctx context.Context, s *source, f func(context.Context, *source) (T, error)) (answer T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("source panicked: %v", p)
		}
	}()
	if ctx.Err() != nil {
		return answer, context.Cause(ctx)
	}
	return f(ctx, s)
}

// unavailable lets Prometheus' API call a failure of ours "unavailable": that is how it treats tsdb.ErrNotReady.
type unavailable struct{ err *schema.Error }

func (u unavailable) Error() string        { return u.err.Error() }
func (u unavailable) Is(target error) bool { return target == tsdb.ErrNotReady }
func (u unavailable) Unwrap() error        { return u.err }

// told returns err as the API has to see it, and notes it for the answer's head.
func (q *query) told(err error) error {
	var se *schema.Error
	if !errors.As(err, &se) {
		return err
	}
	q.opts.note(se)
	if se.Status < 500 {
		return err
	}
	return unavailable{se}
}
