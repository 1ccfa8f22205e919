package main

import "sluice/internal/usage"

// limitSeries lets the producer know what consumers say of the tenants' series, so that it can keep the limits on them.
func (p *process) limitSeries() {
	p.usage = usage.NewTable(p.log, p.logger)
	p.producer.LimitSeries(p.usage)
	p.running = append(p.running, task{"usage", p.usage.Run})
}
