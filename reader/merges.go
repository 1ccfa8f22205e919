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
	control *log.Table
	leases  *lease.View
	aside   plan.Quarantine
	logger  *slog.Logger
}

// NewMerges makes Merges that know what control, the table of the control topic, has read.
func NewMerges(control *log.Table, logger *slog.Logger) *Merges {
	m := &Merges{control: control, leases: lease.NewView(plan.LeasePrefix, logger), logger: logger}
	control.On(m.apply)
	return m
}

// Sync waits until everything that was said before the call is known here.
func (m *Merges) Sync(ctx context.Context) error { return m.control.Sync(ctx) }

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
