package usage

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"

	"sluice/internal/log"
	"sluice/schema"
)

// told is what has been said of a tenant in the topic.
type told struct {
	once    bool  // a summary is there
	dirty   bool  // it is not what is so now
	series  int64 // in it
	inHeads int64 // in it
	limited bool  // in it
	at      int64 // log time of the collection, ms

	version uint32
	again   bool     // all chunks are to be told anew
	chunks  int      // that are there
	known   int64    // hashes in them
	tail    []uint64 // those of the last one, if it is not full
	added   []uint64 // not told yet
}

const (
	// quietFor is how long the number of series of a tenant without a limit is not told again, ms of log time; six times that if
	// it is about the same.
	quietFor = 10_000
	// producerIdle is how long a producer counts after its last record, ms of log time.
	producerIdle = int64(2 * time.Minute / time.Millisecond)
	maxProducers = 256

	// topMetrics is how many metric names are told in any case, maxMetrics how many at most, and maxMetricBytes the most
	// that their names may take together.
	topMetrics     = 10
	maxMetrics     = 2000
	maxMetricBytes = 200 << 10
	// metricShare is the part of its share of the limit from which a partition tells of a metric name.
	metricShare = 8
)

// Source is who tells, and of what.
type Source struct {
	Instance  string
	Partition int32
	TopicID   string
	Applied   int64 // everything before it has been marked
}

func (s *Source) record(tenant schema.Tenant, chunk int, value []byte) log.Record {
	return log.Record{Key: key{s.Partition, tenant, chunk, s.Instance}.encode(), Value: value}
}

// Collect returns what is to be appended to the control topic, in this order: all that has changed since the last
// collection and, with beat, how far the partition is applied. If it cannot be appended, Failed has to be called.
func (t *Tracker) Collect(src Source, beat bool) []log.Record {
	t.mu.Lock()
	defer t.mu.Unlock()
	var recs []log.Record
	for name, s := range t.tenants {
		recs = t.collectTenant(recs, &src, name, s)
		if s.n == 0 && !s.limited {
			delete(t.tenants, name)
		}
	}
	if beat || len(recs) > 0 {
		recs = append(recs, t.beat(&src))
	}
	return recs
}

func (t *Tracker) beat(src *Source) log.Record {
	return src.record("", -1, encodeJSON(beat{Run: t.run, TopicID: src.TopicID, Applied: src.Applied, LogTime: t.logTime}))
}

// Failed makes the next collection tell everything again: nobody knows how much of the last one there is.
func (t *Tracker) Failed() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.run = rand.Uint64()
	for _, s := range t.tenants {
		s.told.once = false
		s.tellAgain()
	}
}

// Withdraw returns the records that take back everything that was said: somebody else speaks for the partition.
func (t *Tracker) Withdraw(src Source) []log.Record {
	t.mu.Lock()
	defer t.mu.Unlock()
	var recs []log.Record
	for name, s := range t.tenants {
		recs = s.dropChunks(recs, &src, name, 0)
		recs = append(recs, src.record(name, -1, nil))
	}
	return append(recs, src.record("", -1, nil))
}

func (s *tenantSeries) tellAgain() {
	s.told.again, s.told.dirty, s.told.added = true, true, nil
}

func (t *Tracker) collectTenant(recs []log.Record, src *Source, name schema.Tenant, s *tenantSeries) []log.Record {
	d := &s.told
	if s.n == 0 && !s.limited {
		recs = s.dropChunks(recs, src, name, 0)
		if d.once {
			recs = append(recs, src.record(name, -1, nil))
		}
		return recs
	}
	if s.limited {
		recs = s.tellHashes(recs, src, name, t.run)
	} else if recs = s.dropChunks(recs, src, name, 0); d.known > 0 {
		d.known, d.tail = 0, nil
	}
	if d.once && d.limited == s.limited && (!d.dirty || !s.limited && d.recent(s, t.logTime)) {
		return recs
	}
	sum := summary{
		Run: t.run, Series: s.active, InHeads: s.inHeads, Metrics: s.largest(), Limited: s.limited, Version: d.version, Known: d.known,
	}
	for id, at := range s.producers {
		if t.logTime-at <= producerIdle {
			sum.Producers = append(sum.Producers, id)
		}
	}
	slices.Sort(sum.Producers)
	d.once, d.dirty, d.series, d.inHeads, d.limited, d.at = true, false, s.active, s.inHeads, s.limited, t.logTime
	return append(recs, src.record(name, -1, encodeJSON(sum)))
}

