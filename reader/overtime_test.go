package reader

import (
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/internal/cardinality"
	"sluice/internal/log"
	"sluice/internal/web"
	"sluice/reader/store"
	"sluice/schema"
)

func TestWindows(t *testing.T) {
	day := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		from, to time.Time
		width    time.Duration
		first    time.Time
		count    int
	}{
		{day, day, 2 * time.Hour, day, 1},
		{day.Add(3 * time.Hour), day.Add(24*time.Hour + time.Minute), 2 * time.Hour, day.Add(2 * time.Hour), 12},
		{day.Add(time.Hour), day.Add(49 * time.Hour), 2 * time.Hour, day, 25},
		{day.Add(time.Hour), day.Add(49*time.Hour + 1e6), 24 * time.Hour, day, 3},
		{day, day.AddDate(0, 0, 60).Add(-1), 24 * time.Hour, day, 60},
		{time.Unix(0, 0).UTC(), time.Unix(0, 0).Add(90 * 24 * time.Hour), 48 * time.Hour, time.Unix(0, 0).UTC(), 46},
		{time.UnixMilli(-1), time.UnixMilli(1), 2 * time.Hour, time.Unix(-7200, 0).UTC(), 2},
	} {
		width, windows := windowsOf(c.from.UnixMilli(), c.to.UnixMilli())
		require.Equal(t, c.width.Milliseconds(), width, c)
		require.Len(t, windows, c.count, c)
		require.Equal(t, c.first.UnixMilli(), windows[0].Start, c)
		require.LessOrEqual(t, windows[0].Start, c.from.UnixMilli())
		require.Greater(t, windows[c.count-1].End, c.to.UnixMilli())
		for i, w := range windows {
			require.Equal(t, windows[0].Start+int64(i)*width, w.Start)
			require.Equal(t, w.Start+width, w.End)
		}
	}
	_, windows := windowsOf(math.MinInt32, math.MaxInt32*10_000)
	require.LessOrEqual(t, len(windows), maxWindows)
}

// TestWindowSum: which blocks' series are taken for the same ones.
func TestWindowSum(t *testing.T) {
	block := func(series int64, partitions ...int32) (e *schema.BlockEntry, c *store.Counts) {
		e = &schema.BlockEntry{Series: uint64(series)}
		for _, p := range slices.Backward(partitions) {
			e.Ranges = append(e.Ranges, schema.LogRange{Partition: p}, schema.LogRange{Partition: p, From: 9})
		}
		return e, &store.Counts{List: []store.Count{{Name: "a", Series: series}}, Total: 1}
	}
	type b struct {
		series     int64
		partitions []int32
	}
	for name, c := range map[string]struct {
		blocks []b
		heads  []int64
		want   int64
		source string
	}{
		"nothing":                    {nil, nil, 0, ""},
		"one":                        {[]b{{5, []int32{0}}}, nil, 5, "blocks"},
		"two partitions":             {[]b{{5, []int32{0}}, {7, []int32{1}}}, nil, 12, "blocks"},
		"two generations":            {[]b{{5, []int32{0}}, {7, []int32{0}}}, nil, 7, "blocks"},
		"merged":                     {[]b{{12, []int32{0, 1}}}, nil, 12, "blocks"},
		"merged, and late ones":      {[]b{{12, []int32{0, 1}}, {3, []int32{0}}}, nil, 12, "blocks"},
		"merged, and more in parts":  {[]b{{12, []int32{0, 1}}, {8, []int32{0}}, {7, []int32{1}}}, nil, 15, "blocks"},
		"parts of parts":             {[]b{{9, []int32{0, 1, 2}}, {8, []int32{0, 1}}, {9, []int32{0}}, {4, []int32{2}}}, nil, 13, "blocks"},
		"partly the same partitions": {[]b{{5, []int32{0, 1}}, {5, []int32{1, 2}}}, nil, 10, "blocks"},
		"foreign ones":               {[]b{{5, nil}, {6, nil}, {7, []int32{0}}}, nil, 13, "blocks"},
		"heads":                      {nil, []int64{3, 4}, 7, "heads"},
		"fewer in heads":             {[]b{{5, []int32{0}}, {7, []int32{1}}}, []int64{3, 4}, 12, "both"},
		"more in heads":              {[]b{{5, []int32{0}}, {7, []int32{1}}, {2, nil}}, []int64{13, 4}, 19, "both"},
		"empty heads":                {[]b{{5, []int32{0}}}, []int64{0}, 5, "blocks"},
	} {
		for range 2 { // in either order
			w := newWindowSum("")
			for _, x := range c.blocks {
				w.addBlock(block(x.series, x.partitions...))
			}
			for _, n := range c.heads {
				w.addHeads(&cardinality.Result{Series: n, Labels: map[string]*cardinality.Label{"a": {Series: n}}})
			}
			got := w.close()
			require.Equal(t, c.source, w.source(), name)
			require.Equal(t, []int64{c.want, c.want}, []int64{got["a"], got[""]}, name)
			slices.Reverse(c.blocks)
		}
	}

	w := newWindowSum("")
	e, _ := block(1, 0)
	w.addBlock(e, &store.Counts{List: []store.Count{{Name: "a", Series: 3, Values: 3, Distinct: []uint64{1, 2, 3}}, {Name: "b", Values: 70_000}}, Total: 2})
	w.addBlock(e, &store.Counts{List: []store.Count{{Name: "a", Series: 2, Values: 2, Distinct: []uint64{3, 4}}}, Total: 1})
	w.addHeads(&cardinality.Result{Series: 1, Labels: map[string]*cardinality.Label{"b": {Series: 1, Values: cardinality.Hashes{7}}}})
	require.Equal(t, []int64{4, 70_000, 0}, []int64{w.values("a"), w.values("b"), w.values("c")})
	require.False(t, w.truncated)

	w = newWindowSum("l")
	list := make([]store.Count, keptNames)
	for i := range list {
		list[i] = store.Count{Name: string(rune(i + 0x4e00)), Series: int64(i)}
	}
	w.addBlock(e, &store.Counts{List: list, Total: len(list)})
	require.False(t, w.truncated)
	w.addBlock(e, &store.Counts{List: []store.Count{{Name: "heavy", Series: 1e6}}, Total: 1})
	got := w.close()
	require.True(t, w.truncated)
	require.Len(t, got, keptNames+1)
	require.Contains(t, slices.Collect(maps.Keys(got)), "heavy")
	require.NotContains(t, got, list[0].Name)
	w = newWindowSum("l")
	w.addBlock(e, &store.Counts{Total: 5})
	require.True(t, w.truncated)
}

