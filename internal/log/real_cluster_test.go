package log_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/internal/kafkatest"
	"sluice/internal/log"
)

// TestRealPaused: while the only broker is stopped, not dead, an append fails in bounded time; it works again by itself.
func TestRealPaused(t *testing.T) {
	t.Parallel()
	cluster := realKafka(t, kafkatest.Config{})
	l, err := log.NewKafka(log.KafkaConfig{Brokers: cluster.Brokers(), DeliveryTimeout: time.Second}, quiet(), nil)
	require.NoError(t, err)
	defer l.Close()
	require.NoError(t, l.EnsureTopics(t.Context()))
	recs := []log.Record{{Value: []byte("x")}}
	require.NoError(t, l.Append(t.Context(), log.TopicSamples, recs))
	cluster.Pause(0)
	begin := time.Now()
	require.Error(t, l.Append(t.Context(), log.TopicSamples, recs))
	t.Logf("an append to a broker that is stopped failed after %s", time.Since(begin).Round(time.Millisecond))
	cluster.Resume(0)
	eventually(t, time.Minute, "an append works again", func(ctx context.Context) error {
		return l.Append(ctx, log.TopicSamples, recs)
	})
}

// TestRealThreeBrokers: what topics are created with and held to, membership and appends over the death of a broker.
func TestRealThreeBrokers(t *testing.T) {
	t.Parallel()
	cluster := realKafka(t, kafkatest.Config{Nodes: 3, Properties: map[string]string{"min.insync.replicas": "1"}})
	admin := cluster.Admin(t)
	l, err := log.NewKafka(log.KafkaConfig{Brokers: cluster.Brokers(), Partitions: joinPartitions}, quiet(), nil)
	require.NoError(t, err)
	defer l.Close()
	require.NoError(t, l.EnsureTopics(t.Context()))
	require.NoError(t, l.EnsureTopics(t.Context()), "what it creates, it accepts")
	figures(t, "three brokers", l)

	alter := func(key, value string) {
		_, err := admin.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: key, Value: &value}}, log.TopicBlocks)
		require.NoError(t, err)
	}
	for key, c := range map[string]struct{ bad, good string }{
		"min.insync.replicas": {"1", "2"}, "unclean.leader.election.enable": {"true", "false"}, "cleanup.policy": {"delete", "compact"},
		"message.timestamp.type": {"CreateTime", "LogAppendTime"}, "max.message.bytes": {"1000", "1048576"},
	} {
		alter(key, c.bad)
		var err error
		eventually(t, time.Minute, key+" is seen", func(ctx context.Context) error {
			if err = l.EnsureTopics(ctx); err == nil {
				return errors.New("it is accepted")
			}
			return nil
		})
		require.ErrorContains(t, err, "--entity-name sluice.blocks --add-config "+key+"="+c.good)
		alter(key, c.good)
		eventually(t, time.Minute, key+" is mended", func(ctx context.Context) error { return l.EnsureTopics(ctx) })
	}
	t.Run("Rack", func(t *testing.T) { testRack(t, cluster, admin, l) })
	t.Run("BrokerDies", func(t *testing.T) { testBrokerDies(t, cluster, admin, l) })
}

// testRack: a reader with a rack fetches from the replica there, though another broker leads.
func testRack(t *testing.T, cluster *kafkatest.Cluster, admin *kadm.Client, l *log.Kafka) {
	topics, err := admin.ListTopics(t.Context(), log.TopicSamples)
	require.NoError(t, err)
	near := topics[log.TopicSamples].Partitions[0].Leader%3 + 1 // not the leader; broker n is in rack-(n-1)
	fetched := &fetchHook{from: map[int32]int{}}
	reader, err := log.NewKafka(log.KafkaConfig{
		Brokers: cluster.Brokers(), ClientRack: fmt.Sprintf("rack-%d", near-1), Options: []kgo.Opt{kgo.WithHooks(fetched)},
	}, quiet(), nil)
	require.NoError(t, err)
	defer reader.Close()
	b, err := l.Bounds(t.Context(), log.TopicSamples, 0)
	require.NoError(t, err)
	r, err := reader.Reader(log.TopicSamples, 0, b.End)
	require.NoError(t, err)
	defer r.Close()
	next := b.End
	eventually(t, time.Minute, "records come from the near replica", func(ctx context.Context) error {
		if err := l.Append(ctx, log.TopicSamples, []log.Record{{Value: []byte("x")}}); err != nil {
			return err
		}
		recs, err := r.Next(ctx)
		if err != nil {
			return err
		}
		for _, rec := range recs {
			require.Equal(t, next, rec.Offset)
			next++
		}
		return fetched.seen(near)
	})
}

// fetchHook counts answers to Fetch by broker.
type fetchHook struct {
	mu   sync.Mutex
	from map[int32]int
}

