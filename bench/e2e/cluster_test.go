package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/bench/ledger"
	"sluice/internal/kafkatest"
)

// TestCluster: every stage doubled, consumers in two zones, on three brokers and a real S3 server. Whatever is killed,
// stopped, cut off, added and removed: nothing acked is lost, doubled, changed or shown to others; what is answered in
// the meantime is right, and what is not says why.
func TestCluster(t *testing.T) {
	enabled(t)
	begun := time.Now()
	dir, seed := workDir(t), seed(t)
	broker := kafkatest.Start(t, kafkatest.Config{Version: "4", Nodes: 3, Dir: filepath.Join(dir, "kafka")})
	store := startS3(t, dir, seed)
	c := newCluster(t, dir, "--kafka.brokers", strings.Join(broker.Brokers(), ","), "--objstore.config-file", store.yaml, "--log.partitions", "4")
	c.doubled()
	raw, err := kgo.NewClient(kgo.SeedBrokers(broker.Brokers()...))
	require.NoError(t, err)
	t.Cleanup(raw.Close)
	n := &nemesis{
		c: c, kafka: broker, admin: broker.Admin(t), raw: raw, store: store, rng: rand.New(rand.NewPCG(seed, 1)), most: 8, kinds: kindsWanted(),
		done: map[string]int{}, recovery: map[string]time.Duration{},
	}
	n.replicated()
	t.Logf("up after %s", time.Since(begun).Round(time.Second))

	const rate = 2000
	writes := &answered{next: c.write}
	w := startLoadOf(t, dir, crowd(seed), c.writeConfig(&http.Client{Transport: writes}, rate))
	strongly, eventual, enough := c.watchers(2, w, seed, n.during)
	sealed := c.sealing(rand.New(rand.NewPCG(seed, 2)))
	faulty := time.Now()
	n.run(time.Duration(number(t, "SLUICE_CLUSTER_SECONDS", 100)) * time.Second)
	faults := time.Since(faulty)
	asked := sealed()
	enough()
	stats := w.finish(90 * time.Second)
	c.ready(time.Minute)

	fig := &figures{Seed: seed}
	fig.add(strongly.report)
	fig.add(eventual.report)
	print := func() {
		fig.Lost += strongly.report.Counts[ledger.Vanished] + eventual.report.Counts[ledger.Vanished]
		report(t, "three brokers, S3, every stage doubled, two zones", map[string]any{
			"seed": seed, "seconds": int(time.Since(begun).Seconds()), "seconds_of_faults": int(faults.Seconds()), "faults": n.done,
			"slowest_recovery_s": rounded(n.recovery), "requests_acked": stats.Acked, "samples_acked": stats.Samples, "requests_unknown": stats.Unknown,
			"requests_rejected": stats.Rejected, "retries": stats.Retries, "requests_sent_twice": stats.Duplicates, "requests_sent_on": c.write.again,
			"seals_asked": asked, "longest_write_outage_s": stats.Outage.Seconds(), "samples_verified": fig.Verified, "lost": fig.Lost,
			"doubled": fig.Duplicated, "altered_or_invented": fig.Wrong, "foreign": fig.Foreign,
			"strong_reads": strongly.figures(), "eventual_reads": eventual.figures(), "s3": store.proxy.counts(),
		})
	}
	t.Logf("wrote for %s: %+v", stats.Took.Round(time.Second), stats)
	defer print()
	for i, failed := range writes.failed {
		if i%max(1, len(writes.failed)/12) == 0 {
			t.Logf("failed write, %d of %d: %s", i+1, len(writes.failed), failed)
		}
	}
	strongly.right(t)
	eventual.right(t)
	require.Zero(t, stats.Rejected, "refused: %q", stats.Problems)
	require.Zero(t, stats.Unknown)
	require.Zero(t, stats.WrongWritten, stats.Problems)
	require.Zero(t, stats.MissingRetryAfter, "429 or 503 without Retry-After")
	require.Greater(t, float64(stats.Samples), 0.2*rate*stats.Took.Seconds(), "too little was acked for the test to mean anything")
	require.Zero(t, eventual.zoneGap, "eventual reads failed although one zone and everything else was there")

	readers := c.of("reader", "")
	w.verify("from heads", readers[0].url(""), fig)
	for _, zone := range []string{"a", "b"} { // each zone alone has everything
		c.stopZone(zone, func() { w.verify("from heads without zone "+zone, readers[1].url(""), fig, ledger.PathChunks) })
	}
	ends, err := n.admin.ListEndOffsets(context.Background(), samplesTopic)
	require.NoError(t, err)
	c.of("producer", "")[0].seal(2 * time.Minute)
	committed := c.committed(n.admin, ends)
	w.verify("from blocks", readers[1].url(""), fig)

	for _, m := range c.members {
		m.stop()
		m.wipe()
	}
	trimmed, err := n.admin.DeleteRecords(context.Background(), committed)
	require.NoError(t, err)
	require.NoError(t, trimmed.Error())
	for _, m := range c.members {
		m.start()
	}
	c.ready(2 * time.Minute)
	w.verify("after a cold start without scratch, with the log trimmed", readers[0].url(""), fig)

	merged, blocks := 0, metasOf(t, filepath.Join(dir, "s3", s3Bucket))
	for _, m := range blocks {
		if m.Thanos.Source == "sluice.compactor" {
			merged++
		}
	}
	t.Logf("%d blocks, %d of them merged", len(blocks), merged)
	require.Positive(t, merged, "nothing was compacted")
	c.seen()
	c.sound()
	require.ElementsMatch(t, n.kinds, slices.Collect(maps.Keys(n.done)), "some kind of fault did not happen")
}

