package fetch

import (
	"context"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/stretchr/testify/require"

	"sluice/internal/cardinality"
)

// TestCardinality: question and answer arrive as they were.
func TestCardinality(t *testing.T) {
	src := &fakeSource{}
	q := cardinality.Query{Since: 5, Until: 6, All: true, Pairs: true, Values: []string{"i"}, Matchers: []*labels.Matcher{labels.MustNewMatcher(labels.MatchRegexp, "i", "1|2")}}
	asks := []Ask{{Partition: 3, From: 7, Wait: 9, All: true}}
	want, err := src.Cardinality(context.Background(), "acme", q, asks)
	require.NoError(t, err)
	src.asks = nil
	got, err := serve(t, src).Cardinality(context.Background(), "acme", q, asks)
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.Equal(t, asks, src.asks)
	require.Equal(t, []int64{5, 6}, []int64{src.counted.Since, src.counted.Until})
	require.Equal(t, int64(3), got.Labels["i"].Series)
	require.Len(t, got.Labels["i"].Values, 3)
}
