package log

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	promconfig "github.com/prometheus/common/config"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	keyProduce     = 0
	keyFetch       = 1
	keyListOffsets = 2
)

func kafkaTest(t *testing.T, cfg KafkaConfig) (*Kafka, *kfake.Cluster) {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(3))
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	cfg.Brokers = cluster.ListenAddrs()
	if cfg.Partitions == 0 {
		cfg.Partitions = 2
	}
	k, err := NewKafka(cfg, slog.New(slog.DiscardHandler), nil)
	require.NoError(t, err)
	t.Cleanup(func() { _ = k.Close() })
	return k, cluster
}

func TestEnsureTopics(t *testing.T) {
	k, cluster := kafkaTest(t, KafkaConfig{Retention: 48 * time.Hour})
	require.NoError(t, k.EnsureTopics(t.Context()))
	require.NoError(t, k.EnsureTopics(t.Context()), "what it creates, it accepts")
	for topic, want := range map[string]map[string]string{
		TopicSamples:    {"cleanup.policy": "delete", "message.timestamp.type": "LogAppendTime", "retention.ms": "172800000"},
		TopicBlocks:     {"cleanup.policy": "compact", "message.timestamp.type": "LogAppendTime"},
		TopicControl:    {"cleanup.policy": "compact", "message.timestamp.type": "LogAppendTime"},
		TopicDeadLetter: {"cleanup.policy": "delete", "message.timestamp.type": "LogAppendTime", "retention.ms": "172800000"},
	} {
		info := cluster.TopicInfo(topic)
		for key, v := range want {
			require.Equal(t, v, *info.Configs[key], "%s of %s", key, topic)
		}
	}
	n, err := k.Partitions(t.Context(), TopicSamples)
	require.NoError(t, err)
	require.Equal(t, int32(2), n)
}

func TestEnsureTopicsRefuses(t *testing.T) {
	for _, c := range []struct {
		topic      string
		partitions int32
		configs    map[string]string
		want       []string
	}{
		{TopicSamples, 2, map[string]string{"message.timestamp.type": "LogAppendTime", "retention.ms": "3600000"}, []string{
			"retention.ms is 3600000, want 86400000", "--entity-name sluice.samples --add-config retention.ms=86400000"}},
		{TopicSamples, 2, map[string]string{"cleanup.policy": "compact"}, []string{
			"cleanup.policy is compact, want delete", "--add-config cleanup.policy=delete,message.timestamp.type=LogAppendTime"}},
		{TopicSamples, 2, map[string]string{"message.timestamp.type": "LogAppendTime", "max.message.bytes": "1000"}, []string{
			"max.message.bytes is 1000, want 1048576", "--add-config max.message.bytes=1048576"}},
		{TopicBlocks, 1, map[string]string{"message.timestamp.type": "LogAppendTime", "cleanup.policy": "compact,delete"}, []string{
			"--entity-name sluice.blocks --add-config cleanup.policy=compact"}},
		{TopicControl, 3, map[string]string{"message.timestamp.type": "LogAppendTime", "cleanup.policy": "compact"}, []string{
			"sluice.control has 3 partitions, want 1", "kafka-topics.sh"}},
	} {
		k, cluster := kafkaTest(t, KafkaConfig{})
		require.NoError(t, cluster.CreateTopic(c.topic, c.partitions, c.configs))
		err := k.EnsureTopics(t.Context())
		for _, want := range c.want {
			require.ErrorContains(t, err, want)
		}
	}
}

func TestKafkaConfig(t *testing.T) {
	c := KafkaConfig{Brokers: []string{"localhost:9092"}}
	require.NoError(t, c.Validate())
	for _, bad := range []KafkaConfig{
		{}, {Brokers: c.Brokers, Compression: "brotli"}, {Brokers: c.Brokers, Partitions: -1}, {Brokers: c.Brokers, DeliveryTimeout: 1}, {Brokers: c.Brokers, SASL: KafkaSASL{Mechanism: "X", Username: "u", Password: "p"}},
		{Brokers: c.Brokers, SASL: KafkaSASL{Mechanism: "PLAIN", Username: "u"}}, {Brokers: c.Brokers, SASL: KafkaSASL{Mechanism: "PLAIN", Username: "u", PasswordFile: "no such file"}},
		{Brokers: c.Brokers, TLS: &promconfig.TLSConfig{CAFile: "no such file"}}, {Brokers: c.Brokers, ReplicationFactor: -2},
	} {
		require.Error(t, bad.Validate())
	}
}

