package e2e

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"sluice/bench/ledger"
	"sluice/schema"
)

// kafka starts a broker in this process and returns the flags that point to it.
func kafka(t *testing.T) (*kfake.Cluster, []string) {
	t.Helper()
	broker, err := kfake.NewCluster(kfake.NumBrokers(1))
	require.NoError(t, err)
	t.Cleanup(broker.Close)
	return broker, []string{"--kafka.brokers", strings.Join(broker.ListenAddrs(), ",")}
}

// number is an integer from the environment.
func number(t *testing.T, env string, normally int) int {
	t.Helper()
	s := os.Getenv(env)
	if s == "" {
		return normally
	}
	n, err := strconv.Atoi(s)
	require.NoError(t, err, env)
	return n
}

// latencies are durations of one kind of request.
type latencies struct {
	mu     sync.Mutex
	took   []time.Duration // guarded by mu
	failed []error         // guarded by mu
}

func (l *latencies) add(d time.Duration, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.failed = append(l.failed, err)
		return
	}
	l.took = append(l.took, d)
}

// quantile in milliseconds; of few requests it is rather the slower of two.
func (l *latencies) quantile(q float64) float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.took) == 0 {
		return 0
	}
	slices.Sort(l.took)
	return float64(l.took[int(math.Ceil(q*float64(len(l.took)-1)))].Microseconds()) / 1000
}

func (l *latencies) counts() (ok, failed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.took), len(l.failed)
}

// strongReads queries a tenant ten times a second until ctx ends, whether or not earlier queries have been answered: a
// stall counts for every query that falls into it.
func strongReads(ctx context.Context, base, tenant, expr string) *latencies {
	l := &latencies{}
	var wg sync.WaitGroup
	defer wg.Wait()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		wg.Add(1)
		go func() {
			defer wg.Done()
			began := time.Now()
			_, err := instant(base, tenant, expr, began)
			l.add(time.Since(began), err)
		}()
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	return l
}

// newcomers pushes new series of one tenant, as fast as the other side takes them: what is refused is sent again.
func newcomers(t *testing.T, s *instance, tenant string, total int) (requests, retries int64) {
	t.Helper()
	const batch = 5000
	var sent, again atomic.Int64
	g, ctx := errgroup.WithContext(context.Background())
	g.SetLimit(2)
	for from := 0; from < total; from += batch {
		g.Go(func() error {
			now := time.Now()
			req := &prompb.WriteRequest{}
			for i := from; i < min(from+batch, total); i++ {
				req.Timeseries = append(req.Timeseries, series("noise_total", float64(i), now,
					"cluster", "eu-1", "instance", fmt.Sprintf("10.%d.%d.%d:9100", i>>16, i>>8&255, i&255), "job", "noise", "pod", fmt.Sprintf("noise-%08x", i)))
			}
			raw, err := req.Marshal()
			if err != nil {
				return err
			}
			body := snappy.Encode(nil, raw)
			for ctx.Err() == nil {
				sent.Add(1)
				r := s.pushBody(tenant, body, nil)
				switch {
				case r.status/100 == 2:
					return nil
				case r.status != 429 && r.status/100 != 5:
					return fmt.Errorf("status %d: %s", r.status, r.body)
				}
				again.Add(1)
			}
			return ctx.Err()
		})
	}
	require.NoError(t, g.Wait())
	return sent.Load(), again.Load()
}

// poison writes into the topic of samples what no producer of ours would. dead is how many of the records cannot be
// applied, perhaps how many more may be found so; the others can, and must hurt nobody.
func poison(t *testing.T, broker *kfake.Cluster, tenant string, rounds int) (dead, perhaps int) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(broker.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	require.NoError(t, err)
	defer cl.Close()
	v1 := []kgo.RecordHeader{{Key: schema.HeaderVersion, Value: []byte{schema.RecordV1}}}
	kind := func(k string) []kgo.RecordHeader {
		return append(slices.Clone(v1), kgo.RecordHeader{Key: schema.HeaderKind, Value: []byte(k)})
	}
	value := func(at time.Time) []byte {
		ts := series("poison_total", 1, at, "from", "the future")
		raw, err := (&prompb.WriteRequest{Timeseries: []prompb.TimeSeries{ts}}).Marshal()
		require.NoError(t, err)
		return raw
	}
	good, key := value(time.Now()), []byte(tenant)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for range rounds {
		bad := []*kgo.Record{
			{Key: key, Headers: v1, Value: []byte("\xff\xfe\xfd garbage, not a message")},
			{Key: key, Headers: v1, Value: good[:len(good)-5]},
			{Key: key, Headers: []kgo.RecordHeader{{Key: schema.HeaderVersion, Value: []byte{9}}}, Value: good},
			{Key: key, Value: good},
			{Key: key, Headers: kind("unheard-of"), Value: good},
			{Key: []byte("../../etc"), Headers: v1, Value: good},
			{Headers: v1, Value: good},
		}
		dead += len(bad)
		odd := []*kgo.Record{
			{Key: key, Headers: v1, Value: value(time.Now().Add(24 * time.Hour))}, // let through by a producer with another clock
			{Key: key, Headers: v1, Value: good, Timestamp: time.Now().Add(24 * time.Hour)},
			{Key: key, Headers: v1},
			{Headers: kind(schema.KindTick), Value: []byte("a tick has no value")},
		}
		// Looked at only when it is the first tick of its generation, and then a dead letter.
		odd, perhaps = append(odd, &kgo.Record{Headers: append(kind(schema.KindTick), kgo.RecordHeader{Key: schema.HeaderGeneration, Value: []byte("{broken")})}), perhaps+1
		for _, r := range append(bad, odd...) {
			r.Topic = "sluice.samples"
		}
		require.NoError(t, cl.ProduceSync(ctx, append(bad, odd...)...).FirstErr())
	}
	return dead, perhaps
}

