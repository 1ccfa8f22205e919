package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"sluice/internal/ha"
	"sluice/internal/plan"
	"sluice/internal/usage"
	"sluice/internal/writes"
	"sluice/reader"
)

// What the stages of this process know of tenants through the control topic, once for all of them.

// trackHA makes the process' HA tracker, if there is none.
func (p *process) trackHA(reg prometheus.Registerer) (err error) {
	if p.ha != nil {
		return nil
	}
	if p.ha, err = ha.New(ha.Config{Instance: p.instance}, p.log, p.logger, reg); err == nil {
		p.running = append(p.running, task{"HA tracker", p.ha.Run})
	}
	return err
}

// followWrites makes the process' table of what is written, if there is none.
func (p *process) followWrites() {
	if p.writes == nil {
		p.writes = writes.NewTable(p.log, p.logger)
		p.running = append(p.running, task{"table of writes", p.writes.Run})
	}
}

// showTenants gives the reader what it tells of tenants. What a producer of this process follows is shared; without one, a
// number of series is enough, and the HA tracker only follows.
func (p *process) showTenants() error {
	if p.usage == nil {
		p.usage = usage.NewCounts(p.log, p.logger)
		p.running = append(p.running, task{"usage", p.usage.Run})
	}
	if err := p.trackHA(nil); err != nil {
		return err
	}
	p.followWrites()
	merges := reader.NewMerges(p.log, p.logger)
	p.running = append(p.running, task{"merges", merges.Run})
	p.reader.ShowTenants(reader.Known{
		Catalog: p.catalog, Usage: p.usage, Writes: p.writes, HA: p.ha, Merges: merges, Limits: p.limits, Plan: p.planSettings,
	})
	return nil
}

// planSettings is what compactors go by when they decide what to merge.
func (p *process) planSettings() plan.Config {
	if p.compactor != nil {
		return p.compactor.Settings()
	}
	return plan.Default()
}
