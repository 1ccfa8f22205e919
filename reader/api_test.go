package reader

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/oklog/ulid/v2"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/storage/remote"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/stretchr/testify/require"
	"github.com/thanos-io/objstore"

	"sluice/internal/fetch"
	"sluice/internal/log"
	"sluice/internal/web"
	"sluice/schema"
)

func serve(t testing.TB, w *world) string {
	mux := http.NewServeMux()
	w.reader.Register(mux)
	for _, p := range []string{"POST /api/v1/push", "POST /api/v1/write", "POST /api/v1/receive", "POST /api/prom/push", "/fetch/", "/"} {
		mux.HandleFunc(p, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }) // others'
	}
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv.URL
}

type reply struct {
	code   int
	header http.Header
	body   string
	json   struct {
		Status, ErrorType, Error string
		Data                     json.RawMessage
		Warnings                 []string
	}
}

func do(t testing.TB, req *http.Request) reply {
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	got := reply{code: resp.StatusCode, header: resp.Header, body: string(body)}
	_ = json.Unmarshal(body, &got.json) // not every answer is JSON
	return got
}

func get(t testing.TB, u string, headers ...string) reply {
	req, err := http.NewRequest(http.MethodGet, u, nil)
	require.NoError(t, err)
	req.Header.Set(schema.TenantHeader, "acme")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return do(t, req)
}

func post(t testing.TB, u string, form url.Values, headers ...string) reply {
	req, err := http.NewRequest(http.MethodPost, u, strings.NewReader(form.Encode()))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set(schema.TenantHeader, "acme")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return do(t, req)
}

// simple is a world with one consumer that has one series.
func simple(t testing.TB, tenancy web.Tenancy) (*world, *fakeSource, string) {
	w := newWorld(t, nil, tenancy)
	w.log.bounds = []log.Bounds{{End: 100}}
	src := &fakeSource{held: map[int32]int64{0: 0}, data: newData(t, map[string][]sample{"a": {{60_000, 1}, {120_000, 2}}, "b": {{60_000, 3}}})}
	w.sources["c"] = src
	w.dir[0] = []string{"c"}
	return w, src, serve(t, w)
}

