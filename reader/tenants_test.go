package reader

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"

	"sluice/internal/catalog"
	"sluice/internal/ha"
	"sluice/internal/limits"
	"sluice/internal/log"
	"sluice/internal/plan"
	"sluice/internal/usage"
	"sluice/internal/web"
	"sluice/internal/writes"
	"sluice/schema"
)

// knowing is a reader on an embedded log, with all that it tells of tenants.
type knowing struct {
	*world
	log   log.Log
	known Known
	mux   *http.ServeMux
}

func newKnowing(t testing.TB, tenancy web.Tenancy) *knowing {
	logger := slog.New(slog.DiscardHandler)
	l, err := log.OpenEmbedded(log.EmbeddedConfig{Dir: t.TempDir(), Partitions: 1, Fsync: log.FsyncOff}, logger, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	lim, err := limits.New(limits.Config{}, logger, nil)
	require.NoError(t, err)
	control := log.NewTable(l, log.TopicControl)
	tracker, err := ha.New(ha.Config{Instance: "reader"}, l, control, logger, nil)
	require.NoError(t, err)
	k := &knowing{world: newWorld(t, nil, tenancy), log: l, mux: http.NewServeMux(), known: Known{
		Catalog: catalog.New(l, logger, nil), Usage: usage.NewCounts(control, logger), Writes: writes.NewTable(control, logger), HA: tracker,
		Merges: NewMerges(control, logger), Limits: lim, Plan: plan.Default,
	}}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, run := range []func(context.Context) error{l.Run, k.known.Catalog.Run, control.Run, tracker.Run} {
		wg.Go(func() { _ = run(ctx) })
	}
	t.Cleanup(func() { cancel(); wg.Wait() })
	k.reader.ShowTenants(k.known)
	k.reader.Register(k.mux)
	return k
}

// add puts a block into the catalogue.
func (k *knowing) add(t testing.TB, entries ...schema.BlockEntry) {
	t.Helper()
	for i := range entries {
		entries[i].State = schema.BlockLive
	}
	require.NoError(t, k.known.Catalog.Add(t.Context(), entries, nil))
	require.NoError(t, k.known.Catalog.Sync(t.Context()))
}

func (k *knowing) control(t testing.TB, recs ...log.Record) {
	t.Helper()
	require.NoError(t, k.log.Append(t.Context(), log.TopicControl, recs))
	for _, sync := range []func(context.Context) error{k.known.Usage.Sync, k.known.Writes.Sync, k.known.HA.Sync, k.known.Merges.Sync} {
		require.NoError(t, sync(t.Context()))
	}
}

func (k *knowing) get(t testing.TB, tenant, path string) (code int, body map[string]any) {
	t.Helper()
	req := httptest.NewRequest(http.MethodGet, path, nil)
	if tenant != "" {
		req.Header.Set(schema.TenantHeader, tenant)
	}
	w := httptest.NewRecorder()
	k.mux.ServeHTTP(w, req)
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &body), w.Body.String())
	data, _ := body["data"].(map[string]any)
	if data != nil {
		body = data
	}
	return w.Code, body
}

// names are the tenants of an answer of /-/tenants.
func names(body map[string]any) (list []string) {
	for _, t := range body["tenants"].([]any) {
		list = append(list, t.(map[string]any)["tenant"].(string))
	}
	return list
}

const many = 10_000

