package consumer

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"sluice/internal/log"
	"sluice/schema"
)

// cluster is a Kafka and a bucket that several consumers share.
type cluster struct {
	t       *testing.T
	dir     string
	brokers []string
}

func newCluster(t *testing.T) *cluster {
	broker, err := kfake.NewCluster(kfake.NumBrokers(1))
	require.NoError(t, err)
	t.Cleanup(broker.Close)
	return &cluster{t: t, dir: t.TempDir(), brokers: broker.ListenAddrs()}
}

// consumer starts one consumer of the cluster, with its own connections, catalogue and scratch folder. It does not wait.
func (c *cluster) consumer(name, zone string, change ...func(*Config)) *system {
	t := c.t
	t.Helper()
	logger := slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn})).With("consumer", name)
	s := &system{t: t, dir: c.dir, reg: prometheus.NewRegistry()}
	k, err := log.NewKafka(log.KafkaConfig{Brokers: c.brokers, Partitions: testPartitions, ClientID: name}, logger, nil)
	require.NoError(t, err)
	require.NoError(t, k.EnsureTopics(context.Background()))
	s.log = k
	s.run(Config{
		InstanceID: name, Zone: zone, Scratch: filepath.Join(c.dir, "scratch-"+name),
		RetainShipped: time.Nanosecond, AnnounceInterval: 100 * time.Millisecond, SessionTimeout: 10 * time.Second,
	}, logger, change)
	return s
}

// holds tells which partitions a consumer answers for.
func (s *system) holds() []int32 {
	var ids []int32
	for _, c := range s.consumer.Coverage() {
		ids = append(ids, c.Partition)
	}
	return ids
}

func (s *system) eventuallyHolds(n int) {
	s.t.Helper()
	s.eventually(func() error {
		if ids := s.holds(); len(ids) != n {
			return fmt.Errorf("holds %v, want %d partitions", ids, n)
		}
		return nil
	})
}

// someTraffic writes n records and notes them.
func (s *system) someTraffic(rnd *rand.Rand, l ledger, now *int64, n int) {
	for range n {
		tenant, lset, samples := traffic(rnd, now)
		s.write(tenant, lset, samples...)
		for _, hist := range []bool{false, true} { // the order inside of a TimeSeries
			for _, smp := range samples {
				if (smp.h != nil) == hist {
					l.add(tenant, lset, smp)
				}
			}
		}
	}
}

// TestZones: each zone holds everything, the blocks are uploaded once, and one zone is enough.
func TestZones(t *testing.T) {
	c := newCluster(t)
	a, b := c.consumer("a-0", "a"), c.consumer("b-0", "b")
	a.eventually(a.consumer.Ready)
	b.eventually(b.consumer.Ready)
	rnd, l, now := rand.New(rand.NewPCG(1, 2)), ledger{}, int64(1_700_000_000_000)
	for range 3 {
		a.someTraffic(rnd, l, &now, 100)
		a.verify(l)
		b.verify(l)
		a.seal()
		a.verify(l)
		b.verify(l)
	}
	shippedBy := func(s *system) float64 { return counter(t, s.reg, "sluice_consumer_shipped_blocks_total") }
	blocks := len(a.catalog.All())
	require.EqualValues(t, blocks, shippedBy(a)+shippedBy(b), "each block is uploaded by one of the zones")
	require.NotZero(t, blocks)

	a.stop()
	b.someTraffic(rnd, l, &now, 100)
	b.verify(l)
	b.seal()
	b.verify(l)
	for _, s := range []*system{a, b} {
		require.Zero(t, counter(t, s.reg, "sluice_consumer_divergent_blocks_total"))
		require.Zero(t, counter(t, s.reg, "sluice_consumer_missed_offsets_total"))
	}
}

// TestPartitionsMove: when consumers come and go, there is somebody to answer for every partition at every moment.
func TestPartitionsMove(t *testing.T) {
	c := newCluster(t)
	first := c.consumer("c-0", "")
	first.eventually(first.consumer.Ready)
	first.eventuallyHolds(testPartitions)
	rnd, l, now := rand.New(rand.NewPCG(3, 4)), ledger{}, int64(1_700_000_000_000)
	first.someTraffic(rnd, l, &now, 100)

	// The one that lets go is asked first: what it does not hold any more, the other holds already.
	held := func(from, to *system) {
		holds := from.holds()
		holds = append(holds, to.holds()...)
		for p := range int32(testPartitions) {
			require.Contains(t, holds, p, "nobody answers for partition %d", p)
		}
	}
	second := c.consumer("c-1", "")
	first.eventually(func() error {
		held(first, second)
		if a, b := first.holds(), second.holds(); len(a) != 1 || len(b) != 1 {
			return fmt.Errorf("shared as %v and %v", a, b)
		}
		return nil
	})
	first.someTraffic(rnd, l, &now, 100)

	left := make(chan error, 1)
	go func() { left <- first.consumer.Leave(context.Background()) }()
	first.eventually(func() error {
		held(first, second)
		if a, b := first.holds(), second.holds(); len(a) != 0 || len(b) != testPartitions {
			return fmt.Errorf("shared as %v and %v", a, b)
		}
		return nil
	})
	require.NoError(t, <-left)
	first.stop()
	second.verify(l)
	second.seal()
	second.verify(l)
	require.Zero(t, counter(t, second.reg, "sluice_consumer_divergent_blocks_total"))
}

// TestOrdinals: by number, each consumer has its own, and nothing moves when one goes.
func TestOrdinals(t *testing.T) {
	c := newCluster(t)
	var all []*system
	for i := range testPartitions {
		all = append(all, c.consumer(fmt.Sprint("c-", i), "", func(cfg *Config) { cfg.Ordinal, cfg.Count = i, testPartitions }))
	}
	for i, s := range all {
		s.eventuallyHolds(1)
		require.Equal(t, []int32{int32(i)}, s.holds())
	}
	all[0].stop()
	require.Equal(t, []int32{1}, all[1].holds())
	require.Error(t, all[1].consumer.Leave(context.Background()))
}

func TestMemberGroup(t *testing.T) {
	require.NotEqual(t, schema.ConsumerGroup, schema.MemberGroup(""))
	require.NotEqual(t, schema.MemberGroup("a"), schema.MemberGroup("b"))
}