// TestNoisyNeighbour: what one tenant does, in the same partition, neither delays nor damages another's data.
func TestNoisyNeighbour(t *testing.T) {
	enabled(t)
	broker, flags := kafka(t)
	total := number(t, "SLUICE_NOISY_SERIES", 300_000)
	dir := workDir(t)
	s := newInstance(t, dir, "all", append(flags, "--log.partitions", "1", "--tenancy.required", "--self-monitoring.tenant", "",
		"--producer.tick-interval", "1s", "--consumer.generation", "30s", "--consumer.retain-shipped", "2s")...)
	fig := &figures{Seed: seed(t)}
	s.start()
	s.ready(60 * time.Second)
	spec := ledger.Spec{Seed: fig.Seed, Tenants: []ledger.Tenant{{
		Name: "victim", Slots: 100, Start: time.Now().Add(-36 * time.Hour).UnixMilli(), Step: 15 * time.Second, Late: [2]int64{20, 300},
	}}}
	w := startLoad(t, dir, s.url("/api/v1/push"), spec, 2000)

	// Its own series at the present moment, so that a query at "now" has something to say.
	beat := func(tenant string) {
		require.Less(t, s.push(tenant, series("heartbeat", float64(time.Now().UnixMilli()), time.Now())).status, 300)
	}
	measure := func(what func()) *latencies {
		ctx, stop := context.WithCancel(context.Background())
		defer stop()
		out := make(chan *latencies, 1)
		go func() { out <- strongReads(ctx, s.url("/prometheus"), "victim", `heartbeat or count({slots="b000"})`) }()
		what()
		stop()
		return <-out
	}
	beat("victim")
	calm := measure(func() {
		eventually(t, "two hundred requests are acked", 60*time.Second, func() error {
			if n := w.ledger.Outcomes(); n[ledger.Acked] < 150 {
				return fmt.Errorf("outcomes %v", n)
			}
			return nil
		})
	})

	var requests, retries int64
	var dead, perhaps int
	var flooded, applied time.Duration
	poisoned := func() {
		d, p := poison(t, broker, "noisy", 10)
		dead, perhaps = dead+d, perhaps+p
	}
	began := time.Now()
	noisy := measure(func() {
		poisoned()
		requests, retries = newcomers(t, s, "noisy", total)
		poisoned()
		r := s.push("noisy", series("early", 1, time.Now().Add(24*time.Hour)))
		require.Equal(t, 400, r.status)
		require.Contains(t, string(r.body), string(schema.ErrTooFarInFuture))
		beat("victim")
		flooded = time.Since(began)
		_, err := instant(s.url("/prometheus"), "noisy", "vector(1) + count(noise_total)", time.Now()) // a strong read: until all of it is in heads
		require.NoError(t, err)
		applied = time.Since(began)
	})
	sealed := measure(func() { s.seal(2 * time.Minute) })

	stats := w.finish(60 * time.Second)
	require.Zero(t, stats.Rejected, stats.Problems)
	require.Zero(t, stats.Unknown)
	w.verify("the victim beside the noise", s.url(""), fig)
	s.covered(60 * time.Second)

	n, err := instant(s.url("/prometheus"), "noisy", "count(count_over_time(noise_total[1h]))", time.Now())
	require.NoError(t, err)
	require.Equal(t, strconv.Itoa(total), n.one(t), "the noisy tenant's own samples are there")
	n, err = instant(s.url("/prometheus"), "victim", "count(noise_total) or count(poison_total)", time.Now())
	require.NoError(t, err)
	require.Empty(t, n)

	letters := int(s.mustMetric("sluice_consumer_dead_letters_total"))
	require.GreaterOrEqual(t, letters, dead)
	require.LessOrEqual(t, letters, dead+perhaps)
	require.Zero(t, s.mustMetric("sluice_consumer_dead_letters_lost_total"))
	out, exit := sluice(t, time.Minute, append([]string{"log", "dead-letter", "list", "--data-dir", s.data, "--log.level", "error"}, flags...)...)
	require.Zero(t, exit, out)
	listed := 0
	for _, line := range strings.Split(out, "\n") {
		if strings.Contains(line, "offset") && strings.Contains(line, "reason") {
			listed++
		}
	}
	t.Logf("the first of the dead letters:\n%s", out[:min(len(out), 3000)])

	quiet, disturbed := stats.Outage.Seconds(), 0.0
	if _, failed := noisy.counts(); failed > 0 {
		t.Logf("failed reads: %v", errors.Join(noisy.failed[:min(failed, 5)]...))
	}
	s.notePeak()
	okReads, failedReads := noisy.counts()
	_, sealedFailed := sealed.counts()
	disturbed = noisy.quantile(0.99)
	report(t, "a noisy neighbour in the same partition", map[string]any{
		"seed": fig.Seed, "new_series": total, "flood_seconds": flooded.Seconds(), "applied_after_seconds": applied.Seconds(), "flood_requests": requests, "flood_retries": retries,
		"victim_samples": stats.Samples, "victim_lost": fig.Lost, "victim_longest_write_outage_s": quiet,
		"calm_read_p50_ms": calm.quantile(0.5), "calm_read_p99_ms": calm.quantile(0.99),
		"noisy_read_p50_ms": noisy.quantile(0.5), "noisy_read_p99_ms": disturbed, "noisy_read_max_ms": noisy.quantile(1), "noisy_reads_ok": okReads, "noisy_reads_failed": failedReads,
		"sealing_read_p50_ms": sealed.quantile(0.5), "sealing_read_p99_ms": sealed.quantile(0.99), "sealing_reads_failed": sealedFailed,
		"dead_letters": letters, "dead_letters_listed": listed, "peak_rss_mb": s.peak >> 20,
	})
	require.Equal(t, letters, listed, "sluice log dead-letter list:\n%.2000s", out)
	require.Zero(t, failedReads, "strong reads of the victim failed, first: %v", noisy.failed)
	require.Zero(t, sealedFailed, "strong reads of the victim failed during the seal, first: %v", sealed.failed)
	require.Less(t, disturbed, 15_000.0, "p99 of the victim's strong reads in ms")

	s.stop()
	s.start()
	s.ready(2 * time.Minute)
	w.verify("the victim after a restart", s.url(""), fig)
	stopClean(t, s, flags...)
}

