package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const aptHint = "make test installs it where apt-get is at hand"

// startPrometheus runs a real Prometheus that scrapes itself and a node_exporter every second and writes to pushURL.
func startPrometheus(t *testing.T, dir, pushURL string) (base string, p *process) {
	t.Helper()
	node := freeAddr(t)
	launch(t, dir, "node-exporter", nil, tool(t, "prometheus-node-exporter", aptHint), "--web.listen-address="+node)
	addr := freeAddr(t)
	cfg := filepath.Join(dir, "prometheus.yml")
	require.NoError(t, os.WriteFile(cfg, fmt.Appendf(nil, `global:
  scrape_interval: 1s
scrape_configs:
  - job_name: prometheus
    static_configs: [{targets: ['%s']}]
  - job_name: node
    static_configs: [{targets: ['%s'], labels: {zone: a}}]
  - job_name: gone
    static_configs: [{targets: ['127.0.0.1:1']}]
remote_write:
  - url: %s
    queue_config: {max_shards: 1, min_shards: 1, batch_send_deadline: 500ms, max_samples_per_send: 500, capacity: 20000}
`, addr, node, pushURL), 0o644))
	p = launch(t, dir, "prometheus", nil, tool(t, "prometheus", aptHint),
		"--config.file="+cfg, "--storage.tsdb.path="+filepath.Join(dir, "prometheus"), "--web.listen-address="+addr, "--log.level=warn")
	base = "http://" + addr
	eventually(t, "Prometheus is ready", 30*time.Second, func() error { return expect(context.Background(), base+"/-/ready", "", 200) })
	return base, p
}

// queries are asked of Prometheus and of Sluice at the same times.
var queries = []string{
	`up`,
	`{job="node",__name__=~"node_(load1|cpu_seconds_total|memory_.*_bytes)"}`,
	`rate(node_cpu_seconds_total[10s])`,
	`sum by (mode) (rate(node_cpu_seconds_total[10s]))`,
	`irate(prometheus_tsdb_head_samples_appended_total[10s])`,
	// A counter far from zero: near zero, Prometheus 2.42 and 3 extrapolate differently (3 first limits the extrapolation to
	// half an interval, then to where the counter would be zero; 2.42 the other way round).
	`increase(node_context_switches_total[15s])`,
	`sum without (handler, instance) (prometheus_http_requests_total)`,
	`histogram_quantile(0.9, rate(prometheus_http_request_duration_seconds_bucket[15s]))`,
	`histogram_quantile(0.5, sum by (le) (prometheus_http_response_size_bytes_bucket))`,
	`topk(3, sum by (__name__) ({job="prometheus",__name__=~"go_memstats_.*_bytes"}))`,
	`bottomk(2, node_filesystem_size_bytes)`,
	`label_replace(up, "host", "$1", "instance", "(.*):.*")`,
	`label_join(node_uname_info, "all", "-", "sysname", "machine")`,
	`absent(no_such_metric)`,
	`absent_over_time(up{job="nobody"}[10s])`,
	`node_load1 offset 5s`,
	`prometheus_tsdb_head_series offset 3s - prometheus_tsdb_head_series`,
	`max_over_time(rate(process_cpu_seconds_total[5s])[15s:3s])`,
	`avg_over_time(go_goroutines[10s])`,
	`quantile_over_time(0.7, scrape_duration_seconds[12s])`,
	`changes(node_memory_MemFree_bytes[10s])`,
	`count_values("v", up)`,
	`count by (job) ({__name__!=""})`,
	`node_filesystem_avail_bytes / on (device, mountpoint, fstype) group_left node_filesystem_size_bytes`,
	`go_info * on (instance) group_right up`,
	`up == 0 or on (job) (up > 0 unless on (job) up{job="node"})`,
	`delta(node_memory_Active_bytes[10s]) > bool 0`,
	`predict_linear(node_memory_MemFree_bytes[15s], 60)`,
	`scalar(count(up)) + vector(1)`,
	`last_over_time(scrape_samples_scraped[5s])`,
}

