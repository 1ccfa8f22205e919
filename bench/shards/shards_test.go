package shards

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRecommend(t *testing.T) {
	for _, tc := range []struct{ series, partitions, size int }{
		{0, 52, 1}, {1, 52, 1}, {PerPartition, 52, 1}, {PerPartition + 1, 52, 2}, {10 * PerPartition, 52, 10},
		{1000 * PerPartition, 52, 52}, {PerPartition * 3, 2, 2}, {5, 1, 1},
	} {
		s := Recommend(tc.series, tc.partitions)
		require.Equal(t, tc.size, s.Size, "%+v", tc)
		if s.Size < tc.partitions {
			require.LessOrEqual(t, s.PerPartition, PerPartition)
		}
		require.GreaterOrEqual(t, s.PerPartition*s.Size, tc.series)
		sum := 0.0
		for _, share := range s.Overlap {
			sum += share
		}
		require.InDelta(t, 1, sum, 1e-6)
		var text strings.Builder
		require.NoError(t, s.Print(&text))
		require.Contains(t, text.String(), "partition_shard_size: ")
	}
	require.InDelta(t, 0.719, Recommend(4*PerPartition, 52).Overlap[0], 0.03, "shards of 4 among 52: C(48,4)/C(52,4)")
	require.Equal(t, 1.0, Recommend(PerPartition, 1).Overlap[1])
}
