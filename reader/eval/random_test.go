package eval

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
	"github.com/prometheus/prometheus/util/annotations"
	"github.com/stretchr/testify/require"

	"sluice/internal/merge"
)

// memory is a storage of series in memory, sorted.
type memory []memorySeries

type memorySeries struct {
	labels labels.Labels
	metas  []chunks.Meta
	whole  bool // gives its chunks
}

func (m memory) Querier(mint, maxt int64) (storage.Querier, error) {
	return &memoryQuerier{storage.NoopQuerier(), m, mint, maxt}, nil
}

type memoryQuerier struct {
	storage.Querier
	all        memory
	mint, maxt int64
}

// Select gives of each series what the hints ask for and not a sample more, so that wrong hints show.
func (q *memoryQuerier) Select(_ context.Context, _ bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	set := &memorySet{at: -1}
	from, to := max(q.mint, hints.Start), min(q.maxt, hints.End)
	for _, s := range q.all {
		if slices.ContainsFunc(ms, func(m *labels.Matcher) bool { return !m.Matches(s.labels.Get(m.Name)) }) {
			continue
		}
		var metas []chunks.Meta
		for _, m := range s.metas {
			if m.OverlapsClosedInterval(from, to) {
				metas = append(metas, m)
			}
		}
		if len(metas) == 0 {
			continue
		}
		one := merge.OfChunks(s.labels, merge.AppendMetas(nil, metas, from, to))
		if s.whole {
			set.all = append(set.all, one)
		} else {
			set.all = append(set.all, struct{ storage.Series }{one})
		}
	}
	return set
}

type memorySet struct {
	all []storage.Series
	at  int
}

func (s *memorySet) Next() bool                        { s.at++; return s.at < len(s.all) }
func (s *memorySet) At() storage.Series                { return s.all[s.at] }
func (s *memorySet) Err() error                        { return nil }
func (s *memorySet) Warnings() annotations.Annotations { return nil }

const (
	dataStart = 1_700_000_000_000
	dataEnd   = dataStart + 3*60*60*1000
)

// randomMemory makes series of every kind that senders have: counters with resets, gauges, sparse ones, ones that end with
// a stale marker and come again, infinities, and a few native histograms.
func randomMemory(tb testing.TB, rnd *rand.Rand) memory {
	tb.Helper()
	var m memory
	for i := range 60 {
		name := []string{"a_total", "b", "c_bucket", "d"}[i%4]
		b := labels.NewScratchBuilder(5)
		b.Add("__name__", name)
		b.Add("job", fmt.Sprint("j", rnd.IntN(3)))
		b.Add("i", fmt.Sprint(i))
		if name == "c_bucket" {
			b.Add("le", []string{"0.1", "1", "10", "+Inf"}[i/4%4])
		}
		if rnd.IntN(4) == 0 {
			b.Add("x", fmt.Sprint(rnd.IntN(2)))
		}
		b.Sort()
		s := memorySeries{labels: b.Labels(), whole: rnd.IntN(3) > 0}
		s.metas = randomChunks(tb, rnd, i%59 == 58)
		m = append(m, s)
	}
	slices.SortFunc(m, func(a, b memorySeries) int { return labels.Compare(a.labels, b.labels) })
	return m
}

