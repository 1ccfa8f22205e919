package trace

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/schema"
)

func TestCountsAndLimits(t *testing.T) {
	q := New("query", map[Counter]Limit{Series: {Max: 10, ID: schema.ErrMaxSeriesPerQuery, Name: "max_fetched_series_per_query"}})
	ctx := With(context.Background(), q)
	inner, span := Start(ctx, "block")
	require.NoError(t, Add(inner, Series, 10))
	require.NoError(t, Add(ctx, Chunks, 1000))
	err := Add(inner, Series, 1)
	var se *schema.Error
	require.ErrorAs(t, err, &se)
	require.Equal(t, 422, se.Status)
	require.Contains(t, err.Error(), "needs 11 series or more, above the limit of 10 (max_fetched_series_per_query)")
	require.NoError(t, Add(ctx, Memory, 100))
	require.NoError(t, Add(ctx, Memory, -60))
	require.EqualValues(t, 100, q.PeakMemory())
	span.Set("id", "x")
	span.End(errors.New("torn"))
	span.End(nil)

	r := q.Report()
	require.EqualValues(t, 11, r.Total[Series])
	require.EqualValues(t, 11, r.Children[0].Counts[Series])
	require.Equal(t, "torn", r.Children[0].Error)
	require.True(t, r.Running)

	text, err := json.Marshal(r)
	require.NoError(t, err)
	require.Contains(t, string(text), `"total":{"chunks":1000,"memory_bytes":100,"series":11}`)
	var back Report
	require.NoError(t, json.Unmarshal(text, &back))
	require.Equal(t, r.Total, back.Total)

	_, asked := Start(ctx, "member")
	require.Error(t, asked.Attach(&back), "its series count as well")
	require.EqualValues(t, 22, q.Counts()[Series])
	require.EqualValues(t, 40, q.Counts()[Memory])
}

// Nobody follows this query.
func TestNothing(t *testing.T) {
	ctx, span := Start(context.Background(), "x")
	require.Nil(t, span)
	require.NoError(t, Add(ctx, Series, 1))
	span.Set("a", 1)
	span.End(nil)
	require.NoError(t, span.Attach(&Report{}))
	var q *Query
	require.Nil(t, q.Report())
	require.Equal(t, context.Background(), With(context.Background(), q))
}

func TestManySpans(t *testing.T) {
	q := New("query", nil)
	ctx := With(context.Background(), q)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range maxSpans {
				inner, span := Start(ctx, "part")
				_ = Add(inner, Samples, 1)
				span.End(nil)
			}
		})
	}
	wg.Wait()
	r := q.Report()
	require.Len(t, r.Children, maxSpans)
	require.EqualValues(t, 3*maxSpans, r.Dropped)
	require.EqualValues(t, 4*maxSpans, r.Total[Samples])
}