func TestEndpoints(t *testing.T) {
	_, src, base := simple(t, web.Tenancy{Required: true})
	src.meta = map[string][]metadata.Metadata{
		"m": {{Type: model.MetricTypeCounter, Help: "x"}, {Type: model.MetricTypeGauge, Help: "y"}}, "n": {{Type: model.MetricTypeGauge}},
	}
	src.found = []exemplar.QueryResult{{SeriesLabels: labels.FromStrings("__name__", "m"), Exemplars: []exemplar.Exemplar{{Value: 1, Ts: 60_000, HasTs: true}}}}
	cases := []struct{ path, want string }{
		{"/query?query=sum(m)&time=120", `"value":[120,"5"]`},
		{"/query_range?query=m&start=60&end=120&step=60", `"values":[[60,"1"],[120,"2"]]`},
		{"/query?query=m@120+offset+-1s&time=0", `"success"`},
		{"/series?match[]=m&start=0&end=1000", `"data":[{"__name__":"m","s":"a"},{"__name__":"m","s":"b"}]`},
		{"/labels", `"data":["__name__","s"]`},
		{"/label/s/values", `"data":["a","b"]`},
		{"/label/s/values?match[]=m%7Bs!%3D%22a%22%7D", `"data":["b"]`},
		{"/metadata?metric=&limit=1&limit_per_metric=1", `"data":{"m":[{"type":"counter","unit":"","help":"x"}]}`},
		{"/query_exemplars?query=m&start=0&end=1000", `"exemplars":[{"labels":{},"value":"1","timestamp":60}]`},
		{"/format_query?query=sum++(+m+)", `"data":"sum(m)"`},
		{"/parse_query?query=m", `"type":"vectorSelector"`},
		{"/rules", `"data":{"groups":[]}`},
		{"/alerts", `"data":{"alerts":[]}`},
		{"/alertmanagers", `"activeAlertmanagers":[]`},
		{"/targets", `"activeTargets":[]`},
		{"/scrape_pools", `"scrapePools":[]`},
		{"/status/buildinfo", `"sluiceVersion":"1.2.3"`},
		{"/status/buildinfo", `"version":"3.`},
		{"/status/config", `"yaml":`},
		{"/status/flags", `"data":{}`},
		{"/status/runtimeinfo", `"startTime":`},
		{"/status/tsdb", `"headStats":{`},
		{"/status/tsdb/blocks", `"data":{"blocks":[]}`},
		{"/status/walreplay", `"min":0`},
		{"/features", `"promql"`},
		{"/notifications", `"data":[]`},
		{"/targets/metadata?match_target=%7Bjob=%22x%22%7D", `"data":[]`},
	}
	for _, prefix := range prefixes {
		for _, c := range cases {
			got := get(t, base+prefix+c.path, "Origin", "https://grafana.example")
			require.Equal(t, 200, got.code, "%s: %s", c.path, got.body)
			require.Contains(t, got.body, c.want, c.path)
			require.Equal(t, []string{"https://grafana.example"}, got.header.Values("Access-Control-Allow-Origin"), c.path)
			require.Equal(t, "success", got.json.Status)
		}
		got := post(t, base+prefix+"/query", url.Values{"query": {"sum(m)"}, "time": {"120"}})
		require.Contains(t, got.body, `"value":[120,"5"]`)
		got = post(t, base+prefix+"/series", url.Values{"match[]": {"m", "{s=\"a\"}"}})
		require.Contains(t, got.body, `"s":"b"`)
	}
	for _, other := range []string{"/api/v1/push", "/api/v1/write", "/api/prom/push", "/fetch/select", "/api/v1/admin/tsdb/snapshot", "/api/v1/otlp/v1/metrics"} {
		require.Equal(t, http.StatusTeapot, post(t, base+other, nil).code, other)
	}
	req, err := http.NewRequest(http.MethodOptions, base+"/prometheus/api/v1/query", nil)
	require.NoError(t, err)
	req.Header.Set("Origin", "https://grafana.example")
	got := do(t, req)
	require.Equal(t, http.StatusNoContent, got.code)
	require.NotEmpty(t, got.header.Get("Access-Control-Allow-Methods"))
	require.Equal(t, http.StatusMethodNotAllowed, post(t, base+"/api/v1/rules", nil).code)
}

func TestBadRequestsToTheAPI(t *testing.T) {
	w, _, base := simple(t, web.Tenancy{Required: true})
	cases := []struct {
		path   string
		code   int
		kind   string
		header []string
	}{
		{"/query?query=sum(", 400, "bad_data", nil},
		{"/query?query=m&time=x", 400, "bad_data", nil},
		{"/query_range?query=m&start=0&end=1&step=0", 400, "bad_data", nil},
		{"/query_range?query=m&start=0&end=100000000&step=1", 400, "bad_data", nil},
		{"/query?query=m%2Bon(s)+group_left+m+and+sum+without(+m", 400, "bad_data", nil},
		{"/query?query=label_replace(m,%22s%22,%22x%22,%22s%22,%22.*%22)&time=120", 422, "execution", nil},
		{"/series", 400, "bad_data", nil},
		{"/label/s/values?match[]=%7B", 400, "bad_data", nil},
		{"/metadata?limit=x", 400, "bad_data", nil},
		{"/query?query=m", 400, "bad_data", []string{"X-Read-Consistency", "perhaps"}},
		{"/query?query=m", 400, "bad_data", []string{schema.TenantHeader, "a/b"}},
		{"/query?query=%zz", 400, "bad_data", nil},
	}
	for _, c := range cases {
		got := get(t, base+"/prometheus/api/v1"+c.path, c.header...)
		require.Equal(t, c.code, got.code, "%s: %s", c.path, got.body)
		require.Equal(t, "error", got.json.Status, c.path)
		require.Equal(t, c.kind, got.json.ErrorType, c.path)
		require.NotEmpty(t, got.json.Error)
	}
	req, err := http.NewRequest(http.MethodGet, base+"/api/v1/query?query=m", nil)
	require.NoError(t, err)
	got := do(t, req)
	require.Equal(t, http.StatusUnauthorized, got.code)
	require.Contains(t, got.json.Error, schema.ErrNoTenant)

	w.reader.ready.Store(false)
	got = get(t, base+"/api/v1/query?query=m")
	require.Equal(t, 503, got.code)
	require.Contains(t, got.json.Error, schema.ErrNotReady)
	require.NotEmpty(t, got.header.Get("Retry-After"))
	w.reader.ready.Store(true)
}

