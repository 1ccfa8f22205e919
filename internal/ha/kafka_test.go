package ha

import (
	"fmt"
	"log/slog"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"sluice/internal/log"
)

// TestOnKafka: the race again, with a log of its own for each process.
func TestOnKafka(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	var all []*process
	for i := range 3 {
		l, err := log.NewKafka(log.KafkaConfig{Brokers: cluster.ListenAddrs(), Partitions: 1}, slog.New(slog.DiscardHandler), nil)
		require.NoError(t, err)
		require.NoError(t, l.EnsureTopics(t.Context()))
		t.Cleanup(func() { require.NoError(t, l.Close()) })
		all = append(all, start(t, l, fmt.Sprint(i)))
	}
	const clusters = 10
	var accepted [clusters]int
	var mu sync.Mutex // guards accepted
	var wg sync.WaitGroup
	for i, p := range all {
		wg.Go(func() {
			for c := range clusters {
				if p.push(t, fmt.Sprint(c), fmt.Sprint("r", i)) == Accept {
					mu.Lock()
					accepted[c]++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	for c, n := range accepted {
		require.Equal(t, 1, n, "replicas of cluster %d that are accepted", c)
		agree(t, fmt.Sprint(c), all...)
	}
}
