package reader

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
	"github.com/stretchr/testify/require"

	"sluice/internal/log"
	"sluice/internal/web"
	"sluice/schema"
)

const protobufDelimited = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"

func TestFederate(t *testing.T) {
	w := newWorld(t, nil, web.Tenancy{})
	w.log.bounds = []log.Bounds{{End: 100}}
	db := newData(t, nil)
	now := time.Now().UnixMilli()
	app := db.Appender(context.Background())
	for _, s := range []struct {
		series labels.Labels
		t      int64
		v      float64
		h      *histogram.FloatHistogram
	}{
		{series: labels.FromStrings("__name__", "up", "job", "a", "instance", "i"), t: now - 60_000, v: 1},
		{series: labels.FromStrings("__name__", "up", "job", "a", "instance", "i"), t: now - 30_000, v: 2},
		{series: labels.FromStrings("__name__", "up", "job", "old"), t: now - 400_000, v: 3},
		{series: labels.FromStrings("__name__", "gone", "job", "a"), t: now - 1000, v: math.Float64frombits(value.StaleNaN)},
		{series: labels.FromStrings("job", "nameless"), t: now - 1000, v: 1},
		{series: labels.FromStrings("__name__", "h", "job", "a"), t: now - 1000, h: tsdbutil.GenerateTestFloatHistogram(3)},
		{series: labels.FromStrings("__name__", "h", "job", "b"), t: now - 1000, h: tsdbutil.GenerateTestGaugeFloatHistogram(3)},
		{series: labels.FromStrings("__name__", "h", "job", "c"), t: now - 1000, v: 7},
		{series: labels.FromStrings("__name__", "nhcb", "job", "a"), t: now - 1000, h: tsdbutil.GenerateTestCustomBucketsFloatHistogram(1)},
	} {
		var err error
		if s.h != nil {
			_, err = app.AppendHistogram(0, s.series, s.t, nil, s.h)
		} else {
			_, err = app.Append(0, s.series, s.t, s.v)
		}
		require.NoError(t, err)
	}
	require.NoError(t, app.Commit())
	w.sources["c"] = &fakeSource{held: map[int32]int64{0: 0}, data: db}
	w.dir[0] = []string{"c"}
	base := serve(t, w)

	q := url.Values{"match[]": {`{job=~".+"}`, `up`}}.Encode()
	for _, prefix := range []string{"", "/prometheus", "/api/prom"} {
		got := get(t, base+prefix+"/federate?"+q)
		require.Equal(t, 200, got.code, got.body)
		require.Contains(t, got.header.Get("Content-Type"), "text/plain")
		require.Contains(t, got.body, fmt.Sprintf("# TYPE up untyped\nup{instance=\"i\",job=\"a\"} 2 %d\n", now-30_000))
		require.Contains(t, got.body, fmt.Sprintf("h{job=\"c\",instance=\"\"} 7 %d\n", now-1000))
		require.Contains(t, got.body, `nhcb_bucket{job="a",instance="",le="+Inf"}`)
		for _, no := range []string{"old", "gone", "nameless", `h_count{job="a"`} {
			require.NotContains(t, got.body, no)
		}
	}
	got := get(t, base+"/federate?"+q, "Accept", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
	require.Contains(t, got.header.Get("Content-Type"), "text/plain")

	got = get(t, base+"/federate?"+q, "Accept", protobufDelimited)
	require.Contains(t, got.header.Get("Content-Type"), "application/vnd.google.protobuf")
	dec := expfmt.NewDecoder(strings.NewReader(got.body), expfmt.NewFormat(expfmt.TypeProtoDelim))
	kinds := map[string]*dto.Metric{}
	for {
		var f dto.MetricFamily
		if dec.Decode(&f) != nil {
			break
		}
		for _, m := range f.Metric {
			kinds[f.GetName()+" "+f.GetType().String()+" "+m.Label[0].GetValue()] = m
		}
	}
	require.Len(t, kinds, 5, "%v", kinds)
	h := kinds["h HISTOGRAM a"].GetHistogram()
	want := tsdbutil.GenerateTestFloatHistogram(3)
	require.Equal(t, want.Count, h.GetSampleCountFloat())
	require.Equal(t, want.PositiveBuckets, h.PositiveCount)
	require.Equal(t, want.NegativeBuckets, h.NegativeCount)
	require.Equal(t, want.Schema, h.GetSchema())
	require.NotNil(t, kinds["h GAUGE_HISTOGRAM b"])
	require.Len(t, kinds["nhcb HISTOGRAM a"].GetHistogram().Bucket, len(tsdbutil.GenerateTestCustomBucketsFloatHistogram(1).CustomValues))

	require.Empty(t, get(t, base+"/federate").body)
	require.Equal(t, 400, get(t, base+"/federate?match[]=%7B").code)
	require.Contains(t, get(t, base+"/federate?match[]="+strings.Repeat("(", 300)).body, schema.ErrQueryTooDeep)
	require.Equal(t, http.StatusMethodNotAllowed, post(t, base+"/federate", nil).code)
	w.dir[0] = nil
	got = get(t, base+"/federate?"+q)
	require.Equal(t, 503, got.code)
	require.NotEmpty(t, got.header.Get("Retry-After"))
}

// TestSearch: the search API finds names and values, as lines of JSON.
func TestSearch(t *testing.T) {
	_, _, base := simple(t, web.Tenancy{})
	for _, c := range []struct{ path, want string }{
		{"metric_names?search[]=m", `{"name":"m"}`},
		{"label_names?search[]=s", `{"name":"s"}`},
		{"label_values?label=s&match[]=m", `{"value":"a"},{"value":"b"}`},
		{"label_values?label=s&limit=1", `"has_more":true`},
	} {
		got := get(t, base+"/api/v1/search/"+c.path+"&start=0&end=1000")
		require.Equal(t, 200, got.code, got.body)
		require.Contains(t, got.body, c.want, c.path)
		require.Contains(t, got.body, `"status":"success"`, c.path)
	}
	require.Equal(t, 400, get(t, base+"/api/v1/search/label_values").code)
	require.Contains(t, get(t, base+"/api/v1/search/metric_names?match[]="+strings.Repeat("(", 300)).json.Error, schema.ErrQueryTooDeep)
}
