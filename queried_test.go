package main

import (
	"net/url"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/stretchr/testify/require"

	"sluice/bench/queries"
	"sluice/reader"
	"sluice/schema"
)

// namesStats is what /status/metric_names_stats answers.
type namesStats struct {
	StatsCollectedSince        int64
	StatsCollectedRecordsTotal int
	Records                    []nameRecord
}

type nameRecord struct {
	MetricName           string
	QueryRequests        uint64
	LastRequestTimestamp int64
	Series               int64
}

// TestQueriedMetrics asks two readers, and asks both what was asked; all that is still there after a restart of everything.
func TestQueriedMetrics(t *testing.T) {
	dir := t.TempDir()
	in, stop := startInstallation(t, dir, "")
	const tenant = schema.Tenant("acme")
	now := time.Now()
	var samples []queries.Sample
	for name, series := range map[string]int{"requests_total": 3, "errors_total": 2, "unused": 5, "odd_one": 1} {
		for i := range series {
			ls := labels.FromStrings("__name__", name, "i", string(rune('a'+i)))
			samples = append(samples, queries.Sample{Series: ls, T: now.UnixMilli(), V: 1})
		}
	}
	in.push(tenant, samples)
	in.settle()
	query := func(r *reader.Reader, text string, header ...string) {
		t.Helper()
		ask(t, r, tenant, "/query", url.Values{"query": {text}}, &struct{}{}, header...)
	}
	ranged := url.Values{"query": {"sum(rate(errors_total[5m]))"}, "start": {"1700000000"}, "end": {"1700003600"}, "step": {"60"}}
	began := now.Unix()
	query(in.near, `sum(requests_total) / (sum(requests_total) + sum(errors_total))`)
	query(in.near, `{__name__=~"requests_total|errors_total"}`)
	query(in.far, `rate(requests_total[5m])`)
	for range 3 { // out of the results cache too
		ask(t, in.far, tenant, "/query_range", ranged, &struct{}{})
	}
	query(in.near, `count by (__name__) ({__name__=~".+"})`)
	query(in.near, `{i="a"}`)
	query(in.near, `unused`, "X-Sluice-Statistics", "off")
	query(in.far, `nothing_has_this_name`)
	var series []map[string]string
	ask(t, in.near, tenant, "/series", url.Values{"match[]": {"unused"}}, &series)
	require.Len(t, series, 5)

	want := []nameRecord{{"nothing_has_this_name", 1, 1, 0}, {"requests_total", 3, 1, 3}, {"errors_total", 5, 1, 2}}
	never := []nameRecord{{"unused", 0, 0, 5}, {"odd_one", 0, 0, 1}}
	stats := func(r *reader.Reader, form url.Values) namesStats {
		t.Helper()
		var got namesStats
		ask(t, r, tenant, "/status/metric_names_stats", form, &got)
		for i := range got.Records {
			if at := &got.Records[i].LastRequestTimestamp; *at != 0 {
				require.InDelta(t, began, *at, 120)
				*at = 1
			}
		}
		return got
	}
	local := stats(in.near, nil)
	require.Equal(t, []nameRecord{{"requests_total", 2, 1, 3}, {"errors_total", 2, 1, 2}}, local.Records, "the other has not told yet")
	stop()

	in, _ = startInstallation(t, dir, "")
	for _, r := range []*reader.Reader{in.near, in.far} {
		in.eventually(func() error { // the heads are replayed, and each reader has read what the other told
			if got := stats(r, nil); len(got.Records) < 3 {
				return errEarly
			}
			return nil
		})
		got := stats(r, nil)
		require.Equal(t, want, got.Records)
		require.Equal(t, 3, got.StatsCollectedRecordsTotal)
		require.InDelta(t, began, got.StatsCollectedSince, 60)
		require.Less(t, got.StatsCollectedSince, time.Now().Unix()+1)
		require.Equal(t, never, stats(r, url.Values{"le": {"0"}}).Records)
		require.Equal(t, append(never, want[:2]...), stats(r, url.Values{"le": {"3"}}).Records)
		require.Equal(t, want[1:], stats(r, url.Values{"match_pattern": {"s_tot"}}).Records)
		require.Equal(t, want[1:2], stats(r, url.Values{"match_pattern": {"^req.+l$"}}).Records)
		require.Len(t, stats(r, url.Values{"limit": {"1"}}).Records, 1)
	}
	ask(t, in.near, "nobody", "/status/metric_names_stats", url.Values{"le": {"0"}}, &struct{}{})
}

var errEarly = schema.NewError(schema.ErrNotReady, 503, "not told yet")
