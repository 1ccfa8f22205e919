package producer

import (
	"cmp"
	"maps"
	"slices"

	"sluice/internal/writes"
	"sluice/schema"
)

// What internal/writes tells the other processes of this one.

var _ writes.Source = (*Producer)(nil)

// Written returns what was written for each tenant since this process knows it.
func (p *Producer) Written() map[schema.Tenant]writes.Counts {
	p.tenants.mu.Lock()
	defer p.tenants.mu.Unlock()
	out := make(map[schema.Tenant]writes.Counts, len(p.tenants.states))
	for tenant, s := range p.tenants.states {
		out[tenant] = writes.Counts{Samples: s.rates.samples.sum(), Histograms: s.rates.histograms.sum(), Requests: s.rates.requests.sum()}
	}
	return out
}

// Rejected returns what was refused of each tenant since this process started, the latest first.
func (p *Producer) Rejected() map[schema.Tenant][]writes.Reject {
	p.rejects.mu.Lock()
	defer p.rejects.mu.Unlock()
	out := make(map[schema.Tenant][]writes.Reject, len(p.rejects.tenants))
	for tenant, of := range p.rejects.tenants {
		list := make([]writes.Reject, 0, len(of))
		for _, id := range slices.Sorted(maps.Keys(of)) {
			e := of[id]
			list = append(list, writes.Reject{
				Reason: id, Count: e.count, First: e.firstRecorded.UnixMilli(), Last: e.last.UnixMilli(), Series: e.series, Message: e.message,
			})
		}
		slices.SortStableFunc(list, func(a, b writes.Reject) int { return cmp.Compare(b.Last, a.Last) })
		out[tenant] = list
	}
	return out
}
