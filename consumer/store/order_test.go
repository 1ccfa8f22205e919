package store

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/stretchr/testify/require"
)

// TestSort sorts many choices of series while there come more of them, from several goroutines.
func TestSort(t *testing.T) {
	h := New(testWindow)
	add := func(n int) {
		h.Begin()
		defer h.End()
		for range n {
			i := h.Len()
			h.Add(labels.FromStrings("__name__", fmt.Sprint("m", i%3), "i", fmt.Sprint(i*7919%10007)))
		}
	}
	add(500)
	var wg sync.WaitGroup
	for g := range uint64(3) {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(g, 1))
			for range 150 {
				if g == 0 {
					add(rnd.IntN(20))
				}
				h.mu.RLock()
				n := h.Len()
				h.mu.RUnlock()
				var refs []uint32
				step, from := 1+rnd.IntN(5), rnd.IntN(n/2)
				for ref := 1 + from; ref <= n; ref += step {
					refs = append(refs, uint32(ref))
				}
				want := slices.Clone(refs)
				rnd.Shuffle(len(refs), func(i, j int) { refs[i], refs[j] = refs[j], refs[i] })
				h.sort(refs)
				h.mu.RLock()
				slices.SortFunc(want, func(a, b uint32) int { return labels.Compare(h.labels[a-1], h.labels[b-1]) })
				h.mu.RUnlock()
				if !slices.Equal(want, refs) {
					t.Errorf("want %v, got %v", want, refs)
					return
				}
			}
		})
	}
	wg.Wait()
	require.Positive(t, h.order.rounds)
}
