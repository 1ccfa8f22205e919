package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/stretchr/testify/require"

	"sluice/bench/queries"
	"sluice/reader"
	"sluice/schema"
)

// overTime is what /cardinality/over_time answers.
type overTime struct {
	Windows []struct {
		Start, End, Series int64
		Source             string
	}
	Total   int
	Entries []struct {
		Name                     string
		Series, Values           []int64
		Max, First, Last, Growth int64
	}
	Truncated bool
}

// ask puts a question to a reader as a tenant.
func ask(t *testing.T, r *reader.Reader, tenant schema.Tenant, path string, form url.Values, into any, header ...string) {
	t.Helper()
	mux := http.NewServeMux()
	r.Register(mux)
	req := httptest.NewRequest(http.MethodGet, "/api/v1"+path+"?"+form.Encode(), nil)
	req.Header.Set(schema.TenantHeader, string(tenant))
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, req)
	require.Equal(t, http.StatusOK, w.Code, w.Body.String())
	var answer struct{ Data json.RawMessage }
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &answer))
	require.NoError(t, json.Unmarshal(answer.Data, into), w.Body.String())
}

// seriesCounts counts the samples' series in a plain map, by label and window: all of them under "".
type seriesCounts map[string][]map[string]bool

func (c seriesCounts) add(key string, window, windows int, series string) {
	if c[key] == nil {
		c[key] = make([]map[string]bool, windows)
	}
	if c[key][window] == nil {
		c[key][window] = map[string]bool{}
	}
	c[key][window][series] = true
}

func (c seriesCounts) of(key string) (n []int64) {
	for _, set := range c[key] {
		n = append(n, int64(len(set)))
	}
	return n
}

// TestCardinalityOverTime writes series that come and go from day to day, and counts them in heads, in blocks on their way, in
// the bucket and merged, through two readers: each time there are as many as in a plain map of what was written.
func TestCardinalityOverTime(t *testing.T) {
	in, _ := startInstallation(t, t.TempDir(), "", "--compactor.interval", "200ms", "--compactor.settle", "1ms", "--log.partitions", "4")
	const days, tenant = 3, schema.Tenant("acme")
	start := time.Date(2025, 10, 6, 0, 0, 0, 0, time.UTC)
	byMetric, byLabel, byPod := seriesCounts{}, seriesCounts{}, seriesCounts{}
	values := seriesCounts{}
	var samples []queries.Sample
	for day := range days {
		for i := range 40 + 25*day {
			i += 10 * day // some go, more come
			ls := labels.FromStrings("__name__", fmt.Sprintf("metric_%d", i%7), "id", fmt.Sprint(i), "pod", fmt.Sprintf("pod-%d-%d", day, i%5))
			if i%3 == 0 {
				ls = labels.NewBuilder(ls).Set("zone", "a").Labels()
			}
			for hour := 1; hour < 24; hour += 5 { // blocks of two hours, and others
				samples = append(samples, queries.Sample{Series: ls, T: start.AddDate(0, 0, day).Add(time.Duration(hour) * time.Hour).UnixMilli(), V: float64(i)})
			}
			byMetric.add("", day, days, ls.String())
			ls.Range(func(l labels.Label) {
				byLabel.add(l.Name, day, days, ls.String())
				values.add(l.Name, day, days, l.Value)
			})
			byMetric.add(ls.Get("__name__"), day, days, ls.String())
			byPod.add(ls.Get("pod"), day, days, ls.String())
		}
	}
	span := url.Values{"start": {start.Format(time.RFC3339)}, "end": {start.AddDate(0, 0, days).Add(-time.Second).Format(time.RFC3339)}, "limit": {"500"}}
	check := func(where, source string) {
		t.Helper()
		for _, r := range []*reader.Reader{in.near, in.far} {
			for label, want := range map[string]seriesCounts{"": byLabel, "__name__": byMetric, "pod": byPod} {
				span.Set("label", label)
				var got overTime
				ask(t, r, tenant, "/cardinality/over_time", span, &got)
				require.Len(t, got.Windows, days)
				total := byMetric.of("")
				for i, w := range got.Windows {
					require.Equal(t, start.AddDate(0, 0, i).UnixMilli(), w.Start)
					require.Equal(t, start.AddDate(0, 0, i+1).UnixMilli(), w.End)
					require.Equal(t, source, w.Source, where)
					require.Equal(t, total[i], w.Series, "%s, all series, day %d", where, i)
				}
				named := len(want)
				if label == "__name__" {
					named-- // all
				}
				require.Equal(t, named, got.Total)
				require.Len(t, got.Entries, named)
				for _, e := range got.Entries {
					n := want.of(e.Name)
					require.Equal(t, n, e.Series, "%s, %q %q", where, label, e.Name)
					require.Equal(t, []int64{n[0], n[days-1], n[days-1] - n[0]}, []int64{e.First, e.Last, e.Growth})
					if label == "" {
						require.Equal(t, values.of(e.Name), e.Values, "%s, values of %s", where, e.Name)
					}
				}
				require.False(t, got.Truncated)
			}
		}
	}
	in.push(tenant, samples)
	in.settle()
	check("heads", "heads")
	in.gate.shut()
	shipping := in.seal()
	check("sealed", "heads")
	in.ship(shipping)
	check("bucket", "blocks")
	in.push(tenant, samples[:len(samples)/2]) // a second generation of the same series
	in.settle()
	in.ship(in.seal())
	check("two generations", "blocks")
	in.compact([]schema.Tenant{tenant})
	blocks, _ := in.process.catalog.Snapshot(tenant)
	require.Len(t, blocks, days)
	check("merged", "blocks")

	in.push(tenant, samples[len(samples)/2:])
	in.settle()
	span.Set("label", "__name__")
	var got overTime
	ask(t, in.far, tenant, "/cardinality/over_time", span, &got)
	require.Equal(t, "both", got.Windows[days-1].Source)
	require.Equal(t, byMetric.of("")[days-1], got.Windows[days-1].Series)
}