// TestManyTenants: every tenant that any source knows, once, in the order that was asked for.
func TestManyTenants(t *testing.T) {
	k := newKnowing(t, web.Tenancy{})
	_, body := k.get(t, "", "/-/tenants")
	require.Equal(t, []any{}, body["tenants"])
	k.fill(t, many)
	code, body := k.get(t, "", "/-/tenants?limit=3")
	require.Equal(t, 200, code)
	require.EqualValues(t, many+1, body["total"])
	require.Equal(t, []string{"t9999", "t9998", "t9997"}, names(body))
	row := body["tenants"].([]any)[0].(map[string]any)
	require.EqualValues(t, map[string]any{
		"tenant": "t9999", "active_series": 10000.0, "head_series": 9999.0, "samples_per_second": 1.0, "blocks": 1.0, "block_bytes": 1.0,
		"block_samples": 7.0, "oldest": 1000.0, "newest": 2000.0, "rejected": 0.0, "last_rejected": 0.0,
	}, row)
	for query, want := range map[string][]string{
		"sort=tenant&limit=2":                     {"only-refused", "t0000"},
		"sort=block_bytes&limit=2":                {"t0000", "t0001"},
		"sort=samples_per_second&limit=1":         {"t0000"},
		"sort=rejected&limit=1":                   {"only-refused"},
		"search=t999&sort=tenant&offset=8":        {"t9998", "t9999"},
		"search=nobody":                           nil,
		"offset=999999":                           nil,
		"search=999&sort=active_series&limit=1":   {"t9999"},
		"sort=tenant&offset=10000&search=&limit=": {"t9999"},
	} {
		_, body := k.get(t, "", "/-/tenants?"+query)
		require.Equal(t, want, names(body), query)
	}
	for _, bad := range []string{"limit=-1", "limit=10001", "limit=x", "offset=-1", "sort=size"} {
		code, body := k.get(t, "", "/-/tenants?"+bad)
		require.Equal(t, 400, code, bad)
		require.Equal(t, "bad_data", body["errorType"])
	}
}

// fill makes n tenants known to all sources, and one to the producers alone.
func (k *knowing) fill(t testing.TB, n int) {
	var entries []schema.BlockEntry
	var recs []log.Record
	recs = append(recs, log.Record{Key: []byte("writes/beat//p"), Value: []byte(`{"run":1}`)}, log.Record{Key: []byte("usage/0///c"), Value: []byte(`{"run":1}`)})
	for i := range n {
		e := schema.BlockEntry{Tenant: schema.Tenant(fmt.Sprintf("t%04d", i)), MinTime: 1000, MaxTime: 2000, Bytes: int64(n - i), Samples: 7}
		e.ID[14], e.ID[15] = byte(i>>8), byte(i)
		entries = append(entries, e)
		recs = append(recs,
			log.Record{Key: fmt.Appendf(nil, "usage/0/%s//c", e.Tenant), Value: fmt.Appendf(nil, `{"run":1,"series":%d,"in_heads":%d,"metrics":{"m":%d}}`, i+1, i, i+1)},
			log.Record{Key: fmt.Appendf(nil, "writes/rates/%s/p", e.Tenant), Value: fmt.Appendf(nil, `{"run":1,"rates":{"samples":%d}}`, n-i)})
	}
	recs = append(recs, log.Record{Key: []byte("writes/rejects/only-refused/p"), Value: []byte(`{"run":1,"rejects":[{"reason":"err-x","count":3,"first":1,"last":2,"message":"m"}]}`)})
	k.add(t, entries...)
	k.control(t, recs...)
}

func BenchmarkTenants(b *testing.B) {
	k := newKnowing(b, web.Tenancy{})
	k.fill(b, many)
	b.ReportAllocs()
	for b.Loop() {
		w := httptest.NewRecorder()
		k.mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/-/tenants?limit=100", nil))
		require.Equal(b, 200, w.Code)
	}
}

