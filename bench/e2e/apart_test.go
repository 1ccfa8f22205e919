package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"sluice/bench/ledger"
)

// TestStagesApart: the four stages as four processes, with Kafka (a fake broker in this process) and a shared directory
// between them and nothing else.
func TestStagesApart(t *testing.T) {
	enabled(t)
	t.Parallel()
	broker, err := kfake.NewCluster(kfake.NumBrokers(1))
	require.NoError(t, err)
	t.Cleanup(broker.Close)
	dir := workDir(t)
	conf := filepath.Join(dir, "objstore.yaml")
	bucket := filepath.Join(dir, "bucket")
	require.NoError(t, os.MkdirAll(bucket, 0o755))
	require.NoError(t, os.WriteFile(conf, fmt.Appendf(nil, "type: FILESYSTEM\nconfig:\n  directory: %s\n", bucket), 0o644))

	shared := []string{"--kafka.brokers", strings.Join(broker.ListenAddrs(), ","), "--objstore.config-file", conf}
	stage := func(name string, args ...string) *instance {
		s := newInstance(t, dir, name, append(args, append(shared, "--instance", name+"-0")...)...)
		s.start()
		return s
	}
	prod := stage("producer", "--tenancy.required", "--producer.tick-interval", "1s")
	cons := stage("consumer", "--consumer.retain-shipped", "2s")
	comp := stage("compactor", "--compactor.interval", "1s", "--compactor.settle", "2s", "--compactor.deletion-delay", "5s")
	read := stage("reader", "--tenancy.required")
	for _, s := range []*instance{prod, cons, comp, read} {
		s.ready(60 * time.Second)
	}

	fig := &figures{Scenario: "four processes, Kafka (kfake), shared directory", Seed: seed(t)}
	w := startLoad(t, dir, prod.url("/api/v1/push"), fleet(fig.Seed, 100), 8000)
	eventually(t, "two hundred requests are acked", 60*time.Second, func() error {
		if n := w.ledger.Outcomes(); n[ledger.Acked] < 200 {
			return fmt.Errorf("outcomes %v", n)
		}
		return nil
	})
	cons.kill() // while writers write: the producer does not need it
	fig.Kills++
	cons.start()
	cons.ready(60 * time.Second)
	eventually(t, "four hundred requests are acked", 60*time.Second, func() error {
		if n := w.ledger.Outcomes(); n[ledger.Acked] < 400 {
			return fmt.Errorf("outcomes %v", n)
		}
		return nil
	})
	stats := w.finish(60 * time.Second)
	fig.Requests, fig.Acked, fig.Retries, fig.Outage = stats.Acked, stats.Samples, stats.Retries, stats.Outage.Seconds()
	require.Zero(t, stats.Rejected, stats.Problems)
	w.verify("from heads", read.url(""), fig)

	out, exit := sluice(t, 2*time.Minute, "log", "seal", "--wait", "--kafka.brokers", strings.Join(broker.ListenAddrs(), ","))
	require.Zero(t, exit, "sluice log seal: %s", out)
	w.verify("from blocks", read.url(""), fig)

	for _, s := range []*instance{cons, read} {
		s.stop()
		require.NoError(t, os.RemoveAll(s.data))
		s.start()
	}
	for _, s := range []*instance{cons, read} {
		s.ready(60 * time.Second)
	}
	w.verify("after a cold start", read.url(""), fig)
	eventually(t, "the compactor has merged a block", 60*time.Second, func() error {
		metas, err := filepath.Glob(filepath.Join(bucket, "*", "*", "meta.json"))
		if err != nil {
			return err
		}
		for _, m := range metas {
			if text, err := os.ReadFile(m); err == nil && strings.Contains(string(text), "sluice.compactor") {
				return nil
			}
		}
		return fmt.Errorf("%d blocks, all of consumers", len(metas))
	})
	w.verify("after compaction", read.url(""), fig)
	for _, s := range []*instance{read, comp, cons, prod} {
		s.stop()
	}
	out, exit = sluice(t, 2*time.Minute, append([]string{"check", "--data-dir", dir, "--deep"}, shared...)...)
	require.Zero(t, exit, "sluice check: %s", out)
	fig.print(t)
}
