package main

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/util/fmtutil"

	"sluice/internal/web"
	"sluice/producer"
	"sluice/schema"
)

// selfMonitoring is built like a stage, after all others.
const selfMonitoring = "self-monitoring"

// ownSeries is more than the metrics of any process.
const ownSeries = 100_000

// buildSelfMonitoring makes Sluice write its own metrics into itself, so that there is something to query at once, and
// so that its own past can be looked at with its own means.
func (p *process) buildSelfMonitoring() error {
	name := p.cli.String("self-monitoring.tenant")
	if name == "" {
		return nil
	}
	tenant, err := schema.ParseTenant(name)
	if err != nil {
		return fmt.Errorf("--self-monitoring.tenant: %w", err)
	}
	interval := p.cli.Duration("self-monitoring.interval")
	if interval <= 0 {
		return fmt.Errorf("--self-monitoring.interval is %s, must be positive", interval)
	}
	p.own, p.ownTenant = p.producer, name
	if p.own == nil {
		if err := p.buildOwnProducer(); err != nil {
			return err
		}
	}
	p.running = append(p.running, task{"self-monitoring", func(ctx context.Context) error {
		for {
			pause := interval
			if err := p.writeOwnMetrics(ctx, tenant); err != nil && ctx.Err() == nil {
				p.logger.Warn("writing own metrics", "err", err)
				pause = min(pause, time.Second)
			}
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}})
	return nil
}

// writeOwnMetrics gathers the registry and pushes it as a scrape of ourselves would be.
func (p *process) writeOwnMetrics(ctx context.Context, tenant schema.Tenant) error {
	gathered, err := p.reg.Gather()
	if err != nil {
		return fmt.Errorf("gather metrics: %w", err)
	}
	families := make(map[string]*dto.MetricFamily, len(gathered))
	for _, f := range gathered {
		families[f.GetName()] = f
	}
	target := map[string]string{"job": "sluice", "instance": p.advertise}
	req, err := fmtutil.MetricFamiliesToWriteRequest(families, target)
	if err != nil {
		return fmt.Errorf("convert metrics: %w", err)
	}
	req.Timeseries = append(req.Timeseries, prompb.TimeSeries{
		Labels: []prompb.Label{
			{Name: "__name__", Value: "up"}, {Name: "instance", Value: p.advertise}, {Name: "job", Value: "sluice"},
		},
		Samples: []prompb.Sample{{Value: 1, Timestamp: time.Now().UnixMilli()}},
	})
	body, err := req.Marshal()
	if err != nil {
		return fmt.Errorf("encode metrics: %w", err)
	}
	return p.own.Push(ctx, tenant, body)
}

// buildOwnProducer makes a small producer for a process without one. It serves nobody, its metrics are nobody's, and it
// writes no ticks: how long a generation is, only producers are told.
func (p *process) buildOwnProducer() (err error) {
	p.own, err = producer.New(producer.Config{NoTicks: true, MaxKnownSeries: ownSeries}, p.log, partitionsInUse{p.log, p.catalog, p.directory}, p.limits,
		web.Tenancy{}, p.logger, prometheus.NewRegistry())
	if err != nil {
		return err
	}
	p.running = append(p.running, task{"own producer", p.own.Run})
	return nil
}