func (h *fetchHook) OnBrokerRead(meta kgo.BrokerMetadata, key int16, _ int, _, _ time.Duration, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if key == 1 && err == nil {
		h.from[meta.NodeID]++
	}
}

func (h *fetchHook) seen(broker int32) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.from[broker] < 2 {
		return fmt.Errorf("%v", h.from)
	}
	return nil
}

// testBrokerDies kills the broker that coordinates a group and leads partitions, while one writes: every append that is
// acknowledged is read once, and no member loses a partition.
func testBrokerDies(t *testing.T, cluster *kafkatest.Cluster, admin *kadm.Client, l *log.Kafka) {
	g := &joinGroup{brokers: cluster.Brokers(), name: "survivors"}
	a, b := g.join(t, "a", patient), g.join(t, "b", patient)
	settled(t, joinPartitions, a, b)
	coordinators := admin.FindGroupCoordinators(t.Context(), g.name)
	require.NoError(t, coordinators.Error())
	victim := int(coordinators[g.name].NodeID) - 1
	calls := map[*joinMember]int{a: len(a.history()), b: len(b.history())}

	acked := map[string]int64{}
	slowest := time.Duration(0)
	write := func(i int) {
		recs := []log.Record{{Partition: int32(i % joinPartitions), Value: fmt.Appendf(nil, "%d", i)}}
		begin := time.Now()
		if err := l.Append(t.Context(), log.TopicSamples, recs); err == nil {
			acked[string(recs[0].Value)] = recs[0].Offset
		} else {
			t.Logf("append: %v", err)
		}
		slowest = max(slowest, time.Since(begin))
	}
	for i := range 200 {
		if i == 50 {
			cluster.Kill(victim)
		}
		write(i)
	}
	cluster.Restart(victim)
	for i := 200; i < 300; i++ {
		write(i)
	}
	t.Logf("%d of 300 appends were acknowledged, the slowest took %s", len(acked), slowest.Round(time.Millisecond))
	ends, err := l.Ends(t.Context(), log.TopicSamples)
	require.NoError(t, err)
	seen := map[string]int64{}
	for p, end := range ends {
		r, err := l.Reader(log.TopicSamples, int32(p), 0)
		require.NoError(t, err)
		for r.Position() < end {
			recs, err := r.Next(t.Context())
			require.NoError(t, err)
			for _, rec := range recs {
				seen[string(rec.Value)] = rec.Offset
			}
		}
		require.NoError(t, r.Close())
	}
	for value, offset := range acked {
		require.Equal(t, offset, seen[value], value)
	}
	c := g.join(t, "c", patient) // the new coordinator knows the group
	settled(t, joinPartitions, a, b, c)
	for m, n := range calls {
		history := m.history()[n-1:]
		kept := 0
		for _, p := range m.has() {
			if !slices.Contains(history[0], p) { // the balancer may swap some while it makes room for c
				continue
			}
			kept++
			for _, has := range history {
				require.Contains(t, has, p, "what a member has before and after, it has all the time")
			}
		}
		require.Positive(t, kept)
	}
}

func TestRealFigures(t *testing.T) {
	cluster := realKafka(t, kafkatest.Config{})
	l, err := log.NewKafka(log.KafkaConfig{Brokers: cluster.Brokers(), Partitions: joinPartitions}, quiet(), nil)
	require.NoError(t, err)
	defer l.Close()
	require.NoError(t, l.EnsureTopics(t.Context()))
	figures(t, "one broker", l)
}

// figures logs how long appends and questions take. It asserts nothing: the machine may be busy.
func figures(t *testing.T, what string, l *log.Kafka) {
	t.Helper()
	quantiles := func(name string, n int, f func(i int) error) {
		took := make([]time.Duration, n)
		for i := range took {
			begin := time.Now()
			require.NoError(t, f(i))
			took[i] = time.Since(begin)
		}
		slices.Sort(took)
		t.Logf("SLUICE-FIGURES %s: %s p50 %s p99 %s", what, name, took[n/2].Round(10*time.Microsecond), took[n*99/100].Round(10*time.Microsecond))
	}
	value := make([]byte, 10_000)
	quantiles("append of 10 kB", 500, func(i int) error {
		return l.Append(t.Context(), log.TopicSamples, []log.Record{{Partition: int32(i % joinPartitions), Value: value}})
	})
	quantiles("ends of 12 partitions", 200, func(int) error {
		_, err := l.Ends(t.Context(), log.TopicSamples)
		return err
	})
	quantiles("bounds of each, one after the other,", 50, func(int) error {
		for p := range int32(joinPartitions) {
			if _, err := l.Bounds(t.Context(), log.TopicSamples, p); err != nil {
				return err
			}
		}
		return nil
	})
}