func TestBlocksOfTenant(t *testing.T) {
	k := newKnowing(t, web.Tenancy{})
	const h = int64(3600 * 1000)
	start := k.reader.now().Add(-72*time.Hour).UnixMilli() / (24 * h) * 24 * h
	id := func(n byte) ulid.ULID { return ulid.ULID{15: n} }
	block := func(n byte, from int64, partition int32) schema.BlockEntry {
		return schema.BlockEntry{
			ID: id(n), Tenant: "acme", Level: 1, MinTime: start + from, MaxTime: start + from + h, At: start + from + h, LogFrom: int64(n), Bytes: 10, Series: 2,
			Ranges: []schema.LogRange{{TopicID: "topic", Partition: partition, From: 10, To: 20}}, Files: []schema.BlockFile{{Path: "index", Size: 10}},
		}
	}
	list := []schema.BlockEntry{block(1, 0, 0), block(2, 0, 1), block(3, h, 0), block(4, 30*h, 0)}
	k.add(t, list...)
	shown := func(query string) (ids []string, body map[string]any) {
		code, body := k.get(t, "acme", "/api/v1/status/blocks"+query)
		require.Equal(t, 200, code, body)
		for _, b := range body["blocks"].([]any) {
			ids = append(ids, b.(map[string]any)["id"].(string))
		}
		return ids, body
	}
	ids, body := shown("")
	require.Equal(t, []string{id(4).String(), id(3).String(), id(2).String(), id(1).String()}, ids, "the newest first")
	require.Equal(t, []any{}, body["too_large"])
	jobs := body["jobs"].([]any)
	require.Len(t, jobs, 1)
	job := jobs[0].(map[string]any)
	require.Equal(t, []any{"ready", "3 blocks in the window of 24 h overlap in time (2 partitions)", 30.0, 6.0}, []any{job["state"], job["why"], job["bytes"], job["series"]})

	ids, body = shown("?limit=1")
	require.Len(t, ids, 1)
	require.EqualValues(t, 4, body["total"])
	ids, _ = shown(fmt.Sprintf("?start=%d&end=%d", (start+h)/1000, (start+2*h)/1000))
	require.Equal(t, []string{id(3).String()}, ids, "the end of a block is behind its last sample")
	_, body = k.get(t, "nobody", "/api/v1/status/blocks")
	require.Equal(t, []any{}, body["blocks"])
	require.Equal(t, []any{}, body["jobs"])

	live := k.known.Catalog.Blocks("acme")
	k.control(t,
		log.Record{Key: []byte("lease/" + plan.LeasePrefix + plan.ID("acme", live[:3])), Value: []byte(`{"v":1,"holder":"c-0#abc","ttl_ms":3600000,"seq":1}`)},
		log.Record{Key: []byte("unreadable/quarantine")}, log.Record{Key: []byte("quarantine/acme/what"), Value: []byte("{}")})
	_, body = shown("")
	job = body["jobs"].([]any)[0].(map[string]any)
	require.Equal(t, []any{"running", "c-0"}, []any{job["state"], job["by"]})
	require.Zero(t, k.known.Merges.aside.Count(k.reader.now()))

	for path, want := range map[string]int{
		"/" + id(1).String(): 200, "/" + id(9).String(): 404, "/nonsense": 400, "?start=x": 400, "?end=x": 400, "?limit=-1": 400, "?all=perhaps": 400, "?all=0": 200,
		"?start=5&end=4": 400, "?start=5&end=5": 200,
	} {
		code, body := k.get(t, "acme", "/prometheus/api/v1/status/blocks"+path)
		require.Equal(t, want, code, path)
		if code == 404 {
			require.Contains(t, body["error"], schema.ErrBlockNotFound)
		}
	}
	_, body = k.get(t, "acme", "/api/prom/api/v1/status/blocks/"+id(1).String())
	require.Equal(t, []any{"live", "acme/" + id(1).String()}, []any{body["state"], body["folder"]})
	code, _ := k.get(t, "bravo", "/api/v1/status/blocks/"+id(1).String())
	require.Equal(t, 404, code, "another tenant's")
}

// TestGapsOfBlock: the gaps in what a block holds of the log, and no others.
func TestGapsOfBlock(t *testing.T) {
	k := newKnowing(t, web.Tenancy{})
	gap := func(topic string, from, to int64) schema.Gap {
		return schema.Gap{LogRange: schema.LogRange{TopicID: topic, Partition: 0, From: from, To: to}, Reason: schema.GapRetention}
	}
	e := schema.BlockEntry{ID: ulid.ULID{15: 1}, Tenant: "acme", State: schema.BlockLive, Ranges: []schema.LogRange{{TopicID: "a", From: 10, To: 20}}}
	require.NoError(t, k.known.Catalog.Add(t.Context(), []schema.BlockEntry{e}, map[int32]schema.PartitionState{
		0: {TopicID: "a", To: 30, Gaps: []schema.Gap{gap("a", 5, 10), gap("a", 12, 14), gap("b", 12, 14), gap("a", 20, 22)}},
	}))
	require.NoError(t, k.known.Catalog.Sync(t.Context()))
	_, body := k.get(t, "acme", "/api/v1/status/blocks/"+e.ID.String())
	gaps := body["gaps"].([]any)
	require.Len(t, gaps, 1)
	require.EqualValues(t, 12, gaps[0].(map[string]any)["from"])
}