func randomChunks(tb testing.TB, rnd *rand.Rand, histograms bool) (metas []chunks.Meta) {
	tb.Helper()
	kind, interval := rnd.IntN(8), []int64{5_000, 15_000, 15_000, 60_000, 400_000}[rnd.IntN(5)]
	v, end := float64(rnd.IntN(1000)), dataEnd-rnd.Int64N(30*60*1000)*rnd.Int64N(2)
	var app chunkenc.Appender
	left := 0
	for ts := dataStart + rnd.Int64N(interval)*10; ts < end; ts += interval {
		if kind%2 == 0 {
			ts += rnd.Int64N(20)
		}
		if kind == 3 && rnd.IntN(20) == 0 {
			ts += interval * rnd.Int64N(30)
		}
		switch {
		case kind == 7:
			v = []float64{math.NaN(), math.Inf(1), math.Inf(-1), 1e308, -1e308, 1e-300, 0, 3}[rnd.IntN(8)]
		case kind == 6:
			v = rnd.NormFloat64() * math.Pow(10, float64(rnd.IntN(20)))
		case kind >= 4:
			v += rnd.NormFloat64()
		case rnd.IntN(50) == 0:
			v = 0
		default:
			v += float64(rnd.IntN(40))
		}
		out := v
		if rnd.IntN(60) == 0 {
			out = math.Float64frombits(value.StaleNaN)
			if rnd.IntN(2) == 0 {
				ts += 10 * interval
			}
		}
		if left == 0 {
			enc := []chunkenc.Encoding{chunkenc.EncXOR, chunkenc.EncXOR2}[rnd.IntN(2)]
			if histograms && rnd.IntN(2) == 0 {
				enc = chunkenc.EncFloatHistogram
			}
			c, err := chunkenc.NewEmptyChunk(enc)
			require.NoError(tb, err)
			app, err = c.Appender()
			require.NoError(tb, err)
			metas = append(metas, chunks.Meta{Chunk: c, MinTime: ts})
			left = 1 + rnd.IntN(120)
		}
		last := &metas[len(metas)-1]
		if last.Chunk.Encoding() == chunkenc.EncFloatHistogram {
			h := tsdbutil.GenerateTestFloatHistogram(ts / interval)
			h.CounterResetHint = histogram.UnknownCounterReset
			_, _, a, err := app.AppendFloatHistogram(nil, 0, ts, h, true)
			require.NoError(tb, err)
			app = a
		} else {
			st := int64(0)
			if last.Chunk.Encoding() == chunkenc.EncXOR2 && kind == 2 {
				st = ts - interval
			}
			app.Append(st, ts, out)
		}
		last.MaxTime = ts
		left--
	}
	return metas
}

// expressions writes PromQL.
type expressions struct{ *rand.Rand }

func (e expressions) one(of ...string) string { return of[e.IntN(len(of))] }

func (e expressions) selector() string {
	return e.one("a_total", "a_total", "b", "c_bucket", "d", `{__name__=~"a_total|b"}`, `a_total{job="j1"}`, `b{x=~".+"}`, `d{i!="3"}`, `nothing`)
}

func (e expressions) modifiers() string {
	s := ""
	if e.IntN(5) == 0 {
		s += " offset " + e.one("1m", "-1m", "17s", "1h")
	}
	if e.IntN(8) == 0 {
		s += " @ " + e.one("start()", "end()", fmt.Sprint(dataStart/1000+3600))
	}
	return s
}

func (e expressions) ranged() string {
	fn := e.one("rate", "rate", "increase", "delta", "irate", "idelta", "sum_over_time", "avg_over_time", "min_over_time", "max_over_time",
		"count_over_time", "last_over_time", "first_over_time", "present_over_time", "changes", "resets", "stddev_over_time", "deriv", "absent_over_time")
	return fmt.Sprintf("%s(%s[%s]%s)", fn, e.selector(), e.one("1m", "5m", "5m", "7s", "1h", "90s"), e.modifiers())
}

func (e expressions) aggregated(inner string) string {
	by := e.one("", "", " by (job)", " by (job, x)", " without (i)", " by (le)", " without (x, job)", " by (__name__)")
	return fmt.Sprintf("%s%s (%s)", e.one("sum", "sum", "avg", "count", "min", "max", "group", "stddev", "stdvar"), by, inner)
}

