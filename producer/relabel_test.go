package producer

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"github.com/stretchr/testify/require"

	"sluice/internal/log"
	"sluice/schema"
)

const relabelLimits = `
default:
  max_label_names_per_series: 3
  drop_labels: [pod_uid]
overrides:
  team-a:
    metric_relabel_configs:
      - {source_labels: [__name__], regex: "go_.*", action: drop}
      - {source_labels: [__name__], regex: "old_(.*)", target_label: __name__, replacement: "new_$1"}
      - {source_labels: [__meta_tenant_id, job], separator: /, regex: "(.+)/(.+)", target_label: job, replacement: "$1/$2"}
      - {regex: "tmp_.*", action: labeldrop}
      - {action: labelkeep, regex: "__name__|job|i|zone|nameless|long"}
      - {source_labels: [nameless], regex: "y", target_label: __name__, replacement: ""}
`

// What the rules make of series, through both versions of the record and both of the protocol, when they are met for the first time
// and when they are known.
func TestRelabel(t *testing.T) {
	long := strings.Repeat("x", 3000)
	sent := []labels.Labels{
		labels.FromStrings("__name__", "go_gc", "job", "x"),
		labels.FromStrings("__name__", "old_one", "job", "x", "pod_uid", "1"),
		labels.FromStrings("__name__", "new_two", "job", "x", "tmp_a", long, "tmp_b", "2", "tmp_c", "3"),
		labels.FromStrings("__name__", "plain"),
	}
	want := []string{"new_one{job=\"team-a/x\"}", "new_two{job=\"team-a/x\"}", "plain{}"}
	bothVersions(t, func(t *testing.T, cfg Config) {
		for _, protocol := range []string{version1, version2} {
			f := newFixture(t, cfg, relabelLimits, 3)
			push := func(sent ...labels.Labels) *httptest.ResponseRecorder {
				b, req := newBuilder(), request1()
				for _, ls := range sent {
					b.add(ls).Samples = []writev2.Sample{{Value: 1, Timestamp: testNow.UnixMilli()}}
					req.Timeseries = append(req.Timeseries, prompb.TimeSeries{Labels: prompb.FromLabels(ls, nil), Samples: []prompb.Sample{one(1)}})
				}
				if protocol == version2 {
					return f.push2(t, b.request())
				}
				return f.push(t, req)
			}
			for round := range 3 {
				f.log.reset()
				w := push(sent...)
				require.Equal(t, 204, w.Code, w.Body.String())
				if protocol == version2 {
					requireWritten(t, w, 4, 0, 0) // the dropped one is dealt with: the sender must not take it for lost
				}
				require.Equal(t, want, written1(t, f))
				require.InDelta(t, float64(round+1), testutil.ToFloat64(f.metrics.dropped.WithLabelValues("team-a")), 0)
				if cfg.RecordVersion == schema.RecordV2 {
					n, _ := f.log.defs(t)
					require.Equal(t, map[bool]int{true: 3, false: 0}[round == 0], n)
					require.EqualValues(t, 4, f.tenants.series.used.Load(), "the dropped one is known as well")
				}
			}

			// What comes out has to be valid.
			f.log.reset()
			w := push(labels.FromStrings("__name__", "a", "nameless", "y", "job", "x"), sent[3])
			requireRefused(t, w, 400, schema.ErrMissingMetricName)
			w = push(labels.FromStrings("__name__", "a", "long", long))
			requireRefused(t, w, 400, schema.ErrLabelValueTooLong)
			w = push(labels.FromStrings("__name__", "a", "i", "1", "job", "2", "zone", "3"))
			requireRefused(t, w, 400, schema.ErrTooManyLabels)
			require.Equal(t, []string{"plain{}"}, written1(t, f))
			require.Zero(t, f.budget.used.Load())
		}
	})
}

// written1 returns the series in the log since the last reset, sorted.
func written1(t *testing.T, f *fixture) []string {
	t.Helper()
	got := f.log.content(t)
	sortSeries(&got)
	var out []string
	for _, ts := range got.Timeseries {
		var ls []schema.Label
		for _, l := range ts.Labels {
			ls = append(ls, schema.Label{Name: []byte(l.Name), Value: []byte(l.Value)})
		}
		out = append(out, formatSeries(ls))
	}
	return out
}

