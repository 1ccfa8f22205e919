package reader

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/internal/log"
	"sluice/internal/web"
	"sluice/schema"
)

// countedWorld is a world with two partitions in two zones: a and b are in the first, c in the second; only c is active.
func countedWorld(t *testing.T) (*world, string) {
	w := newWorld(t, nil, web.Tenancy{})
	w.log.bounds = []log.Bounds{{End: 100}, {End: 100}}
	now := time.Now().UnixMilli()
	old := &fakeSource{held: map[int32]int64{0: 50}, data: newData(t, map[string][]sample{"a": {{60_000, 1}}, "b": {{60_000, 3}}})}
	other := &fakeSource{held: map[int32]int64{1: 50}, data: newData(t, map[string][]sample{"c": {{now, 1}}})}
	for i, src := range []*fakeSource{old, other} {
		for _, zone := range []string{"x", "y"} {
			id := fmt.Sprint(zone, i)
			w.sources[id] = src
			w.dir[int32(i)] = append(w.dir[int32(i)], id)
		}
	}
	return w, serve(t, w)
}

func TestCardinality(t *testing.T) {
	w, base := countedWorld(t)
	for _, prefix := range prefixes {
		for _, c := range []struct{ path, want string }{
			{"label_names", `{"label_values_count_total":4,"label_names_count":2,"cardinality":[{"label_name":"s","label_values_count":3},{"label_name":"__name__","label_values_count":1}]}`},
			{"label_names?limit=1&count_method=active", `{"label_values_count_total":2,"label_names_count":2,"cardinality":[{"label_name":"__name__","label_values_count":1}]}`},
			{"label_names?limit=0", `{"label_values_count_total":4,"label_names_count":2,"cardinality":[]}`},
			{`label_names?selector={s=~"a|c"}`, `{"label_values_count_total":3,"label_names_count":2,"cardinality":[{"label_name":"s","label_values_count":2},{"label_name":"__name__","label_values_count":1}]}`},
			{"label_values?label_names[]=s&label_names[]=__name__&label_names[]=gone&limit=2",
				`{"series_count_total":3,"labels":[{"label_name":"__name__","label_values_count":1,"series_count":3,"cardinality":[{"label_value":"m","series_count":3}]},` +
					`{"label_name":"s","label_values_count":3,"series_count":3,"cardinality":[{"label_value":"a","series_count":1},{"label_value":"b","series_count":1}]}]}`},
			{"label_values?label_names[]=gone", `{"series_count_total":3,"labels":[]}`},
			{"active_series?selector=m", `{"data":[{"__name__":"m","s":"c"}]}`},
			{`active_series?selector={s="a"}`, `{"data":[]}`},
		} {
			path, query, _ := strings.Cut(c.path, "?")
			form, err := url.ParseQuery(strings.ReplaceAll(query, "+", "%2B"))
			require.NoError(t, err)
			u := base + prefix + "/cardinality/" + path
			got := get(t, u+"?"+form.Encode(), "Sharding-Control", "16", "Origin", "https://grafana.example")
			require.Equal(t, 200, got.code, got.body)
			require.Equal(t, c.want, got.body, c.path)
			require.Equal(t, "application/json", got.header.Get("Content-Type"))
			require.NotEmpty(t, got.header.Get("Access-Control-Allow-Origin"))
			require.Equal(t, c.want, post(t, u, form).body)
		}
	}
	lim := &w.limits
	lim.CardinalityLabelNamesPerRequest, lim.ActiveSeriesResultsMaxSizeBytes = 2, 10
	for path, want := range map[string]struct {
		code int
		says string
	}{
		"label_names?limit=-1":                                         {400, "'limit'"},
		"label_names?limit=501":                                        {400, "'limit'"},
		"label_names?limit=x":                                          {400, "'limit'"},
		"label_names?limit=1&limit=2":                                  {400, "multiple 'limit'"},
		"label_names?count_method=guess":                               {400, "valid options are: [active,inmemory]"},
		"label_names?selector={":                                       {400, "failed to parse selector"},
		"label_names?selector=m&selector=n":                            {400, "multiple 'selector'"},
		"label_names?selector=" + strings.Repeat("(", 300):             {400, string(schema.ErrQueryTooDeep)},
		"label_values":                                                 {400, "'label_names[]' param is required"},
		"label_values?label_names[]=":                                  {400, "invalid 'label_names'"},
		"label_values?label_names[]=a&label_names[]=b&label_names[]=c": {400, string(schema.ErrCardinalityLabels)},
		"active_series":                                                {400, "'selector' param is required"},
		"active_series?selector=m":                                     {413, string(schema.ErrActiveSeriesSize)},
	} {
		got := get(t, base+"/api/v1/cardinality/"+path)
		require.Equal(t, want.code, got.code, path)
		require.Contains(t, got.json.Error, want.says, path)
		require.Equal(t, "bad_data", got.json.ErrorType)
	}
	lim.CardinalityAnalysisEnabled = false
	for _, path := range []string{"label_names", "label_values?label_names[]=s", "active_series?selector=m"} {
		require.Contains(t, get(t, base+"/api/v1/cardinality/"+path).json.Error, schema.ErrCardinalityDisabled)
	}
	lim.CardinalityAnalysisEnabled = true
	w.dir[0] = nil
	got := get(t, base+"/api/v1/cardinality/label_names")
	require.Equal(t, 503, got.code)
	require.Contains(t, got.body, schema.ErrPartitionUnavailable)
	req, err := http.NewRequest(http.MethodDelete, base+"/api/v1/cardinality/label_names", nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusMethodNotAllowed, do(t, req).code)
}

