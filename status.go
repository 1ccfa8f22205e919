package main

import (
	"slices"
	"time"

	"sluice/internal/processes"
	"sluice/reader"
	"sluice/schema"
)

// What this process says of itself, and what it shows of all.

// status returns what puts together the process' announcement.
func (p *process) status(stages []string) func() processes.Process {
	stages = stagesOf(stages)
	started := time.Now().UnixMilli()
	return func() processes.Process {
		s := processes.Process{
			ID: p.instance, Addr: p.address(), Version: version(), Started: started, Stages: stages, Self: p.ownTenant,
		}
		if p.producer != nil {
			s.Producer = p.producer.Status()
		}
		if p.consumer != nil {
			s.Zone, s.Consumer = p.cli.String("consumer.zone"), p.consumer.Status()
		}
		if p.compactor != nil {
			s.Compactor = p.compactor.Status()
		}
		if p.reader != nil {
			s.Reader = p.reader.Status()
		}
		return s
	}
}

// stagesOf is the list without what is no stage.
func stagesOf(stages []string) []string {
	return slices.DeleteFunc(slices.Clone(stages), func(s string) bool { return s == selfMonitoring })
}

// buildPipeline mounts what shows the whole cluster, and who may see what of it.
func (p *process) buildPipeline(stages []string) {
	p.processes = processes.NewDirectory(p.control, p.logger)
	reader.NewPipeline(p.log, p.catalog, p.directory, p.processes).Register(p.mux)
	access := reader.Access{
		Tenancy: p.tenancy, Stages: stagesOf(stages), Instance: p.instance, Version: version(), Self: p.ownTenant, Processes: p.processes,
		Known: []func() []schema.Tenant{p.catalog.Tenants, p.knownTenants},
	}
	access.Register(p.mux)
}
