package reader

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"

	"sluice/internal/fetch"
	"sluice/reader/front"
)

// newFront makes what evaluates queries: the front, and the engines behind it.
func (r *Reader) newFront(reg, evalReg prometheus.Registerer) (*front.Front, error) {
	return front.New(front.Config{
		Timeout: r.cfg.QueryTimeout, MaxSamples: r.cfg.MaxSamples, Lookback: lookback, CacheBytes: r.cfg.ResultsCacheBytes,
	}, func(samples int) promql.QueryEngine {
		if samples == r.cfg.MaxSamples {
			return countSamples(r.newEngines(samples, r.language, r.features, reg, evalReg))
		}
		return countSamples(r.newEngines(samples, r.language, nil, nil, nil)) // the process' metrics are those of the one above
	}, r.language, backend{r}, evalReg)
}

// backend is the reader as the front sees it.
type backend struct{ *Reader }

// Asker tells whose query it is. What its tenants may use of PromQL is part of the name: it may change answers.
func (b backend) Asker(ctx context.Context) (front.Asker, error) {
	opts, err := optionsFrom(ctx)
	if err != nil {
		return front.Asker{}, err
	}
	limits := b.queryLimits(opts)
	return front.Asker{
		Name: fmt.Sprintf("%s\xff%+v\xff", opts.whose(), b.dialect(opts)), Limits: limits, Earliest: b.earliest(opts),
		NoCache: opts.noStore || len(opts.tenants) > 0,
	}, nil
}

// Now returns the time.
func (b backend) Now() time.Time { return b.now() }

// Spare gives a query another place.
func (b backend) Spare(ctx context.Context) (leave func(), ok bool) {
	opts, err := optionsFrom(ctx)
	if err != nil {
		return nil, false
	}
	return b.queue.Spare(opts.whose())
}

// errUnsure says that what an answer would be made of cannot be told.
var errUnsure = errors.New("a part of the answer is not certain")

// Cover asks those who hold what is not in blocks yet for its times. It goes by the rules of every other question: whoever
// answers has applied what this reader has answered before, so nothing that an answer was made of is missing here.
func (b backend) Cover(ctx context.Context, mint, maxt int64) (*front.Cover, error) {
	opts, err := optionsFrom(ctx)
	if err != nil {
		return nil, err
	}
	q := &query{reader: b.Reader, opts: opts}
	got, err := ask(ctx, q, question[[]fetch.Interval]{
		put: func(ctx context.Context, s *source) ([]fetch.Interval, error) { return s.held(ctx, opts) },
	})
	if err != nil {
		return nil, err
	}
	defer got.close() // nothing is open
	if len(got.warnings) > 0 {
		return nil, errUnsure
	}
	v, err := q.current(ctx)
	if err != nil {
		return nil, err
	}
	if lost, remark := v.lost(mint, maxt); lost != nil || remark != nil {
		return nil, errUnsure
	}
	cover := &front.Cover{}
	for _, e := range v.blocks {
		cover.Blocks = append(cover.Blocks, front.Block{ID: e.ID, Span: front.Span{Mint: e.MinTime, Maxt: max(e.MaxTime-1, e.MinTime)}})
	}
	for _, held := range got.answers {
		for _, h := range held {
			cover.Held = append(cover.Held, front.Span{Mint: h.Mint, Maxt: h.Maxt})
		}
	}
	return cover, nil
}

// held asks a member for the times of what it holds.
func (s *source) held(ctx context.Context, opts *options) ([]fetch.Interval, error) {
	times, ok := s.src.(fetch.Times)
	if !ok {
		return []fetch.Interval{fetch.Always}, nil
	}
	opening, cancel := context.WithDeadlineCause(ctx, s.waitUntil, errBehind)
	defer cancel()
	held, applied, err := times.Held(opening, opts.tenant, s.asks)
	if err != nil {
		return nil, err
	}
	if applied == nil {
		return []fetch.Interval{fetch.Always}, nil
	}
	s.opened = append(s.opened, fetch.WithApplied(storage.NoopQuerier(), applied)) // for the floors
	return held, nil
}
