package main

import (
	"slices"
	"time"

	"sluice/internal/processes"
	"sluice/internal/usage"
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
	all := processes.NewDirectory(p.log, p.logger)
	p.running = append(p.running, task{"processes of the cluster", all.Run})
	reader.NewPipeline(p.log, p.catalog, p.directory, all).Register(p.mux)
	access := reader.Access{
		Tenancy: p.tenancy, Stages: stagesOf(stages), Instance: p.instance, Version: version(), Self: p.ownTenant, Processes: all,
		Known: []func() []schema.Tenant{p.catalog.Tenants},
	}
	if p.tenancy.Users { // else nobody has patterns; in the first hours a tenant is in no block
		counted := usage.NewTable(p.log, p.logger)
		p.running = append(p.running, task{"tenants", counted.Run})
		access.Known = append(access.Known, counted.Tenants)
	}
	access.Register(p.mux)
}