// TestManyTenants measures what thousands of small tenants cost. The bounds are those that something is broken beyond.
func TestManyTenants(t *testing.T) {
	enabled(t)
	tenants := number(t, "SLUICE_TENANTS", 1000) // the figures in ARCHITECTURE.md are of 5000
	for _, c := range []struct {
		name, limits string
	}{{"one partition each", "default: {partition_shard_size: 1}\n"}, {"spread over all partitions", "default: {}\n"}} {
		t.Run(c.name, func(t *testing.T) { manyTenants(t, c.name, c.limits, tenants) })
	}
}

func manyTenants(t *testing.T, name, limits string, tenants int) {
	const perTenant = 10
	dir := workDir(t)
	file := filepath.Join(dir, "limits.yaml")
	require.NoError(t, os.WriteFile(file, []byte(limits), 0o644))
	s := newInstance(t, dir, "all", append(never(), "--limits.file", file, "--tenancy.required", "--self-monitoring.tenant", "",
		"--producer.tick-interval", "1s", "--consumer.retain-shipped", "1s")...)
	fig := map[string]any{"tenants": tenants, "series_each": perTenant}
	defer func() { report(t, "many small tenants, "+name, fig) }() // of a run that failed, too
	s.start()
	s.ready(60 * time.Second)
	note := func(when string) {
		rss, _ := s.memory()
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.cmd.Process.Pid))
		require.NoError(t, err)
		files, bytes := countFiles(filepath.Join(s.data, "scratch"))
		fig[when] = map[string]any{
			"rss_mb": rss >> 20, "heap_mb": int64(s.mustMetric("go_memstats_heap_inuse_bytes")) >> 20, "goroutines": s.mustMetric("go_goroutines"),
			"fds": len(fds), "local_files": files, "local_mb": bytes >> 20,
		}
	}
	note("empty")
	write := func(scrapes int) time.Duration {
		began := time.Now()
		g := errgroup.Group{}
		g.SetLimit(32)
		for i := range tenants {
			g.Go(func() error {
				var list []prompb.TimeSeries
				for j := range perTenant {
					ts := series("tenant_metric", float64(i), began, "instance", fmt.Sprintf("host-%d", j), "job", "small")
					ts.Samples = nil
					for k := range scrapes {
						ts.Samples = append(ts.Samples, prompb.Sample{Timestamp: began.Add(time.Duration(k-scrapes) * time.Second).UnixMilli(), Value: float64(i)})
					}
					list = append(list, ts)
				}
				raw, err := (&prompb.WriteRequest{Timeseries: list}).Marshal()
				if err != nil {
					return err
				}
				if r := s.pushBody(fmt.Sprintf("tenant-%05d", i), snappy.Encode(nil, raw), nil); r.status/100 != 2 {
					return fmt.Errorf("status %d: %s", r.status, r.body)
				}
				return nil
			})
		}
		require.NoError(t, g.Wait())
		return time.Since(began)
	}
	fig["write_seconds"] = write(10).Seconds()
	look := func(i int) {
		r, err := instant(s.url("/prometheus"), fmt.Sprintf("tenant-%05d", i), "sum(count_over_time(tenant_metric[1h]))", time.Now())
		require.NoError(t, err)
		require.Equal(t, strconv.Itoa(perTenant*10), r.one(t), "tenant %d", i)
	}
	look(tenants / 2)
	note("heads")

	begun := time.Now()
	s.kill()
	s.start()
	s.ready(2 * time.Minute)
	fig["restart_with_heads_seconds"] = time.Since(begun).Seconds()
	look(tenants - 1)
	note("heads_after_restart")

	ends := map[int32]int64{}
	for p, o := range logStatus(t, "--data-dir", s.data) {
		ends[p] = o.end
	}
	begun = time.Now()
	r, err := post(context.Background(), s.url("/-/seal"), "", "", nil)
	require.NoError(t, err)
	require.Less(t, r.status, 300, string(r.body))
	most := 0
	eventually(t, "all is in the bucket", 10*time.Minute, func() error {
		require.NotContains(t, s.says(0), "too many open files")
		files, _ := countFiles(filepath.Join(s.data, "scratch"))
		most = max(most, files)
		for p, end := range ends {
			if v, _, err := s.metric("sluice_consumer_committed_offset", fmt.Sprintf(`partition="%d"`, p)); err != nil || int64(v) < end {
				return fmt.Errorf("partition %d: committed %v of %d: %w", p, v, end, err)
			}
		}
		return nil
	})
	fig["seal_and_ship_seconds"] = time.Since(begun).Seconds()
	fig["seal_seconds_sum"] = s.mustMetric("sluice_consumer_seal_seconds_sum")
	fig["most_local_files"] = most
	fig["blocks_per_generation"] = s.mustMetric("sluice_consumer_shipped_blocks_total")
	fig["uploads_per_generation"] = s.mustMetric("sluice_objstore_bucket_operations_total", `operation="upload"`)
	look(0)
	note("shipped")
	s.covered(60 * time.Second)

	// A generation in which one tenant writes: the others must not cost anything in it.
	require.Less(t, s.push("tenant-00000", series("tenant_metric", 1, time.Now(), "instance", "late", "job", "small")).status, 300)
	before := s.mustMetric("sluice_consumer_shipped_blocks_total")
	s.seal(time.Minute)
	require.Equal(t, 1.0, s.mustMetric("sluice_consumer_shipped_blocks_total")-before, "idle tenants make blocks")

	s.notePeak()
	begun = time.Now()
	s.stop()
	fig["stop_seconds"] = time.Since(begun).Seconds()
	begun = time.Now()
	s.start()
	s.ready(2 * time.Minute)
	fig["restart_after_seal_seconds"] = time.Since(begun).Seconds()
	look(tenants / 3)
	note("after_restart")
	s.notePeak()
	fig["peak_rss_mb"] = s.peak >> 20
	files, bytes := countFiles(filepath.Join(s.data, "bucket"))
	fig["bucket_files"], fig["bucket_mb"] = files, bytes>>20
	require.Less(t, s.peak, 1<<30+int64(fig["blocks_per_generation"].(float64))*(400<<10), "a GiB and 0.4 MB for each tenant in each partition")
	require.Less(t, fig["restart_with_heads_seconds"], 60.0)
	require.Less(t, fig["restart_after_seal_seconds"], 60.0)
	out, exit := sluice(t, 5*time.Minute, "check", "--data-dir", s.data)
	require.Zero(t, exit, out)
}