// between returns a time in the second of t at which no sample lies near the edge of a range: the two versions of the
// engine do not agree on whether the left edge belongs to it.
func between(t *testing.T, base string, at time.Time) time.Time {
	t.Helper()
	taken := map[int64]bool{0: true}
	for _, expr := range []string{"timestamp(up)"} {
		r, err := instant(base, "", expr, at)
		require.NoError(t, err)
		for _, points := range r {
			for _, v := range points {
				sec, err := strconv.ParseFloat(v, 64)
				require.NoError(t, err)
				taken[int64(math.Round(sec*1000))%1000] = true
			}
		}
	}
	best, far := int64(500), int64(0)
	for ms := int64(0); ms < 1000; ms += 7 {
		near := int64(1000)
		for x := range taken {
			d := (ms - x + 1000) % 1000
			near = min(near, d, 1000-d)
		}
		if near > far {
			best, far = ms, near
		}
	}
	require.Greater(t, far, int64(50))
	return at.Truncate(time.Second).Add(time.Duration(best) * time.Millisecond)
}

func compare(t *testing.T, state, prom, ours string, from, to time.Time) {
	t.Helper()
	differ := 0
	for _, q := range queries {
		for _, kind := range []string{"instant", "range"} {
			ask := func(base string) (result, error) {
				if kind == "instant" {
					return instant(base, "", q, to)
				}
				return ranged(base, "", q, from, to, time.Second)
			}
			want, err := ask(prom)
			require.NoError(t, err, "Prometheus: %s", q)
			got, err := ask(ours)
			if err == nil {
				err = equal(want, got)
			}
			if err != nil {
				differ++
				t.Errorf("%s, %s query %s: %v", state, kind, q, err)
			}
			if len(want) == 0 && kind == "range" && !strings.Contains(q, "node_filesystem") {
				t.Errorf("%s query %s has no answer even in Prometheus: it tests nothing", kind, q)
			}
		}
	}
	t.Logf("%s: %d queries as instant and range, %d differ", state, len(queries), differ)
}

// TestRealPrometheus: what a real Prometheus wrote into Sluice answers as it does in Prometheus itself, from heads and
// from blocks, and Prometheus' own tools can read both the API and a block.
func TestRealPrometheus(t *testing.T) {
	enabled(t)
	t.Parallel()
	promtool := tool(t, "promtool", aptHint)
	dir := workDir(t)
	// Its own metrics go to another tenant: the two must hold the same series. (Debian's Prometheus sends no tenant header.)
	s := newInstance(t, dir, "all", "--consumer.generation", "1h", "--self-monitoring.tenant", "self")
	s.start()
	s.ready(60 * time.Second)
	prom, _ := startPrometheus(t, dir, s.url("/api/v1/push"))
	ours := s.url("/prometheus")

	// Series that begin inside a range are where the versions of the engine extrapolate differently: all have begun before.
	eventually(t, "Prometheus has scraped both targets", 30*time.Second, func() error {
		r, err := instant(prom, "", `sum(up) == 2`, time.Now())
		if err == nil && len(r) == 0 {
			return errors.New("not yet")
		}
		return err
	})
	begun := time.Now()
	const long = 40 * time.Second
	eventually(t, "Prometheus has sent forty seconds of samples", 2*long, func() error {
		r, err := instant(prom, "", `prometheus_remote_storage_queue_highest_sent_timestamp_seconds`, time.Now())
		if err != nil {
			return err
		}
		for _, points := range r {
			for _, v := range points {
				if sec, _ := strconv.ParseFloat(v, 64); sec > float64(begun.Add(long).Unix()) {
					return nil
				}
			}
		}
		return fmt.Errorf("sent so far: %v", r)
	})
	failed, err := instant(prom, "", `prometheus_remote_storage_samples_failed_total + prometheus_remote_storage_samples_dropped_total`, time.Now())
	require.NoError(t, err)
	require.Equal(t, "0", failed.one(t), "samples that Prometheus could not deliver")

	to := between(t, prom, begun.Add(long-5*time.Second))
	from := to.Add(-15 * time.Second)
	compare(t, "from heads", prom, ours, from, to)
	s.seal(time.Minute)
	compare(t, "from blocks", prom, ours, from, to)

	t.Run("promtool query", func(t *testing.T) {
		at := seconds(to)
		for _, c := range []struct {
			args []string
			want string
		}{
			{[]string{"query", "instant", "--time", at, ours, `up{job="node"}`}, `job="node"`},
			{[]string{"query", "range", "--start", seconds(from), "--end", at, "--step", "5s", ours, `up{job="node"}`}, `job="node"`},
			{[]string{"query", "series", "--match", `up`, "--start", seconds(from), "--end", at, ours}, `job="gone"`},
			{[]string{"query", "labels", "--start", seconds(from), "--end", at, ours, "job"}, "node"},
		} {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			out, exit := execute(t, ctx, promtool, c.args...)
			cancel()
			require.Zero(t, exit, "promtool %q: %s", c.args, out)
			require.Contains(t, out, c.want, "promtool %q", c.args)
		}
	})
	t.Run("promtool tsdb", func(t *testing.T) { promtoolReads(t, promtool, filepath.Join(s.data, "bucket", "anonymous"), dir) })
	s.stop()
}

