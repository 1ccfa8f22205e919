package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/schema"
)

// promqlFields are the endpoints that take PromQL, and the field that it is in.
var promqlFields = [][2]string{
	{"/api/v1/query", "query"}, {"/api/v1/query_range", "query"}, {"/api/v1/query_exemplars", "query"}, {"/api/v1/format_query", "query"},
	{"/api/v1/parse_query", "query"}, {"/api/v1/series", "match[]"}, {"/api/v1/labels", "match[]"}, {"/api/v1/label/job/values", "match[]"},
	{"/federate", "match[]"}, {"/api/v1/cardinality/label_names", "selector"}, {"/api/v1/cardinality/label_values", "selector"},
	{"/api/v1/cardinality/active_series", "selector"},
}

// TestHostileQueries: what overflows the stack of a parser, or takes it minutes, is refused at once, wherever PromQL is taken,
// and the process goes on. The first of them ends a stock Prometheus.
func TestHostileQueries(t *testing.T) {
	enabled(t)
	s := newInstance(t, workDir(t), "all", "--self-monitoring.tenant", "")
	s.start()
	s.ready(60 * time.Second)
	now := time.Now()
	require.Less(t, s.push("", series("up", 1, now, "job", "a")).status, 300)
	tooLarge := []schema.ErrorID{schema.ErrQueryTooDeep, schema.ErrQueryTooLong, schema.ErrDecode, schema.ErrBodyTooLarge}
	bodies := []struct {
		name, query string
		ids         []schema.ErrorID // nil = an error of the parser's own will do
	}{
		{"500,000 nested sum(", strings.Repeat("sum(", 500_000), tooLarge},
		{"500,000 nested sum( that are closed", strings.Repeat("sum(", 500_000) + "up" + strings.Repeat(")", 500_000), tooLarge},
		{"brackets 100,000 deep", strings.Repeat("(", 100_000) + "1" + strings.Repeat(")", 100_000), tooLarge},
		{"brackets as deep as the size allows", strings.Repeat("(", 30_000) + "1" + strings.Repeat(")", 30_000), tooLarge},
		{"1 MB", `up{job="` + strings.Repeat("x", 1<<20) + `"}`, tooLarge},
		{"1 MB of terms", "up" + strings.Repeat("+up", 1<<20/3), tooLarge},
		{"a regular expression that repeats a million times", `{job=~"(a{1000}){1000}"}`, nil},
		{"the same as PromQL", "(a{1000}){1000}", nil},
		{"a regular expression 1,000 brackets deep", `{job=~"` + strings.Repeat("(", 1001) + "a" + strings.Repeat(")", 1001) + `"}`, nil},
	}
	var slowest time.Duration
	what := ""
	for _, prefix := range []string{"/prometheus", "/api/prom", ""} {
		for _, f := range promqlFields {
			for _, b := range bodies {
				form := url.Values{f[1]: {b.query}, "start": {seconds(now)}, "end": {seconds(now)}, "step": {"1"}, "time": {seconds(now)}, "label_names[]": {"job"}}
				for _, method := range []string{http.MethodPost, http.MethodGet} {
					if method == http.MethodGet && len(b.query) > 32<<10 {
						continue // the URL alone is refused
					}
					took, r, err := hostile(s.url(prefix+f[0]), method, form)
					require.NoError(t, err, "%s at %s: %s", b.name, prefix+f[0], method)
					require.True(t, s.running(), "died of %s at %s", b.name, prefix+f[0])
					at := fmt.Sprintf("%s at %s %s: status %d: %.300s", b.name, method, prefix+f[0], r.status, r.body)
					if r.status == http.StatusNotFound || r.status == http.StatusMethodNotAllowed {
						continue // not there
					}
					require.True(t, r.status/100 == 4, at)
					if id := schema.ErrorID(idInText.FindString(string(r.body))); b.ids != nil {
						require.True(t, slices.Contains(b.ids, id), at)
					}
					if took > slowest {
						slowest, what = took, at
					}
				}
			}
		}
	}
	got, err := instant(s.url("/prometheus"), "", "count(up)", now)
	require.NoError(t, err)
	require.Equal(t, "1", got.one(t))
	s.notePeak()
	report(t, "hostile queries", map[string]any{"slowest_ms": slowest.Milliseconds(), "slowest": what[:min(len(what), 120)], "peak_rss_mb": s.peak >> 20})
	s.stop()
}

// hostile sends a form, with half a minute to answer it.
func hostile(target, method string, form url.Values) (time.Duration, reply, error) {
	body := form.Encode()
	if method == http.MethodGet {
		target, body = target+"?"+body, ""
	}
	req, err := http.NewRequest(method, target, strings.NewReader(body))
	if err != nil {
		return 0, reply{}, err
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	began := time.Now()
	r, err := send(ctx, req, "")
	return time.Since(began), r, err
}
