package front

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"regexp"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
	"github.com/prometheus/prometheus/util/annotations"
	"github.com/stretchr/testify/require"

	"sluice/internal/trace"
	"sluice/schema"
)

const minute = int64(60_000)

// point is a sample of the world's.
type point struct {
	t int64
	f float64
	h *histogram.Histogram
}

func (p point) T() int64                      { return p.t }
func (p point) ST() int64                     { return 0 }
func (p point) F() float64                    { return p.f }
func (p point) H() *histogram.Histogram       { return p.h }
func (p point) FH() *histogram.FloatHistogram { return nil }
func (p point) Copy() chunks.Sample           { return p }
func (p point) Type() chunkenc.ValueType {
	if p.h != nil {
		return chunkenc.ValHistogram
	}
	return chunkenc.ValFloat
}

// pile is the samples of a block or a head, by the text of their labels.
type pile map[string][]point

func (p pile) span() Span {
	s := Span{math.MaxInt64, math.MinInt64}
	for _, points := range p {
		for _, x := range points {
			s.Mint, s.Maxt = min(s.Mint, x.t), max(s.Maxt, x.t)
		}
	}
	return s
}

func (p pile) add(series string, x point) {
	i, found := slices.BinarySearchFunc(p[series], x.t, func(a point, t int64) int { return int(a.t - t) })
	if !found {
		p[series] = slices.Insert(p[series], i, x)
	}
}

// world is blocks and a head, and a Backend over them.
type world struct {
	mu     sync.Mutex
	blocks []pile
	ids    []ulid.ULID
	head   pile
	now    int64
	next   uint64
	known  map[string]labels.Labels

	limits   schema.QueryLimits
	noCache  bool
	earliest int64
	covers   int
	selects  int
	onSelect func()
	queue    *Queue
}

func (w *world) Asker(context.Context) (Asker, error) {
	return Asker{Name: "acme", Limits: &w.limits, NoCache: w.noCache, Earliest: w.earliest}, nil
}

func (w *world) Now() time.Time { return time.UnixMilli(w.now) }

func (w *world) Spare(context.Context) (func(), bool) {
	if w.queue == nil {
		return func() {}, true
	}
	return w.queue.Spare("acme")
}

func (w *world) Cover(context.Context, int64, int64) (*Cover, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.covers++
	c := &Cover{}
	for i, b := range w.blocks {
		c.Blocks = append(c.Blocks, Block{w.ids[i], b.span()})
	}
	if len(w.head) > 0 {
		c.Held = append(c.Held, w.head.span())
	}
	return c, nil
}

func (w *world) block(p pile) {
	w.next++
	var id ulid.ULID
	id[15] = byte(w.next)
	w.blocks, w.ids = append(w.blocks, p), append(w.ids, id)
}

func (w *world) Querier(mint, maxt int64) (storage.Querier, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.selects++
	if w.onSelect != nil {
		w.onSelect()
	}
	all := pile{}
	for _, p := range append(slices.Clone(w.blocks), w.head) {
		for series, points := range p {
			for _, x := range points {
				if x.t >= mint && x.t <= maxt {
					all[series] = append(all[series], x)
				}
			}
		}
	}
	for series, points := range all {
		slices.SortStableFunc(points, func(a, b point) int { return cmp.Compare(a.t, b.t) })
		all[series] = slices.CompactFunc(points, func(a, b point) bool { return a.t == b.t })
	}
	return &worldQuerier{w, all, mint, maxt}, nil
}

type worldQuerier struct {
	world      *world
	all        pile
	mint, maxt int64
}

func (q *worldQuerier) LabelValues(context.Context, string, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, nil
}

func (q *worldQuerier) LabelNames(context.Context, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, nil
}
func (q *worldQuerier) Close() error { return nil }

func (q *worldQuerier) Select(_ context.Context, _ bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	var found []storage.Series
	for series, points := range q.all {
		ls := q.world.known[series]
		if slices.ContainsFunc(ms, func(m *labels.Matcher) bool { return !m.Matches(ls.Get(m.Name)) }) {
			continue
		}
		var in []chunks.Sample
		for _, x := range points {
			if x.t >= max(q.mint, hints.Start) && x.t <= min(q.maxt, hints.End) {
				in = append(in, x)
			}
		}
		if len(in) > 0 {
			found = append(found, storage.NewListSeries(ls, in))
		}
	}
	slices.SortFunc(found, func(a, b storage.Series) int { return labels.Compare(a.Labels(), b.Labels()) })
	return &listSet{found, -1}
}