func rounded(m map[string]time.Duration) map[string]float64 {
	out := map[string]float64{}
	for k, d := range m {
		out[k] = d.Round(100 * time.Millisecond).Seconds()
	}
	return out
}

// sealing ends generations at random times. The returned function stops it and says how often it was done.
func (c *cluster) sealing(rng *rand.Rand) func() int {
	ctx, cancel := context.WithCancel(context.Background())
	done, n := make(chan struct{}), 0
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if c.sealSome(ctx) == nil {
				n++
			}
			select {
			case <-ctx.Done():
			case <-time.After(3*time.Second + time.Duration(rng.Int64N(int64(9*time.Second)))):
			}
		}
	}()
	stop := sync.OnceFunc(func() { cancel(); <-done })
	c.t.Cleanup(stop)
	return func() int { stop(); return n }
}

// stopZone kills a zone's consumers, does something, and starts them again.
func (c *cluster) stopZone(zone string, do func()) {
	c.t.Helper()
	all := c.of("consumer", zone)
	for _, m := range all {
		m.kill()
	}
	do()
	for _, m := range all {
		m.start()
	}
	for _, m := range all {
		m.ready(time.Minute)
	}
}

// committed waits until every group that commits offsets of samples has reached the ends, and returns the least of them.
func (c *cluster) committed(admin *kadm.Client, ends kadm.ListedOffsets) kadm.Offsets {
	c.t.Helper()
	least := kadm.Offsets{}
	eventually(c.t, "all is committed", time.Minute, func() error {
		least = kadm.Offsets{}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		groups, err := admin.ListGroups(ctx)
		if err != nil {
			return err
		}
		for _, group := range groups.Groups() {
			offsets, err := admin.FetchOffsets(ctx, group)
			if err != nil {
				return err
			}
			if len(offsets[samplesTopic]) == 0 {
				continue // it commits nothing
			}
			for p, end := range ends[samplesTopic] {
				at, ok := offsets.Lookup(samplesTopic, p)
				if !ok || at.At < end.Offset {
					return fmt.Errorf("group %s has committed %d of partition %d, whose end is %d", group, at.At, p, end.Offset)
				}
				if before, ok := least.Lookup(samplesTopic, p); !ok || at.At < before.At {
					least.Add(kadm.Offset{Topic: samplesTopic, Partition: p, At: at.At})
				}
			}
		}
		if len(least) == 0 {
			return fmt.Errorf("no group of %q commits", groups.Groups())
		}
		return nil
	})
	return least
}

// seen demands that every reader shows the whole cluster and finds nothing wrong with it. It asks nobody: what it shows stands in the log.
func (c *cluster) seen() {
	c.t.Helper()
	for _, reader := range c.of("reader", "") {
		eventually(c.t, "the reader shows the whole pipeline, and healthy", time.Minute, func() error {
			var got struct {
				Data struct {
					Health struct {
						State    string
						Problems []struct{ What string }
					}
					Processes []struct {
						ID     string
						Silent bool
					}
					Partitions []struct{ Holders []struct{ ID string } }
				}
			}
			resp, err := http.Get(reader.url("/-/pipeline"))
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if err := json.NewDecoder(resp.Body).Decode(&got); err != nil {
				return err
			}
			there := 0
			for _, p := range got.Data.Processes {
				if !p.Silent {
					there++
				}
			}
			for i, p := range got.Data.Partitions {
				if len(p.Holders) < 2 {
					return fmt.Errorf("partition %d has %d holders, wanted one of each zone", i, len(p.Holders))
				}
			}
			if got.Data.Health.State != "ok" || there != len(c.members) || len(got.Data.Partitions) == 0 {
				return fmt.Errorf("%s: %+v; %d of %d processes, %d partitions", got.Data.Health.State, got.Data.Health.Problems, there, len(c.members), len(got.Data.Partitions))
			}
			return nil
		})
	}
}

// sound stops everything at a moment at which nothing is half done, and demands that a deep check finds nothing.
func (c *cluster) sound() {
	c.t.Helper()
	for try := 0; ; try++ {
		settled(c.t, c.members[0].instance, c.shared...)
		for _, m := range slices.Backward(c.members) {
			m.stop()
		}
		out, exit := sluice(c.t, 2*time.Minute, append([]string{"check", "--data-dir", c.dir, "--deep"}, c.shared...)...)
		if exit == 0 {
			c.t.Logf("sluice check:\n%s", out)
			return
		}
		require.Contains(c.t, out, "part of an upload", "a stop in the middle of an upload leaves a part of it, and nothing else does")
		require.Less(c.t, try, 4, "there is always something half done:\n%s", out)
		for _, m := range c.members {
			m.start()
		}
		c.ready(time.Minute)
	}
}
