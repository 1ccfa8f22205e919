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

// meter counts what comes, and tells how much it is a second.
type meter struct {
	mu               sync.Mutex // guards all below
	start            time.Time  // of the current window
	current, earlier int        // counts of the current window and of the one before
}

// meterWindow is the time that a rate is taken over.
const meterWindow = time.Minute

func (m *meter) add(n int, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.turn(now)
	m.current += n
}

// perSecond returns the rate over the last meterWindow, as if what came in the window before had come evenly.
func (m *meter) perSecond(now time.Time) float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.turn(now)
	left := max(0, 1-float64(now.Sub(m.start))/float64(meterWindow))
	return (float64(m.current) + float64(m.earlier)*left) / meterWindow.Seconds()
}

// turn begins a new window if it is time for one. The caller holds mu.
func (m *meter) turn(now time.Time) {
	switch passed := now.Sub(m.start); {
	case passed < meterWindow:
	case passed < 2*meterWindow:
		m.start, m.current, m.earlier = m.start.Add(meterWindow), 0, m.current
	default:
		m.start, m.current, m.earlier = now, 0, 0
	}
}