func TestFailuresOfOurs(t *testing.T) {
	w, src, base := simple(t, web.Tenancy{})
	w.dir[0] = nil
	check := func(got reply, id schema.ErrorID) {
		t.Helper()
		require.Equal(t, 503, got.code, got.body)
		require.Contains(t, got.body, id)
		require.Equal(t, "1", got.header.Get("Retry-After"))
	}
	for _, p := range []string{"/query?query=m", "/query_range?query=rate(m[5m])&start=0&end=100&step=10", "/series?match[]=m", "/labels", "/label/s/values", "/query_exemplars?query=m"} {
		got := get(t, base+"/api/v1"+p)
		check(got, schema.ErrPartitionUnavailable)
		require.Equal(t, "unavailable", got.json.ErrorType, p)
	}
	for _, kind := range []prompb.ReadRequest_ResponseType{prompb.ReadRequest_SAMPLES, prompb.ReadRequest_STREAMED_XOR_CHUNKS} {
		check(remoteRead(t, base, kind), schema.ErrPartitionUnavailable)
	}
	got := get(t, base+"/api/v1/query?query=vector(1)%2Bsum(m)&partial_response=true&time=120")
	require.Equal(t, 200, got.code)
	require.Len(t, got.json.Warnings, 1)
	require.Contains(t, got.json.Warnings[0], schema.ErrPartitionUnavailable)
	got = post(t, base+"/api/v1/query", url.Values{"query": {"m"}, "partial_response": {"true"}})
	require.Equal(t, 200, got.code)
	for _, p := range []string{"/query?query=m&partial_response=perhaps", "/query?query=m&explain=x", "/labels?partial_response=x", "/read?explain=x"} {
		if got = get(t, base+"/api/v1"+p); strings.HasPrefix(p, "/read") {
			got = post(t, base+"/api/v1"+p, nil)
		}
		require.Equal(t, 400, got.code, p)
		require.Contains(t, got.body, "must be true or false ("+schema.ErrDecode, p)
	}
	require.Equal(t, 200, get(t, base+"/api/v1/metadata").code, "metadata are a help only")

	w.dir[0] = []string{"c"}
	src.stuck = true
	w.reader.cfg.StrongTimeout = tick
	check(get(t, base+"/api/v1/query?query=m", "X-Read-Consistency", "strong"), schema.ErrStrongRead)
	require.Equal(t, 200, get(t, base+"/api/v1/query?query=m", "X-Read-Consistency", "eventual").code)

	require.Eventually(t, func() bool { // a query may be done before anybody looks at the clock
		got = get(t, base+"/api/v1/query?query=m&timeout=0.000001")
		return got.code == 503
	}, 10*time.Second, time.Millisecond)
	require.Empty(t, got.header.Get("Retry-After"), "the query would time out again")

	all, err := w.reg.Gather()
	require.NoError(t, err)
	names := map[string]bool{}
	for _, f := range all {
		names[f.GetName()] = true
	}
	for _, n := range []string{"sluice_reader_queries_total", "sluice_reader_query_duration_seconds", "sluice_reader_holes_total", "sluice_reader_retries_total", "sluice_reader_prometheus_engine_queries"} {
		require.Contains(t, names, n)
	}
}

