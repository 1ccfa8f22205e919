package log

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestKafkaAppendsToNewPartitions: a partition that was added just now is written to at once, though the client looks for
// new ones once a minute only.
func TestKafkaAppendsToNewPartitions(t *testing.T) {
	k, _ := kafkaTest(t, KafkaConfig{Partitions: 2})
	require.NoError(t, k.EnsureTopics(t.Context()))
	require.NoError(t, k.Append(t.Context(), TopicSamples, []Record{{Partition: 1, Value: []byte("before")}}))
	resp, err := k.admin.CreatePartitions(t.Context(), 2, TopicSamples)
	require.NoError(t, err)
	require.NoError(t, resp.Error())
	require.NoError(t, k.Append(t.Context(), TopicSamples, []Record{{Partition: 0, Value: []byte("old")}, {Partition: 3, Value: []byte("new")}}))
	b, err := k.Bounds(t.Context(), TopicSamples, 3)
	require.NoError(t, err)
	require.Equal(t, Bounds{Start: 0, End: 1}, b)
}
