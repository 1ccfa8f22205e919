package log_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"

	"sluice/internal/kafkatest"
	"sluice/internal/log"
	"sluice/internal/log/logtest"
)

// The tests called TestReal… run brokers of Apache Kafka, each its own. They mostly wait: for a JVM to start, a session to end, a
// leader to be elected. So they run beside each other.

// realKafka starts a cluster, or skips the test unless SLUICE_E2E=1.
func realKafka(t *testing.T, cfg kafkatest.Config) *kafkatest.Cluster {
	t.Helper()
	if os.Getenv("SLUICE_E2E") != "1" {
		fmt.Fprintln(os.Stderr, "internal/log: NOT RUNNING the tests with real brokers: SLUICE_E2E=1 is not set (make test sets it)")
		t.Skip("SKIPPED: SLUICE_E2E=1 is not set (make test sets it)")
	}
	return kafkatest.Start(t, cfg)
}

// eventually asks until there is no error, or fails with the last one.
func eventually(t *testing.T, within time.Duration, what string, f func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	for {
		err := f(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			require.NoError(t, err, "%s within %s", what, within)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// dropTopics deletes Sluice's topics, and returns when the brokers know no more of them.
func dropTopics(t *testing.T, admin *kadm.Client) {
	t.Helper()
	topics := []string{log.TopicSamples, log.TopicBlocks, log.TopicControl, log.TopicDeadLetter}
	_, err := admin.DeleteTopics(t.Context(), topics...)
	require.NoError(t, err)
	eventually(t, time.Minute, "the topics are gone", func(ctx context.Context) error {
		all, err := admin.ListTopics(ctx)
		if err == nil && len(all) > 0 {
			err = fmt.Errorf("there is %v", all.Names())
		}
		return err
	})
}

// TestRealConformance: the released brokers keep the contract, and so does what we make of them.
func TestRealConformance(t *testing.T) {
	for _, version := range []string{"3.9", "4"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			cluster := realKafka(t, kafkatest.Config{Version: version, Properties: map[string]string{
				"log.segment.bytes": "1048576", "log.cleaner.min.cleanable.ratio": "0.01", // so that there is something to compact
			}})
			admin := cluster.Admin(t)
			logtest.Run(t, func(t *testing.T) logtest.Store {
				dropTopics(t, admin)
				return logtest.Store{
					Open: func(t *testing.T) log.Log {
						l, err := log.NewKafka(log.KafkaConfig{
							Brokers: cluster.Brokers(), Partitions: logtest.Partitions, Compression: "none", // so that segments fill
						}, quiet(), nil)
						require.NoError(t, err)
						require.NoError(t, l.EnsureTopics(t.Context()))
						return l
					},
					Compact: func(t *testing.T, l log.Log) { awaitCompaction(t, l) },
				}
			})
			t.Run("TopicMadeAgain", func(t *testing.T) {
				dropTopics(t, admin)
				topicMadeAgain(t, cluster, admin)
			})
		})
	}
}

// awaitCompaction waits until log.TopicBlocks holds fewer records than offsets: when is up to the broker.
func awaitCompaction(t *testing.T, l log.Log) {
	t.Helper()
	eventually(t, time.Minute, "the broker has compacted", func(ctx context.Context) error {
		b, err := l.Bounds(ctx, log.TopicBlocks, 0)
		if err != nil {
			return err
		}
		r, err := l.Reader(log.TopicBlocks, 0, b.Start)
		if err != nil {
			return err
		}
		defer r.Close()
		n := int64(0)
		for r.Position() < b.End {
			recs, err := r.Next(ctx)
			if err != nil {
				return err
			}
			n += int64(len(recs))
		}
		if n == b.End {
			return fmt.Errorf("all %d records are there", n)
		}
		return nil
	})
}

// topicMadeAgain: neither readers nor writers take a topic for another of the same name, and commits end with the topic.
func topicMadeAgain(t *testing.T, cluster *kafkatest.Cluster, admin *kadm.Client) {
	l, err := log.NewKafka(log.KafkaConfig{Brokers: cluster.Brokers()}, quiet(), nil)
	require.NoError(t, err)
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, l.EnsureTopics(ctx))
	id, err := l.TopicID(ctx, log.TopicSamples)
	require.NoError(t, err)
	for range 5 {
		require.NoError(t, l.Append(ctx, log.TopicSamples, []log.Record{{Value: []byte("old")}}))
	}
	require.NoError(t, l.Commit(ctx, "group", log.TopicSamples, 0, 5))
	r, err := l.Reader(log.TopicSamples, 0, 0)
	require.NoError(t, err)
	defer r.Close()
	for r.Position() < 5 {
		_, err = r.Next(ctx)
		require.NoError(t, err)
	}
	dropTopics(t, admin)
	_, err = r.Next(ctx)
	require.ErrorIs(t, err, log.ErrUnknownPartition)
	require.NoError(t, l.EnsureTopics(ctx))
	again, err := l.TopicID(ctx, log.TopicSamples)
	require.NoError(t, err)
	require.NotEqual(t, id, again)
	_, err = r.Next(ctx)
	var out *log.OutOfRangeError
	require.ErrorAs(t, err, &out)
	require.Equal(t, log.Bounds{}, out.Bounds)
	committed, err := l.Committed(ctx, "group", log.TopicSamples)
	require.NoError(t, err)
	require.Empty(t, committed)
	eventually(t, time.Minute, "writers find the new topic", func(ctx context.Context) error {
		err := l.Append(ctx, log.TopicSamples, []log.Record{{Value: []byte("new")}})
		if err != nil {
			require.ErrorIs(t, err, log.ErrUnknownPartition)
		}
		return err
	})
}
