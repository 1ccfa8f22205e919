package ledger

import (
	"errors"
	"sync"
)

// Floor is what one server has returned so far, and must go on returning: an eventual read may lag behind the writers,
// but it never goes back. The zero value is an empty one; it may be used by several verifiers at once.
type Floor struct {
	mu   sync.Mutex
	seen map[floorKey]map[int64]uint64 // by series: bits of ticks, by tick / 64
}

type floorKey struct{ tenant, block, series int }

// ticksOf copies what has been seen of a block of slots: by series, bits of ticks.
func (f *Floor) ticksOf(tenant, block int) map[int]map[int64]uint64 {
	out := map[int]map[int64]uint64{}
	f.mu.Lock()
	defer f.mu.Unlock()
	for key, bits := range f.seen {
		if key.tenant != tenant || key.block != block {
			continue
		}
		words := make(map[int64]uint64, len(bits))
		for at, w := range bits {
			words[at] = w
		}
		out[key.series] = words
	}
	return out
}

// raise adds what a read has returned.
func (f *Floor) raise(tenant, block int, read []*blockCheck) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.seen == nil {
		f.seen = map[floorKey]map[int64]uint64{}
	}
	for _, c := range read {
		for series, bits := range c.seen {
			key := floorKey{tenant, block, series}
			words := f.seen[key]
			if words == nil {
				words = map[int64]uint64{}
				f.seen[key] = words
			}
			eachBit(bits, func(i int64) {
				tick := c.from + i
				words[tick/64] |= 1 << (tick % 64)
			})
		}
	}
}

func eachBit(bits []uint64, f func(i int64)) {
	for at, w := range bits {
		for b := range int64(64) {
			if w>>b&1 == 1 {
				f(int64(at)*64 + b)
			}
		}
	}
}

// vanished looks for the samples that were returned before and are not now.
func (c *blockCheck) vanished(floor map[int]map[int64]uint64) {
	spec := &c.l.Spec
	t := &spec.Tenants[c.tenant]
	for series, words := range floor {
		slot, _ := t.SlotOf(series)
		seen := c.seen[series]
		for at, w := range words {
			for b := range int64(64) {
				i := at*64 + b - c.from
				if w>>b&1 == 0 || i < 0 || i >= c.ticks || seen != nil && seen[i/64]>>(i%64)&1 == 1 {
					continue
				}
				tick := at*64 + b
				if c.path == PathPromQL && spec.ValueAt(c.tenant, slot, tick).IsStale() {
					continue
				}
				e, _ := c.l.find(c.tenant, slot, tick)
				c.wrong(Vanished, series, tick, t.TimeOf(series, tick), e.ID, "returned before")
			}
		}
	}
}

// Answered returns the status and the beginning of the body of the answer that made a read fail; ok is false when there
// was no answer.
func Answered(err error) (status int, body string, ok bool) {
	var se *statusError
	if !errors.As(err, &se) {
		return 0, "", false
	}
	return se.status, se.body, true
}