type listSet struct {
	all []storage.Series
	at  int
}

func (s *listSet) Next() bool                        { s.at++; return s.at < len(s.all) }
func (s *listSet) At() storage.Series                { return s.all[s.at] }
func (s *listSet) Err() error                        { return nil }
func (s *listSet) Warnings() annotations.Annotations { return nil }

func newWorld() *world {
	w := &world{head: pile{}, known: map[string]labels.Labels{}, limits: schema.DefaultLimits().QueryLimits}
	w.limits.SplitQueriesByInterval = model.Duration(time.Hour)
	for _, name := range []string{"up", "reqs_total", "temp", "mixed", "lat_bucket", "nh"} {
		for i := range 3 {
			pairs := []string{"__name__", name, "i", fmt.Sprint(i), "job", fmt.Sprint("j", i%2)}
			if name == "lat_bucket" {
				pairs = append(pairs, "le", []string{"1", "5", "+Inf"}[i])
			}
			ls := labels.FromStrings(pairs...)
			w.known[ls.String()] = ls
		}
	}
	return w
}

func (w *world) value(rng *rand.Rand, series string, t int64) point {
	name := w.known[series].Get("__name__")
	switch {
	case name == "nh", name == "mixed" && t/minute%240 > 120:
		return point{t: t, h: tsdbutil.GenerateTestHistogram(t / minute % 100)}
	case name == "reqs_total", name == "lat_bucket":
		return point{t: t, f: float64(t / minute % 1000 * 7)}
	}
	return point{t: t, f: float64(rng.IntN(100))}
}

// live adds what is scraped from from to to.
func (w *world) live(rng *rand.Rand, from, to int64) {
	for _, series := range slices.Sorted(mapsKeys(w.known)) {
		if rng.IntN(6) == 0 {
			continue // away for this time
		}
		for t := from; t < to; t += minute {
			if rng.IntN(20) > 0 {
				w.head.add(series, w.value(rng, series, t+int64(rng.IntN(500))))
			}
		}
	}
}

var language = parser.NewParser(parser.Options{EnableExperimentalFunctions: true})

func engine(samples int) promql.QueryEngine {
	return promql.NewEngine(promql.EngineOpts{
		Logger: slog.New(slog.DiscardHandler), MaxSamples: samples, Timeout: time.Minute, LookbackDelta: 5 * time.Minute,
		NoStepSubqueryIntervalFn: func(int64) int64 { return minute },
		EnableAtModifier:         true, EnableNegativeOffset: true, EnablePerStepStats: true, Parser: language,
	})
}

func newFront(t testing.TB, w *world, cfg Config) *Front {
	f, err := New(cfg, engine, language, w, nil)
	require.NoError(t, err)
	t.Cleanup(f.Close)
	return f
}

