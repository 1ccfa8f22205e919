package cardinality

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/stretchr/testify/require"
)

// TestSumOfParts: series counted in two parts give what they give in one.
func TestSumOfParts(t *testing.T) {
	q := Query{All: true, Values: []string{"job", "gone"}, Pairs: true}
	whole, parts := NewCounter(q), []*Counter{NewCounter(q), NewCounter(q)}
	for i := range 100 {
		lset := labels.FromStrings("__name__", fmt.Sprintf("m%d", i%3), "job", fmt.Sprintf("j%d", i%7), "i", fmt.Sprint(i))
		require.NoError(t, whole.Add(lset))
		require.NoError(t, parts[i%2].Add(lset))
	}
	whole.AddTotal(100)
	whole.AddSamples(12, 3, 9)
	parts[0].AddTotal(60)
	parts[1].AddTotal(40)
	parts[0].AddSamples(5, 4, 9)
	parts[1].AddSamples(7, 3, 8)

	text, err := json.Marshal(parts[0].Result()) // as it travels
	require.NoError(t, err)
	var first Result
	require.NoError(t, json.Unmarshal(text, &first))
	want, got := Merge([]*Result{whole.Result()}), Merge([]*Result{&first, parts[1].Result()})
	require.Equal(t, want, got)
	require.Equal(t, int64(100), got.Series)
	require.Len(t, got.Labels["i"].Values, 100)
	require.Equal(t, []Pair{{"__name__", "m0", 34}, {"__name__", "m1", 33}}, got.TopValues("__name__", 2))
	require.Equal(t, []Pair{{"job", "j0", 15}}, got.TopValues("job", 1))
	require.Empty(t, got.TopValues("i", 5), "only counted")
	require.Equal(t, []Pair{{"i", "", 100}, {"job", "", 7}}, got.Top(2, func(l *Label) int64 { return int64(len(l.Values)) }))
	require.Equal(t, Pair{"__name__", "m0", 34}, got.Pairs[0])
	require.Equal(t, int64(200), got.Labels["__name__"].Bytes)
	require.Equal(t, []int64{12, 3, 9}, []int64{got.Chunks, got.MinTime, got.MaxTime})

	var h Hashes
	require.Error(t, json.Unmarshal([]byte(`"AAAA"`), &h), "not a multiple of 8")
}

// TestOnlyWhatIsAsked: labels that nobody asks for cost nothing, and what cannot be held is refused.
func TestOnlyWhatIsAsked(t *testing.T) {
	c := NewCounter(Query{Values: []string{"job"}})
	require.NoError(t, c.Add(labels.FromStrings("__name__", "m", "job", "j", "i", "1")))
	r := c.Result()
	require.Len(t, r.Labels, 1)
	require.Equal(t, map[string]int64{"j": 1}, r.Labels["job"].Counts)
	require.Equal(t, int64(15), r.Bytes)
	c.pairs = maxPairs
	require.ErrorIs(t, c.Add(labels.FromStrings("job", "other")), ErrTooMany)
}
