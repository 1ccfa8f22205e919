package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
	"github.com/stretchr/testify/require"
)

// TestBrowserlessProbes: the requests that Grafana's Prometheus data source sends are answered in Prometheus' shape,
// under each of the three prefixes, from heads, from blocks, and from blocks after everything was started anew.
func TestBrowserlessProbes(t *testing.T) {
	enabled(t)
	s := newInstance(t, workDir(t), "all", "--limits.file", filepath.Join(repo, "deploy", "limits.example.yaml"))
	s.start()
	s.ready(60 * time.Second)
	now := time.Now()
	ts := series("http_requests_total", 42, now, "code", "200", "job", "web")
	ts.Exemplars = []prompb.Exemplar{{Labels: []prompb.Label{{Name: "trace_id", Value: "abc123"}}, Value: 1, Timestamp: now.UnixMilli()}}
	raw, err := (&prompb.WriteRequest{
		Timeseries: []prompb.TimeSeries{ts, series("http_requests_total", 1, now, "code", "500", "job", "web")},
		Metadata:   []prompb.MetricMetadata{{MetricFamilyName: "http_requests_total", Type: prompb.MetricMetadata_COUNTER, Help: "Requests served."}},
	}).Marshal()
	require.NoError(t, err)
	r := s.pushBody("grafana", snappy.Encode(nil, raw), nil)
	require.Less(t, r.status, 300, string(r.body))
	_, err = instant(s.url("/prometheus"), "grafana", "http_requests_total", now) // a strong read: from here on all have it
	require.NoError(t, err)

	for _, state := range []string{"heads", "blocks", "restarted"} {
		for _, prefix := range []string{"/prometheus", "/api/prom", ""} {
			t.Run(fmt.Sprintf("%s/%s", state, prefix), func(t *testing.T) { probe(t, s.url(prefix), now) })
		}
		switch state {
		case "heads":
			s.seal(time.Minute)
		case "blocks":
			s.kill()
			s.start()
			s.ready(time.Minute)
		}
	}
	s.stop()
}

func probe(t *testing.T, base string, now time.Time) {
	window := url.Values{"start": {seconds(now.Add(-time.Hour))}, "end": {seconds(now.Add(time.Minute))}}
	with := func(kv ...string) url.Values {
		v := url.Values{}
		for k, vs := range window {
			v[k] = vs
		}
		for i := 0; i < len(kv); i += 2 {
			v.Add(kv[i], kv[i+1])
		}
		return v
	}
	contains := func(want ...string) func(*testing.T, json.RawMessage) {
		return func(t *testing.T, data json.RawMessage) {
			for _, w := range want {
				require.Contains(t, string(data), w)
			}
		}
	}
	exemplars, meta := contains("abc123"), contains(`"type":"counter"`, "Requests served.")
	for _, p := range []struct {
		method, path string
		form         url.Values
		check        func(*testing.T, json.RawMessage)
	}{
		{"POST", "/api/v1/query", url.Values{"query": {"1+1"}, "time": {seconds(now)}}, contains(`"scalar"`, `"2"`)},
		{"POST", "/api/v1/query", url.Values{"query": {"sum(http_requests_total)"}, "time": {seconds(now)}}, contains(`"vector"`, `"43"`)},
		{"GET", "/api/v1/query", url.Values{"query": {"http_requests_total"}, "time": {seconds(now)}}, contains(`"code":"500"`)},
		{"POST", "/api/v1/query_range", with("query", "http_requests_total", "step", "15"), contains(`"matrix"`, `"42"`)},
		{"POST", "/api/v1/labels", with("match[]", "http_requests_total"), contains(`"__name__"`, `"code"`, `"job"`)},
		{"GET", "/api/v1/labels", with("limit", "40000"), contains(`"code"`)},
		{"GET", "/api/v1/label/__name__/values", with("limit", "40000"), contains(`"http_requests_total"`)},
		{"GET", "/api/v1/label/code/values", with("match[]", `http_requests_total{job="web"}`), contains(`["200","500"]`)},
		{"POST", "/api/v1/series", with("match[]", "http_requests_total", "limit", "1000"), contains(`"code":"200"`)},
		{"GET", "/api/v1/series", with("match[]", `{job="web"}`), contains(`"code":"500"`)},
		{"GET", "/api/v1/metadata", url.Values{"limit": {"1000"}}, meta},
		{"GET", "/api/v1/metadata", url.Values{"metric": {"http_requests_total"}}, meta},
		{"POST", "/api/v1/query_exemplars", with("query", "http_requests_total"), exemplars},
		{"GET", "/api/v1/rules", nil, contains(`"groups"`)},
		{"GET", "/api/v1/alerts", nil, contains(`"alerts"`)},
		{"GET", "/api/v1/status/buildinfo", nil, contains(`"version"`)},
		{"GET", "/api/v1/status/tsdb", nil, contains(`"headStats"`, `"seriesCountByMetricName"`)},
		{"GET", "/api/v1/status/tsdb/blocks", nil, contains(`"blocks"`)},
		{"GET", "/api/v1/notifications", nil, contains(`[]`)},
		{"GET", "/api/v1/label/U__http_2e_code/values", window, contains(`[]`)},
		{"GET", "/api/v1/format_query", url.Values{"query": {"sum( up )"}}, contains("sum(up)")},
		{"GET", "/api/v1/parse_query", url.Values{"query": {"sum(up)"}}, contains("aggregation")},
	} {
		t.Run(p.method+p.path, func(t *testing.T) {
			target, body := base+p.path, ""
			if p.method == http.MethodGet {
				target += "?" + p.form.Encode()
			} else {
				body = p.form.Encode()
			}
			req, err := http.NewRequest(p.method, target, strings.NewReader(body))
			require.NoError(t, err)
			if p.method == http.MethodPost {
				req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			}
			r, err := send(context.Background(), req, "grafana")
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, r.status, string(r.body))
			require.Contains(t, r.header.Get("Content-Type"), "application/json")
			var e envelope
			require.NoError(t, json.Unmarshal(r.body, &e), string(r.body))
			require.Equal(t, "success", e.Status)
			p.check(t, e.Data)
		})
	}
	// A query that is wrong is told so in Prometheus' way, so that Grafana can show it.
	e, err := api(base, "grafana", "/api/v1/query", url.Values{"query": {"sum("}}, nil)
	require.Error(t, err)
	require.Equal(t, "bad_data", e.ErrorType)
}
