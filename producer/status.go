package producer

import "sluice/internal/processes"

// Status is what the producer does, for those who look at the whole cluster.
func (p *Producer) Status() *processes.Producer {
	m := p.metrics
	s := &processes.Producer{
		Samples: processes.Of(processes.Total(m.samples, m.histograms)), Requests: processes.Of(processes.Total(m.requests)),
		Rejected: processes.Of(processes.Total(m.rejected)), InflightBytes: p.budget.used.Load(),
	}
	if p.tenants.series != nil {
		s.KnownSeries = p.tenants.series.used.Load()
	}
	p.tenants.mu.Lock()
	defer p.tenants.mu.Unlock()
	s.Tenants = len(p.tenants.states)
	return s
}
