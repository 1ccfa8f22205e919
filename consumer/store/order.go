package store

import (
	"slices"
	"sort"
	"sync"

	"github.com/prometheus/prometheus/model/labels"
)

// order remembers how series were sorted, so that the same ones are not sorted again: comparing labels is most of what a
// query over many series costs. Series that were sorted together have the same round, and their places in that order.
type order struct {
	mu     sync.Mutex
	rounds uint32       // guarded by mu
	places []sortedOnce // guarded by mu; by ref - 1
}

type sortedOnce struct{ round, place uint32 } // round 0 = never

// minRemembered is how many series are worth remembering.
const minRemembered = 64

// sort sorts refs, none of them twice, by the labels of their series.
func (h *Head) sort(refs []uint32) {
	h.mu.RLock()
	lsets := h.labels // what is in it does not change
	h.mu.RUnlock()
	compare := func(a, b uint32) int { return labels.Compare(lsets[a-1], lsets[b-1]) }
	if len(refs) < minRemembered {
		slices.SortFunc(refs, compare)
		return
	}
	known, others := h.order.recall(refs, len(lsets))
	slices.Sort(known)
	slices.SortFunc(others, compare)
	refs = refs[:0]
	for _, ref := range others {
		n := sort.Search(len(known), func(i int) bool { return compare(uint32(known[i]), ref) > 0 })
		for _, k := range known[:n] {
			refs = append(refs, uint32(k))
		}
		known, refs = known[n:], append(refs, ref)
	}
	for _, k := range known {
		refs = append(refs, uint32(k))
	}
	if len(others) > 0 {
		h.order.remember(refs)
	}
}

// recall parts refs in those that were sorted together, as place << 32 | ref, and the others. n is the number of series.
func (o *order) recall(refs []uint32, n int) (known []uint64, others []uint32) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.places) < n {
		o.places = append(o.places, make([]sortedOnce, n-len(o.places))...)
	}
	round := uint32(0)
	for _, ref := range refs {
		if round = o.places[ref-1].round; round != 0 {
			break
		}
	}
	known = make([]uint64, 0, len(refs))
	for _, ref := range refs {
		if p := o.places[ref-1]; p.round == round && round != 0 {
			known = append(known, uint64(p.place)<<32|uint64(ref))
		} else {
			others = append(others, ref)
		}
	}
	return known, others
}

func (o *order) remember(refs []uint32) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.rounds++
	for i, ref := range refs {
		o.places[ref-1] = sortedOnce{o.rounds, uint32(i)}
	}
}