// recent says that what was told of a tenant without a limit is good enough.
func (d *told) recent(s *tenantSeries, now int64) bool {
	return now-d.at < quietFor || !notable(d.series, s.active) && !notable(d.inHeads, s.inHeads) && now-d.at < 6*quietFor
}

func notable(before, now int64) bool { return max(now-before, before-now) > max(10, before/20) }

// tellHashes appends the chunks that tell of new series, or of all.
func (s *tenantSeries) tellHashes(recs []log.Record, src *Source, name schema.Tenant, run uint64) []log.Record {
	d := &s.told
	put := func(n int, hashes []uint64) {
		recs = append(recs, src.record(name, n, appendChunk(nil, run, d.version, hashes)))
	}
	if d.again || d.known > s.active+s.active/4+1000 {
		before := d.chunks
		d.version++
		d.again, d.dirty, d.added, d.tail, d.known, d.chunks = false, true, nil, nil, s.active, 0
		hashes := make([]uint64, 0, min(int64(fullChunk), s.active))
		for i := range s.slots {
			if e := &s.slots[i]; e.round != 0 && !e.gone {
				if hashes = append(hashes, e.hash); len(hashes) == fullChunk {
					put(d.chunks, hashes)
					hashes, d.chunks = hashes[:0], d.chunks+1
				}
			}
		}
		if len(hashes) > 0 {
			put(d.chunks, hashes)
			d.chunks++
		}
		last := d.chunks
		d.chunks = max(before, last)
		return s.dropChunks(recs, src, name, last)
	}
	if len(d.added) == 0 {
		return recs
	}
	if len(d.tail) > 0 { // the last chunk is written again
		d.chunks--
	}
	for _, h := range d.added {
		if e := s.slot(h); e.round != 0 && !e.gone {
			d.tail = append(d.tail, h)
			d.known++
		}
	}
	d.added = nil
	for rest := d.tail; ; {
		n := min(len(rest), fullChunk)
		if n == 0 {
			d.tail = nil
			return recs
		}
		put(d.chunks, rest[:n])
		d.chunks++
		if n < tailChunk {
			d.tail = slices.Clone(rest)
			return recs
		}
		rest = rest[n:]
	}
}

// dropChunks takes back the chunks from a number on.
func (s *tenantSeries) dropChunks(recs []log.Record, src *Source, name schema.Tenant, from int) []log.Record {
	d := &s.told
	for n := from; n < d.chunks; n++ {
		recs = append(recs, src.record(name, n, nil))
	}
	d.chunks = from
	return recs
}

// largest returns the metric names with most series: enough of them for the limit per metric to be kept.
func (s *tenantSeries) largest() map[string]int64 {
	threshold := int64(1 << 62)
	if m := s.limit.MaxPerMetric; m > 0 && s.limited {
		threshold = max(1, m/(metricShare*int64(max(s.limit.Partitions, 1))))
	}
	ids := make([]int32, 0, len(s.counts))
	for id, n := range s.counts {
		if n > 0 {
			ids = append(ids, int32(id))
		}
	}
	slices.SortFunc(ids, func(a, b int32) int {
		return cmp.Or(cmp.Compare(s.counts[b], s.counts[a]), cmp.Compare(s.names[a], s.names[b]))
	})
	out := map[string]int64{}
	bytes := 0
	for i, id := range ids {
		if i >= topMetrics && s.counts[id] < threshold || i == maxMetrics {
			break
		}
		if bytes += len(s.names[id]); bytes > maxMetricBytes {
			break
		}
		out[s.names[id]] = s.counts[id]
	}
	return out
}