func TestHostileQueries(t *testing.T) {
	_, _, base := simple(t, web.Tenancy{})
	deep := func(n int) string { return strings.Repeat("sum(", n) + "m" + strings.Repeat(")", n) }
	cases := map[string]struct {
		query string
		id    schema.ErrorID // empty = goes through to the parser
	}{
		"as deep as allowed":      {deep(200), ""},
		"too deep":                {deep(201), schema.ErrQueryTooDeep},
		"too deep, unbalanced":    {strings.Repeat("(", 30_000), schema.ErrQueryTooDeep},
		"mixed brackets":          {strings.Repeat("([{", 100), schema.ErrQueryTooDeep},
		"too long":                {deep(500_000), schema.ErrQueryTooLong},
		"long string":             {`m{s="` + strings.Repeat("(", 60_000) + `"}`, ""},
		"escaped quote":           {`m{s="\"` + strings.Repeat("(", 1000) + `"}`, ""},
		"raw string":              {"m{s=`\\`}" + " or " + deep(201), schema.ErrQueryTooDeep},
		"single quotes":           {`m{s='` + strings.Repeat("[", 1000) + `'}`, ""},
		"comment":                 {"m # " + strings.Repeat("(", 1000) + "\n", ""},
		"comment ends":            {"m # \n or " + deep(201), schema.ErrQueryTooDeep},
		"quote in a comment":      {"m # \"\n or " + deep(201), schema.ErrQueryTooDeep},
		"signs":                   {strings.Repeat("-", 60_000) + "m", schema.ErrQueryTooDeep},
		"signs with spaces":       {strings.Repeat("- ", 30_000) + "m", schema.ErrQueryTooDeep},
		"powers":                  {strings.Repeat("1^", 30_000) + "1", schema.ErrQueryTooDeep},
		"long sum":                {strings.Repeat("1+", 2000) + "1", ""},
		"longer sum":              {strings.Repeat("1+", 30_000) + "1", schema.ErrQueryTooDeep},
		"many words":              {strings.Repeat("m oR ", 10_000) + "m", schema.ErrQueryTooDeep},
		"comparisons":             {strings.Repeat("1==bool ", 5_000) + "1", schema.ErrQueryTooDeep},
		"many matchers":           {"m{" + strings.Repeat(`a!="+-*/",`, 5000) + "}", ""},
		"repetitions":             {`m{a=~"` + strings.Repeat("a{1000}", 3000) + `"}`, schema.ErrQueryTooLong},
		"repeated repetitions":    {`m{a=~"(a{1000}){1000}"}`, ""},
		"nested repetitions":      {`m{a=~"((a{10}){10}){10}"} or m{a=~'` + strings.Repeat("((([a-z]{10}){10}){10})", 150) + `'}`, schema.ErrQueryTooLong},
		"replaced":                {`label_replace(m, "a", "b", "c", "` + strings.Repeat("(?:x{999})", 300) + `")`, schema.ErrQueryTooLong},
		"long alternative":        {`m{a=~"` + strings.Repeat("host-1234|", 5000) + `x"}`, ""},
		"long list of arguments":  {"m or " + strings.Repeat("m or ", 1900) + "m", ""},
		"shallow but many closed": {strings.Repeat("(m) or ", 1900) + "m", ""},
	}
	for name, c := range cases {
		for _, p := range []string{"/query", "/query_range", "/format_query", "/parse_query", "/query_exemplars"} {
			if c.id == "" && p != "/query" {
				continue
			}
			got := post(t, base+"/api/v1"+p, url.Values{"query": {c.query}, "start": {"0"}, "end": {"1"}, "step": {"1"}})
			if c.id == "" {
				if name == "repeated repetitions" { // the parser knows about these
					require.Equal(t, 400, got.code, got.body)
					continue
				}
				require.Equal(t, 200, got.code, "%s: %.300s", name, got.body)
				continue
			}
			if len(c.query) > maxFormBytes/2 {
				require.Equal(t, 400, got.code)
				continue
			}
			require.Equal(t, 400, got.code, "%s %s", name, p)
			require.Equal(t, "bad_data", got.json.ErrorType, name)
			require.Contains(t, got.json.Error, c.id, "%s %s", name, p)
		}
	}
	for _, p := range []string{"/series", "/labels", "/label/s/values", "/rules"} {
		got := get(t, base+"/api/v1"+p+"?match[]=m&match[]="+strings.Repeat("(", 300))
		require.Equal(t, 400, got.code, p)
		require.Contains(t, got.json.Error, schema.ErrQueryTooDeep, p)
	}
	for _, p := range []string{"/series", "/labels", "/label/s/values"} { // each is small enough
		got := post(t, base+"/api/v1"+p, url.Values{"match[]": slices.Repeat([]string{`m{a=~"` + strings.Repeat("a{1000}", 90) + `"}`}, 3)})
		require.Contains(t, got.json.Error, schema.ErrQueryTooLong, p)
	}
	got := remoteRead(t, base, prompb.ReadRequest_SAMPLES, func(q *prompb.Query) {
		q.Matchers = append(q.Matchers, &prompb.LabelMatcher{Type: prompb.LabelMatcher_RE, Name: "a", Value: strings.Repeat("a{1000}", 3000)})
	})
	require.Equal(t, 400, got.code)
	require.Contains(t, got.body, schema.ErrQueryTooLong)
	got = get(t, base+"/api/v1/query?query="+strings.Repeat("m", maxQueryBytes+1), "X-Read-Consistency", "eventual")
	require.Contains(t, []int{400, 431}, got.code)

	// The field may hide in a multipart form, where the handlers find it as well.
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	require.NoError(t, form.WriteField("query", deep(201)))
	require.NoError(t, form.Close())
	req, err := http.NewRequest(http.MethodPost, base+"/api/v1/query", &body)
	require.NoError(t, err)
	req.Header.Set("Content-Type", form.FormDataContentType())
	require.Contains(t, do(t, req).json.Error, schema.ErrQueryTooDeep)
}