// A request of nothing but dropped series writes nothing, and is remembered until it is looked at again.
func TestRelabelDropsAll(t *testing.T) {
	f := newFixture(t, Config{}, "default: {metric_relabel_configs: [{source_labels: [i], regex: '.+', action: drop}]}", 3)
	now := testNow
	f.now = func() time.Time { return now }
	fresh := func() (n int) {
		for key := range tenSeriesKeys(t, f) {
			if s := f.tenants.states["team-a"].cache.index.find(key); s != nil && s.fresh(f.clock(now)) && s.partition == nowhere {
				n++
			}
		}
		return n
	}
	for range 3 {
		require.Equal(t, 204, f.push(t, tenSeries(1)).Code)
		require.Empty(t, f.log.records())
		require.Equal(t, 10, fresh())
	}
	now = testNow.Add(schema.RefLife)
	require.Zero(t, fresh())
	require.Equal(t, 204, f.push(t, tenSeries(1)).Code)
	require.Equal(t, 10, fresh(), "looked at again")
	require.EqualValues(t, 10, f.tenants.series.used.Load())
	require.InDelta(t, 40, testutil.ToFloat64(f.metrics.dropped.WithLabelValues("team-a")), 0)
	require.Equal(t, 204, f.push(t, request1(withSamples(series("__name__", "up"), one(1)))).Code)
	require.Len(t, f.log.content(t).Timeseries, 1)

	var rejects struct {
		Data struct{ Rejects []rejectedJSON }
	}
	f.get(t, "/api/v1/rejects", &rejects)
	require.Empty(t, rejects.Data.Rejects, "what the rules drop is no fault")
}

// tenSeriesKeys are the cache's keys of tenSeries.
func tenSeriesKeys(t *testing.T, f *fixture) map[seriesKey]bool {
	t.Helper()
	keys := map[seriesKey]bool{}
	body, err := tenSeries(1).Marshal()
	require.NoError(t, err)
	for rest := body; len(rest) > 0; {
		field, next, err := schema.NextField(rest)
		require.NoError(t, err)
		rest = next
		var s schema.Series
		require.NoError(t, s.Cut(field.Payload))
		keys[f.tenants.states["team-a"].cache.key(s.LabelBytes)] = true
	}
	require.Len(t, keys, 10)
	return keys
}

// Labels that are there twice are refused before any rule sees them; unsorted ones are refused or sorted first, as it is configured.
func TestRelabelOfBadLabels(t *testing.T) {
	rules := "default: {metric_relabel_configs: [{action: labelmap, regex: 'm_(.*)', replacement: '$1'}], drop_labels: [z]}"
	bothVersions(t, func(t *testing.T, cfg Config) {
		cfg.RefuseUnsorted = true
		f := newFixture(t, cfg, rules, 2)
		bad := func(id schema.ErrorID, pairs ...string) {
			t.Helper()
			requireRefused(t, f.push(t, request1(withSamples(series(pairs...), one(1)))), 400, id)
		}
		bad(schema.ErrNoLabels)
		bad(schema.ErrNoLabels, "__name__", "")
		bad(schema.ErrLabelNameInvalid, "", "x", "__name__", "up")
		bad(schema.ErrLabelsNotSorted, "b", "1", "a", "2", "__name__", "up")
		bad(schema.ErrDuplicateLabelNames, "__name__", "up", "a", "1", "a", "2")
		bad(schema.ErrLabelValueInvalid, "__name__", "up", "a", "\xff")
		bad(schema.ErrMetricNameInvalid, "__name__", "up\xff")
		bad(schema.ErrLabelNameInvalid, "__name__", "up", "m_", "mapped to nothing")
		bad(schema.ErrMissingMetricName, "a", "1")
		require.Empty(t, f.log.records())
		require.Equal(t, 204, f.push(t, request1(withSamples(series("z", "alone"), one(1)))).Code, "nothing is left of it: dropped")
		require.Empty(t, f.log.records())

		cfg.RefuseUnsorted = false
		f = newFixture(t, cfg, rules, 2)
		require.Equal(t, 204, f.push(t, request1(withSamples(series("m_b", "1", "empty", "", "a", "2", "__name__", "up"), one(1)))).Code)
		require.Equal(t, []string{`up{a="2", b="1", m_b="1"}`}, written1(t, f))
	})
}

