package consumer

import (
	"testing"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/stretchr/testify/require"
)

// max_global_exemplars_per_user: one less than that, as many and one more; the oldest go. The newest limit holds.
func TestExemplarLimit(t *testing.T) {
	lset := labels.FromStrings("__name__", "m")
	all := [][]*labels.Matcher{{labels.MustNewMatcher(labels.MatchEqual, "__name__", "m")}}
	kept := func(s *side) (times []int64) {
		found, err := s.selectExemplars(t.Context(), "a", 0, 100, all)
		require.NoError(t, err)
		for _, series := range found {
			for _, e := range series.Exemplars {
				times = append(times, e.Ts)
			}
		}
		return times
	}
	for n, want := range map[int64][]int64{2: {1, 2}, 3: {1, 2, 3}, 4: {2, 3, 4}} {
		s := newSide()
		for i := range n {
			s.addExemplar("a", 3, lset, exemplar.Exemplar{Ts: i + 1, Value: 1, HasTs: true})
		}
		require.Equal(t, want, kept(&s))
	}
	s := newSide()
	s.addExemplar("a", 0, lset, exemplar.Exemplar{Ts: 1, HasTs: true})
	require.Empty(t, kept(&s), "0 is none")
	for i := range int64(5) {
		s.addExemplar("a", 3, lset, exemplar.Exemplar{Ts: i + 1, Value: 1, HasTs: true})
	}
	s.addExemplar("a", 2, lset, exemplar.Exemplar{Ts: 6, Value: 1, HasTs: true})
	require.Equal(t, []int64{5, 6}, kept(&s), "a lower limit")
	s.addExemplar("a", 3, lset, exemplar.Exemplar{Ts: 7, Value: 1, HasTs: true})
	require.Equal(t, []int64{5, 6, 7}, kept(&s), "a higher one")
}