func TestStatusOfTenant(t *testing.T) {
	k := newKnowing(t, web.Tenancy{Required: true})
	k.control(t,
		log.Record{Key: []byte("usage/0///c"), Value: []byte(`{"run":1}`)},
		log.Record{Key: []byte("usage/0/acme//c"), Value: []byte(`{"run":1,"series":30,"metrics":{"a":20,"b":10}}`)},
		log.Record{Key: []byte("writes/beat//p"), Value: []byte(`{"run":1}`)}, log.Record{Key: []byte("writes/beat//q"), Value: []byte(`{"run":2}`)},
		log.Record{Key: []byte("writes/rates/acme/p"), Value: []byte(`{"run":1,"rates":{"samples":1.5,"requests":1}}`)},
		log.Record{Key: []byte("writes/rates/acme/q"), Value: []byte(`{"run":2,"rates":{"samples":2,"histograms":2}}`)},
		log.Record{Key: []byte("writes/rejects/acme/q"), Value: []byte(`{"run":2,"rejects":[{"reason":"err-x","count":3,"first":1,"last":2,"series":"{}","message":"m"}]}`)},
		log.Record{Key: []byte("ha/elect/acme/prod"), Value: []byte(`{"v":1,"replica":"r1","epoch":4,"timeout_ms":30000,"seen":5,"claim":0,"since":5}`)},
		log.Record{Key: []byte("ha/elect/other/prod"), Value: []byte(`{"v":1,"replica":"r9","epoch":1,"timeout_ms":30000,"seen":5,"claim":1,"since":5}`)},
	)
	code, body := k.get(t, "acme", "/api/v1/status/tenant")
	require.Equal(t, 200, code)
	require.Equal(t, map[string]any{
		"ingestion_rate": 3.5, "native_histogram_ingestion_rate": 2.0, "request_rate": 1.0, "max_global_series_per_user": 30.0, "max_global_series_per_metric": 20.0,
	}, body["usage"])
	require.Equal(t, []any{map[string]any{"name": "a", "series": 20.0}, map[string]any{"name": "b", "series": 10.0}}, body["top_metrics"])
	require.Equal(t, []any{map[string]any{"reason": "err-x", "count": 3.0, "first": 1.0, "last": 2.0, "series": "{}", "message": "m", "processes": 1.0}}, body["rejects"])
	require.Equal(t, []any{map[string]any{"cluster": "prod", "replica": "r1", "elected_at": 5.0, "received_at": 5.0, "failover_timeout": 30.0, "epoch": 4.0}}, body["ha"])
	require.EqualValues(t, 30, body["limits"].(map[string]any)["max_label_names_per_series"])
	require.Equal(t, map[string]any{"class": "", "override": false}, body["source"])
	code, body = k.get(t, "nobody-yet", "/api/v1/status/tenant")
	require.Equal(t, 200, code)
	require.Equal(t, []any{[]any{}, []any{}, []any{}}, []any{body["rejects"], body["ha"], body["top_metrics"]})
	code, _ = k.get(t, "", "/api/v1/status/tenant")
	require.Equal(t, 401, code)
	code, body = k.get(t, "a|b", "/api/v1/status/tenant")
	require.Equal(t, 400, code)
	require.Contains(t, body["error"], schema.ErrTenantInvalid)
	federated := newKnowing(t, web.Tenancy{MaxFederated: 5})
	for _, path := range []string{"/api/v1/status/tenant", "/api/v1/status/blocks"} {
		code, body = federated.get(t, "a|b", path)
		require.Equal(t, 400, code)
		require.EqualValues(t, "this is about one tenant at a time, not 2 ("+schema.ErrDecode+")", body["error"])
	}
}
