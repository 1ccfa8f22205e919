package eval

import (
	"context"
	"fmt"
	"math"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/storage"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func minuteInterval(int64) int64 { return time.Minute.Milliseconds() }

// engines returns Prometheus' engine with the options and ours over it.
func engines(tb testing.TB, opts promql.EngineOpts, workers int) (*promql.Engine, *Engine) {
	tb.Helper()
	if opts.MaxSamples == 0 {
		opts.MaxSamples = 50_000_000
	}
	opts.Timeout = time.Minute
	opts.NoStepSubqueryIntervalFn = minuteInterval
	opts.EnableAtModifier, opts.EnableNegativeOffset = true, true
	opts.Parser = parser.NewParser(promqltest.TestParserOpts)
	theirs := promql.NewEngine(opts)
	return theirs, New(Config{
		MaxSamples: opts.MaxSamples, NoStepSubqueryInterval: minuteInterval,
		DelayedNameRemoval: opts.EnableDelayedNameRemoval, TypeAndUnitLabels: opts.EnableTypeAndUnitLabels,
		UseStartTimestamps: opts.UseStartTimestamps, PerStepStats: opts.EnablePerStepStats, Workers: workers,
	}, theirs, nil)
}

func (e *Engine) way(name string) int {
	return int(testutil.ToFloat64(e.queries.WithLabelValues(name)))
}

// TestBuiltin runs Prometheus' own acceptance tests. Each of their questions is also put to both engines with the settings
// that Prometheus has by default.
func TestBuiltin(t *testing.T) {
	_, ours := engines(t, promql.EngineOpts{EnableDelayedNameRemoval: true, UseStartTimestamps: true, MaxSamples: 10_000}, 2)
	both := &comparing{tb: t}
	both.theirs, both.ours = engines(t, promql.EngineOpts{}, 2)
	promqltest.RunBuiltinTests(t, &mirrored{ours, both})
	for _, e := range []*Engine{ours, both.ours} {
		t.Logf("evaluations: fast %d, by Prometheus %d, by Prometheus in the end %d", e.way("fast"), e.way("prometheus"), e.way("again"))
	}
	require.Greater(t, ours.way("fast"), 1500)
	require.Greater(t, both.ours.way("fast"), 1500)
}

// comparing asks both engines and holds the answers against each other.
type comparing struct {
	tb     testing.TB
	theirs *promql.Engine
	ours   *Engine
	n      int
}

// compare asks with make.
func (c *comparing) compare(what string, mk func(promql.QueryEngine) (promql.Query, error)) {
	c.tb.Helper()
	c.n++
	want, wantErr := mk(c.theirs)
	got, gotErr := mk(c.ours)
	assert.Equal(c.tb, wantErr, gotErr, what)
	if wantErr != nil {
		return
	}
	defer want.Close()
	defer got.Close()
	assert.Equal(c.tb, want.Statement().String(), got.Statement().String(), what)
	w, g := want.Exec(context.Background()), got.Exec(context.Background())
	assert.Equal(c.tb, fmt.Sprint(w.Err), fmt.Sprint(g.Err), what)
	assert.Equal(c.tb, notes(w), notes(g), what)
	unordered := mapOrder.MatchString(want.String())
	assert.Equal(c.tb, exactly(w.Value, unordered), exactly(g.Value, unordered), what)
	if w.Err != nil {
		return
	}
	ws, gs := want.Stats().Samples, got.Stats().Samples
	assert.Equal(c.tb, ws.TotalSamples, gs.TotalSamples, "%s: total samples", what)
	assert.Equal(c.tb, ws.SamplesRead, gs.SamplesRead, "%s: samples read", what)
	assert.LessOrEqual(c.tb, gs.PeakSamples, ws.PeakSamples, "%s: peak of samples", what)
}

func notes(r *promql.Result) []string {
	var all []string
	for _, err := range r.Warnings.AsErrors() {
		all = append(all, err.Error())
	}
	slices.Sort(all)
	return all
}

// mapOrder are functions whose instant vectors Prometheus itself gives in the random order of a map.
var mapOrder = regexp.MustCompile("(?i)histogram_|count_values|info|limit|:")

// exactly shows a value with every bit of it.
func exactly(v parser.Value, unordered bool) []string {
	var all []string
	switch v := v.(type) {
	case promql.Matrix:
		for _, s := range v {
			line := s.Metric.String()
			for _, p := range s.Floats {
				line += fmt.Sprintf(" %d:%016x", p.T, bitsOf(p.F))
			}
			for _, p := range s.Histograms {
				line += fmt.Sprintf(" %d:%s", p.T, p.H)
			}
			all = append(all, line)
		}
	case promql.Vector:
		for _, s := range v {
			all = append(all, fmt.Sprintf("%s %d:%016x %s", s.Metric, s.T, bitsOf(s.F), s.H))
		}
		if unordered {
			slices.Sort(all)
		}
	case promql.Scalar:
		all = []string{fmt.Sprintf("%d:%016x", v.T, bitsOf(v.V))}
	case nil:
	default:
		all = []string{v.String()}
	}
	return all
}

// bitsOf a value; those of NaNs depend on which operand a processor looks at first.
func bitsOf(f float64) uint64 {
	if math.IsNaN(f) {
		return 0x7ff8 << 48
	}
	return math.Float64bits(f)
}

// mirrored answers with one engine, and shows each question to another pair of them.
type mirrored struct {
	promql.QueryEngine
	both *comparing
}

func (m *mirrored) NewInstantQuery(ctx context.Context, q storage.Queryable, opts promql.QueryOpts, qs string, ts time.Time) (promql.Query, error) {
	m.both.compare(fmt.Sprintf("%s at %s", qs, ts), func(e promql.QueryEngine) (promql.Query, error) {
		return e.NewInstantQuery(ctx, q, opts, qs, ts)
	})
	return m.QueryEngine.NewInstantQuery(ctx, q, opts, qs, ts)
}

func (m *mirrored) NewRangeQuery(ctx context.Context, q storage.Queryable, opts promql.QueryOpts, qs string, start, end time.Time, interval time.Duration) (promql.Query, error) {
	m.both.compare(fmt.Sprintf("%s from %s to %s by %s", qs, start, end, interval), func(e promql.QueryEngine) (promql.Query, error) {
		return e.NewRangeQuery(ctx, q, opts, qs, start, end, interval)
	})
	return m.QueryEngine.NewRangeQuery(ctx, q, opts, qs, start, end, interval)
}
