package e2e

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/bench/ledger"
	"sluice/schema"
)

// never are the flags of a compactor that leaves everything as the consumers ship it.
func never() []string {
	return []string{"--compactor.interval", "1h", "--compactor.settle", "1000h", "--compactor.orphan-delay", "1000h"}
}

// rebuilt is a run of `sluice log rebuild` to its end.
func rebuilt(t *testing.T, data, out string, env []string, args ...string) time.Duration {
	t.Helper()
	began := time.Now()
	cmd := rebuildCommand(data, out, env, args...)
	text, err := cmd.CombinedOutput()
	require.NoError(t, err, "sluice log rebuild %v %v:\n%s", env, args, text)
	return time.Since(began)
}

func rebuildCommand(data, out string, env []string, args ...string) *exec.Cmd {
	cmd := exec.Command(sluiceBin, append([]string{"log", "rebuild", "--data-dir", data, "--out", out}, args...)...)
	// Its scratch folder lies beside the log: what a killed one leaves behind goes with the test.
	cmd.Env = append(append(os.Environ(), "TMPDIR="+data), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// bucketIn finds the bucket that a rebuild has written: --out itself, or bucket/ below it.
func bucketIn(out string) string {
	if st, err := os.Stat(filepath.Join(out, "bucket")); err == nil && st.IsDir() {
		return filepath.Join(out, "bucket")
	}
	return out
}

// before keeps the blocks of generations that end at or before what was committed: a rebuild to the log's end may have
// made blocks of the generation that was live, too.
func before(metas map[string]*schema.BlockMeta, status map[int32]offsets) func(string) bool {
	return func(name string) bool {
		m := metas[name]
		return m != nil && len(m.Sluice.Ranges) == 1 && m.Sluice.Ranges[0].To <= status[m.Sluice.Ranges[0].Partition].committed
	}
}

// TestReplaysAgree: whoever reads a log, in whatever steps, at whatever speed and with whatever interruptions, makes the
// same blocks of it, byte by byte, as the consumer that read it first.
func TestReplaysAgree(t *testing.T) {
	enabled(t)
	t.Parallel()
	dir := workDir(t)
	s := newInstance(t, dir, "all", append(never(), "--consumer.generation", "5s", "--producer.tick-interval", "1s", "--consumer.retain-shipped", "2s",
		"--consumer.max-generation-series", "230")...)
	fig := &figures{Seed: seed(t)}
	rng := rand.New(rand.NewPCG(fig.Seed, 1))
	s.start()
	s.ready(60 * time.Second)
	w := startLoad(t, dir, s.url("/api/v1/push"), fleet(fig.Seed, 100), 15_000)
	wait := func(requests int) {
		t.Helper()
		eventually(t, fmt.Sprintf("%d requests are acked", requests), 2*time.Minute, func() error {
			if n := w.ledger.Outcomes(); n[ledger.Acked] < requests {
				return fmt.Errorf("outcomes %v", n)
			}
			return nil
		})
	}
	wait(200)
	s.seal(time.Minute)
	wait(400)
	cuts := map[string]float64{}
	countCuts := func() {
		for _, reason := range []string{"time", "seal", "series"} {
			v, _, err := s.metric("sluice_consumer_generations_total", fmt.Sprintf("reason=%q", reason))
			require.NoError(t, err)
			cuts[reason] += v
		}
	}
	countCuts()
	s.kill() // the first reader is interrupted, too
	s.start()
	s.ready(60 * time.Second)
	wait(800)
	s.seal(time.Minute)
	stats := w.finish(60 * time.Second)
	require.Zero(t, stats.Rejected, stats.Problems)
	s.seal(time.Minute)
	countCuts()
	for _, reason := range []string{"time", "seal", "series"} {
		require.Positive(t, cuts[reason], "no generation was cut by %s: the test means less than it should", reason)
	}
	live, early := filepath.Join(dir, "out-live"), logStatus(t, "--data-dir", s.data)
	rebuilt(t, s.data, live, nil) // of a log that somebody writes to
	s.stop()

	status := logStatus(t, "--data-dir", s.data)
	bucket := filepath.Join(s.data, "bucket")
	metas := metasOf(t, bucket)
	want := contentsOf(t, bucket).blocks(func(string) bool { return true })
	generations, tenants, late := map[string]bool{}, map[schema.Tenant]bool{}, 0
	for name, m := range metas {
		require.Equal(t, 1, m.Compaction.Level, name)
		require.Len(t, m.Sluice.Ranges, 1, name)
		r := m.Sluice.Ranges[0]
		generations[fmt.Sprint(r)] = true
		tenants[m.Sluice.Tenant] = true
		if m.MaxTime < m.Sluice.LogFrom-time.Hour.Milliseconds() {
			late++
		}
	}
	require.Greater(t, len(generations), 8, "too few generations for the test to mean anything")
	require.GreaterOrEqual(t, len(tenants), 5)

	sameUpTo := func(status map[int32]offsets, what, out string) {
		t.Helper()
		got := metasOf(t, bucketIn(out))
		require.NotEmpty(t, got, "%s: nothing in %s", what, out)
		require.NoError(t, want.blocks(before(metas, status)).differ(contentsOf(t, bucketIn(out)).blocks(before(got, status))), what)
	}
	same := func(what, out string) {
		t.Helper()
		sameUpTo(status, what, out)
	}
	require.NoError(t, want.differ(want.blocks(before(metas, status))), "blocks of what is not committed")
	sameUpTo(early, "while the log was written to", live)

	var took []float64
	var whole time.Duration
	small, large := []string{}, []string{}
	if help, _ := sluice(t, time.Minute, "log", "rebuild", "--help"); strings.Contains(help, "--read-bytes") {
		small, large = []string{"--read-bytes", "5000"}, []string{"--read-bytes", strconv.Itoa(16 << 20)}
	}
	for i, c := range []struct {
		env, args []string
	}{
		{[]string{"GOMAXPROCS=1", "GOGC=20"}, small}, {[]string{"GOMAXPROCS=2"}, nil}, {[]string{"GOMAXPROCS=4", "GOGC=400"}, large},
	} {
		out := filepath.Join(dir, fmt.Sprintf("out-%d", i))
		whole = rebuilt(t, s.data, out, c.env, c.args...)
		took = append(took, whole.Seconds())
		same(fmt.Sprint(c.env, c.args), out)
	}

	out, kills := filepath.Join(dir, "out-killed"), 0
	for kills < 10 {
		cmd := rebuildCommand(s.data, out, nil)
		require.NoError(t, cmd.Start())
		done := make(chan struct{})
		go func() { defer close(done); _ = cmd.Wait() }()
		select {
		case <-done:
		case <-time.After(whole/20 + time.Duration(rng.Int64N(int64(whole*8/10)))):
			kills++
		}
		_ = cmd.Process.Kill() // an error says that it has ended
		<-done
	}
	rebuilt(t, s.data, out, nil)
	same("killed ten times", out)

	// One generation by itself.
	name := slices.Sorted(maps.Keys(metas))[len(metas)/2]
	r := metas[name].Sluice.Ranges[0]
	out = filepath.Join(dir, "out-range")
	rebuilt(t, s.data, out, nil, "--partition", fmt.Sprint(r.Partition), "--from", fmt.Sprint(r.From), "--to", fmt.Sprint(r.To))
	require.NoError(t, want.blocks(func(b string) bool { return metas[b].Sluice.Ranges[0] == r }).differ(
		contentsOf(t, bucketIn(out)).blocks(func(string) bool { return true })), "one generation: %v", r)

	after := contentsOf(t, bucket).blocks(func(string) bool { return true })
	require.NoError(t, want.differ(after), "a rebuild has touched the bucket")
	require.Equal(t, status, logStatus(t, "--data-dir", s.data), "a rebuild has touched the log")
	report(t, "replays of one log", map[string]any{
		"seed": fig.Seed, "samples": stats.Samples, "generations": len(generations), "cuts": cuts, "tenants": len(tenants), "blocks": len(metas),
		"blocks_an_hour_late": late, "files": len(want), "rebuilds": 6, "kills": kills, "rebuild_seconds": took,
	})
}

// quiet waits until the compactor has nothing to merge and nothing to delete any more: no change for a while.
func quiet(t *testing.T, s *instance, calm time.Duration) {
	t.Helper()
	var last contents
	since := time.Now()
	eventually(t, "the compactor comes to rest", 2*time.Minute, func() error {
		now := contentsOf(t, filepath.Join(s.data, "bucket")).blocks(func(string) bool { return true })
		if err := now.differ(last); err != nil {
			last, since = now, time.Now()
			return err
		}
		if time.Since(since) < calm {
			return fmt.Errorf("quiet for %s", time.Since(since))
		}
		return nil
	})
}

// compacted writes, seals, and waits until blocks were merged and their inputs deleted.
func compacted(t *testing.T, s *instance, fig *figures) *load {
	t.Helper()
	s.start()
	s.ready(60 * time.Second)
	w := startLoad(t, s.dir, s.url("/api/v1/push"), fleet(fig.Seed, 50), 6000)
	for i := 1; i <= 5; i++ {
		eventually(t, "requests are acked", 60*time.Second, func() error {
			if n := w.ledger.Outcomes(); n[ledger.Acked] < 100*i {
				return fmt.Errorf("outcomes %v", n)
			}
			return nil
		})
		s.seal(time.Minute)
	}
	stats := w.finish(60 * time.Second)
	require.Zero(t, stats.Rejected, stats.Problems)
	fig.Acked = stats.Samples
	s.seal(time.Minute)
	quiet(t, s, 8*time.Second)
	return w
}

// TestReplayAfterCompaction: what is read again after its blocks were merged and deleted changes nothing in the bucket.
func TestReplayAfterCompaction(t *testing.T) {
	enabled(t)
	t.Parallel()
	flags := append(fast(), "--tenancy.required", "--self-monitoring.tenant", "", "--compactor.deletion-delay", "2s")
	t.Run("commits lost", func(t *testing.T) {
		t.Parallel()
		dir := workDir(t)
		s := newInstance(t, dir, "all", flags...)
		fig := &figures{Scenario: "replay after compaction: commits.json removed", Seed: seed(t)}
		w := compacted(t, s, fig)
		s.stop()
		status := logStatus(t, "--data-dir", s.data)
		require.NoError(t, os.Remove(filepath.Join(s.data, "log", "commits.json")))
		require.NoError(t, os.RemoveAll(filepath.Join(s.data, "scratch")))
		again(t, s, w, fig, nil, func() error {
			for p, o := range logStatus(t, "--data-dir", s.data) {
				if o.committed < status[p].committed {
					return fmt.Errorf("partition %d: committed %d, was %d", p, o.committed, status[p].committed)
				}
			}
			return nil
		})
		fig.print(t)
	})
	t.Run("everything is read again", func(t *testing.T) {
		t.Parallel()
		broker, err := kfake.NewCluster(kfake.NumBrokers(1))
		require.NoError(t, err)
		t.Cleanup(broker.Close)
		kafka := []string{"--kafka.brokers", strings.Join(broker.ListenAddrs(), ",")}
		dir := workDir(t)
		s := newInstance(t, dir, "all", append(flags, kafka...)...)
		fig := &figures{Scenario: "replay after compaction: from the beginning of the log", Seed: seed(t)}
		w := compacted(t, s, fig)
		s.stop()
		status := logStatus(t, append(kafka, "--data-dir", s.data)...)
		forgetProgress(t, broker, len(status))
		require.NoError(t, os.RemoveAll(filepath.Join(s.data, "scratch")))
		again(t, s, w, fig, kafka, func() error {
			read := s.mustMetric("sluice_consumer_samples_total") + s.mustMetric("sluice_consumer_histograms_total")
			if read < float64(fig.Acked) {
				return fmt.Errorf("%v samples were read again, of %d", read, fig.Acked)
			}
			for p, o := range logStatus(t, append(kafka, "--data-dir", s.data)...) {
				if o.committed < status[p].committed {
					return fmt.Errorf("partition %d: committed %d, was %d", p, o.committed, status[p].committed)
				}
			}
			return nil
		})
		fig.print(t)
	})
}

// forgetProgress makes consumers start at the beginning of the log: no commits, and no partitions in the catalogue.
func forgetProgress(t *testing.T, broker *kfake.Cluster, partitions int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(broker.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	require.NoError(t, err)
	defer cl.Close()
	deleted, err := kadm.NewClient(cl).DeleteGroups(ctx, schema.ConsumerGroup)
	require.NoError(t, err)
	require.NoError(t, deleted.Error())
	for p := range partitions {
		require.NoError(t, cl.ProduceSync(ctx, &kgo.Record{Topic: "sluice.blocks", Key: fmt.Appendf(nil, "partition/%d", p)}).FirstErr())
	}
}

// again starts the instance and waits until done, then demands the bucket that was there before and the ledger.
func again(t *testing.T, s *instance, w *load, fig *figures, kafka []string, done func() error) {
	t.Helper()
	bucket := filepath.Join(s.data, "bucket")
	want, metas := contentsOf(t, bucket).blocks(func(string) bool { return true }), metasOf(t, bucket)
	merged, gone := 0, 0
	have := map[string]bool{}
	for _, m := range metas {
		have[m.ULID.String()] = true
	}
	for _, m := range metas {
		if m.Compaction.Level > 1 {
			merged++
		}
		for _, src := range m.Compaction.Sources {
			if !have[src.String()] {
				gone++
			}
		}
	}
	require.Positive(t, merged, "nothing was merged")
	require.Positive(t, gone, "no merged block was deleted")

	begun := time.Now()
	s.start()
	s.ready(2 * time.Minute)
	fig.ReadyMax = time.Since(begun).Seconds()
	eventually(t, "what was committed is committed again", 2*time.Minute, done)
	s.seal(2 * time.Minute)
	w.verify("after the replay", s.url(""), fig)
	quiet(t, s, 12*time.Second) // reconciliation and lifecycle have had their turns
	shipped, _, err := s.metric("sluice_consumer_shipped_blocks_total")
	require.NoError(t, err)
	require.Zero(t, shipped, "blocks came back")
	require.NoError(t, want.differ(contentsOf(t, bucket).blocks(func(string) bool { return true })), "the replay has changed the bucket")
	stopClean(t, s, kafka...)
	t.Logf("%d blocks in the bucket, %d merged, %d sources deleted; ready after %.1f s", len(metas), merged, gone, fig.ReadyMax)
}