var queries = []string{
	`up`, `-up`, `up{i="1"}`, `sum(up)`, `sum by (job) (up)`, `avg without (i) (temp)`, `count(nh)`, `sum(nh)`, `nh`, `mixed`, `absent(up{i="9"})`, `absent(up)`,
	`rate(reqs_total[5m])`, `sum(rate(reqs_total[5m]))`, `increase(up[7m])`, `sum by (job) (rate(temp[3m]))`, `rate(nh[10m])`, `histogram_quantile(0.9, sum(rate(nh[10m])))`,
	`histogram_quantile(0.5, sum by (le) (rate(lat_bucket[5m])))`, `topk(2, temp)`, `bottomk(1, temp) by (job)`, `quantile(0.5, temp)`, `count_values("v", temp)`, `limitk(2, up)`,
	`limit_ratio(0.5, up)`, `max_over_time(temp[20m])`, `avg_over_time(temp[90m])`, `last_over_time(up[10m])`, `absent_over_time(up{i="0"}[2m])`, `present_over_time(mixed[4m])`,
	`rate({job="j0"}[5m])`, `last_over_time({job="j0"}[5m])`, `up offset 30m`, `up offset -10m`, `rate(reqs_total[5m] offset 1h)`, `up @ 7200`, `up - up @ 3600`, `rate(reqs_total[5m] @ 9000)`,
	`up @ start()`, `up @ end()`, `rate(reqs_total[5m] @ end())`, `max_over_time(rate(reqs_total[5m])[30m:2m])`, `max_over_time(sum(up)[10m:])`, `sum_over_time({job="j1"}[10m:1m])`,
	`max_over_time((up @ end())[10m:1m])`, `temp > 50`, `temp > bool 50`, `temp and up`, `temp or up`, `temp unless on (i) up{i="1"}`, `temp / on (i, job) up`, `temp + on (job) group_left () sum by (job) (up)`,
	`label_replace(up, "x", "$1", "i", "(.)")`, `rate(label_replace(reqs_total, "x", "y", "", "")[5m:1m])`, `label_join(up, "x", "-", "i", "job")`, `time()`, `vector(time())`, `scalar(sum(up))`, `1`, `sum(up) + time()`,
	`timestamp(up)`, `hour(up)`, `sort(up)`, `sort_desc(temp)`, `predict_linear(temp[10m], 600)`, `double_exponential_smoothing(temp[10m], 0.5, 0.5)`, `deriv(temp[10m])`, `changes(temp[10m])`, `resets(reqs_total[30m])`,
	`quantile_over_time(0.9, temp[10m])`, `stddev(temp)`, `group(up)`, `abs(temp)`, `{job="j0"}`, `sum by (__name__) ({job="j0"})`, `rate({__name__=~"up|temp"}[5m])`, `rate(nosuch[5m])`, `up == on (i) group_right () temp`,
	`histogram_count(nh)`, `histogram_avg(rate(nh[10m]))`, `sum(temp) by (i) / ignoring (i) group_left sum(up)`, `irate(reqs_total[5m])`, `delta(temp[10m])`, `mad_over_time(temp[10m])`, `sum(mixed)`, `rate(mixed[5m])`,
	`histogram_quantile(0.9, lat_bucket)`, `quantile(time() / 1e10, temp)`, `quantile(2, temp)`, `clamp(temp, 10, 20)`, `info(up)`,
}

// same evaluates a query in both ways.
func same(t *testing.T, w *world, f *Front, plain promql.QueryEngine, qs string, opts promql.QueryOpts, start, end int64, step time.Duration) {
	t.Helper()
	want := run(t, plain, w, qs, opts, start, end, step)
	got := run(t, f, w, qs, opts, start, end, step)
	about := fmt.Sprintf("%s from %d to %d step %s", qs, start, end, step)
	require.Equal(t, want.err, got.err, about)
	require.Equal(t, want.text, got.text, about)
	require.Equal(t, want.warnings, got.warnings, about)
	require.Equal(t, want.infos, got.infos, about)
	if opts != nil && opts.EnablePerStepStats() {
		require.Equal(t, want.samples, got.samples, about)
		require.Equal(t, want.perStep, got.perStep, about)
	}
}

var overSamples = regexp.MustCompile(`over -?\d+ samples `)

type outcome struct {
	err             bool
	text            string
	warnings, infos []string
	samples         int64
	perStep         []int64
}

func run(t *testing.T, e promql.QueryEngine, w *world, qs string, opts promql.QueryOpts, start, end int64, step time.Duration) (o outcome) {
	t.Helper()
	q, err := e.NewRangeQuery(context.Background(), w, opts, qs, time.UnixMilli(start), time.UnixMilli(end), step)
	require.NoError(t, err, qs)
	defer q.Close()
	res := q.Exec(context.Background())
	o.err = res.Err != nil
	if res.Err == nil {
		m := res.Value.(promql.Matrix)
		require.True(t, slices.IsSortedFunc(m, func(a, b promql.Series) int { return labels.Compare(a.Metric, b.Metric) }))
		for _, s := range m {
			o.text += s.Metric.String()
			for _, p := range s.Floats {
				o.text += fmt.Sprintf(" %d:%x", p.T, math.Float64bits(p.F))
			}
			for _, p := range s.Histograms {
				o.text += fmt.Sprintf(" %d:%s", p.T, p.H.TestExpression())
			}
			o.text += "\n"
		}
		o.warnings, o.infos = res.Warnings.AsStrings(qs, 0, 0)
		for i := range o.infos { // Prometheus adds this one up wrongly
			o.infos[i] = overSamples.ReplaceAllString(o.infos[i], "")
		}
		slices.Sort(o.warnings)
		slices.Sort(o.infos)
		o.samples, o.perStep = q.Stats().Samples.TotalSamples, q.Stats().Samples.TotalSamplesPerStep
	}
	return o
}

