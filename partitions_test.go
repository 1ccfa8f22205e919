package main

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/internal/catalog"
	"sluice/internal/log"
	"sluice/internal/members"
	"sluice/schema"
)

// TestPartitionsInUse: what is announced counts once something was written, so that a first start writes to all partitions
// whatever consumers have got to by then.
func TestPartitionsInUse(t *testing.T) {
	logger := slog.New(slog.DiscardHandler)
	l, err := log.OpenEmbedded(log.EmbeddedConfig{Dir: t.TempDir(), Partitions: 6, Fsync: log.FsyncOff}, logger, nil)
	require.NoError(t, err)
	blocks, control := catalog.New(l, logger, nil), log.NewTable(l, log.TopicControl)
	directory := members.NewDirectory(control, logger)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for _, run := range []func(context.Context) error{blocks.Run, control.Run} {
		running.Go(func() { _ = run(ctx) })
	}
	t.Cleanup(func() {
		cancel()
		running.Wait()
		require.NoError(t, l.Close())
	})
	use := partitionsInUse{l, blocks, directory}
	known := func(want int32) {
		t.Helper()
		n, err := use.Known(t.Context())
		require.NoError(t, err)
		require.Equal(t, want, n)
	}
	announce := func(partition int32) {
		t.Helper()
		require.NoError(t, members.Announce(t.Context(), l, members.Member{
			ID: "c", Kind: members.KindConsumer, Partitions: []members.Coverage{{TopicID: "t", Partition: partition}},
		}))
	}
	known(0)
	announce(0)
	known(0)
	require.NoError(t, l.Append(t.Context(), log.TopicSamples, []log.Record{{Partition: 1, Value: []byte("v")}}))
	known(2)
	announce(2)
	known(3)
	require.NoError(t, blocks.Add(t.Context(), nil, map[int32]schema.PartitionState{3: {TopicID: "t", To: 1}}))
	known(4)
	use.log = endless{l}
	known(4)
}

// endless is a log with a partition that has no leader.
type endless struct{ log.Log }

func (endless) Ends(context.Context, string) ([]int64, error) {
	return nil, errors.New("no leader")
}
