package usage

import (
	"math/rand/v2"
	"sync"
	"time"

	"sluice/schema"
)

// Tracker counts the active series of the tenants of one partition. The goroutine that applies the partition marks
// series; another one collects what is to be told. A nil Tracker counts nothing.
//
// A series is active from its definition, or its first sample in a record of version 1, until it has not been marked for
// SeriesIdle of log time, and up to a round more. Time passes in rounds. A leap ends none: a record from the future, or a
// log that nothing was written to, must not make every series idle at once. As every series that goes on is defined again within RefLife, what is active is a
// function of the last hour of the log, of which a consumer that starts reads the definitions anyway.
//
// Some 30 bytes a series, beside the kilobyte that it takes in a head.
type Tracker struct {
	mu      sync.Mutex // guards the rest
	tenants map[schema.Tenant]*tenantSeries
	round   uint32
	since   int64 // log time at which the round began, ms; 0 = not yet
	logTime int64 // of the last record, ms
	run     uint64
}

// roundLength is how long a round takes, in ms, and idleRounds how many a series is active after the one it was marked in.
const (
	roundLength = int64(10 * time.Minute / time.Millisecond)
	idleRounds  = uint32(int64(schema.SeriesIdle/time.Millisecond) / roundLength)
)

// tenantSeries is what is known of one tenant.
type tenantSeries struct {
	slots   []seriesSlot // a flat table, at most three quarters full
	n       int          // slots in use
	active  int64        // those of them that count
	inHeads int64
	metrics map[string]int32 // name → place in counts
	names   []string
	counts  []int64

	limit     schema.SeriesLimit
	limitedAt uint32 // round of the last record with a limit
	limited   bool
	producers map[uint32]int64 // log time of their last record with a limit, ms

	told told
}

// seriesSlot is one series. round 0 = the slot is free; a round that is too long ago = it does not count.
type seriesSlot struct {
	hash   uint64
	metric int32
	round  uint32
	gone   bool // refused by the cap
}

// NewTracker makes a Tracker that knows nothing.
func NewTracker() *Tracker {
	t := &Tracker{}
	t.Reset()
	return t
}

// Reset forgets everything: the partition begins anew.
func (t *Tracker) Reset() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tenants, t.round, t.since, t.logTime, t.run = map[schema.Tenant]*tenantSeries{}, 1, 0, 0, rand.Uint64()
}

// Tick tells the log time of a record that is about to be applied.
func (t *Tracker) Tick(logTime int64) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.logTime = logTime
	switch passed := logTime - t.since; {
	case t.since == 0, passed >= 2*roundLength, passed < -roundLength:
		t.since = logTime
	case passed >= roundLength:
		t.since = logTime
		t.round++
		t.sweep()
	}
}

// Round is the number of the round, for who marks a series once per round. Only for the goroutine that calls Tick.
func (t *Tracker) Round() uint32 {
	if t == nil {
		return 0
	}
	return t.round
}

// Mark notes that the series with that schema.SeriesHash is there.
func (t *Tracker) Mark(tenant schema.Tenant, hash uint64, metric []byte) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.tenant(tenant)
	slot := s.slot(hash)
	switch {
	case slot.round == 0:
		*slot = seriesSlot{hash: hash, metric: s.metric(metric)}
		s.n++
	case !slot.gone:
		slot.round = t.round
		return
	}
	slot.round, slot.gone = t.round, false
	s.active++
	s.counts[slot.metric]++
	s.told.dirty = true
	if s.limited {
		s.told.added = append(s.told.added, hash)
	}
}

// Refuse notes that the series was not applied after all: the cap has met it.
func (t *Tracker) Refuse(tenant schema.Tenant, hash uint64) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.tenants[tenant]
	if s == nil {
		return
	}
	if slot := s.slot(hash); slot.round != 0 && !slot.gone {
		slot.gone = true
		s.active--
		s.counts[slot.metric]--
		s.told.dirty = true
	}
}

