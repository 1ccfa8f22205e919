package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/bench/ledger"
	"sluice/internal/kafkatest"
)

// directoryBucket is the configuration of a bucket in a directory that several processes share.
func directoryBucket(t *testing.T, dir string) (bucket, conf string) {
	t.Helper()
	bucket, conf = filepath.Join(dir, "bucket"), filepath.Join(dir, "objstore.yaml")
	require.NoError(t, os.MkdirAll(bucket, 0o755))
	require.NoError(t, os.WriteFile(conf, fmt.Appendf(nil, "type: FILESYSTEM\nconfig:\n  directory: %s\n", bucket), 0o644))
	return bucket, conf
}

// answered counts what a client is told behind the load balancer.
type answered struct {
	next http.RoundTripper

	mu      sync.Mutex // guards the rest
	failed  []string
	slowest time.Duration
}

func (a *answered) RoundTrip(req *http.Request) (*http.Response, error) {
	begun := time.Now()
	resp, err := a.next.RoundTrip(req)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.slowest = max(a.slowest, time.Since(begun))
	switch {
	case err != nil:
		a.failed = append(a.failed, fmt.Sprintf("%s: %v", begun.Format("15:04:05.000"), err))
	case resp.StatusCode/100 != 2:
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		resp.Body = io.NopCloser(bytes.NewReader(body))
		a.failed = append(a.failed, fmt.Sprintf("%s +%dms: %s: %.300s", begun.Format("15:04:05.000"), time.Since(begun).Milliseconds(), resp.Status, body))
	}
	return resp, err
}

// TestRollingRestart: every process of every stage is restarted, one after the other, the next when the previous one is
// ready. With two of each and two zones no write and no query fails.
func TestRollingRestart(t *testing.T) {
	enabled(t)
	begun := time.Now()
	dir, seed := workDir(t), seed(t)
	broker := kafkatest.Start(t, kafkatest.Config{Version: "4", Nodes: 1, Dir: filepath.Join(dir, "kafka")})
	_, conf := directoryBucket(t, dir)
	c := newCluster(t, dir, "--kafka.brokers", strings.Join(broker.Brokers(), ","), "--objstore.config-file", conf, "--log.partitions", "4")
	c.doubled()

	writes := &answered{next: c.write}
	w := startLoadOf(t, dir, crowd(seed), c.writeConfig(&http.Client{Transport: writes}, 2000))
	var mu sync.Mutex
	restarting := "" // guarded by mu
	strongly, eventual, enough := c.watchers(2, w, seed, func(time.Time, time.Time) ([]string, bool) {
		mu.Lock()
		defer mu.Unlock()
		return []string{restarting}, false
	})
	eventually(t, "forty requests are acked", time.Minute, func() error {
		if n := w.ledger.Outcomes()[ledger.Acked]; n < 40 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	more := func(n int) { // so that reads meet every state of the cluster
		s, e := strongly.succeeded()+n, eventual.succeeded()+n
		eventually(t, "reads go on", time.Minute, func() error {
			if strongly.succeeded() < s || eventual.succeeded() < e {
				return fmt.Errorf("%d and %d reads, want %d and %d", strongly.succeeded(), eventual.succeeded(), s, e)
			}
			return nil
		})
	}
	more(50)
	var slowest time.Duration
	for _, m := range c.members {
		mu.Lock()
		restarting = m.name
		mu.Unlock()
		at := time.Now()
		m.stop()
		m.start()
		m.ready(time.Minute)
		c.ready(time.Minute)
		took := time.Since(at)
		slowest = max(slowest, took)
		t.Logf("%s %s: restarted in %s", at.Format("15:04:05.000"), m.name, took.Round(time.Millisecond))
		more(15)
	}
	enough()
	stats := w.finish(time.Minute)
	fig := &figures{Seed: seed}
	fig.add(strongly.report)
	fig.add(eventual.report)
	w.verify("after a rolling restart", c.of("reader", "")[0].url(""), fig)
	report(t, "rolling restart of all stages, two zones", map[string]any{
		"seed": seed, "seconds": int(time.Since(begun).Seconds()), "restarts": len(c.members), "slowest_restart_s": slowest.Seconds(),
		"requests_acked": stats.Acked, "samples_acked": stats.Samples, "writes_failed": len(writes.failed), "writes_sent_on": c.write.again,
		"slowest_write_s": writes.slowest.Seconds(), "longest_write_pause_s": stats.Outage.Seconds(), "reads_failed": strongly.failed() + eventual.failed(),
		"strong_reads": strongly.figures(), "eventual_reads": eventual.figures(), "samples_verified": fig.Verified, "lost": fig.Lost, "doubled": fig.Duplicated,
	})
	strongly.right(t)
	eventual.right(t)
	require.Empty(t, writes.failed, "writes that failed")
	require.Zero(t, stats.Retries)
	require.Zero(t, strongly.failed(), "strong reads that failed")
	require.Zero(t, eventual.failed(), "eventual reads that failed")
	c.seen()
	c.sound()
}
