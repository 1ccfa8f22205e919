package reader

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/prompb"
	"github.com/stretchr/testify/require"

	"sluice/internal/log"
	"sluice/internal/queried"
	"sluice/internal/web"
	"sluice/schema"
)

// askedWorld is a world with a tracker and some series of metric m.
func askedWorld(t *testing.T, series map[string][]sample) (*world, string) {
	w := newWorld(t, nil, web.Tenancy{MaxFederated: 5})
	w.log.bounds = []log.Bounds{{End: 100}}
	w.sources["x"] = &fakeSource{held: map[int32]int64{0: 0}, data: newData(t, series)}
	w.dir[0] = []string{"x"}
	w.reader.TrackQueried(queried.New(queried.Config{Instance: "r"}, w.log, log.NewTable(w.log, log.TopicControl), slog.New(slog.DiscardHandler)))
	return w, serve(t, w)
}

func (w *world) counts(tenant schema.Tenant) map[string]uint64 {
	out := map[string]uint64{}
	for name, u := range w.reader.queried.Stats(tenant).Names {
		out[name] = u.Requests
	}
	return out
}

// TestWhatCountsAsQueried: each request once, by endpoint, tenant and header.
func TestWhatCountsAsQueried(t *testing.T) {
	w, base := askedWorld(t, map[string][]sample{"a": {{60_000, 1}}})
	api := base + "/api/v1"
	query := func(q string, headers ...string) {
		t.Helper()
		require.Equal(t, 200, get(t, api+"/query?time=60&query="+url.QueryEscape(q), headers...).code)
	}
	counted := func(tenant schema.Tenant, want map[string]uint64) { // an answer is there a moment before it counts
		t.Helper()
		require.Eventually(t, func() bool { return maps.Equal(want, w.counts(tenant)) }, waitFor, tick, "%v, has %v", want, w.counts(tenant))
	}
	query(`sum(m) + sum(rate(m[5m])) + sum(max_over_time(m[1m:1s])) + sum(m offset 1m)`)
	counted("acme", map[string]uint64{"m": 1})
	query(`{__name__=~"m|n"}`)
	query(`m`, statisticsHeader, "off")
	query(`{__name__=~"m.*"}`)
	query(`{s="a"}`)
	query(`1 + 1`)
	require.Equal(t, 400, get(t, api+"/query?query=m{").code)
	counted("acme", map[string]uint64{"m": 2, "n": 1})

	require.Equal(t, 200, get(t, base+"/federate?match[]=m").code)
	counted("acme", map[string]uint64{"m": 3, "n": 1})
	require.Equal(t, 200, remoteRead(t, base, prompb.ReadRequest_SAMPLES).code)
	counted("anonymous", map[string]uint64{"m": 1})
	for _, path := range []string{"/series?match[]=m", "/labels?match[]=m", "/label/s/values?match[]=m", "/query_exemplars?query=m", "/cardinality/label_names?selector=m", "/parse_query?query=m"} {
		require.Equal(t, 200, get(t, api+path).code, path)
	}
	counted("acme", map[string]uint64{"m": 3, "n": 1})

	query(`m`, schema.TenantHeader, "a|b")
	query(`m{__tenant_id__="b"}`, schema.TenantHeader, "a|b|c")
	counted("a", map[string]uint64{"m": 1})
	counted("b", map[string]uint64{"m": 2})
	require.Empty(t, w.counts("c"))
}

func TestMetricNamesStats(t *testing.T) {
	w, base := askedWorld(t, map[string][]sample{"a": {{60_000, 1}}, "b": {{60_000, 1}}})
	stats := base + "/api/v1/status/metric_names_stats"
	require.Equal(t, 200, get(t, base+"/api/v1/query?query=gone").code)
	require.Eventually(t, func() bool { return len(w.counts("acme")) == 1 }, waitFor, tick)
	records := func(query string) (got metricNamesStats) {
		t.Helper()
		answer := get(t, stats+query)
		require.Equal(t, 200, answer.code, answer.body)
		require.NoError(t, json.Unmarshal(answer.json.Data, &got))
		require.InDelta(t, time.Now().Unix(), got.Since, 60)
		require.Equal(t, 1, got.Total)
		for i := range got.Records {
			got.Records[i].Last = min(got.Records[i].Last, 1)
		}
		return got
	}
	n := func(n int64) *int64 { return &n }
	gone, never := metricNameRecord{"gone", 1, 1, n(0)}, metricNameRecord{"m", 0, 0, n(2)}
	require.Equal(t, []metricNameRecord{gone}, records("").Records)
	require.Equal(t, []metricNameRecord{never, gone}, records("?le=1").Records)
	require.Equal(t, []metricNameRecord{never}, records("?le=1&limit=1").Records)
	require.Equal(t, []metricNameRecord{gone}, records("?le=1&match_pattern=o").Records)
	require.Equal(t, []metricNameRecord{never}, records("?le=0").Records)
	for _, query := range []string{"?limit=0", "?limit=x", "?limit=1000001", "?le=-1", "?le=x", "?match_pattern=(", "?match_pattern=" + url.QueryEscape("((a{1000}){1000}){2}")} {
		require.Equal(t, 400, get(t, stats+query).code, query)
	}
	require.Equal(t, 400, get(t, stats, schema.TenantHeader, "a|b").code)

	w.limits.CardinalityAnalysisEnabled = false // names are no secret, numbers are not counted
	now := time.Now().UnixMilli()
	w.sources["x"] = &fakeSource{held: map[int32]int64{0: 0}, data: newData(t, map[string][]sample{"a": {{now, 1}}})}
	gone.Series, never.Series = nil, nil
	require.Equal(t, []metricNameRecord{gone}, records("").Records)
	require.Equal(t, []metricNameRecord{never, gone}, records("?le=1").Records)
	w.limits.CardinalityAnalysisEnabled = true
	w.dir[0] = nil
	require.Equal(t, []metricNameRecord{gone}, records("").Records)
	require.Contains(t, get(t, stats).body, `"warnings":["the series of the metrics are not known`)
	require.Equal(t, 503, get(t, stats+"?le=1").code, "it cannot be whole")
	w.reader.TrackQueried(nil)
	require.Equal(t, 200, get(t, stats).code)
}

// TestAllNamesAreListed: more names than are counted are known by name.
func TestAllNamesAreListed(t *testing.T) {
	q := &namesQuestion{limit: 10, few: true}
	series := map[string]*int64{"known": new(int64)}
	for i := range 3 {
		series[fmt.Sprint("m", i)] = nil
	}
	a := q.answer(queried.Stats{Names: map[string]queried.Usage{"up": {Requests: 2}, "m1": {}}}, series)
	var names []string
	for _, r := range a.Records {
		names = append(names, r.Name)
		require.Equal(t, r.Name == "known", r.Series != nil, r.Name)
	}
	require.Equal(t, []string{"known", "m0", "m1", "m2"}, names)
	require.Len(t, slices.Collect(maps.Keys(series)), 4)
}
