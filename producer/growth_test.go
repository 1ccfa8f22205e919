package producer

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// inUse holds the partitions below held, and knows those below known.
type inUse struct {
	known, held int32
	err         error
}

func (u inUse) Known(context.Context) (int32, error) { return u.known, u.err }
func (u inUse) Held(p int32) bool                    { return p < u.held }

func TestGrowth(t *testing.T) {
	start := time.Unix(1000, 0)
	for _, c := range []struct {
		name   string
		use    inUse
		now, n int32
		after  time.Duration // that n was first seen
		want   int32
	}{
		{"first start of all", inUse{}, 0, 4, 0, 4},
		{"a start as usual", inUse{known: 4, held: 4}, 0, 4, 0, 4},
		{"a start while consumers are down", inUse{known: 4}, 0, 4, 0, 4},
		{"a start with new partitions that nobody has", inUse{known: 4, held: 4}, 0, 6, 0, 4},
		{"a start with new partitions that somebody has", inUse{known: 6, held: 6}, 0, 6, 0, 6},
		{"nothing new", inUse{}, 4, 4, time.Hour, 4},
		{"new, one not held", inUse{held: 5}, 4, 6, 0, 4},
		{"new, one not held for long", inUse{held: 5}, 4, 6, growthPatience - 1, 4},
		{"new, one not held for too long", inUse{held: 5}, 4, 6, growthPatience, 6},
		{"new and held", inUse{held: 6}, 4, 6, 0, 6},
		{"never fewer", inUse{}, 6, 4, 0, 4}, // what is written to stays: see learn
	} {
		t.Run(c.name, func(t *testing.T) {
			g := growth{inUse: c.use, seen: c.n, when: start}
			got, err := g.adopt(t.Context(), c.now, c.n, start.Add(c.after))
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
	g := growth{inUse: inUse{err: errors.New("away")}}
	_, err := g.adopt(t.Context(), 0, 4, start)
	require.ErrorContains(t, err, "away")
	g = growth{inUse: inUse{held: 5}, seen: 5, when: start.Add(-time.Hour)}
	got, err := g.adopt(t.Context(), 4, 6, start)
	require.NoError(t, err)
	require.EqualValues(t, 4, got, "the time counts from the last addition")
}
