package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/stretchr/testify/require"

	"sluice/consumer/store"
	"sluice/reader/eval"
)

const (
	benchSeries   = 40_000
	benchSamples  = 100
	benchInterval = 15_000
	benchStart    = 1_700_000_000_000 / 7_200_000 * 7_200_000
)

// benchLabels are those of container metrics: 12 labels, 300 bytes; half of all series have one name.
func benchLabels(i int) labels.Labels {
	name := "container_cpu_usage_seconds_total"
	if i%2 == 0 {
		name = fmt.Sprint("container_other_", i%34, "_total")
	}
	pod := i / 17 % 2000
	return labels.FromStrings("__name__", name, "namespace", fmt.Sprint("namespace-", pod%25), "pod", fmt.Sprintf("deployment-%d-7c9f8b6d5-%05x", pod%300, pod),
		"container", fmt.Sprint("container-", i%17), "cluster", "production-eu-central-1", "node", fmt.Sprintf("ip-10-0-%d-%d.eu-central-1.compute.internal", pod%4, pod%200),
		"image", fmt.Sprintf("registry.example.com/team/service-%d:v1.%d.0", pod%300, pod%7), "job", "kubelet", "endpoint", "https-metrics", "metrics_path", "/metrics/cadvisor", "cpu", "total", "id", fmt.Sprint("/kubepods/burstable/", i))
}

func benchValue(rnd *rand.Rand, i, j int) float64 {
	return float64(i*1000+j*17) + float64(rnd.IntN(15))
}

// cpu returns the time that the process has had.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

type headStore struct{ head *store.Head }

func (h headStore) Querier(mint, maxt int64) (storage.Querier, error) {
	return h.head.Querier(mint, maxt), nil
}

func benchStores(b *testing.B) (*tsdb.Head, *store.Head) {
	opts := tsdb.DefaultHeadOptions()
	opts.ChunkDirRoot = b.TempDir()
	theirs, err := tsdb.NewHead(nil, nil, nil, nil, opts, nil)
	require.NoError(b, err)
	b.Cleanup(func() { theirs.Close() })
	require.NoError(b, theirs.Init(0))
	ours := store.New(7_200_000)
	rnd := rand.New(rand.NewPCG(1, 1))
	refs := make([]storage.SeriesRef, benchSeries)
	own := make([]uint32, benchSeries)
	lsets := make([]labels.Labels, benchSeries)
	for i, j := range rnd.Perm(benchSeries) {
		lsets[i] = benchLabels(j)
	}
	for j := range benchSamples {
		app := theirs.Appender(context.Background())
		ours.Begin()
		for i := range benchSeries {
			ts, v := int64(benchStart+j*benchInterval+i%1000), benchValue(rnd, i, j)
			refs[i], err = app.Append(refs[i], lsets[i], ts, v)
			require.NoError(b, err)
			if own[i] == 0 {
				own[i] = ours.Add(lsets[i])
			}
			require.NoError(b, ours.Float(own[i], 0, ts, v))
		}
		ours.End()
		require.NoError(b, app.Commit())
	}
	return theirs, ours
}

// BenchmarkQueries asks Prometheus over its head and ours over ours.
func BenchmarkQueries(b *testing.B) {
	theirs, ours := benchStores(b)
	step := func(int64) int64 { return 60_000 }
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 50_000_000, Timeout: time.Minute, NoStepSubqueryIntervalFn: step})
	fast := eval.New(eval.Config{MaxSamples: 50_000_000, NoStepSubqueryInterval: step}, engine, nil)
	end := time.UnixMilli(benchStart + benchSamples*benchInterval)
	for _, q := range []struct {
		name, qs string
		length   time.Duration
	}{
		{"instant-sum-rate-20k", `sum by (namespace) (rate(container_cpu_usage_seconds_total[5m]))`, 0},
		{"instant-topk-rate-20k", `topk(10, rate(container_cpu_usage_seconds_total[5m]))`, 0},
		{"instant-sum-20k", `sum by (pod) (container_cpu_usage_seconds_total)`, 0},
		{"range-sum-rate-20k", `sum by (namespace) (rate(container_cpu_usage_seconds_total[5m]))`, 20 * time.Minute},
		{"range-rate-1k", `rate(container_other_4_total[5m])`, 20 * time.Minute},
		{"range-raw-70", `container_other_4_total{namespace="namespace-3"}`, 20 * time.Minute},
		{"instant-one", `rate(container_other_4_total{pod="deployment-3-7c9f8b6d5-00003"}[5m])`, 0},
	} {
		ask := func(b *testing.B, e promql.QueryEngine, s storage.Queryable) {
			b.ReportAllocs()
			before := cpu()
			defer func() { b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N)/1000, "cpu-ms/op") }()
			for b.Loop() {
				var query promql.Query
				var err error
				if q.length == 0 {
					query, err = e.NewInstantQuery(context.Background(), s, nil, q.qs, end)
				} else {
					query, err = e.NewRangeQuery(context.Background(), s, nil, q.qs, end.Add(-q.length), end, 15*time.Second)
				}
				require.NoError(b, err)
				res := query.Exec(context.Background())
				require.NoError(b, res.Err)
				query.Close()
			}
		}
		b.Run(q.name+"/prometheus", func(b *testing.B) {
			ask(b, engine, storage.QueryableFunc(func(mint, maxt int64) (storage.Querier, error) {
				return tsdb.NewBlockQuerier(tsdb.NewRangeHead(theirs, mint, maxt), mint, maxt)
			}))
		})
		b.Run(q.name+"/prometheus-engine-our-head", func(b *testing.B) { ask(b, engine, headStore{ours}) })
		b.Run(q.name+"/ours", func(b *testing.B) { ask(b, fast, headStore{ours}) })
	}
}
