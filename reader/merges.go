package reader

import (
	"context"
	"log/slog"

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
	aside  plan.Quarantine
	logger *slog.Logger
}

// NewMerges makes Merges that know nothing until Run.
func NewMerges(l log.Log, logger *slog.Logger) *Merges {
	m := &Merges{leases: lease.NewView(plan.LeasePrefix, logger), logger: logger}
	m.table = log.NewTable(l, log.TopicControl, m.apply)
	return m
}

// Run follows the topic until ctx ends.
func (m *Merges) Run(ctx context.Context) error { return m.table.Run(ctx) }

// Sync waits until everything that was said before the call is known here.
func (m *Merges) Sync(ctx context.Context) error { return m.table.Sync(ctx) }

func (m *Merges) apply(rec *log.Record) {
	m.leases.Apply(rec)
	if err := m.aside.Take(string(rec.Key), rec.Value); err != nil {
		m.logger.Warn("note of a compactor skipped", "offset", rec.Offset, "err", err)
	}
}

// runs tells which process merges these blocks; "" = none.
func (m *Merges) runs(tenant schema.Tenant, blocks []*schema.BlockEntry) string {
	return m.leases.Holder(plan.LeasePrefix + plan.ID(tenant, blocks))
}
