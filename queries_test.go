package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/util/annotations"
	apiv1 "github.com/prometheus/prometheus/web/api/v1"
	"github.com/stretchr/testify/require"

	"sluice/bench/queries"
	"sluice/internal/web"
	"sluice/reader"
	"sluice/reader/dialect"
	"sluice/schema"
)

const querySeed = 6

// TestQueries asks 500 generated queries of Sluice and of a Prometheus' engine over its TSDB, which hold the same samples.
// Floats are the same to the last bit, histograms in every bucket, errors, warnings and infos in every letter: from heads,
// from sealed blocks, from the bucket, from both, and while a seal, an upload, a merge and a restart happen.
func TestQueries(t *testing.T) {
	dir := t.TempDir()
	flags := []string{"--compactor.interval", "200ms", "--compactor.settle", "1ms"}
	in, stop := startInstallation(t, dir, acceptanceLimits, flags...)
	start := time.UnixMilli(1_760_000_007_123)
	samples := queries.Samples(querySeed, start)
	asked := 500
	if testing.Short() { // under the race detector: one after the other, in the same places
		asked = 100
	}
	c := newComparison(t, samples, queries.Generate(querySeed, asked, start))

	in.push("whole", samples)
	older, newer := samples[:len(samples)/2], samples[len(samples)/2:]
	in.push("halved", older)
	in.settle()
	c.check(in.near, "heads", "whole")
	in.gate.shut()
	shipping := in.seal()
	c.check(in.far, "sealed, in another process", "whole")
	in.ship(shipping)
	c.check(in.near, "bucket", "whole")
	c.checkHTTP(in, "bucket by HTTP", "whole")
	in.push("halved", newer)
	in.settle()
	c.check(in.far, "bucket and heads", "halved")

	var moving sync.WaitGroup
	moving.Go(func() {
		in.ship(in.seal())
		in.compact([]schema.Tenant{"whole", "halved"})
	})
	c.check(in.near, "while blocks are made and merged", "halved")
	moving.Wait()
	in.push("replayed", samples)
	stop()
	in, _ = startInstallation(t, dir, acceptanceLimits, flags...)
	c.check(in.far, "merged, after a restart", "halved")
	c.check(in.near, "heads, after a restart", "replayed")
	t.Logf("SLUICE-FIGURES generated queries: %d, of which %d have an answer that is not empty and %d fail in Prometheus too; all the same in 8 places", len(c.queries), c.answered, c.failing)
}

// comparison knows what Prometheus answers.
type comparison struct {
	t        *testing.T
	queries  []queries.Query
	want     []*promql.Result
	answered int // not empty
	failing  int
}

func newComparison(t *testing.T, samples []queries.Sample, asked []queries.Query) *comparison {
	c := &comparison{t: t, queries: asked}
	db := openReference(t, samples)
	engine := promql.NewEngine(promql.EngineOpts{
		Logger: slog.New(slog.DiscardHandler), MaxSamples: 50_000_000, Timeout: time.Minute, LookbackDelta: 5 * time.Minute,
		NoStepSubqueryIntervalFn: func(int64) int64 { return time.Minute.Milliseconds() },
		EnableAtModifier:         true, EnableNegativeOffset: true, Parser: dialect.NewParser(),
		EnableDelayedNameRemoval: true, UseStartTimestamps: true,
	})
	for _, q := range asked {
		res := evaluate(t, context.Background(), engine, sortedStorage{db}, q)
		c.want = append(c.want, res)
		switch v := res.Value.(type) {
		case nil:
			c.failing++
		case promql.Vector:
			c.answered += min(len(v), 1)
		case promql.Matrix:
			c.answered += min(len(v), 1)
		default:
			c.answered++
		}
	}
	require.Greater(t, c.answered, len(asked)*3/5, "too few of the queries find anything")
	require.Less(t, c.failing, len(asked)/5, "too many of the queries fail")
	return c
}

