package reader

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/golang/snappy"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/stretchr/testify/require"

	"sluice/internal/cardinality"
	"sluice/internal/fetch"
	"sluice/internal/log"
	"sluice/internal/web"
	"sluice/schema"
)

// tenantsSource is a consumer with several tenants.
type tenantsSource map[schema.Tenant]*fakeSource

func (s tenantsSource) Querier(ctx context.Context, t schema.Tenant, mint, maxt int64, asks []fetch.Ask) (storage.Querier, error) {
	return s[t].Querier(ctx, t, mint, maxt, asks)
}

func (s tenantsSource) Exemplars(ctx context.Context, t schema.Tenant, start, end int64, ms [][]*labels.Matcher, asks []fetch.Ask) ([]exemplar.QueryResult, error) {
	found, err := s[t].Exemplars(ctx, t, start, end, ms, asks)
	var kept []exemplar.QueryResult
	for _, r := range found {
		if slices.ContainsFunc(ms, func(set []*labels.Matcher) bool {
			return !slices.ContainsFunc(set, func(m *labels.Matcher) bool { return !m.Matches(r.SeriesLabels.Get(m.Name)) })
		}) {
			kept = append(kept, r)
		}
	}
	return kept, err
}

func (s tenantsSource) Cardinality(ctx context.Context, t schema.Tenant, q cardinality.Query, asks []fetch.Ask) (*cardinality.Result, error) {
	return s[t].Cardinality(ctx, t, q, asks)
}

func (s tenantsSource) Metadata(ctx context.Context, t schema.Tenant, metric string) (map[string][]metadata.Metadata, error) {
	return s[t].Metadata(ctx, t, metric)
}

