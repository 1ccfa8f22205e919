package store

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/stretchr/testify/require"

	"sluice/internal/trace"
)

// What a block has said of its labels is not looked up again, is right for each question, and belongs to who gets it.
func TestReplies(t *testing.T) {
	dir, entry := makeBlock(t, 300, 2)
	bkt := newBucket()
	bkt.upload(t, dir, entry)
	s := newStore(t, bkt, Config{PageBytes: 4096})
	equal := func(name, value string) *labels.Matcher { return match(labels.MatchEqual, name, value) }
	none := []*labels.Matcher{equal("__name__", "not there"), equal("job", "x")}
	// ask returns all answers, and how many pages were looked at for them.
	ask := func() (said []any, pages int64) {
		q := trace.New("test", nil)
		ctx := trace.With(context.Background(), q)
		bq, err := s.Querier(ctx, entry, 0, 1e9)
		require.NoError(t, err)
		for _, ms := range [][]*labels.Matcher{nil, {equal("instance", "host-00007:9100")}, {match(labels.MatchRegexp, "instance", "host-0000.*")}, none} {
			for _, limit := range []int{0, 2} {
				hints := &storage.LabelHints{Limit: limit}
				names, _, err := bq.LabelNames(ctx, hints, ms...)
				require.NoError(t, err)
				values, _, err := bq.LabelValues(ctx, "instance", hints, ms...)
				require.NoError(t, err)
				said = append(said, slices.Clone(names), slices.Clone(values))
				slices.Reverse(names) // they are ours
				slices.Reverse(values)
			}
		}
		series, err := dump(bq.Select(ctx, true, nil, none...))
		require.NoError(t, err)
		require.Empty(t, series)
		slices.Reverse(none) // the order of matchers says nothing
		c := q.Counts()
		return said, c[trace.PageHits] + c[trace.PageMisses]
	}
	first, pages := ask()
	require.Positive(t, pages)
	for range 2 {
		again, pages := ask()
		require.Equal(t, first, again)
		require.Zero(t, pages)
	}
	require.EqualValues(t, 2*17, testutil.ToFloat64(s.metrics.answers.WithLabelValues("hit")))

	found, err := s.Querier(context.Background(), entry, 0, 1e9)
	require.NoError(t, err)
	for range 2 { // what there is is never taken for what there is not
		series, err := dump(found.Select(context.Background(), true, nil, equal("instance", "host-00007:9100")))
		require.NoError(t, err)
		require.NotEmpty(t, series)
	}
}

func TestRepliesAreBounded(t *testing.T) {
	r := newReplies(10_000, newMetrics(nil))
	large := make([]string, 100)
	r.put("large", large)
	_, ok := r.get("large")
	require.False(t, ok, "it would take what many others need")
	for i := range 100 {
		r.put(fmt.Sprint(i), []string{"a", "b"})
		r.put(fmt.Sprint(i), []string{"a", "b"}) // two asked at the same time
	}
	_, ok = r.get("0")
	require.False(t, ok)
	_, ok = r.get("99")
	require.True(t, ok)
	require.LessOrEqual(t, r.known.bytes, int64(10_000))
	var sum int64
	for e := r.known.order.Front(); e != nil; e = e.Next() {
		sum += e.Value.(*lruItem[reply]).value.bytes()
	}
	require.Equal(t, sum, r.known.bytes)
	require.Len(t, r.known.byKey, r.known.order.Len())
}