// promtoolReads lets Prometheus' own tool read the blocks of a tenant's folder.
func promtoolReads(t *testing.T, promtool, folder, dir string) {
	db := filepath.Join(dir, "shipped")
	require.NoError(t, os.MkdirAll(filepath.Join(db, "wal"), 0o755)) // dump demands it
	ids, samples := copyBlocks(t, folder, db)
	require.NotEmpty(t, ids, "no block in %s", folder)

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, exit := execute(t, ctx, promtool, "tsdb", "list", db)
	require.Zero(t, exit, out)
	for _, id := range ids {
		require.Contains(t, out, id)
		text, exit := execute(t, ctx, promtool, "tsdb", "analyze", db, id)
		require.Zero(t, exit, text)
		require.Regexp(t, `(?m)^(Total )?Series: [1-9]`, text)
	}
	out, exit = execute(t, ctx, promtool, "tsdb", "dump", db)
	require.Zero(t, exit)
	lines := regexp.MustCompile(`(?m)^\{.*\} \S+ -?\d+$`).FindAllString(out, -1)
	require.EqualValues(t, samples, len(lines), "lines that promtool tsdb dump prints, against numSamples of %d blocks", len(ids))
}

// copyBlocks copies the blocks of a tenant that no other block replaces, and returns what their meta.json promise.
func copyBlocks(t *testing.T, folder, db string) (ids []string, samples int64) {
	t.Helper()
	metas, err := filepath.Glob(filepath.Join(folder, "*", "meta.json"))
	require.NoError(t, err)
	type meta struct {
		ULID  string
		Stats struct{ NumSamples int64 }
		Own   struct{ Replaces []string } `json:"sluice"`
	}
	all, replaced := map[string]meta{}, map[string]bool{}
	for _, path := range metas {
		raw, err := os.ReadFile(path)
		require.NoError(t, err)
		var m meta
		require.NoError(t, json.Unmarshal(raw, &m))
		all[m.ULID] = m
		for _, id := range m.Own.Replaces {
			replaced[id] = true
		}
	}
	for id, m := range all {
		if replaced[id] {
			continue
		}
		require.NoError(t, os.CopyFS(filepath.Join(db, id), os.DirFS(filepath.Join(folder, id))))
		ids, samples = append(ids, id), samples+m.Stats.NumSamples
	}
	return ids, samples
}

// TestExamples: Prometheus takes the example configuration.
func TestExamples(t *testing.T) {
	enabled(t)
	promtool := tool(t, "promtool", aptHint)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out, exit := execute(t, ctx, promtool, "check", "config", filepath.Join(repo, "deploy", "prometheus.example.yml"))
	require.Zero(t, exit, out)
}

// TestFirstRun: in an empty directory, with defaults, there is something to query within half a minute.
func TestFirstRun(t *testing.T) {
	enabled(t)
	dir := workDir(t)
	s := newInstance(t, dir, "all")
	begun := time.Now()
	s.start()
	eventually(t, "up answers with data", 30*time.Second, func() error {
		e, err := api(s.url("/prometheus"), "", "/api/v1/query", url.Values{"query": {"up"}}, nil)
		if err != nil {
			return err
		}
		r, err := decode(e.Data)
		if err == nil && len(r) == 0 {
			return fmt.Errorf("up has no series yet")
		}
		return err
	})
	t.Logf("up answers after %s", time.Since(begun).Round(time.Millisecond))
	for _, path := range []string{"/ready", "/-/ready", "/-/healthy", "/metrics"} {
		require.NoError(t, expect(context.Background(), s.url(path), "", 200))
	}
	s.terminate(15 * time.Second)
}
