package catalog

import (
	"context"
	"testing"

	"github.com/prometheus/common/promslog"
	"github.com/stretchr/testify/require"

	"sluice/internal/log"
	"sluice/schema"
)

func TestAcceptGap(t *testing.T) {
	ctx, l := context.Background(), openLog(t)
	c := start(t, l, nil)
	gap := func(topic string, from, to int64) schema.Gap {
		return schema.Gap{LogRange: schema.LogRange{TopicID: topic, Partition: 1, From: from, To: to}, FromTime: from, ToTime: to, Reason: "retention"}
	}
	gaps := []schema.Gap{gap("x/y-1", 3, 5), gap("x/y-1", 3, 9), gap("old", 3, 5), gap("x/y-1", 20, 30)}
	state := schema.PartitionState{TopicID: "x/y-1", From: 9, To: 40, Gaps: gaps}
	require.NoError(t, c.Add(ctx, nil, map[int32]schema.PartitionState{1: state}))
	require.NoError(t, c.Sync(ctx))
	require.ErrorContains(t, c.AcceptGap(ctx, 0, 3), "the partition has no gaps")
	require.ErrorContains(t, c.AcceptGap(ctx, 1, 4), "no gap starts there, only [3, 5), [3, 9), [3, 5), [20, 30)")

	reasons := func(c *Catalog) (out []string) {
		s, ok := c.Partition(1)
		require.True(t, ok)
		require.Equal(t, s, c.Partitions()[1])
		require.EqualValues(t, 40, s.To)
		for _, g := range s.Gaps {
			out = append(out, g.Reason)
		}
		return out
	}
	require.NoError(t, c.AcceptGap(ctx, 1, 20))
	require.NoError(t, c.AcceptGap(ctx, 1, 20), "not known yet")
	require.NoError(t, c.Sync(ctx))
	require.Equal(t, []string{"retention", "retention", "retention", "accepted: retention"}, reasons(c))
	b, err := l.Bounds(ctx, log.TopicBlocks, 0)
	require.NoError(t, err)
	require.NoError(t, c.AcceptGap(ctx, 1, 20))
	after, err := l.Bounds(ctx, log.TopicBlocks, 0)
	require.NoError(t, err)
	require.Equal(t, b, after, "nothing left to write")

	// The consumer goes on, with the gaps as it reads them here, and as it remembers them.
	s, _ := c.Partition(1)
	require.True(t, Accepted(s.Gaps[3]))
	require.NoError(t, c.Add(ctx, nil, map[int32]schema.PartitionState{1: s}))
	require.NoError(t, c.Sync(ctx))
	require.Equal(t, []string{"retention", "retention", "retention", "accepted: retention"}, reasons(c))
	require.NoError(t, c.Add(ctx, nil, map[int32]schema.PartitionState{1: state}))
	require.NoError(t, c.AcceptGap(ctx, 1, 3))
	require.NoError(t, c.Sync(ctx))
	all := []string{"accepted: retention", "accepted: retention", "accepted: retention", "accepted: retention"}
	require.Equal(t, all, reasons(c), "in every incarnation of the topic")
	loaded, err := Load(ctx, l, promslog.NewNopLogger())
	require.NoError(t, err)
	require.Equal(t, all, reasons(loaded))

	require.NoError(t, l.Append(ctx, log.TopicBlocks, []log.Record{{Key: acceptedKey(gaps[0].LogRange)}}))
	require.NoError(t, c.Sync(ctx))
	require.Equal(t, "retention", reasons(c)[0], "forgotten")
	require.Equal(t, "retention", state.Gaps[0].Reason, "what was handed in is not touched")
}

func TestAcceptedGapCodec(t *testing.T) {
	g := schema.Gap{LogRange: schema.LogRange{TopicID: "a/b", Partition: 7, From: 1, To: 2}}
	rec, err := encodeAccepted(g)
	require.NoError(t, err)
	require.Equal(t, "accepted-gap/7/1-2/a/b", string(rec.Key))
	ev, err := decode(rec.Key, rec.Value)
	require.NoError(t, err)
	require.Equal(t, event{accept: &g.LogRange, accepted: true}, ev)
	for key, value := range map[string]string{
		"accepted-gap/7/1-2/other":                  string(rec.Value),
		"accepted-gap/7/1-2/a/b":                    "{",
		"accepted-gap/7":                            "{}",
		"accepted-gap/7/1/a":                        "{}",
		"accepted-gap/-7/1-2/a":                     "",
		"accepted-gap/7/2-1/a":                      "",
		"accepted-gap/07/1-2/a":                     "",
		"accepted-gap/7/1-+2/a":                     "",
		"accepted-gap/7/1-99999999999999999999/a":   "",
		"accepted-gap/99999999999999999999/1-2/a/b": "",
	} {
		_, err := decode([]byte(key), []byte(value))
		require.Error(t, err, key)
	}
}
