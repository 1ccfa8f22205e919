package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/stretchr/testify/require"

	"sluice/bench/queries"
	"sluice/internal/log"
	"sluice/internal/plan"
	"sluice/schema"
)

// askData gets what an endpoint of a mux answers as data.
func askData[T any](t *testing.T, mux *http.ServeMux, tenant, path string) (data T) {
	t.Helper()
	req := httptest.NewRequest(http.MethodGet, path, nil)
	req.Header.Set(schema.TenantHeader, tenant)
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, req)
	require.Equal(t, http.StatusOK, w.Code, w.Body.String())
	var answer struct{ Data json.RawMessage }
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &answer))
	require.NoError(t, json.Unmarshal(answer.Data, &data), string(answer.Data))
	return data
}

type tenantsAnswer struct {
	Total   int
	Tenants []struct {
		Tenant                   string
		Series                   int64   `json:"active_series"`
		HeadSeries               int64   `json:"head_series"`
		Samples                  float64 `json:"samples_per_second"`
		Blocks, Rejected, Oldest int64
		BlockBytes               int64 `json:"block_bytes"`
		BlockSamples             int64 `json:"block_samples"`
		LastRejected             int64 `json:"last_rejected"`
	}
}

type tenantAnswer struct {
	Limits  map[string]any
	Usage   map[string]float64
	Top     []struct{ Name string } `json:"top_metrics"`
	Rejects []struct {
		Reason, Series, Message string
		Count, Processes        int64
	}
}

type blocksAnswer struct {
	Total  int
	Blocks []struct {
		ID, State       string
		Series, Samples uint64
		Bytes           int64
		Partitions      []int32
		Quarantined     *struct{ Reason, By string }
	}
	Jobs []struct {
		Blocks     []string
		Why, State string
		Due, End   int64
	}
}

// TestTenantsThroughTheLog: what a producer, a consumer and a compactor know of tenants and their blocks is told by a reader
// that shares nothing with them but the log.
func TestTenantsThroughTheLog(t *testing.T) {
	in, stop := startInstallation(t, t.TempDir(), "overrides: {acme: {max_label_names_per_series: 3}}", "--compactor.interval", "100ms", "--compactor.settle", "1ms")
	begin := time.Now().Add(-48 * time.Hour).Truncate(24 * time.Hour)
	at := func(tenant string, from time.Duration, bad int) {
		var samples []queries.Sample
		for i := range 20 {
			for s := range 3 {
				samples = append(samples, queries.Sample{
					Series: labels.FromStrings("__name__", "m", "i", fmt.Sprint(i)), T: begin.Add(from + time.Duration(s)*time.Second).UnixMilli(), V: 1,
				})
			}
		}
		if bad == 0 {
			in.push(schema.Tenant(tenant), samples)
			return
		}
		for i := range bad {
			samples = append(samples, queries.Sample{Series: labels.FromStrings("__name__", "m", "a", fmt.Sprint(i), "b", "b", "c", "c"), T: begin.UnixMilli(), V: 1})
		}
		body, err := queries.Request(samples)
		require.NoError(t, err)
		req := httptest.NewRequest(http.MethodPost, "/api/v1/push", bytes.NewReader(snappy.Encode(nil, body)))
		for k, v := range map[string]string{
			"Content-Type": "application/x-protobuf;proto=io.prometheus.write.v2.Request", "Content-Encoding": "snappy", schema.TenantHeader: tenant,
		} {
			req.Header.Set(k, v)
		}
		w := httptest.NewRecorder()
		in.process.mux.ServeHTTP(w, req)
		require.Equal(t, http.StatusBadRequest, w.Code, w.Body.String())
	}
	at("acme", 0, 2)
	at("bravo", 0, 0)

	var acme tenantAnswer
	in.eventually(func() error {
		acme = askData[tenantAnswer](t, in.farMux, "acme", "/prometheus/api/v1/status/tenant")
		if len(acme.Rejects) == 0 || acme.Usage["ingestion_rate"] == 0 || acme.Usage["max_global_series_per_user"] < 20 {
			return fmt.Errorf("not told yet: %+v", acme)
		}
		return nil
	})
	require.Equal(t, string(schema.ErrTooManyLabels), acme.Rejects[0].Reason)
	require.Equal(t, []int64{2, 1}, []int64{acme.Rejects[0].Count, acme.Rejects[0].Processes})
	require.Contains(t, acme.Rejects[0].Series, `b="b"`)
	require.Contains(t, acme.Rejects[0].Message, "4 label")
	require.EqualValues(t, 3, acme.Limits["max_label_names_per_series"])
	require.EqualValues(t, 20, acme.Usage["max_global_series_per_metric"])
	require.Equal(t, "m", acme.Top[0].Name)
	require.Empty(t, askData[tenantAnswer](t, in.farMux, "bravo", "/api/v1/status/tenant").Rejects)

	in.ship(in.seal())
	at("acme", 30*time.Minute, 1)
	in.ship(in.seal())
	checkBlocks(in, "acme", 4)
	checkQuarantine(in, "acme")
	all := askData[tenantsAnswer](t, in.farMux, "", "/-/tenants?sort=block_bytes")
	require.Equal(t, 2, all.Total)
	require.Equal(t, "acme", all.Tenants[0].Tenant)
	require.EqualValues(t, []int64{4, 120}, []int64{all.Tenants[0].Blocks, all.Tenants[0].BlockSamples})
	require.Equal(t, begin.UnixMilli(), all.Tenants[0].Oldest)
	require.Equal(t, 1, askData[tenantsAnswer](t, in.farMux, "", "/-/tenants?search=rav").Total)
	require.Empty(t, askData[tenantsAnswer](t, in.farMux, "", "/-/tenants?offset=2").Tenants)

	in.compact([]schema.Tenant{"acme", "bravo"})
	merged := checkBlocks(in, "acme", 1)
	replaced := askData[blocksAnswer](t, in.farMux, "acme", "/api/v1/status/blocks?all=true").Blocks
	require.Len(t, replaced, 5)
	for _, b := range replaced {
		whole := askData[struct {
			State, ReplacedBy string
			Files             []schema.BlockFile
			By                string `json:"replaced_by"`
			Replaces          []string
		}](t, in.farMux, "acme", "/api/v1/status/blocks/"+b.ID)
		require.NotEmpty(t, whole.Files)
		if b.ID == merged.Blocks[0].ID {
			require.Equal(t, "live", whole.State)
			require.Len(t, whole.Replaces, 4)
		} else {
			require.Equal(t, "replaced", b.State)
			require.Equal(t, []string{"replaced", merged.Blocks[0].ID}, []string{whole.State, whole.By})
		}
	}
	stop()
}

