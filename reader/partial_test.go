package reader

import (
	"bytes"
	"net/http"
	"net/url"
	"testing"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
	"github.com/stretchr/testify/require"

	"sluice/internal/fetch"
	"sluice/internal/log"
	"sluice/internal/web"
	"sluice/schema"
)

// TestWholeOrNot: on every endpoint that looks at data an answer is whole, or an error, or says what is missing when that
// was asked for, in the URL as in a form; and a strong one waits.
func TestWholeOrNot(t *testing.T) {
	w := newWorld(t, nil, web.Tenancy{})
	w.log.bounds = []log.Bounds{{End: 100}, {End: 100}}
	w.sources["c"] = &fakeSource{held: map[int32]int64{0: 0}, data: newData(t, map[string][]sample{"a": {{60_000, 1}}}), applied: fetch.Applied{0: 90}}
	gone := &fakeSource{err: schema.Unavailable(schema.ErrPartitionUnavailable, nil, "partition 1 is replaying")}
	w.sources["d"] = gone
	w.dir[0], w.dir[1] = []string{"c"}, []string{"d"}
	base := serve(t, w)

	form := url.Values{"query": {"m"}, "match[]": {"m"}, "start": {"0"}, "end": {"60"}, "time": {"60"}, "step": {"60"}, "label_names[]": {"s"}, "selector": {"m"}}
	for _, e := range []struct {
		path string
		post bool
		room bool // for warnings
	}{
		{"/api/v1/query", true, true}, {"/api/v1/query_range", true, true}, {"/api/v1/series", true, true}, {"/api/v1/labels", true, true},
		{"/api/v1/label/s/values", false, true}, {"/api/v1/query_exemplars", true, false}, {"/federate", false, false},
	} {
		asked := []func(more url.Values) reply{func(more url.Values) reply { return get(t, base+e.path+"?"+form.Encode()+"&"+more.Encode()) }}
		if e.post {
			asked = append(asked, func(more url.Values) reply {
				all := url.Values{}
				for _, values := range []url.Values{form, more} {
					for k, v := range values {
						all[k] = v
					}
				}
				return post(t, base+e.path, all)
			}, func(more url.Values) reply { return post(t, base+e.path+"?"+more.Encode(), form) })
		}
		for _, ask := range asked {
			got := ask(nil)
			require.Equal(t, 503, got.code, "%s: %s", e.path, got.body)
			require.Contains(t, got.body, "partition 1", e.path)
			got = ask(url.Values{"partial_response": {"false"}})
			require.Equal(t, 503, got.code, e.path)
			got = ask(url.Values{"partial_response": {"true"}})
			require.Equal(t, 200, got.code, "%s: %s", e.path, got.body)
			require.Equal(t, "1", got.header.Get(partialHeader), e.path)
			if e.room {
				require.Len(t, got.json.Warnings, 1, e.path)
				require.Contains(t, got.json.Warnings[0], "partition 1", e.path)
			}
		}
		// Partition 0 is applied up to 90 of 100: a strong answer is none. It waits, so the reader is told not to.
		got := get(t, base+e.path+"?"+form.Encode()+"&partial_response=true", consistencyHeader, "sometimes")
		require.Equal(t, 400, got.code, e.path)
	}
	query := &prompb.Query{EndTimestampMs: 1_000_000, Matchers: []*prompb.LabelMatcher{{Name: "__name__", Value: "m"}}}
	body, err := (&prompb.ReadRequest{Queries: []*prompb.Query{query}}).Marshal()
	require.NoError(t, err)
	read := func(more string) reply {
		req, err := http.NewRequest(http.MethodPost, base+"/api/v1/read"+more, bytes.NewReader(snappy.Encode(nil, body)))
		require.NoError(t, err)
		req.Header.Set(schema.TenantHeader, "acme")
		return do(t, req)
	}
	got := read("")
	require.Equal(t, 503, got.code, got.body)
	got = read("?partial_response=true")
	require.Equal(t, 200, got.code, got.body)
	require.Equal(t, "1", got.header.Get(partialHeader))

	gone.err, gone.held, gone.data, gone.applied = nil, map[int32]int64{1: 0}, newData(t, nil), fetch.Applied{1: 100}
	w.reader.cfg.StrongTimeout = 1 // ns
	for _, path := range []string{"/api/v1/query", "/api/v1/query_range", "/api/v1/series", "/api/v1/labels", "/api/v1/label/s/values", "/federate"} {
		require.Equal(t, 200, get(t, base+path+"?"+form.Encode()).code, path)
		got := get(t, base+path+"?"+form.Encode(), consistencyHeader, consistencyStrong)
		require.Equal(t, 503, got.code, "%s: %s", path, got.body)
		require.Contains(t, got.body, schema.ErrStrongRead, path)
	}
}