func (e expressions) vector(depth int) string {
	if depth <= 0 {
		switch e.IntN(4) {
		case 0:
			return e.selector() + e.modifiers()
		case 1:
			return e.ranged()
		case 2:
			return e.aggregated(e.selector() + e.modifiers())
		default:
			return e.aggregated(e.ranged())
		}
	}
	switch e.IntN(12) {
	case 0:
		return "-" + e.vector(depth-1)
	case 1:
		return "(" + e.vector(depth-1) + ")"
	case 2:
		return fmt.Sprintf("%s %s %s", e.aggregated(e.ordered(depth-1)), e.one("+", "/", "and", "or", "unless", "> bool", "*"), e.aggregated(e.ranged()))
	case 3:
		return fmt.Sprintf("histogram_quantile(0.9, sum by (le, job) (rate(c_bucket[%s])))", e.one("5m", "1m"))
	case 4:
		return fmt.Sprintf("topk(3, %s)", e.ordered(depth-1))
	case 5:
		return fmt.Sprintf("%s((%s)[%s:%s]%s)", e.one("max_over_time", "avg_over_time", "sum_over_time", "last_over_time", "rate"),
			e.vector(depth-1), e.one("5m", "20m", "1h"), e.one("1m", "", "13s"), e.modifiers())
	case 6:
		return fmt.Sprintf("%s(%s)", e.one("abs", "timestamp", "absent", "sort", "ceil"), e.vector(depth-1))
	case 7:
		return fmt.Sprintf(`label_replace(%s, "y", "$1", "job", "(.*)")`, e.vector(depth-1))
	case 8:
		return fmt.Sprintf("%s %s %s", e.vector(depth-1), e.one("*", ">", "+"), e.one("2", "scalar(sum(b))", "time()"))
	case 9:
		return fmt.Sprintf("quantile(%s, %s)", e.one("0.5", "scalar(avg(d)) / 1000"), e.vector(depth-1))
	}
	if e.IntN(2) == 0 {
		return e.aggregated(e.ordered(depth - 1))
	}
	return fmt.Sprintf("%s by (job) (%s)", e.one("min", "max", "count", "group"), e.vector(depth-1))
}

// ordered is a vector whose series have an order in range queries too. Others come out of a map in Prometheus, and neither
// sums of floats nor equals in topk are the same twice.
func (e expressions) ordered(depth int) string {
	switch {
	case depth > 0:
		return "(" + e.aggregated(e.ordered(depth-1)) + ")"
	case e.IntN(3) == 0:
		return e.selector() + e.modifiers()
	}
	return e.ranged()
}

// TestAgainstPrometheus asks both engines many random questions about random data.
func TestAgainstPrometheus(t *testing.T) {
	const questions = 250
	seeds := uint64(12)
	if testing.Short() { // under the race detector, which sees the same goroutines with each of them
		seeds = 5 // every way to set the engines up
	}
	fast, all := 0, 0
	for seed := range seeds {
		rnd := rand.New(rand.NewPCG(seed, 7))
		data := randomMemory(t, rnd)
		opts := promql.EngineOpts{LookbackDelta: time.Duration(1+rnd.IntN(6)) * time.Minute, UseStartTimestamps: seed%3 == 1, MaxSamples: []int{0, 0, 0, 20_000, 300}[seed%5]}
		both := &comparing{tb: t}
		both.theirs, both.ours = engines(t, opts, 1+rnd.IntN(4))
		e := expressions{rnd}
		for range questions {
			qs := e.vector(e.IntN(3))
			from := time.UnixMilli(dataStart + rnd.Int64N(dataEnd-dataStart))
			to := from.Add(time.Duration(rnd.IntN(3600)) * time.Second)
			step := []time.Duration{time.Second * 15, time.Minute, 7 * time.Minute, 13 * time.Second}[rnd.IntN(4)]
			instant := rnd.IntN(3) == 0
			both.compare(fmt.Sprintf("seed %d: %s from %d to %d by %s, instant %v", seed, qs, from.UnixMilli(), to.UnixMilli(), step, instant), func(engine promql.QueryEngine) (promql.Query, error) {
				if instant {
					return engine.NewInstantQuery(context.Background(), data, nil, qs, from)
				}
				return engine.NewRangeQuery(context.Background(), data, nil, qs, from, to, step)
			})
			if t.Failed() {
				return
			}
		}
		fast, all = fast+both.ours.way("fast"), all+both.n
	}
	t.Logf("%d of %d questions took the fast way", fast, all)
	require.Greater(t, fast, all/2)
}