// TestSameAsThePlainEngine asks random queries again and again, with and without the cache, while samples arrive, late ones
// among them, and blocks are sealed, merged and deleted.
func TestSameAsThePlainEngine(t *testing.T) {
	const rounds = 15
	rng := rand.New(rand.NewPCG(4, 2))
	w := newWorld()
	w.now = 1000 * 60 * minute
	begin := w.now - 12*60*minute
	for at := begin; at < w.now; at += 90 * minute {
		w.live(rng, at, at+90*minute)
		w.block(w.head)
		w.head = pile{}
	}
	f, plain := newFront(t, w, Config{CacheBytes: 64 << 20}), engine(50_000_000)
	steps := []time.Duration{15 * time.Second, 30 * time.Second, time.Minute, 5 * time.Minute, 7 * time.Minute, time.Hour, 1500 * time.Millisecond}
	hits := 0.0
	for range rounds {
		switch rng.IntN(7) {
		case 0: // seal
			if len(w.head) > 0 {
				w.block(w.head)
				w.head = pile{}
			}
		case 1: // a late sample
			series := slices.Sorted(mapsKeys(w.known))[rng.IntN(len(w.known))]
			at := begin + rng.Int64N(w.now-begin)
			w.head.add(series, w.value(rng, series, at))
		case 2: // compaction
			if n := len(w.blocks); n > 2 {
				i := rng.IntN(n - 1)
				merged := pile{}
				for _, b := range w.blocks[i : i+2] {
					for series, points := range b {
						for _, x := range points {
							merged.add(series, x)
						}
					}
				}
				w.blocks, w.ids = slices.Delete(w.blocks, i, i+2), slices.Delete(w.ids, i, i+2)
				w.block(merged)
			}
		case 3: // retention
			if len(w.blocks) > 6 {
				w.blocks, w.ids = w.blocks[1:], w.ids[1:]
			}
		}
		w.live(rng, w.now, w.now+10*minute)
		w.now += 10 * minute
		step := steps[rng.IntN(len(steps))]
		length := rng.Int64N(min(6*60*minute, 600*step.Milliseconds()))
		end := w.now - rng.Int64N(3)*rng.Int64N(60)*minute
		if rng.IntN(2) == 0 { // as dashboards ask
			end -= end % step.Milliseconds()
			length -= length % step.Milliseconds()
		}
		for range 4 {
			qs := queries[rng.IntN(len(queries))]
			opts := promql.NewPrometheusQueryOpts(rng.IntN(4) == 0, time.Duration(rng.IntN(2))*3*time.Minute)
			for again := range int64(3) { // the window moves
				f.Wait()
				shift := again * rng.Int64N(5) * step.Milliseconds()
				same(t, w, f, plain, qs, opts, end-length+shift, end+shift, step)
			}
		}
	}
	hits = counter(t, f, "cached")
	require.NotZero(t, hits)
	t.Logf("parts: %v from the cache, %v worked out", hits, counter(t, f, "worked out"))
}

// TestEveryShape asks every query over a range of several parts, twice.
func TestEveryShape(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	w := newWorld()
	w.live(rng, 0, 5*60*minute)
	w.block(w.head)
	w.head = pile{}
	w.now = 48 * 60 * minute
	f, plain := newFront(t, w, Config{CacheBytes: 64 << 20}), engine(50_000_000)
	for _, qs := range queries {
		for range 2 {
			same(t, w, f, plain, qs, nil, 20*minute, 290*minute+3, 2*time.Minute)
			f.Wait()
		}
		same(t, w, f, plain, qs, promql.NewPrometheusQueryOpts(true, 0), 0, 290*minute, 4*time.Minute)
		same(t, w, f, plain, qs, nil, 90*minute, 90*minute, time.Minute)
	}
}

func ask(t *testing.T, f *Front, w *world, ctx context.Context, qs string, start, end int64, step time.Duration) *promql.Result {
	q, err := f.NewRangeQuery(ctx, w, nil, qs, time.UnixMilli(start), time.UnixMilli(end), step)
	require.NoError(t, err)
	defer q.Close()
	return q.Exec(ctx)
}