// A rule that makes labels larger than any record has room for costs that series and nothing else.
func TestRelabelTooLarge(t *testing.T) {
	bothVersions(t, func(t *testing.T, cfg Config) {
		f := newFixture(t, cfg, "default: {max_label_value_length: 0, metric_relabel_configs: [{source_labels: [a], regex: '(.+)', target_label: b, replacement: '"+strings.Repeat("$1", 40)+"'}]}", 2)
		w := f.push(t, request1(
			withSamples(series("__name__", "up", "a", strings.Repeat("x", 100_000)), one(1)),
			withSamples(series("__name__", "up", "a", "x"), one(1)),
		))
		requireRefused(t, w, 400, schema.ErrRecordTooLarge)
		require.Equal(t, []string{`up{a="x", b="` + strings.Repeat("x", 40) + `"}`}, written1(t, f))

		// Each rule a hundred times what was there before, out of a label of its own: nobody has memory for that.
		rule := "{source_labels: [a], regex: '(.+)', target_label: a, replacement: '" + strings.Repeat("$1", 100) + "'}"
		f = newFixture(t, cfg, "default: {max_label_value_length: 0, metric_relabel_configs: ["+rule+","+rule+","+rule+"]}", 2)
		requireRefused(t, f.push(t, request1(withSamples(series("__name__", "up", "a", strings.Repeat("x", 100_000)), one(1)))), 400, schema.ErrRecordTooLarge)

		// What was that large when it came may stay so.
		f = newFixture(t, cfg, "default: {max_label_value_length: 0, metric_relabel_configs: [{target_label: a, replacement: b}]}", 2)
		require.Equal(t, 204, f.push(t, request1(withSamples(series("__name__", "up", "long", strings.Repeat("x", maxRawSeries*3/4)), one(1)))).Code)
		require.Len(t, f.log.content(t).Timeseries, 1)
	})
}

// Two series that become one are one in the log, and metadata of 2.0 goes with the new name.
func TestRelabelTogether(t *testing.T) {
	bothVersions(t, func(t *testing.T, cfg Config) {
		f := newFixture(t, cfg, "default: {drop_labels: [pod], metric_relabel_configs: [{source_labels: [__name__], regex: 'a_(.*)', target_label: __name__, replacement: 'b_$1'}]}", 4)
		for range 2 {
			b := newBuilder()
			for i, pod := range []string{"1", "2"} {
				ts := b.add(labels.FromStrings("__name__", "a_total", "pod", pod))
				ts.Samples = []writev2.Sample{{Value: float64(i), Timestamp: testNow.UnixMilli() + int64(i)}}
				ts.Metadata = writev2.Metadata{Type: writev2.Metadata_METRIC_TYPE_COUNTER, HelpRef: b.symbols.Symbolize("Help.")}
			}
			require.Equal(t, 204, f.push2(t, b.request()).Code)
		}
		got := f.log.content(t)
		samples := 0
		for _, ts := range got.Timeseries {
			require.Equal(t, []prompb.Label{{Name: "__name__", Value: "b_total"}}, ts.Labels)
			samples += len(ts.Samples)
		}
		require.Equal(t, 4, samples)
		for _, m := range got.Metadata {
			require.Equal(t, "b_total", m.MetricFamilyName)
		}
		require.NotEmpty(t, got.Metadata)
	})
}

