package writes

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"sluice/internal/log"
	"sluice/schema"
)

const (
	// silentAfter is how old, in ms of log time, the beat of a producer may be whose rates count, and forgetAfter from when on
	// what it has said of refusals is not shown any more.
	silentAfter = int64(time.Minute / time.Millisecond)
	forgetAfter = int64(time.Hour / time.Millisecond)
)

// Table knows what producers say of the tenants, as of the control topic. It may be asked from many goroutines.
type Table struct {
	control *log.Table
	logger  *slog.Logger

	mu        sync.RWMutex
	instances map[string]*teller
	logTime   int64 // of the last record of the topic, ms
}

// teller is one producer.
type teller struct {
	run     uint32
	heard   int64 // log time of the last beat, ms; 0 = none
	rates   map[schema.Tenant]told[Rates]
	rejects map[schema.Tenant]told[[]Reject]
}

// told is what a record has said.
type told[T any] struct {
	run  uint32
	at   int64 // log time, ms
	what T
}

// NewTable makes an empty table, which control, that of the control topic, fills.
func NewTable(control *log.Table, logger *slog.Logger) *Table {
	t := &Table{control: control, logger: logger, instances: map[string]*teller{}}
	control.On(t.apply)
	return t
}

// Sync waits until everything that was told before the call is known here.
func (t *Table) Sync(ctx context.Context) error { return t.control.Sync(ctx) }

func (t *Table) apply(rec *log.Record) {
	k, ours, err := decodeKey(rec.Key)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.logTime = rec.Time
	if !ours {
		return
	}
	var v value
	if err == nil && len(rec.Value) > 0 {
		v, err = decodeValue(k.kind, rec.Value)
	}
	if err != nil {
		t.logger.Warn("a record of what is written was skipped", "key", string(rec.Key), "offset", rec.Offset, "err", err)
		return
	}
	of := t.instances[k.instance]
	if of == nil {
		if len(rec.Value) == 0 {
			return
		}
		of = &teller{rates: map[schema.Tenant]told[Rates]{}, rejects: map[schema.Tenant]told[[]Reject]{}}
		t.instances[k.instance] = of
	}
	gone := len(rec.Value) == 0
	switch {
	case k.kind == kindBeat && gone:
		of.run, of.heard = 0, 0
	case k.kind == kindBeat:
		of.run, of.heard = v.Run, rec.Time
	case k.kind == kindRates && gone:
		delete(of.rates, k.tenant)
	case k.kind == kindRates:
		of.rates[k.tenant] = told[Rates]{v.Run, rec.Time, *v.Rates}
	case gone:
		delete(of.rejects, k.tenant)
	default:
		of.rejects[k.tenant] = told[[]Reject]{v.Run, rec.Time, v.Rejects}
	}
	if of.heard == 0 && len(of.rates) == 0 && len(of.rejects) == 0 {
		delete(t.instances, k.instance)
	}
}

// counts says whether a rate that was told in that run holds.
func (t *Table) counts(of *teller, run uint32) bool {
	return of.heard > 0 && run == of.run && t.logTime-of.heard <= silentAfter
}

// shown says whether refusals still are: those of a run that goes on, and of another one for an hour.
func (t *Table) shown(of *teller, run uint32, at int64) bool {
	if of.heard > 0 && run == of.run {
		at = max(at, of.heard)
	}
	return t.logTime-at <= forgetAfter
}

// Rates returns what a tenant sends per second, over all producers.
func (t *Table) Rates(tenant schema.Tenant) Rates {
	var sum Rates
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, of := range t.instances {
		if r, ok := of.rates[tenant]; ok && t.counts(of, r.run) {
			sum = sum.plus(r.what)
		}
	}
	return Rates{digits(sum.Samples), digits(sum.Histograms), digits(sum.Requests)}
}

// Rejected is one reason over all producers: the sum of the counts since each process started, series and message of the last time.
type Rejected struct {
	Reject
	Processes int `json:"processes"`
}

// Rejects returns what of a tenant was refused, the latest first.
func (t *Table) Rejects(tenant schema.Tenant) []Rejected {
	all := map[schema.ErrorID]*Rejected{}
	t.mu.RLock()
	for _, of := range t.instances {
		said, ok := of.rejects[tenant]
		if !ok || !t.shown(of, said.run, said.at) {
			continue
		}
		for _, r := range said.what {
			sum := all[r.Reason]
			if sum == nil {
				all[r.Reason] = &Rejected{r, 1}
				continue
			}
			count, first := sum.Count+r.Count, min(sum.First, r.First)
			if r.Last > sum.Last {
				sum.Reject = r
			}
			sum.Count, sum.First = count, first
			sum.Processes++
		}
	}
	t.mu.RUnlock()
	list := make([]Rejected, 0, len(all))
	for _, r := range all {
		list = append(list, *r)
	}
	slices.SortFunc(list, func(a, b Rejected) int { return cmp.Or(cmp.Compare(b.Last, a.Last), cmp.Compare(a.Reason, b.Reason)) })
	return list
}

// Total is what is known of a tenant, in numbers.
type Total struct {
	Samples      float64 // per second
	Rejected     int64   // since the producers started
	LastRejected int64   // ms; 0 = never
}

// Totals returns the total of every tenant that a producer has spoken of.
func (t *Table) Totals() map[schema.Tenant]Total {
	t.mu.RLock()
	defer t.mu.RUnlock()
	tenants := 0
	for _, of := range t.instances {
		tenants = max(tenants, len(of.rates))
	}
	out := make(map[schema.Tenant]Total, tenants)
	for _, of := range t.instances {
		for tenant, r := range of.rates {
			if t.counts(of, r.run) {
				sum := out[tenant]
				sum.Samples = digits(sum.Samples + r.what.Samples)
				out[tenant] = sum
			}
		}
		for tenant, said := range of.rejects {
			if !t.shown(of, said.run, said.at) {
				continue
			}
			sum := out[tenant]
			for _, r := range said.what {
				sum.Rejected += r.Count
				sum.LastRejected = max(sum.LastRejected, r.Last)
			}
			out[tenant] = sum
		}
	}
	return out
}

// outdated returns keys whose records say nothing any more to anybody, at most that many.
func (t *Table) outdated(most int) (keys []key) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for instance, of := range t.instances {
		old := func(run uint32, at int64) bool { return len(keys) < most && !t.shown(of, run, at) }
		for tenant, r := range of.rates {
			if old(r.run, r.at) {
				keys = append(keys, key{kindRates, tenant, instance})
			}
		}
		for tenant, r := range of.rejects {
			if old(r.run, r.at) {
				keys = append(keys, key{kindRejects, tenant, instance})
			}
		}
		if of.heard > 0 && old(of.run, of.heard) {
			keys = append(keys, key{kindBeat, "", instance})
		}
	}
	return keys
}
