package reader

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"

	"sluice/internal/fetch"
	"sluice/internal/merge"
	"sluice/internal/trace"
	"sluice/schema"
)

// The spans of a query: parse, evaluate (in it plan, select and, in that, block, reader and member), encode and send.

// begin starts the source's span, and returns the context to work in.
func (s *source) begin(ctx context.Context, r *Reader) context.Context {
	switch {
	case s.entry != nil:
		ctx, s.span = trace.Start(ctx, "block")
		describeBlock(s.span, s.entry)
	case s.share != nil:
		ctx, s.span = trace.Start(ctx, "reader")
		s.span.Set("reader", s.share.owner.ID)
		s.span.Set("blocks", len(s.share.entries))
	default:
		ctx, s.span = trace.Start(ctx, "member")
		s.span.Set("member", s.member.ID)
		if s.member.Zone != "" {
			s.span.Set("zone", s.member.Zone)
		}
		s.span.Set("asks", s.asks)
		_, s.remote = s.src.(*fetch.Client)
	}
	return ctx
}

func describeBlock(span *trace.Span, e *schema.BlockEntry) {
	if span == nil {
		return
	}
	span.Set("block", e.ID.String())
	span.Set("from", instant(e.MinTime))
	span.Set("to", instant(e.MaxTime))
	span.Set("level", e.Level)
}

func instant(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05Z") }

// describe says what the view found.
func (v *view) describe(span *trace.Span) {
	span.Set("blocks", len(v.blocks))
	span.Set("partitions", v.partitions)
	span.Set("strong", v.strong)
}

func describeSelect(span *trace.Span, opts *options, hints *storage.SelectHints, ms []*labels.Matcher) {
	if span == nil {
		return
	}
	var text strings.Builder
	for i, m := range ms {
		if i > 0 {
			text.WriteByte(',')
		}
		if text.WriteString(m.String()); text.Len() > 1000 {
			break
		}
	}
	span.Set("matchers", text.String())
	if hints != nil {
		span.Set("from", instant(hints.Start))
		span.Set("to", instant(hints.End))
		if hints.ShardCount > 0 {
			span.Set("shard", fmt.Sprintf("%d of %d", hints.ShardIndex+1, hints.ShardCount))
		}
	}
	if opts.whole != nil { // one of several
		span.Set("tenant", string(opts.tenant))
	}
}

// followed makes the source's span end with the set, and counts the series of a source that does not count itself: those
// of blocks and of other processes are counted where they arrive.
func (s *source) followed(ctx context.Context, set storage.SeriesSet) storage.SeriesSet {
	if s.span == nil {
		return set
	}
	return &followedSet{SeriesSet: set, source: s, count: s.src != nil && !s.remote}
}

// countEvery is how many series are counted at once.
const countEvery = 64

type followedSet struct {
	storage.SeriesSet
	source *source
	count  bool
	err    error

	// Not counted yet.
	series, chunks, bytes int64
	scratch               []merge.Chunk
}

func (s *followedSet) Next() bool {
	if s.err != nil {
		return false
	}
	more := s.SeriesSet.Next()
	if s.count {
		s.err = s.counted(more)
	}
	if !more || s.err != nil {
		s.source.span.End(s.Err())
		return false
	}
	return true
}

// counted counts the series that the set is at. Chunks that are not in blocks' files yet have their place in memory anyway: they
// count as fetched, and take none.
func (s *followedSet) counted(more bool) error {
	if more {
		s.series++
		s.scratch, _ = merge.ChunksOf(s.At(), s.scratch[:0])
		s.chunks += int64(len(s.scratch))
		for i := range s.scratch {
			s.bytes += int64(len(s.scratch[i].Data))
		}
		if s.series < countEvery {
			return nil
		}
	}
	span := s.source.span
	err := cmp.Or(span.Add(trace.Series, s.series), span.Add(trace.Chunks, s.chunks), span.Add(trace.ChunkBytes, s.bytes))
	s.series, s.chunks, s.bytes = 0, 0, 0
	return err
}

func (s *followedSet) Err() error {
	if s.err != nil {
		return s.err
	}
	return s.SeriesSet.Err()
}

// wrappedEngine is an engine whose queries are wrapped.
type wrappedEngine struct {
	promql.QueryEngine
	made func(ctx context.Context, make func() (promql.Query, error)) (promql.Query, error)
}

func (e wrappedEngine) NewInstantQuery(ctx context.Context, q storage.Queryable, opts promql.QueryOpts, qs string, ts time.Time) (promql.Query, error) {
	return e.made(ctx, func() (promql.Query, error) { return e.QueryEngine.NewInstantQuery(ctx, q, opts, qs, ts) })
}

func (e wrappedEngine) NewRangeQuery(ctx context.Context, q storage.Queryable, opts promql.QueryOpts, qs string, start, end time.Time, interval time.Duration) (promql.Query, error) {
	return e.made(ctx, func() (promql.Query, error) {
		return e.QueryEngine.NewRangeQuery(ctx, q, opts, qs, start, end, interval)
	})
}

// timed makes an engine's queries say when they are parsed and evaluated. It is the outermost.
func timed(e promql.QueryEngine) promql.QueryEngine {
	return wrappedEngine{e, func(ctx context.Context, make func() (promql.Query, error)) (promql.Query, error) {
		_, span := trace.Start(ctx, "parse")
		q, err := make()
		span.End(err)
		if err != nil {
			return nil, err
		}
		return timedQuery{q}, nil
	}}
}

type timedQuery struct{ promql.Query }

// noteQuery notes which metrics a query asks for: what comes out of the results cache is selected nowhere. Over several tenants
// nothing is cached, and its matchers may leave some of them out.
func noteQuery(ctx context.Context, q promql.Query) {
	opts, err := optionsFrom(ctx)
	if err != nil || opts.queried == nil || opts.tenant == "" {
		return
	}
	if s, ok := q.Statement().(*parser.EvalStmt); ok {
		parser.Inspect(s.Expr, func(node parser.Node, _ []parser.Node) error {
			if v, ok := node.(*parser.VectorSelector); ok {
				opts.noteNames(v.LabelMatchers)
			}
			return nil
		})
	}
}

func (q timedQuery) Exec(ctx context.Context) *promql.Result {
	inner, span := trace.Start(ctx, "evaluate")
	noteQuery(ctx, q.Query)
	res := q.Query.Exec(inner)
	span.End(res.Err)
	if opts, err := optionsFrom(ctx); err == nil {
		opts.asking.evaluated(res)
	}
	return res
}

// countSamples makes an engine count the samples that its queries say they have read.
func countSamples(e promql.QueryEngine) promql.QueryEngine {
	return wrappedEngine{e, func(_ context.Context, make func() (promql.Query, error)) (promql.Query, error) {
		q, err := make()
		if err != nil {
			return nil, err
		}
		return countedQuery{q}, nil
	}}
}

type countedQuery struct{ promql.Query }

func (q countedQuery) Exec(ctx context.Context) *promql.Result {
	res := q.Query.Exec(ctx)
	if s := q.Stats(); s != nil && s.Samples != nil {
		if err := trace.Add(ctx, trace.Samples, s.Samples.SamplesRead); err != nil && res.Err == nil {
			return &promql.Result{Err: err}
		}
	}
	return res
}
