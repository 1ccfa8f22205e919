package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
	"github.com/stretchr/testify/require"
)

// endpointAsked is a request; form has names and values in turn. It is sent as a GET, and as a POST form too where form is true.
type endpointAsked struct {
	path string
	form []string
	post bool
}

// TestAnswersLikePrometheus: the newest Prometheus with the same data answers the same, status, kind of error, text and every
// key of the JSON: what Grafana's data source sends, and what clients get wrong.
func TestAnswersLikePrometheus(t *testing.T) {
	enabled(t)
	t.Parallel()
	dir := workDir(t)
	s := newInstance(t, dir, "all", "--self-monitoring.tenant", "")
	s.start()
	s.ready(time.Minute)
	addr := freeAddr(t)
	theirs := "http://" + addr
	launch(t, dir, "prometheus3", nil, tool(t, "prometheus3", "run .ci/tools"), "--config.file=/dev/null", "--storage.tsdb.path="+filepath.Join(dir, "theirs"),
		"--web.listen-address="+addr, "--web.enable-remote-write-receiver", "--enable-feature=exemplar-storage", "--log.level=warn")
	eventually(t, "Prometheus is ready", 30*time.Second, func() error { return expect(context.Background(), theirs+"/-/ready", "", 200) })

	now := time.Now().Truncate(time.Minute)
	from := now.Add(-30 * time.Minute)
	var all []prompb.TimeSeries
	for i, pairs := range [][]string{ // sorted: Prometheus' head gives series in the order in which they came
		{"code", "200", "job", "db"}, {"code", "200", "job", "web"}, {"code", "500", "job", "web"}, {"größe", "groß", "job", "db"},
	} {
		ts := series("requests_total", 0, from, pairs...)
		for at := from.Add(30 * time.Second); !at.After(now); at = at.Add(30 * time.Second) {
			ts.Samples = append(ts.Samples, prompb.Sample{Timestamp: at.UnixMilli(), Value: float64(len(ts.Samples) * (i + 1))})
		}
		all = append(all, ts)
	}
	raw, err := (&prompb.WriteRequest{Timeseries: all}).Marshal()
	require.NoError(t, err)
	body := snappy.Encode(nil, raw)
	r := s.pushBody("", body, nil)
	require.Less(t, r.status, 300, string(r.body))
	req, err := http.NewRequest(http.MethodPost, theirs+"/api/v1/write", strings.NewReader(string(body)))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/x-protobuf")
	req.Header.Set("Content-Encoding", "snappy")
	r, err = send(context.Background(), req, "")
	require.NoError(t, err)
	require.Less(t, r.status, 300, string(r.body))
	_, err = instant(s.url("/prometheus"), "", "requests_total", now) // a strong read: from here on all have it
	require.NoError(t, err)

	at, start, end := seconds(now), seconds(from), seconds(now)
	for _, a := range []endpointAsked{
		{"/query", []string{"query", "requests_total", "time", at}, true},
		{"/query", []string{"query", "sum by (job) (rate(requests_total[5m]))", "time", at}, true},
		{"/query", []string{"query", "topk(1, requests_total)", "time", at}, true},
		{"/query", []string{"query", "1+1", "time", at}, true},
		{"/query", []string{"query", `"text"`, "time", at}, true},
		{"/query", []string{"query", "requests_total[2m]", "time", at}, true},
		{"/query", []string{"query", "requests_total", "time", at, "limit", "2"}, false},
		{"/query", []string{"query", "requests_total", "time", at, "lookback_delta", "1s"}, false},
		{"/query", []string{"query", "rate(requests_total[5m:1m])", "time", now.UTC().Format(time.RFC3339)}, true},
		{"/query", []string{"query", "rate(code[5m])", "time", at}, false},
		{"/query", []string{"query", "absent(nothing_here)", "time", at}, true},
		{"/query", nil, true},
		{"/query", []string{"query", "up("}, true},
		{"/query", []string{"query", "requests_total", "time", "yesterday"}, true},
		{"/query", []string{"query", "requests_total", "timeout", "soon"}, true},
		{"/query", []string{"query", "requests_total", "limit", "-1"}, true},
		{"/query", []string{"query", "requests_total", "lookback_delta", "x"}, true},
		{"/query", []string{"query", "nofunction(requests_total)", "time", at}, true},
		{"/query", []string{"query", "requests_total + on (job) requests_total", "time", at}, true},
		{"/query", []string{"query", "label_replace(requests_total, \"\", \"x\", \"job\", \"(.*)\")", "time", at}, true},
		{"/query", []string{"query", "requests_total{job=~\"(\"}", "time", at}, true},
		{"/query_range", []string{"query", "requests_total", "start", start, "end", end, "step", "60"}, true},
		{"/query_range", []string{"query", "sum(rate(requests_total[5m]))", "start", start, "end", end, "step", "1m"}, true},
		{"/query_range", []string{"query", "requests_total", "start", start, "end", end, "step", "60", "limit", "1"}, true},
		{"/query_range", []string{"query", "requests_total", "start", end, "end", start, "step", "60"}, true},
		{"/query_range", []string{"query", "requests_total", "start", start, "end", end, "step", "0"}, true},
		{"/query_range", []string{"query", "requests_total", "start", start, "end", end, "step", "-5"}, true},
		{"/query_range", []string{"query", "requests_total", "start", start, "end", end, "step", "0.01"}, true},
		{"/query_range", []string{"query", "requests_total", "start", start, "end", end}, true},
		{"/query_range", []string{"query", "requests_total", "end", end, "step", "5"}, true},
		{"/query_range", []string{"query", "requests_total[5m]", "start", start, "end", end, "step", "60"}, true},
		{"/query_exemplars", []string{"query", "requests_total", "start", start, "end", end}, true},
		{"/query_exemplars", []string{"query", "requests_total", "start", end, "end", start}, true},
		{"/query_exemplars", []string{"query", "sum("}, true},
		{"/format_query", []string{"query", "sum  by(job)(requests_total)"}, true},
		{"/format_query", []string{"query", "sum  by("}, true},
		{"/parse_query", []string{"query", "sum by (job) (rate(requests_total[5m]))"}, true},
		{"/series", []string{"match[]", "requests_total", "start", start, "end", end}, true},
		{"/series", []string{"match[]", `{job="db"}`, "match[]", `{code="500"}`, "start", start, "end", end}, true},
		{"/series", []string{"match[]", "requests_total", "start", start, "end", end, "limit", "1"}, true},
		{"/series", nil, true},
		{"/series", []string{"match[]", "{}"}, true},
		{"/series", []string{"match[]", `{job=~".*"}`}, true},
		{"/series", []string{"match[]", "sum(x)"}, true},
		{"/series", []string{"match[]", "requests_total", "start", end, "end", start}, true},
		{"/series", []string{"match[]", "requests_total", "limit", "x"}, true},
		{"/labels", []string{"start", start, "end", end}, true},
		{"/labels", []string{"match[]", `{job="db"}`, "start", start, "end", end}, true},
		{"/labels", []string{"limit", "1", "start", start, "end", end}, true},
		{"/labels", []string{"start", "x"}, true},
		{"/labels", []string{"match[]", "{"}, true},
		{"/label/job/values", []string{"start", start, "end", end}, false},
		{"/label/__name__/values", []string{"start", start, "end", end}, false},
		{"/label/job/values", []string{"match[]", `{code="500"}`, "start", start, "end", end}, false},
		{"/label/job/values", []string{"limit", "1", "start", start, "end", end}, false},
		{"/label/U__gr_f6__df_e/values", []string{"start", start, "end", end}, false},
		{"/label/no/values", []string{"start", start, "end", end}, false},
		{"/label/job/values", []string{"limit", "-3"}, false},
		{"/label/job/values", []string{"end", "never"}, false},
		{"/metadata", []string{"metric", "nothing_here"}, false},
		{"/metadata", []string{"limit", "x"}, false},
		{"/rules", nil, false},
		{"/rules", []string{"type", "neither"}, false},
		{"/alerts", nil, false},
		{"/alertmanagers", nil, false},
		{"/targets", nil, false},
		{"/scrape_pools", nil, false},
		{"/status/tsdb", []string{"limit", "0"}, false},
		{"/notifications", nil, false},
		{"/nothing", nil, false},
	} {
		methods := []string{http.MethodGet}
		if a.post {
			methods = append(methods, http.MethodPost)
		}
		form := url.Values{}
		for i := 0; i < len(a.form); i += 2 {
			form.Add(a.form[i], a.form[i+1])
		}
		for _, method := range methods {
			name := fmt.Sprint(method, " ", a.path, "?", form.Encode())
			want, got := whatIsSaid(t, method, theirs+"/api/v1"+a.path, form), whatIsSaid(t, method, s.url("/prometheus/api/v1"+a.path), form)
			if want != got {
				t.Errorf("%s\nPrometheus %s\nSluice     %s", name, want, got)
			}
		}
	}
	s.stop()
}