// Limit notes the limit that a record of the tenant carries.
func (t *Tracker) Limit(tenant schema.Tenant, l schema.SeriesLimit) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.tenant(tenant)
	s.limit, s.limitedAt = l, t.round
	if !s.limited {
		s.limited = true
		s.tellAgain()
	}
	if _, known := s.producers[l.Producer]; known || len(s.producers) < maxProducers {
		s.producers[l.Producer] = t.logTime
		s.told.dirty = s.told.dirty || !known
	}
}

// NewSeries notes that the growing heads have n more series of the tenant, Cut that they are empty again.
func (t *Tracker) NewSeries(tenant schema.Tenant, n int) {
	if t == nil || n == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.tenant(tenant)
	s.inHeads += int64(n)
	s.told.dirty = true
}

// Cut notes that a generation has ended.
func (t *Tracker) Cut() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.tenants {
		s.inHeads = 0
		s.told.dirty = true
	}
}

// Active adds the active series, and those in growing heads, of each tenant to into.
func (t *Tracker) Active(into map[schema.Tenant]Count) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, s := range t.tenants {
		c := into[name]
		into[name] = Count{c.Active + s.active, c.InHeads + s.inHeads}
	}
}

// Count is how many series a tenant has: active ones, and those in heads that are growing.
type Count struct{ Active, InHeads int64 }

func (t *Tracker) tenant(name schema.Tenant) *tenantSeries {
	s := t.tenants[name]
	if s == nil {
		s = &tenantSeries{metrics: map[string]int32{}, producers: map[uint32]int64{}}
		t.tenants[name] = s
	}
	return s
}

// slot returns the series' slot, or the free one where it belongs.
func (s *tenantSeries) slot(hash uint64) *seriesSlot {
	if 4*(s.n+1) > 3*len(s.slots) {
		s.resize(max(8, 2*len(s.slots)))
	}
	mask := uint64(len(s.slots) - 1)
	for at := spread(hash) & mask; ; at = (at + 1) & mask {
		if e := &s.slots[at]; e.round == 0 || e.hash == hash {
			return e
		}
	}
}

func (s *tenantSeries) resize(size int) {
	old := s.slots
	s.slots = make([]seriesSlot, size)
	mask := uint64(size - 1)
	for i := range old {
		if old[i].round == 0 {
			continue
		}
		at := spread(old[i].hash) & mask
		for s.slots[at].round != 0 {
			at = (at + 1) & mask
		}
		s.slots[at] = old[i]
	}
}

// metric returns the number of a metric name.
func (s *tenantSeries) metric(name []byte) int32 {
	if id, ok := s.metrics[string(name)]; ok {
		return id
	}
	id := int32(len(s.names))
	s.names, s.counts = append(s.names, string(name)), append(s.counts, 0)
	s.metrics[s.names[id]] = id
	return id
}

// sweep forgets what has been idle for too long.
func (t *Tracker) sweep() {
	for _, s := range t.tenants {
		s.sweep(t.round)
		if s.limited && t.round-s.limitedAt > 1 {
			s.limited = false
		}
		for id, at := range s.producers {
			if t.logTime-at > producerIdle || at > t.logTime {
				delete(s.producers, id)
				s.told.dirty = true
			}
		}
	}
}

func (s *tenantSeries) sweep(round uint32) {
	alive := func(e *seriesSlot) bool { return e.round != 0 && !e.gone && round-e.round <= idleRounds }
	left := 0
	for i := range s.slots {
		if alive(&s.slots[i]) {
			left++
		}
	}
	if left == s.n {
		return
	}
	s.told.dirty = true
	old, names := s.slots, s.names
	size := 8
	for 3*size < 4*(left+1) {
		size *= 2
	}
	s.slots, s.n, s.active = make([]seriesSlot, size), left, int64(left)
	s.metrics, s.names, s.counts = map[string]int32{}, nil, nil
	mask := uint64(size - 1)
	for i := range old {
		if !alive(&old[i]) {
			continue
		}
		at := spread(old[i].hash) & mask
		for s.slots[at].round != 0 {
			at = (at + 1) & mask
		}
		s.slots[at] = old[i]
		id := s.metric([]byte(names[old[i].metric]))
		s.slots[at].metric = id
		s.counts[id]++
	}
}
