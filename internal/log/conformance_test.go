package log_test

import (
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"

	"sluice/internal/log"
	"sluice/internal/log/logtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestEmbedded(t *testing.T) {
	for _, c := range []struct {
		name string
		cfg  log.EmbeddedConfig
	}{
		{"group", log.EmbeddedConfig{SegmentBytes: 128 << 10}},
		{"off", log.EmbeddedConfig{SegmentBytes: 128 << 10, Fsync: log.FsyncOff}},
		{"noTail", log.EmbeddedConfig{SegmentBytes: 128 << 10, TailBytes: -1}},
		{"largeSegments", log.EmbeddedConfig{SegmentBytes: 256 << 10, TailBytes: 100_000}},
	} {
		t.Run(c.name, func(t *testing.T) {
			logtest.Run(t, func(t *testing.T) logtest.Store {
				cfg := c.cfg
				cfg.Dir, cfg.Partitions = t.TempDir(), logtest.Partitions
				return logtest.Store{
					Open: func(t *testing.T) log.Log {
						l, err := log.OpenEmbedded(cfg, quiet(), nil)
						require.NoError(t, err)
						return l
					},
					Compact: func(t *testing.T, l log.Log) { require.NoError(t, l.(*log.Embedded).Maintain()) },
				}
			})
		})
	}
}

func TestKafka(t *testing.T) {
	logtest.Run(t, func(t *testing.T) logtest.Store {
		cluster, err := kfake.NewCluster(kfake.NumBrokers(2))
		require.NoError(t, err)
		t.Cleanup(cluster.Close)
		return logtest.Store{
			Open: func(t *testing.T) log.Log {
				l, err := log.NewKafka(log.KafkaConfig{Brokers: cluster.ListenAddrs(), Partitions: logtest.Partitions}, quiet(), nil)
				require.NoError(t, err)
				require.NoError(t, l.EnsureTopics(t.Context()))
				return l
			},
			Compact: func(*testing.T, log.Log) { cluster.Compact() },
		}
	})
}