func FuzzDepth(f *testing.F) {
	f.Add(`sum(rate(m{a="b",c=~'d\'('}[5m])) # (`)
	f.Add("`\\`((")
	f.Fuzz(func(t *testing.T, q string) {
		m := measure(q)
		require.GreaterOrEqual(t, m.depth, 0)
		require.LessOrEqual(t, m.depth, len(q))
		require.LessOrEqual(t, m.operators, len(q))
		require.GreaterOrEqual(t, m.pattern, 0)
	})
}

func remoteRead(t testing.TB, base string, kind prompb.ReadRequest_ResponseType, change ...func(*prompb.Query)) reply {
	query := &prompb.Query{
		StartTimestampMs: 0, EndTimestampMs: 1_000_000,
		Matchers: []*prompb.LabelMatcher{{Type: prompb.LabelMatcher_EQ, Name: "__name__", Value: "m"}},
	}
	for _, f := range change {
		f(query)
	}
	body, err := (&prompb.ReadRequest{AcceptedResponseTypes: []prompb.ReadRequest_ResponseType{kind}, Queries: []*prompb.Query{query}}).Marshal()
	require.NoError(t, err)
	return readBody(t, base, snappy.Encode(nil, body))
}

func readBody(t testing.TB, base string, body []byte) reply {
	req, err := http.NewRequest(http.MethodPost, base+"/prometheus/api/v1/read", bytes.NewReader(body))
	require.NoError(t, err)
	return do(t, req)
}

func TestRemoteRead(t *testing.T) {
	_, _, base := simple(t, web.Tenancy{})
	got := remoteRead(t, base, prompb.ReadRequest_SAMPLES)
	require.Equal(t, 200, got.code)
	raw, err := snappy.Decode(nil, []byte(got.body))
	require.NoError(t, err)
	var resp prompb.ReadResponse
	require.NoError(t, resp.Unmarshal(raw))
	require.Len(t, resp.Results[0].Timeseries, 2)
	require.Equal(t, 2.0, resp.Results[0].Timeseries[0].Samples[1].Value)

	got = remoteRead(t, base, prompb.ReadRequest_STREAMED_XOR_CHUNKS)
	require.Equal(t, 200, got.code)
	frames := remote.NewChunkedReader(strings.NewReader(got.body), 1<<20, nil)
	set := remote.NewChunkedSeriesSet(frames, io.NopCloser(strings.NewReader("")), 0, 1_000_000, func(error) {})
	n := 0
	for set.Next() {
		it := set.At().Iterator(nil)
		for it.Next() != chunkenc.ValNone {
			n++
		}
	}
	require.NoError(t, set.Err())
	require.Equal(t, 3, n)

	require.Equal(t, 400, readBody(t, base, []byte("no snappy")).code)
	require.Equal(t, 400, readBody(t, base, []byte{0xff, 0xff, 0xff, 0xff, 0x0f}).code, "claims 4 GiB")
	require.Equal(t, http.StatusRequestEntityTooLarge, readBody(t, base, make([]byte, maxReadBytes+1)).code)
}

