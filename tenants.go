package main

import (
	"maps"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"sluice/internal/ha"
	"sluice/internal/plan"
	"sluice/internal/usage"
	"sluice/internal/writes"
	"sluice/reader"
	"sluice/schema"
)

// What the stages of this process know of tenants through the control topic, once for all of them.

// trackHA makes the process' HA tracker, if there is none.
func (p *process) trackHA(reg prometheus.Registerer) (err error) {
	if p.ha != nil {
		return nil
	}
	if p.ha, err = ha.New(ha.Config{Instance: p.instance}, p.log, p.control, p.logger, reg); err == nil {
		p.running = append(p.running, task{"HA tracker", p.ha.Run})
	}
	return err
}

// followWrites makes the process' table of what is written, if there is none.
func (p *process) followWrites() {
	if p.writes == nil {
		p.writes = writes.NewTable(p.control, p.logger)
	}
}

// showTenants gives the reader what it tells of tenants. What a producer of this process follows is shared; without one, a
// number of series is enough, and the HA tracker only follows.
func (p *process) showTenants() error {
	if p.usage == nil {
		p.usage = usage.NewCounts(p.control, p.logger)
	}
	if err := p.trackHA(nil); err != nil {
		return err
	}
	p.followWrites()
	p.reader.ShowTenants(reader.Known{
		Catalog: p.catalog, Usage: p.usage, Writes: p.writes, HA: p.ha, Merges: reader.NewMerges(p.control, p.logger), Limits: p.limits, Plan: p.planSettings,
	})
	return nil
}

// planSettings is what compactors go by when they decide what to merge: that of this process, else the one that has planned last.
func (p *process) planSettings() plan.Config {
	if p.compactor != nil {
		return p.compactor.Settings()
	}
	settings, looked := plan.Default(), int64(-1)
	if p.processes == nil {
		return settings
	}
	all, _ := p.processes.List()
	for _, other := range all {
		c := other.Compactor
		if c == nil || other.Silent || c.Looked <= looked {
			continue
		}
		told := plan.Config{Ranges: c.Ranges, Settle: c.Settle, MaxJobBytes: c.MaxBytes, MaxJobSeries: c.MaxSeries}
		if told.Valid() {
			settings, looked = told, c.Looked
		}
	}
	return settings
}

// knownTenants are those that producers and consumers speak of.
func (p *process) knownTenants() []schema.Tenant {
	return slices.AppendSeq(slices.Collect(maps.Keys(p.usage.Totals())), maps.Keys(p.writes.Totals()))
}
