package producer

import (
	"sync"
	"time"

	"sluice/schema"
)

// rejects remembers for each tenant what was refused and why, for the tenant to read. It is bounded: a tenant has at most one
// entry for each error ID, of less than 1 KB, and of tenants there are at most maxRejectedTenants.
type rejects struct {
	mu      sync.Mutex // guards tenants and all below
	tenants map[schema.Tenant]map[schema.ErrorID]*rejected
}

// rejected is one reason of one tenant.
type rejected struct {
	count         int64
	last          time.Time
	series        string // of the last request that had one; empty if nobody knew its labels
	message       string
	firstRecorded time.Time
}

// maxMessage bounds a message that is remembered, in bytes.
const maxMessage = 600

// add notes a refusal.
func (r *rejects) add(tenant schema.Tenant, f *refusal, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	of := r.tenants[tenant]
	if of == nil {
		if len(r.tenants) >= maxRejectedTenants {
			for victim := range r.tenants {
				delete(r.tenants, victim)
				break
			}
		}
		of = map[schema.ErrorID]*rejected{}
		r.tenants[tenant] = of
	}
	e := of[f.id]
	if e == nil {
		e = &rejected{firstRecorded: now}
		of[f.id] = e
	}
	e.count += int64(f.count)
	e.last, e.series, e.message = now, f.series, f.message[:min(len(f.message), maxMessage)]
}

// of returns a copy of what was refused of a tenant.
func (r *rejects) of(tenant schema.Tenant) map[schema.ErrorID]rejected {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[schema.ErrorID]rejected, len(r.tenants[tenant]))
	for id, e := range r.tenants[tenant] {
		out[id] = *e
	}
	return out
}
