package store

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/stretchr/testify/require"
)

// What is remembered of a label's values is as many as there are, and nobody else's to change.
func TestSortedValues(t *testing.T) {
	h := New(testWindow)
	var want []string
	add := func(from, to int) {
		h.Begin()
		for i := from; i < to; i++ {
			v := fmt.Sprintf("%03d", i*7919%1000)
			want = append(want, v)
			require.NoError(t, h.Float(h.Add(labels.FromStrings("__name__", "m", "a", v)), 0, int64(i), 1))
		}
		h.End()
		slices.Sort(want)
	}
	ask := func(limit int) []string {
		got, _, err := h.Querier(0, 1000).LabelValues(context.Background(), "a", &storage.LabelHints{Limit: limit})
		require.NoError(t, err)
		return got
	}
	for _, n := range []int{minRemembered / 2, minRemembered, 500, 501} {
		add(len(want), n)
		for range 3 {
			got := ask(0)
			require.Equal(t, want, got)
			slices.Reverse(got)
			require.Equal(t, want[:5], ask(5))
		}
	}
	require.Empty(t, h.sortedValues("b"))
}

func BenchmarkSortedValues(b *testing.B) {
	h := New(testWindow)
	h.Begin()
	for i := range 10_000 {
		if err := h.Float(h.Add(labels.FromStrings("__name__", "m", "pod", fmt.Sprintf("pod-%x", i*7919))), 0, 1, 1); err != nil {
			b.Fatal(err)
		}
	}
	h.End()
	q := h.Querier(0, 1000)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := q.LabelValues(context.Background(), "pod", nil); err != nil {
			b.Fatal(err)
		}
	}
}