// TestKafkaFaults moves leaders and answers requests with errors while one writes and one reads: nothing is lost, the
// order is kept, and it shows in the metrics.
func TestKafkaFaults(t *testing.T) {
	k, cluster := kafkaTest(t, KafkaConfig{})
	require.NoError(t, k.EnsureTopics(t.Context()))
	var fetches, produces atomic.Int64
	cluster.ControlKey(keyFetch, func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		if fetches.Add(1)%3 != 0 {
			return nil, nil, false
		}
		req := kreq.(*kmsg.FetchRequest)
		resp := req.ResponseKind().(*kmsg.FetchResponse)
		for _, rt := range req.Topics {
			st := kmsg.NewFetchResponseTopic()
			st.Topic, st.TopicID = rt.Topic, rt.TopicID
			for _, rp := range rt.Partitions {
				sp := kmsg.NewFetchResponseTopicPartition()
				sp.Partition, sp.ErrorCode = rp.Partition, kerr.NotLeaderForPartition.Code
				st.Partitions = append(st.Partitions, sp)
			}
			resp.Topics = append(resp.Topics, st)
		}
		return resp, nil, true
	})
	cluster.ControlKey(keyProduce, func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		if produces.Add(1)%4 != 0 {
			return nil, nil, false
		}
		req := kreq.(*kmsg.ProduceRequest)
		resp := req.ResponseKind().(*kmsg.ProduceResponse)
		for _, rt := range req.Topics {
			st := kmsg.NewProduceResponseTopic()
			st.Topic, st.TopicID = rt.Topic, rt.TopicID
			for _, rp := range rt.Partitions {
				sp := kmsg.NewProduceResponseTopicPartition()
				sp.Partition, sp.ErrorCode = rp.Partition, kerr.NotEnoughReplicas.Code
				st.Partitions = append(st.Partitions, sp)
			}
			resp.Topics = append(resp.Topics, st)
		}
		return resp, nil, true
	})
	const n = 40
	wrote := make(chan error, 1)
	go func() {
		for i := range n {
			if i%8 == 0 {
				cluster.ShufflePartitionLeaders()
			}
			if err := k.Append(t.Context(), TopicSamples, []Record{{Value: []byte(fmt.Sprint(i))}}); err != nil {
				wrote <- err
				return
			}
		}
		wrote <- nil
	}()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := k.Reader(TopicSamples, 0, 0)
	require.NoError(t, err)
	defer r.Close()
	for next := int64(0); next < n; {
		recs, err := r.Next(ctx)
		require.NoError(t, err)
		for _, rec := range recs {
			require.Equal(t, next, rec.Offset)
			require.Equal(t, fmt.Sprint(next), string(rec.Value))
			next++
		}
	}
	require.NoError(t, <-wrote)
	require.Positive(t, testutil.ToFloat64(k.metrics.readRetries))
}

// TestKafkaDown: an append ends within the delivery time-out, and until its fate is known it counts against the buffer.
func TestKafkaDown(t *testing.T) {
	k, cluster := kafkaTest(t, KafkaConfig{DeliveryTimeout: time.Second, MaxBufferedBytes: 3000})
	require.NoError(t, k.EnsureTopics(t.Context()))
	require.NoError(t, k.Append(t.Context(), TopicSamples, []Record{{Value: []byte("x")}}))
	release := make(chan struct{})
	var hung atomic.Int64
	cluster.ControlKey(keyProduce, func(kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		hung.Add(1)
		cluster.SleepControl(func() { <-release })
		return nil, nil, false
	})
	value := []byte(strings.Repeat("v", 2000))
	require.ErrorIs(t, k.Append(t.Context(), TopicSamples, []Record{{Value: value}}), kerr.RequestTimedOut)
	require.Equal(t, 1.0, testutil.ToFloat64(k.metrics.appendErrors.WithLabelValues(TopicSamples)))
	require.Equal(t, int64(len(value)), k.buffered.Load(), "the client has yet to learn what became of it")
	require.ErrorIs(t, k.Append(t.Context(), TopicSamples, []Record{{Value: value}}), ErrOverloaded)
	require.Equal(t, 1.0, testutil.ToFloat64(k.metrics.overloads))
	done, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, k.Append(done, TopicSamples, []Record{{Value: []byte("y")}}), context.Canceled)
	require.Positive(t, hung.Load())
	close(release)
}