func TestTSDBStatus(t *testing.T) {
	w, base := countedWorld(t)
	got := get(t, base+"/api/v1/status/tsdb")
	require.Equal(t, 200, got.code, got.body)
	require.JSONEq(t, `{"headStats":{"numSeries":3,"numLabelPairs":4,"chunkCount":14,"minTime":60000,"maxTime":120000},
		"seriesCountByMetricName":[{"name":"m","value":3}],
		"labelValueCountByLabelName":[{"name":"s","value":3},{"name":"__name__","value":1}],
		"memoryInBytesByLabelName":[{"name":"__name__","value":3},{"name":"s","value":3}],
		"seriesCountByLabelValuePair":[{"name":"__name__=m","value":3},{"name":"s=a","value":1},{"name":"s=b","value":1},{"name":"s=c","value":1}]}`, string(got.json.Data))
	got = get(t, base+"/api/v1/status/tsdb?limit=1")
	require.Contains(t, got.body, `"labelValueCountByLabelName":[{"name":"s","value":3}]`)
	for _, limit := range []string{"0", "-1", "x"} {
		got = get(t, base+"/api/v1/status/tsdb?limit="+limit)
		require.Equal(t, []string{"bad_data", "limit must be a positive number"}, []string{got.json.ErrorType, got.json.Error})
	}
	require.Equal(t, "limit must not exceed 10000", get(t, base+"/api/v1/status/tsdb?limit=10001").json.Error)
	require.Equal(t, http.StatusMethodNotAllowed, post(t, base+"/api/v1/status/tsdb", nil).code)

	w.block(1, 0, newData(t, nil))
	w.cat.snapshots[0].blocks[0].Samples = 5
	got = get(t, base+"/api/v1/status/tsdb/blocks")
	var blocks struct {
		Blocks []struct {
			ULID  string
			Stats struct{ NumSamples int }
		}
	}
	require.NoError(t, json.Unmarshal(got.json.Data, &blocks), got.body)
	require.Len(t, blocks.Blocks, 1)
	require.Equal(t, 5, blocks.Blocks[0].Stats.NumSamples)
}
