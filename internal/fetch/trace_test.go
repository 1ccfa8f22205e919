package fetch

import (
	"context"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/stretchr/testify/require"

	"sluice/internal/trace"
	"sluice/schema"
)

// tracedSource does something for each call.
type tracedSource struct{ *fakeSource }

func (s tracedSource) Querier(ctx context.Context, tenant schema.Tenant, mint, maxt int64, asks []Ask) (storage.Querier, error) {
	_, span := trace.Start(ctx, "work")
	defer span.End(nil)
	if err := trace.Add(ctx, trace.PageHits, 3); err != nil {
		return nil, err
	}
	return s.fakeSource.Querier(ctx, tenant, mint, maxt, asks)
}

// What the other side did comes with its answer, what arrives is counted here, and nobody is told who did not ask.
func TestTraceTravels(t *testing.T) {
	c := serve(t, tracedSource{&fakeSource{db: newDB(t)}})
	limits := map[trace.Counter]trace.Limit{trace.Series: {Max: 23, ID: schema.ErrMaxSeriesPerQuery, Name: "l"}}
	followed := trace.New("query", limits)
	for _, query := range []*trace.Query{followed, nil} {
		ctx, span := trace.Start(trace.With(context.Background(), query), "member")
		q, err := c.Querier(ctx, "acme", 0, 3_000_000, []Ask{{Partition: 1}})
		require.NoError(t, err)
		set := q.Select(ctx, true, nil, labels.MustNewMatcher(labels.MatchEqual, "__name__", "floats"))
		n := 0
		for set.Next() {
			n++
		}
		require.NoError(t, set.Err())
		require.Equal(t, 20, n)
		_, _, err = q.LabelNames(ctx, nil)
		require.NoError(t, err)
		require.NoError(t, q.Close())
		span.End(nil)
	}
	r := followed.Report()
	require.EqualValues(t, 20, r.Total[trace.Series])
	require.EqualValues(t, 6, r.Total[trace.PageHits])
	require.Greater(t, r.Total[trace.Chunks], int64(20*20))
	require.Greater(t, r.Total[trace.ChunkBytes], int64(20*3000*5))
	require.Greater(t, r.Total[trace.Memory], r.Total[trace.ChunkBytes])
	require.Zero(t, followed.Counts()[trace.Memory], "closed")
	there := r.Children[0].Children
	require.Len(t, there, 2, "select and label names")
	require.Equal(t, "work", there[0].Children[0].Name)
	require.False(t, there[0].Running)

	// Past the limit the stream ends with its error, and nobody takes the member for broken.
	ctx := trace.With(context.Background(), followed)
	q, err := c.Querier(ctx, "acme", 0, 3_000_000, []Ask{{Partition: 1}})
	require.NoError(t, err)
	set := q.Select(ctx, true, nil, labels.MustNewMatcher(labels.MatchEqual, "__name__", "floats"))
	require.False(t, set.Next())
	require.True(t, trace.IsLimit(set.Err()), set.Err())
	require.NotErrorIs(t, set.Err(), ErrUnreachable)
	require.NoError(t, q.Close())
	require.Zero(t, followed.Counts()[trace.Memory])
}
