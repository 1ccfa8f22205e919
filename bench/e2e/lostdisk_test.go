package e2e

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"sluice/bench/ledger"
)

// fakeCluster is a cluster on a fake broker in this process, with a bucket in a directory and nobody in it yet.
func fakeCluster(t *testing.T) (c *cluster, bucket string) {
	t.Helper()
	broker, err := kfake.NewCluster(kfake.NumBrokers(1))
	require.NoError(t, err)
	t.Cleanup(broker.Close)
	dir := workDir(t)
	bucket, conf := directoryBucket(t, dir)
	return newCluster(t, dir, "--kafka.brokers", strings.Join(broker.ListenAddrs(), ","), "--objstore.config-file", conf, "--log.partitions", "4"), bucket
}

// zoned are the flags of a consumer that is forgotten within seconds.
func zoned(zone string) []string {
	return []string{"--consumer.zone", zone, "--consumer.session-timeout", "6s", "--consumer.retain-shipped", "1s"}
}

// oneVersion demands that no generation is in the bucket in two versions: a block is named by what is in it, so a consumer
// that had built something else would have added a block of another name. It returns the blocks' names.
func oneVersion(t *testing.T, bucket string) []string {
	t.Helper()
	metas := metasOf(t, bucket)
	seen := map[string]string{}
	for name, m := range metas {
		require.Len(t, m.Sluice.Ranges, 1, "%s is no consumer's block", name)
		what := fmt.Sprintf("%s %+v window %d", m.Sluice.Tenant, m.Sluice.Ranges[0], m.MinTime/(2*time.Hour).Milliseconds())
		require.Empty(t, seen[what], "a second version of %s: %s", what, name)
		seen[what] = name
	}
	return slices.Sorted(maps.Keys(metas))
}

// TestLostDisk: a consumer that died with blocks half announced and lost its disk, another that takes its place under another
// name, and one of the other zone come to the same blocks, byte for byte.
func TestLostDisk(t *testing.T) {
	enabled(t)
	t.Parallel()
	begun := time.Now()
	bin, err := buildFailpoints()
	require.NoError(t, err)
	c, bucket := fakeCluster(t)
	// Generations end when the test says so; nobody merges.
	prod := c.add("producer", "", "producer-0", "--tenancy.required", "--producer.tick-interval", "1s", "--consumer.generation", "1h")
	read := c.add("reader", "", "reader-0", "--tenancy.required")
	a := c.prepare("consumer", "a", "consumer-a-0", zoned("a")...)
	b := c.prepare("consumer", "b", "consumer-b-0", zoned("b")...)
	other := c.prepare("consumer", "a", "consumer-a-other", zoned("a")...)
	fig := &figures{Scenario: "consumers that lost their disk, or everything", Seed: seed(t)}
	prod.ready(time.Minute)
	spec := fleet(fig.Seed, 100)
	w := startLoadOf(t, c.dir, spec, ledger.WriteConfig{
		URL: prod.url("/api/v1/push"), TenantHeader: "X-Scope-OrgID", Writers: 2, Rate: 4000, Ticks: 10, Duplicate: 25, MaxBackoff: 500 * time.Millisecond,
	})
	acked := 0
	more := func() {
		acked += 60
		eventually(t, "requests are acked", time.Minute, func() error {
			if n := w.ledger.Outcomes()[ledger.Acked]; n < acked {
				return fmt.Errorf("%d of %d", n, acked)
			}
			return nil
		})
	}
	// dies lets a consumer build and upload blocks, and kills it before it could tell.
	dies := func(m *member) (uploaded []string) {
		m.bin, m.env = bin, []string{"SLUICE_FAILPOINT=consumer/uploaded"}
		if m.process != nil {
			m.kill()
		}
		m.start()
		more()
		r, err := post(t.Context(), prod.url("/-/seal"), "", "", nil)
		require.NoError(t, err)
		require.Less(t, r.status, 300, string(r.body))
		select {
		case <-m.exited:
		case <-time.After(time.Minute):
			require.Fail(t, "the step was not met", "%s", m.name)
		}
		m.bin, m.env = "", nil
		return oneVersion(t, bucket)
	}
	contain := func(after string, blocks []string) []string {
		now := oneVersion(t, bucket)
		for _, name := range blocks {
			require.Contains(t, now, name, after)
		}
		t.Logf("%s: %d blocks, %d of them from before", after, len(now), len(blocks))
		return now
	}

	before := dies(a)
	require.NotEmpty(t, before)
	a.wipe()
	a.start()
	a.ready(time.Minute)
	prod.seal(time.Minute)
	contain("the consumer that lost its disk", before)
	a.kill()

	before = dies(b)
	b.wipe()
	other.start() // consumer-a-0 never comes back: its place is free when its session has ended
	other.ready(time.Minute)
	prod.seal(time.Minute)
	contain("one that lost everything, its name too", before)

	before = dies(other)
	b.start() // behind by whatever zone a has shipped
	b.ready(time.Minute)
	prod.seal(time.Minute)
	before = contain("one of the other zone", before)

	stats := w.finish(time.Minute)
	fig.Requests, fig.Acked, fig.Kills = stats.Acked, stats.Samples, 4
	require.Zero(t, stats.Rejected, stats.Problems)
	read.ready(time.Minute)
	w.verify("from heads", read.url(""), fig)
	prod.seal(time.Minute)
	w.verify("from blocks", read.url(""), fig)
	contain("in the end", before)
	c.members = append(c.members, b)
	c.sound()
	fig.Seconds = time.Since(begun).Seconds()
	fig.print(t)
}