// openReference makes a TSDB with everything that Prometheus can keep.
func openReference(t *testing.T, samples []queries.Sample) *tsdb.DB {
	opts := tsdb.DefaultOptions()
	opts.EnableSTStorage, opts.FloatChunkEncoding, opts.EnableHistogramSTEncoding = true, chunkenc.EncXOR2, true
	opts.OutOfOrderTimeWindow = (24 * time.Hour).Milliseconds()
	opts.RetentionDuration = 0
	db, err := tsdb.Open(t.TempDir(), slog.New(slog.DiscardHandler), nil, opts, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	app := db.AppenderV2(context.Background())
	for _, s := range samples {
		if s.H != nil { // TSDB takes what it is given for its own
			s.H = s.H.Copy()
		} else if s.FH != nil {
			s.FH = s.FH.Copy()
		}
		_, err := app.Append(0, s.Series, s.ST, s.T, s.V, s.H, s.FH, storage.AppendV2Options{})
		require.NoError(t, err)
	}
	require.NoError(t, app.Commit())
	return db
}

// sortedStorage gives series in the order of their labels even to those who do not need that: sums are the same to the last
// bit only in the same order.
type sortedStorage struct{ storage.Queryable }

func (s sortedStorage) Querier(mint, maxt int64) (storage.Querier, error) {
	q, err := s.Queryable.Querier(mint, maxt)
	return sortedQuerier{q}, err
}

type sortedQuerier struct{ storage.Querier }

func (q sortedQuerier) Select(ctx context.Context, _ bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	return q.Querier.Select(ctx, true, hints, ms...)
}

func evaluate(t *testing.T, ctx context.Context, engine promql.QueryEngine, from storage.Queryable, q queries.Query) *promql.Result {
	var query promql.Query
	var err error
	if q.Step == 0 {
		query, err = engine.NewInstantQuery(ctx, from, nil, q.Expr, q.Start)
	} else {
		query, err = engine.NewRangeQuery(ctx, from, nil, q.Expr, q.Start, q.End, q.Step)
	}
	require.NoError(t, err, q.Expr)
	defer query.Close()
	res := query.Exec(ctx)
	// What it points to may be used again after Close.
	out := &promql.Result{Err: res.Err, Warnings: res.Warnings}
	switch v := res.Value.(type) {
	case promql.Matrix:
		copied := make(promql.Matrix, len(v))
		for i, s := range v {
			copied[i] = promql.Series{Metric: s.Metric, Floats: slices.Clone(s.Floats)}
			for _, h := range s.Histograms {
				copied[i].Histograms = append(copied[i].Histograms, promql.HPoint{T: h.T, H: h.H.Copy()})
			}
		}
		out.Value = copied
	case promql.Vector:
		out.Value = slices.Clone(v)
	default:
		out.Value = v
	}
	return out
}

// check asks everything of a reader.
func (c *comparison) check(r *reader.Reader, place string, tenant schema.Tenant) {
	c.t.Run(place, func(t *testing.T) {
		ctx := web.WithTenant(context.Background(), tenant)
		for i, q := range c.queries {
			got := evaluate(t, ctx, r.Engine(), r, q)
			if diff := difference(q, c.want[i], got); diff != "" {
				t.Errorf("%s\n  at %d to %d step %s: %s", q.Expr, q.Start.UnixMilli(), q.End.UnixMilli(), q.Step, diff)
			}
		}
	})
}

// difference says how got is not want, empty if it is.
func difference(q queries.Query, want, got *promql.Result) string {
	switch {
	case (want.Err == nil) != (got.Err == nil), want.Err != nil && failure(want.Err) != failure(got.Err):
		return fmt.Sprintf("error is %v, want %v", got.Err, want.Err)
	case want.Err != nil:
		return ""
	}
	if w, g := notes(q.Expr, want.Warnings), notes(q.Expr, got.Warnings); !slices.Equal(w, g) {
		return fmt.Sprintf("notes are %q, want %q", g, w)
	}
	float := spellFloat
	if !q.Exact {
		float = spellRounded
	}
	w, g := spell(want.Value, float), spell(got.Value, float)
	if !strings.HasPrefix(q.Expr, "sort") { // in what order other answers come is no promise, and chance for some
		slices.Sort(w)
		slices.Sort(g)
	}
	for i := range max(len(w), len(g)) {
		switch {
		case i >= len(w):
			return fmt.Sprintf("%d lines, want %d; the first too many is\n  %s", len(g), len(w), g[i])
		case i >= len(g):
			return fmt.Sprintf("%d lines, want %d; the first missing is\n  %s", len(g), len(w), w[i])
		case w[i] != g[i]:
			return fmt.Sprintf("line %d of %d is\n  %s\nwant\n  %s", i, len(w), g[i], w[i])
		}
	}
	return ""
}

func notes(expr string, as annotations.Annotations) []string {
	warnings, infos := as.AsStrings(expr, 0, 0)
	all := append(warnings, infos...)
	slices.Sort(all)
	return all
}

// failure is an error's text without the names of two of several equals.
func failure(err error) string {
	text, _, _ := strings.Cut(err.Error(), "found duplicate series")
	return text
}

// spell writes every value, a line each.
func spell(v parser.Value, float func(float64) string) (lines []string) {
	line := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	switch v := v.(type) {
	case promql.Vector:
		for _, s := range v {
			if s.H != nil {
				line("%s @%d %s", s.Metric, s.T, spellHistogram(s.H, float))
			} else {
				line("%s @%d %s", s.Metric, s.T, float(s.F))
			}
		}
	case promql.Matrix:
		for _, s := range v {
			line("%s", s.Metric)
			for _, p := range s.Floats {
				line("  %s @%d %s", s.Metric, p.T, float(p.F))
			}
			for _, p := range s.Histograms {
				line("  %s @%d %s", s.Metric, p.T, spellHistogram(p.H, float))
			}
		}
	case promql.Scalar:
		line("scalar @%d %s", v.T, float(v.V))
	default:
		line("%T %s", v, v)
	}
	return lines
}

// spellFloat writes all bits.
func spellFloat(f float64) string {
	if math.IsNaN(f) {
		return "NaN" // which one of them no client can tell
	}
	return fmt.Sprintf("%v %x", f, math.Float64bits(f))
}

// spellRounded writes eleven digits.
func spellRounded(f float64) string { return strconv.FormatFloat(f, 'e', 10, 64) }

// spellHistogram leaves out what is nothing: empty buckets, and whether it is known that there was no counter reset, which
// depends on where chunks begin.
func spellHistogram(h *histogram.FloatHistogram, float func(float64) string) string {
	h = h.Copy().Compact(0)
	gauge := h.CounterResetHint == histogram.GaugeType
	text := fmt.Sprintf("%v schema %d zero %s %s count %s sum %s bounds %v:", gauge, h.Schema, float(h.ZeroThreshold), float(h.ZeroCount), float(h.Count), float(h.Sum), h.CustomValues)
	for it := h.AllBucketIterator(); it.Next(); {
		if it.At().Count == 0 {
			continue
		}
		text += fmt.Sprintf(" (%v,%v]=%s", it.At().Lower, it.At().Upper, float(it.At().Count))
	}
	return text
}

// checkHTTP asks everything as Grafana does, with strong reads.
func (c *comparison) checkHTTP(in *installation, place string, tenant schema.Tenant) {
	c.t.Run(place, func(t *testing.T) {
		seconds := func(at time.Time) string { return strconv.FormatFloat(float64(at.UnixMilli())/1000, 'f', 3, 64) }
		for i, q := range c.queries {
			form, path := url.Values{"query": {q.Expr}, "time": {seconds(q.Start)}}, "/prometheus/api/v1/query"
			if q.Step > 0 {
				form, path = url.Values{"query": {q.Expr}, "start": {seconds(q.Start)}, "end": {seconds(q.End)}, "step": {fmt.Sprint(q.Step.Seconds())}}, "/prometheus/api/v1/query_range"
			}
			req := httptest.NewRequest(http.MethodPost, path, strings.NewReader(form.Encode()))
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			req.Header.Set(schema.TenantHeader, string(tenant))
			req.Header.Set("X-Read-Consistency", "strong")
			w := httptest.NewRecorder()
			in.process.mux.ServeHTTP(w, req)
			var got struct {
				Data, Error json.RawMessage
			}
			require.NoError(t, json.Unmarshal(w.Body.Bytes(), &got), w.Body.String())
			want := c.want[i]
			if want.Err != nil {
				require.Equal(t, http.StatusUnprocessableEntity, w.Code, "%s: %s", q.Expr, w.Body)
				text, err := json.Marshal(want.Err.Error())
				require.NoError(t, err)
				if before, _, several := strings.Cut(string(text), "found duplicate series"); several {
					require.Contains(t, string(got.Error), before, q.Expr)
				} else {
					require.JSONEq(t, string(text), string(got.Error), q.Expr)
				}
				continue
			}
			require.Equal(t, http.StatusOK, w.Code, "%s: %s", q.Expr, w.Body)
			text, err := apiv1.JSONCodec{}.Encode(&apiv1.Response{Data: &apiv1.QueryData{ResultType: want.Value.Type(), Result: want.Value}})
			require.NoError(t, err)
			var expected struct{ Data json.RawMessage }
			require.NoError(t, json.Unmarshal(text, &expected))
			if q.Exact && !sameJSON(t, expected.Data, got.Data) {
				t.Errorf("%s\n  from %d step %s is\n%.2000s\nwant\n%.2000s", q.Expr, q.Start.UnixMilli(), q.Step, got.Data, expected.Data)
			}
		}
	})
}

// sameJSON compares answers whose series may come in another order.
func sameJSON(t *testing.T, a, b json.RawMessage) bool {
	read := func(text json.RawMessage) (kind string, series []string) {
		var data struct {
			ResultType string
			Result     json.RawMessage
		}
		require.NoError(t, json.Unmarshal(text, &data))
		var each []json.RawMessage
		require.NoError(t, json.Unmarshal(data.Result, &each))
		for _, one := range each {
			series = append(series, string(one))
		}
		if data.ResultType == string(parser.ValueTypeVector) || data.ResultType == string(parser.ValueTypeMatrix) {
			slices.Sort(series)
		}
		return data.ResultType, series
	}
	kindA, seriesA := read(a)
	kindB, seriesB := read(b)
	return kindA == kindB && slices.Equal(seriesA, seriesB)
}