// TestWhatIsAsked: what is final is worked out once, and only new steps after that.
func TestWhatIsAsked(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	w := newWorld()
	w.live(rng, 0, 300*minute)
	w.block(w.head)
	w.head = pile{}
	w.now = 310 * minute
	f := newFront(t, w, Config{CacheBytes: 64 << 20})
	worked := func(start, end int64) (n int) {
		before := w.selects
		require.NoError(t, ask(t, f, w, context.Background(), "sum(up)", start, end, time.Minute).Err)
		f.Wait()
		return w.selects - before
	}
	require.Equal(t, 5, worked(0, 290*minute))
	require.Zero(t, worked(0, 290*minute))
	require.Zero(t, worked(30*minute, 200*minute))
	require.Equal(t, 1, worked(30*minute, 299*minute))
	require.Zero(t, worked(0, 299*minute))
	require.Equal(t, 1, worked(0, 310*minute), "what is young is worked out each time")
	require.Equal(t, 1, worked(0, 310*minute))
	w.head.add(slices.Sorted(mapsKeys(w.known))[0], point{t: 150 * minute})
	require.Equal(t, 1, worked(0, 299*minute), "a late sample")
	require.Equal(t, 1, worked(0, 299*minute), "nothing is kept that may still change")
	w.block(w.head)
	w.head = pile{}
	require.Equal(t, 1, worked(0, 299*minute), "and its block")
	require.Zero(t, worked(0, 299*minute))
	w.noCache = true
	require.Equal(t, 5, worked(0, 299*minute))
	w.noCache = false
	w.limits.ResultsCacheTTL = 0
	require.Equal(t, 5, worked(0, 299*minute))
	w.limits.SplitQueriesByInterval = 0
	require.Equal(t, 1, worked(0, 299*minute))
}

// What changes while a query runs is not kept.
func TestNotKeptWhenItChangesMeanwhile(t *testing.T) {
	w := newWorld()
	w.live(rand.New(rand.NewPCG(1, 1)), 0, 100*minute)
	w.block(w.head)
	w.head, w.now = pile{}, 310*minute
	f, plain := newFront(t, w, Config{CacheBytes: 64 << 20}), engine(50_000_000)
	once := sync.Once{}
	w.onSelect = func() {
		once.Do(func() {
			w.block(pile{slices.Sorted(mapsKeys(w.known))[0]: {{t: 20*minute + 7, f: 1e6}}}) // sealed at once
		})
	}
	require.NoError(t, ask(t, f, w, context.Background(), "up", 0, 90*minute, time.Minute).Err)
	f.Wait()
	w.onSelect = nil
	w.blocks, w.ids = w.blocks[:1], w.ids[:1] // and gone again
	same(t, w, f, plain, "up", nil, 0, 90*minute, time.Minute)
}

func TestLimits(t *testing.T) {
	w := newWorld()
	w.live(rand.New(rand.NewPCG(1, 1)), 0, 100*minute)
	w.now = 100 * minute
	f := newFront(t, w, Config{})
	defaults := w.limits
	for _, c := range []struct {
		qs    string
		limit func()
		id    schema.ErrorID
	}{
		{"up", func() { w.limits.MaxTotalQueryLength = model.Duration(89 * time.Minute) }, schema.ErrMaxQueryLength},
		{"rate(up[1h])", func() { w.limits.MaxTotalQueryLength = model.Duration(2 * time.Hour) }, schema.ErrMaxQueryLength},
		{"max_over_time(rate(up[1h])[1h:])", func() { w.limits.MaxTotalQueryLength = model.Duration(3 * time.Hour) }, schema.ErrMaxQueryLength},
		{"sum(up)", func() { w.limits.MaxQueryExpressionSizeBytes = 6 }, schema.ErrQueryTooLong},
		{"up", func() { w.limits.MaxSamplesPerQuery = 100 }, schema.ErrMaxSamplesPerQuery},
		{"sum_over_time(up[1y:1ms])", func() {}, schema.ErrMaxSamplesPerQuery},
		{"sum_over_time((up > 100000)[1y:1ms])", func() {}, schema.ErrMaxSamplesPerQuery},
		{"sum_over_time(sum_over_time(up[1m:1ms])[100d:1m])", func() {}, schema.ErrMaxSamplesPerQuery},
	} {
		w.limits = defaults
		c.limit()
		var se *schema.Error
		res := ask(t, f, w, context.Background(), c.qs, 0, 90*minute, time.Minute)
		require.ErrorAs(t, res.Err, &se, c.qs)
		require.Equal(t, c.id, se.ID, c.qs)
		if c.id != schema.ErrQueryTooLong {
			require.Equal(t, 422, se.Status)
		}
		q, err := f.NewInstantQuery(context.Background(), w, nil, c.qs, time.UnixMilli(w.now))
		require.NoError(t, err)
		if res := q.Exec(context.Background()); c.id != schema.ErrMaxSamplesPerQuery && c.qs == "up" {
			require.NoError(t, res.Err)
		}
		q.Close()
	}
	w.limits = defaults
	budget := trace.NewBudget(10_000, "--memory")
	followed := trace.New("q", nil)
	followed.Share(budget)
	var se *schema.Error
	require.ErrorAs(t, ask(t, f, w, trace.With(context.Background(), followed), "up", 0, 90*minute, time.Second).Err, &se)
	require.Equal(t, schema.ErrMaxMemoryPerQuery, se.ID)
	require.Zero(t, budget.Used(), "everything is given back")
}