// brokenSource gives its first series and then fails.
type brokenSource struct{ *fakeSource }

func (s brokenSource) Querier(ctx context.Context, tenant schema.Tenant, mint, maxt int64, asks []fetch.Ask) (storage.Querier, error) {
	q, err := s.fakeSource.Querier(ctx, tenant, mint, maxt, asks)
	return brokenQuerier{q}, err
}

type brokenQuerier struct{ storage.Querier }

func (q brokenQuerier) Select(ctx context.Context, sorted bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	return &brokenSet{SeriesSet: q.Querier.Select(ctx, sorted, hints, ms...)}
}

type brokenSet struct {
	storage.SeriesSet
	n int
}

func (s *brokenSet) Next() bool {
	s.n++
	return s.n == 1 && s.SeriesSet.Next()
}

func (s *brokenSet) Err() error {
	if s.n > 1 {
		return schema.Unavailable(schema.ErrPartitionUnavailable, nil, "died in mid-stream")
	}
	return nil
}

func TestFailureInMidStream(t *testing.T) {
	w, src, base := simple(t, web.Tenancy{})
	w.sources["c"] = brokenSource{src}
	got := get(t, base+"/api/v1/query?query=m&time=120")
	require.Equal(t, 503, got.code)
	require.Contains(t, got.body, schema.ErrPartitionUnavailable)

	// A stream that has begun is cut: the client must see an error, whatever it has got.
	body, err := (&prompb.ReadRequest{
		AcceptedResponseTypes: []prompb.ReadRequest_ResponseType{prompb.ReadRequest_STREAMED_XOR_CHUNKS},
		Queries:               []*prompb.Query{{EndTimestampMs: 1_000_000, Matchers: []*prompb.LabelMatcher{{Name: "__name__", Value: "m"}}}},
	}).Marshal()
	require.NoError(t, err)
	resp, err := http.Post(base+"/api/v1/read", "", bytes.NewReader(snappy.Encode(nil, body)))
	if err == nil {
		_, err = io.ReadAll(resp.Body)
		resp.Body.Close()
	}
	require.Error(t, err)
}

