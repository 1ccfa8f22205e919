package read

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/stretchr/testify/require"
)

// TestData: the series are distinct and have twelve labels, their times go on over windows, and counters only go back where a
// pod restarts, all of its buckets at once.
func TestData(t *testing.T) {
	d := &Data{Series: 1950, Length: 2 * time.Hour, Interval: time.Minute}
	require.Equal(t, 20, d.pods())
	require.Equal(t, 120, d.samples())
	seen := map[string][]prompb.Sample{}
	bytesOfLabels := 0
	for _, w := range [][2]int{{0, 30}, {30, 120}} {
		for pod := range d.pods() {
			raw, _ := d.appendPod(nil, nil, pod, w[0], w[1])
			var req prompb.WriteRequest
			require.NoError(t, req.Unmarshal(raw))
			require.Len(t, req.Timeseries, podSeries)
			for _, ts := range req.Timeseries {
				b := labels.NewScratchBuilder(12)
				for _, l := range ts.Labels {
					bytesOfLabels += len(l.Name) + len(l.Value)
					b.Add(l.Name, l.Value)
				}
				require.Len(t, ts.Labels, 12)
				key := b.Labels().String()
				require.Len(t, ts.Samples, w[1]-w[0])
				seen[key] = append(seen[key], ts.Samples...)
			}
		}
	}
	require.Len(t, seen, 2000)
	require.InDelta(t, 326, bytesOfLabels/len(seen)/2, 40, "bytes of the labels of a series")
	resets := map[int]int{}
	for key, samples := range seen {
		for n, s := range samples {
			require.Equal(t, d.at(n), s.Timestamp)
			if n > 0 && strings.Contains(key, "_total") && s.Value < samples[n-1].Value && !strings.Contains(key, "packets") {
				resets[n]++
			}
		}
	}
	require.Equal(t, map[int]int{12: 9, 24: 9}, resets, "two of twenty pods restart once")
	for n := range d.samples() {
		low, high := d.series(3, 9), d.series(3, 20)
		require.LessOrEqual(t, low.value(n), high.value(n), "buckets are cumulative")
	}
}

// TestQueries: twelve that Prometheus can parse, over the data's time.
func TestQueries(t *testing.T) {
	d := &Data{Series: 1000, Length: 6 * time.Hour, Interval: time.Minute}
	all := Queries(d)
	require.Len(t, all, 12)
	names := map[string]bool{}
	for _, q := range all {
		names[q.Name] = true
		require.Positive(t, most[q.Class])
		if q.Expr != "" {
			_, err := parser.NewParser(parser.Options{}).ParseExpr(q.Expr)
			require.NoError(t, err, q.Expr)
		}
		_, form := q.request(d)
		require.Contains(t, form.Encode(), "1767715200.000", "the end of the data")
	}
	require.Len(t, names, 12)
}

// TestInARow: requests side by side count once.
func TestInARow(t *testing.T) {
	at := func(begin, end int) call {
		return call{begin: time.UnixMilli(int64(begin)), end: time.UnixMilli(int64(end))}
	}
	require.Zero(t, inARow(nil))
	require.Equal(t, 1, inARow([]call{at(0, 20), at(1, 30), at(2, 10)}))
	require.Equal(t, 3, inARow([]call{at(0, 20), at(20, 40), at(5, 100), at(41, 60), at(45, 58)}))
}

// TestSlow: what passes is counted, unchanged, and waits.
func TestSlow(t *testing.T) {
	const wait = 30 * time.Millisecond
	store := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s", r.Method, r.Host)
	}))
	defer store.Close()
	s, err := startSlow(strings.TrimPrefix(store.URL, "http://"), wait)
	require.NoError(t, err)
	defer s.stop()
	began := time.Now()
	for range 2 {
		resp, err := http.Get("http://" + s.addr + "/x")
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, "GET "+s.addr, string(body), "the signature covers the host")
	}
	require.GreaterOrEqual(t, time.Since(began), 2*wait)
	resp, err := http.Post("http://"+s.addr+"/x", "", nil)
	require.NoError(t, err)
	resp.Body.Close()
	seen := s.seen()
	require.Equal(t, Requests{Count: 2, Bytes: 2 * int64(len("GET "+s.addr)), InARow: 2}, seen)
	s.reset()
	require.Zero(t, s.seen())
}