// database makes a database of series with one sample each, at a minute.
func database(t testing.TB, value float64, series ...labels.Labels) *tsdb.DB {
	opts := tsdb.DefaultOptions()
	db, err := tsdb.Open(t.TempDir(), slog.New(slog.DiscardHandler), nil, opts, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	app := db.Appender(context.Background())
	for _, ls := range series {
		_, err := app.Append(0, ls, 60_000, value)
		require.NoError(t, err)
	}
	require.NoError(t, app.Commit())
	return db
}

func holding(data storage.Queryable) *fakeSource {
	return &fakeSource{held: map[int32]int64{0: 0}, data: data}
}

// three is a world with tenants a, b (one of whose series has the tenants' label itself) and c, which is empty.
func three(t testing.TB, most int) (*world, tenantsSource, string) {
	w := newWorld(t, nil, web.Tenancy{MaxFederated: most})
	w.log.bounds = []log.Bounds{{End: 100}}
	ls := labels.FromStrings
	src := tenantsSource{
		"a": holding(database(t, 1, ls("__name__", "m", "s", "1"), ls("__name__", "m", "s", "2"), ls("__name__", "only_a"))),
		"b": holding(database(t, 2, ls("__name__", "m", "s", "1"), ls("__name__", "m", "s", "1", "__tenant_id__", "mine"))),
		"c": holding(database(t, 3)),
	}
	w.sources["consumer"] = src
	w.dir[0] = []string{"consumer"}
	return w, src, serve(t, w)
}

func TestFederation(t *testing.T) {
	_, src, base := three(t, 3)
	src["a"].meta = map[string][]metadata.Metadata{"m": {{Type: model.MetricTypeGauge}}}
	src["b"].meta = map[string][]metadata.Metadata{"m": {{Type: model.MetricTypeGauge}}, "n": {{Type: model.MetricTypeCounter}}}
	src["a"].found = []exemplar.QueryResult{{SeriesLabels: labels.FromStrings("__name__", "m"), Exemplars: []exemplar.Exemplar{{Value: 1, Ts: 60_000, HasTs: true}}}}
	src["b"].found = []exemplar.QueryResult{{SeriesLabels: labels.FromStrings("__name__", "m", "__tenant_id__", "mine"), Exemplars: []exemplar.Exemplar{{Value: 2, Ts: 60_000, HasTs: true}}}}
	const (
		a1   = `{"__name__":"m","__tenant_id__":"a","s":"1"}`
		a2   = `{"__name__":"m","__tenant_id__":"a","s":"2"}`
		b1   = `{"__name__":"m","__tenant_id__":"b","s":"1"}`
		mine = `{"__name__":"m","__tenant_id__":"b","original___tenant_id__":"mine","s":"1"}`
	)
	for _, c := range []struct{ tenants, path, want string }{
		{"a|b", "/series?match[]=m", `[` + a1 + `,` + a2 + `,` + b1 + `,` + mine + `]`},
		{"b|a|b|a", "/series?match[]=m", `[` + a1 + `,` + a2 + `,` + b1 + `,` + mine + `]`},
		{"a|b", "/series?match[]=m&match[]=only_a", `[` + a1 + `,` + a2 + `,` + b1 + `,` + mine + `,{"__name__":"only_a","__tenant_id__":"a"}]`},
		{"a|b", `/series?match[]=m{__tenant_id__="a"}`, `[` + a1 + `,` + a2 + `]`},
		{"a|b", `/series?match[]={__tenant_id__="b"}`, `[` + b1 + `,` + mine + `]`},
		{"a|b", `/series?match[]={__tenant_id__!~"a|c",s="1"}`, `[` + b1 + `,` + mine + `]`},
		{"a|b", `/series?match[]={original___tenant_id__="mine"}`, `[` + mine + `]`},
		{"a|b", `/series?match[]=m{__tenant_id__="z"}`, `[]`},
		{"a|c", "/series?match[]=m", `[` + a1 + `,` + a2 + `]`},
		{"a|b", "/labels", `["__name__","__tenant_id__","original___tenant_id__","s"]`},
		{"a|b", `/labels?match[]=only_a`, `["__name__","__tenant_id__"]`},
		{"a|b", `/labels?match[]=m{__tenant_id__="a"}`, `["__name__","__tenant_id__","s"]`},
		{"a|b", `/labels?match[]=none`, `[]`},
		{"a|b", "/label/s/values", `["1","2"]`},
		{"a|b", "/label/s/values?limit=1", `["1"]`},
		{"a|b", `/label/s/values?match[]={__tenant_id__="b"}`, `["1"]`},
		{"a|b|c", "/label/__tenant_id__/values", `["a","b"]`},
		{"a|b|c", "/label/__tenant_id__/values?match[]=only_a", `["a"]`},
		{"a|b", `/label/__tenant_id__/values?match[]=m{__tenant_id__=~"b|c"}`, `["b"]`},
		{"a|b", "/label/original___tenant_id__/values", `["mine"]`},
		{"a|b", "/metadata", `{"m":[{"type":"gauge","unit":"","help":""}],"n":[{"type":"counter","unit":"","help":""}]}`},
		{"a|b", "/query_exemplars?query=m&start=0&end=1000", `[{"seriesLabels":{"__name__":"m","__tenant_id__":"a"},"exemplars":[{"labels":{},"value":"1","timestamp":60}]},` +
			`{"seriesLabels":{"__name__":"m","__tenant_id__":"b","original___tenant_id__":"mine"},"exemplars":[{"labels":{},"value":"2","timestamp":60}]}]`},
		{"a|b", `/query_exemplars?query=m{__tenant_id__="a"}&start=0&end=1000`, `[{"seriesLabels":{"__name__":"m","__tenant_id__":"a"},"exemplars":[{"labels":{},"value":"1","timestamp":60}]}]`},
		{"a|b", `/query?query=sum by (__tenant_id__) (m)&time=60`, `{"resultType":"vector","result":[{"metric":{"__tenant_id__":"a"},"value":[60,"2"]},{"metric":{"__tenant_id__":"b"},"value":[60,"4"]}]}`},
		{"a|b", `/query?query=count(m{__tenant_id__="b"} unless ignoring(__tenant_id__) m{__tenant_id__="a"})&time=60`, `{"resultType":"vector","result":[{"metric":{},"value":[60,"1"]}]}`},
		{"a|b", `/query_range?query=sum(m)&start=60&end=60&step=1`, `{"resultType":"matrix","result":[{"metric":{},"values":[[60,"6"]]}]}`},
		// Of one tenant nothing has another label.
		{"a", "/series?match[]=only_a", `[{"__name__":"only_a"}]`},
		{"a|a", "/series?match[]=only_a", `[{"__name__":"only_a"}]`},
		{"b", "/labels", `["__name__","__tenant_id__","s"]`},
		{"b", `/label/__tenant_id__/values`, `["mine"]`},
	} {
		u, err := url.Parse(base + "/api/v1" + strings.NewReplacer("{", "%7B", "}", "%7D", `"`, "%22", "|", "%7C", " ", "%20").Replace(c.path))
		require.NoError(t, err)
		q := u.Query()
		if !q.Has("start") && !q.Has("time") {
			q.Set("start", "0")
			q.Set("end", "1000")
		}
		u.RawQuery = q.Encode()
		got := get(t, u.String(), schema.TenantHeader, c.tenants)
		require.Equal(t, 200, got.code, "%s %s: %s", c.tenants, c.path, got.body)
		if strings.HasPrefix(c.path, "/series") { // the endpoint sorts only what it merges
			require.ElementsMatch(t, parts(t, []byte(c.want)), parts(t, got.json.Data), "%s %s", c.tenants, c.path)
			continue
		}
		require.JSONEq(t, c.want, string(got.json.Data), "%s %s", c.tenants, c.path)
	}
	for _, s := range src {
		s.mu.Lock()
		require.Positive(t, s.released)
		s.mu.Unlock()
	}
}

func parts(t testing.TB, list []byte) (out []string) {
	var raw []json.RawMessage
	require.NoError(t, json.Unmarshal(list, &raw))
	for _, r := range raw {
		out = append(out, string(r))
	}
	return out
}

func TestFederationRemoteRead(t *testing.T) {
	_, _, base := three(t, 3)
	matchers := []*prompb.LabelMatcher{{Type: prompb.LabelMatcher_EQ, Name: "s", Value: "1"}}
	for _, kind := range []prompb.ReadRequest_ResponseType{prompb.ReadRequest_SAMPLES, prompb.ReadRequest_STREAMED_XOR_CHUNKS} {
		body, err := (&prompb.ReadRequest{AcceptedResponseTypes: []prompb.ReadRequest_ResponseType{kind},
			Queries: []*prompb.Query{{EndTimestampMs: 1_000_000, Matchers: matchers}}}).Marshal()
		require.NoError(t, err)
		req, err := http.NewRequest(http.MethodPost, base+"/api/v1/read", bytes.NewReader(snappy.Encode(nil, body)))
		require.NoError(t, err)
		req.Header.Set(schema.TenantHeader, "a|b")
		got := do(t, req)
		require.Equal(t, 200, got.code, got.body)
		text := got.body
		if kind == prompb.ReadRequest_SAMPLES {
			raw, err := snappy.Decode(nil, []byte(got.body))
			require.NoError(t, err)
			text = string(raw)
		}
		require.Equal(t, 3, strings.Count(text, "\x0d"+tenantLabel), "three series with the tenant's label")
		require.Equal(t, 1, strings.Count(text, originalLabel))
		require.Equal(t, 1, strings.Count(text, "mine"))
	}
}

func TestFederationIsRefused(t *testing.T) {
	_, src, base := three(t, 2)
	require.Equal(t, 200, get(t, base+"/api/v1/labels", schema.TenantHeader, "a|b|a").code)
	for tenants, want := range map[string]schema.ErrorID{
		"a|b|c": schema.ErrTenantsPerQuery, "a|": schema.ErrNoTenant, "|": schema.ErrNoTenant, "a|..": schema.ErrTenantInvalid, "a| b": schema.ErrTenantInvalid,
		"a|__b": schema.ErrTenantInvalid,
	} {
		for _, path := range []string{"/labels", "/query?query=m", "/series?match[]=m", "/metadata", "/query_exemplars?query=m"} {
			got := get(t, base+"/api/v1"+path, schema.TenantHeader, tenants)
			require.Contains(t, []int{400, 401, 422}, got.code, "%s %s", tenants, path)
			require.Contains(t, got.json.Error, want, "%s %s", tenants, path)
		}
	}

	// What one tenant's part cannot be had for fails the whole, with its status.
	src["b"].err = fmt.Errorf("gone")
	for _, path := range []string{"/labels", "/query?query=m&time=60", "/series?match[]=m", "/query_exemplars?query=m"} {
		got := get(t, base+"/api/v1"+path, schema.TenantHeader, "a|b")
		require.Equal(t, 503, got.code, "%s: %s", path, got.body)
		require.NotEmpty(t, got.header.Get("Retry-After"), path)
		require.Equal(t, 200, get(t, base+"/api/v1"+path, schema.TenantHeader, "a").code, path)
	}
	got := get(t, base+"/api/v1/query?query=sum(m)&time=60&partial_response=true", schema.TenantHeader, "a|b")
	require.Equal(t, 200, got.code)
	require.Contains(t, got.body, `"2"`)
	require.NotEmpty(t, got.json.Warnings)

	_, _, base = simple(t, web.Tenancy{}) // without the flag
	got = get(t, base+"/api/v1/labels", schema.TenantHeader, "a|b")
	require.Equal(t, http.StatusBadRequest, got.code)
	require.Contains(t, got.json.Error, schema.ErrTenantInvalid)
}

// Series come out in the order of the labels that they are given out with, whatever sorts around the new one.
func TestFederatedOrder(t *testing.T) {
	w := newWorld(t, nil, web.Tenancy{MaxFederated: 9})
	w.log.bounds = []log.Bounds{{End: 100}}
	var series []labels.Labels
	names := []string{"A", "__name__", "__s__", "__tenant_id__", "__z__", "a", "original___tenant_id__", "z"}
	for set := 1; set < 1<<len(names); set++ { // every combination
		b := labels.NewScratchBuilder(0)
		for i, n := range names {
			if set&(1<<i) != 0 {
				b.Add(n, "v")
			}
		}
		series = append(series, b.Labels())
	}
	db := database(t, 1, series...)
	src := tenantsSource{"t1": holding(db), "t2": holding(db)}
	w.sources["consumer"] = src
	w.dir[0] = []string{"consumer"}
	ctx := withOptions(context.Background(), &options{tenants: []schema.Tenant{"t1", "t2"}})
	for _, limit := range []int{0, 7} {
		q, err := w.reader.Querier(math.MinInt64, math.MaxInt64)
		require.NoError(t, err)
		set := q.Select(ctx, true, &storage.SelectHints{Limit: limit, Start: math.MinInt64, End: math.MaxInt64}, labels.MustNewMatcher(labels.MatchRegexp, "x", ".*"))
		var got []labels.Labels
		for set.Next() {
			ls := set.At().Labels()
			if n := len(got); n > 0 {
				require.Negative(t, labels.Compare(got[n-1], ls), "%s before %s", got[n-1], ls)
			}
			require.NotEmpty(t, ls.Get(tenantLabel))
			got = append(got, ls)
		}
		require.NoError(t, set.Err())
		require.NoError(t, q.Close())
		if limit > 0 {
			require.Len(t, got, limit)
			continue
		}
		// Series that get the same labels, as they have both names of the label, are one.
		want := map[string]bool{}
		b := labels.NewBuilder(labels.EmptyLabels())
		for _, tenant := range []schema.Tenant{"t1", "t2"} {
			for _, ls := range series {
				want[withTenant(b, ls, tenant).String()] = true
			}
		}
		require.Len(t, got, len(want))
	}
	q, err := w.reader.Querier(0, 1)
	require.NoError(t, err)
	require.NoError(t, q.Close())
	require.Error(t, q.Select(ctx, false, nil, everything).Err())
}