// TestPromQLLikeTSDB holds the answers over blocks in a bucket and consumers behind HTTP to those of one plain database.
func TestPromQLLikeTSDB(t *testing.T) {
	bkt := objstore.NewInMemBucket()
	w := newWorld(t, bkt, web.Tenancy{})
	w.log.bounds = []log.Bounds{{End: 100}, {End: 100}}
	w.cat.snapshots[0].shipped = map[int32]int64{0: 10, 1: 10}
	const step, count = 15_000, 960 // four hours
	part := func(s, i int) int {
		switch {
		case i < 300+s: // the parts' edges differ from series to series
			return 0
		case i < 640-s:
			return 1
		}
		return 2 + s%2
	}
	parts := make([]map[string][]sample, 4)
	whole := map[string][]sample{}
	for i := range parts {
		parts[i] = map[string][]sample{}
	}
	for s := range 40 {
		name := fmt.Sprintf("s%02d", s)
		for i := range count {
			if (i+s)%97 == 0 {
				continue
			}
			sm := sample{int64(i) * step, float64((i*(s+1))%1000 + s)}
			whole[name] = append(whole[name], sm)
			p := part(s, i)
			parts[p][name] = append(parts[p][name], sm)
			if p == 1 && i%10 == 0 { // a resend, with another value: it comes too late
				parts[2+s%2][name] = append(parts[2+s%2][name], sample{sm.t, -1})
			}
		}
	}
	for i := range 2 {
		w.cat.snapshots[0].blocks = append(w.cat.snapshots[0].blocks, upload(t, bkt, parts[i], int64(i)))
	}
	for i, id := range []string{"a", "b"} {
		src := &fakeSource{held: map[int32]int64{int32(i): 10}, data: newData(t, parts[2+i])}
		srv := httptest.NewServer(fetch.Handler(fetch.HandlerConfig{Source: src}, slog.New(slog.DiscardHandler)))
		t.Cleanup(srv.Close)
		w.sources[id] = fetch.NewClient(srv.URL, srv.Client(), 0)
		w.dir[int32(i)] = []string{id}
	}
	base := serve(t, w)

	plain := newWorld(t, nil, web.Tenancy{})
	plain.block(1, 0, newData(t, whole))
	want := serve(t, plain)
	for _, q := range []string{
		`m`, `m{s="s07"}`, `sum(m)`, `rate(m[5m])`, `increase(m[30m])`, `sum by (s) (count_over_time(m[17m]))`, `max_over_time(m[1h:1m])`,
		`m / on(s) group_left m offset 10m`, `quantile_over_time(0.9, m[20m])`, `topk(3, m)`, `sum(count_values("v", m % 7)) by (v) > 6`, `absent(m{s="none"})`,
		`sum(m @ 7200)`, `avg(m{s=~"s[0-2].*"}) - avg(m{s!~"s[0-2].*"})`, `changes(m[1h])`, `histogram_quantile(0.9, m)`, `sort_desc(m)`,
	} {
		for _, u := range []string{
			"/api/v1/query?time=%d&query=", "/api/v1/query_range?start=0&end=%d&step=77&query=", "/api/v1/query_range?start=4000&end=%d&step=300&query=",
		} {
			u = fmt.Sprintf(u, 14_000) + url.QueryEscape(q)
			a, b := get(t, want+u), get(t, base+u)
			require.Equal(t, 200, b.code, b.body)
			require.Equal(t, a.body, b.body, u)
		}
	}
	for _, u := range []string{"/api/v1/series?match[]=m", "/api/v1/labels", "/api/v1/label/s/values", "/api/v1/series?match[]=m&start=4990&end=5100"} {
		require.JSONEq(t, get(t, want+u).body, get(t, base+u).body, u)
	}
	a, b := remoteRead(t, want, prompb.ReadRequest_SAMPLES), remoteRead(t, base, prompb.ReadRequest_SAMPLES)
	require.Equal(t, a.body, b.body)
}

// upload makes a block of the samples and puts it into the bucket.
func upload(t testing.TB, bkt objstore.Bucket, series map[string][]sample, logFrom int64) *schema.BlockEntry {
	var all []storage.Series
	for name, samples := range series {
		var list []chunks.Sample
		for _, s := range samples {
			list = append(list, fSample(s))
		}
		all = append(all, storage.NewListSeries(labels.FromStrings("__name__", "m", "s", name), list))
	}
	dir, err := tsdb.CreateBlock(all, t.TempDir(), 1<<40, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	blk, err := tsdb.OpenBlock(nil, dir, nil, nil)
	require.NoError(t, err)
	meta := blk.Meta()
	require.NoError(t, blk.Close())
	e := &schema.BlockEntry{ID: ulid.MustParse(filepath.Base(dir)), Tenant: "acme", MinTime: meta.MinTime, MaxTime: meta.MaxTime, LogFrom: logFrom, Series: meta.Stats.NumSeries, Samples: meta.Stats.NumSamples}
	for _, name := range []string{"index", "chunks/000001"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		e.Files = append(e.Files, schema.BlockFile{Path: name, Size: int64(len(data))})
		require.NoError(t, bkt.Upload(context.Background(), path.Join("acme", e.ID.String(), name), bytes.NewReader(data)))
	}
	return e
}