// TestOverTimeAnswers: sorting, searching and cutting, and what a request must not say.
func TestOverTimeAnswers(t *testing.T) {
	w := newWorld(t, nil, web.Tenancy{MaxFederated: 2})
	w.log.bounds = []log.Bounds{{End: 100}}
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	ms := at.UnixMilli()
	w.sources["x"] = &fakeSource{held: map[int32]int64{0: 50}, data: newData(t, map[string][]sample{"a1": {{ms, 1}, {ms - 7_200_000, 1}}, "a2": {{ms, 1}}, "b": {{ms - 7_200_000, 1}}})}
	w.dir[0] = []string{"x"}
	base := serve(t, w)
	span := func(more string) string {
		return base + "/api/v1/cardinality/over_time?start=" + at.Add(-2*time.Hour).Format(time.RFC3339) + "&end=" + at.Format(time.RFC3339) + more
	}
	windows := `"windows":[{"start":1772359200000,"end":1772366400000,"series":2,"source":"heads"},{"start":1772366400000,"end":1772373600000,"series":2,"source":"heads"}]`
	for query, want := range map[string]string{
		"&label=s": `"total":3,"entries":[{"name":"a1","series":[1,1],"max":1,"first":1,"last":1,"growth":0},` +
			`{"name":"a2","series":[0,1],"max":1,"first":0,"last":1,"growth":1},{"name":"b","series":[1,0],"max":1,"first":1,"last":0,"growth":-1}],"truncated":false`,
		"&label=s&sort=growth&limit=1": `"total":3,"entries":[{"name":"a2","series":[0,1],"max":1,"first":0,"last":1,"growth":1}],"truncated":false`,
		"&label=s&sort=name&search=a":  `"total":2,"entries":[{"name":"a1","series":[1,1],"max":1,"first":1,"last":1,"growth":0},{"name":"a2","series":[0,1],"max":1,"first":0,"last":1,"growth":1}],"truncated":false`,
		"&label=gone":                  `"total":0,"entries":[],"truncated":false`,
		"&search=s&limit=1":            `"total":1,"entries":[{"name":"s","series":[2,2],"values":[2,2],"max":2,"first":2,"last":2,"growth":0}],"truncated":false`,
		"&limit=0":                     `"total":2,"entries":[],"truncated":false`,
	} {
		got := get(t, span(query))
		require.Equal(t, 200, got.code, got.body)
		label, _ := url.ParseQuery(query)
		require.Equal(t, `{"tenant":"acme","label":"`+label.Get("label")+`",`+windows+`,`+want+`}`, string(got.json.Data), query)
	}
	for query, want := range map[string]string{
		"&limit=501": "'limit'", "&sort=x": "'sort'", "&label=%ff": "invalid 'label'", "&selector=up": "'selector'",
	} {
		got := get(t, span(query))
		require.Equal(t, http.StatusBadRequest, got.code, query)
		require.Contains(t, got.json.Error, want)
	}
	require.Equal(t, 400, get(t, base+"/api/v1/cardinality/over_time?start=x").code)
	require.Equal(t, 400, get(t, base+"/api/v1/cardinality/over_time?start=5&end=4").code)
	require.Equal(t, 200, get(t, base+"/api/v1/cardinality/over_time").code)
	require.Equal(t, 400, get(t, span(""), "X-Scope-OrgID", "a|b").code)
	w.limits.CardinalityAnalysisEnabled = false
	require.Contains(t, get(t, span("")).json.Error, schema.ErrCardinalityDisabled)
	w.limits.CardinalityAnalysisEnabled = true
	w.dir[0] = nil
	require.Equal(t, 503, get(t, span("")).code)
	partial := get(t, span("&partial_response=true"))
	require.Equal(t, 200, partial.code, partial.body)
	require.Contains(t, partial.body, "partial answer")
}
