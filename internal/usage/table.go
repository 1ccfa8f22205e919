package usage

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"sync"
	"time"

	"sluice/internal/log"
	"sluice/schema"
)

// Table knows the series of all tenants as of the control topic: some 14 bytes for each series of a tenant with a limit,
// and for each consumer that holds its partition. It may be asked from many goroutines.
type Table struct {
	control *log.Table
	logger  *slog.Logger
	counts  bool // Known is not asked: hashes are not kept

	mu      sync.RWMutex
	sources map[int32]map[string]*source // by partition and instance
	views   map[schema.Tenant]*View      // those that are made and still hold
}

// source is what one instance says of one partition.
type source struct {
	beat    beat
	time    int64 // log time of the beat, ms; 0 = none yet
	stale   bool  // another one speaks of the partition, and this one has fallen silent
	tenants map[schema.Tenant]*part
}

// staleAfter is how much older than the newest a beat may be, in ms, and forgottenAfter from when what was said before it is
// given up.
const (
	staleAfter     = int64(time.Minute / time.Millisecond)
	forgottenAfter = int64(time.Hour / time.Millisecond)
)

// part is what a source says of one tenant.
type part struct {
	summary summary
	known   content // of the chunks of the summary
	next    content // of chunks that no summary has confirmed yet
}

// content is what chunks of one version have told.
type content struct {
	run     uint64
	version uint32
	set     hashSet
	lengths []int32 // by chunk
	total   int64   // their sum
}

// View is the use of a tenant at one moment. It is never changed.
type View struct {
	Series    int64            // active, over all partitions
	InHeads   int64            // in heads that are growing
	Metrics   map[string]int64 // of the metric names that were told of; others have fewer
	Producers []uint32         // that have written for the tenant lately
	// Complete says that Known tells a new series from one that is known. It does not as long as the consumers have not heard of
	// the tenant's limit.
	Complete bool

	parts []placed // of all sources, the stale ones too
}

// placed is a part and its partition.
type placed struct {
	*part
	partition int32
}

// Others is how many producers beside this one have written for the tenant lately.
func (v *View) Others(producer uint32) int {
	if _, us := slices.BinarySearch(v.Producers, producer); us {
		return len(v.Producers) - 1
	}
	return len(v.Producers)
}

// NewTable makes an empty table, which control, that of the control topic, fills.
func NewTable(control *log.Table, logger *slog.Logger) *Table {
	t := &Table{control: control, logger: logger, sources: map[int32]map[string]*source{}, views: map[schema.Tenant]*View{}}
	control.On(t.apply)
	return t
}

// NewCounts makes a table for somebody who wants numbers only: it keeps no series, and to it Known is always false.
func NewCounts(control *log.Table, logger *slog.Logger) *Table {
	t := NewTable(control, logger)
	t.counts = true
	return t
}

// Sync waits until everything that was told before the call is known here.
func (t *Table) Sync(ctx context.Context) error { return t.control.Sync(ctx) }