// whatIsSaid returns status and answer, with what comes in any order sorted.
func whatIsSaid(t *testing.T, method, to string, form url.Values) string {
	t.Helper()
	var content string
	if method == http.MethodGet {
		to += "?" + form.Encode()
	} else {
		content = form.Encode()
	}
	req, err := http.NewRequest(method, to, strings.NewReader(content))
	require.NoError(t, err)
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	r, err := send(context.Background(), req, "")
	require.NoError(t, err)
	var body any
	if json.Unmarshal(r.body, &body) != nil {
		return fmt.Sprint(r.status, " ", string(r.body))
	}
	sortLists(body)
	text, err := json.Marshal(body)
	require.NoError(t, err)
	return fmt.Sprint(r.status, " ", r.header.Get("Content-Type"), " ", string(text))
}

// sortLists sorts what is a list of objects.
func sortLists(v any) {
	switch v := v.(type) {
	case map[string]any:
		for _, inner := range v {
			sortLists(inner)
		}
	case []any:
		for _, inner := range v {
			sortLists(inner)
		}
		if len(v) > 0 {
			if _, ok := v[0].(map[string]any); ok {
				slices.SortFunc(v, func(a, b any) int {
					x, _ := json.Marshal(a)
					y, _ := json.Marshal(b)
					return cmp.Compare(string(x), string(y))
				})
			}
		}
	}
}
