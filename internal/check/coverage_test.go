package check

import (
	"context"
	"errors"
	"testing"

	"github.com/prometheus/common/promslog"
	"github.com/stretchr/testify/require"

	"sluice/internal/catalog"
	"sluice/internal/log"
	"sluice/schema"
)

func (s *site) gap(partition int32, from, to int64) schema.Gap {
	return schema.Gap{LogRange: schema.LogRange{TopicID: s.topicID, Partition: partition, From: from, To: to}, FromTime: 1000, Reason: "retention"}
}

func (s *site) state(partition int32, state schema.PartitionState) {
	require.NoError(s.t, s.cat.Add(context.Background(), nil, map[int32]schema.PartitionState{partition: state}))
}

func (s *site) coverage() []PartitionCoverage {
	got, err := Coverage(context.Background(), s.log, nil)
	require.NoError(s.t, err)
	return got
}

func TestCoverage(t *testing.T) {
	ctx := context.Background()
	s := newSite(t)
	gap := s.gap(1, 3, 5)
	s.state(1, schema.PartitionState{TopicID: s.topicID, To: 10, Gaps: []schema.Gap{gap}})
	want := []PartitionCoverage{
		{Partition: 0, TopicID: s.topicID, End: 30, Blocks: 20, Committed: 20},
		{Partition: 1, TopicID: s.topicID, End: 30, Blocks: 10, Committed: -1, Gaps: []schema.Gap{gap}},
	}
	require.Equal(t, want, s.coverage())
	require.Equal(t, "partition 0: log [0, 30), in blocks up to 20, committed 20, not yet in blocks 10", want[0].String())
	require.Equal(t, "partition 1: log [0, 30), in blocks up to 10, not yet in blocks 20\n"+
		"  gap [3, 5), written between 1970-01-01T00:00:01Z and an unknown time: retention", want[1].String())

	running := catalog.New(s.log, promslog.NewNopLogger(), nil)
	run, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- running.Run(run) }()
	got, err := Coverage(ctx, s.log, running)
	cancel()
	require.NoError(t, <-done)
	require.NoError(t, err)
	require.Equal(t, want, got)
	_, err = Coverage(ctx, s.log, stopped{})
	require.ErrorContains(t, err, "read the catalogue")

	s.state(0, schema.PartitionState{TopicID: "other", To: 99})
	require.Equal(t, "partition 0: log [0, 30), in blocks nothing of this topic (of another up to 99), committed 20, not yet in blocks 30", s.coverage()[0].String())
	require.Equal(t, "partition 0: log [0, 3), in blocks nothing, not yet in blocks 3", PartitionCoverage{End: 3, Committed: -1}.String())
}

type stopped struct{}

func (stopped) Sync(context.Context) error                  { return errors.New("stopped") }
func (stopped) Partitions() map[int32]schema.PartitionState { return nil }

// An accepted gap is no finding any more, and still shown.
func TestAcceptedGapIsNoFinding(t *testing.T) {
	ctx := context.Background()
	s := newSite(t)
	s.state(1, schema.PartitionState{TopicID: s.topicID, To: 10, Gaps: []schema.Gap{s.gap(1, 3, 5), s.gap(1, 6, 7)}})
	require.Len(t, s.check(Options{}), 2)
	c, err := catalog.Load(ctx, s.log, promslog.NewNopLogger())
	require.NoError(t, err)
	require.NoError(t, c.AcceptGap(ctx, 1, 3))
	found := s.check(Options{})
	require.Len(t, found, 1)
	require.EqualValues(t, 6, found[0].From)
	require.NotContains(t, found[0].Detail, "accepted")
	require.Contains(t, s.coverage()[1].String(), "accepted: retention")
}

func TestHoles(t *testing.T) {
	gap := func(topic string, from, to int64) schema.Gap {
		return schema.Gap{LogRange: schema.LogRange{TopicID: topic, Partition: 4, From: from, To: to}, Reason: "retention"}
	}
	accepted := gap("x", 10, 50)
	accepted.Reason = "accepted: retention"
	for _, tc := range []struct {
		name string
		c    PartitionCoverage
		want [][2]int64
	}{
		{"nothing at all", PartitionCoverage{Committed: -1}, nil},
		{"all in blocks", PartitionCoverage{End: 9, Blocks: 9, Committed: 9}, nil},
		{"cut", PartitionCoverage{Start: 50, End: 90, Blocks: 10, Committed: 10}, [][2]int64{{10, 50}}},
		{"cut and recorded", PartitionCoverage{Start: 50, End: 90, Blocks: 10, Committed: -1, Gaps: []schema.Gap{gap("x", 10, 50)}}, [][2]int64{{10, 50}}},
		{"cut and accepted", PartitionCoverage{Start: 50, End: 90, Blocks: 10, Committed: -1, Gaps: []schema.Gap{accepted}}, nil},
		{"cut in another topic", PartitionCoverage{Start: 50, End: 90, Blocks: 10, Committed: -1, Gaps: []schema.Gap{gap("y", 10, 50)}}, [][2]int64{{10, 50}, {10, 50}}},
		{"partly recorded", PartitionCoverage{Start: 50, End: 90, Blocks: 10, Committed: -1, Gaps: []schema.Gap{gap("x", 30, 40), gap("x", 5, 20), gap("x", 15, 20)}},
			[][2]int64{{30, 40}, {5, 20}, {15, 20}, {20, 30}, {40, 50}}},
		{"committed too far", PartitionCoverage{End: 90, Blocks: 10, Committed: 12}, [][2]int64{{10, 12}}},
		{"a log that went back", PartitionCoverage{End: 5, Blocks: 10, Committed: 10}, [][2]int64{{5, 10}}},
	} {
		tc.c.TopicID, tc.c.Partition = "x", 4
		var got [][2]int64
		for _, h := range tc.c.Holes() {
			require.EqualValues(t, 4, h.Partition)
			require.NotEmpty(t, h.Reason)
			got = append(got, [2]int64{h.From, h.To})
		}
		require.Equal(t, tc.want, got, tc.name)
	}
}

// growing is a log that gets records after it was first looked at.
type growing struct {
	log.Log
	t testing.TB
}

func (g growing) Bounds(ctx context.Context, topic string, p int32) (log.Bounds, error) {
	b, err := g.Log.Bounds(ctx, topic, p)
	if topic == log.TopicSamples {
		require.NoError(g.t, g.Append(ctx, log.TopicSamples, []log.Record{{Partition: p, Key: []byte("t"), Value: []byte("x")}}))
	}
	return b, err
}

// Blocks that came while we looked reach beyond the end that we saw, and that is no hole.
func TestCoverageOfALogThatGrows(t *testing.T) {
	s := newSite(t)
	s.state(0, schema.PartitionState{TopicID: s.topicID, To: 31})
	s.log = growing{s.log, t}
	for _, c := range s.coverage() {
		require.Empty(t, c.Holes())
	}
}