func (t *Table) apply(rec *log.Record) {
	k, ours, err := decodeKey(rec.Key)
	if !ours {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil {
		switch {
		case k.tenant == "":
			err = t.applyBeat(k, rec)
		case k.chunk < 0:
			err = t.applySummary(k, rec.Value)
		default:
			err = t.applyChunk(k, rec.Value)
		}
	}
	if err != nil {
		t.logger.Warn("a record of usage was skipped", "key", string(rec.Key), "offset", rec.Offset, "err", err)
	}
}

func (t *Table) source(k key) *source {
	of := t.sources[k.partition]
	if of == nil {
		of = map[string]*source{}
		t.sources[k.partition] = of
	}
	s := of[k.instance]
	if s == nil {
		s = &source{tenants: map[schema.Tenant]*part{}}
		of[k.instance] = s
	}
	return s
}

func (t *Table) part(k key) *part {
	s := t.source(k)
	p := s.tenants[k.tenant]
	if p == nil {
		p = &part{}
		s.tenants[k.tenant] = p
		delete(t.views, k.tenant)
	}
	return p
}

func (t *Table) applyBeat(k key, rec *log.Record) error {
	if rec.Value == nil {
		if s := t.sources[k.partition][k.instance]; s != nil {
			t.outdated(s)
			delete(t.sources[k.partition], k.instance)
		}
		return nil
	}
	var b beat
	if err := json.Unmarshal(rec.Value, &b); err != nil {
		return err
	}
	s := t.source(k)
	for tenant, p := range s.tenants { // what was said in another run and not again
		if p.summary.Run != b.Run {
			delete(s.tenants, tenant)
			delete(t.views, tenant)
		}
	}
	s.beat, s.time = b, rec.Time
	for instance, other := range t.sources[k.partition] {
		if stale := rec.Time-other.time > staleAfter; stale != other.stale {
			other.stale = stale
			t.outdated(other)
		}
		if rec.Time-other.time > forgottenAfter && other.time > 0 {
			t.outdated(other)
			delete(t.sources[k.partition], instance)
		}
	}
	return nil
}

// outdated drops the views that a source has to do with.
func (t *Table) outdated(s *source) {
	for tenant := range s.tenants {
		delete(t.views, tenant)
	}
}

func (t *Table) applySummary(k key, value []byte) error {
	delete(t.views, k.tenant)
	if value == nil {
		if s := t.sources[k.partition][k.instance]; s != nil {
			delete(s.tenants, k.tenant)
		}
		return nil
	}
	var sum summary
	if err := json.Unmarshal(value, &sum); err != nil {
		return err
	}
	p := t.part(k)
	p.summary = sum
	switch {
	case !sum.Limited:
		p.known, p.next = content{}, content{}
	case p.known.is(sum.Run, sum.Version):
	case p.next.is(sum.Run, sum.Version):
		p.known, p.next = p.next, content{}
	default:
		p.known = content{run: sum.Run, version: sum.Version}
	}
	return nil
}

func (c *content) is(run uint64, version uint32) bool { return c.run == run && c.version == version }

func (t *Table) applyChunk(k key, value []byte) error {
	if value == nil || t.counts {
		return nil // a summary says what holds
	}
	ch, err := decodeChunk(value)
	if err != nil {
		return err
	}
	p := t.part(k)
	into := &p.known
	if !into.is(ch.run, ch.version) {
		if into = &p.next; !into.is(ch.run, ch.version) {
			*into = content{run: ch.run, version: ch.version}
		}
	}
	into.take(k.chunk, &ch)
	return nil
}

func (c *content) take(n int, ch *chunk) {
	for n >= len(c.lengths) {
		c.lengths = append(c.lengths, 0)
	}
	c.total += int64(ch.len()) - int64(c.lengths[n])
	c.lengths[n] = int32(ch.len())
	for i := range ch.len() {
		c.set.add(ch.at(i))
	}
}

// Known tells whether the series with that schema.SeriesHash is active, as far as the consumers have said. They are asked
// for the partition first that the series belongs to, and then for the others: it was there before partitions were added.
func (t *Table) Known(tenant schema.Tenant, hash uint64, partition int32) bool {
	h := short(hash)
	v := t.View(tenant)
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, here := range [...]bool{true, false} {
		for i := range v.parts {
			p := &v.parts[i]
			if (p.partition == partition) == here && (p.known.set.has(h) || p.next.set.has(h)) {
				return true
			}
		}
	}
	return false
}

// View returns the use of a tenant. The same pointer means that nothing has changed.
func (t *Table) View(tenant schema.Tenant) *View {
	t.mu.RLock()
	v := t.views[tenant]
	t.mu.RUnlock()
	if v != nil {
		return v
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if v = t.views[tenant]; v == nil {
		v = t.view(tenant)
		if len(t.views) >= maxViews {
			clear(t.views)
		}
		t.views[tenant] = v
	}
	return v
}

// maxViews bounds the views that are kept: anybody can invent tenants.
const maxViews = 10_000

// view adds up what is said of a tenant. Of several who speak of a partition, the one that has counted most counts.
func (t *Table) view(tenant schema.Tenant) *View {
	v := &View{Metrics: map[string]int64{}, Complete: true}
	for partition, of := range t.sources {
		var most *summary
		spoken, complete := false, false
		for _, s := range of {
			p := s.tenants[tenant]
			if p == nil {
				continue
			}
			v.parts = append(v.parts, placed{p, partition})
			if s.stale {
				continue
			}
			spoken = true
			complete = complete || p.complete()
			if most == nil || p.summary.Series > most.Series {
				most = &p.summary
			}
			v.Producers = append(v.Producers, p.summary.Producers...)
		}
		if !spoken {
			continue
		}
		v.Complete = v.Complete && complete
		v.Series += most.Series
		v.InHeads += most.InHeads
		for name, n := range most.Metrics {
			v.Metrics[name] += n
		}
	}
	slices.Sort(v.Producers)
	v.Producers = slices.Compact(v.Producers)
	return v
}

func (p *part) complete() bool {
	return p.summary.Limited && p.known.is(p.summary.Run, p.summary.Version) && p.known.total >= p.summary.Known
}

// Total is the use of a tenant in two numbers.
type Total struct {
	Series  int64 // active, over all partitions
	InHeads int64 // in heads that are growing
}

// Totals returns the use of every tenant that anybody speaks of.
func (t *Table) Totals() map[schema.Tenant]Total {
	t.mu.RLock()
	defer t.mu.RUnlock()
	out := map[schema.Tenant]Total{}
	for _, of := range t.sources {
		tenants := 0
		for _, s := range of {
			tenants = max(tenants, len(s.tenants))
		}
		most := make(map[schema.Tenant]*summary, tenants) // in the partition
		for _, s := range of {
			if s.stale {
				continue
			}
			for tenant, p := range s.tenants {
				if m := most[tenant]; m == nil || p.summary.Series > m.Series {
					most[tenant] = &p.summary
				}
			}
		}
		for tenant, m := range most {
			sum := out[tenant]
			sum.Series += m.Series
			sum.InHeads += m.InHeads
			out[tenant] = sum
		}
	}
	return out
}

// Applied returns the furthest offset before which everything in the partition has been told, and the log time of the last
// record of that, ms; 0 and 0 if nobody speaks for it.
func (t *Table) Applied(partition int32) (offset, logTime int64) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, s := range t.sources[partition] {
		if s.time > 0 && !s.stale && s.beat.Applied >= offset {
			offset, logTime = s.beat.Applied, s.beat.LogTime
		}
	}
	return offset, logTime
}

// MetricUsage is a metric name and its series.
type MetricUsage struct {
	Name   string `json:"name"`
	Series int64  `json:"series"`
}

// Usage returns the active series of a tenant over all partitions, and the metric names that have most of them, the largest
// first, at most top of them.
func (t *Table) Usage(tenant schema.Tenant, top int) (series int64, perMetric []MetricUsage) {
	v := t.View(tenant)
	perMetric = make([]MetricUsage, 0, len(v.Metrics)) // in JSON, none is [] and not null
	for name, n := range v.Metrics {
		perMetric = append(perMetric, MetricUsage{name, n})
	}
	slices.SortFunc(perMetric, func(a, b MetricUsage) int {
		if a.Series != b.Series {
			return int(b.Series - a.Series)
		}
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return v.Series, perMetric[:min(top, len(perMetric))]
}
