package trace

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
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
	require.True(t, IsLimit(fmt.Errorf("x: %w", err)))
	require.False(t, IsLimit(se))
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
	back.Total[BucketBytes] = 7
	require.NoError(t, asked.Attach(&back))
	require.EqualValues(t, 11, q.Counts()[Series], "they are counted where they arrive")
	require.EqualValues(t, 40, q.Counts()[Memory])
	require.EqualValues(t, 7, q.Counts()[BucketBytes])
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

// What another process has to tell stays in proportion, and what it counted counts all the same.
func TestParts(t *testing.T) {
	part := NewPart("member")
	ctx := With(context.Background(), part)
	for range 2 * maxPartSpans {
		_, span := Start(ctx, strings.Repeat("x", 10))
		span.Set("why", strings.Repeat("y", 1000))
		span.End(errors.New(strings.Repeat("é", 1000)))
	}
	require.NoError(t, Add(ctx, PageHits, 3))
	r := part.Report()
	require.Len(t, r.Children, maxPartSpans)
	require.LessOrEqual(t, len(r.Children[0].Error), maxText+3)
	require.LessOrEqual(t, len(r.Children[0].Values["why"].(string)), maxText+3)

	q := New("query", nil)
	ctx = With(context.Background(), q)
	for range 20 {
		_, span := Start(ctx, "asked")
		require.NoError(t, span.Attach(r))
		span.End(nil)
	}
	got := q.Report()
	require.EqualValues(t, 60, got.Total[PageHits])
	require.Less(t, got.size(), int64(maxSpans+100))
	require.Equal(t, maxPartSpans, got.Children[19].Children[0].Dropped)
	require.Positive(t, got.SecondsOf("asked"))
	require.Zero(t, got.SecondsOf("nothing"))
}

func BenchmarkSpan(b *testing.B) {
	q := New("query", nil)
	q.maxSpans = 1 << 60
	ctx := With(context.Background(), q)
	b.ReportAllocs()
	for b.Loop() {
		inner, span := Start(ctx, "part")
		_ = Add(inner, Samples, 1)
		span.End(nil)
		q.root.children = q.root.children[:0]
	}
}
