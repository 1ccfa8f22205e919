package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// haPrometheus is one of two that scrape the same node_exporter, and that can be killed and started again.
type haPrometheus struct {
	t             *testing.T
	dir, replica  string
	addr, cfgFile string
	*process
}

func newHAPrometheus(t *testing.T, dir, replica, target, pushURL string) *haPrometheus {
	p := &haPrometheus{t: t, dir: dir, replica: replica, addr: freeAddr(t), cfgFile: filepath.Join(dir, "prometheus-"+replica+".yml")}
	require.NoError(t, os.WriteFile(p.cfgFile, fmt.Appendf(nil, `global:
  scrape_interval: 1s
  external_labels: {cluster: pair, __replica__: %s}
scrape_configs:
  - job_name: node
    static_configs: [{targets: ['%s']}]
  - job_name: self
    static_configs: [{targets: ['%s']}]
remote_write:
  - url: %s
    queue_config: {max_shards: 1, min_shards: 1, batch_send_deadline: 500ms, max_samples_per_send: 500, capacity: 20000}
`, replica, target, p.addr, pushURL), 0o644))
	return p
}

func (p *haPrometheus) start() {
	p.process = launch(p.t, p.dir, "prometheus-"+p.replica, nil, tool(p.t, "prometheus", aptHint),
		"--config.file="+p.cfgFile, "--storage.tsdb.path="+filepath.Join(p.dir, "tsdb-"+p.replica), "--web.listen-address="+p.addr, "--log.level=warn")
	eventually(p.t, p.replica+" is ready", 30*time.Second, func() error { return expect(context.Background(), p.url()+"/-/ready", "", 200) })
}

func (p *haPrometheus) url() string { return "http://" + p.addr }

// sentUntil is the time of the newest sample that it has sent.
func (p *haPrometheus) sentUntil() (time.Time, error) {
	r, err := instant(p.url(), "", `max(prometheus_remote_storage_queue_highest_sent_timestamp_seconds)`, time.Now())
	if err != nil {
		return time.Time{}, err
	}
	for _, points := range r {
		for _, v := range points {
			sec, err := strconv.ParseFloat(v, 64)
			return time.UnixMilli(int64(sec * 1000)), err
		}
	}
	return time.Time{}, nil
}

// times are those of the samples of one series, in order.
func times(t *testing.T, base, expr string) (series string, all []int64) {
	t.Helper()
	r, err := instant(base, "", expr, time.Now())
	require.NoError(t, err)
	require.LessOrEqual(t, len(r), 1, "%s must be one series: %v", expr, slices.Collect(maps.Keys(r)))
	for name, points := range r {
		return name, slices.Sorted(maps.Keys(points))
	}
	return "", nil
}

// electedReplica asks the page of the tracker.
func electedReplica(s *instance) (string, error) {
	req, err := http.NewRequest(http.MethodGet, s.url("/distributor/ha_tracker"), nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Accept", "application/json")
	a, err := send(context.Background(), req, "")
	if err != nil {
		return "", err
	}
	var page struct {
		Elected []struct{ UserID, Cluster, Replica string }
	}
	if err := json.Unmarshal(a.body, &page); err != nil {
		return "", err
	}
	if len(page.Elected) != 1 || page.Elected[0].UserID != "anonymous" || page.Elected[0].Cluster != "pair" {
		return "", fmt.Errorf("elected are %+v", page.Elected)
	}
	return page.Elected[0].Replica, nil
}

// TestHAPair: of two real Prometheus one is stored. When it is killed the other one takes over after the time-out, and stays when
// the first comes back: the stored series is a piece of the one and then a piece of the other, each without a gap.
func TestHAPair(t *testing.T) {
	enabled(t)
	t.Parallel()
	const timeout = 10 * time.Second
	dir := workDir(t)
	limits := filepath.Join(dir, "limits.yaml")
	require.NoError(t, os.WriteFile(limits, []byte("default: {accept_ha_samples: true, ha_tracker_failover_timeout: 10s}\n"), 0o644))
	s := newInstance(t, dir, "all", "--limits.file", limits, "--self-monitoring.tenant", "self")
	s.start()
	s.ready(60 * time.Second)
	ours := s.url("/prometheus")

	node := freeAddr(t)
	launch(t, dir, "node-exporter", nil, tool(t, "prometheus-node-exporter", aptHint), "--web.listen-address="+node)
	pair := map[string]*haPrometheus{}
	for _, replica := range []string{"a", "b"} {
		pair[replica] = newHAPrometheus(t, dir, replica, node, s.url("/api/v1/push"))
		pair[replica].start()
	}
	const stored = `node_load1{job="node"}[10m]`
	atLeast := func(n int, after int64) func() error {
		return func() error {
			_, all := times(t, ours, stored)
			all = slices.DeleteFunc(all, func(ms int64) bool { return ms <= after })
			if len(all) < n {
				return fmt.Errorf("%d of %d samples after %d", len(all), n, after)
			}
			return nil
		}
	}
	eventually(t, "ten samples are stored", 60*time.Second, atLeast(10, 0))
	name, err := electedReplica(s)
	require.NoError(t, err)
	first, second := pair[name], pair[map[string]string{"a": "b", "b": "a"}[name]]

	first.kill()
	_, before := times(t, ours, stored)
	eventually(t, "the other one is elected", 60*time.Second, func() error {
		if now, err := electedReplica(s); err != nil || now != second.replica {
			return fmt.Errorf("elected is %q: %w", now, err)
		}
		return nil
	})
	eventually(t, "its samples are stored", 30*time.Second, atLeast(5, before[len(before)-1]))

	first.start()
	back := time.Now()
	eventually(t, "the first is back for longer than the time-out", 60*time.Second, func() error {
		until, err := first.sentUntil()
		if err == nil && until.Before(back.Add(timeout+2*time.Second)) {
			err = fmt.Errorf("sent until %s", until)
		}
		return err
	})
	now, err := electedReplica(s)
	require.NoError(t, err)
	require.Equal(t, second.replica, now, "the first does not take over again")

	series, all := times(t, ours, stored)
	require.Contains(t, series, `"cluster":"pair"`)
	require.NotContains(t, series, "replica")
	_, ofFirst := times(t, first.url(), stored)
	_, ofSecond := times(t, second.url(), stored)
	// Where the first ends and the second begins.
	change := slices.IndexFunc(all, func(ms int64) bool { return !slices.Contains(ofFirst, ms) })
	require.Greater(t, change, 5)
	require.Equal(t, within(ofFirst, all[0], all[change-1]), all[:change], "of the first, all and nothing else")
	require.Equal(t, within(ofSecond, all[change], all[len(all)-1]), all[change:], "of the second, all and nothing else")
	gap := time.Duration(all[change]-all[change-1]) * time.Millisecond
	t.Logf("%d samples of %s, then %s without any, then %d of %s", change, first.replica, gap, len(all)-change, second.replica)
	// A scrape, a batch, and the way here may come on top.
	require.LessOrEqual(t, gap, timeout+4*time.Second)
	s.stop()
}

// within are the times from one to another.
func within(all []int64, from, to int64) (out []int64) {
	for _, ms := range all {
		if ms >= from && ms <= to {
			out = append(out, ms)
		}
	}
	return out
}