// What is before the look-back is left out, the steps stay where they are.
func TestLookback(t *testing.T) {
	w := newWorld()
	w.live(rand.New(rand.NewPCG(1, 1)), 0, 200*minute)
	w.now = 200 * minute
	w.earliest = 100*minute + 1
	f := newFront(t, w, Config{})
	res := ask(t, f, w, context.Background(), "count(up)", 30_000, 190*minute, time.Minute)
	require.NoError(t, res.Err)
	require.Equal(t, 100*minute+30_000, res.Value.(promql.Matrix)[0].Floats[0].T)
	res = ask(t, f, w, context.Background(), "count(up)", 0, 100*minute, time.Minute)
	require.NoError(t, res.Err)
	require.Empty(t, res.Value.(promql.Matrix))
}

func TestAlignment(t *testing.T) {
	w := newWorld()
	w.live(rand.New(rand.NewPCG(1, 1)), 0, 200*minute)
	w.now = 200 * minute
	w.limits.AlignQueriesWithStep = true
	f := newFront(t, w, Config{})
	res := ask(t, f, w, context.Background(), "count(up)", 10*minute+1234, 190*minute+77, 7*time.Minute)
	floats := res.Value.(promql.Matrix)[0].Floats
	require.Equal(t, 7*minute, floats[0].T)
	require.Equal(t, 189*minute, floats[len(floats)-1].T)
}

// Parts need no place that is not there, and all of a query's places are given back.
func TestPartsAndTheQueue(t *testing.T) {
	w := newWorld()
	w.live(rand.New(rand.NewPCG(1, 1)), 0, 600*minute)
	w.now = 600 * minute
	for _, places := range []int{1, 3, 16} {
		w.queue = NewQueue(places, nil)
		f := newFront(t, w, Config{})
		leave, err := w.queue.Enter(context.Background(), "acme", 0)
		require.NoError(t, err)
		require.NoError(t, ask(t, f, w, context.Background(), "sum(up)", 0, 590*minute, time.Minute).Err)
		leave()
		require.Zero(t, w.queue.busy)
		require.Empty(t, w.queue.tenants)
	}
}

func TestCancel(t *testing.T) {
	w := newWorld()
	w.live(rand.New(rand.NewPCG(1, 1)), 0, 600*minute)
	w.now = 600 * minute
	f := newFront(t, w, Config{})
	q, err := f.NewRangeQuery(context.Background(), w, nil, "sum(up)", time.UnixMilli(0), time.UnixMilli(590*minute), time.Minute)
	require.NoError(t, err)
	defer q.Close()
	w.onSelect = q.Cancel
	var canceled promql.ErrQueryCanceled
	require.ErrorAs(t, q.Exec(context.Background()).Err, &canceled)

	f = newFront(t, w, Config{Timeout: time.Nanosecond})
	w.onSelect = nil
	var late promql.ErrQueryTimeout
	require.ErrorAs(t, ask(t, f, w, context.Background(), "sum(up)", 0, 590*minute, time.Minute).Err, &late)
}

func FuzzMatrix(f *testing.F) {
	rng := rand.New(rand.NewPCG(1, 1))
	w := newWorld()
	w.live(rng, 0, 30*minute)
	plain := engine(50_000_000)
	for _, qs := range []string{"up", "nh", "mixed", "nosuch"} {
		q, err := plain.NewRangeQuery(context.Background(), w, nil, qs, time.UnixMilli(0), time.UnixMilli(30*minute), time.Minute)
		require.NoError(f, err)
		m := q.Exec(context.Background()).Value.(promql.Matrix)
		back, err := decodeMatrix(encodeMatrix(m))
		require.NoError(f, err)
		require.Equal(f, m.String(), back.String())
		f.Add(encodeMatrix(m))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := decodeMatrix(data)
		if err != nil {
			return
		}
		again, err := decodeMatrix(encodeMatrix(m))
		require.NoError(t, err)
		require.Len(t, again, len(m))
	})
}
