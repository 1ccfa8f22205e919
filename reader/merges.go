package reader

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"sluice/internal/lease"
	"sluice/internal/log"
	"sluice/internal/plan"
	"sluice/schema"
)

// Merges knows what compactors say of blocks in the control topic: those that they have set aside, and the merges that are
// under way.
type Merges struct {
	table  *log.Table
	leases *lease.View
	logger *slog.Logger

	mu    sync.Mutex // guards aside
	aside map[plan.BlockKey]plan.SetAside
}

// NewMerges makes Merges that know nothing until Run.
func NewMerges(l log.Log, logger *slog.Logger) *Merges {
	m := &Merges{leases: lease.NewView(plan.LeasePrefix, logger), logger: logger, aside: map[plan.BlockKey]plan.SetAside{}}
	m.table = log.NewTable(l, log.TopicControl, m.apply)
	return m
}

// Run follows the topic until ctx ends.
func (m *Merges) Run(ctx context.Context) error { return m.table.Run(ctx) }

// Sync waits until everything that was said before the call is known here.
func (m *Merges) Sync(ctx context.Context) error { return m.table.Sync(ctx) }

func (m *Merges) apply(rec *log.Record) {
	m.leases.Apply(rec)
	block, note, ours, err := plan.DecodeSetAside(string(rec.Key), rec.Value)
	if !ours {
		return
	}
	if err != nil {
		m.logger.Warn("note of a compactor skipped", "offset", rec.Offset, "err", err)
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if note == nil {
		delete(m.aside, block)
		return
	}
	m.aside[block] = *note
}

// setAside tells whether merges leave the block alone at the time now, and why.
func (m *Merges) setAside(key plan.BlockKey, now time.Time) (plan.SetAside, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	note, ok := m.aside[key]
	return note, ok && note.Fresh(now)
}

// Quarantined is how many blocks merges leave alone at the time now.
func (m *Merges) Quarantined(now time.Time) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, note := range m.aside {
		if note.Fresh(now) {
			n++
		}
	}
	return n
}

// runs tells which process merges these blocks; "" = none.
func (m *Merges) runs(tenant schema.Tenant, blocks []*schema.BlockEntry) string {
	return m.leases.Holder(plan.LeasePrefix + plan.ID(tenant, blocks))
}
