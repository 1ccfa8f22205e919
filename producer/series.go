package producer

import (
	"hash/maphash"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"sluice/schema"
)

// seriesCache is what is remembered of a tenant's series, so that a known one costs a hash of its label bytes and a look-up:
// that its labels are valid, its partition, the ref that stands for it in records, and when that was last defined. It holds
// for one set of limits and one shard; others begin a new cache, with another epoch, under which nothing is defined yet.
//
// Some 67 bytes a series (BenchmarkSeriesCache), and no pointers, so that the collector passes it by.
type seriesCache struct {
	epoch  uint64
	limits schema.Limits
	next   []atomic.Uint32 // by partition: the ref for its next series. Never used twice
	seeds  [2]maphash.Seed
	budget *seriesBudget

	mu    sync.RWMutex
	index map[seriesKey]uint32 // guarded by mu; place in pages
	pages []*seriesPage        // guarded by mu; what they point to never moves
	free  []uint32             // guarded by mu; places of series that were forgotten
	used  uint32               // guarded by mu; places given out, the free ones included
}

// seriesKey is a 128-bit hash of label bytes as they are received, seeded per cache: nobody can make two series meet.
type seriesKey [2]uint64

const pageSeries = 512

type seriesPage [pageSeries]knownSeries

// knownSeries is one series. Its fields but the atomic ones are written before it can be found; partition and ref, if it
// is unplaced, once more, by learn.
type knownSeries struct {
	partition int32 // or unplaced
	ref       uint32
	group     uint32        // of haGroups; 0 = not of an HA pair
	defined   atomic.Uint32 // when the last acknowledged definition of it was sent, in seconds of Producer.clock; 0 = never
	seen      atomic.Uint32 // when it last came, in the same seconds
}

// seriesBudget bounds the series that all caches of a producer remember together.
type seriesBudget struct {
	limit int64
	used  atomic.Int64
}

func newSeriesCache(lim *schema.Limits, partitions int32, budget *seriesBudget) *seriesCache {
	return &seriesCache{
		epoch: rand.Uint64(), limits: *lim, next: make([]atomic.Uint32, partitions),
		seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}, budget: budget,
		index: map[seriesKey]uint32{},
	}
}

// drop gives the cache's part of the budget back. Requests under way may go on using it.
func (c *seriesCache) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.budget.used.Add(-int64(len(c.index)))
	clear(c.index)
	c.budget = &seriesBudget{} // what is still learned is not remembered
}

// worn tells that refs are running out.
func (c *seriesCache) worn() bool {
	for i := range c.next {
		if c.next[i].Load() > schema.MaxRef/2 {
			return true
		}
	}
	return false
}

func (c *seriesCache) key(labelBytes []byte) seriesKey {
	return seriesKey{maphash.Bytes(c.seeds[0], labelBytes), maphash.Bytes(c.seeds[1], labelBytes)}
}

// keyOfHashes is the key of a series whose labels come one by one: of their keys, first and second halves apart.
func (c *seriesCache) keyOfHashes(first, second []byte) seriesKey {
	return seriesKey{maphash.Bytes(c.seeds[0], first), maphash.Bytes(c.seeds[1], second)}
}

// find returns a known series or nil. The caller holds mu for reading.
func (c *seriesCache) find(key seriesKey) *knownSeries {
	if at, ok := c.index[key]; ok {
		return &c.pages[at/pageSeries][at%pageSeries]
	}
	return nil
}

// fresh tells whether the ref may be used without a definition at the time now. Lives differ by a quarter, so that series
// that came together are not all defined again together.
func (s *knownSeries) fresh(now uint32) bool {
	const life = uint32(schema.RefLife / time.Second)
	at := s.defined.Load()
	return at != 0 && now-at < life-s.ref*2654435761>>16*(life/4)>>16
}

// learned is a series that a request met and the cache did not know.
type learned struct {
	key       seriesKey
	partition int32 // or unplaced
	ref       uint32
	group     uint32
}

// learn remembers new series, as far as there is room, and appends those that it has taken to into: they are defined once
// the request is acknowledged.
func (c *seriesCache) learn(fresh []learned, now uint32, into []*knownSeries) []*knownSeries {
	if len(fresh) == 0 {
		return into
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range fresh {
		l := &fresh[i]
		if at, known := c.index[l.key]; known {
			// Mostly another request was faster; ours is defined and used in its own records only.
			if s := &c.pages[at/pageSeries][at%pageSeries]; s.partition == unplaced && l.partition != unplaced {
				s.partition, s.ref = l.partition, l.ref
				into = append(into, s)
			}
			continue
		}
		if c.budget.used.Add(1) > c.budget.limit {
			c.budget.used.Add(-1)
			return into
		}
		at := c.used
		if n := len(c.free); n > 0 {
			at, c.free = c.free[n-1], c.free[:n-1]
		} else {
			if c.used++; int(at/pageSeries) == len(c.pages) {
				c.pages = append(c.pages, &seriesPage{})
			}
		}
		s := &c.pages[at/pageSeries][at%pageSeries]
		s.partition, s.ref, s.group = l.partition, l.ref, l.group
		s.defined.Store(0)
		s.seen.Store(now)
		c.index[l.key] = at
		if l.partition != unplaced {
			into = append(into, s)
		}
	}
	return into
}

// forget drops the series that have not come for idle seconds. It must be far longer than any request takes: one that is
// under way may still say that its definition was acknowledged.
func (c *seriesCache) forget(now, idle uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, at := range c.index {
		if now-c.pages[at/pageSeries][at%pageSeries].seen.Load() >= idle {
			delete(c.index, key)
			c.free = append(c.free, at)
			c.budget.used.Add(-1)
		}
	}
}
