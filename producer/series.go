package producer

import (
	"hash/maphash"
	"math"
	"math/bits"
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
// Some 55 bytes a series (BenchmarkSeriesCache), and no pointers, so that the collector passes it by.
type seriesCache struct {
	epoch  uint64
	limits schema.Limits
	next   []atomic.Uint32 // by partition: the ref for its next series. Never used twice
	seeds  [2]maphash.Seed
	budget *seriesBudget

	mu    sync.RWMutex
	index seriesIndex // guarded by mu
	free  []uint32    // guarded by mu; places of series that were forgotten
	used  uint32      // guarded by mu; places given out, the free ones included
}

// seriesKey is a 128-bit hash of label bytes as they are received, seeded per cache: nobody can make two series meet.
type seriesKey [2]uint64

const pageSeries = 512

type seriesPage [pageSeries]knownSeries

// knownSeries is one series. Its fields but the atomic ones are written before it can be found; partition and ref, if it
// is unplaced, once more, by learn.
type knownSeries struct {
	key       seriesKey // zero = forgotten
	partition int16     // or nowhere, or unplaced
	group     uint16    // of haGroups; 0 = not of an HA pair
	ref       uint32
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
	}
}

// drop gives the cache's part of the budget back. Requests under way may go on using it.
func (c *seriesCache) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.budget.used.Add(-int64(c.index.used))
	c.index = seriesIndex{}
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

// add makes k the key of a series whose labels come one by one: part is the key of the i-th. Keys of parts are seeded
// hashes, so nobody knows what is multiplied and summed here; the place of each counts.
func (k *seriesKey) add(i int, part *seriesKey) {
	at := uint64(i+1) * 0x9e3779b97f4a7c15
	k[0] += fold(part[0]^at, 0xa0761d6478bd642f)
	k[1] += fold(part[1]^at, 0xe7037ed1a0b428db)
}

// fold multiplies to 128 bits and brings both halves together.
func fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

// find returns a known series or nil. near is for nobody but the index; each request has its own. The caller holds mu for reading.
func (c *seriesCache) find(key seriesKey, near *uint32) *knownSeries {
	return c.index.findNear(key, near)
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
	group     uint16
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
		if l.partition > math.MaxInt16 { // as many partitions as nobody has: it is defined each time
			continue
		}
		if s := c.index.find(l.key); s != nil {
			// Mostly another request was faster; ours is defined and used in its own records only.
			if s.partition == unplaced && l.partition != unplaced {
				s.partition, s.ref = int16(l.partition), l.ref
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
			if c.used++; int(at/pageSeries) == len(c.index.pages) {
				c.index.pages = append(c.index.pages, &seriesPage{})
			}
		}
		s := c.index.at(at)
		s.key, s.partition, s.ref, s.group = l.key, int16(l.partition), l.ref, l.group
		s.defined.Store(0)
		s.seen.Store(now)
		c.index.add(l.key, at)
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
	for at := range c.used {
		if s := c.index.at(at); s.key != (seriesKey{}) && now-s.seen.Load() >= idle {
			c.index.remove(s.key)
			s.key = seriesKey{}
			c.free = append(c.free, at)
			c.budget.used.Add(-1)
		}
	}
}