var takenLine = regexp.MustCompile(`msg="partition (taken|goes to another[^"]*|handed over)" partition=(\d+)`)

// moves are the partitions that a consumer has taken, and whether any has left it, since the mark.
func moves(m *member, mark int64) (taken []string, left int) {
	for _, line := range takenLine.FindAllStringSubmatch(m.says(mark), -1) {
		if line[1] == "taken" {
			taken = append(taken, line[2])
		} else {
			left++
		}
	}
	slices.Sort(taken)
	return taken, left
}

// TestOrdinal: consumers that take partitions by their number share them out, and none moves when one of them is away.
func TestOrdinal(t *testing.T) {
	enabled(t)
	t.Parallel()
	begun := time.Now()
	c, _ := fakeCluster(t)
	prod := c.add("producer", "", "producer-0", "--tenancy.required", "--producer.tick-interval", "1s", "--consumer.generation", "5s")
	read := c.add("reader", "", "reader-0", "--tenancy.required")
	var cons []*member
	for i := range 2 {
		cons = append(cons, c.add("consumer", "a", fmt.Sprintf("consumer-a-%d", i), append(zoned("a"), "--consumer.assignment", "ordinal", "--consumer.count", "2")...))
	}
	c.ready(time.Minute)
	fig := &figures{Scenario: "assignment by number", Seed: seed(t)}
	w := startLoadOf(t, c.dir, fleet(fig.Seed, 50), ledger.WriteConfig{
		URL: prod.url("/api/v1/push"), TenantHeader: "X-Scope-OrgID", Writers: 1, Rate: 2000, Ticks: 10, Duplicate: 25, MaxBackoff: 500 * time.Millisecond,
	})
	for i, want := range [][]string{{"0", "2"}, {"1", "3"}} {
		taken, left := moves(cons[i], 0)
		require.Equal(t, want, taken, cons[i].name)
		require.Zero(t, left)
	}
	marks := []int64{cons[0].mark(), cons[1].mark()}
	cons[1].kill()
	// What it holds is missing, and said to be: nobody takes it over, and the others are not disturbed.
	eventually(t, "a query that needs the other half is refused", time.Minute, func() error {
		_, err := instant(read.url("/prometheus"), "team-a", "count({__name__=~\"ledger.*\"})", time.Now())
		if err == nil {
			return errors.New("answered, with half of the consumers away")
		}
		t.Logf("with one consumer away: %v", err)
		return nil
	})
	n := w.ledger.Outcomes()[ledger.Acked]
	eventually(t, "writes go on", time.Minute, func() error {
		if now := w.ledger.Outcomes()[ledger.Acked]; now < n+20 {
			return fmt.Errorf("%d of %d", now, n+20)
		}
		return nil
	})
	cons[1].start()
	cons[1].ready(time.Minute)
	taken, left := moves(cons[0], marks[0])
	require.Empty(t, taken, "the one that stayed took partitions")
	require.Zero(t, left, "the one that stayed lost partitions")
	taken, left = moves(cons[1], marks[1])
	require.Equal(t, []string{"1", "3"}, taken)
	require.Zero(t, left)

	stats := w.finish(time.Minute)
	fig.Requests, fig.Acked, fig.Kills = stats.Acked, stats.Samples, 1
	w.verify("from heads", read.url(""), fig)
	prod.seal(time.Minute)
	w.verify("from blocks", read.url(""), fig)
	c.sound()
	fig.Seconds = time.Since(begun).Seconds()
	fig.print(t)
}