// TestDiffers: an answer that lacks something, or says something else, is told from one whose last bits differ.
func TestDiffers(t *testing.T) {
	decode := func(body string) content {
		var c content
		require.NoError(t, c.decode(strings.NewReader(body)))
		return c
	}
	matrix := `{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"b":"1","a":"2"},"values":[[1.5,"%s"],[2,"3"]]}]}}`
	want := decode(fmt.Sprintf(matrix, "0.1"))
	require.Equal(t, content{`{"a":"2","b":"1"}`: {1500: 0.1, 2000: 3}}, want)
	require.Empty(t, differs(want, decode(fmt.Sprintf(matrix, "0.10000000000000002")), false))
	require.NotEmpty(t, differs(want, decode(fmt.Sprintf(matrix, "0.1001")), false))
	require.Empty(t, differs(want, decode(fmt.Sprintf(matrix, "0.1001")), true))
	vector := decode(`{"status":"success","data":{"resultType":"vector","result":[{"metric":{"a":"2","b":"1"},"value":[1.5,"0.1"]}]}}`)
	require.NotEmpty(t, differs(want, vector, false), "a point is missing")
	require.NotEmpty(t, differs(want, content{}, true))
	require.Equal(t, content{"x": nil, `{"a":"b"}`: nil}, decode(`{"status":"success","data":["x",{"a":"b"}]}`))
	var c content
	require.Error(t, c.decode(strings.NewReader(`{"status":"error","error":"no"}`)))
}

// TestPrint: numbers of each place, ratios of ours to the peers, and a mark at those that miss their target.
func TestPrint(t *testing.T) {
	all := []*Figures{
		{Place: Prometheus, Query: "q", class: rangeMany, P50: 100, CPU: 50},
		{Place: Heads, Query: "q", class: rangeMany, P50: 71, CPU: 25, Differs: "something"},
		{Place: S3, Query: "q", class: rangeMany, P50: 10, ColdS3: &Requests{Count: 7, Bytes: 2048, InARow: 4}},
	}
	var out bytes.Buffer
	require.NoError(t, Print(&out, all))
	require.Regexp(t, `q +100 +71 +10 +0\.71 ! +0\.10 +<= 0\.7\n`, out.String())
	require.Regexp(t, `q +50 +25 +- +0\.50 +<= 0\.7\n`, out.String())
	require.Regexp(t, `q +7 +2 +4 +0 +0\n`, out.String())
	require.Contains(t, out.String(), "DIFFERS: sluice-heads: q: something\n")
	require.NotContains(t, out.String(), "cold, ms", "was not measured")
	require.NoError(t, Print(&out, nil))
	path, err := Save(t.TempDir(), all)
	require.NoError(t, err)
	require.FileExists(t, path)
}

// TestValidate: what cannot be measured is refused, and a place that is made of another needs it.
func TestValidate(t *testing.T) {
	ok := func() Config {
		return Config{Data: Data{Series: 1, Length: time.Hour, Interval: time.Minute}, Places: []string{Heads, Bucket}, Connections: 1, Dir: t.TempDir()}
	}
	cfg := ok()
	require.NoError(t, cfg.Validate())
	for _, spoil := range []func(*Config){
		func(c *Config) { c.Data.Series = 0 },
		func(c *Config) { c.Data.Interval = time.Hour },
		func(c *Config) { c.Places = []string{"moon"} },
		func(c *Config) { c.Places = []string{Bucket} },
		func(c *Config) { c.Connections = 0 },
	} {
		cfg := ok()
		spoil(&cfg)
		require.Error(t, cfg.Validate())
	}
}

// TestHistory: what is written are whole blocks, one a day, in which every pod lives for a day in all, with each time once.
func TestHistory(t *testing.T) {
	h := &History{Start: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Days: 3, Series: 1200, Interval: 10 * time.Minute}
	folder := filepath.Join(t.TempDir(), "tenant")
	w, err := h.Write(t.Context(), folder)
	require.NoError(t, err)
	require.Equal(t, 1200, w.Series)
	require.Equal(t, 3*300*144, w.Samples, "three pods at any moment")
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	require.Len(t, entries, 3)
	times := map[string][]int64{}
	samples := 0
	for day, e := range entries {
		b, err := tsdb.OpenBlock(nil, filepath.Join(folder, e.Name()), nil, nil)
		require.NoError(t, err)
		begin := h.Start.AddDate(0, 0, day).UnixMilli()
		require.Equal(t, begin, b.MinTime())
		q, err := tsdb.NewBlockQuerier(b, math.MinInt64, math.MaxInt64)
		require.NoError(t, err)
		set := q.Select(t.Context(), true, nil, labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".+"))
		for set.Next() {
			it := set.At().Iterator(nil)
			for it.Next() != chunkenc.ValNone {
				at, _ := it.At()
				require.GreaterOrEqual(t, at, b.MinTime())
				require.Less(t, at, b.MaxTime())
				key := set.At().Labels().String()
				times[key] = append(times[key], at)
				samples++
			}
			require.NoError(t, it.Err())
		}
		require.NoError(t, set.Err())
		require.NoError(t, q.Close())
		require.NoError(t, b.Close())
	}
	require.Equal(t, w.Samples, samples)
	whole := 0
	for key, at := range times {
		for i := range at[1:] {
			require.Equal(t, h.Interval.Milliseconds(), at[i+1]-at[i], key)
		}
		if len(at) == 144 {
			whole++
		}
	}
	require.Equal(t, 2*300, whole, "the first and the last pod of each slot are cut")
}
