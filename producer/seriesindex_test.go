package producer

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestSeriesIndex holds the index against a map, with keys that crowd: they come, go and are looked for.
func TestSeriesIndex(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var x seriesIndex
	want := map[seriesKey]*knownSeries{}
	var keys []seriesKey
	var free []uint32
	places := uint32(0)
	rounds := 50_000
	if testing.Short() { // under the race detector: one goroutine does it all
		rounds = 8_000
	}
	for range rounds {
		key := seriesKey{uint64(rnd.IntN(300)) << uint(rnd.IntN(2)*32), uint64(rnd.IntN(40))}
		near := uint32(rnd.IntN(int(places) + 2)) // any guess is allowed
		known := x.findNear(key, &near)
		require.Equal(t, want[key] == nil, known == nil)
		require.Same(t, want[key], known)
		switch {
		case known == nil && (len(keys) < 3000 || rnd.IntN(3) == 0):
			at := places
			if n := len(free); n > 0 {
				at, free = free[n-1], free[:n-1]
			} else if places++; int(at/pageSeries) == len(x.pages) {
				x.pages = append(x.pages, &seriesPage{})
			}
			x.at(at).key, x.at(at).ref = key, at
			x.add(key, at)
			want[key] = x.at(at)
			keys = append(keys, key)
		case len(keys) > 0:
			i := rnd.IntN(len(keys))
			gone := keys[i]
			keys[i] = keys[len(keys)-1]
			keys = keys[:len(keys)-1]
			free = append(free, want[gone].ref)
			x.remove(gone)
			x.remove(gone)
			want[gone].key = seriesKey{}
			delete(want, gone)
			require.Nil(t, x.find(gone))
		}
		require.Equal(t, len(want), x.used)
	}
	for key, s := range want {
		require.Same(t, s, x.find(key))
	}
}