// checkBlocks holds what the far reader says of the tenant's blocks against the catalogue.
func checkBlocks(in *installation, tenant string, want int) (answer blocksAnswer) {
	in.t.Helper()
	in.eventually(func() error {
		known := in.process.catalog.Blocks(schema.Tenant(tenant))
		answer = askData[blocksAnswer](in.t, in.farMux, tenant, "/prometheus/api/v1/status/blocks")
		if len(known) != want || answer.Total != want {
			return fmt.Errorf("%d blocks in the catalogue, %d in the answer, want %d", len(known), answer.Total, want)
		}
		for i, b := range answer.Blocks {
			e := known[want-1-i]
			require.Equal(in.t, []any{e.ID.String(), e.Series, e.Samples, e.Bytes}, []any{b.ID, b.Series, b.Samples, b.Bytes})
		}
		return nil
	})
	require.Equal(in.t, min(1, want), len(askData[blocksAnswer](in.t, in.farMux, tenant, "/api/v1/status/blocks?limit=1").Blocks))
	newest := in.process.catalog.Blocks(schema.Tenant(tenant))[want-1]
	later := fmt.Sprintf("/api/v1/status/blocks?start=%f", float64(newest.MaxTime)/1000)
	require.Zero(in.t, askData[blocksAnswer](in.t, in.farMux, tenant, later).Total)
	return answer
}

// checkQuarantine sets one of the blocks aside, and lifts it: meanwhile it is shown, and in no job.
func checkQuarantine(in *installation, tenant string) {
	in.t.Helper()
	jobs := askData[blocksAnswer](in.t, in.process.mux, tenant, "/api/v1/status/blocks").Jobs
	require.Len(in.t, jobs, 1)
	require.Equal(in.t, "ready", jobs[0].State)
	require.Equal(in.t, "4 blocks in the window of 24 h overlap in time (2 partitions)", jobs[0].Why)
	e := in.process.catalog.Blocks(schema.Tenant(tenant))[0]
	note := func(value string) {
		in.t.Helper()
		key := plan.QuarantineKey(plan.BlockKey{Tenant: schema.Tenant(tenant), ID: e.ID})
		require.NoError(in.t, in.process.log.Append(in.t.Context(), log.TopicControl, []log.Record{{Key: []byte(key), Value: []byte(value)}}))
	}
	note(fmt.Sprintf(`{"at":%d,"by":"c#1","cause":"index torn"}`, time.Now().UnixMilli()))
	var found string
	in.eventually(func() error {
		found = ""
		answer := askData[blocksAnswer](in.t, in.farMux, tenant, "/api/v1/status/blocks")
		for _, b := range answer.Blocks {
			if b.Quarantined != nil {
				found += b.ID + " " + b.Quarantined.By + ": " + b.Quarantined.Reason
			}
		}
		if found == "" {
			return fmt.Errorf("no block is set aside")
		}
		for _, j := range answer.Jobs {
			require.NotContains(in.t, strings.Join(j.Blocks, " "), e.ID.String())
		}
		return nil
	})
	require.Equal(in.t, e.ID.String()+" c: index torn", found)
	note("")
	in.eventually(func() error {
		for _, b := range askData[blocksAnswer](in.t, in.farMux, tenant, "/api/v1/status/blocks").Blocks {
			if b.Quarantined != nil {
				return fmt.Errorf("block %s is set aside still", b.ID)
			}
		}
		return nil
	})
}

// TestPlanSettings: a process without a compactor plans as the one does that has planned last, if that makes sense.
func TestPlanSettings(t *testing.T) {
	p := mounted(t)
	require.Equal(t, p.compactor.Settings(), p.planSettings())
	p.compactor = nil
	require.Equal(t, plan.Default(), p.planSettings())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.control.Run(ctx) }()
	for i, c := range []string{
		`{"looked":5,"settle":7,"ranges":[10,20],"max_job_bytes":3,"max_job_series":4}`, `{"looked":4,"settle":8,"ranges":[10]}`, `{"looked":9,"ranges":[0]}`,
	} {
		value := fmt.Sprintf(`{"id":"c%d","stages":["compactor"],"compactor":%s}`, i, c)
		rec := log.Record{Key: fmt.Appendf(nil, "process/c%d/compactor", i), Value: []byte(value)}
		require.NoError(t, p.log.Append(t.Context(), log.TopicControl, []log.Record{rec}))
	}
	require.NoError(t, p.processes.Sync(t.Context()))
	require.Equal(t, plan.Config{Ranges: []int64{10, 20}, Settle: 7, MaxJobBytes: 3, MaxJobSeries: 4}, p.planSettings())
	cancel()
	require.NoError(t, <-done)
}
