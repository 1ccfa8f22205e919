package catalog

import (
	"cmp"
	"maps"
	"slices"

	"github.com/oklog/ulid/v2"

	"sluice/schema"
)

// state is what the topic says. It is a function of the latest value of each key and of nothing else: not of the order of
// keys, not of values that were overwritten. That is why compaction of the topic can never change what a reader sees.
//
// An entry is replaced while another known entry, in whatever state, lists it in Replaces. Live blocks are those in the
// state live that nobody replaces.
type state struct {
	tenants    map[schema.Tenant]*tenantState
	zones      map[int32]map[string]zoneState  // by partition and zone, as written
	partitions map[int32]schema.PartitionState // over all zones
	accepted   map[schema.LogRange]bool        // gaps that an operator has accepted

	blocks, replaced, tombstones int // over all tenants
}

// tenantState holds one tenant's entries and the indices that make an event cost what it changes, not what is known.
type tenantState struct {
	entries   map[ulid.ULID]*schema.BlockEntry
	replacers map[ulid.ULID][]ulid.ULID // by block: the known entries that list it in Replaces
	sources   map[ulid.ULID]int         // by block: how many other known entries list it in Sources
	live      map[ulid.ULID]*schema.BlockEntry
	sorted    []*schema.BlockEntry // live in the order of Compare; nil = must be built. Handed out, so never changed.
	totals    *Totals              // of live; nil = must be added up
}

func newState() *state {
	return &state{tenants: map[schema.Tenant]*tenantState{}, zones: map[int32]map[string]zoneState{}, partitions: map[int32]schema.PartitionState{}, accepted: map[schema.LogRange]bool{}}
}

// zoneState is what the consumers of a zone say of a partition.
type zoneState struct {
	schema.PartitionState
	offset int64 // of the record, so that the latest can be told
}

// setPartition takes over what a zone says of a partition (nil = nothing any more), and what all of them say together.
func (s *state) setPartition(p int32, zone string, said *schema.PartitionState, offset int64) {
	zones := s.zones[p]
	if zones == nil {
		zones = map[string]zoneState{}
		s.zones[p] = zones
	}
	if said == nil {
		delete(zones, zone)
	} else {
		zones[zone] = zoneState{*said, offset}
	}
	if len(zones) == 0 {
		delete(s.zones, p)
		delete(s.partitions, p)
		return
	}
	s.partitions[p] = together(zones)
}

// together is what all zones know: blocks reach as far as those of the zone that is furthest, of the topic that was
// written of last; what one zone knows to be lost is lost.
func together(zones map[string]zoneState) schema.PartitionState {
	var latest, best zoneState
	latest.offset = -1
	for _, z := range zones {
		if z.offset > latest.offset {
			latest = z
		}
	}
	best = latest
	var gaps []schema.Gap
	for _, zone := range slices.Sorted(maps.Keys(zones)) {
		z := zones[zone]
		if z.TopicID == latest.TopicID && z.To > best.To {
			best = z
		}
		for _, gap := range z.Gaps {
			i := slices.IndexFunc(gaps, func(g schema.Gap) bool { return g.LogRange == gap.LogRange })
			switch {
			case i < 0:
				gaps = append(gaps, gap)
			case gaps[i].ToTime == 0 || Accepted(gap):
				gaps[i] = gap
			}
		}
	}
	best.Gaps = gaps
	return best.PartitionState
}

// apply takes the event of the record at the offset over.
func (s *state) apply(ev event, offset int64) {
	switch {
	case ev.accept != nil && ev.accepted:
		s.accepted[*ev.accept] = true
		return
	case ev.accept != nil:
		delete(s.accepted, *ev.accept)
		return
	case ev.tenant == "":
		s.setPartition(ev.partition, ev.zone, ev.state, offset)
		return
	}
	t := s.tenants[ev.tenant]
	if t == nil {
		if ev.entry == nil {
			return
		}
		t = &tenantState{
			entries:   map[ulid.ULID]*schema.BlockEntry{},
			replacers: map[ulid.ULID][]ulid.ULID{},
			sources:   map[ulid.ULID]int{},
			live:      map[ulid.ULID]*schema.BlockEntry{},
		}
		s.tenants[ev.tenant] = t
	}
	s.set(t, ev.id, ev.entry)
	if len(t.entries) == 0 {
		delete(s.tenants, ev.tenant)
	}
}