// TestKafkaPositionWithoutRecords: the last offsets of a topic hold no record, and the position still gets to the end.
func TestKafkaPositionWithoutRecords(t *testing.T) {
	k, cluster := kafkaTest(t, KafkaConfig{})
	require.NoError(t, k.EnsureTopics(t.Context()))
	for i := range 3 {
		require.NoError(t, k.Append(t.Context(), TopicBlocks, []Record{{Key: []byte("k"), Value: []byte(fmt.Sprint(i))}}))
	}
	// As if two tombstones had been at the end, and compacted away.
	cluster.ControlKey(keyListOffsets, func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		req := kreq.(*kmsg.ListOffsetsRequest)
		resp := req.ResponseKind().(*kmsg.ListOffsetsResponse)
		rt := req.Topics[0]
		st, sp := kmsg.NewListOffsetsResponseTopic(), kmsg.NewListOffsetsResponseTopicPartition()
		st.Topic, sp.Partition = rt.Topic, rt.Partitions[0].Partition
		if sp.Offset = 0; rt.Partitions[0].Timestamp == listEnd {
			sp.Offset = 5
		}
		st.Partitions = append(st.Partitions, sp)
		resp.Topics = append(resp.Topics, st)
		return resp, nil, true
	})
	cluster.ControlKey(keyFetch, func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		req := kreq.(*kmsg.FetchRequest)
		if len(req.Topics) != 1 || req.Topics[0].Partitions[0].FetchOffset != 3 || req.MaxWaitMillis > 0 {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.FetchResponse)
		st, sp := kmsg.NewFetchResponseTopic(), kmsg.NewFetchResponseTopicPartition()
		st.Topic, st.TopicID = req.Topics[0].Topic, req.Topics[0].TopicID
		sp.HighWatermark, sp.RecordBatches = 5, []byte{}
		st.Partitions = append(st.Partitions, sp)
		resp.Topics = append(resp.Topics, st)
		return resp, nil, true
	})
	seen := 0
	table := NewTable(k, TopicBlocks, func(*Record) { seen++ })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- table.Run(ctx) }()
	require.NoError(t, table.Sync(ctx))
	cancel()
	require.NoError(t, <-ended)
	require.Equal(t, 3, seen)
}

// TestKafkaTopicMadeAgain: a reader does not go on in another topic of the same name.
func TestKafkaTopicMadeAgain(t *testing.T) {
	k, cluster := kafkaTest(t, KafkaConfig{})
	require.NoError(t, k.EnsureTopics(t.Context()))
	id, err := k.TopicID(t.Context(), TopicSamples)
	require.NoError(t, err)
	for range 5 {
		require.NoError(t, k.Append(t.Context(), TopicSamples, []Record{{Value: []byte("old")}}))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := k.Reader(TopicSamples, 0, 0)
	require.NoError(t, err)
	defer r.Close()
	for r.Position() < 5 {
		_, err = r.Next(ctx)
		require.NoError(t, err)
	}
	require.NoError(t, cluster.DeleteTopic(TopicSamples))
	_, err = r.Next(ctx)
	require.ErrorIs(t, err, ErrUnknownPartition)
	require.NoError(t, k.EnsureTopics(ctx))
	again, err := k.TopicID(ctx, TopicSamples)
	require.NoError(t, err)
	require.NotEqual(t, id, again)
	_, err = r.Next(ctx)
	var out *OutOfRangeError
	require.ErrorAs(t, err, &out)
	require.Equal(t, Bounds{}, out.Bounds)

	// Writers find the new topic by themselves, after an error or two.
	var appended error
	for range 20 {
		if appended = k.Append(ctx, TopicSamples, []Record{{Value: []byte("new")}}); appended == nil {
			break
		}
		require.ErrorIs(t, appended, ErrUnknownPartition)
	}
	require.NoError(t, appended)
}
