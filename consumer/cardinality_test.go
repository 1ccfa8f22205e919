package consumer

import (
	"context"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/stretchr/testify/require"

	"sluice/internal/cardinality"
	"sluice/internal/fetch"
	"sluice/internal/log"
)

// TestCardinalityCountsEachSeriesOnce: series that are in a sealed generation and in the live one count once, late samples
// or not, and those that have no recent sample only when nobody asks for recent ones.
func TestCardinalityCountsEachSeriesOnce(t *testing.T) {
	s := open(t, t.TempDir(), func(c *Config) { c.RetainShipped = time.Hour })
	series := func(i int) labels.Labels {
		return labels.FromStrings("__name__", "m", "i", fmt.Sprint(i), "job", fmt.Sprint(i%2))
	}
	for i := range 10 {
		s.write("a", series(i), sample{t: 1000, v: 1})
		s.write("b", series(i), sample{t: 1000, v: 1})
	}
	s.seal()
	for i := 5; i < 15; i++ {
		s.write("a", series(i), sample{t: 50_000, v: 1}, sample{t: 2000, v: 2})
	}
	asks := make([]fetch.Ask, testPartitions)
	for p := range asks {
		b, err := s.log.Bounds(context.Background(), log.TopicSamples, int32(p))
		require.NoError(t, err)
		asks[p] = fetch.Ask{Partition: int32(p), From: b.End, Wait: b.End, All: true}
	}
	count := func(q cardinality.Query) *cardinality.Result {
		got, err := s.consumer.Cardinality(context.Background(), "a", q, asks)
		require.NoError(t, err)
		return got
	}
	all := count(cardinality.Query{Since: math.MinInt64, All: true, Pairs: true})
	require.Equal(t, []int64{15, 15}, []int64{all.Total, all.Series})
	require.Len(t, all.Labels["i"].Values, 15)
	require.Equal(t, []int64{20, 1000, 50_000}, []int64{all.Chunks, all.MinTime, all.MaxTime})
	require.Equal(t, cardinality.Pair{Name: "__name__", Value: "m", Series: 15}, all.Pairs[0])

	recent := count(cardinality.Query{Since: 3000, Values: []string{"job"}, Matchers: []*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, "job", "1")}})
	require.Equal(t, []int64{10, 5}, []int64{recent.Total, recent.Series})
	require.Equal(t, map[string]int64{"1": 5}, recent.Labels["job"].Counts)

	require.Equal(t, int64(10), count(cardinality.Query{Since: 500, Until: 1999}).Series)
	require.Equal(t, int64(10), count(cardinality.Query{Since: 1500, Until: 2000}).Series)
	require.Zero(t, count(cardinality.Query{Since: 2001, Until: 49_999}).Series)
	require.Equal(t, int64(10), count(cardinality.Query{Since: 2001, Until: 50_000}).Series)

	for i := range asks {
		asks[i].All = false
	}
	require.Equal(t, int64(10), count(cardinality.Query{Since: math.MinInt64}).Series, "only what blocks in the bucket do not have")
}