// set replaces the entry of a block (nil = forget) and looks again at every block that the old or the new one replaces.
func (s *state) set(t *tenantState, id ulid.ULID, e *schema.BlockEntry) {
	old := t.entries[id]
	s.count(t, id, -1)
	affected := affectedBy(id, old, e)
	for _, other := range affected {
		s.count(t, other, -1)
	}
	if old != nil {
		t.unlink(id, old)
		delete(t.entries, id)
	}
	if e != nil {
		t.link(id, e)
		t.entries[id] = e
	}
	s.count(t, id, +1)
	t.refresh(id)
	for _, other := range affected {
		s.count(t, other, +1)
		t.refresh(other)
	}
}

// affectedBy returns the other blocks that one of the entries replaces, each once.
func affectedBy(id ulid.ULID, entries ...*schema.BlockEntry) []ulid.ULID {
	var ids []ulid.ULID
	for _, e := range entries {
		if e != nil {
			ids = append(ids, e.Replaces...)
		}
	}
	slices.SortFunc(ids, ulid.ULID.Compare)
	ids = slices.Compact(ids)
	return slices.DeleteFunc(ids, func(other ulid.ULID) bool { return other == id })
}

// count adds the block to the totals, or takes it out of them, as it stands at this moment.
func (s *state) count(t *tenantState, id ulid.ULID, n int) {
	e := t.entries[id]
	switch {
	case e == nil:
	case e.State == schema.BlockDeleted:
		s.tombstones += n
	case len(t.replacers[id]) > 0:
		s.replaced += n
	default:
		s.blocks += n
	}
}

func (t *tenantState) link(id ulid.ULID, e *schema.BlockEntry) {
	for _, other := range e.Replaces {
		if other != id {
			t.replacers[other] = append(t.replacers[other], id)
		}
	}
	for _, other := range e.Sources {
		if other != id {
			t.sources[other]++
		}
	}
}

func (t *tenantState) unlink(id ulid.ULID, e *schema.BlockEntry) {
	for _, other := range e.Replaces {
		if other == id {
			continue
		}
		by := t.replacers[other]
		if i := slices.Index(by, id); i >= 0 {
			by = slices.Delete(by, i, i+1)
		}
		if len(by) == 0 {
			delete(t.replacers, other)
		} else {
			t.replacers[other] = by
		}
	}
	for _, other := range e.Sources {
		if other == id {
			continue
		}
		if t.sources[other]--; t.sources[other] <= 0 {
			delete(t.sources, other)
		}
	}
}

// refresh brings the block's place in live up to date.
func (t *tenantState) refresh(id ulid.ULID) {
	e := t.entries[id]
	is := e != nil && e.State == schema.BlockLive && len(t.replacers[id]) == 0
	was, had := t.live[id]
	switch {
	case is && was == e, !is && !had:
		return
	case is:
		t.live[id] = e
	default:
		delete(t.live, id)
	}
	t.sorted, t.totals = nil, nil
}

// sort builds the sorted view of live.
func (t *tenantState) sort() {
	t.sorted = make([]*schema.BlockEntry, 0, len(t.live))
	for _, e := range t.live {
		t.sorted = append(t.sorted, e)
	}
	slices.SortFunc(t.sorted, Compare)
}

func (t *tenantState) status(id ulid.ULID) Status {
	e := t.entries[id]
	switch {
	case e != nil && e.State == schema.BlockDeleted:
		return Deleted
	case len(t.replacers[id]) > 0:
		return Replaced
	case e != nil:
		return Live
	case t.sources[id] > 0:
		return Replaced
	}
	return Absent
}

// Compare orders blocks by MinTime, then by CompareRank: the order of Blocks.
func Compare(a, b *schema.BlockEntry) int {
	return cmp.Or(cmp.Compare(a.MinTime, b.MinTime), CompareRank(a, b))
}

// CompareRank orders blocks by their place in the log: of two values for one sample, the block that sorts first wins.
// It is (LogFrom, partition, offset) of the start of the first range, and the ID so that the order is total. The offset
// matters for generations so short that two of one partition start in the same millisecond.
func CompareRank(a, b *schema.BlockEntry) int {
	ra, rb := firstRange(a), firstRange(b)
	return cmp.Or(cmp.Compare(a.LogFrom, b.LogFrom), cmp.Compare(ra.Partition, rb.Partition), cmp.Compare(ra.From, rb.From), a.ID.Compare(b.ID))
}

func firstRange(e *schema.BlockEntry) schema.LogRange {
	if len(e.Ranges) == 0 {
		return schema.LogRange{Partition: -1} // a foreign block has no place in our log and stands before all that have one
	}
	return e.Ranges[0]
}