// A full log neither counts as dropped nor as known.
func TestRelabelWhenTheLogIsAway(t *testing.T) {
	f := newFixture(t, Config{}, "default: {metric_relabel_configs: [{source_labels: [i], regex: '[0-4]', action: drop}]}", 3)
	f.log.fail(log.ErrOverloaded)
	require.Equal(t, 503, f.push(t, tenSeries(1)).Code)
	require.Zero(t, testutil.ToFloat64(f.metrics.dropped.WithLabelValues("team-a")))
	f.log.fail(nil)
	require.Equal(t, 204, f.push(t, tenSeries(1)).Code)
	require.Len(t, f.log.content(t).Timeseries, 5)
	require.InDelta(t, 5, testutil.ToFloat64(f.metrics.dropped.WithLabelValues("team-a")), 0)
}

// One stream for many tenants: each part goes by the rules of its own tenant.
func TestRelabelOfASplitStream(t *testing.T) {
	bothVersions(t, func(t *testing.T, cfg Config) {
		cfg.TenantLabel = "team"
		f := newFixture(t, cfg, `
default: {drop_labels: [team]}
overrides:
  quiet: {metric_relabel_configs: [{action: drop, regex: ".*"}]}
`, 2)
		for range 2 {
			f.log.reset()
			b := newBuilder()
			for _, team := range []string{"quiet", "loud"} {
				b.add(labels.FromStrings("__name__", "up", "team", team)).Samples = []writev2.Sample{{Value: 1, Timestamp: testNow.UnixMilli()}}
			}
			w := f.push2(t, b.request())
			require.Equal(t, 204, w.Code, w.Body.String())
			requireWritten(t, w, 2, 0, 0)
			require.Equal(t, []string{"up{}"}, written1(t, f))
		}
		require.InDelta(t, 2, testutil.ToFloat64(f.metrics.dropped.WithLabelValues("quiet")), 0)
	})
}

// FuzzRelabel: whatever labels come, what is written is sorted, valid and within the limits, and nothing panics.
func FuzzRelabel(f *testing.F) {
	f.Add("__name__", "up", "a", "b", "tmp_x", "y")
	f.Add("__name__", "go_gc", "", "", "", "")
	f.Add("a", "\xff", "__name__", "old_x", "z", strings.Repeat("v", 5000))
	f.Add("__meta_tenant_id", "someone-else", "__name__", "up", "job", "$1")
	f.Fuzz(func(t *testing.T, n1, v1, n2, v2, n3, v3 string) {
		for _, version := range []int{schema.RecordV1, schema.RecordV2} {
			fix := newFixture(t, Config{RecordVersion: version, RefuseUnsorted: len(n1)%2 == 0}, relabelLimits, 2)
			for range 2 {
				w := fix.push(t, request1(withSamples(series(n1, v1, n2, v2, n3, v3), one(1))))
				require.Contains(t, []int{204, 400}, w.Code, w.Body.String())
			}
			for _, ts := range fix.log.content(t).Timeseries { // which holds the records to what consumers rely on
				require.LessOrEqual(t, len(ts.Labels), 3)
				for _, l := range ts.Labels {
					require.NotEqual(t, tenantLabel, l.Name)
				}
			}
			require.Zero(t, fix.budget.used.Load())
		}
	})
}

// BenchmarkRelabel is what a series costs that the cache does not know: without rules, with two of them.
func BenchmarkRelabel(b *testing.B) {
	for name, lim := range map[string]string{
		"none": "",
		"two":  "default: {metric_relabel_configs: [{source_labels: [__name__], regex: 'go_.*', action: drop}, {regex: 'pod_.*', action: labeldrop}]}",
	} {
		b.Run(name, func(b *testing.B) {
			f := newFixture(b, Config{RecordVersion: schema.RecordV1}, lim, 16)
			f.log.discard = true
			body, _ := benchBody(benchSeries)
			b.ReportAllocs()
			for b.Loop() {
				require.NoError(b, f.Push(b.Context(), "team-a", body))
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchSeries, "ns/series")
		})
	}
	b.Run("dropped", func(b *testing.B) {
		f := newFixture(b, Config{}, "default: {metric_relabel_configs: [{regex: '.*', action: drop}]}", 16)
		body, _ := benchBody(benchSeries)
		b.ReportAllocs()
		for b.Loop() {
			require.NoError(b, f.Push(b.Context(), "team-a", body))
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchSeries, "ns/series")
		require.Empty(b, f.log.records())
	})
}
